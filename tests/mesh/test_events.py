"""Events: what changed between two sets of verdicts, in words for people."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.mesh.access import Verdict
from dstack_vpn.mesh.events import Event, EventKind, membership_events
from dstack_vpn.mesh.membership import ZERO_KEY, Node
from mesh.build import BLOCK, BUYER, decide, node


def events(before: list[Node], after: list[Node]) -> tuple[Event, ...]:
    """The events between two states of the contract."""
    return membership_events(
        block=BLOCK,
        before=decide(before),
        after=decide(after),
        nodes_before={n.token_id: n for n in before},
        nodes_after={n.token_id: n for n in after},
    )


@pytest.mark.parametrize(
    ("before", "after", "kinds", "verdict"),
    [
        ([], [node()], ["granted"], Verdict.ACCESS_GRANTED),
        ([node()], [node(revoked=True)], ["revoked"], Verdict.REVOKED),
        ([node()], [node(expires_at=1)], ["revoked"], Verdict.EXPIRED),
        ([node()], [], ["revoked"], Verdict.NODE_NOT_FOUND),
        ([node(revoked=True)], [node()], ["granted"], Verdict.ACCESS_GRANTED),
        ([node()], [node(key=b"k" * 32)], ["key-changed"], Verdict.ACCESS_GRANTED),
        (
            [node()],
            [node(holder=BUYER, suspended=True, key=ZERO_KEY)],
            ["transferred"],
            Verdict.SUSPENDED_BY_TRANSFER,
        ),
        (
            [node()],
            [node(holder=BUYER, key=b"k" * 32)],
            ["transferred", "key-changed"],
            Verdict.ACCESS_GRANTED,
        ),
        (
            [node(revoked=True)],
            [node(revoked=True, holder=BUYER)],
            ["transferred"],
            Verdict.REVOKED,
        ),
        ([node()], [node()], [], None),
        ([node()], [node(endpoint="192.0.2.1:1")], [], None),
        ([], [node(revoked=True)], [], None),
        ([node(revoked=True)], [], [], None),
    ],
)
def test_kinds(
    before: list[Node], after: list[Node], kinds: list[str], verdict: Verdict | None
) -> None:
    """Each change of a token has its kinds of event, with the verdict that now holds."""
    found = events(before, after)
    assert [e.kind for e in found] == kinds
    assert {e.verdict for e in found} == ({verdict} if verdict else set())
    assert {(e.block, e.token_id, e.node_id) for e in found} <= {(BLOCK, 1, "node-1")}


def test_detail_says_why() -> None:
    """An event carries the reason of the verdict; a burned token has none of its own."""
    (revoked,) = events([node()], [node(revoked=True)])
    (burned,) = events([node()], [])
    assert "revoked the token" in revoked.detail
    assert burned.detail == "the token was burned"


nodes = st.lists(
    st.builds(node, st.integers(1, 8), revoked=st.booleans(), since_block=st.integers(1, 3)),
    unique_by=lambda n: n.token_id,
)


@given(nodes, nodes)
def test_events_account_for_every_change_of_members(before: list[Node], after: list[Node]) -> None:
    """Members before, with what the events tell, are the members after; sorted by token id."""
    found = events(before, after)
    members = {d.token_id for d in decide(before) if d.granted}
    for event in found:
        if event.kind is EventKind.GRANTED:
            members.add(event.token_id)
        elif event.kind is EventKind.REVOKED:
            members.remove(event.token_id)
    assert members == {d.token_id for d in decide(after) if d.granted}
    assert [e.token_id for e in found] == sorted(e.token_id for e in found)


@given(nodes)
def test_nothing_happened(tokens: list[Node]) -> None:
    """A block that changed no access tells nothing."""
    assert events(tokens, [replace(n, since_block=9, role=b"r" * 32) for n in tokens]) == ()
