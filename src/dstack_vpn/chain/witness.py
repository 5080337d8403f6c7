"""A witness: what one provider shows, followed by itself and verified, whatever others say.

I/O. Each look asks the provider for its newest block (or takes the one that it told) and follows
its chain there, so that a provider that is slow, silent or false holds up nobody but itself. What
a witness has seen is one voice; `tally` decides what the voices amount to.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from dstack_vpn.chain import calls
from dstack_vpn.chain.advance import Advance, OutOfWindowError
from dstack_vpn.chain.header import Header
from dstack_vpn.chain.journal import Journal
from dstack_vpn.chain.kind import Kind, UnprovenError
from dstack_vpn.chain.panel import Panel
from dstack_vpn.chain.rpc import Provider
from dstack_vpn.errors import ChainError, WrongChainError
from dstack_vpn.mesh.membership import NO_SUSPECTS, Block, BlockHash, Mark, Suspects, Tag
from dstack_vpn.mesh.snapshot import ProviderStatus

log = structlog.get_logger()

BURST = 3
"""Looks that may follow each other at once; so that a flood of wake-ups is no flood of requests,"""
SHORTEST_PAUSE = 0.02
"""more of them are so many seconds apart."""

MOST_AHEAD = 16_384
"""Blocks by which it may be ahead of what is agreed on: nine hours of Base. Nothing of them is
forgotten, since what it says against a member counts until enough others say otherwise."""

_UNPROVEN_LIMIT = 2


@dataclass(frozen=True, slots=True)
class Stand:
    """Where a witness is."""

    journal: Journal | None
    asked: bool
    lost: bool
    error: str | None
    left: tuple[BlockHash, ...]


class Witness:
    """One provider's chain."""

    def __init__(
        self,
        provider: Provider,
        *,
        panel: Panel,
        kind: Kind,
        patience: float,
        now: Callable[[], float],
    ) -> None:
        """Prepare, without traffic.

        Args:
            provider: who is followed.
            panel: that it sits on, which knows who it must be.
            kind: of the contract.
            patience: seconds for which it may be behind its own newest block before we go back.
            now: monotonic seconds.
        """
        self.provider = provider
        self.name = provider.name
        self.journal: Journal | None = None
        """Its chain; None before it has shown one that follows from what was agreed on."""
        self.seen_at: float | None = None
        """Monotonic seconds of its last usable answer about its newest block."""
        self.looks = 0
        """Usable answers about its newest block so far."""
        self.error: str | None = None
        """Why the last look brought nothing, or None."""
        self.asked = False
        """It has been followed since it last began anew."""
        self.rebased_at = 0
        """Number of the block from which it last began anew."""
        self.lost = False
        """It went where its journal cannot follow."""
        self.left: deque[BlockHash] = deque(maxlen=4096)
        """Blocks that it once had and went back from."""
        self.tags: dict[Tag, Mark] = {}
        """The newest block that it calls safe, or finalized."""
        self.accusations: Suspects = NO_SUSPECTS
        """What it said last against members, beyond what is agreed on."""
        self.withdrawn: deque[float] = deque()
        """Monotonic seconds at which it left a branch on which it had accused somebody."""
        self.quarantined_until: float | None = None
        """Monotonic seconds until which its word alone removes nobody."""
        self.quarantines = 0
        """Times that it was quarantined so far."""
        self._panel = panel
        self._kind = kind
        self._patience = patience
        self._now = now
        self._unproven = 0
        self._shorter_since: float | None = None
        self._burst: deque[float] = deque(maxlen=BURST)
        self._wake = asyncio.Event()
        provider.on_wake = self._wake.set

    @property
    def head(self) -> Block | None:
        """Its newest verified block."""
        return self.journal.head.block if self.journal else None

    def status(self, *, voter: str, agrees: bool) -> ProviderStatus:
        """How it does.

        Args:
            voter: whose vote it is part of.
            agrees: its chain has the agreed block, with the same members in it.
        """
        head = self.head
        plain = self.provider.status
        return replace(
            plain,
            healthy=plain.healthy and self.error is None,
            last_error=self.error or plain.last_error,
            voter=voter,
            head_hash=head.hash if head else None,
            agrees=agrees,
            seen_at=self.seen_at,
            quarantined_until=self.quarantined_until,
        )

    @property
    def stand(self) -> Stand:
        """Where it is, to be set again when beginning anew came to nothing."""
        return Stand(self.journal, self.asked, self.lost, self.error, tuple(self.left))

    @stand.setter
    def stand(self, stand: Stand) -> None:
        self.journal, self.asked = stand.journal, stand.asked
        self.lost, self.error = stand.lost, stand.error
        self.left.clear()
        self.left.extend(stand.left)

    def rebase(self, journal: Journal) -> None:
        """Begin anew on a chain that was agreed on."""
        self.journal = journal.copy()
        self.rebased_at = journal.head.block.number
        self.asked = False
        self.lost = False
        self.error = None
        self.left.clear()
        self._unproven = 0
        self._shorter_since = None

    def quarantine(self, length: float) -> None:
        """Let its word alone remove nobody for so many seconds."""
        self.quarantines += 1
        self.withdrawn.clear()
        self.quarantined_until = self._now() + length

    def quarantined(self, now: float) -> bool:
        """Whether its word alone removes nobody at present."""
        return self.quarantined_until is not None and now < self.quarantined_until

    async def look(self, agreed: Journal, *, disputed: bool = False) -> None:
        """Ask once, and follow its chain to its newest block; what is wrong is kept in `error`.

        Args:
            agreed: the agreed chain. Where its own does not lead on, because something false was
                told before, it may still have come from there.
            disputed: providers contradict each other, so that what it told of its blocks since then
                is asked once more.
        """
        # Cleared before anything is read: a wake-up that comes now leads to another look.
        self._wake.clear()
        self._burst.append(asyncio.get_running_loop().time())
        journal = self.journal
        assert journal is not None
        failed: ChainError | WrongChainError | None = None
        try:
            again = await self._look_from(journal, agreed, disputed=disputed)
        except (ChainError, WrongChainError) as error:
            again, failed = journal, error
        if journal is not self.journal:
            # Begun anew meanwhile: what was asked before says nothing of where it is now.
            return
        if failed is not None:
            self._fail(failed)
            return
        self.journal = again
        self._unproven = 0
        self.lost = False
        self.asked = True
        self.looks += 1
        self.seen_at = self._now()
        if self.error is not None:
            log.info("chain.provider_back", provider=self.name)
        self.error = None

    async def wait(self, longest: float) -> None:
        """Return when the provider tells of something new, at the latest after so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest):
                await self._wake.wait()
                if len(self._burst) == BURST:
                    pause = self._burst[0] + BURST * SHORTEST_PAUSE
                    await asyncio.sleep(pause - asyncio.get_running_loop().time())

    async def follow(self, target: Header) -> None:
        """Follow its chain to a block that it showed.

        Raises:
            ChainError: why not.
        """
        assert self.journal is not None
        await self._go(self.journal, target)
        self.asked = True
        self.seen_at = self._now()

    async def _look_from(self, journal: Journal, agreed: Journal, *, disputed: bool) -> Journal:
        """Follow its chain from where it is, or from what is agreed on; the journal that led on."""
        elsewhere = not agreed.head.same(journal.head)
        if not (disputed and elsewhere):
            try:
                await self._look(journal)
            except UnprovenError:
                if not elsewhere:
                    raise
            else:
                return journal
        again = agreed.copy()
        target = await self._panel.head_of(self.provider)
        # A machine that is late must not make it forget what another one told.
        head = journal.head.block
        if target.block.number < head.number and not await self._was_cut(head, target.block):
            return journal
        await self._go(again, target)
        return again

    async def _look(self, journal: Journal) -> None:
        told = self.provider.take_head()
        newer = told is not None and told.block.number > journal.head.block.number
        # A head that was told spares the question for it, unless it is time to check who tells.
        usable = newer and self._panel.checked(self.provider)
        if told is not None and usable and await self._take_hint(journal, told):
            return
        await self._go(journal, await self._panel.head_of(self.provider))

    async def _take_hint(self, journal: Journal, told: Header) -> bool:
        self.provider.found_head(told.block.number)
        try:
            await self._go(journal, told)
        except ChainError as error:
            log.debug("chain.hint_failed", provider=self.name, reason=str(error))
            return False
        return True

    async def _go(self, journal: Journal, target: Header) -> None:
        head = journal.head.block
        if target.block.hash == head.hash:
            self._shorter_since = None
            return
        if target.block.number < head.number and not await self._was_cut(head, target.block):
            return
        if target.block.number - journal.keep_from > MOST_AHEAD:
            raise ChainError(f"{self.name} is too far ahead of what is agreed on")
        undone = await Advance(self.provider, self._kind, journal, target).run()
        self._shorter_since = None
        # Said again once it is back: it may go back to where it came from.
        self.left.extend(r.block.hash for r in undone if journal.find(r.block.hash) is None)

    async def _was_cut(self, head: Block, target: Block) -> bool:
        """Whether its chain really became shorter; raises while it may only be behind.

        A lower head is no reorganisation: behind one URL there may be many machines, and one of
        them may be late. If our newest block is still in its place, nothing has happened.
        """
        (now_there,) = await self.provider.batch([calls.header_at_or_none(head.number)])
        if now_there is not None and now_there.block.hash == head.hash:
            self._shorter_since = None
            return False
        now = self._now()
        if self._shorter_since is None:
            self._shorter_since = now
        if now - self._shorter_since < self._patience:
            raise ChainError(
                f"{self.name} is at block {target.number}, behind block {head.number}, which is"
                " verified"
            )
        return True

    def _fail(self, error: ChainError | WrongChainError) -> None:
        text = str(error)
        if text != self.error:
            log.warning("chain.no_progress", provider=self.name, reason=text)
        self.error = text
        lost = isinstance(error, OutOfWindowError)
        if isinstance(error, UnprovenError):
            self._unproven += 1
            log.warning("chain.unproven", provider=self.name, check=error.check, reason=text)
            lost = self._unproven >= _UNPROVEN_LIMIT
        if lost and not self.lost:
            log.error("chain.lost", provider=self.name, reason=text)
        self.lost = self.lost or lost
