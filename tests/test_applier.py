"""The device side of the loop, on a device in memory: failures and adoption."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import pytest

from dstack_vpn.applied import Applied
from dstack_vpn.applier import RETRY_FIRST, Applier
from dstack_vpn.errors import DeviceError
from dstack_vpn.mesh.access import judge, judge_self
from dstack_vpn.mesh.device import (
    AddPeer,
    DeviceChange,
    IpAddress,
    RemovePeer,
    SeenDevice,
    UpdatePeer,
)
from dstack_vpn.mesh.keys import PrivateKey, PublicKey
from dstack_vpn.mesh.membership import Node
from dstack_vpn.mesh.plan import CANDIDATE_TIME, STAGGER
from dstack_vpn.resolve import Resolver
from dstack_vpn.wireguard.memory import MemoryDevice
from lab.waiting import until
from mesh.build import BLOCK, CHAIN_NOW, NOW, key_of, local_node, membership, node, snapshot

OWN = PrivateKey(bytes(31) + b"\x01")
ME = node(1, key=OWN.public.raw)
SYNC_INTERVAL = 30.0
A, B = "192.0.2.1:1", "192.0.2.2:2"


class Watched(MemoryDevice):
    """Counts how often it is read, and may take its time for it."""

    reads = 0
    slow: asyncio.Event | None = None
    """Reading waits for it."""

    async def seen(self) -> SeenDevice | None:
        """Read, when it is time."""
        self.reads += 1
        if self.slow is not None:
            await self.slow.wait()
        return await MemoryDevice.seen(self)


def applier_of(
    device: MemoryDevice,
    *,
    has_news: Callable[[], bool] = lambda: False,
    resolver: Resolver | None = None,
) -> Applier:
    """The applier of node 1."""
    return Applier(
        local=replace(local_node(static={"node-2": A}), public_key=OWN.public),
        device=device,
        resolver=resolver or Resolver(lambda: None),
        sync_interval=SYNC_INTERVAL,
        has_news=has_news,
    )


async def cycle(
    applier: Applier,
    nodes: Sequence[Node],
    *,
    now: float = NOW,
    changed: frozenset[int] | None = None,
    closed: str | None = None,
) -> Applied:
    """One cycle with these tokens."""
    members = membership(nodes)
    decisions = judge(members, confirmed=BLOCK, chain_now=CHAIN_NOW)
    own = judge_self(decisions, "node-1", OWN.public)
    shot = replace(snapshot(), decisions={d.token_id: d for d in decisions}, own=own, closed=closed)
    return await applier.apply(shot, members, own, now=now, changed=changed)


@pytest.fixture
def device() -> Watched:
    """No device yet."""
    return Watched("wg0", OWN)


def keys(applied: Applied) -> list[PublicKey]:
    """The peers that the snapshot shows on the device."""
    assert applied.snapshot.device is not None
    return sorted(applied.snapshot.device.peers)


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


# -- a change of a few tokens


async def test_a_change_of_a_few_is_made_without_reading_the_device(device: Watched) -> None:
    """Only the peers concerned are written, removals first, and the snapshot shows the outcome."""
    applier = applier_of(device)
    before = [ME, *(node(i) for i in range(3, 8))]
    await cycle(applier, before)
    reads, shown = device.reads, device.applied.copy()
    after = [*before[:2], node(4, revoked=True), *before[3:], node(8)]
    applied = await cycle(applier, after, now=NOW + 1, changed=frozenset({4, 8}))
    assert device.reads == reads
    (change,) = device.applied[len(shown) :]
    removal, addition = change.peers
    assert isinstance(removal, RemovePeer)
    assert isinstance(addition, AddPeer)
    assert (removal.key, addition.peer.key) == (key_of(4), key_of(8))
    assert sorted(device.peers) == keys(applied) == [key_of(i) for i in (3, 5, 6, 7, 8)]
    assert applied.snapshot.peer_names.keys() == device.peers.keys()
    assert applied.wanted is not None
    assert applied.wanted.peers.keys() == device.peers.keys()
    assert "removed" in applied.sentence
    assert "added node-8" in applied.sentence
    assert applied.snapshot.applied_block == membership(()).block.number
    assert applier.due_at() == NOW + SYNC_INTERVAL


async def test_nothing_new_does_nothing(device: Watched) -> None:
    """A cycle in which nothing is due and nobody changed leaves the device alone."""
    applier = applier_of(device)
    first = await cycle(applier, [ME, node(3), node(4)])
    reads, changes = device.reads, len(device.applied)
    again = await cycle(applier, [ME, node(3), node(4)], now=NOW + 1, changed=frozenset())
    assert (device.reads, len(device.applied)) == (reads, changes)
    assert (again.sentence, again.wanted) == ("", None)
    assert keys(again) == keys(first)


async def test_one_change_after_the_other_ends_as_all_at_once(device: Watched) -> None:
    """After many small changes the next compare finds nothing to do."""
    applier = applier_of(device)
    nodes = {1: ME, 2: node(2, endpoint=B)}
    await cycle(applier, list(nodes.values()))
    for turn in range(40):
        token = 2 + turn * 7 % 11
        there = nodes.get(token)
        nodes[token] = node(token, endpoint=A if turn % 3 else "", revoked=turn % 4 == 1)
        now = NOW + 1 + turn * 0.01
        changed = frozenset({token})
        await cycle(applier, list(nodes.values()), now=now, changed=changed)
        if there and turn % 5 == 0:
            del nodes[token]
            await cycle(applier, list(nodes.values()), now=now, changed=changed)
    await cycle(applier, list(nodes.values()), now=NOW + 10, changed=frozenset())
    device.applied.clear()
    applied = await cycle(applier, list(nodes.values()), now=NOW + 10)
    assert device.applied == []
    assert keys(applied) == sorted(device.peers)


async def test_a_change_that_fails_is_made_by_a_compare(device: Watched) -> None:
    """A device that died is found dead by the change of a few, and is made anew with everybody."""
    applier = applier_of(device)
    await cycle(applier, [ME, node(2), node(3)])
    device.vanish()
    after = [ME, node(2), node(3, revoked=True), node(4)]
    applied = await cycle(applier, after, now=NOW + 1, changed=frozenset({3, 4}))
    assert applied.snapshot.pending is None
    assert sorted(device.peers) == keys(applied) == [key_of(2), key_of(4)]


async def test_after_a_failure_everybody_is_compared(device: Watched) -> None:
    """What a refused change left undone is found, although later calls name others."""
    applier = applier_of(device)
    await cycle(applier, [ME, node(2)])
    device.stalled = True
    after = [ME, node(2), node(3)]
    failed = await cycle(applier, after, now=NOW + 1, changed=frozenset({3}))
    assert failed.snapshot.pending is not None
    device.stalled = False
    after.append(node(4))
    await cycle(applier, after, now=NOW + 2, changed=frozenset({4}))
    assert sorted(device.peers) == [key_of(2), key_of(3), key_of(4)]


@pytest.mark.parametrize("why", ["own", "closed"])
async def test_when_this_node_is_judged_otherwise_all_peers_go(device: Watched, why: str) -> None:
    """That concerns everybody, whichever tokens are said to have changed; and back again."""
    applier = applier_of(device)
    await cycle(applier, [ME, node(2), node(3)])
    me = replace(ME, revoked=True) if why == "own" else ME
    closed = "too long in the dark" if why == "closed" else None
    changed = frozenset({1})
    gone = await cycle(applier, [me, node(2), node(3)], now=NOW + 1, changed=changed, closed=closed)
    assert not device.peers
    assert keys(gone) == []
    await cycle(applier, [ME, node(2), node(3)], now=NOW + 2, changed=changed)
    assert sorted(device.peers) == [key_of(2), key_of(3)]


async def test_a_newcomer_is_spoken_to_after_a_moment_without_a_compare(device: Watched) -> None:
    """The side that waits for the other one speaks when its time has come; nothing is read."""
    assert OWN.public > key_of(3)
    applier = applier_of(device)
    await cycle(applier, [ME])
    reads = device.reads
    nodes = [ME, node(3, endpoint=B)]
    await cycle(applier, nodes, now=NOW + 1, changed=frozenset({3}))
    assert device.peers[key_of(3)].keepalive == 0
    assert applier.due_at() == pytest.approx(NOW + 1 + STAGGER)
    await cycle(applier, nodes, now=applier.due_at(), changed=frozenset())
    assert device.peers[key_of(3)].keepalive == 25
    assert device.reads == reads
    (update,) = device.applied[-1].peers
    assert isinstance(update, UpdatePeer)
    assert update.endpoint is None
    assert applier.due_at() == NOW + SYNC_INTERVAL


async def test_names_of_a_newcomer_are_looked_up_and_none_is_forgotten(device: Watched) -> None:
    """The names of a few are asked for beside those of everybody else."""
    asked = []
    resolver = Resolver(lambda: None)

    def resolve(names: Iterable[str], *, keep: bool = False) -> Mapping[str, tuple[IpAddress, ...]]:
        asked.append((set(names), keep))
        return {}

    resolver.resolve = resolve  # type: ignore[method-assign]
    applier = applier_of(device, resolver=resolver)
    nodes = [ME, node(3, endpoint="three.example:1")]
    await cycle(applier, nodes)
    nodes.append(node(4, endpoint="four.example:1"))
    await cycle(applier, nodes, now=NOW + 1, changed=frozenset({4}))
    assert asked == [({"three.example"}, False), ({"four.example"}, True)]


# -- the compare and what is urgent


async def test_drift_is_repaired_by_the_compare(device: Watched) -> None:
    """When it is due the device is read though nobody changed, and put right."""
    applier = applier_of(device)
    await cycle(applier, [ME, node(2), node(3)])
    await MemoryDevice.apply(
        device,
        DeviceChange(name="wg0", peers=(RemovePeer(key=key_of(2), reason="by hand"),)),
    )
    applied = await cycle(
        applier, [ME, node(2), node(3)], now=NOW + SYNC_INTERVAL, changed=frozenset()
    )
    assert sorted(device.peers) == keys(applied) == [key_of(2), key_of(3)]


async def test_a_change_does_not_wait_for_a_compare_that_is_due(device: Watched) -> None:
    """The change comes first; the compare is still due, and is made by the next cycle."""
    applier = applier_of(device)
    await cycle(applier, [ME, node(2)])
    reads, now = device.reads, NOW + SYNC_INTERVAL
    await cycle(applier, [ME, node(2), node(3)], now=now, changed=frozenset({3}))
    assert device.reads == reads
    assert key_of(3) in device.peers
    assert applier.due_at() <= now
    await cycle(applier, [ME, node(2), node(3)], now=now, changed=frozenset())
    assert device.reads > reads
    assert applier.due_at() == now + SYNC_INTERVAL


async def test_a_compare_is_put_off_when_there_is_news(device: Watched) -> None:
    """While the device is read a member changes: the reading is broken off, and due again."""
    news = False
    applier = applier_of(device, has_news=lambda: news)
    first = await cycle(applier, [ME, node(2)])
    device.slow, reads = asyncio.Event(), device.reads
    now = NOW + SYNC_INTERVAL
    compare = cycle(applier, [ME, node(2)], now=now, changed=frozenset())
    async with asyncio.TaskGroup() as group:
        task = group.create_task(compare)
        await until(lambda: device.reads > reads, "the device is being read")
        news = True
    assert keys(task.result()) == keys(first)
    assert applier.due_at() <= now
    news, device.slow = False, None
    await cycle(applier, [ME, node(2, revoked=True)], now=now, changed=frozenset({2}))
    assert not device.peers


async def test_changes_without_end_do_not_keep_the_device_from_being_compared(
    device: Watched,
) -> None:
    """A compare that is overdue by its interval is made with the next change, whatever is new."""
    applier = applier_of(device, has_news=lambda: True)
    await cycle(applier, [ME, node(2)])
    reads = device.reads
    now = NOW + 2 * SYNC_INTERVAL
    await cycle(applier, [ME, node(2), node(3)], now=now, changed=frozenset({3}))
    assert device.reads > reads
    assert applier.due_at() == now + SYNC_INTERVAL


async def test_an_error_while_reading_is_no_news(device: Watched) -> None:
    """A device that does not answer is told and tried again, whatever else happens meanwhile."""
    applier = applier_of(device, has_news=lambda: True)
    await cycle(applier, [ME, node(2)])
    device.stalled = True
    failed = await cycle(applier, [ME, node(2)], now=NOW + SYNC_INTERVAL, changed=frozenset())
    assert failed.snapshot.pending is not None
    assert applier.due_at() > NOW + SYNC_INTERVAL


# -- what somebody else did, and what fails half-way


async def test_what_was_done_by_hand_is_put_right_and_told(device: Watched) -> None:
    """A compare tells of a repair where the plan is the same, and of none where it changed."""
    applier = applier_of(device)
    nodes = [ME, node(2), node(3)]
    assert (await cycle(applier, nodes)).repair == ""
    device.alter(DeviceChange(name="wg0", peers=(RemovePeer(key=key_of(2), reason=""),)))
    applier.request_compare()
    applied = await cycle(applier, [*nodes, node(4)], now=NOW + 1)
    assert applied.repair == "added node-2"
    assert (applied.snapshot.repairs, applied.snapshot.last_repair) == (1, "added node-2")
    assert "added node-4" in applied.sentence
    applier.request_compare()
    again = await cycle(applier, [*nodes, node(4)], now=NOW + 2)
    assert (again.repair, again.snapshot.repairs) == ("", 0)


async def test_a_device_that_was_taken_away_is_a_repair(device: Watched) -> None:
    """It is made anew with everybody, and that is told as one thing."""
    applier = applier_of(device)
    await cycle(applier, [ME, node(2)])
    device.vanish()
    applier.request_compare()
    applied = await cycle(applier, [ME, node(2)], now=NOW + 1)
    assert applied.repair == "wg0 was gone, and was made anew"
    assert list(device.peers) == [key_of(2)]


class Stubborn(Watched):
    """Loses its port when it is given one that is taken, as wireguard-go does."""

    taken = 51821

    async def apply(self, change: DeviceChange) -> None:
        """Refuse in the middle: what stands before the port is done, and the rest is not."""
        if change.listen_port == self.taken:
            removals = tuple(p for p in change.peers if isinstance(p, RemovePeer))
            self.alter(replace(change, listen_port=0, peers=removals))
            raise DeviceError("wg0 cannot listen on UDP port 51821")
        await super().apply(change)


async def test_a_change_that_fails_half_way_is_taken_back() -> None:
    """The interface gets its last good state; peers are as planned, and the change is retried."""
    device = Stubborn("wg0", OWN)
    await cycle(applier_of(device), [ME, node(2), node(3)])
    good = device.device
    assert good is not None

    after = Applier(
        local=replace(local_node(), public_key=OWN.public, listen_port=51821, mtu=1300),
        device=device,
        resolver=Resolver(lambda: None),
        sync_interval=SYNC_INTERVAL,
    )
    members = [ME, node(2, revoked=True), node(3), node(4)]
    applied = await cycle(after, members)
    assert device.device == good
    assert sorted(device.peers) == [key_of(3), key_of(4)]
    assert applied.snapshot.pending is not None
    assert "51821" in applied.snapshot.pending
    assert applied.snapshot.fell_back
    assert applied.snapshot.applied_block == BLOCK
    assert after.due_at() == NOW + RETRY_FIRST

    device.taken = 0
    applied = await cycle(after, members, now=NOW + 1)
    assert (applied.snapshot.pending, applied.snapshot.fell_back) == (None, False)
    assert device.device is not None
    assert (device.device.listen_port, device.device.mtu) == (51821, 1300)


async def test_a_peer_that_is_refused_takes_nothing_back() -> None:
    """The interface is as wanted; the refused peer alone is tried again."""
    device = Watched("wg0", OWN)
    applier = applier_of(device)
    device.refused = {key_of(2)}
    applied = await cycle(applier, [ME, node(2), node(3)])
    assert applied.snapshot.pending is not None
    assert not applied.snapshot.fell_back
    assert device.device is not None
    assert device.device.up


async def test_a_new_device_has_no_state_to_go_back_to() -> None:
    """What fails while it is being made is only tried again."""
    device = Stubborn("wg0", OWN)
    applier = Applier(
        local=replace(local_node(), public_key=OWN.public, listen_port=51821),
        device=device,
        resolver=Resolver(lambda: None),
        sync_interval=SYNC_INTERVAL,
    )
    applied = await cycle(applier, [ME, node(2)])
    assert applied.snapshot.pending is not None
    assert not applied.snapshot.fell_back
