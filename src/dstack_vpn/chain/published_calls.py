"""What is asked of a provider about a contract with only the published interface.

Pure. Like `calls`, and each answer is checked for its place; what the logs and views say is decoded
by `published`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from dstack_vpn.chain import calls
from dstack_vpn.chain.calls import Call, Refusal
from dstack_vpn.chain.contract import encode_call
from dstack_vpn.chain.header import Header, in_bloom, parse_bytes, parse_quantity
from dstack_vpn.chain.published import (
    Access,
    Placed,
    Position,
    decode_access,
    decode_event,
    decode_owner,
)
from dstack_vpn.chain.receipts import parse_receipts
from dstack_vpn.errors import BadAnswerError
from dstack_vpn.mesh.membership import Address, Block, BlockHash

_REVERTS = (3, -32015)
"""Codes of a call that the contract refused: what most nodes give, and Nethermind and Parity."""


@dataclass(frozen=True, slots=True)
class Log:
    """A log of the contract, in its place."""

    block: int
    block_hash: BlockHash
    index: int
    topics: tuple[bytes, ...]
    data: bytes


def events_of(logs: Sequence[Log]) -> list[Placed]:
    """The events of the interface among the logs, in the same order.

    Raises:
        BadAnswerError: one that is malformed.
    """
    decoded = ((log, decode_event(log.topics, log.data)) for log in logs)
    return [Placed(Position(log.block, log.index), event) for log, event in decoded if event]


def parse_logs(value: object, *, header: Header, contract: Address) -> list[Log]:
    """Check the answer of ``eth_getLogs`` for one block hash and the contract.

    Raises:
        BadAnswerError: not a list of logs that this block of this contract can have.
    """
    block = header.block
    logs = parse_range(value, first=block.number, last=block.number, contract=contract)
    if logs and not may_concern(header, contract):
        raise BadAnswerError("bloom", "logs in a block whose bloom excludes them")
    if any(log.block_hash != block.hash for log in logs):
        raise BadAnswerError("log-block", "a log of another block")
    return logs


def parse_range(value: object, *, first: int, last: int, contract: Address) -> list[Log]:
    """Check the answer of ``eth_getLogs`` for a range of blocks and the contract.

    Raises:
        BadAnswerError: not a list of logs that these blocks of one chain can have.
    """
    if not isinstance(value, list):
        raise BadAnswerError("logs", "an answer that is not a list of logs")
    logs: list[Log] = []
    for item in value:
        log = _parse_log(item, contract)
        if not first <= log.block <= last:
            raise BadAnswerError("log-block", f"a log of block {log.block}, outside of the range")
        if logs and (log.block, log.index) <= (logs[-1].block, logs[-1].index):
            raise BadAnswerError("log-index", "logs out of order")
        if logs and log.block == logs[-1].block and log.block_hash != logs[-1].block_hash:
            raise BadAnswerError("log-block", f"logs of two blocks with the number {log.block}")
        logs.append(log)
    return logs


def _parse_log(log: object, contract: Address) -> Log:
    if not isinstance(log, dict):
        raise BadAnswerError("logs", "a log that is not an object")
    if log.get("removed") not in (None, False):
        raise BadAnswerError("log-removed", "a log that was removed")
    if parse_bytes(log.get("address"), 20).hex() != contract[2:]:
        raise BadAnswerError("log-address", "a log of another contract")
    topics = log.get("topics")
    if not isinstance(topics, list) or len(topics) > 4:
        raise BadAnswerError("logs", "a log without topics")
    return Log(
        block=parse_quantity(log.get("blockNumber")),
        block_hash=BlockHash("0x" + parse_bytes(log.get("blockHash"), 32).hex()),
        index=parse_quantity(log.get("logIndex")),
        topics=tuple(parse_bytes(topic, 32) for topic in topics),
        data=parse_bytes(log.get("data")),
    )


def may_concern(header: Header, contract: Address) -> bool:
    """Whether the bloom of a block leaves room for a log of the contract."""
    return in_bloom(header.bloom, bytes.fromhex(contract[2:]))


def logs_in(address: Address, header: Header) -> Call[list[Log]]:
    """The contract's logs in a block."""
    query = {"blockHash": header.block.hash, "address": address}
    parse: Any = partial(parse_logs, header=header, contract=address)
    return Call("eth_getLogs", (query,), parse, bound=calls.BLOCK_LOGS)


def logs_between(address: Address, first: int, last: int) -> Call[list[Log]]:
    """The contract's logs in a range of blocks; numbers, since what is `latest` may differ."""
    query = {"fromBlock": hex(first), "toBlock": hex(last), "address": address}
    parse: Any = partial(parse_range, first=first, last=last, contract=address)
    return Call("eth_getLogs", (query,), parse, bound=calls.RANGE_LOGS)


def proved_logs(address: Address, header: Header) -> Call[list[Log]]:
    """The contract's logs in a block, as the receipts of the whole block prove them."""

    def parse(value: object) -> list[Log]:
        proved = parse_receipts(value, header, address)
        return parse_logs(proved, header=header, contract=address)

    return Call("eth_getBlockReceipts", (header.block.hash,), parse, bound=calls.RECEIPTS)


def access_of(address: Address, token_id: int, block: Block) -> Call[Access]:
    """What the contract says of a token at a block; it may refuse."""
    data = encode_call("getNodeAccess(uint256)", token_id)
    return calls.optional(calls.read(address, data, calls.at_hash(block), decode_access))


def owner_of(address: Address, token_id: int, block: Block) -> Call[Address]:
    """Who holds a token at a block; it may refuse."""
    data = encode_call("ownerOf(uint256)", token_id)
    return calls.optional(calls.read(address, data, calls.at_hash(block), decode_owner))


def is_revert(refusal: Refusal) -> bool:
    """Whether the contract refused, and not the provider."""
    text = refusal.message.lower()
    return refusal.code in _REVERTS or "revert" in text or "invalid opcode" in text
