"""A thousand changes of the membership on a live pair, by the path they take in the agent."""

from lab.fixtures import need_lab
from lab.lab import Lab
from lab.tunnel import wg_peers
from wireguard.members import Member

CHANGES = 1000
"""Shared by both sides."""
RATE = 500
"""Packets a second each way; more would overrun socket buffers where the machine is busy."""
TOGETHER = 90.0
"""Seconds for the changes; below the 120 after which a session is renewed in any case."""


async def test_a_thousand_changes_of_the_membership_lose_no_packet(lab: Lab) -> None:
    """Others come, move and are revoked under load both ways: nothing lost, no new handshake.

    The devices are told of those others alone: never of the live peer, of a key or of a port.
    """
    need_lab()
    a, b = pair = [await Member.start(await lab.host(name), n) for n, name in enumerate("ab", 1)]
    members = [(m.token, m.public_key, f"{m.host.ip4}:51820") for m in pair]
    for member in pair:
        assert (await member.order(members=members))["living"] == 1
    await a.host.reaches(b.address)
    there = await lab.stream(a.host, b.host, b.address, rate=RATE)
    back = await lab.stream(b.host, a.host, a.address, rate=RATE)
    await there.flows()
    await back.flows()
    for member in pair:
        # Of a new pair one side waits before it speaks first; with this compare that is over.
        assert (await member.order(members=members))["settings"] == 0
    before = [await wg_peers(member.host) for member in pair]
    for member in pair:
        told = await member.order(TOGETHER, changes=CHANGES // 2)
        assert told["settings"] == told["living"] == 0
        assert told["peers"] >= CHANGES // 2  # and one more where a newcomer may be spoken to
        await there.flows()
        await back.flows()
    after = [await wg_peers(member.host) for member in pair]
    for old, new, live in zip(before, after, (b, a), strict=True):
        key = live.public_key
        assert new[key].latest_handshake == old[key].latest_handshake > 0
        assert len(new) > len(old)
    assert [(await stream.stop()).lost for stream in (there, back)] == [0, 0]
