"""Ten thousand members of which nearly all are dead, at addresses that should be next door.

What is sent to an address on the local link waits in the kernel until somebody answers for that
address, and a userspace device has one socket: some hundreds of silent neighbours fill its send
buffer, and then nobody hears from it any more, nor does it answer its own UAPI.
"""

import time

import pytest

from dstack_vpn.mesh.plan import ON_LINK_TRIES, ON_LINK_WINDOW
from lab.fixtures import need_lab
from lab.host import Host
from lab.lab import Lab
from lab.tunnel import WgPeer, wg_peers
from lab.waiting import until
from mesh.build import key_of
from wireguard.members import Member
from wireguard.members_driver import DEAD_FROM

NEXT_DOOR = "172.30"
"""A network of 65,536 addresses on the hosts' own link, of which few answer."""
LIVING, DEAD = 3, 9_997
RATE = 500
"""Packets a second each way."""
MANY = 1_000
"""Dead neighbours that are enough to stall a device which speaks to all of them."""
STALLED = 3.0
"""Seconds without a packet; nothing else on a busy machine takes so long."""


async def neighbours(lab: Lab) -> list[Member]:
    """Members who live next door to each other, with a session between the first and the others."""
    need_lab()
    members = []
    for number, name in enumerate("abc"[:LIVING], 1):
        host = await lab.host(name)
        await host.run("ip", "address", "add", f"{NEXT_DOOR}.0.{number}/16", "dev", "eth0")
        members.append(await Member.start(host, number))
    told = [(m.token, m.public_key, f"{NEXT_DOOR}.0.{m.token}:51820") for m in members]
    for member in members:
        await member.order(members=told)
    for member in members[1:]:
        await members[0].host.reaches(member.address)
    return members


async def tries(host: Host) -> set[str]:
    """The keys of those who never answered and are spoken to next door."""
    return {
        key
        for key, peer in (await wg_peers(host)).items()
        if peer.keepalive and not peer.latest_handshake and is_next_door(peer)
    }


def is_next_door(peer: WgPeer) -> bool:
    return (peer.endpoint or "").startswith(NEXT_DOOR)


async def waits_for(host: Host) -> int:
    """How many addresses next door the kernel asks for, or has asked for, without an answer."""
    shown = (await host.run("ip", "neighbour", "show", "dev", "eth0")).out.splitlines()
    return sum(
        line.startswith(NEXT_DOOR) and line.split()[-1] in {"INCOMPLETE", "FAILED"}
        for line in shown
    )


async def test_the_dead_do_not_stall_the_living(lab: Lab) -> None:
    """Few of them are tried at once, all in turn; the device answers, and the living lose nothing.

    They come while the living talk. Those who are tried move on with the window.
    """
    a, b, c = await neighbours(lab)
    streams = [
        await lab.stream(source.host, target.host, target.address, rate=RATE)
        for source, target in ((a, b), (b, a), (c, a))
    ]
    for stream in streams:
        await stream.flows()
    before = await wg_peers(a.host)
    told = await a.order(60.0, dead=DEAD, network=f"{NEXT_DOOR}.0.0/16", known=True)
    assert told["peers"] >= DEAD
    # Of a new pair one side waits before it speaks first.
    await a.order(60.0, later=1.0)
    known: set[str] = set()
    for _ in range(3):
        now = await tries(a.host)
        assert 0 < len(now) <= ON_LINK_TRIES
        assert not now & known
        known |= now
        # Else this would show nothing: the kernel holds packets of these back.
        unanswered = len(known)
        await until(lambda: waits_for(a.host), "asks for the dead")
        assert await waits_for(a.host) <= unanswered
        for stream in streams:
            await stream.flows()
        await a.order(60.0, later=ON_LINK_WINDOW)
    after = await wg_peers(a.host)
    assert len(after) == LIVING - 1 + DEAD
    assert after.keys() >= {key_of(DEAD_FROM).text, key_of(DEAD_FROM + DEAD - 1).text}
    for living in (b, c):
        assert (
            after[living.public_key].latest_handshake == before[living.public_key].latest_handshake
        )
    assert [(await stream.stop()).lost for stream in streams] == [0, 0, 0]


@pytest.mark.slow
async def test_the_dead_stall_a_device_that_speaks_to_them_all(lab: Lab) -> None:
    """What the cap is for: one tenth of them is enough, where the local link is not known."""
    a, b, _ = await neighbours(lab)
    stream = await lab.stream(a.host, b.host, b.address, rate=RATE)
    await stream.flows()
    a.driver.say(f'{{"dead": {MANY}, "network": "{NEXT_DOOR}.0.0/16", "known": false}}')
    a.driver.say('{"later": 1}')

    async def stalled() -> bool:
        arrived = await stream.arrivals()
        return max(arrived.longest_gap, time.monotonic() - arrived.last) > STALLED

    await until(stalled, "the living hear nothing for seconds", within=60)
