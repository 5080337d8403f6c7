"""Who is spoken to after a change of the listen port, and with what."""

from dataclasses import replace

import pytest

from dstack_vpn.mesh.clock import WallClock
from dstack_vpn.mesh.device import DeviceChange, RemovePeer, SeenDevice, UpdatePeer, WantedDevice
from dstack_vpn.mesh.diff import diff
from dstack_vpn.mesh.greet import greeted
from mesh.build import NOW, WALL_NOW, as_seen, device_of, key_of, node, plan_for, seen_peer

CLOCK = WallClock().see(now=NOW, wall_now=WALL_NOW, memory=180.0)
WANTED = device_of(plan_for([node(number) for number in range(1, 5)]))


def device(*ages: float | None) -> SeenDevice:
    """A device on another port, with peers 2, 3, … whose newest handshakes are so old."""
    peers = [seen_peer(n, endpoint=f"192.0.2.{n}:1", age=age) for n, age in enumerate(ages, 2)]
    return replace(as_seen(WANTED), listen_port=7, peers={peer.key: peer for peer in peers})


def sent(seen: SeenDevice, wanted: WantedDevice = WANTED) -> DeviceChange:
    """The change with its greetings."""
    return greeted(diff(wanted, seen), wanted, seen, clock=CLOCK, now=NOW)


def keepalives(change: DeviceChange) -> list[tuple[int, int | None]]:
    """Peers that are greeted, by their numbers, and which keepalives they get in turn."""
    return [
        (int.from_bytes(p.key.raw, "big"), p.keepalive)
        for p in change.peers
        if isinstance(p, UpdatePeer) and not p.changes
    ]


@pytest.mark.parametrize(("keepalive", "steps"), [(25, [0, 25]), (0, [65_535, 0])])
def test_who_has_a_session_is_spoken_to(keepalive: int, steps: list[int]) -> None:
    """Whatever its keepalive: it is switched on in between, and is as wanted in the end."""
    peers = {key: replace(peer, keepalive=keepalive) for key, peer in WANTED.peers.items()}
    change = sent(device(3.0, 179.0, 181.0), replace(WANTED, peers=peers))
    assert keepalives(change) == [(n, seconds) for n in (2, 3) for seconds in steps]
    greetings = [p for p in change.peers if isinstance(p, UpdatePeer) and not p.changes]
    assert change.peers[-len(greetings) :] == tuple(greetings)
    assert {(p.allowed_ips, p.endpoint) for p in greetings} == {(None, None)}


def test_who_has_none_is_not() -> None:
    """Nobody who was never heard, and nobody who is to go."""
    assert keepalives(sent(device(None, None))) == []
    change = sent(device(3.0, 3.0, 3.0, 3.0))
    assert {number for number, _ in keepalives(change)} == {2, 3, 4}
    assert [p.key for p in change.peers if isinstance(p, RemovePeer)] == [key_of(5)]


def test_nothing_is_said_where_the_port_stays() -> None:
    """Nor on a device that is new, on which nobody has ever heard us."""
    same = replace(device(3.0), listen_port=WANTED.listen_port)
    assert sent(same) == diff(WANTED, same)
    new = replace(device(3.0), listen_port=0)
    assert sent(new) == diff(WANTED, new)
