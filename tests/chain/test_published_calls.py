"""Logs of a contract with the published interface: each in its place, or refused."""

from typing import Any

import pytest

from chain.samples import CONTRACT, block, header, hex_of, word
from dstack_vpn.chain.calls import Refusal
from dstack_vpn.chain.header import Header
from dstack_vpn.chain.published import REVOKED, Position, Revoked
from dstack_vpn.chain.published_calls import (
    events_of,
    is_revert,
    logs_between,
    logs_in,
    parse_logs,
    parse_range,
)
from dstack_vpn.errors import BadAnswerError

HERE = header(7)
DATA = word(32) + word(1) + b"a" + bytes(31)


def log(where: Header = HERE, index: int = 0, **changes: Any) -> dict[str, Any]:
    """A revocation of token 1 as a provider gives it."""
    plain = {
        "address": CONTRACT,
        "topics": [hex_of(REVOKED), hex_of(word(1))],
        "data": hex_of(DATA),
        "blockNumber": hex(where.block.number),
        "blockHash": where.block.hash,
        "transactionHash": "0x" + "11" * 32,
        "logIndex": hex(index),
        "removed": False,
    }
    return plain | changes


def test_honest_logs_become_events_in_their_places() -> None:
    """Logs of the interface are decoded; those of other events are passed over."""
    approval = log(index=4, topics=[hex_of(word(9))])
    parsed = parse_logs([log(index=3), approval], header=HERE, contract=CONTRACT)
    assert len(parsed) == 2
    (placed,) = events_of(parsed)
    assert (placed.at, placed.event) == (Position(7, 3), Revoked(1, "a"))


MUTATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "another block": ("log-block", {"blockHash": block(7, 1).hash}),
    "another height": ("log-block", {"blockNumber": "0x8"}),
    "no block": ("data", {"blockHash": None}),
    "another contract": ("log-address", {"address": "0x" + "22" * 20}),
    "removed": ("log-removed", {"removed": True}),
    "removed, oddly": ("log-removed", {"removed": "false"}),
    "no topics": ("logs", {"topics": None}),
    "five topics": ("logs", {"topics": [hex_of(word(1))] * 5}),
    "no data": ("data", {"data": None}),
    "no index": ("quantity", {"logIndex": None}),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_log_that_does_not_belong_is_refused(name: str) -> None:
    """Requirement 6: each check has its own name, which is what a metric shows."""
    check, changes = MUTATIONS[name]
    with pytest.raises(BadAnswerError) as refused:
        parse_logs([log(**changes)], header=HERE, contract=CONTRACT)
    assert refused.value.check == check


@pytest.mark.parametrize("value", [None, {}, "0x", [None], [[]]])
def test_what_is_no_list_of_logs_is_not_empty(value: object) -> None:
    """Requirement 7: null and other garbage never mean "no logs"."""
    with pytest.raises(BadAnswerError):
        parse_logs(value, header=HERE, contract=CONTRACT)


def test_logs_are_in_strict_order() -> None:
    """An index twice, or logs of an older block after those of a newer one, are refused."""
    for wrong in ([log(index=1), log(index=1)], [log(header(8), 0), log(header(7), 5)]):
        with pytest.raises(BadAnswerError) as refused:
            parse_range(wrong, first=7, last=8, contract=CONTRACT)
        assert refused.value.check == "log-index"


def test_logs_in_a_block_whose_bloom_excludes_them_are_refused() -> None:
    """An empty bloom has no logs, by the hash of the block."""
    with pytest.raises(BadAnswerError) as refused:
        parse_logs([log()], header=header(7, bloom=bytes(256)), contract=CONTRACT)
    assert refused.value.check == "bloom"


def test_a_range_is_of_one_chain() -> None:
    """Requirement 29: no log from outside of the range, no two hashes for one number."""
    good = [log(header(7), 0), log(header(7), 1), log(header(9), 0)]
    assert len(parse_range(good, first=7, last=9, contract=CONTRACT)) == 3
    for first, last in ((8, 9), (7, 8)):
        with pytest.raises(BadAnswerError):
            parse_range(good, first=first, last=last, contract=CONTRACT)
    with pytest.raises(BadAnswerError) as refused:
        parse_range([log(header(7), 0), log(header(7, 1), 1)], first=7, last=7, contract=CONTRACT)
    assert refused.value.check == "log-block"


def test_questions_name_blocks_exactly() -> None:
    """By hash near the tip, by numbers in a range, and by the address only: never `latest`."""
    assert logs_in(CONTRACT, HERE).params == ({"blockHash": HERE.block.hash, "address": CONTRACT},)
    assert logs_between(CONTRACT, 1, 2000).params == (
        {"fromBlock": "0x1", "toBlock": "0x7d0", "address": CONTRACT},
    )


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        (3, "execution reverted", True),
        (-32000, "execution reverted: custom error 0x7e273289", True),
        (-32015, "VM execution error.", True),
        (-32000, "VM Exception while processing transaction: revert", True),
        (-32000, "invalid opcode: INVALID", True),
        (-32000, "missing trie node 0xabc (path )", False),
        (-32001, "header for hash not found", False),
        (-32000, "hash is not currently canonical", False),
        (-32000, "out of gas", False),
        (-32603, "internal error", False),
        (0, "", False),
    ],
)
def test_only_the_contract_itself_says_that_a_token_is_gone(
    code: int, message: str, *, expected: bool
) -> None:
    """Requirement 7: a node without the state, or one that fails, does not remove anybody."""
    assert is_revert(Refusal(code, message)) is expected
