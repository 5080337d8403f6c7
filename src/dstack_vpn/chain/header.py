"""Block headers as JSON-RPC gives them, believed only when their hash fits.

Pure. A block's hash is keccak-256 over the RLP list of the header's fields ("Ethereum Wire
Protocol" of devp2p for the list and RLP; EIP-1559, 4895, 4844, 4788 and 7685 for the fields that
came later, all of which Base and the OP stack have too). A field that a later fork adds to the hash
makes the hash differ here: such a header is refused, and the message names the unknown fields.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dstack_vpn.chain.keccak import keccak256
from dstack_vpn.errors import BadAnswerError
from dstack_vpn.mesh.membership import Block, BlockHash

_QUANTITY = re.compile(r"0x[0-9a-fA-F]{1,64}")

# Field and its length in bytes; None is a number, -1 is bytes of any length.
_FIELDS: tuple[tuple[str, int | None], ...] = (
    ("parentHash", 32),
    ("sha3Uncles", 32),
    ("miner", 20),
    ("stateRoot", 32),
    ("transactionsRoot", 32),
    ("receiptsRoot", 32),
    ("logsBloom", 256),
    ("difficulty", None),
    ("number", None),
    ("gasLimit", None),
    ("gasUsed", None),
    ("timestamp", None),
    ("extraData", -1),
    ("mixHash", 32),
    ("nonce", 8),
)
_LATER_FIELDS: tuple[tuple[str, int | None], ...] = (
    ("baseFeePerGas", None),
    ("withdrawalsRoot", 32),
    ("blobGasUsed", None),
    ("excessBlobGas", None),
    ("parentBeaconBlockRoot", 32),
    ("requestsHash", 32),
)
_NOT_HASHED = frozenset(
    ("hash", "size", "totalDifficulty", "transactions", "uncles", "withdrawals")
)
_KNOWN = _NOT_HASHED | {name for name, _ in _FIELDS + _LATER_FIELDS}


@dataclass(frozen=True, slots=True)
class Header:
    """A header that fits its hash."""

    block: Block
    bloom: bytes
    """256 bytes: which addresses and topics the block's logs may have."""
    receipts_root: bytes = bytes(32)
    """32 bytes: what the block's receipts hash to; all zeroes, as by default, fit no receipts."""


def parse_header(value: object, *, number: int | None = None) -> Header:
    """Check a block as ``eth_getBlockBy*`` or a ``newHeads`` notification gives it.

    Args:
        value: the JSON object.
        number: height that was asked for, if one was.

    Raises:
        BadAnswerError: null, malformed, of another height, or its hash does not fit.
    """
    if value is None:
        raise BadAnswerError("header", "no block")
    if not isinstance(value, Mapping):
        raise BadAnswerError("header", "a block that is not an object")
    fields: list[bytes] = []
    for name, length in _FIELDS:
        fields.append(_field(value, name, length))
    for name, length in _LATER_FIELDS:
        if value.get(name) is not None:
            fields.append(_field(value, name, length))
    claimed = parse_bytes(value.get("hash"), 32)
    if keccak256(rlp_list(fields)) != claimed:
        raise BadAnswerError("header-hash", "a header whose hash does not fit" + _unknown(value))
    block = Block(
        number=parse_quantity(value["number"]),
        hash=BlockHash("0x" + claimed.hex()),
        parent_hash=BlockHash("0x" + fields[0].hex()),
        timestamp=parse_quantity(value["timestamp"]),
    )
    if number is not None and block.number != number:
        raise BadAnswerError("header-number", f"block {block.number} for block {number}")
    return Header(block, bloom=fields[6], receipts_root=fields[5])


def _field(value: Mapping[Any, Any], name: str, length: int | None) -> bytes:
    try:
        if length is None:
            return number_bytes(parse_quantity(value.get(name)))
        return parse_bytes(value.get(name), None if length < 0 else length)
    except BadAnswerError:
        raise BadAnswerError("header", f"a header without a usable {name}") from None


def _unknown(value: Mapping[Any, Any]) -> str:
    names = sorted(str(n)[:40] for n in value.keys() - _KNOWN)
    if not names:
        return ""
    return (
        f"; it has fields that this version does not know ({', '.join(names[:5])}):"
        " if the chain was upgraded, a newer dstack-vpn is needed"
    )


def parse_quantity(value: object) -> int:
    """Parse a JSON-RPC quantity such as ``0x1b4`` (leading zeroes are let through).

    Raises:
        BadAnswerError: not one, or above 256 bits.
    """
    if not isinstance(value, str) or not _QUANTITY.fullmatch(value):
        raise BadAnswerError("quantity", "something that is not a number")
    return int(value, 16)


def parse_bytes(value: object, length: int | None = None) -> bytes:
    """Parse JSON-RPC data such as ``0x00ff``.

    Raises:
        BadAnswerError: not data, or not of the given length.
    """
    if not isinstance(value, str) or not value.startswith("0x"):
        raise BadAnswerError("data", "something that is not hex data")
    try:
        data = bytes.fromhex(value[2:])
    except ValueError:
        data = b""
    # fromhex also takes spaces; a pattern would be far slower on an answer of megabytes.
    if len(value) != 2 + 2 * len(data):
        raise BadAnswerError("data", "something that is not hex data")
    if length is not None and len(data) != length:
        raise BadAnswerError("data", f"{len(data)} bytes where {length} belong")
    return data


def number_bytes(number: int) -> bytes:
    """A number as RLP takes it: big-endian without leading zeroes, so zero is empty."""
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def rlp_list(items: Iterable[bytes]) -> bytes:
    """Encode a flat list of byte strings (RLP, Ethereum Yellow Paper, appendix B)."""
    return rlp_wrap(map(rlp_bytes, items))


def rlp_wrap(encoded: Iterable[bytes]) -> bytes:
    """Encode a list of items that are encoded already: lists in lists are built from within."""
    payload = b"".join(encoded)
    return _rlp_prefix(len(payload), 0xC0) + payload


def rlp_bytes(item: bytes) -> bytes:
    """Encode a byte string."""
    if len(item) == 1 and item[0] < 0x80:
        return item
    return _rlp_prefix(len(item), 0x80) + item


def _rlp_prefix(length: int, offset: int) -> bytes:
    if length < 56:
        return bytes([offset + length])
    size = number_bytes(length)
    return bytes([offset + 55 + len(size)]) + size


def in_bloom(bloom: bytes, *items: bytes) -> bool:
    """Whether a logs bloom may contain all of the addresses and topics (Yellow Paper, 4.4.3).

    False is certain; True may be chance.
    """
    bits = int.from_bytes(bloom, "big")
    for item in items:
        digest = keccak256(item)
        for i in (0, 2, 4):
            if not bits >> (int.from_bytes(digest[i : i + 2], "big") & 2047) & 1:
                return False
    return True


def bloom_chance(bloom: bytes, items: int) -> float:
    """How likely so many addresses and topics that are not in a logs bloom all seem to be.

    Each sets three of the 2048 bits, so it is the share of bits that are set, three times over for
    each of them.
    """
    share = int.from_bytes(bloom, "big").bit_count() / 2048
    return float(share ** (3 * items))
