"""The plain reference: which blocks the honest providers had, and so who may and must not be in.

Pure, and nothing of it comes from the code that it judges: tokens are read from the chain itself
and decoded by another library, and a rule is a loop over blocks.

Who may be in. A token with an access state (holder, node id, key, active) may be granted at an
agreed block A when there are blocks b to b + N, one after the other on a chain that honest
providers had shown, in each of which it had that access state; when b is A or an ancestor of A; and
when it had the state from b to A. That is the rule of N confirmations with nothing left out but
speed.

Who must be out. A token that an honest provider at the head of its chain, reachable at this moment,
has no longer with the access state that was granted, or whose time is over by agreed chain time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

Access = tuple[str, str, bytes, bool]
"""Holder, node id, key, active: what an admission rests on."""

NO_KEY = bytes(32)


@dataclass(frozen=True, slots=True)
class Token:
    """A token as the contract has it."""

    holder: str
    node_id: str
    key: bytes
    expires_at: int
    revoked: bool
    suspended: bool

    @property
    def access(self) -> Access:
        """What an admission rests on."""
        return self.holder, self.node_id, self.key, self.active

    @property
    def active(self) -> bool:
        """Neither revoked nor suspended, and with a key."""
        return not self.revoked and not self.suspended and self.key != NO_KEY

    def ended(self, chain_now: float) -> bool:
        """Whether its time is over."""
        return 0 < self.expires_at <= chain_now


@dataclass(frozen=True, slots=True)
class Truth:
    """A block that the honest chain had."""

    number: int
    hash: str
    parent: str
    timestamp: int
    tokens: Mapping[int, Token]
    checkpoint: tuple[int, bytes, int]
    """Revision, history and number of active tokens, as the contract states them."""


class Reference:
    """All blocks that the honest chain ever had, since the contract was there."""

    def __init__(self, first: Truth, depth: int) -> None:
        """Begin at the block of the deployment.

        Args:
            first: that block.
            depth: blocks on top of an admission before it counts.
        """
        self.depth = depth
        self.first = first
        self.head = first
        """The honest chain ends here at present."""
        self.highest = first.number
        """Number of the highest block that honest providers have shown."""
        self._blocks = {first.hash: first}
        self._shown: set[str] = set()
        self._runs: dict[str, dict[int, tuple[Access, int]]] = {}
        self._deep: set[tuple[int, Access, str]] = set()

    def known(self, block_hash: str) -> bool:
        """Whether the honest chain ever had a block."""
        return block_hash in self._blocks

    def block(self, block_hash: str) -> Truth:
        """A block that the honest chain had."""
        return self._blocks[block_hash]

    def shown(self, block_hash: str) -> Truth | None:
        """A block that honest providers have shown, or None."""
        return self._blocks[block_hash] if block_hash in self._shown else None

    def add(self, block: Truth) -> None:
        """Take a block whose parent is known."""
        assert block.parent in self._blocks
        self._blocks[block.hash] = block

    def moved(self, head_hash: str) -> None:
        """The honest chain ends elsewhere."""
        self.head = self._blocks[head_hash]

    def show(self) -> None:
        """Honest providers show the chain as it is, or any part of it up from the deployment."""
        new: list[Truth] = []
        for block in self.ancestors(self.head):
            if block.hash in self._shown:
                break
            new.append(block)
        for block in reversed(new):
            self._show(block)
        self.highest = max(self.highest, self.head.number)

    def _show(self, block: Truth) -> None:
        before = self._runs.get(block.parent, {})
        runs: dict[int, tuple[Access, int]] = {}
        for token_id, token in block.tokens.items():
            access, length = before.get(token_id, (None, 0))
            runs[token_id] = (token.access, length + 1 if access == token.access else 1)
        self._runs[block.hash] = runs
        self._shown.add(block.hash)
        held = [t for t, (_, length) in runs.items() if length > self.depth]
        if held:
            begin = self.ancestor(block, block.number - self.depth)
            self._deep.update((t, runs[t][0], begin.hash) for t in held)

    def ancestors(self, block: Truth) -> Iterator[Truth]:
        """A block and those before it, back to the deployment."""
        at: Truth | None = block
        while at is not None:
            yield at
            at = self._blocks.get(at.parent)

    def ancestor(self, block: Truth, number: int) -> Truth:
        """The block of a height on the chain that ends with a block."""
        return next(b for b in self.ancestors(block) if b.number == number)

    def fork(self, one: Truth, other: Truth) -> Truth:
        """The newest block that two chains share."""
        theirs = {b.hash for b in self.ancestors(other)}
        return next(b for b in self.ancestors(one) if b.hash in theirs)

    def may_be_in(self, token_id: int, access: Access, at: Truth) -> bool:
        """Whether a token with this access state may be granted at an agreed block."""
        for block in self.ancestors(at):
            token = block.tokens.get(token_id)
            if token is None or token.access != access or not token.active:
                return False
            if (token_id, access, block.hash) in self._deep:
                return True
        return False

    def must_be_out(self, token_id: int, access: Access, chain_now: float) -> str | None:
        """Why a token with this access state must be out by the honest head, or None."""
        token = self.head.tokens.get(token_id)
        if token is None:
            return "it is burned, or was never minted"
        if not token.active:
            return "it is not active"
        if token.access != access:
            return "it has another holder, node id or key"
        if token.ended(chain_now):
            return f"it ended at chain time {token.expires_at}"
        return None

    def members(self) -> set[int]:
        """Who has access at the honest head, by the chain's own time."""
        head = self.head
        return {t for t, k in head.tokens.items() if k.active and not k.ended(head.timestamp)}
