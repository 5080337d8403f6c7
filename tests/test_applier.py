"""The device side of the loop, on a device in memory: failures and adoption."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from dstack_vpn.applier import Applied, Applier
from dstack_vpn.mesh.access import judge, judge_self
from dstack_vpn.mesh.device import DeviceChange
from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.mesh.membership import Node
from dstack_vpn.mesh.plan import CANDIDATE_TIME, STAGGER
from dstack_vpn.resolve import Resolver
from dstack_vpn.wireguard.memory import MemoryDevice
from mesh.build import BLOCK, CHAIN_NOW, NOW, key_of, local_node, membership, node, snapshot

OWN = PrivateKey(bytes(31) + b"\x01")
ME = node(1, key=OWN.public.raw)
SYNC_INTERVAL = 30.0
A, B = "192.0.2.1:1", "192.0.2.2:2"


def applier_of(device: MemoryDevice) -> Applier:
    """The applier of node 1."""
    return Applier(
        local=replace(local_node(static={"node-2": A}), public_key=OWN.public),
        device=device,
        resolver=Resolver(lambda: None),
        sync_interval=SYNC_INTERVAL,
    )


async def cycle(applier: Applier, nodes: Sequence[Node], *, now: float = NOW) -> Applied:
    """One cycle with these tokens."""
    members = membership(nodes)
    decisions = judge(members, confirmed=BLOCK, chain_now=CHAIN_NOW)
    own = judge_self(decisions, "node-1", OWN.public)
    shot = replace(snapshot(), decisions=decisions, own=own)
    return await applier.apply(shot, members, own, now=now)


@pytest.fixture
def device() -> MemoryDevice:
    """No device yet."""
    return MemoryDevice("wg0", OWN)


async def test_a_device_that_dies_as_a_node_is_revoked_is_made_anew(device: MemoryDevice) -> None:
    """The removal finds no device; the others come back all the same, without the revoked one."""
    applier = applier_of(device)
    await cycle(applier, [ME, node(2), node(3)])
    device.vanish()
    applied = await cycle(applier, [ME, node(2, revoked=True), node(3)], now=NOW + 1)
    assert applied.snapshot.pending is None
    assert list(device.peers) == [key_of(3)]


async def test_a_removal_that_was_not_heard_is_made_up_for(device: MemoryDevice) -> None:
    """A device that stalls keeps the plan pending; once it answers the revoked node is out."""
    applier = applier_of(device)
    await cycle(applier, [ME, node(2), node(3)])
    device.stalled = True
    revoked = [ME, node(2, revoked=True), node(3)]
    assert (await cycle(applier, revoked, now=NOW + 1)).snapshot.pending is not None
    device.stalled = False
    assert (await cycle(applier, revoked, now=NOW + 2)).snapshot.pending is None
    assert list(device.peers) == [key_of(3)]


async def test_a_peer_of_an_adopted_device_is_no_newcomer(device: MemoryDevice) -> None:
    """One that has not answered yet is left as it is, and makes nobody look again and again."""
    assert OWN.public > key_of(2)  # so a newcomer would be given the first word
    before = applier_of(device)
    await cycle(before, [ME, node(2, endpoint=A)])
    await cycle(before, [ME, node(2, endpoint=A)], now=NOW + STAGGER)
    device.applied.clear()

    after = applier_of(device)
    await cycle(after, [ME, node(2, endpoint=A)], now=NOW + 100)
    assert device.applied == []
    assert after.due_at() == NOW + 100 + SYNC_INTERVAL


async def test_the_endpoints_of_an_adopted_peer_are_tried_in_turn(device: MemoryDevice) -> None:
    """The first of two does not answer: after a restart, too, the second has its turn."""
    await cycle(applier_of(device), [ME, node(2, endpoint=B)])
    after = applier_of(device)
    tried = set()
    for turn in range(3):
        await cycle(after, [ME, node(2, endpoint=B)], now=NOW + 100 + turn * CANDIDATE_TIME)
        tried.add(str(device.peers[key_of(2)].endpoint))
    assert tried == {A, B}


async def test_a_name_that_is_resolved_during_a_change_is_used_at_once() -> None:
    """News that comes while the device is written is not forgotten until the next compare."""

    class Slow(MemoryDevice):
        async def apply(self, change: DeviceChange) -> None:
            await super().apply(change)
            applier.request_compare()

    applier = applier_of(Slow("wg0", OWN))
    await cycle(applier, [ME, node(2, endpoint="peer.example:51820")])
    assert applier.due_at() <= NOW
