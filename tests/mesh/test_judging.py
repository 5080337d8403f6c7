"""Judging again and again: always what a judgement from nothing comes to, and only for news."""

from dataclasses import dataclass, replace
from time import process_time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_vpn.mesh.access import Decision, Verdict, judge, judge_self
from dstack_vpn.mesh.events import membership_events
from dstack_vpn.mesh.judging import Judge, Judgement
from dstack_vpn.mesh.membership import ZERO_KEY, Node, Suspect
from mesh.build import BLOCK, BUYER, CHAIN_NOW, HOLDER, key_of, membership, node, suspect

NAME, KEY = "a", key_of(1)
ENDS = st.sampled_from([0, 0, CHAIN_NOW - 1, CHAIN_NOW, CHAIN_NOW + 1, CHAIN_NOW + 2])
KEYS = st.sampled_from([*(key_of(i).raw for i in (1, 2, 3)), ZERO_KEY, b"x"])
TOKENS = st.builds(
    node,
    st.integers(0, 6) | st.just(2**64),
    node_id=st.sampled_from(["a", "b", "c", "A"]),
    key=KEYS,
    holder=st.sampled_from([HOLDER, BUYER]),
    endpoint=st.sampled_from(["", "192.0.2.1:1"]),
    created_at=st.integers(0, 2),
    since_block=st.integers(BLOCK - 3, BLOCK),
    expires_at=ENDS,
    revoked=st.sampled_from([False, False, False, True]),
    suspended=st.sampled_from([False, False, False, True]),
)
SUSPECTS = st.dictionaries(
    st.integers(1, 6),
    st.builds(
        Suspect,
        node=st.none() | TOKENS,
        block=st.integers(BLOCK, BLOCK + 1),
        providers=st.just(("rpc.example#1",)),
    ),
    max_size=2,
)


@dataclass(frozen=True)
class Step:
    """What is another thing in the next cycle."""

    set: tuple[Node, ...] = ()
    drop: frozenset[int] = frozenset()
    copy: bool = False
    """Whether the tokens are read anew, equal but not the same."""
    facts: tuple[tuple[str, Any], ...] = ()


STEPS = st.lists(
    st.builds(
        Step,
        set=st.lists(TOKENS, max_size=2).map(tuple),
        drop=st.frozensets(st.integers(0, 6), max_size=1),
        copy=st.booleans(),
        facts=st.fixed_dictionaries(
            {},
            optional={
                "confirmed": st.none() | st.integers(BLOCK - 4, BLOCK),
                "chain_now": st.sampled_from([CHAIN_NOW + i / 2 for i in range(-3, 6)]),
                "suspects": SUSPECTS,
            },
        ).map(lambda facts: tuple(facts.items())),
    ),
    max_size=12,
)


@settings(max_examples=400)
@given(st.lists(TOKENS, max_size=8, unique_by=lambda n: n.token_id), STEPS)
def test_is_what_a_judgement_from_nothing_comes_to(first: list[Node], steps: list[Step]) -> None:
    """Through any sequence of news: the decisions, our own, what changed and the next end."""
    judging = Judge(node_id=NAME, public_key=KEY)
    nodes: dict[int, Node] = {}
    facts: dict[str, Any] = {"confirmed": BLOCK, "chain_now": CHAIN_NOW, "suspects": {}}
    old: dict[int, Decision] = {}
    for step in [Step(set=tuple(first)), *steps]:
        was = nodes
        nodes = {i: n for i, n in nodes.items() if i not in step.drop}
        if step.copy:
            nodes = {i: replace(n) for i, n in reversed(nodes.items())}
        nodes |= {n.token_id: n for n in step.set}
        facts |= dict(step.facts)
        members = membership(nodes.values())

        got = judging.judge(members, **facts)

        expected = judge(members, **facts)
        new = {d.token_id: d for d in expected}
        assert got.decisions == new
        assert got.own == judge_self(expected, NAME, KEY)
        told = [s.node for i, s in facts["suspects"].items() if s.node and i in nodes]
        ends = [n.expires_at for n in (*nodes.values(), *told)]
        assert got.next_end == min((e for e in ends if e > facts["chain_now"]), default=None)
        assert got.changed == {
            i
            for i in was.keys() | nodes.keys()
            if was.get(i) != nodes.get(i) or old.get(i) != new.get(i)
        }
        assert got.before == tuple(old[i] for i in sorted(got.changed & old.keys()))
        assert got.after == tuple(new[i] for i in sorted(got.changed & new.keys()))
        old = new


@given(st.lists(TOKENS, max_size=8, unique_by=lambda n: n.token_id), STEPS)
def test_the_events_of_what_changed_are_all_events(first: list[Node], steps: list[Step]) -> None:
    """Events are told from the tokens that changed as from all of them."""
    judging = Judge(node_id=NAME, public_key=KEY)
    nodes = {n.token_id: n for n in first}
    before = judging.judge(membership(first), confirmed=BLOCK, chain_now=CHAIN_NOW)
    for step in steps:
        was, nodes = nodes, {**nodes, **{n.token_id: n for n in step.set}}
        after = judging.judge(membership(nodes.values()), confirmed=BLOCK, chain_now=CHAIN_NOW)
        told = [
            membership_events(
                block=BLOCK, before=old, after=new, nodes_before=was, nodes_after=nodes
            )
            for old, new in (
                (after.before, after.after),
                (tuple(before.decisions.values()), tuple(after.decisions.values())),
            )
        ]
        assert told[0] == told[1]
        before = after


def many(count: int = 10_000) -> dict[int, Node]:
    """A large network, a tenth of it with an end."""
    return {i: node(i, expires_at=0 if i % 10 else CHAIN_NOW + i) for i in range(1, count + 1)}


def judged(judging: Judge, nodes: dict[int, Node], **facts: Any) -> Judgement:
    """These tokens, by default all confirmed and judged at the time of their block."""
    members = membership()
    given: dict[str, Any] = {"confirmed": BLOCK, "chain_now": CHAIN_NOW}
    return judging.judge(replace(members, nodes=nodes), **given | facts)


def test_nothing_new_is_no_work() -> None:
    """A cycle without news gives the very decisions of the one before, whatever their number."""
    judging, nodes = Judge(node_id="node-1", public_key=KEY), many()
    first = judged(judging, nodes)
    again = judged(judging, nodes, confirmed=BLOCK + 5, chain_now=CHAIN_NOW + 5)
    assert again.decisions is first.decisions
    assert (again.changed, again.before, again.after) == (frozenset(), (), ())
    assert again.own.granted


def test_one_of_ten_thousand() -> None:
    """One token that changed is judged in a few milliseconds at most; from nothing takes tens."""
    judging, nodes = Judge(node_id="node-1", public_key=KEY), many()
    first = judged(judging, nodes)
    shown, took = first, []
    for turn in range(20):
        nodes = {**nodes, 500: replace(nodes[500], revoked=not turn % 2)}
        began = process_time()
        shown = judged(judging, nodes)
        took.append(process_time() - began)
        assert shown.changed == {500}
    assert first.decisions[500].granted  # what a reader holds never changes
    assert shown.decisions[500].verdict is Verdict.ACCESS_GRANTED
    assert min(took) < 0.01


@pytest.mark.parametrize("lower", [None, BLOCK - 1])
def test_admissions_that_count_no_more(lower: int | None) -> None:
    """A reorganisation that takes an admission's block away takes the admission, too."""
    judging, nodes = Judge(node_id="node-1", public_key=KEY), {7: node(7, since_block=BLOCK)}
    assert judged(judging, nodes).decisions[7].granted
    shown = judged(judging, nodes, confirmed=lower)
    assert shown.decisions[7].verdict is Verdict.NOT_YET_CONFIRMED
    assert judged(judging, nodes).changed == {7}


def test_an_end_that_only_a_suspect_tells_of() -> None:
    """A provider that tells of an end which the others do not know puts the member out on time."""
    judging, nodes = Judge(node_id="node-1", public_key=KEY), {7: node(7)}
    ending = suspect(node(7, expires_at=CHAIN_NOW + 3), number=BLOCK)
    before = judged(judging, nodes, suspects={7: ending})
    assert before.decisions[7].granted
    assert before.next_end == CHAIN_NOW + 3
    after = judged(judging, nodes, suspects={7: ending}, chain_now=CHAIN_NOW + 3)
    assert after.decisions[7].verdict is Verdict.SOURCE_DISPUTED


def test_ends_do_not_pile_up() -> None:
    """A token whose end is moved again and again leaves no more behind than a few numbers."""
    judging, nodes = Judge(node_id="node-1", public_key=KEY), many(10)
    for turn in range(1000):
        nodes = {**nodes, 7: replace(nodes[7], expires_at=CHAIN_NOW + 10_000 - turn)}
        assert judged(judging, nodes).next_end == min(CHAIN_NOW + 10, CHAIN_NOW + 10_000 - turn)
    assert len(judging._ends) < 200
