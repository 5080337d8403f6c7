"""Drift: what the plan does not explain was done by somebody else."""

import asyncio
from collections.abc import Callable

import pytest

from dstack_vpn.mesh.device import AddPeer, DeviceChange, RemovePeer, UpdatePeer, WantedDevice
from dstack_vpn.mesh.diff import diff
from dstack_vpn.mesh.drift import unexplained
from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.wireguard.memory import MemoryDevice
from wireguard.samples import adding, at, device, hosts, key, peer

OWN = PrivateKey(bytes(range(1, 33)))
ADDRESSES = ("10.213.0.7/16",)
BEFORE = device(OWN, peer(1), peer(2, keepalive=25), listen_port=51820, addresses=ADDRESSES)


def by_hand(change: DeviceChange) -> Callable[[MemoryDevice], None]:
    """Somebody else's change."""
    return lambda made: made.alter(change)


def updating(number: int, **fields: object) -> DeviceChange:
    """A change of one peer's fields."""
    values: dict[str, object] = {"allowed_ips": None, "endpoint": None, "keepalive": None}
    update = UpdatePeer(key=key(number), node_id="x", changes=(), **(values | fields))  # type: ignore[arg-type]
    return DeviceChange(name="wg0", peers=(update,))


DEEDS: dict[str, tuple[Callable[[MemoryDevice], None], int]] = {
    "a foreign peer": (by_hand(adding("wg0", peer(9))), 1),
    "a foreign peer that steals": (by_hand(adding("wg0", peer(9, allowed_ips=hosts(1)))), 2),
    "a peer that was removed": (
        by_hand(DeviceChange(name="wg0", peers=(RemovePeer(key=key(1), reason=""),))),
        1,
    ),
    "other allowed IPs": (by_hand(updating(1, allowed_ips=hosts(5))), 1),
    "another keepalive": (by_hand(updating(2, keepalive=1)), 1),
    "an endpoint, which may have roamed": (by_hand(updating(2, endpoint=at("192.0.2.9"))), 0),
    "another MTU": (by_hand(DeviceChange(name="wg0", mtu=1300)), 1),
    "another port": (by_hand(DeviceChange(name="wg0", listen_port=9)), 1),
    "an address that was removed": (
        by_hand(DeviceChange(name="wg0", remove_addresses=BEFORE.addresses)),
        1,
    ),
}


def parts(change: DeviceChange) -> int:
    """How many things a change is about."""
    flags = [change.set_key, change.up, change.mtu is not None, change.listen_port is not None]
    return sum(flags) + len((*change.peers, *change.add_addresses, *change.remove_addresses))


def brought(wanted: WantedDevice) -> MemoryDevice:
    """A device that is as planned."""
    made = MemoryDevice("wg0", OWN)
    asyncio.run(made.create())
    made.alter(diff(wanted, made.look()))
    return made


@pytest.mark.parametrize("deed", DEEDS)
def test_what_was_done_by_hand_is_told(deed: str) -> None:
    """With the same plan before and after, all that differs is a repair."""
    act, expected = DEEDS[deed]
    made = brought(BEFORE)
    act(made)
    assert parts(unexplained(diff(BEFORE, made.look()), BEFORE, BEFORE)) == expected


def test_what_the_plan_explains_is_not_told() -> None:
    """New members, others gone, new settings: the change is large, and nothing of it a repair."""
    after = device(
        PrivateKey(bytes(range(2, 34))), peer(2), peer(3), listen_port=1, mtu=1280,
        addresses=("10.214.0.7/16",),
    )  # fmt: skip
    change = diff(after, brought(BEFORE).look())
    assert parts(change) == 8
    assert not unexplained(change, BEFORE, after)


def test_both_at_once_are_told_apart() -> None:
    """A peer that came and one that was removed by hand: only the latter is a repair."""
    made = brought(BEFORE)
    made.alter(DeviceChange(name="wg0", peers=(RemovePeer(key=key(1), reason=""),)))
    after = device(OWN, peer(1), peer(2, keepalive=25), peer(3), listen_port=51820,
                   addresses=ADDRESSES)  # fmt: skip
    (repair,) = unexplained(diff(after, made.look()), BEFORE, after).peers
    assert isinstance(repair, AddPeer)
    assert repair.peer.key == key(1)
