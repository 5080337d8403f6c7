"""The membership as the chain states it: tokens at a block, before anybody judges them.

Everything in a `Node` was chosen by the contract's owner or by a holder; strings are hostile text
until `access` and `endpoint` have passed them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import NewType

BlockHash = NewType("BlockHash", str)
"""A block hash: ``0x`` and 64 lower-case hex digits."""

Address = NewType("Address", str)
"""An Ethereum address: ``0x`` and 40 lower-case hex digits (no checksum case)."""

ZERO_KEY = bytes(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One token of the contract, as stored at a block (facts of the chain, not yet trusted)."""

    token_id: int
    """ERC-721 token id, from 1."""
    holder: Address
    """Owner of the token."""
    node_id: str
    """Name of the node; a DNS label in our contract, any text in a hostile one."""
    key: bytes
    """Raw WireGuard public key, 32 bytes; all zero when none is set."""
    endpoint: str
    """Where the holder says that the node can be reached; may be empty, may be garbage."""
    role: bytes
    """32 bytes that the contract's owner set; not interpreted here."""
    created_at: int
    """Time of the minting block, seconds since 1970."""
    expires_at: int
    """Chain time from which the node is out, seconds since 1970; 0 means never."""
    revoked: bool
    """The owner or a guardian took the node's access."""
    suspended: bool
    """The token was transferred and its new holder has not set a key yet."""
    since_block: int
    """Number of the block since which `access_state` is what it is, as far as we know (for a node
    read from a snapshot: the block of the snapshot). Its depth below the head is what counts as
    confirmations of an admission."""

    @property
    def active(self) -> bool:
        """Whether the contract counts it: not revoked, not suspended, with a key."""
        return not self.revoked and not self.suspended and self.key != ZERO_KEY

    @property
    def access_state(self) -> tuple[Address, str, bytes, bool]:
        """What an admission rests on; when it changes, confirmations start anew."""
        return self.holder, self.node_id, self.key, self.active


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block whose header was verified against its hash."""

    number: int
    hash: BlockHash
    parent_hash: BlockHash
    timestamp: int
    """Chain time, seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What `checkpoint()` of the contract answers: enough to prove that a fold missed nothing."""

    revision: int
    """Number of node changes so far."""
    history: bytes
    """32-byte hash chain over all changes."""
    member_count: int
    """Active nodes, expiry ignored."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A block that is named without being held: enough to know it again."""

    number: int
    hash: BlockHash


class Tag(StrEnum):
    """How deep a block must be, as the chain itself tells it, in place of a number of blocks."""

    SAFE = "safe"
    FINALIZED = "finalized"


Confirmations = int | Tag
"""Blocks on top of an admission, or the tag that its block must have."""


class ContractKind(StrEnum):
    """What a membership contract offers to a follower; pinned at the first contact."""

    CHECKPOINT = "checkpoint"
    """Ours: one event for every change, `checkpoint()`, pages."""
    PUBLISHED = "published"
    """Only the interface that was published: read by logs and by the state of each token."""


Nodes = Mapping[int, Node]
"""Token id to node; burned tokens are absent."""

NO_NODES: Nodes = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """What one provider, and not yet enough of them, says about a member."""

    node: Node | None
    """The token as that block has it, None when it was burned."""
    block: int
    """Number of the block that took access away."""
    hash: BlockHash
    """And its hash."""
    providers: tuple[str, ...]
    """Who says so: names, sorted."""


Suspects = Mapping[int, Suspect]
"""Token id to what a single provider says of it."""

NO_SUSPECTS: Suspects = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """All tokens at the newest block on which the providers agree."""

    chain_id: int
    contract: Address
    genesis: BlockHash
    """Hash of block 0: tells apart two local chains that use one chain id."""
    code_hash: bytes
    """keccak256 of the contract's code, pinned when it was first read."""
    block: Block
    """Newest agreed block."""
    checkpoint: Checkpoint
    """The contract's own summary at `block`, at which the fold arrived."""
    nodes: Nodes
    """Tokens at `block`, burned ones absent."""
    kind: ContractKind = ContractKind.CHECKPOINT
    finalized: Mark | None = None
    """Newest block that enough providers called finalized; nothing goes back below it."""
    suspects: Suspects = field(default_factory=dict)
    """What single providers said of them at the same time; kept so that a start does not forget
    it."""
