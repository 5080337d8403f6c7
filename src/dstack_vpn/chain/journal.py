"""The recent blocks of one chain, linked by their parent hashes, and how to get back to each.

Pure. A record holds what its block changed, and for each changed token what was there before; only
the newest node map is kept whole, so that hundreds of records of a large mesh cost what changed in
them. Anything that does not link is refused; going back is exact.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from dstack_vpn.chain.verify import Changes, Step, apply_changes
from dstack_vpn.errors import BadAnswerError
from dstack_vpn.mesh.membership import Block, BlockHash, Checkpoint, Nodes

WINDOW = 256
"""Blocks kept: 8.5 minutes of Base, whose reorganisations were far shorter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One block of the window."""

    step: Step
    undo: Changes
    """What brings the tokens back to those of the block before."""

    @property
    def block(self) -> Block:
        """The block."""
        return self.step.block

    @property
    def checkpoint(self) -> Checkpoint:
        """The contract's state at its end."""
        return self.step.checkpoint

    def same(self, other: "Record | None") -> bool:
        """Whether another record is of the same block with the same state of the contract."""
        return (
            other is not None
            and self.block.hash == other.block.hash
            and self.checkpoint == other.checkpoint
        )


class Journal:
    """The window of verified blocks; the newest is the head."""

    def __init__(
        self, block: Block, checkpoint: Checkpoint, nodes: Nodes, *, window: int = WINDOW
    ) -> None:
        """Begin at one block, the oldest to which it can ever go back."""
        first = Record(step=Step(block=block, checkpoint=checkpoint, changes={}), undo={})
        self._records = deque([first])
        self._numbers = {block.hash: block.number}
        self._nodes = nodes
        self._window = window
        self.keep_from = block.number
        """Height from which on nothing is forgotten, however long the window would be."""

    def copy(self) -> "Journal":
        """Another journal of the same blocks, which goes its own way from here."""
        other = Journal(self.head.block, self.head.checkpoint, self._nodes, window=self._window)
        other._records = self._records.copy()
        other._numbers = self._numbers.copy()
        other.keep_from = self.keep_from
        return other

    @property
    def head(self) -> Record:
        """The newest record."""
        return self._records[-1]

    @property
    def oldest(self) -> Record:
        """The oldest record."""
        return self._records[0]

    @property
    def nodes(self) -> Nodes:
        """The tokens at the head. The mapping is never changed, only replaced."""
        return self._nodes

    @property
    def window(self) -> int:
        """The number of blocks that can be kept."""
        return self._window

    def at(self, number: int) -> Record | None:
        """The record of a height, or None when it is not in the window."""
        place = number - self._records[0].block.number
        if not 0 <= place < len(self._records):
            return None
        # From the nearer end: a deque is a chain, and nearly always it is one of the last.
        return self._records[place - len(self._records)]

    def find(self, block_hash: BlockHash) -> Record | None:
        """The record of a block, or None when it is not in the window."""
        number = self._numbers.get(block_hash)
        return None if number is None else self.at(number)

    def nodes_at(self, record: Record) -> Nodes:
        """The tokens at the end of a record's block."""
        nodes = self._nodes
        for newer in reversed(self._records):
            if newer is record:
                return nodes
            nodes = apply_changes(nodes, newer.undo)
        raise ValueError("the record is not in the window")

    def after(self, record: Record) -> list[Record]:
        """The records that follow one, oldest first."""
        length = self.head.block.number - record.block.number
        return list(islice(self._records, len(self._records) - length, None))

    def common(self, other: "Journal") -> Record | None:
        """Our newest record whose block and state the other journal has too."""
        number = min(self.head.block.number, other.head.block.number)
        while (mine := self.at(number)) is not None and (theirs := other.at(number)) is not None:
            if mine.same(theirs):
                return mine
            number -= 1
        return None

    def replace_after(
        self, record: Record, steps: Sequence[Step], patch: Changes | None = None
    ) -> list[Record]:
        """Go back to a record and on by verified steps; nothing happens when they do not link.

        Args:
            record: where to go back to.
            steps: what follows it, oldest first.
            patch: tokens to be replaced at the new head, beside what the steps change.

        Returns:
            The records undone, newest first.

        Raises:
            BadAnswerError: a step does not follow the one before it.
        """
        parent = record.block
        for step in steps:
            if step.block.parent_hash != parent.hash or step.block.number != parent.number + 1:
                raise BadAnswerError(
                    "parent", f"block {step.block.number} does not follow block {parent.number}"
                )
            parent = step.block
        nodes = self.nodes_at(record)
        undone = []
        while self._records[-1] is not record:
            undone.append(self._pop())
        if undone:
            # Where two chains part must be known as long as they are compared.
            self.keep_from = min(self.keep_from, record.block.number)
        for step in steps:
            undo = {token_id: nodes.get(token_id) for token_id in step.changes}
            nodes = apply_changes(nodes, step.changes)
            self._push(Record(step=step, undo=undo))
        if patch:
            last = self._pop()
            undo = {token_id: nodes.get(token_id) for token_id in patch} | dict(last.undo)
            nodes = apply_changes(nodes, patch)
            self._push(Record(step=last.step, undo=undo))
        self._nodes = nodes
        while len(self._records) > self._window and self.oldest.block.number < self.keep_from:
            del self._numbers[self._records.popleft().block.hash]
        return undone

    def _push(self, record: Record) -> None:
        self._records.append(record)
        self._numbers[record.block.hash] = record.block.number

    def _pop(self) -> Record:
        record = self._records.pop()
        del self._numbers[record.block.hash]
        return record
