"""The recent blocks, linked by their parent hashes, and how to get back to each.

Pure. A record holds what its block changed, and for each changed token what was there before; only
the newest node map is kept whole, so that 256 records of a large mesh cost what changed in them.
Anything that does not link is refused; going back is exact.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from dstack_vpn.chain.verify import Changes, Step, apply_changes
from dstack_vpn.errors import BadAnswerError
from dstack_vpn.mesh.membership import Block, BlockHash, Checkpoint, Nodes

WINDOW = 256
"""Blocks kept: 8.5 minutes of Base, whose reorganisations were far shorter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One block of the window."""

    block: Block
    checkpoint: Checkpoint
    undo: Changes
    """What brings the tokens back to those of the block before."""


class Journal:
    """The window of verified blocks; the newest is the head."""

    def __init__(
        self, block: Block, checkpoint: Checkpoint, nodes: Nodes, *, window: int = WINDOW
    ) -> None:
        """Begin at one block, the oldest to which it can ever go back."""
        self._records = deque([Record(block=block, checkpoint=checkpoint, undo={})])
        self._nodes = nodes
        self._window = window

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

    def find(self, block_hash: BlockHash) -> Record | None:
        """The record of a block, or None when it is not in the window."""
        # From the newest: nearly always it is the last or the last but one.
        return next((r for r in reversed(self._records) if r.block.hash == block_hash), None)

    def nodes_at(self, record: Record) -> Nodes:
        """The tokens at the end of a record's block."""
        nodes = self._nodes
        for newer in reversed(self._records):
            if newer is record:
                return nodes
            nodes = apply_changes(nodes, newer.undo)
        raise ValueError("the record is not in the window")

    def replace_after(self, record: Record, steps: Sequence[Step]) -> int:
        """Go back to a record and on by verified steps; nothing happens when they do not link.

        Returns:
            The number of blocks undone.

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
        undone = 0
        while self._records[-1] is not record:
            self._records.pop()
            undone += 1
        for step in steps:
            undo = {token_id: nodes.get(token_id) for token_id in step.changes}
            nodes = apply_changes(nodes, step.changes)
            self._records.append(Record(block=step.block, checkpoint=step.checkpoint, undo=undo))
        self._nodes = nodes
        while len(self._records) > self._window:
            self._records.popleft()
        return undone
