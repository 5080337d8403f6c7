"""What the tokens of a contract with only the published interface amount to.

Pure. The state of a token (`getNodeAccess`, `ownerOf`) is read at the hash of a block, since events
alone are ambiguous: `PublicKeyUpdated` does not say which token of its owner it is about. The
events tell what the state does not: whether the key was set after the token's last transfer. If
not, it is the seller's key, and the token is suspended.

One function does both a block and a whole history: `settle` goes from what was known before some
events (perhaps nothing) to what holds after them. Going block by block leads to the same as going
at once, as long as the contract changes a key, a holder or an access only where it logs something.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from dstack_vpn.chain.contract import seed
from dstack_vpn.chain.keccak import keccak256
from dstack_vpn.chain.published import (
    NOBODY,
    Access,
    Granted,
    KeyUpdated,
    Moved,
    Placed,
    Position,
    Revoked,
)
from dstack_vpn.chain.verify import Step
from dstack_vpn.mesh.membership import ZERO_KEY, Address, Block, Checkpoint, Node, Nodes


@dataclass(frozen=True, slots=True)
class State:
    """A token as the contract has it at a block."""

    access: Access
    holder: Address


def state_of(access: Access | None, holder: Address | None) -> State | None:
    """A token's state; None when it is gone: a view refuses, or nobody holds it."""
    if access is None or holder is None or holder == NOBODY:
        return None
    return State(access, holder)


class History:
    """Events in order, found by what they are about."""

    def __init__(self, events: Iterable[Placed]) -> None:
        """Sort them."""
        self._by_token: dict[int, list[Placed]] = {}
        self._by_key: dict[tuple[Address, bytes], list[Position]] = {}
        self._last_set: dict[Address, Position] = {}
        for placed in events:
            event = placed.event
            if not isinstance(event, KeyUpdated):
                self._by_token.setdefault(event.token_id, []).append(placed)
            if isinstance(event, Granted | KeyUpdated):
                self._by_key.setdefault((event.owner, event.key), []).append(placed.at)
                self._last_set[event.owner] = placed.at

    @property
    def token_ids(self) -> set[int]:
        """The tokens that are named."""
        return set(self._by_token)

    def about(self, token_id: int) -> Sequence[Placed]:
        """The events that name a token."""
        return self._by_token.get(token_id, ())

    def key_set(self, holder: Address, key: bytes, after: Position) -> Position | None:
        """When a holder's key was first set, by him or for him, after a position.

        A grant counts like an update: where a contract has one key an owner, a grant of another
        token sets this one's too. Of which token an update was is told by the token's state.
        """
        positions = self._by_key.get((holder, key), [])
        i = bisect_right(positions, after)
        return positions[i] if i < len(positions) else None

    def any_key_set(self, holder: Address, after: Position) -> bool:
        """Whether a holder's key was set to whatever text after a position."""
        return holder in self._last_set and self._last_set[holder] > after


def concerned(events: Sequence[Placed], nodes: Nodes) -> set[int]:
    """The tokens whose state may have changed by these events.

    Those that are named, and, since neither keys nor node ids need be a token's own, all tokens of
    anybody who is named or holds a named one, and those with a node id that is named.

    Args:
        events: of one block.
        nodes: the tokens before it.
    """
    found: set[int] = set()
    owners: set[Address] = set()
    names: set[str] = set()
    for event in (placed.event for placed in events):
        match event:
            case KeyUpdated(owner):
                owners.add(owner)
            case Granted(token_id, node_id, owner):
                found.add(token_id)
                owners.add(owner)
                names.add(node_id)
            case Revoked(token_id, node_id):
                found.add(token_id)
                names.add(node_id)
            case Moved(token_id, sender, receiver):
                found.add(token_id)
                owners |= {sender, receiver}
    owners |= {nodes[token_id].holder for token_id in found if token_id in nodes}
    found |= {i for i, n in nodes.items() if n.holder in owners or n.node_id in names}
    return found


def settle(
    token_id: int, before: Node | None, history: History, state: State | None, *, block: int
) -> Node | None:
    """A token after some events.

    Args:
        token_id: which.
        before: as it was before the first of them; None when it was not known.
        history: the events since then.
        state: as the contract has it now.
        block: number of the block that `state` is of.

    Returns:
        The node, or None when there is no such token any more.
    """
    if state is None:
        return None
    access, holder = state.access, state.holder
    named = history.about(token_id)
    moves = [p.at for p in named if isinstance(p.event, Moved) and not p.event.mint]
    # Within the block of its mint a token's events may have any order.
    born = Position(named[0].at.block, -1) if named else Position(block, -1)
    floor = max(moves, default=Position(-1, -1) if before else born)
    node = Node(
        token_id=token_id,
        holder=holder,
        node_id=access.node_id,
        key=access.key,
        endpoint="",
        role=bytes(32),
        created_at=access.created_at,
        expires_at=0,
        revoked=not access.active,
        suspended=_is_suspended(state, before, history, floor, moved=bool(moves)),
        since_block=block,
    )
    lapsed = moves or any(_lapses(p.event, access.key) for p in named)
    if before is not None and before.access_state == node.access_state and not lapsed:
        return replace(node, since_block=before.since_block)
    if not node.active:
        return replace(node, since_block=named[-1].at.block if named else block)
    return replace(node, since_block=_since(node, before, named, history, floor) or block)


def _is_suspended(
    state: State, before: Node | None, history: History, floor: Position, *, moved: bool
) -> bool:
    """Whether the key was not set by or for its holder after the last transfer."""
    holder, key = state.holder, state.access.key
    if key == ZERO_KEY:
        # Nobody's key: it only says why there is none. Of which token an update was is not told.
        taken = moved or (before is not None and before.suspended)
        return taken and not history.any_key_set(holder, floor)
    if history.key_set(holder, key, floor) is not None:
        return False
    if moved or before is None or before.suspended:
        return True
    return (before.holder, before.key) != (holder, key)


def _since(
    node: Node, before: Node | None, named: Sequence[Placed], history: History, floor: Position
) -> int | None:
    """The block since which an active token has its access, if an event tells it."""
    start = floor
    given: int | None = None
    out = before is not None and before.revoked
    for at, event in ((p.at, p.event) for p in named):
        if isinstance(event, Revoked):
            out, given = True, None
        elif isinstance(event, Granted):
            given = at.block if given is None else given
            start = max(start, at) if event.key != node.key else start
    # The first time, not the last: setting one's key again must not let a copy of it be older.
    first = history.key_set(node.holder, node.key, start)
    if out:
        return given if given is None or first is None else max(given, first.block)
    return first.block if first else None


def _lapses(event: object, key: bytes) -> bool:
    """Whether an event about a token ended the access that it has now, if it had it before."""
    return isinstance(event, Revoked) or (isinstance(event, Granted) and event.key != key)


def settle_all(
    before: Nodes, history: History, states: Mapping[int, State | None], *, block: int
) -> dict[int, Node]:
    """All tokens whose states were read, after some events; sorted, without those that are gone."""
    nodes = {}
    for token_id in sorted(states):
        node = settle(token_id, before.get(token_id), history, states[token_id], block=block)
        if node is not None:
            nodes[token_id] = node
    return nodes


def step(
    block: Block,
    events: Sequence[Placed],
    states: Mapping[int, State | None],
    nodes: Nodes,
    *,
    chain_id: int,
    contract: Address,
) -> Step:
    """A block on the way.

    Args:
        block: the block.
        events: its events.
        states: the tokens that `concerned` names, as they are at its end.
        nodes: the tokens before it.
        chain_id: EIP-155 id of the chain.
        contract: the membership contract.
    """
    settled = settle_all(nodes, History(events), states, block=block.number)
    changes = {i: settled.get(i) for i in sorted(states) if settled.get(i) != nodes.get(i)}
    after = {**nodes, **settled}
    for token_id in states:
        if token_id not in settled:
            after.pop(token_id, None)
    return Step(
        block=block,
        checkpoint=summarize(after, chain_id=chain_id, contract=contract),
        changes=changes,
        events=len(events),
    )


def admits(changes: Mapping[int, Node | None], nodes: Nodes) -> bool:
    """Whether somebody gets in, or nearer to it: a token is new, or is not suspended any more."""
    for token_id, node in changes.items():
        old = nodes.get(token_id)
        if node is None or node.suspended:
            continue
        if old is None or old.suspended or (node.active and node.access_state != old.access_state):
            return True
    return False


def summarize(nodes: Nodes, *, chain_id: int, contract: Address) -> Checkpoint:
    """A checkpoint for a contract that states none: a digest of what its tokens are.

    It is about content, not about history: whoever has the same tokens at a block has the same
    checkpoint, whichever way they were read. `since_block` is not in it, although confirmations
    are counted from it: how far back it is known depends on where one began to follow, and honest
    witnesses must not contradict each other for that. (Those who make a snapshot agree on it too.)
    """
    head = b"published" + seed(chain_id, contract).history
    encoded = (_encode(nodes[token_id]) for token_id in sorted(nodes))
    return Checkpoint(
        revision=len(nodes),
        history=keccak256(head + b"".join(encoded)),
        member_count=sum(node.active for node in nodes.values()),
    )


def _encode(node: Node) -> bytes:
    """A node without ambiguity: what has no fixed length comes after its length."""
    name = node.node_id.encode()
    return b"".join(
        [
            node.token_id.to_bytes(32, "big"),
            bytes.fromhex(node.holder[2:]),
            node.created_at.to_bytes(8, "big"),
            bytes([node.revoked, node.suspended]),
            len(name).to_bytes(8, "big"),
            name,
            len(node.key).to_bytes(8, "big"),
            node.key,
        ]
    )
