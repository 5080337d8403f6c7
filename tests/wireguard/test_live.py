"""Changes to a device that is in use: whoever is not concerned does not notice."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dstack_vpn.mesh.keys import PrivateKey
from lab.fixtures import need_lab
from lab.host import Host
from lab.lab import Lab
from lab.process import Process
from lab.tunnel import wg_peers
from lab.waiting import until

DRIVER = Path(__file__).with_name("driver.py")
SOURCE = DRIVER.parents[2] / "src"

RATE = 250
"""Packets a second: enough to see 4 ms, and few enough for the buffers of a machine that is busy
with other tests, where a process may have to wait for half a second."""


@dataclass
class Node:
    """The agent's side of a device in a host."""

    host: Host
    address: str
    private_key: PrivateKey = field(default_factory=PrivateKey.generate)
    process: Process | None = None

    async def start(self) -> None:
        """Start the agent's process; the device is made or found when the first order comes."""
        # The key in arguments is for tests only.
        self.process = await self.host.start(
            sys.executable, DRIVER, "wg0", self.private_key.reveal(), "/run/marker",
            name="driver", env={"PYTHONPATH": str(SOURCE), "PATH": "/usr/sbin:/usr/bin"},
        )  # fmt: skip

    async def bring(self, *peers: "Node", others: int = 0, keepalive: int = 0) -> str:
        """Have the device brought to these peers and so many others; return what was said."""
        assert self.process is not None
        order: dict[str, Any] = {
            "address": f"{self.address}/16",
            "listen_port": 51820,
            "others": others,
            "keepalive": keepalive,
            "peers": [
                (peer.private_key.public.text, f"{peer.address}/32", str(peer.host.ip4))
                for peer in peers
            ],
        }
        before = len(self.said())
        self.process.say(json.dumps(order))
        return await until(lambda: "".join(self.said()[before:]), f"{self.host.name} did it")

    def said(self) -> list[str]:
        """The driver's answers so far; its log goes the same way."""
        assert self.process is not None
        lines = self.process.output.rpartition("\n")[0].splitlines()
        return [line for line in lines if line.startswith(("brought ", "failed "))]


async def pair(lab: Lab) -> tuple[Node, Node]:
    """Two nodes that are each other's peer, with a session between them."""
    need_lab()
    a = Node(await lab.host("a"), "10.98.0.1")
    b = Node(await lab.host("b"), "10.98.0.2")
    for node, other in ((a, b), (b, a)):
        await node.start()
        assert (await node.bring(other)).startswith("brought")
    await a.host.reaches(b.address)
    return a, b


async def test_peers_come_and_go_beside_a_live_session(lab: Lab) -> None:
    """Adding, altering and removing hundreds of peers loses no packet of the peer beside them."""
    a, b = await pair(lab)
    there = await lab.stream(a.host, b.host, b.address, rate=RATE)
    back = await lab.stream(b.host, a.host, a.address, rate=RATE)
    await there.flows()
    await back.flows()
    for others, keepalive in ((1, 0), (500, 0), (500, 3), (250, 3), (1000, 0), (0, 0)):
        for node, other in ((a, b), (b, a)):
            said = await node.bring(other, others=others, keepalive=keepalive)
            assert said.startswith("brought"), said
            peers = (await node.host.run("wg", "show", "wg0", "peers")).out.split()
            assert len(peers) == others + 1
        await there.flows()
        await back.flows()
    assert [(await stream.stop()).lost for stream in (there, back)] == [0, 0]


async def test_a_killed_agent_leaves_its_device_and_the_next_adopts_it(lab: Lab) -> None:
    """SIGKILL of the agent and the start of another lose no packet and end no session."""
    a, b = await pair(lab)
    stream = await lab.stream(a.host, b.host, b.address, rate=RATE)
    await stream.flows()
    first = await a.bring(b, others=10)
    assert a.process is not None
    await a.process.kill()
    await stream.flows()
    peers = await wg_peers(a.host)
    assert len(peers) == 11
    await a.start()
    assert await a.bring(b, others=10) == first  # the same process
    again = await wg_peers(a.host)
    key = b.private_key.public.text
    assert again[key].latest_handshake == peers[key].latest_handshake > 0
    assert again[key].sent >= peers[key].sent
    await stream.flows()
    assert (await stream.stop()).lost == 0


async def test_a_removed_peer_is_silent_at_once(lab: Lab) -> None:
    """When the change has been applied no packet of the removed peer is accepted any more."""
    a, b = await pair(lab)
    stream = await lab.stream(a.host, b.host, b.address, rate=RATE)
    await stream.flows()
    assert (await b.bring()).startswith("brought")
    count = (await stream.arrivals()).count
    assert (await stream.quiet()).count == count
    assert (await stream.stop()).lost > 0


async def test_hosts_that_allow_no_device_say_what_to_do(lab: Lab) -> None:
    """No tun device, no right to make interfaces, a socket directory that is read-only."""
    need_lab()
    node = Node(await lab.host("a"), "10.98.0.1")
    await node.start()
    await node.host.run("mount", "-t", "tmpfs", "-o", "ro", "none", "/run/wireguard")
    assert "/run/wireguard cannot be written" in await node.bring()
    await node.host.run("umount", "/run/wireguard")
    await node.host.run("mount", "-t", "tmpfs", "none", "/dev/net")
    assert "there is no /dev/net/tun" in await node.bring()
    await node.host.run("umount", "/dev/net")
    await node.host.run("mkdir", "-p", "/run/empty")
    node.process = await node.host.start(
        "setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin",
        sys.executable, DRIVER, "wg0", node.private_key.reveal(), "/run/marker",
        name="weak", env={"PYTHONPATH": str(SOURCE), "PATH": "/usr/sbin:/usr/bin"},
    )  # fmt: skip
    said = await node.bring()
    assert "no right to make the interface wg0 (Operation not permitted)" in said
    assert "NET_ADMIN" in said
    node.process = await node.host.start(
        "env", "PATH=/run/empty",
        sys.executable, DRIVER, "wg0", node.private_key.reveal(), "/run/marker",
        name="bare", env={"PYTHONPATH": str(SOURCE), "PATH": "/usr/sbin:/usr/bin"},
    )  # fmt: skip
    assert "wireguard-go is not installed" in await node.bring()
    assert not (node.host.run_dir / "marker").exists()
