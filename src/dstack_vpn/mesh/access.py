"""Access control: the verdict on every token, with its reason.

Pure: what is judged is a membership at a block; expiry is judged against chain time, which the
caller derives from agreed heads and a monotonic clock. A verdict other than ACCESS_GRANTED keeps a
node out whatever else holds (fail closed).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from dstack_vpn.mesh.addresses import MAX_TOKEN_ID
from dstack_vpn.mesh.keys import PublicKey
from dstack_vpn.mesh.membership import ZERO_KEY, Membership, Node

NODE_ID_RULE = "a DNS label: 1 to 63 of a-z, 0-9 and hyphen, no hyphen at either end"
"""What `is_node_id` accepts, for error sentences."""

_NODE_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class Verdict(StrEnum):
    """The fixed words; the value is the word itself."""

    ACCESS_GRANTED = "ACCESS_GRANTED"
    NODE_NOT_FOUND = "NODE_NOT_FOUND"
    NO_KEY = "NO_KEY"
    REVOKED = "REVOKED"
    SUSPENDED_BY_TRANSFER = "SUSPENDED_BY_TRANSFER"
    EXPIRED = "EXPIRED"
    KEY_INVALID = "KEY_INVALID"
    KEY_DUPLICATE = "KEY_DUPLICATE"
    NODE_ID_INVALID = "NODE_ID_INVALID"
    NODE_ID_DUPLICATE = "NODE_ID_DUPLICATE"
    PUBLIC_KEY_MISMATCH = "PUBLIC_KEY_MISMATCH"
    UNADDRESSABLE = "UNADDRESSABLE"
    NOT_YET_CONFIRMED = "NOT_YET_CONFIRMED"
    SOURCE_DISPUTED = "SOURCE_DISPUTED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The verdict on one token."""

    token_id: int
    """0 when no token was found."""
    node_id: str
    """As the token has it; may be hostile text when the verdict is NODE_ID_INVALID."""
    key: PublicKey | None
    verdict: Verdict
    reason: str
    """One sentence for people."""

    @property
    def granted(self) -> bool:
        """Whether the node may be a peer."""
        return self.verdict is Verdict.ACCESS_GRANTED


def is_node_id(text: str) -> bool:
    """Whether the text is a DNS label of at most 63 lower-case letters, digits and hyphens."""
    return _NODE_ID.fullmatch(text) is not None


def judge(membership: Membership, *, confirmations: int, chain_now: float) -> tuple[Decision, ...]:
    """Judge every token.

    Args:
        membership: tokens at the newest agreed block.
        confirmations: blocks on top of a node's block before it is admitted, 0 or more.
        chain_now: chain time, seconds since 1970.

    Returns:
        One decision a token, sorted by token id.
    """
    nodes = sorted(membership.nodes.values(), key=lambda n: n.token_id)
    objections = {
        n.token_id: _first_objection(
            n, membership.block.number - n.since_block, confirmations, chain_now
        )
        for n in nodes
    }
    keys, names = _first_claims(n for n in nodes if objections[n.token_id] is None)
    decisions = []
    for node in nodes:
        verdict, reason = objections[node.token_id] or _taken(node, keys, names)
        key = PublicKey(node.key) if node.key != ZERO_KEY and len(node.key) == 32 else None
        decisions.append(
            Decision(
                token_id=node.token_id,
                node_id=node.node_id,
                key=key,
                verdict=verdict,
                reason=reason,
            )
        )
    return tuple(decisions)


def _first_objection(
    node: Node, depth: int, confirmations: int, chain_now: float
) -> tuple[Verdict, str] | None:
    if node.revoked:
        return Verdict.REVOKED, "the contract's owner or a guardian revoked the token"
    if node.suspended:
        return (
            Verdict.SUSPENDED_BY_TRANSFER,
            "the token was transferred and its new holder has not set a key",
        )
    if node.key == ZERO_KEY:
        return Verdict.NO_KEY, "the token has no WireGuard key yet; its holder can set one"
    if len(node.key) != 32:
        return Verdict.KEY_INVALID, "the token's key is not 32 bytes"
    if 0 < node.expires_at <= chain_now:
        return Verdict.EXPIRED, f"access ended at chain time {node.expires_at}"
    if not is_node_id(node.node_id):
        return Verdict.NODE_ID_INVALID, "the token's node id is not a lower-case DNS label"
    if not 1 <= node.token_id <= MAX_TOKEN_ID:
        return Verdict.UNADDRESSABLE, "token ids from 1 to 2^64-1 have an address"
    if depth < confirmations:
        return (
            Verdict.NOT_YET_CONFIRMED,
            f"{max(depth, 0)} of {confirmations} blocks on top of the admission",
        )
    return None


def _first_claims(nodes: Iterable[Node]) -> tuple[dict[bytes, int], dict[str, int]]:
    """Which token keeps each key and each node id.

    The first to register keeps it: evicting the first would let anybody throw a member out by
    copying it. A key is registered when it is set, which may be long after the token was minted; a
    node id is registered at the mint.
    """
    keys: dict[bytes, int] = {}
    names: dict[str, int] = {}
    by_mint = sorted(nodes, key=lambda n: (n.created_at, n.token_id))
    for node in sorted(by_mint, key=lambda n: n.since_block):
        keys.setdefault(node.key, node.token_id)
    for node in by_mint:
        if keys[node.key] == node.token_id:
            names.setdefault(node.node_id, node.token_id)
    return keys, names


def _taken(node: Node, keys: dict[bytes, int], names: dict[str, int]) -> tuple[Verdict, str]:
    if (first := keys[node.key]) != node.token_id:
        return Verdict.KEY_DUPLICATE, f"token {first} registered this key first"
    if (first := names[node.node_id]) != node.token_id:
        return Verdict.NODE_ID_DUPLICATE, f"token {first} registered this node id first"
    return Verdict.ACCESS_GRANTED, "active, unexpired and with a valid key"


def find(decisions: tuple[Decision, ...], node_id: str) -> Decision:
    """The decision on a node id: a granted one, else the newest token's, else NODE_NOT_FOUND."""
    best: Decision | None = None
    for decision in decisions:
        if decision.node_id == node_id:
            if decision.granted:
                return decision
            best = decision
    return best or Decision(
        token_id=0,
        node_id=node_id,
        key=None,
        verdict=Verdict.NODE_NOT_FOUND,
        reason=f"the contract has no token with the node id {node_id[:63]!r}",
    )


def judge_self(decisions: tuple[Decision, ...], node_id: str, key: PublicKey) -> Decision:
    """The decision on this node itself: a granted token must also carry the key we hold."""
    own = find(decisions, node_id)
    if not own.granted or own.key == key:
        return own
    return Decision(
        token_id=own.token_id,
        node_id=own.node_id,
        key=own.key,
        verdict=Verdict.PUBLIC_KEY_MISMATCH,
        reason=f"token {own.token_id} carries the key {own.key}, but this node's key is {key}",
    )


def next_expiry(membership: Membership, *, chain_now: float) -> int | None:
    """The next chain time at which a verdict changes by itself, or None."""
    ends = (n.expires_at for n in membership.nodes.values() if n.expires_at > chain_now)
    return min(ends, default=None)
