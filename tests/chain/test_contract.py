"""The hand-written decoder against eth-abi, and against hostile bytes."""

import contextlib
import json
from dataclasses import replace
from importlib.resources import files
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.samples import (
    BYTES_TYPE,
    CHAIN_ID,
    CONTRACT,
    TOPIC,
    as_tuple,
    encode_node,
    encode_page,
    history_after,
    node,
    nodes,
    texts,
    word,
)
from dstack_vpn.chain import contract as abi
from dstack_vpn.errors import BadAnswerError
from dstack_vpn.mesh.membership import Node


def artifact() -> list[dict[str, Any]]:
    text = files("dstack_vpn.chain.abi").joinpath("DstackAccessNFT.json").read_text()
    loaded: list[dict[str, Any]] = json.loads(text)["abi"]
    return loaded


def signature(item: dict[str, Any]) -> str:
    def kind(value: dict[str, Any]) -> str:
        if not value["type"].startswith("tuple"):
            return str(value["type"])
        inner = ",".join(kind(part) for part in value["components"])
        return f"({inner}){value['type'][5:]}"

    return f"{item['name']}({','.join(kind(value) for value in item['inputs'])})"


def test_selectors_and_topic_are_those_of_the_shipped_interface() -> None:
    """Every call and the event exist in the artifact with the very same signature."""
    selectors = {keccak(text=signature(i))[:4] for i in artifact() if i["type"] == "function"}
    topics = {keccak(text=signature(i)) for i in artifact() if i["type"] == "event"}
    ours = (
        abi.CALL_CHECKPOINT,
        abi.CALL_NEXT_TOKEN_ID,
        abi.call_get_nodes(1, 2),
        abi.call_hash_nodes(1, 2),
    )
    assert {call[:4] for call in ours} <= selectors
    assert abi.NODE_CHANGED in topics
    assert abi.call_get_nodes(1, 500)[4:] == encode(["uint256", "uint256"], [1, 500])


@given(st.lists(st.one_of(st.none(), nodes()), max_size=5))
@settings(deadline=None)
def test_pages_decode_as_eth_abi_encodes_them(page: list[Node | None]) -> None:
    """Whatever eth-abi encodes comes back as the same nodes, in the right places only."""
    first = 1000
    placed = [None if n is None else node_at(n, first + i) for i, n in enumerate(page)]
    assert abi.decode_page(encode_page(placed), first=first, since_block=7) == placed


def node_at(shown: Node, token_id: int) -> Node:
    return replace(shown, token_id=token_id)


@given(nodes(), st.integers(1, 2**64 - 1))
@settings(deadline=None)
def test_changes_decode_and_hash_as_the_contract_does(shown: Node, revision: int) -> None:
    """The body of a log is what goes into the history, byte for byte."""
    topics = [TOPIC, word(revision), word(shown.token_id)]
    change = abi.decode_node_changed(topics, encode_node(shown), block_number=7)
    assert (change.revision, change.token_id, change.node) == (revision, shown.token_id, shown)
    expected = history_after(b"h" * 32, revision, 7, shown)
    assert change.history_after(b"h" * 32, 7) == expected


def test_a_burn_is_a_change_without_a_node() -> None:
    """An all-zero body decodes to None and still hashes as the contract hashes it."""
    change = abi.decode_node_changed([TOPIC, word(3), word(9)], encode_node(None), block_number=5)
    assert change.node is None
    assert change.history_after(bytes(32), 5) == history_after(bytes(32), 3, 5, None)


def test_the_zero_node_is_that_of_eth_abi() -> None:
    """The constant is the real encoding."""
    assert encode_node(None) == word(32) + abi.ZERO_NODE


@given(
    nodes(token_id=1),
    st.integers(0, 2000),
    st.integers(0, 255),
)
@settings(deadline=None, max_examples=400)
def test_a_changed_byte_is_refused_or_is_another_node(
    shown: Node, position: int, value: int
) -> None:
    """No two encodings give one value: what is accepted encodes back to the very same bytes."""
    body = bytearray(encode_node(shown))
    body[position % len(body)] = value
    try:
        change = abi.decode_node_changed([TOPIC, word(1), word(1)], bytes(body), block_number=7)
    except BadAnswerError:
        return
    again = change.node
    page = abi.encode_page([again])
    assert page[3 * 32 :] == bytes(body)[32:]


@given(st.lists(st.one_of(st.none(), nodes()), max_size=5))
@settings(deadline=None)
def test_pages_are_encoded_as_eth_abi_does(page: list[Node | None]) -> None:
    """So a digest can be compared with what a contract would return."""
    assert abi.encode_page(page) == encode_page(page)


@given(st.binary(max_size=1500))
@settings(deadline=None, max_examples=300)
def test_garbage_is_never_more_than_a_bad_answer(data: bytes) -> None:
    """No bytes make the decoders do anything but decode or refuse."""
    for decode in (
        abi.decode_checkpoint,
        abi.decode_uint,
        abi.decode_hash,
        lambda d: abi.decode_page(d, first=1, since_block=0),
        lambda d: abi.decode_node_changed([TOPIC, word(1), word(1)], d, block_number=1),
    ):
        with contextlib.suppress(BadAnswerError):
            decode(data)


@given(st.lists(st.integers(0, 2**256 - 1) | st.integers(0, 700), max_size=40))
@settings(deadline=None, max_examples=300)
def test_plausible_words_are_never_more_than_a_bad_answer(words: list[int]) -> None:
    """The same for words that look like offsets, lengths and counts."""
    data = b"".join(map(word, words))
    for body in (data, word(32) + data, word(32) + word(1) + word(32) + data):
        for decode in (
            lambda d: abi.decode_page(d, first=1, since_block=0),
            lambda d: abi.decode_node_changed([TOPIC, word(1), word(1)], d, block_number=1),
        ):
            with contextlib.suppress(BadAnswerError):
                decode(body)


@pytest.mark.parametrize(
    "data",
    [
        word(32) + word(2**256 - 1),
        word(32) + word(2**64) + word(0) * 20,
        word(32) + word(3) + word(96) * 3 + abi.ZERO_NODE,  # three entries share one node
        word(64) + word(0) + word(0),
        encode_page([node(1)]) + word(0),
        encode_page([node(2)]),  # in the place of token 1
        b"",
    ],
)
def test_lies_about_lists_are_refused(data: bytes) -> None:
    """Counts, offsets and places that do not fit, and trailing bytes, are refused."""
    with pytest.raises(BadAnswerError):
        abi.decode_page(data, first=1, since_block=0)


def hostile(raw: bytes) -> str:
    """The node id that the decoder makes of raw bytes."""
    values = list(as_tuple(node(1)))
    values[2] = raw
    data = encode([BYTES_TYPE], [tuple(values)])
    decoded = abi.decode_node_changed([TOPIC, word(1), word(1)], data, block_number=1).node
    assert decoded is not None
    return decoded.node_id


@given(st.binary(max_size=64), st.binary(max_size=64))
@settings(deadline=None)
def test_different_bytes_stay_different_texts(one: bytes, other: bytes) -> None:
    """No two strings of the chain become one here, and each can be written as UTF-8."""
    assert (hostile(one) == hostile(other)) == (one == other)
    hostile(one).encode()


def test_bytes_that_are_no_text_become_harmless() -> None:
    """Invalid UTF-8 turns to hex behind U+FFFD; so does a text that imitates that."""
    assert hostile(b"\xff\xfe") == "\ufffdfffe"
    assert hostile("\ufffdfffe".encode()) == "\ufffd" + "\ufffdfffe".encode().hex()
    assert hostile(b"a\x00\n") == "a\x00\n"
    assert hostile(b"") == ""


def test_a_text_of_a_megabyte_decodes() -> None:
    """Length alone breaks nothing; judging it is for others."""
    assert hostile(b"x" * 1_000_000) == "x" * 1_000_000


@given(texts)
def test_a_plain_text_is_left_alone(text: str) -> None:
    """What is valid UTF-8 comes out as it is."""
    assert hostile(text.encode()) == text


def test_the_seed_is_the_contracts_own() -> None:
    """keccak256(abi.encode(block.chainid, address))."""
    start = abi.seed(CHAIN_ID, CONTRACT)
    assert start.history == keccak(encode(["uint256", "address"], [CHAIN_ID, CONTRACT]))
    assert (start.revision, start.member_count) == (0, 0)


def test_checkpoints_decode() -> None:
    """Three words, each in range."""
    data = encode(["uint64", "bytes32", "uint256"], [9, b"h" * 32, 4])
    decoded = abi.decode_checkpoint(data)
    assert (decoded.revision, decoded.history, decoded.member_count) == (9, b"h" * 32, 4)
    for wrong in (b"", data[:-1], data + b"\0", word(2**64) + data[32:]):
        with pytest.raises(BadAnswerError):
            abi.decode_checkpoint(wrong)
