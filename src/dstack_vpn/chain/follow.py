"""The follower: from the configured providers to one membership that is always current.

I/O, and the only part that the reconciler knows: `start` once, then `poll` and `wait` in turn. It
decides which block to go to and what to do when that cannot be; `advance` and `pages` read, the
pure modules check. Errors of the chain never escape from `poll`: what is known stays in force, and
the view says why nothing new came.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from dstack_vpn.chain import calls
from dstack_vpn.chain.advance import Advance, OutOfWindowError, UnprovenError
from dstack_vpn.chain.header import Header
from dstack_vpn.chain.journal import WINDOW, Journal
from dstack_vpn.chain.pages import MAX_TOKENS, PAGE, SnapshotReader
from dstack_vpn.chain.panel import Answers, ChainIdentity, Panel
from dstack_vpn.chain.rpc import Provider
from dstack_vpn.errors import ChainError, WrongChainError
from dstack_vpn.mesh.membership import NO_NODES, Address, Block, Checkpoint, Membership
from dstack_vpn.mesh.snapshot import ChainView

log = structlog.get_logger()

PATIENCE_PER_CONFIRMATION = 12.0
"""Seconds; see `rollback_patience`."""

SHORTEST_PAUSE = 0.02
"""Seconds between two polls, so that a flood of wake-ups is not a flood of requests."""

_UNPROVEN_LIMIT = 2


class Follower:
    """Follows one contract on one chain."""

    def __init__(
        self,
        *,
        providers: Sequence[Provider],
        chain_id: int,
        contract: Address,
        confirmations: int,
        contract_wait: float = 0.0,
        quorum: int | None = None,
        rollback_patience: float | None = None,
    ) -> None:
        """Prepare, without traffic.

        Args:
            providers: at least one.
            chain_id: EIP-155 id that each of them must have.
            contract: the membership contract.
            confirmations: blocks below the head at which a snapshot is taken, so that its members
                count as confirmed; 0 or more.
            contract_wait: seconds for which a contract that was never there is a temporary error.
            quorum: hosts that must agree; all by default.
            rollback_patience: seconds for which nobody may have our newest block, while the chain
                is shorter than it, before we go back. Real chains get longer again at once, and
                what looks shorter is mostly a node that is behind; going back to it would let
                revoked members in again. The default is 12 s a confirmation: a minute on Base, and
                nothing on a local chain, where a tool rolls back on purpose.
        """
        self._panel = Panel(
            providers,
            chain_id=chain_id,
            contract=contract,
            contract_wait=contract_wait,
            needed=quorum,
        )
        self._confirmations = confirmations
        self._patience = (
            PATIENCE_PER_CONFIRMATION * confirmations
            if rollback_patience is None
            else rollback_patience
        )
        self._window = max(WINDOW, 2 * confirmations)
        self._saved: Membership | None = None
        self._journal: Journal | None = None
        self._membership: Membership | None = None
        self._agreed_at: float | None = None
        self._last_error: str | None = None
        self._reorgs = 0
        self._resyncs = 0
        self._unproven = 0
        self._turn = 0
        self._shorter_since: float | None = None
        self._polled_at = 0.0
        self._wake = asyncio.Event()
        for provider in providers:
            provider.on_wake = self._wake.set

    @property
    def view(self) -> ChainView:
        """What is known at this moment."""
        return ChainView(
            membership=self._membership,
            verified=self._journal is not None,
            agreed_at=self._agreed_at,
            providers=tuple(provider.status for provider in self._panel.providers),
            last_error=self._last_error,
            reorgs=self._reorgs,
            resyncs=self._resyncs,
        )

    async def start(self, saved: Membership | None) -> Membership:
        """Find the current membership; with a saved one that is still right, in one round trip.

        After a temporary error the view holds the saved membership, not verified, and `poll` goes
        on trying.

        Args:
            saved: what was last verified, from this node's disk.

        Raises:
            WrongChainError: a provider, the contract or the saved state is not of this chain.
            ChainError: no provider, or not enough of them, gave a usable answer.
        """
        if saved is not None:
            self._adopt(saved)
        try:
            await self._begin()
        except ChainError as error:
            self._note(error)
            raise
        assert self._membership is not None
        return self._membership

    async def poll(self) -> ChainView:
        """Look once, and follow the chain to the newest block on which the providers agree.

        Raises:
            WrongChainError: nothing has been verified yet, and a provider is of another chain.
        """
        # Cleared before anything is read: a wake-up that comes now leads to another poll.
        self._wake.clear()
        try:
            await self._poll()
        except ChainError as error:
            self._note(error)
        except WrongChainError as error:
            # Once verified, this is a provider gone wrong, not a mistake of the user: whoever can
            # make one provider lie must not end every node. What is known is held.
            if self._journal is None:
                raise
            self._note(error)
        self._polled_at = self._now()
        return self.view

    async def wait(self, timeout: float) -> None:  # noqa: ASYNC109 - the longest wait is its point
        """Return when a provider tells of something new, at the latest after so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._wake.wait()
                await asyncio.sleep(self._polled_at + SHORTEST_PAUSE - self._now())

    async def aclose(self) -> None:
        """Close all connections."""
        for provider in self._panel.providers:
            await provider.aclose()

    def _adopt(self, saved: Membership) -> None:
        panel = self._panel
        if (saved.chain_id, saved.contract) != (panel.chain_id, panel.contract):
            raise WrongChainError(
                f"the saved state is of contract {saved.contract} on chain id {saved.chain_id},"
                f" but this node is configured for {panel.contract} on chain id"
                f" {panel.chain_id}; if that is right, start once with --reset-state"
            )
        panel.identity = ChainIdentity(saved.genesis, saved.code_hash)
        self._saved = self._membership = saved

    async def _begin(self) -> None:
        saved = self._saved
        openings, answers = await self._panel.open(_questions(self._panel.contract, saved))
        said = {p.name: (o.head.block, o.checkpoint, o.extras) for p, o in openings.items()}
        agreed = self._panel.quorum.agreed(said)
        if saved and agreed and _is_current(saved, *agreed):
            journal = Journal(agreed[0], saved.checkpoint, saved.nodes, window=self._window)
            self._commit(journal, 0)
            return
        heads = {provider: opening.head for provider, opening in openings.items()}
        target = self._target(heads, answers)
        if saved and target.block.number < saved.block.number:
            await self._allow_shorter(saved.block, target.block)
        # Not by the logs since then: they would prove what changed, not what the disk holds.
        await self._resync(target, heads, known=saved)

    async def _poll(self) -> None:
        journal = self._journal
        if journal is None:
            await self._begin()
            return
        told = self._told_heads(journal.head.block)
        if told:
            # Whoever told of it has it; perhaps the others have it too. If not, ask them all.
            target = min(told.values(), key=lambda head: head.block.number)
            try:
                await self._go(journal, target, told)
            except ChainError as error:
                log.debug("chain.hint_failed", reason=str(error))
            else:
                return
        heads, answers = await self._panel.heads()
        await self._go(journal, self._target(heads, answers), heads)

    def _told_heads(self, head: Block) -> dict[Provider, Header]:
        """Newer heads that providers told unasked, if that can spare asking for them."""
        told = {p: header for p in self._panel.providers if (header := p.take_head())}
        if not all(self._panel.checked(p) for p in self._panel.providers):
            return {}
        for provider, header in told.items():
            provider.head = header.block.number
        return {p: header for p, header in told.items() if header.block.number > head.number}

    def _target(self, heads: Mapping[Provider, Header], answers: Answers) -> Header:
        target = self._panel.quorum.target({p.name: h.block for p, h in heads.items()})
        if target is None:
            answers.raise_first()
            raise ChainError("too few providers answered")
        return next(header for header in heads.values() if header.block == target)

    async def _go(self, journal: Journal, target: Header, heads: Mapping[Provider, Header]) -> None:
        """Make the target the newest verified block, or raise why not."""
        head = journal.head.block
        if target.block == head:
            await self._confirm(head, heads)
            self._commit(journal, 0)
            return
        if target.block.number < head.number:
            await self._allow_shorter(head, target.block)
        try:
            undone = await Advance(self._panel, journal, target, heads).run(
                self._source(target, heads)
            )
        except UnprovenError as error:
            self._unproven += 1
            log.warning("chain.unproven", check=error.check, reason=str(error))
            if self._unproven < _UNPROVEN_LIMIT:
                raise
            log.error("chain.resync", reason="the logs were not proven twice")
        except OutOfWindowError as error:
            log.error("chain.resync", reason=str(error))
        else:
            self._commit(journal, undone)
            return
        # Whatever led here, it may be that a provider is no longer what it was.
        self._panel.distrust()
        heads, answers = await self._panel.heads()
        target = self._target(heads, answers)
        if target.block.number < head.number:
            await self._allow_shorter(head, target.block)
        await self._resync(target, heads, known=self._membership)

    async def _confirm(self, block: Block, heads: Mapping[Provider, Header]) -> None:
        """Ask whoever is further whether a block is on his chain."""
        others = [p for p in heads if heads[p].block != block]
        answers = await self._panel.ask(
            {p: [calls.header_at_or_none(block.number)] for p in others}
        )
        said = {p: value[0] and value[0].block.hash for p, value in answers.values.items()}
        said |= {p: block.hash for p in heads if p not in others}
        agreed = self._panel.agree(said, f"block {block.number}", answers)
        if agreed != block.hash:
            raise ChainError(f"block {block.number} was replaced while it was read")

    async def _allow_shorter(self, head: Block, target: Block) -> None:
        """Return if the chain was really cut; raise while providers may only be behind.

        A lower head is no reorganisation: who has our newest block in its place on his chain shows
        that it still counts, and then we wait for the others.
        """
        question = calls.header_at_or_none(head.number)
        answers = await self._panel.ask({p: [question] for p in self._panel.providers})
        behind = ChainError(
            f"the newest block of the providers is {target.number}, behind block {head.number},"
            " which is verified"
        )
        hashes = [value[0].block.hash for value in answers.values.values() if value[0]]
        if head.hash in hashes:
            self._shorter_since = None
            raise behind
        answers.raise_first()
        now = self._now()
        if self._shorter_since is None:
            self._shorter_since = now
        if now - self._shorter_since < self._patience:
            raise behind

    async def _resync(
        self, target: Header, heads: Mapping[Provider, Header], known: Membership | None
    ) -> None:
        """Read a snapshot below the target and follow the logs from there.

        Args:
            target: where to arrive.
            heads: the newest block of each provider.
            known: tokens that may still be right; none of them is used unless the providers
                confirm the digest of its page.
        """
        source = self._source(target, heads)
        base = target
        if self._confirmations:
            number = max(0, target.block.number - self._confirmations)
            (base,) = await source.batch([calls.header_at(number)])
        # The age of access that is younger than the snapshot would be wrong in it.
        usable = known is not None and known.block.number <= base.block.number
        nodes = known.nodes if known is not None and usable else NO_NODES
        reader = SnapshotReader(self._panel, base.block, source, nodes)
        stated, nodes = await reader.read()
        journal = Journal(base.block, stated, nodes, window=self._window)
        if base.block != target.block:
            await Advance(self._panel, journal, target, heads).run(source)
        else:
            await self._confirm(target.block, heads)
        self._resyncs += 1
        log.info("chain.snapshot", block=base.block.number, tokens=len(nodes))
        self._commit(journal, 0)

    def _source(self, target: Header, heads: Mapping[Provider, Header]) -> Provider:
        """One that has the target, in the order of the settings; another one after a failure."""
        able = [p for p in self._panel.providers if p in heads and heads[p].block == target.block]
        return able[self._turn % len(able)]

    def _commit(self, journal: Journal, undone: int) -> None:
        """The journal's head is verified and agreed on: show it."""
        panel, head = self._panel, journal.head
        assert panel.identity is not None
        self._journal = journal
        self._agreed_at = self._now()
        if self._last_error is not None:
            log.info("chain.progress", block=head.block.number)
        self._last_error = None
        self._shorter_since = None
        self._unproven = 0
        if undone:
            self._reorgs += 1
            log.warning("chain.reorg", depth=undone, block=head.block.number)
        old = self._membership
        if old and old.block == head.block and old.nodes is journal.nodes:
            return
        self._membership = Membership(
            chain_id=panel.chain_id,
            contract=panel.contract,
            genesis=panel.identity.genesis,
            code_hash=panel.identity.code_hash,
            block=head.block,
            checkpoint=head.checkpoint,
            nodes=journal.nodes,
        )

    def _note(self, error: ChainError | WrongChainError) -> None:
        self._turn += 1
        text = str(error)
        if text != self._last_error:
            log.warning("chain.no_progress", reason=text)
        self._last_error = text

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _questions(contract: Address, saved: Membership | None) -> list[calls.Call[Any]]:
    """What confirms the saved tokens at the newest block: how many there are, and their digests."""
    last = max(saved.nodes, default=0) if saved else 0
    if saved is None or last > MAX_TOKENS:
        return []
    pages = [calls.page_digest(contract, "latest", i, PAGE) for i in range(1, last + 1, PAGE)]
    return [calls.next_token_id(contract, "latest"), *pages]


def _is_current(
    saved: Membership, block: Block, stated: Checkpoint | None, answers: tuple[Any, ...]
) -> bool:
    """Whether a saved membership is still right at a block.

    Equal histories: whatever blocks came in between, they changed nothing. And the digests show
    that what comes from the disk is what the contract has.
    """
    if block.number < saved.block.number or stated != saved.checkpoint:
        return False
    next_id, *digests = answers or (None,)
    if type(next_id) is not int or next_id - 1 > PAGE * len(digests):
        return False
    nodes = saved.nodes
    return digests == [
        calls.digest_of([nodes.get(i) for i in range(first, min(first + PAGE, next_id))])
        for first in range(1, 1 + PAGE * len(digests), PAGE)
    ]
