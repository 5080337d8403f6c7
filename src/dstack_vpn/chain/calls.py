"""What is asked of a provider: JSON-RPC calls, each with the parser of its answer.

Pure. Every parser takes the JSON value of a result and raises `BadAnswerError` for anything that is
not the expected answer; null is never an empty one. Calls on state name the block by its hash and
demand that it is canonical (EIP-1898), so that an answer cannot come from another block.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

from dstack_vpn.chain import contract as abi
from dstack_vpn.chain.header import Header, parse_bytes, parse_header, parse_quantity
from dstack_vpn.chain.jsonrpc import KB, MB, MOST, SMALL, Bound
from dstack_vpn.chain.keccak import keccak256
from dstack_vpn.chain.verify import parse_logs
from dstack_vpn.errors import BadAnswerError
from dstack_vpn.mesh.membership import Address, Block, Checkpoint, Node, Tag

T = TypeVar("T")

At = str | dict[str, object]
"""How a call names its block."""

NUMBER = Bound(64 * KB, 100)
CODE = Bound(MOST.size, 100)
"""One text, whose cost is its length."""
VIEW = Bound(MB, 100)
PAGE = Bound(4 * MB, 100)
BLOCK_LOGS = Bound(8 * MB, 250_000)
RANGE_LOGS = RECEIPTS = MOST
"""How large answers may be. An honest log has 40 bytes and more for each value in it."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The provider's JSON-RPC error (code 0: an unreadable answer), for a call that may fail."""

    code: int
    message: str


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call and the parser of its result."""

    method: str
    params: tuple[object, ...]
    parse: Callable[[object], T]
    may_fail: bool = False
    """An error answer becomes a `Refusal` in place of the result, instead of an exception."""
    bound: Bound = SMALL
    """How large the result may be; what is larger is not decoded."""


def optional(call: Call[T]) -> Call[T]:
    """The same call, for which an error is an answer too."""
    return replace(call, may_fail=True)


def lenient(call: Call[T]) -> Call[T | Refusal]:
    """The same call, for which an error or an answer that cannot be read is a `Refusal`.

    For what only confirms: an address without code answers nothing, and then who serves which chain
    must still be told.
    """

    def parse(value: object) -> T | Refusal:
        try:
            return call.parse(value)
        except BadAnswerError as error:
            return Refusal(0, str(error))

    return Call(call.method, call.params, parse, may_fail=True, bound=call.bound)


def chain_id() -> Call[int]:
    """The chain's EIP-155 id."""
    return Call("eth_chainId", (), parse_quantity, bound=NUMBER)


def latest() -> Call[Header]:
    """The provider's head."""
    return Call("eth_getBlockByNumber", ("latest", False), parse_header)


def header_at(number: int) -> Call[Header]:
    """The canonical block at a height; an error when there is none."""
    return Call("eth_getBlockByNumber", (hex(number), False), partial(parse_header, number=number))


def header_at_or_none(number: int) -> Call[Header | None]:
    """The canonical block at a height, or None when the chain is shorter."""

    def parse(value: object) -> Header | None:
        return None if value is None else parse_header(value, number=number)

    return Call("eth_getBlockByNumber", (hex(number), False), parse)


def tagged(tag: Tag) -> Call[Header]:
    """The newest block that the provider calls safe, or finalized."""
    return Call("eth_getBlockByNumber", (str(tag), False), parse_header)


def code(address: Address) -> Call[bytes]:
    """The contract's code at the head; empty when there is none."""
    return Call("eth_getCode", (address, "latest"), parse_bytes, bound=CODE)


def at_hash(block: Block) -> At:
    """Names a block so that no other can answer for it."""
    return {"blockHash": block.hash, "requireCanonical": True}


def read(
    address: Address, data: bytes, at: At, parse: Callable[[bytes], T], bound: Bound = VIEW
) -> Call[T]:
    """A view of the contract."""
    transaction = {"to": address, "data": "0x" + data.hex()}
    return Call("eth_call", (transaction, at), lambda value: parse(parse_bytes(value)), bound=bound)


def latest_checkpoint(address: Address) -> Call[bytes]:
    """The contract's checkpoint at the head, not decoded: what comes may be no contract of ours."""
    return optional(read(address, abi.CALL_CHECKPOINT, "latest", bytes))


def checkpoint(address: Address, block: Block) -> Call[Checkpoint]:
    """The contract's checkpoint at a block."""
    return read(address, abi.CALL_CHECKPOINT, at_hash(block), abi.decode_checkpoint)


def checkpoint_or_seed(address: Address, chain: int, block: Block) -> Call[Checkpoint]:
    """The contract's checkpoint at a block, which may be older than the contract.

    Without code the answer is empty. That is taken for a contract that has had no change yet; if it
    was a lie, the fold from there does not prove.
    """

    def parse(data: bytes) -> Checkpoint:
        return abi.decode_checkpoint(data) if data else abi.seed(chain, address)

    return read(address, abi.CALL_CHECKPOINT, at_hash(block), parse)


def next_token_id(address: Address, at: At) -> Call[int]:
    """The token id that the next mint would get; 1 when there is no contract yet."""

    def parse(data: bytes) -> int:
        return abi.decode_uint(data) if data else 1

    return read(address, abi.CALL_NEXT_TOKEN_ID, at, parse)


@dataclass(frozen=True, slots=True)
class Page:
    """A range of tokens at a block."""

    nodes: tuple[Node | None, ...]
    digest: bytes
    """keccak-256 of the answer as it came: what other providers confirm."""


def page(address: Address, block: Block, first: int, limit: int) -> Call[Page]:
    """Read a range of tokens at a block."""

    def parse(data: bytes) -> Page:
        nodes = abi.decode_page(data, first=first, since_block=block.number)
        if len(nodes) > limit:
            raise BadAnswerError("page", f"{len(nodes)} nodes where at most {limit} belong")
        return Page(tuple(nodes), keccak256(data))

    return read(address, abi.call_get_nodes(first, limit), at_hash(block), parse, PAGE)


def page_digest(address: Address, at: At, first: int, limit: int) -> Call[bytes]:
    """Ask for the digest of a range of tokens."""
    return read(address, abi.call_hash_nodes(first, limit), at, abi.decode_hash)


def digest_of(nodes: Sequence[Node | None]) -> bytes:
    """The digest that a range of tokens should have; empty when no contract can have them."""
    try:
        return keccak256(abi.encode_page(nodes))
    except BadAnswerError:
        return b""


def change_counts(address: Address, first: int, last: int) -> Call[dict[int, int]]:
    """How many changes the blocks of a range have, where they have any."""
    query = {
        "fromBlock": hex(first),
        "toBlock": hex(last),
        "address": address,
        "topics": ["0x" + abi.NODE_CHANGED.hex()],
    }

    def parse(value: object) -> dict[int, int]:
        if not isinstance(value, list):
            raise BadAnswerError("logs", "an answer that is not a list of logs")
        counts: dict[int, int] = {}
        for log in value:
            if not isinstance(log, dict):
                raise BadAnswerError("logs", "a log that is not an object")
            number = parse_quantity(log.get("blockNumber"))
            if not first <= number <= last:
                raise BadAnswerError("log-block", "a log of a block that was not asked for")
            if parse_bytes(log.get("address"), 20).hex() != address[2:]:
                raise BadAnswerError("log-address", "a log of another contract")
            counts[number] = counts.get(number, 0) + 1
        return counts

    return Call("eth_getLogs", (query,), parse, bound=RANGE_LOGS)


def logs(address: Address, header: Header) -> Call[list[abi.NodeChanged]]:
    """The changes in a block."""
    query = {
        "blockHash": header.block.hash,
        "address": address,
        "topics": ["0x" + abi.NODE_CHANGED.hex()],
    }
    parse: Callable[[object], Any] = partial(parse_logs, header=header, contract=address)
    return Call("eth_getLogs", (query,), parse, bound=BLOCK_LOGS)
