"""A thousand changes of the membership on a live pair, by the path they take in the agent."""

import json
import sys
from pathlib import Path
from typing import Any

from dstack_vpn.mesh.keys import PrivateKey
from lab.fixtures import need_lab
from lab.lab import Lab
from lab.process import Process
from lab.tunnel import wg_peers
from lab.waiting import until
from mesh.build import ADDRESSES

DRIVER = Path(__file__).with_name("members_driver.py")
PATHS = f"{DRIVER.parents[2] / 'src'}:{DRIVER.parents[1]}"

CHANGES = 1000
"""Shared by both sides."""
RATE = 500
"""Packets a second each way; more would overrun socket buffers where the machine is busy."""
TOGETHER = 90.0
"""Seconds for the changes; below the 120 after which a session is renewed in any case."""


async def order(driver: Process, what: dict[str, Any], *, within: float = TOGETHER) -> Any:
    """Have a driver do something; what it told the device."""

    def done() -> list[str]:
        lines = driver.output.rpartition("\n")[0].splitlines()
        return [line for line in lines if line.startswith("done ")]

    before = len(done())
    driver.say(json.dumps(what))
    said = await until(lambda: done()[before:], f"{driver.name} did it", within=within)
    return json.loads(said[0].removeprefix("done "))


async def test_a_thousand_changes_of_the_membership_lose_no_packet(lab: Lab) -> None:
    """Others come, move and are revoked under load both ways: nothing lost, no new handshake.

    The devices are told of those others alone: never of the live peer, of a key or of a port.
    """
    need_lab()
    hosts = [await lab.host("a"), await lab.host("b")]
    keys = [PrivateKey.generate(), PrivateKey.generate()]
    addresses = [str(ADDRESSES.hosts(token)[0].network_address) for token in (1, 2)]
    members = [
        (token, key.public.text, f"{host.ip4}:51820")
        for token, (host, key) in enumerate(zip(hosts, keys, strict=True), 1)
    ]
    drivers = [
        # The key in arguments is for tests only.
        await host.start(
            sys.executable, DRIVER, str(token), key.reveal(), "/run/marker",
            name="members", env={"PYTHONPATH": PATHS, "PATH": "/usr/sbin:/usr/bin"},
        )
        for token, (host, key) in enumerate(zip(hosts, keys, strict=True), 1)
    ]  # fmt: skip
    for driver in drivers:
        assert (await order(driver, {"members": members}))["living"] == 1
    a, b = hosts
    await a.reaches(addresses[1])
    there = await lab.stream(a, b, addresses[1], rate=RATE)
    back = await lab.stream(b, a, addresses[0], rate=RATE)
    await there.flows()
    await back.flows()
    for driver in drivers:
        # Of a new pair one side waits before it speaks first; with this compare that is over.
        assert (await order(driver, {"members": members}))["settings"] == 0
    live = [keys[1].public.text, keys[0].public.text]
    before = [await wg_peers(host) for host in hosts]
    for driver in drivers:
        told = await order(driver, {"changes": CHANGES // 2})
        assert told["settings"] == told["living"] == 0
        assert told["peers"] >= CHANGES // 2  # and one more where a newcomer may be spoken to
        await there.flows()
        await back.flows()
    after = [await wg_peers(host) for host in hosts]
    for old, new, key in zip(before, after, live, strict=True):
        assert new[key].latest_handshake == old[key].latest_handshake > 0
        assert len(new) > len(old)
    assert [(await stream.stop()).lost for stream in (there, back)] == [0, 0]
