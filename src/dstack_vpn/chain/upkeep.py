"""Upkeep: what is asked from time to time, beside the heads.

I/O. Which blocks are safe or final; and, once an hour and after the dark, whether all members still
are what the contract has. Following is exact by its proofs; a full compare is for what no proof
thought of.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog

from dstack_vpn.chain import calls
from dstack_vpn.chain.agreed import Agreed
from dstack_vpn.chain.alarms import Alarms
from dstack_vpn.chain.calls import Call
from dstack_vpn.chain.header import Header
from dstack_vpn.chain.journal import Journal, Record
from dstack_vpn.chain.kind import Kind
from dstack_vpn.chain.panel import Panel
from dstack_vpn.chain.verify import keep_since
from dstack_vpn.chain.witness import Witness
from dstack_vpn.mesh.membership import Confirmations, Mark, Node, Tag
from dstack_vpn.mesh.snapshot import AlarmCode

log = structlog.get_logger()

COMPARE_EVERY = 3600.0
"""Seconds between two full compares with the contract."""
COMPARE_AGAIN = 10.0
"""Seconds until one that failed is tried again."""
TAG_EVERY = 2.0
"""Seconds between two questions for a tag that admissions wait for."""
FINAL_EVERY = 60.0
"""Seconds between two questions for what is final, where nobody waits for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A full compare that was done."""

    journal: Journal | None
    """The agreed chain put right, up to its present head, when the members differed; else None."""


class Upkeep:
    """What is due from time to time."""

    def __init__(
        self,
        panel: Panel,
        kind: Kind,
        *,
        alarms: Alarms,
        confirmations: Confirmations,
        finality: bool,
        now: Callable[[], float],
    ) -> None:
        """Prepare; the arguments are those of the follower."""
        self.compares = 0
        """Full compares done so far."""
        self._panel = panel
        self._kind = kind
        self._alarms = alarms
        self._now = now
        tags = {confirmations} if isinstance(confirmations, Tag) else set()
        self._tags = sorted(tags | ({Tag.FINALIZED} if finality else set()))
        self._finality = finality
        self._every = TAG_EVERY if tags else FINAL_EVERY
        self._tags_at: float | None = None
        self._compare_at: float | None = None
        self._read_to = 0
        """Newest block whose logs were read a second time."""
        self._turn = 0

    def compare_now(self) -> None:
        """Make a full compare the next thing that is done."""
        self._compare_at = 0.0

    async def read_tags(self, witnesses: Sequence[Witness], agreed: Agreed) -> None:
        """Ask each provider which block it calls safe or final, when that is due.

        What a tag says counts only where its block is on the agreed chain, as far as that is known.
        Providers may differ in it, and it may go back: it is not the same on all machines.
        """
        now = self._now()
        if not self._tags or (self._tags_at is not None and now - self._tags_at < self._every):
            return
        self._tags_at = now
        questions: list[Call[Any]] = [calls.tagged(tag) for tag in self._tags]
        answers = await self._panel.ask(dict.fromkeys(self._panel.providers, questions))
        for witness in witnesses:
            headers: Sequence[Header] = answers.values.get(witness.provider, ())
            for tag, header in zip(self._tags, headers, strict=False):
                block, known = header.block, agreed.journal.at(header.block.number)
                if block.number > agreed.head.block.number:
                    continue
                if known is None or known.block.hash == block.hash:
                    witness.tags[tag] = Mark(block.number, block.hash)
        if self._finality:
            await self._finalize(witnesses, agreed)

    async def _finalize(self, witnesses: Sequence[Witness], agreed: Agreed) -> None:
        """Raise the mark below which nothing is undone to what enough providers call final."""
        marks = {w.name: w.tags[Tag.FINALIZED].number for w in witnesses if Tag.FINALIZED in w.tags}
        level = self._panel.quorum.level(marks)
        old = agreed.finalized
        if level is not None and (old is None or level > old.number):
            agreed.finalized = await self._mark(agreed, int(level))
        if agreed.finalized is not None:
            await self._read_again(agreed, agreed.finalized.number)

    async def _mark(self, agreed: Agreed, number: int) -> Mark:
        """The agreed block of a height, which may be older than the journal."""
        record = agreed.journal.at(number)
        if record is not None:
            return Mark(number, record.block.hash)
        block_hash, _ = await self._panel.settle(
            {provider: [calls.header_at(number)] for provider in self._panel.providers},
            lambda _, value: value[0].block.hash,
            f"block {number}",
        )
        return Mark(number, block_hash)

    async def _read_again(self, agreed: Agreed, last: int) -> None:
        """Read the logs of blocks that became final a second time, from one provider in turn.

        Some providers have answered with too few logs near the head and with all of them later.
        Where it fails, the next provider is asked for the same blocks when the time comes.
        """
        journal = agreed.journal
        first = max(journal.oldest.block.number, self._read_to) + 1
        records = [record for n in range(first, last + 1) if (record := journal.at(n))]
        if not records:
            return
        expected = {r.block.number: r.step.events for r in records if r.step.events}
        provider = self._panel.providers[self._turn % len(self._panel.providers)]
        self._turn += 1
        found = await self._kind.count_events(provider, first, last)
        self._read_to = last
        if found == expected:
            self._alarms.clear(AlarmCode.LOGS_DIFFERED, provider=provider.name)
        else:
            blocks = sorted(
                n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n)
            )
            self._alarms.sound(
                AlarmCode.LOGS_DIFFERED,
                f"{provider.name} has other logs in the final blocks"
                f" {', '.join(map(str, blocks[:5]))} than were followed; all members are compared",
                provider=provider.name,
            )
            self.compare_now()

    async def compare(self, agreed: Agreed) -> Compared | None:
        """Compare all members with the contract at the agreed head, when that is due.

        It takes a while. What was agreed on meanwhile, above all a removal, is put on top of what
        the contract had; where the agreed chain left that block, it stays due.

        Raises:
            ChainError: it could not be done; it stays due.
        """
        now = self._now()
        if self._compare_at is None:
            self._compare_at = now + COMPARE_EVERY
        if now < self._compare_at:
            return None
        self._compare_at = now + COMPARE_AGAIN
        panel, journal = self._panel, agreed.journal
        record, ours = journal.head, journal.nodes
        known = panel.membership(self._kind.name, agreed.head, ours, agreed.finalized)
        source = panel.providers[self._turn % len(panel.providers)]
        self._turn += 1
        stated, nodes = await self._kind.compare(panel, record.block, source, known)
        self._compare_at = self._now() + COMPARE_EVERY
        self.compares += 1
        theirs = {token: keep_since(ours.get(token), node) for token, node in nodes.items()}
        differing = sorted(t for t in ours.keys() | theirs.keys() if ours.get(t) != theirs.get(t))
        if not differing and stated == record.checkpoint:
            self._alarms.clear(AlarmCode.MEMBERS_DIFFERED)
            return Compared(journal=None)
        tokens = ", ".join(map(str, differing[:5])) or "none, but the history"
        self._alarms.sound(
            AlarmCode.MEMBERS_DIFFERED,
            f"a full compare at block {record.block.number} found other tokens than were followed"
            f" ({tokens}); they are taken from the contract",
        )
        kept: dict[int, Node] = {token: node for token, node in theirs.items() if node is not None}
        mended = Journal(record.block, stated, kept, window=journal.window)
        if journal.head is record:
            return Compared(journal=mended)
        self._compare_at = self._now() + COMPARE_AGAIN
        if not record.same(journal.find(record.block.hash)):
            return None
        _follow_up(mended, record, journal)
        return Compared(journal=mended)


def _follow_up(mended: Journal, record: Record, journal: Journal) -> None:
    """Put on top of a block that was put right what a journal has after it."""
    steps, touched = [], set[int]()
    old, new = record.checkpoint, mended.head.checkpoint
    for later in journal.after(record):
        # Where nothing happened, the state is still the one before it.
        new = new if later.checkpoint == old else later.checkpoint
        old = later.checkpoint
        steps.append(replace(later.step, checkpoint=new))
        touched |= later.undo.keys()
    # Not only by the steps: as of when somebody has access may have been decided beside them.
    patch = {token_id: journal.nodes.get(token_id) for token_id in touched}
    mended.replace_after(mended.head, steps, patch)
