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
from dstack_vpn.mesh.membership import (
    NO_SUSPECTS,
    ZERO_KEY,
    Membership,
    Node,
    Suspect,
    Suspects,
)

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


def judge(
    membership: Membership,
    *,
    confirmed: int | None,
    chain_now: float,
    suspects: Suspects = NO_SUSPECTS,
) -> tuple[Decision, ...]:
    """Judge every token, from nothing. `judging.Judge` comes to the same with less work.

    Args:
        membership: tokens at the newest agreed block.
        confirmed: admissions count up to this block; None when none counts.
        chain_now: chain time, seconds since 1970.
        suspects: what single providers say of tokens, by token id.

    Returns:
        One decision a token, sorted by token id.
    """
    nodes = sorted(membership.nodes.values(), key=lambda n: n.token_id)
    objections = {n.token_id: objection(n, confirmed=confirmed, chain_now=chain_now) for n in nodes}
    keys, names = _first_claims(n for n in nodes if objections[n.token_id] is None)
    return tuple(
        decide(
            node,
            objections[node.token_id] or taken(node, keys[node.key], names.get(node.node_id, 0)),
            suspects.get(node.token_id),
            chain_now=chain_now,
        )
        for node in nodes
    )


Objection = tuple[Verdict, str]
"""Why a token is out, and in a sentence."""


def objection(node: Node, *, confirmed: int | None, chain_now: float) -> Objection | None:
    """What a token says against itself, whatever others there are; see `judge`."""
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
    if _expired(node, chain_now):
        return Verdict.EXPIRED, f"access ended at chain time {node.expires_at}"
    if not is_node_id(node.node_id):
        return Verdict.NODE_ID_INVALID, "the token's node id is not a lower-case DNS label"
    if not 1 <= node.token_id <= MAX_TOKEN_ID:
        return Verdict.UNADDRESSABLE, "token ids from 1 to 2^64-1 have an address"
    if confirmed is None or node.since_block > confirmed:
        count = "no admission counts yet"
        if confirmed is not None:
            count = f"admissions count up to block {confirmed}"
        return Verdict.NOT_YET_CONFIRMED, f"admitted at block {node.since_block}; {count}"
    return None


def key_rank(node: Node) -> tuple[int, int, int]:
    """Of the tokens with one key the least one keeps it.

    The first to register keeps it: evicting the first would let anybody throw a member out by
    copying it. A key is registered when it is set, which may be long after the token was minted.
    """
    return node.since_block, node.created_at, node.token_id


def name_rank(node: Node) -> tuple[int, int]:
    """Of the tokens that keep their key, and with one node id, the least one has it: the first."""
    return node.created_at, node.token_id


def _first_claims(nodes: Iterable[Node]) -> tuple[dict[bytes, int], dict[str, int]]:
    """Which token keeps each key and each node id, of those with no objection."""
    keys: dict[bytes, int] = {}
    names: dict[str, int] = {}
    claiming = list(nodes)
    for node in sorted(claiming, key=key_rank):
        keys.setdefault(node.key, node.token_id)
    for node in sorted(claiming, key=name_rank):
        if keys[node.key] == node.token_id:
            names.setdefault(node.node_id, node.token_id)
    return keys, names


def taken(node: Node, key_owner: int, name_owner: int) -> Objection | None:
    """Whether another token has the key or the node id; 0 is none."""
    if key_owner != node.token_id:
        return Verdict.KEY_DUPLICATE, f"token {key_owner} registered this key first"
    if name_owner != node.token_id:
        return Verdict.NODE_ID_DUPLICATE, f"token {name_owner} registered this node id first"
    return None


def decide(
    node: Node, found: Objection | None, suspect: Suspect | None, *, chain_now: float
) -> Decision:
    """The decision on a token, by what was found against it and what a single provider says."""
    if found is None and suspect is not None:
        # A token that is out so keeps its key and its node id, lest a copy of it gets in.
        found = _dispute(node, suspect, chain_now)
    verdict, reason = found or (Verdict.ACCESS_GRANTED, "active, unexpired and with a valid key")
    return Decision(
        token_id=node.token_id,
        node_id=node.node_id,
        key=PublicKey(node.key) if node.key != ZERO_KEY and len(node.key) == 32 else None,
        verdict=verdict,
        reason=reason,
    )


def _dispute(node: Node, suspect: Suspect, chain_now: float) -> Objection | None:
    """What a single provider says against a member, if it does say something against it."""
    other = suspect.node
    if other is None:
        what = "was burned"
    elif other.revoked:
        what = "was revoked"
    elif other.holder != node.holder:
        what = "was transferred"
    elif other.suspended:
        what = "was suspended by a transfer"
    elif other.key != node.key:
        what = "has no key any more" if other.key == ZERO_KEY else "has another key"
    elif _expired(other, chain_now):
        what = f"ended at chain time {other.expires_at}"
    elif other.access_state != node.access_state:
        what = "has another node id"
    else:
        return None
    who = " and ".join(suspect.providers)
    verb = "says" if len(suspect.providers) == 1 else "say"
    reason = (
        f"{who} {verb} that at block {suspect.block} the token {what};"
        " the other providers have not confirmed it yet"
    )
    return Verdict.SOURCE_DISPUTED, reason


def _expired(node: Node, chain_now: float) -> bool:
    return 0 < node.expires_at <= chain_now


def find(decisions: Iterable[Decision], node_id: str) -> Decision:
    """The decision on a node id: a granted one, else the newest token's, else NODE_NOT_FOUND."""
    best: Decision | None = None
    for decision in decisions:
        if decision.node_id == node_id:
            if decision.granted:
                return decision
            if best is None or best.token_id < decision.token_id:
                best = decision
    return best or Decision(
        token_id=0,
        node_id=node_id,
        key=None,
        verdict=Verdict.NODE_NOT_FOUND,
        reason=f"the contract has no token with the node id {node_id[:63]!r}",
    )


def judge_self(decisions: Iterable[Decision], node_id: str, key: PublicKey) -> Decision:
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
