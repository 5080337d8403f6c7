"""What the tests of the chain package share: nodes, their encoding by an independent library, logs.

eth-abi is the reference here; the agent itself never loads it.
"""

from dataclasses import dataclass, replace
from typing import Any

from eth_abi.abi import encode
from eth_utils.crypto import keccak
from hypothesis import strategies as st

from dstack_vpn.chain.contract import NODE_TYPE
from dstack_vpn.chain.header import Header
from dstack_vpn.mesh.membership import Address, Block, BlockHash, Node

CONTRACT = Address("0x5fbdb2315678afecb367f032d93f642f64180aa3")
CHAIN_ID = 31337
HOLDER = Address("0x" + "a1" * 20)
TOPIC = keccak(text=f"NodeChanged(uint64,uint256,{NODE_TYPE})")
ZERO = (0, "0x" + "00" * 20, b"", bytes(32), b"", bytes(32), 0, 0, False, False)


def node(token_id: int = 1, **changes: Any) -> Node:
    """A node that is active unless told otherwise."""
    plain = Node(
        token_id=token_id,
        holder=HOLDER,
        node_id=f"node-{token_id}",
        key=token_id.to_bytes(32, "big"),
        endpoint="",
        role=bytes(32),
        created_at=1_700_000_000,
        expires_at=0,
        revoked=False,
        suspended=False,
        since_block=0,
    )
    return replace(plain, **changes)


def as_tuple(shown: Node | None) -> tuple[Any, ...]:
    """A node as eth-abi takes it."""
    if shown is None:
        return ZERO
    return (
        shown.token_id,
        shown.holder,
        shown.node_id.encode(),
        shown.key,
        shown.endpoint.encode(),
        shown.role,
        shown.created_at,
        shown.expires_at,
        shown.revoked,
        shown.suspended,
    )


# A string of Solidity is bytes: eth-abi's own `string` would refuse those that are not UTF-8.
BYTES_TYPE = NODE_TYPE.replace("string", "bytes")


def encode_page(nodes: list[Node | None]) -> bytes:
    """What `getNodes` returns."""
    return encode([f"{BYTES_TYPE}[]"], [[as_tuple(n) for n in nodes]])


def encode_node(shown: Node | None) -> bytes:
    """The data of a `NodeChanged` log."""
    return encode([BYTES_TYPE], [as_tuple(shown)])


def word(number: int) -> bytes:
    return number.to_bytes(32, "big")


def hex_of(data: bytes) -> str:
    return "0x" + data.hex()


def history_after(history: bytes, revision: int, block: int, shown: Node | None) -> bytes:
    """The contract's own formula, by eth-abi."""
    types = ["bytes32", "uint64", "uint256", BYTES_TYPE]
    return keccak(encode(types, [history, revision, block, as_tuple(shown)]))


def block_hash(number: int, branch: int = 0) -> BlockHash:
    return BlockHash(hex_of(keccak(word(number + 1) + word(branch))))


def block(number: int, branch: int = 0, *, parent_branch: int | None = None) -> Block:
    """A block of a branch; its parent may be on another one."""
    before = branch if parent_branch is None else parent_branch
    return Block(
        number=number,
        hash=block_hash(number, branch),
        parent_hash=block_hash(number - 1, before),
        timestamp=1_700_000_000 + 2 * number,
    )


FULL_BLOOM = b"\xff" * 256


def header(number: int, branch: int = 0, *, bloom: bytes = FULL_BLOOM) -> Header:
    return Header(block(number, branch), bloom)


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a token, for building logs."""

    token_id: int
    node: Node | None
    revision: int


def log_of(change: Change, where: Header, index: int = 0) -> dict[str, Any]:
    """The log as a provider gives it."""
    return {
        "address": CONTRACT,
        "topics": [hex_of(TOPIC), hex_of(word(change.revision)), hex_of(word(change.token_id))],
        "data": hex_of(encode_node(change.node)),
        "blockNumber": hex(where.block.number),
        "blockHash": where.block.hash,
        "transactionHash": "0x" + "11" * 32,
        "transactionIndex": "0x0",
        "logIndex": hex(index),
        "removed": False,
    }


uint64 = st.integers(0, 2**64 - 1)
word32 = st.binary(min_size=32, max_size=32)
# Surrogates cannot be encoded; U+FFFD at the start is tested on its own.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80).filter(
    lambda text: not text.startswith("\ufffd")
)


@st.composite
def nodes(draw: st.DrawFn, token_id: int | None = None) -> Node:
    """Any node a contract can store."""
    return Node(
        token_id=token_id or draw(st.integers(1, 2**256 - 1)),
        holder=Address(hex_of(draw(st.binary(min_size=20, max_size=20)))),
        node_id=draw(texts),
        key=draw(word32),
        endpoint=draw(texts),
        role=draw(word32),
        created_at=draw(uint64),
        expires_at=draw(uint64),
        revoked=draw(st.booleans()),
        suspended=draw(st.booleans()),
        since_block=7,
    )
