"""Receipts are believed only when their root is the header's.

The reference is the rlp library, with a trie written here by the definition of the Yellow Paper;
real blocks are in test_receipts_faults.py.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import rlp  # type: ignore[import-untyped]
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from chain.samples import CONTRACT, FULL_BLOOM, TOPIC, block, hex_of
from dstack_vpn.chain.header import Header
from dstack_vpn.chain.receipts import ordered_root, parse_receipts
from dstack_vpn.errors import BadAnswerError

EMPTY_ROOT = "56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421"

# The trie by its definition


def compact(nibbles: Sequence[int], leaf: bool) -> bytes:
    """HP of appendix C."""
    flag = 2 * leaf
    whole = [flag + 1, *nibbles] if len(nibbles) % 2 else [flag, 0, *nibbles]
    return bytes(16 * a + b for a, b in zip(whole[::2], whole[1::2], strict=True))


def structure(items: dict[tuple[int, ...], bytes]) -> Any:
    """The function c of appendix D; the keys are what is left of them."""
    if not items:
        return b""
    if len(items) == 1:
        ((key, value),) = items.items()
        return [compact(key, True), value]
    shared = 0
    while len({key[: shared + 1] for key in items}) == 1:
        shared += 1
    if shared:
        rest = {key[shared:]: value for key, value in items.items()}
        return [compact(next(iter(items))[:shared], False), cap(rest)]
    branch = [
        cap({key[1:]: value for key, value in items.items() if key and key[0] == nibble})
        for nibble in range(16)
    ]
    return [*branch, items.get((), b"")]


def cap(items: dict[tuple[int, ...], bytes]) -> Any:
    """The function n of appendix D."""
    node = structure(items)
    encoded = rlp.encode(node)
    return node if not items or len(encoded) < 32 else keccak(encoded)


def reference_root(values: Sequence[bytes]) -> bytes:
    keys = [rlp.encode(i, rlp.sedes.big_endian_int) for i in range(len(values))]
    nibbles = [tuple(n for byte in key for n in (byte >> 4, byte & 15)) for key in keys]
    return keccak(rlp.encode(structure(dict(zip(nibbles, values, strict=True)))))


def test_no_values_have_the_famous_root() -> None:
    """The root of an empty trie is known from every empty block."""
    assert ordered_root([]).hex() == EMPTY_ROOT


@pytest.mark.parametrize("count", [1, 2, 3, 15, 16, 17, 127, 128, 129, 255, 256, 257, 700])
def test_the_root_is_that_of_the_definition(count: int) -> None:
    """At each length of keys, for nodes that stand in their parents and such that do not.

    A leaf under a branch is one of 32 bytes, the first to be hashed, when its value has 29.
    """
    for width in (1, 28, 29, 32):
        values = [keccak(str(i).encode())[:width] for i in range(count)]
        assert ordered_root(values) == reference_root(values)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=300))
def test_any_values_have_the_root_of_the_definition(values: list[bytes]) -> None:
    """Whatever their lengths, which decide the shape of the nodes above them."""
    assert ordered_root(values) == reference_root(values)


# Receipts made by hand


def reference_encoding(receipt: dict[str, Any]) -> bytes:
    """A receipt of any known type, by the library."""

    def raw(text: str) -> bytes:
        return bytes.fromhex(text[2:])

    def number(text: str) -> bytes:
        value = int(text, 16)
        return value.to_bytes((value.bit_length() + 7) // 8, "big")

    items: list[Any] = [
        number(receipt["status"]) if "status" in receipt else raw(receipt["root"]),
        number(receipt["cumulativeGasUsed"]),
        raw(receipt["logsBloom"]),
        [
            [raw(log["address"]), [raw(topic) for topic in log["topics"]], raw(log["data"])]
            for log in receipt["logs"]
        ],
    ]
    kind = int(receipt.get("type", "0x0"), 16)
    if kind == 0x7E and "depositReceiptVersion" in receipt:
        items += [number(receipt["depositNonce"]), number(receipt["depositReceiptVersion"])]
    encoded: bytes = rlp.encode(items)
    return (bytes([kind]) if kind else b"") + encoded


def header_of(receipts: list[dict[str, Any]]) -> Header:
    root = reference_root([reference_encoding(receipt) for receipt in receipts])
    return Header(block(7), FULL_BLOOM, root)


def receipt(place: int = 0, **changes: Any) -> dict[str, Any]:
    """A receipt of the block without logs; a change to None leaves the field out."""
    fields = {
        "type": "0x2",
        "status": "0x1",
        "cumulativeGasUsed": hex(21_000 * (place + 1)),
        "logsBloom": "0x" + "00" * 256,
        "logs": [],
        "transactionIndex": hex(place),
        "blockHash": block(7).hash,
        "blockNumber": "0x7",
        **changes,
    }
    return {name: value for name, value in fields.items() if value is not None}


def log(index: int, **changes: Any) -> dict[str, Any]:
    """A log of our contract in the block."""
    return {
        "address": CONTRACT,
        "topics": [hex_of(TOPIC), "0x" + "01" * 32],
        "data": f"0x{index:04x}",
        "blockHash": block(7).hash,
        "blockNumber": "0x7",
        "logIndex": hex(index),
        "removed": False,
        **changes,
    }


@pytest.mark.parametrize(
    "kind",
    [
        {"type": None},
        {"type": "0x0"},
        {"type": "0x00"},
        {"type": "0x1"},
        {"type": "0x2"},
        {"type": "0x3"},
        {"type": "0x4"},
        {"type": "0x0", "status": "0x0"},
        {"type": "0x0", "status": None, "root": "0x" + "5a" * 32},
        {"type": None, "status": None, "root": "0x" + "00" * 32},
        {"type": "0x7e"},
        {"type": "0x7e", "depositNonce": "0x5", "depositReceiptVersion": "0x1"},
        {"type": "0x7E", "depositNonce": "0x0", "depositReceiptVersion": "0x1"},
        {"type": "0x7e", "depositNonce": "0x1234567"},
        {"type": "0x2", "depositNonce": "0x5", "depositReceiptVersion": "0x1"},
    ],
    ids=str,
)
def test_every_known_type_is_hashed_as_it_is(kind: dict[str, Any]) -> None:
    """Legacy with state root or status, the types of EIP-2718, deposits of each OP upgrade.

    A deposit's nonce is told since Regolith and hashed since Canyon, when its version came.
    """
    receipts = [receipt(0, **kind, logs=[log(0)]), receipt(1, logs=[log(1)])]
    found = parse_receipts(receipts, header_of(receipts), CONTRACT)
    assert [(entry["logIndex"], entry["data"]) for entry in found] == [
        ("0x0", "0x0000"),
        ("0x1", "0x0001"),
    ]


@pytest.mark.parametrize("kind", ["0x5", "0x64", "0x7d", "0x7f", "0x100", "0x" + "f" * 64])
def test_an_unknown_type_is_named(kind: str) -> None:
    """It may be hashed in another way, so nothing of its block is believed."""
    honest = [receipt(0), receipt(1)]
    header = header_of(honest)
    with pytest.raises(BadAnswerError, match=rf"type {kind}, .*newer dstack-vpn") as caught:
        parse_receipts([honest[0], {**honest[1], "type": kind}], header, CONTRACT)
    assert caught.value.check == "receipt-type"


def test_a_block_without_transactions_has_no_receipts() -> None:
    """The empty list is proved by the empty root, and by no other."""
    header = Header(block(7), FULL_BLOOM, bytes.fromhex(EMPTY_ROOT))
    assert parse_receipts([], header, CONTRACT) == []
    for root in (bytes(32), header_of([receipt()]).receipts_root):
        with pytest.raises(BadAnswerError) as caught:
            parse_receipts([], replace(header, receipts_root=root), CONTRACT)
        assert caught.value.check == "receipts-root"


def test_a_header_without_a_root_fits_no_receipts() -> None:
    """One that was made without it never passes for a proof."""
    with pytest.raises(BadAnswerError):
        parse_receipts([], Header(block(7), FULL_BLOOM), CONTRACT)


def test_only_the_wanted_logs_come_back() -> None:
    """Those of the contract, and of the events if some are named; a log without topics has none."""
    other = "0x" + "22" * 32
    logs = [
        log(0),
        log(1, address="0x" + "99" * 20),
        log(2, topics=[other]),
        log(3, topics=[]),
        log(4, topics=[other, hex_of(TOPIC)]),
        log(5, address=CONTRACT.upper().replace("0X", "0x")),
    ]
    receipts = [receipt(0, logs=logs[:2]), receipt(1), receipt(2, logs=logs[2:])]

    def indexes(*events: bytes) -> list[int]:
        found = parse_receipts(receipts, header_of(receipts), CONTRACT, events)
        assert all(entry["address"] == CONTRACT for entry in found)
        return [int(entry["logIndex"], 16) for entry in found]

    assert indexes() == [0, 2, 3, 4, 5]
    assert indexes(TOPIC) == [0, 5]
    assert indexes(TOPIC, bytes.fromhex(other[2:])) == [0, 2, 4, 5]


def test_what_a_node_need_not_say_may_be_missing() -> None:
    """Block and removal are implied by what was asked for."""
    bare = log(0)
    for name in ("blockHash", "blockNumber", "removed"):
        del bare[name]
    receipts = [receipt(0, blockHash=None, blockNumber=None, logs=[bare])]
    assert parse_receipts(receipts, header_of(receipts), CONTRACT) == [log(0)]


# Anything


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["0x", "0x0", "0x1", "0x7e", "0x" + "00" * 32, "0x" + "ff" * 20, "0x1\n"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@given(JSON)
def test_garbage_is_a_bad_answer(value: object) -> None:
    """Null, other types and lists of anything are refused, or are a list of nothing."""
    header = header_of([receipt(0, logs=[log(0)])])
    for answer in (value, [value]):
        with pytest.raises(BadAnswerError):
            parse_receipts(answer, header, CONTRACT)


@given(st.data())
def test_a_receipt_with_anything_in_a_field_is_refused_or_no_lie(data: st.DataObject) -> None:
    """Whatever stands in one field: a bad answer, or the same logs as before."""
    receipts = [
        receipt(0, type="0x7e", depositNonce="0x5", depositReceiptVersion="0x1", logs=[log(0)]),
        receipt(1, type="0x0", logs=[log(1), log(2)]),
        receipt(2),
    ]
    header = header_of(receipts)
    honest = parse_receipts(receipts, header, CONTRACT)
    place = data.draw(st.integers(0, 2))
    target = receipts[place]
    if target["logs"] and data.draw(st.booleans()):
        target = target["logs"][0]
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(JSON)
    try:
        found = parse_receipts(receipts, header, CONTRACT)
    except BadAnswerError:
        return
    assert found == honest


@given(st.data())
def test_any_receipts_are_proved_by_their_root(data: st.DataObject) -> None:
    """Whatever their types and logs are, the logs come back as they went in."""
    raw = st.binary(min_size=32, max_size=32).map(hex_of)
    receipts = []
    entries: list[dict[str, Any]] = []
    for place in range(data.draw(st.integers(0, 20))):
        logs = [
            log(
                len(entries) + i,
                topics=data.draw(st.lists(raw, max_size=4)),
                data=hex_of(data.draw(st.binary(max_size=70))),
            )
            for i in range(data.draw(st.integers(0, 3)))
        ]
        kind = data.draw(st.sampled_from(["0x0", "0x1", "0x2", "0x3", "0x4", "0x7E"]))
        more = {"depositNonce": "0x80", "depositReceiptVersion": "0x1"} if kind == "0x7E" else {}
        receipts.append(receipt(place, type=kind, logs=logs, **more))
        entries += logs
    assert parse_receipts(receipts, header_of(receipts), CONTRACT) == entries


@pytest.mark.parametrize("name", ["logs", "topics", "type", "logsBloom", "status", "blockHash"])
def test_depth_is_no_matter(name: str) -> None:
    """Lists in lists in lists are refused, without a recursion as deep as they are."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    receipts = [receipt(0, logs=[log(0)])]
    header = header_of(receipts)
    receipts[0]["logs"][0][name] = receipts[0][name] = deep
    for answer in (receipts, deep):
        with pytest.raises(BadAnswerError):
            parse_receipts(answer, header, CONTRACT)
