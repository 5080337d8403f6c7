"""The agreed chain: what enough providers have told alike, and since when each access has held.

Pure. It moves only where `tally` says, one verified block after another. What is final is never
undone here, and what a reorganisation brings back is as new as the branch that brings it: a
revocation that fell out of the chain is likely to come again.
"""

from collections.abc import Mapping
from dataclasses import replace

from dstack_vpn.chain.journal import Journal, Record
from dstack_vpn.chain.tally import Chains, Move
from dstack_vpn.chain.verify import Changes, Step, apply_changes, keep_since
from dstack_vpn.errors import ChainError
from dstack_vpn.mesh.membership import Mark, Node, Nodes


class PartedError(ChainError):
    """Enough providers went where their chains and ours have nothing in common."""


class FinalityError(ChainError):
    """Enough providers left a block that was final."""


class Agreed:
    """The agreed chain of one follower."""

    def __init__(self, journal: Journal, finalized: Mark | None = None) -> None:
        """Begin at a journal whose only record was agreed on.

        Args:
            journal: from here on owned.
            finalized: newest block that is known to be final.
        """
        self.journal = journal
        self.finalized = finalized

    @property
    def head(self) -> Record:
        """The newest agreed block."""
        return self.journal.head

    def move(self, move: Move, chains: Chains) -> tuple[Record, int]:
        """Go where enough providers are.

        Args:
            move: where.
            chains: of all providers; those of the move's camp are read.

        Returns:
            The newest block that both branches share, and the number of blocks undone.

        Raises:
            PartedError: the camp's chains no longer have a block in common with ours.
            FinalityError: that would undo a final block.
        """
        mine = self.journal
        source, *others = [chains[name] for name in move.camp]
        common = mine.common(source)
        if common is None:
            raise PartedError("enough providers are where no recent block leads")
        if self.finalized is not None and self._undoes(self.finalized, common, move, source):
            raise FinalityError(
                f"enough providers left block {self.finalized.number}"
                f" ({self.finalized.hash[:10]}…), which was final, for a branch that parts at block"
                f" {common.block.number}; nobody is admitted any more. If that branch is the right"
                " one, stop the agent and start once with --reset-state"
            )
        theirs = source.at(common.block.number)
        assert theirs is not None
        steps = [r.step for r in source.after(theirs) if r.block.number <= move.record.block.number]
        before = mine.nodes
        nodes = mine.nodes_at(common)
        kept = []
        for step in steps:
            changes = {t: keep_since(nodes.get(t), node) for t, node in step.changes.items()}
            kept.append(replace(step, changes=changes))
            nodes = apply_changes(nodes, changes)
        undone = mine.after(common)
        patch = _as_new(common, undone, kept, before, nodes) if undone else {}
        patch = {**patch, **_as_others_say(kept, move, others, {**nodes, **patch})}
        mine.keep_from = move.record.block.number
        mine.replace_after(common, kept, patch)
        return common, len(undone)

    def _undoes(self, final: Mark, common: Record, move: Move, source: Journal) -> bool:
        """Whether a move leaves the final block, or comes to another one at its height.

        A chain that begins below it, as after a start, has yet to come to it.
        """
        if common.block.number >= final.number:
            return False
        ours, theirs = self.journal.at(final.number), source.at(final.number)
        if ours is not None:
            return True
        there = theirs is not None and final.number <= move.record.block.number
        return there and theirs is not None and theirs.block.hash != final.hash


def _as_new(
    common: Record,
    undone: list[Record],
    steps: list[Step],
    before: Nodes,
    nodes: Nodes,
) -> Changes:
    """What the change of branch gave access to, with the branch's first block as its age.

    That block is yet to come where the chain was only cut.
    """
    touched = {t for r in undone for t in r.undo} | {t for s in steps for t in s.changes}
    first = common.block.number + 1
    patch: dict[int, Node | None] = {}
    for token_id in touched:
        old, new = before.get(token_id), nodes.get(token_id)
        if new is None or (old is not None and old.access_state == new.access_state):
            continue
        patch[token_id] = replace(new, since_block=max(new.since_block, first))
    return patch


def _as_others_say(
    steps: list[Step], move: Move, others: list[Journal], nodes: Mapping[int, Node | None]
) -> dict[int, Node | None]:
    """What changed, with the latest age that any of the camp gives it.

    They agree on the members at the newest block. Since when they are members is not always part of
    that, and the steps are of one of them only.
    """
    changed = {t for step in steps for t in step.changes}
    patch: dict[int, Node | None] = {}
    if not changed:
        return patch
    for other in others:
        record = other.at(move.record.block.number)
        assert record is not None
        theirs = other.nodes_at(record)
        for token_id in changed:
            ours, said = patch.get(token_id, nodes.get(token_id)), theirs.get(token_id)
            if ours is not None and said is not None and said.since_block > ours.since_block:
                patch[token_id] = replace(ours, since_block=said.since_block)
    return patch
