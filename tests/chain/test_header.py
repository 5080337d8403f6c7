"""Headers are believed only when their hash fits."""

import random
from typing import Any

import pytest
import rlp  # type: ignore[import-untyped]
from eth_utils.crypto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.samples import hex_of
from dstack_vpn.chain import header as module
from dstack_vpn.chain.header import (
    bloom_chance,
    in_bloom,
    parse_bytes,
    parse_header,
    parse_quantity,
    rlp_bytes,
    rlp_list,
    rlp_wrap,
)
from dstack_vpn.errors import BadAnswerError

EMPTY_ROOT = "0x56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421"

# Block 0 of Ethereum's main network, whose hash is widely known.
MAINNET_GENESIS: dict[str, Any] = {
    "hash": "0xd4e56740f876aef8c010b86a40d5f56745a118d0906a34e69aec8c0db1cb8fa3",
    "parentHash": "0x" + "00" * 32,
    "sha3Uncles": "0x1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347",
    "miner": "0x" + "00" * 20,
    "stateRoot": "0xd7f8974fb5ac78d9ac099b9ad5018bedc2ce0a72dad1827a1709da30580f0544",
    "transactionsRoot": EMPTY_ROOT,
    "receiptsRoot": EMPTY_ROOT,
    "logsBloom": "0x" + "00" * 256,
    "difficulty": "0x400000000",
    "number": "0x0",
    "gasLimit": "0x1388",
    "gasUsed": "0x0",
    "timestamp": "0x0",
    "extraData": "0x11bbe8db4e347b4e8c937c1c8370e4b5ed33adb3db69cbdb7a38e1e50b1b82fa",
    "mixHash": "0x" + "00" * 32,
    "nonce": "0x0000000000000042",
    "totalDifficulty": "0x400000000",
    "size": "0x21c",
    "transactions": [],
    "uncles": [],
}


def modern(**changes: Any) -> dict[str, Any]:
    """A header with all fields up to Prague, its hash by another RLP library."""
    fields = {
        **MAINNET_GENESIS,
        "number": "0x7b",
        "timestamp": "0x65000000",
        "difficulty": "0x0",
        "baseFeePerGas": "0x3b9aca00",
        "withdrawalsRoot": EMPTY_ROOT,
        "blobGasUsed": "0x0",
        "excessBlobGas": "0x20000",
        "parentBeaconBlockRoot": "0x" + "0b" * 32,
        "requestsHash": "0x" + "e3" * 32,
        **changes,
    }
    items = []
    for name, length in module._FIELDS + module._LATER_FIELDS:
        if name not in fields:
            continue
        text = fields[name]
        items.append(int(text, 16) if length is None else bytes.fromhex(text[2:]))
    sedes = [rlp.sedes.big_endian_int if isinstance(i, int) else rlp.sedes.binary for i in items]
    fields["hash"] = hex_of(keccak(rlp.encode(items, rlp.sedes.List(sedes))))
    return fields


def test_a_famous_header_fits_its_hash() -> None:
    """The genesis block of Ethereum passes and gives its fields."""
    found = parse_header(MAINNET_GENESIS, number=0).block
    assert found.hash == MAINNET_GENESIS["hash"]
    assert (found.number, found.timestamp) == (0, 0)


def test_a_header_of_today_fits_its_hash() -> None:
    """All fields of the later forks go into the hash, in their order."""
    found = parse_header(modern())
    assert (found.block.number, found.block.timestamp) == (0x7B, 0x65000000)


def test_a_header_gives_what_its_logs_and_receipts_must_fit() -> None:
    """Bloom and receipts root are those that the hash covers."""
    found = parse_header(modern(logsBloom="0x" + "a5" * 256, receiptsRoot="0x" + "5a" * 32))
    assert found.bloom == b"\xa5" * 256
    assert found.receipts_root == b"\x5a" * 32


HASHED = [name for name, _ in module._FIELDS + module._LATER_FIELDS]


@pytest.mark.parametrize("name", HASHED)
def test_no_field_can_be_altered_or_left_out(name: str) -> None:
    """Each field of the header is bound by the hash."""
    honest = modern()
    altered = dict(honest)
    text = altered[name]
    altered[name] = text[:-1] + ("1" if text[-1] != "1" else "2")
    with pytest.raises(BadAnswerError) as caught:
        parse_header(altered)
    assert caught.value.check == "header-hash"
    missing = dict(honest)
    del missing[name]
    with pytest.raises(BadAnswerError):
        parse_header(missing)


def test_an_unknown_field_of_the_hash_is_named() -> None:
    """A header of a later fork is refused with a hint at the upgrade, never half-checked."""
    later = modern()
    later["hash"] = "0x" + "ab" * 32
    later["blockAccessListHash"] = "0x" + "01" * 32
    with pytest.raises(BadAnswerError, match=r"blockAccessListHash.*newer dstack-vpn"):
        parse_header(later)


def test_an_unknown_field_outside_of_the_hash_is_no_matter() -> None:
    """Extra fields that the hash does not need are common and harmless."""
    assert parse_header({**modern(), "l1BlockNumber": "0x1"}).block.number == 0x7B


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "0x",
        5,
        {},
        {"hash": "0x00"},
        {**modern(), "hash": None},
        {**modern(), "number": 7},
    ],
)
def test_what_is_no_block_is_refused(value: object) -> None:
    """Null, other types and missing parts are bad answers."""
    with pytest.raises(BadAnswerError):
        parse_header(value)


def test_another_height_is_refused() -> None:
    """A genuine header of another height is no answer."""
    with pytest.raises(BadAnswerError) as caught:
        parse_header(modern(), number=0x7C)
    assert caught.value.check == "header-number"


@given(st.lists(st.binary(max_size=80) | st.binary(min_size=250, max_size=300), max_size=12))
@settings(deadline=None)
def test_rlp_is_that_of_the_library(items: list[bytes]) -> None:
    """Our small encoder equals the reference."""
    assert rlp_list(items) == rlp.encode(items)


NESTED = st.recursive(
    st.binary(max_size=60), lambda inner: st.lists(inner, max_size=6), max_leaves=30
)


@given(NESTED)
@settings(deadline=None)
def test_rlp_of_lists_in_lists_is_that_of_the_library(value: Any) -> None:
    """Built from within, a nested list equals the reference."""

    def encoded(item: Any) -> bytes:
        return rlp_bytes(item) if isinstance(item, bytes) else rlp_wrap(map(encoded, item))

    assert encoded(value) == rlp.encode(value)


@pytest.mark.parametrize("text", ["", "0x", "1", "0xg", " 0x1", "0x1 ", "0x" + "f" * 65, "-0x1"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    """Only 0x and hex digits of at most 256 bits."""
    with pytest.raises(BadAnswerError):
        parse_quantity(text)


@pytest.mark.parametrize("text", ["", "00", "0x0", "0x0g", "0x00 01", "0x 00", None, 5, b"0x00"])
def test_what_is_no_data_is_refused(text: object) -> None:
    """Only 0x and pairs of hex digits, without the spaces that Python would let through."""
    with pytest.raises(BadAnswerError):
        parse_bytes(text)


def bloom_of(items: list[bytes]) -> bytes:
    """Built by the definition of the Yellow Paper, bit by bit."""
    bloom = bytearray(256)
    for item in items:
        digest = keccak(item)
        for pair in (digest[0:2], digest[2:4], digest[4:6]):
            bit = int.from_bytes(pair, "big") % 2048
            bloom[255 - bit // 8] |= 1 << (bit % 8)
    return bytes(bloom)


@given(st.lists(st.binary(min_size=20, max_size=32), min_size=1, max_size=6))
def test_a_bloom_holds_what_was_put_in(items: list[bytes]) -> None:
    """What a log has is never excluded."""
    assert in_bloom(bloom_of(items), *items)


@pytest.mark.parametrize(
    ("bloom", "items", "chance"),
    [
        (bytes(256), 1, 0.0),
        (b"\xff" * 256, 2, 1.0),
        (b"\x0f" * 256, 1, 1 / 8),
        (b"\x0f" * 256, 2, 1 / 64),
        (b"\x01" * 256, 1, 1 / 512),
        (bytes(256), 0, 1.0),
    ],
)
def test_the_chance_of_a_bloom_is_its_share_of_bits(
    bloom: bytes, items: int, chance: float
) -> None:
    """A full bloom excludes nothing, an empty one all; half of the bits pass one item in eight."""
    assert bloom_chance(bloom, items) == chance


def test_the_chance_of_a_bloom_is_what_happens() -> None:
    """As many strangers pass a crowded bloom as the chance says."""
    source = random.Random(1)
    bloom = bloom_of([source.randbytes(32) for _ in range(900)])
    passed = sum(in_bloom(bloom, source.randbytes(20)) for _ in range(5000))
    assert passed / 5000 == pytest.approx(bloom_chance(bloom, 1), abs=0.03)
