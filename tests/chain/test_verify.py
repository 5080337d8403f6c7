"""Logs, fold and proof: what is refused, and that an honest log is proved."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.samples import (
    CHAIN_ID,
    CONTRACT,
    Change,
    block,
    header,
    hex_of,
    history_after,
    log_of,
    node,
    word,
)
from dstack_vpn.chain.contract import seed
from dstack_vpn.chain.verify import (
    apply_changes,
    check_proof,
    fold,
    parse_logs,
)
from dstack_vpn.errors import BadAnswerError
from dstack_vpn.mesh.membership import Address, Checkpoint, Node, Nodes

HERE = header(7)


def logs(*changes: Change) -> list[dict[str, Any]]:
    return [log_of(change, HERE, index) for index, change in enumerate(changes)]


def test_honest_logs_are_proved() -> None:
    """Mint, revoke and burn in one block end at the history that the contract has."""
    changes = [
        Change(1, node(1), 1),
        Change(2, node(2), 2),
        Change(1, node(1, revoked=True), 3),
        Change(2, None, 4),
    ]
    start = seed(CHAIN_ID, CONTRACT)
    step = fold(HERE.block, start, {}, parse_logs(logs(*changes), HERE, CONTRACT))
    history = start.history
    for change in changes:
        history = history_after(history, change.revision, 7, change.node)
    stated = Checkpoint(revision=4, history=history, member_count=0)
    after = apply_changes({}, step.changes)
    check_proof(step.checkpoint, stated)
    assert after == {1: node(1, revoked=True, since_block=7)}


MUTATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "another block": ("log-block", {"blockHash": block(7, 1).hash}),
    "no block": ("data", {"blockHash": None}),
    "another contract": ("log-address", {"address": "0x" + "22" * 20}),
    "removed": ("log-removed", {"removed": True}),
    "removed, oddly": ("log-removed", {"removed": "false"}),
    "another event": ("abi", {"topics": ["0x" + "33" * 32, hex_of(word(1)), hex_of(word(1))]}),
    "no topics": ("logs", {"topics": None}),
    "a topic too few": ("abi", {"topics": log_of(Change(1, node(1), 1), HERE)["topics"][:2]}),
    "another token": (
        "abi",
        {"topics": log_of(Change(2, node(2), 1), HERE)["topics"]},
    ),
    "no data": ("data", {"data": None}),
    "short data": ("abi", {"data": "0x00"}),
    "no index": ("quantity", {"logIndex": None}),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_log_that_does_not_belong_is_refused(name: str) -> None:
    """Each check has its own name, which is what a metric shows."""
    check, change = MUTATIONS[name]
    log = {**logs(Change(1, node(1), 1))[0], **change}
    with pytest.raises(BadAnswerError) as caught:
        parse_logs([log], HERE, CONTRACT)
    assert caught.value.check == check


@pytest.mark.parametrize("value", [None, {}, "0x", [None], [[]], [5]])
def test_what_is_no_list_of_logs_is_never_an_empty_one(value: object) -> None:
    """Null and garbage are bad answers, not "no logs"."""
    with pytest.raises(BadAnswerError):
        parse_logs(value, HERE, CONTRACT)


def test_logs_out_of_order_or_twice_are_refused() -> None:
    """Indexes rise."""
    first, second = logs(Change(1, node(1), 1), Change(2, node(2), 2))
    for row in ([second, first], [first, first]):
        with pytest.raises(BadAnswerError) as caught:
            parse_logs(row, HERE, CONTRACT)
        assert caught.value.check == "log-index"


def test_logs_against_the_bloom_are_refused() -> None:
    """A block whose bloom excludes our event has none, whoever says otherwise."""
    empty = header(7, bloom=bytes(256))
    with pytest.raises(BadAnswerError) as caught:
        parse_logs(logs(Change(1, node(1), 1)), empty, CONTRACT)
    assert caught.value.check == "bloom"
    assert parse_logs([], empty, CONTRACT) == []


def state() -> tuple[Checkpoint, Nodes, Checkpoint, list[Change]]:
    """Two members, then a block with three changes: before, and what the contract states after."""
    start = seed(CHAIN_ID, CONTRACT)
    first = [Change(1, node(1), 1), Change(2, node(2), 2)]
    step = fold(block(6), start, {}, parse_logs(logs(*first), HERE, CONTRACT))
    nodes = apply_changes({}, step.changes)
    then = [
        Change(3, node(3), 3),
        Change(1, node(1, revoked=True), 4),
        Change(2, node(2, endpoint="198.51.100.7:51820"), 5),
    ]
    history = step.checkpoint.history
    for change in then:
        history = history_after(history, change.revision, 7, change.node)
    return step.checkpoint, nodes, Checkpoint(revision=5, history=history, member_count=2), then


def attempt(row: list[dict[str, Any]]) -> None:
    before, nodes, stated, _ = state()
    step = fold(HERE.block, before, nodes, parse_logs(row, HERE, CONTRACT))
    check_proof(step.checkpoint, stated)


def test_the_unaltered_block_is_proved() -> None:
    """The base of the tests that follow."""
    attempt(logs(*state()[3]))


@pytest.mark.parametrize("left_out", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)])
def test_no_log_can_be_left_out(left_out: tuple[int, ...]) -> None:
    """At the front, in the middle, at the end, or all of them."""
    row = [log for i, log in enumerate(logs(*state()[3])) if i not in left_out]
    with pytest.raises(BadAnswerError):
        attempt(row)


@pytest.mark.parametrize(
    "forged",
    [
        {"key": b"\x66" * 32},
        {"holder": Address("0x" + "66" * 20)},
        {"node_id": "mallory"},
        {"endpoint": "203.0.113.66:1"},
        {"role": b"\x01" * 32},
        {"expires_at": 5},
        {"created_at": 5},
        {"suspended": True},
        {"revoked": True},
    ],
)
def test_no_field_of_a_log_can_be_forged(forged: dict[str, Any]) -> None:
    """A swapped key or anything else in the data does not prove."""
    changes = state()[3]
    changes[0] = Change(3, node(3, **forged), 3)
    with pytest.raises(BadAnswerError):
        attempt(logs(*changes))


def test_no_log_can_be_added_or_moved() -> None:
    """One more, the same one twice under another number, or another order."""
    changes = state()[3]
    for row in (
        [*changes, Change(9, node(9), 6)],
        [Change(9, node(9), 3), *(Change(c.token_id, c.node, c.revision + 1) for c in changes)],
        [
            Change(changes[1].token_id, changes[1].node, 3),
            Change(changes[0].token_id, changes[0].node, 4),
            changes[2],
        ],
    ):
        with pytest.raises(BadAnswerError):
            attempt(logs(*row))


def test_the_count_of_members_is_checked_by_itself() -> None:
    """A right history with a wrong count is refused as well."""
    before, nodes, stated, changes = state()
    step = fold(HERE.block, before, nodes, parse_logs(logs(*changes), HERE, CONTRACT))
    wrong = Checkpoint(revision=5, history=stated.history, member_count=3)
    with pytest.raises(BadAnswerError) as caught:
        check_proof(step.checkpoint, wrong)
    assert caught.value.check == "member-count"


ACCESS: dict[str, tuple[dict[str, Any], bool]] = {
    "endpoint": ({"endpoint": "198.51.100.7:1"}, False),
    "role": ({"role": b"\x01" * 32}, False),
    "expiry": ({"expires_at": 9}, False),
    "key": ({"key": b"\x05" * 32}, True),
    "holder": ({"holder": Address("0x" + "05" * 20)}, True),
    "revocation": ({"revoked": True}, True),
    "transfer": ({"suspended": True, "key": bytes(32)}, True),
}


@pytest.mark.parametrize("name", ACCESS)
def test_confirmations_start_anew_when_access_changes(name: str) -> None:
    """A new endpoint keeps the age of an admission; a new key or holder does not."""
    change, anew = ACCESS[name]
    old = node(1, since_block=3)
    start = Checkpoint(revision=0, history=bytes(32), member_count=1)
    row = logs(Change(1, node(1, **change), 1))
    step = fold(HERE.block, start, {1: old}, parse_logs(row, HERE, CONTRACT))
    after = step.changes[1]
    assert after is not None
    assert after.since_block == (7 if anew else 3)


def test_a_burn_of_nobody_is_refused() -> None:
    """The contract cannot log it."""
    start = Checkpoint(revision=0, history=bytes(32), member_count=0)
    with pytest.raises(BadAnswerError):
        fold(HERE.block, start, {}, parse_logs(logs(Change(1, None, 1)), HERE, CONTRACT))


kinds = st.sampled_from(["mint", "burn", "revoke", "key"])


@given(st.lists(st.tuples(kinds, st.integers(1, 4)), max_size=20))
@settings(deadline=None)
def test_the_fold_counts_members_as_a_plain_replay_does(moves: list[tuple[str, int]]) -> None:
    """After any row of changes the count is that of the active nodes."""
    tokens: dict[int, Node] = {}
    changes: list[Change] = []
    for kind, token in moves:
        old = tokens.get(token)
        new: Node | None
        if old is None:
            new = node(token)
        elif kind == "burn":
            new = None
        elif kind == "revoke":
            new = node(token, revoked=not old.revoked)
        else:
            new = node(token, key=bytes(32))
        changes.append(Change(token, new, len(changes) + 1))
        if new is None:
            del tokens[token]
        else:
            tokens[token] = new
    parsed = parse_logs(logs(*changes), HERE, CONTRACT)
    step = fold(HERE.block, seed(CHAIN_ID, CONTRACT), {}, parsed)
    assert step.checkpoint.member_count == sum(n.active for n in tokens.values())
    assert apply_changes({}, step.changes).keys() == tokens.keys()
