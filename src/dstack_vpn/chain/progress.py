"""Progress: when the agreed head was last confirmed, and up to which block admissions count.

Pure, on monotonic seconds that it is given. Two things are told apart: how long ago enough
providers were last seen at the agreed head (then it gets dark), and how long ago that head became
another one (then the chain is halted).
"""

from collections.abc import Collection, Iterable

from dstack_vpn.chain.agreed import Agreed
from dstack_vpn.chain.journal import Journal, Record
from dstack_vpn.chain.quorum import Quorum
from dstack_vpn.chain.witness import Witness
from dstack_vpn.mesh.membership import Confirmations, Mark, Membership, Tag


class Progress:
    """How far one follower has come."""

    def __init__(self, quorum: Quorum, *, confirmations: Confirmations, dark_after: float) -> None:
        """Begin with nothing; the arguments are those of the follower."""
        self.agreed_at: float | None = None
        """Monotonic seconds at which enough providers last confirmed the agreed head."""
        self.advanced_at: float | None = None
        """Monotonic seconds at which it last became another one."""
        self.confirmed: int | None = None
        """Admissions count up to this block; None: none does."""
        self.recovering = False
        """It was dark, and no full compare has been done since: nobody is admitted."""
        self._quorum = quorum
        self._confirmations = confirmations
        self._dark_after = dark_after
        self._noted: Record | None = None
        self._confirmed_at: dict[str, float] = {}

    def adopt(self, saved: Membership) -> None:
        """Let those admissions count that counted when a membership was saved."""
        if not isinstance(self._confirmations, Tag):
            self.confirmed = saved.block.number - self._confirmations
        elif saved.finalized is not None:
            self.confirmed = saved.finalized.number

    def go_back(self, kept: int) -> None:
        """A reorganisation left all blocks above one: admissions there are new."""
        if self.confirmed is not None:
            self.confirmed = min(self.confirmed, kept)

    def note(
        self, agreed: Agreed, witnesses: Iterable[Witness], supporters: Collection[str]
    ) -> float | None:
        """Take note of who has seen the agreed head, and when.

        Whoever goes past it confirms it no longer. A head that rises without enough others is no
        agreement, whether they stay behind or go elsewhere: it is dark, and not a standstill.

        Args:
            agreed: the agreed chain.
            witnesses: all of them.
            supporters: names of those whose chain has the agreed head.

        Returns:
            For how many seconds it was dark, when that is over now.
        """
        arrived = agreed.head is not self._noted
        self._noted = agreed.head
        for witness in witnesses:
            there = arrived or (witness.journal and witness.journal.head.same(agreed.head))
            if witness.name in supporters and there and witness.seen_at is not None:
                self._confirmed_at[witness.name] = witness.seen_at
        seen = {name: at for name, at in self._confirmed_at.items() if name in supporters}
        level, before = self._quorum.level(seen), self.agreed_at
        if level is None or (before is not None and level <= before):
            return None
        self.agreed_at = level
        if before is None or level - before <= self._dark_after:
            return None
        self.recovering = True
        return level - before

    def confirm(self, agreed: Agreed, witnesses: Iterable[Witness]) -> None:
        """Let admissions count up to where they are deep enough, or have the tag."""
        if self.recovering:
            return
        level: float | None
        if isinstance(self._confirmations, Tag):
            tag = self._confirmations
            marks = {w.name: w.tags[tag] for w in witnesses if tag in w.tags}
            level = self._quorum.level(
                {name: mark.number for name, mark in marks.items() if _holds(mark, agreed.journal)}
            )
        else:
            level = agreed.head.block.number - self._confirmations
        if level is not None and (self.confirmed is None or level > self.confirmed):
            self.confirmed = int(level)


def _holds(mark: Mark, journal: Journal) -> bool:
    """Whether a block is on the agreed chain, as far as that is known.

    It is not where a reorganisation came after it was told.
    """
    record = journal.at(mark.number)
    if record is None:
        return mark.number < journal.oldest.block.number
    return record.block.hash == mark.hash
