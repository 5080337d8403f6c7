"""The published interface: events and views decoded strictly, keys made bytes once."""

import base64
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from chain.samples import HOLDER, texts, word, word32
from dstack_vpn.chain import published
from dstack_vpn.chain.published import (
    NOBODY,
    Access,
    Granted,
    KeyUpdated,
    Moved,
    Revoked,
    decode_access,
    decode_event,
    decode_owner,
    key_of,
)
from dstack_vpn.errors import BadAnswerError
from dstack_vpn.mesh.membership import ZERO_KEY, Address

OTHER = Address("0x" + "b2" * 20)
KEY = base64.b64encode(b"k" * 32).decode()


def topic(signature: str) -> bytes:
    return keccak(text=signature)


def padded(address: str) -> bytes:
    return bytes(12) + bytes.fromhex(address[2:])


GRANTED = topic("NodeAccessGranted(uint256,string,address,string)")
REVOKED = topic("NodeAccessRevoked(uint256,string)")
UPDATED = topic("PublicKeyUpdated(address,string)")
MOVED = topic("NodeAccessTransferred(uint256,address,address)")
TRANSFER = topic("Transfer(address,address,uint256)")


def test_every_event_of_the_interface_is_decoded() -> None:
    """Each event that access rests on, as an independent encoder writes it."""
    texts_of = encode(["string", "string"], ["a", KEY])
    assert decode_event([GRANTED, word(7), padded(HOLDER)], texts_of) == Granted(
        7, "a", HOLDER, b"k" * 32
    )
    assert decode_event([REVOKED, word(7)], encode(["string"], ["a"])) == Revoked(7, "a")
    assert decode_event([UPDATED, padded(HOLDER)], encode(["string"], [KEY])) == KeyUpdated(
        HOLDER, b"k" * 32
    )
    moved = Moved(7, HOLDER, OTHER)
    assert decode_event([MOVED, word(7), padded(HOLDER), padded(OTHER)], b"") == moved
    assert decode_event([TRANSFER, padded(HOLDER), padded(OTHER), word(7)], b"") == moved


def test_a_mint_hands_nothing_over() -> None:
    """A `Transfer` from nobody is a mint, one to nobody is not."""
    assert Moved(1, NOBODY, HOLDER).mint
    assert not Moved(1, HOLDER, NOBODY).mint
    assert not Moved(1, HOLDER, HOLDER).mint


def test_events_of_another_kind_are_passed_over() -> None:
    """Approvals, anonymous logs and whatever else the contract may log are no events here."""
    assert decode_event([topic("Approval(address,address,uint256)"), *[word(1)] * 3], b"") is None
    assert decode_event([], b"x") is None


MALFORMED: dict[str, tuple[list[bytes], bytes]] = {
    "a topic too few": ([GRANTED, word(7)], encode(["string", "string"], ["a", KEY])),
    "a topic too many": ([REVOKED, word(7), word(7)], encode(["string"], ["a"])),
    "a text too few": ([GRANTED, word(7), padded(HOLDER)], encode(["string"], ["a"])),
    "a byte too many": ([REVOKED, word(7)], encode(["string"], ["a"]) + b"\0"),
    "an offset elsewhere": ([REVOKED, word(7)], word(64) + word(0) + word(0)),
    "a length beyond the end": ([UPDATED, padded(HOLDER)], word(32) + word(2**200)),
    "padding": ([UPDATED, padded(HOLDER)], word(32) + word(1) + b"ab" + bytes(30)),
    "an address of 21 bytes": ([UPDATED, word(1 << 160)], encode(["string"], [KEY])),
    "a transfer with its token in the data": ([TRANSFER, padded(HOLDER), padded(OTHER)], word(7)),
    "a transfer with data": ([MOVED, word(7), padded(HOLDER), padded(OTHER)], word(7)),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_event_is_refused(name: str) -> None:
    """An event of the interface in a form that no compiler writes is an error, not another one."""
    with pytest.raises(BadAnswerError) as refused:
        decode_event(*MALFORMED[name])
    assert refused.value.check == "abi"


@given(node_id=texts, key=texts, created=st.integers(0, 2**256 - 1), active=st.booleans())
def test_access_is_read_back(node_id: str, key: str, created: int, *, active: bool) -> None:
    """Whatever texts a contract holds; a time beyond all clocks is the last time there is."""
    data = encode(["string", "string", "uint256", "bool"], [node_id, key, created, active])
    expected = Access(node_id, key_of(key), min(created, 2**64 - 1), active)
    assert decode_access(data) == expected


@given(st.binary(max_size=300), st.integers(0, 300))
def test_no_bytes_break_the_decoder(noise: bytes, cut: int) -> None:
    """Garbage, and a good answer that is cut short, are refused with the error of the module."""
    good = encode(["string", "string", "uint256", "bool"], ["a", KEY, 1, True])
    for data in (noise, good[: min(cut, len(good) - 1)]):
        with pytest.raises(BadAnswerError):
            decode_access(data)


def test_a_node_id_of_a_megabyte_is_only_text() -> None:
    """Requirement 37: size and control characters neither break decoding nor become a key."""
    hostile = "\0\n\u202e" + "x" * 2**20
    data = encode(["string", "string", "uint256", "bool"], [hostile, hostile, 1, True])
    access = decode_access(data)
    assert access.node_id == hostile
    assert len(access.key) == 33


def test_the_owner_is_one_address() -> None:
    """Another length, or more bits than an address has, is refused."""
    assert decode_owner(padded(HOLDER)) == HOLDER
    wrong: list[Any] = [b"", padded(HOLDER) + b"\0", word(1 << 160)]
    for data in wrong:
        with pytest.raises(BadAnswerError):
            decode_owner(data)


@given(word32.filter(any))
def test_a_key_is_its_bytes(raw: bytes) -> None:
    """Requirement 36: only the canonical text of a key is that key, its aliases are none."""
    text = base64.b64encode(raw).decode()
    assert key_of(text) == raw
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    spare = last.index(text[42]) & ~3
    aliases = [text[:42] + last[spare + i] + "=" for i in range(4)]
    keys = [key_of(alias) for alias in aliases]
    assert sum(key == raw for key in keys) == 1
    assert len(set(keys)) == 4


@pytest.mark.parametrize(
    "text", ["x", " ", KEY + " ", KEY[:-1], "ü" * 44, base64.b64encode(bytes(32)).decode()]
)
def test_what_is_no_key_can_never_equal_one(text: str) -> None:
    """It has 33 bytes, so that it is neither a key nor none; the text of zeroes too."""
    key = key_of(text)
    assert len(key) == 33
    assert key != ZERO_KEY
    assert key == key_of(text) != key_of(text + "x")


def test_no_text_is_no_key() -> None:
    """The empty text is the absence of a key."""
    assert key_of("") == ZERO_KEY


def test_topics_are_those_of_the_signatures() -> None:
    """The constants are keccak-256 of the published signatures, by another library."""
    ours = {published.GRANTED, published.REVOKED, published.KEY_UPDATED, published.TRANSFERRED}
    assert ours | {published.TRANSFER} == {GRANTED, REVOKED, UPDATED, MOVED, TRANSFER}
