"""A plan amended for a few tokens: what planning for all comes to, without touching others."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.mesh.access import Decision, judge_self
from dstack_vpn.mesh.amend import amend, entangled
from dstack_vpn.mesh.device import AddPeer, DeviceChange, RemovePeer, SeenDevice, UpdatePeer
from dstack_vpn.mesh.diff import diff, patched
from dstack_vpn.mesh.keys import PublicKey
from dstack_vpn.mesh.membership import Node
from dstack_vpn.mesh.plan import ON_LINK_TRIES, ON_LINK_WINDOW, STAGGER, LocalNode, Plan
from mesh.build import (
    ADDRESSES,
    NOW,
    as_seen,
    clock_at,
    decide,
    device_of,
    key_of,
    local_node,
    membership,
    node,
    plan_for,
    socket_address,
)
from mesh.test_plan import token_lists

A, B = "192.0.2.1:1", "192.0.2.2:2"


def amended(
    plan: Plan,
    before: Iterable[Node],
    after: Sequence[Node],
    *,
    seen: SeenDevice | None = None,
    local: LocalNode | None = None,
    since: Mapping[PublicKey, float] | None = None,
    now: float = NOW,
) -> tuple[Plan, DeviceChange]:
    """The plan for the tokens before, amended for all that differ."""
    local = local or local_node()
    old = {d.token_id: d for d in decide(before)}
    new = {d.token_id: d for d in decide(after)}
    nodes_before, nodes_after = membership(before).nodes, membership(after).nodes
    changed: dict[int, Decision | None] = {
        token: new.get(token)
        for token in old.keys() | new.keys()
        if old.get(token) != new.get(token) or nodes_before.get(token) != nodes_after.get(token)
    }
    keys = {d.key for d in changed.values() if d is not None and d.granted and d.key}
    for token in entangled(plan, changed.keys(), keys):
        changed.setdefault(token, new.get(token))
    return amend(
        plan,
        changed,
        nodes=nodes_after,
        own=judge_self(tuple(new.values()), local.node_id, local.public_key),
        local=local,
        seen=seen or as_seen(device_of(plan)),
        resolved={},
        since=since or {},
        now=now,
        clock=clock_at(now),
    )


@given(token_lists, token_lists)
def test_amending_comes_to_the_same_as_planning_anew(
    before: Sequence[Node], after: Sequence[Node]
) -> None:
    """For any two memberships: the same peers, notes and waits, and the same change."""
    first = plan_for([node(1), *before])
    seen = as_seen(device_of(first))
    plan, change = amended(first, [node(1), *before], [node(1), *after])
    whole = plan_for([node(1), *after], seen=seen)
    assert device_of(plan) == device_of(whole)
    assert (plan.notes, plan.keys) == (whole.notes, whole.keys)
    assert (plan.staggered, plan.tries) == (whole.staggered, whole.tries)
    assert change == diff(device_of(whole), seen, reasons=whole.removal_reasons)
    assert not diff(device_of(plan), patched(seen, change))


def test_others_are_not_touched() -> None:
    """The peers of tokens that did not change are the very same, and the old plan is as it was."""
    before = [node(i) for i in range(1, 9)]
    after = [*before[:3], node(4, revoked=True), *before[4:], node(9)]
    first = plan_for(before)
    kept = dict(device_of(first).peers)
    plan, change = amended(first, before, after)
    assert device_of(first).peers == kept
    removal, addition = change.peers
    assert isinstance(removal, RemovePeer)
    assert (removal.key, removal.reason[:7]) == (key_of(4), "REVOKED")
    assert isinstance(addition, AddPeer)
    assert addition.peer.token_id == 9
    peers = device_of(plan).peers
    assert peers.keys() == (kept.keys() - {key_of(4)}) | {key_of(9)}
    assert all(peers[key] is kept[key] for key in peers.keys() & kept.keys())


def test_nothing_new_is_the_same_plan() -> None:
    """Without a change there is nothing to do, and nothing is copied."""
    first = plan_for([node(1), node(2)])
    plan, change = amended(first, [node(1), node(2)], [node(1), node(2)])
    assert not change
    assert device_of(plan).peers is device_of(first).peers
    assert plan == replace(first, removal_reasons={})


def test_a_key_that_moves_to_another_token_keeps_its_session() -> None:
    """The peer gets the other token's addresses; it is neither removed nor added anew."""
    before = [node(1), node(2), node(3, key=key_of(2).raw, created_at=9)]
    after = [node(1), node(2, revoked=True), node(3, key=key_of(2).raw, created_at=9)]
    plan, change = amended(plan_for(before), before, after)
    (update,) = change.peers
    assert isinstance(update, UpdatePeer)
    assert update.allowed_ips == ADDRESSES.hosts(3)
    assert device_of(plan).peers[key_of(2)].token_id == 3
    assert plan.keys == {3: key_of(2)}


def test_whoever_has_a_key_is_planned_for_with_whoever_gets_it() -> None:
    """A token that is not said to have changed, but whose key another one has now, is found."""
    plan = plan_for([node(1), node(2), node(3)])
    assert entangled(plan, {5}, {key_of(2), key_of(9)}) == {2, 5}


def test_a_newcomer_waits_for_its_turn_to_speak_and_then_speaks() -> None:
    """Of a new pair one side waits; afterwards only its keepalive is set, not where it roamed."""
    local, before = local_node(2), [node(2)]
    after = [node(1, endpoint=A), node(2)]
    plan, change = amended(plan_for(before, local=local), before, after, local=local)
    assert plan.staggered == {1: NOW + STAGGER}
    assert plan.wake_at == NOW + STAGGER
    assert plan.replan_at is None
    seen = patched(as_seen(device_of(plan_for(before, local=local))), change)
    assert seen.peers[key_of(1)].endpoint == socket_address(A)

    decision = decide(after)[0]
    plan, change = amend(
        plan,
        {1: decision},
        nodes=membership(after).nodes,
        own=decide(after)[1],
        local=local,
        seen=seen,
        resolved={},
        since={key_of(1): NOW},
        now=NOW + STAGGER,
        clock=clock_at(NOW + STAGGER),
    )
    (update,) = change.peers
    assert isinstance(update, UpdatePeer)
    assert (update.endpoint, update.allowed_ips, update.keepalive) == (None, None, 25)
    assert not plan.staggered
    assert plan.wake_at is None


@given(st.integers(0, 120), st.integers(1, 40))
def test_newcomers_keep_to_the_cap_of_silent_neighbours(there: int, coming: int) -> None:
    """However they come, never more than 50 silent neighbours are spoken to at once."""

    def neighbours(count: int) -> list[Node]:
        others = [node(i, endpoint=f"10.9.{i >> 8}.{i & 255}:51820") for i in range(2, count + 2)]
        return [node(1), *others]

    local = local_node(on_link=["10.9.0.0/16"])
    plan = plan_for(neighbours(there), local=local)
    for count in range(there + 1, there + coming + 1):
        plan, _ = amended(plan, neighbours(count - 1), neighbours(count), local=local)
        spoken_to = {p.key for p in device_of(plan).peers.values() if p.endpoint and p.keepalive}
        assert spoken_to == plan.tries
        assert len(spoken_to) <= ON_LINK_TRIES
        if len(spoken_to) < count:
            assert plan.replan_at is not None
            assert NOW < plan.replan_at <= NOW + ON_LINK_WINDOW


def test_a_neighbour_that_goes_makes_room_for_one_that_comes() -> None:
    """The place of a removed neighbour is free at once."""
    local = local_node(on_link=["10.9.0.0/16"])
    before = [node(1), *(node(i, endpoint=f"10.9.0.{i}:1") for i in range(2, 52))]
    after = [*before[:1], node(2, revoked=True), *before[2:], node(99, endpoint="10.9.0.99:1")]
    plan, _ = amended(plan_for(before, local=local), before, after, local=local)
    assert device_of(plan).peers[key_of(99)].keepalive
    assert len(plan.tries) == ON_LINK_TRIES


def test_without_a_grant_of_its_own_a_node_gets_no_peers() -> None:
    """A change elsewhere makes nobody a peer of a node that is no member."""
    before, after = [node(1, revoked=True), node(2)], [node(1, revoked=True), node(2), node(3)]
    plan, change = amended(plan_for(before), before, after)
    assert not change
    assert not device_of(plan).peers


def test_an_endpoint_that_changes_is_an_update() -> None:
    """A token with another endpoint moves its peer there; a note goes with its reason."""
    before, after = [node(1), node(2, endpoint="localhost:1")], [node(1), node(2, endpoint=B)]
    first = plan_for(before, since={key_of(2): NOW - 60})
    assert 2 in first.notes
    plan, change = amended(first, before, after, since={key_of(2): NOW - 60})
    (update,) = change.peers
    assert isinstance(update, UpdatePeer)
    assert (update.endpoint, update.keepalive) == (socket_address(B), 25)
    assert not plan.notes
