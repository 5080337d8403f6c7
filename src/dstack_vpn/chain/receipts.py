"""A block's receipts, believed only when they hash to the receipts root of its header.

Pure. The bloom of a header covers the addresses and topics of the block's logs, but neither their
data nor their number; the receipts root covers all of it. So what ``eth_getLogs`` says of one block
can be held against its receipts: nothing is missing, added or altered then, whoever gave the logs,
as surely as the header is the block's. The price is traffic: the receipts of a whole block.

A receipt is the RLP list of status, gas, bloom and logs, with the byte of its type before it
(EIP-2718); the root is that of a Merkle Patricia trie in which each stands at the RLP of its index
(Ethereum Yellow Paper, 4.4.1 and appendix D). A receipt of an unknown type may be hashed in another
way: then the whole answer is refused, and the message names the type.
"""

from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Any, TypeAlias

from dstack_vpn.chain.header import (
    Header,
    number_bytes,
    parse_bytes,
    parse_quantity,
    rlp_bytes,
    rlp_list,
    rlp_wrap,
)
from dstack_vpn.chain.keccak import keccak256
from dstack_vpn.errors import BadAnswerError
from dstack_vpn.mesh.membership import Address, Block

_LEGACY = 0
_DEPOSIT = 0x7E
"""A transaction that the OP stack derives from the chain below."""
_TYPES = frozenset((_LEGACY, 1, 2, 3, 4, _DEPOSIT))
_MOST_TOPICS = 4

_NOTHING = rlp_bytes(b"")

Log: TypeAlias = dict[str, Any]
"""A log as ``eth_getLogs`` gives it, with those of its fields that root and header bind."""

_Content: TypeAlias = tuple[bytes, list[bytes], bytes]
"""Address, topics and data of a log: what is hashed of it."""


def parse_receipts(
    value: object, header: Header, contract: Address, events: Collection[bytes] = ()
) -> list[Log]:
    """Check the answer of ``eth_getBlockReceipts``; returns the wanted logs in order.

    Whatever parses an answer of ``eth_getLogs`` for this block, contract and events takes them.

    Raises:
        BadAnswerError: not exactly the receipts of this block in their order.
    """
    if not isinstance(value, list):
        raise BadAnswerError("receipts", "an answer that is not a list of receipts")
    address = bytes.fromhex(contract[2:])
    encoded: list[bytes] = []
    found: list[Log] = []
    count = 0
    for place, receipt in enumerate(value):
        if not isinstance(receipt, dict):
            raise BadAnswerError("receipts", "a receipt that is not an object")
        _check_block(receipt, header.block)
        if parse_quantity(receipt.get("transactionIndex")) != place:
            raise BadAnswerError("receipts", f"another receipt in the place of receipt {place}")
        logs = _parse_logs(receipt.get("logs"), header.block, count)
        encoded.append(_encode(receipt, logs))
        for index, log in enumerate(logs, count):
            if log[0] == address and (not events or (log[1] and log[1][0] in events)):
                found.append(_as_json(log, index, header.block))
        count += len(logs)
    if ordered_root(encoded) != header.receipts_root:
        raise BadAnswerError("receipts-root", "receipts that do not fit the header")
    return found


def _check_block(value: dict[Any, Any], block: Block) -> None:
    """Check which block a receipt or log says that it is of, if it says so."""
    claimed = value.get("blockHash")
    if claimed is not None and parse_bytes(claimed, 32).hex() != block.hash[2:]:
        raise BadAnswerError("receipts", "a receipt of another block")
    number = value.get("blockNumber")
    if number is not None and parse_quantity(number) != block.number:
        raise BadAnswerError("receipts", "a receipt of another height")


def _parse_logs(value: object, block: Block, first: int) -> list[_Content]:
    """Check the logs of one receipt, whose indexes in the block go on from the one before."""
    if not isinstance(value, list):
        raise BadAnswerError("receipts", "a receipt without logs")
    logs = []
    for index, log in enumerate(value, first):
        if not isinstance(log, dict):
            raise BadAnswerError("logs", "a log that is not an object")
        _check_block(log, block)
        if parse_quantity(log.get("logIndex")) != index:
            raise BadAnswerError("log-index", f"another log in the place of log {index}")
        logs.append(_parse_content(log))
    return logs


def _parse_content(log: dict[Any, Any]) -> _Content:
    topics = log.get("topics")
    if not isinstance(topics, list) or len(topics) > _MOST_TOPICS:
        raise BadAnswerError("logs", "a log without usable topics")
    return (
        parse_bytes(log.get("address"), 20),
        [parse_bytes(topic, 32) for topic in topics],
        parse_bytes(log.get("data")),
    )


def _as_json(log: _Content, index: int, block: Block) -> Log:
    address, topics, data = log
    return {
        "address": "0x" + address.hex(),
        "topics": ["0x" + topic.hex() for topic in topics],
        "data": "0x" + data.hex(),
        "blockHash": block.hash,
        "blockNumber": hex(block.number),
        "logIndex": hex(index),
        "removed": False,
    }


def _encode(receipt: dict[Any, Any], logs: Sequence[_Content]) -> bytes:
    """A receipt as it is hashed."""
    kind = _LEGACY if receipt.get("type") is None else parse_quantity(receipt["type"])
    if kind not in _TYPES:
        raise BadAnswerError(
            "receipt-type",
            f"a receipt of type {kind:#x}, which this version does not know:"
            " if the chain was upgraded, a newer dstack-vpn is needed",
        )
    if receipt.get("status") is not None:
        outcome = number_bytes(parse_quantity(receipt["status"]))
    else:  # Before EIP-658 (Byzantium) it was the root of the state.
        outcome = parse_bytes(receipt.get("root"), 32)
    items = [
        rlp_bytes(outcome),
        rlp_bytes(_number(receipt, "cumulativeGasUsed")),
        rlp_bytes(parse_bytes(receipt.get("logsBloom"), 256)),
        rlp_wrap(map(_encode_log, logs)),
    ]
    # The OP stack has told the nonce of a deposit since its upgrade Regolith, and has hashed it
    # since Canyon, which is when the version came.
    if kind == _DEPOSIT and receipt.get("depositReceiptVersion") is not None:
        items.append(rlp_bytes(_number(receipt, "depositNonce")))
        items.append(rlp_bytes(_number(receipt, "depositReceiptVersion")))
    return (b"" if kind == _LEGACY else bytes([kind])) + rlp_wrap(items)


def _encode_log(log: _Content) -> bytes:
    address, topics, data = log
    return rlp_wrap((rlp_bytes(address), rlp_list(topics), rlp_bytes(data)))


def _number(receipt: dict[Any, Any], name: str) -> bytes:
    return number_bytes(parse_quantity(receipt.get(name)))


def ordered_root(values: Sequence[bytes]) -> bytes:
    """The root of the Merkle Patricia trie with each value at the RLP of its index."""
    if not values:
        return keccak256(_NOTHING)
    leaves = [(rlp_bytes(number_bytes(i)).hex(), value) for i, value in enumerate(values)]
    return keccak256(_node(sorted(leaves), 0))


def _node(leaves: Sequence[tuple[str, bytes]], depth: int) -> bytes:
    """Encode the node of those leaves whose keys are the same up to a depth.

    Keys are hex digits in order, of which none begins another: so a branch never has a value of its
    own. The calls go no deeper than a key has digits, twice.
    """
    first, last = leaves[0][0], leaves[-1][0]
    if len(leaves) == 1:
        return rlp_list((_path(first[depth:], leaf=True), leaves[0][1]))
    fork = depth
    while first[fork] == last[fork]:
        fork += 1
    if fork > depth:
        return rlp_wrap((rlp_bytes(_path(first[depth:fork])), _reference(_node(leaves, fork))))
    slots = [_NOTHING] * 17
    for digit, group in groupby(leaves, lambda leaf: leaf[0][depth]):
        slots[int(digit, 16)] = _reference(_node(list(group), depth + 1))
    return rlp_wrap(slots)


def _path(digits: str, *, leaf: bool = False) -> bytes:
    """Hex digits as bytes, after a digit that says whether a leaf ends there and they are odd."""
    flags = 2 * leaf + len(digits) % 2
    return bytes.fromhex(f"{flags}{digits}" if flags % 2 else f"{flags}0{digits}")


def _reference(node: bytes) -> bytes:
    """How a node stands in its parent: as it is when that is shorter than its hash."""
    return node if len(node) < 32 else rlp_bytes(keccak256(node))
