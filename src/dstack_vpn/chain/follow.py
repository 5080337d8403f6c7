"""The follower: from the configured providers to one membership that is always current.

I/O, and the only part that the reconciler knows. One witness follows each provider; after each look
the tally tells what enough of them have seen alike (who may be in) and what any of them says
against a member (who must be out). Errors of the chain never escape: what is known stays in force,
and the view says why nothing new came.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence

import structlog

from dstack_vpn.chain import tally
from dstack_vpn.chain.agreed import Agreed, FinalityError, PartedError
from dstack_vpn.chain.alarms import Alarms
from dstack_vpn.chain.arrival import follow_until
from dstack_vpn.chain.checkpoint_kind import CheckpointContract
from dstack_vpn.chain.distrust import Distrust
from dstack_vpn.chain.header import Header
from dstack_vpn.chain.journal import WINDOW, Journal
from dstack_vpn.chain.kind import Kind
from dstack_vpn.chain.opening import Opener
from dstack_vpn.chain.panel import ChainIdentity, Panel
from dstack_vpn.chain.progress import Progress
from dstack_vpn.chain.rpc import Provider
from dstack_vpn.chain.upkeep import Upkeep
from dstack_vpn.chain.witness import Witness
from dstack_vpn.errors import ChainError, WrongChainError
from dstack_vpn.mesh.membership import Address, Confirmations, Membership, Suspects, Tag
from dstack_vpn.mesh.snapshot import AlarmCode, ChainView, ProviderStatus

log = structlog.get_logger()

PATIENCE_PER_CONFIRMATION = 12.0
"""Seconds; see `rollback_patience`."""

ARRIVAL = 5.0
"""Seconds for which looks may be held up by a start anew."""

DEEP_WINDOW = 1024
"""Blocks kept where blocks become final: 34 minutes of Base, where that takes 15 to 20."""


class Follower:
    """Follows one contract on one chain."""

    def __init__(
        self,
        *,
        providers: Sequence[Provider],
        chain_id: int,
        contract: Address,
        confirmations: Confirmations,
        contract_wait: float = 0.0,
        quorum: int | None = None,
        voters: Sequence[str] | None = None,
        kind: Kind | None = None,
        rollback_patience: float | None = None,
        finality: bool = False,
        dark_after: float = 60.0,
        now: Callable[[], float] | None = None,
    ) -> None:
        """Prepare, without traffic.

        Args:
            providers: at least one.
            chain_id: EIP-155 id that each of them must have.
            contract: the membership contract.
            confirmations: blocks on top of an admission before it counts, 0 or more, or the tag
                that its block must have.
            contract_wait: seconds for which a contract that was never there is a temporary error.
            quorum: votes that must agree; all by default.
            voters: whose vote each provider is part of, in their order; its host by default.
            kind: of the contract; ours by default.
            rollback_patience: seconds for which a provider may be behind its own newest block
                before its chain is taken to be shorter. Real chains get longer again at once, and
                what looks shorter is mostly a machine that is late. The default is 12 s a
                confirmation: a minute on Base, and nothing on a local chain, where a tool rolls
                back on purpose.
            finality: whether blocks become final on this chain, and are then never left.
            dark_after: seconds without an agreed head after which a full compare comes before any
                admission.
            now: monotonic seconds; those of the running loop by default.
        """
        self._now = now or (lambda: asyncio.get_running_loop().time())
        self._kind: Kind = kind or CheckpointContract(contract)
        self._panel = Panel(
            providers,
            chain_id=chain_id,
            contract=contract,
            contract_wait=contract_wait,
            voters=voters,
            needed=quorum,
        )
        depth = 0 if isinstance(confirmations, Tag) else confirmations
        if rollback_patience is None:
            tagged = isinstance(confirmations, Tag)
            rollback_patience = 60.0 if tagged else PATIENCE_PER_CONFIRMATION * depth
        self._witnesses = [
            Witness(
                p, panel=self._panel, kind=self._kind, patience=rollback_patience, now=self._now
            )
            for p in providers
        ]
        self.alarms = Alarms(self._now)
        self._distrust = Distrust(self._panel, alarms=self.alarms, now=self._now)
        self._opener = Opener(
            self._panel,
            self._kind,
            alarms=self.alarms,
            confirmations=confirmations,
            patience=rollback_patience,
            window=max(DEEP_WINDOW if finality else WINDOW, 2 * depth),
            now=self._now,
        )
        self._upkeep = Upkeep(
            self._panel,
            self._kind,
            alarms=self.alarms,
            confirmations=confirmations,
            finality=finality,
            now=self._now,
        )
        self._progress = Progress(
            self._panel.quorum, confirmations=confirmations, dark_after=dark_after
        )
        self._saved: Membership | None = None
        self._agreed: Agreed | None = None
        self._membership: Membership | None = None
        self._suspects: Suspects = {}
        self._last_error: str | None = None
        self._disputed = False
        self._reorgs = 0
        self._deepest_reorg = 0
        self._resyncs = 0
        self._attention = asyncio.Event()
        self._steady = asyncio.Event()

    @property
    def view(self) -> ChainView:
        """What is known at this moment."""
        quorum = self._panel.quorum
        return ChainView(
            membership=self._membership,
            verified=self._agreed is not None,
            agreed_at=self._progress.agreed_at,
            providers=tuple(map(self._status, self._witnesses)),
            last_error=self._last_error,
            reorgs=self._reorgs,
            resyncs=self._resyncs,
            confirmed=self._progress.confirmed,
            suspects=self._suspects,
            alarms=self.alarms.all,
            advanced_at=self._progress.advanced_at,
            needed=quorum.needed,
            voters=quorum.voters,
            deepest_reorg=self._deepest_reorg,
            compares=self._upkeep.compares,
        )

    async def start(self, saved: Membership | None) -> Membership:
        """Find the current membership; with a saved one that is still right, in one round trip.

        After a temporary error the view holds the saved membership, not verified, and `poll` or
        `run` go on trying.

        Args:
            saved: what was last verified, from this node's disk.

        Raises:
            WrongChainError: the providers, the contract or the saved state are not of this chain.
            ChainError: too few providers gave a usable answer.
        """
        if saved is not None:
            self._adopt(saved)
        try:
            await self._open()
        except ChainError as error:
            self._note(str(error))
            raise
        assert self._membership is not None
        return self._membership

    async def run(
        self, saved: Membership | None, *, interval: float, changed: Callable[[], None]
    ) -> None:
        """Follow until cancelled.

        Args:
            saved: what was last verified, from this node's disk.
            interval: seconds between two looks at a provider that tells nothing by itself.
            changed: called whenever the view may have changed, and after the first attempt.

        Raises:
            WrongChainError: nothing has been verified yet, and the providers, the contract or the
                saved state are not of this chain (perhaps in an exception group).
        """
        if saved is not None:
            self._adopt(saved)
        while self._agreed is None:
            try:
                await self._open()
            except ChainError as error:
                self._note(str(error))
            changed()
            if self._agreed is None:
                await asyncio.sleep(interval)
        async with asyncio.TaskGroup() as group:
            for witness in self._witnesses:
                group.create_task(self._watch(witness, interval, changed), name=witness.name)
            group.create_task(self._keep_up(interval, changed), name="upkeep")

    async def poll(self) -> ChainView:
        """Look once at every provider, and do what is due; for tests and single looks.

        Raises:
            WrongChainError: nothing has been verified yet, and the chain is another one.
        """
        try:
            if self._agreed is None:
                await self._open()
                return self.view
        except ChainError as error:
            self._note(str(error))
            return self.view
        async with asyncio.TaskGroup() as group:
            for witness in self._witnesses:
                group.create_task(self._look(witness), name=witness.name)
        await self._do_what_is_due()
        return self.view

    async def aclose(self) -> None:
        """Close all connections."""
        for provider in self._panel.providers:
            await provider.aclose()

    async def _watch(self, witness: Witness, interval: float, changed: Callable[[], None]) -> None:
        while True:
            await self._steady.wait()
            await self._look(witness)
            changed()
            await witness.wait(interval)

    async def _keep_up(self, interval: float, changed: Callable[[], None]) -> None:
        while True:
            await self._do_what_is_due()
            changed()
            try:
                async with asyncio.timeout(interval):
                    await self._attention.wait()
            except TimeoutError:
                pass
            self._attention.clear()

    async def _look(self, witness: Witness) -> None:
        agreed = self._agreed
        assert agreed is not None
        await witness.look(agreed.journal, disputed=self._disputed)
        if agreed is self._agreed:
            self._merge()

    def _adopt(self, saved: Membership) -> None:
        panel = self._panel
        again = "if that is right, start once with --reset-state"
        if (saved.chain_id, saved.contract) != (panel.chain_id, panel.contract):
            raise WrongChainError(
                f"the saved state is of contract {saved.contract} on chain id {saved.chain_id},"
                f" but this node is configured for {panel.contract} on chain id"
                f" {panel.chain_id}; {again}"
            )
        if saved.kind is not self._kind.name:
            raise WrongChainError(
                f"the saved state is of a contract followed as CONTRACT_KIND={saved.kind}, but this"
                f" node is configured for {self._kind.name}; {again}"
            )
        panel.identity = ChainIdentity(saved.genesis, saved.code_hash)
        self._saved = self._membership = saved
        self._progress.adopt(saved)
        # Who was out on one provider's word is out until that one, or enough others, are heard.
        self._suspects = saved.suspects
        for witness in self._witnesses:
            witness.accusations = {
                token: suspect
                for token, suspect in saved.suspects.items()
                if witness.name in suspect.providers
            }

    async def _open(self) -> None:
        """Find where the providers are, with what was last known or without, and start there."""
        known = self._membership or self._saved
        try:
            opened = await self._opener.open(known)
        except WrongChainError as error:
            # Once verified, these are providers gone wrong, not a mistake of the user.
            if self._agreed is None:
                raise
            raise ChainError(str(error)) from None
        base = opened.journal.head.block.number
        agreed = Agreed(opened.journal, known.finalized if known else None)
        # From here on nobody looks, and for no longer than a moment: removals must not wait.
        self._steady.clear()
        before = [(witness, witness.stand) for witness in self._witnesses]
        try:
            for witness in self._witnesses:
                witness.rebase(opened.journal)
            async with asyncio.timeout(None if self._agreed is None else ARRIVAL):
                await self._arrive(agreed, opened.heads, opened.target)
        except (ChainError, TimeoutError) as error:
            # What they had said stands until something better is known.
            for witness, stand in before:
                witness.stand = stand
            if isinstance(error, ChainError):
                raise
            raise ChainError("too few providers could be followed from a new start") from None
        finally:
            if self._agreed is not None:
                self._steady.set()
        now = self._now()
        for witness in self._witnesses:
            # Who showed the block to start from has been seen there, whether or not it had more.
            if witness.provider in opened.heads and not witness.lost:
                witness.seen_at = now
        self._agreed = agreed
        self._progress.advanced_at = now
        # What is above may be of another branch than what counted before.
        self._progress.go_back(base)
        self._resyncs += opened.read
        self._merge()
        self._steady.set()

    async def _arrive(
        self, agreed: Agreed, heads: Mapping[Provider, Header], target: Header
    ) -> None:
        """Follow those who showed a head, until enough of them are at the target.

        Nothing is shown of the way: who was revoked in the last blocks must not be in for a moment.
        """

        def there() -> bool:
            # Not from in here: it would end as a group. It comes again below.
            with contextlib.suppress(FinalityError, PartedError):
                self._move(agreed)
            return agreed.head.block.number >= target.block.number

        errors = await follow_until(there, self._witnesses, heads, self._panel)
        self._move(agreed)
        if agreed.head.block.number < target.block.number:
            chains = self._chains()
            if (found := tally.dispute(self._panel.quorum, chains, agreed.journal)) is not None:
                raise ChainError(found.text)
            raise errors[0] if errors else ChainError("too few providers answered")

    def _chains(self) -> dict[str, Journal]:
        return {w.name: w.journal for w in self._witnesses if w.journal and not w.lost}

    def _move(self, agreed: Agreed) -> tuple[int, int] | None:
        """Move to where enough witnesses are; the block that was kept and the number undone."""
        chains = self._chains()
        left = {w.name: w.left for w in self._witnesses}
        quorum, final = self._panel.quorum, agreed.finalized
        move = tally.next_move(quorum, chains, agreed.journal, left, final)
        if move is None:
            return None
        common, undone = agreed.move(move, chains)
        return common.block.number, undone

    def _merge(self) -> None:
        """Take what the witnesses have seen so far into the view."""
        agreed = self._agreed
        assert agreed is not None
        now = self._now()
        before = agreed.head
        try:
            moved = self._move(agreed)
        except FinalityError as error:
            self.alarms.sound(AlarmCode.FINALITY, str(error))
            self._note(str(error))
            moved = None
        except PartedError as error:
            for witness in self._witnesses:
                if witness.journal and agreed.journal.common(witness.journal) is None:
                    witness.lost = True
            self._note(str(error))
            moved = None
        supporters = tally.supporters(self._chains(), agreed.journal)
        dark_for = self._progress.note(agreed, self._witnesses, supporters)
        if dark_for is not None:
            log.warning("chain.recovering", dark_for=round(dark_for))
            self._upkeep.compare_now()
            self._attention.set()
        if moved is not None:
            kept, undone = moved
            self._progress.advanced_at = now
            if undone:
                self._reorgs += 1
                self._deepest_reorg = max(self._deepest_reorg, undone)
                self._progress.go_back(kept)
                log.warning("chain.reorg", depth=undone, block=agreed.head.block.number)
        self._suspects = self._distrust.review(self._witnesses, agreed, self._suspects)
        if before is not agreed.head or self._membership is None or not self._membership_is(agreed):
            self._publish(agreed)
        if not self._panel.quorum.enough(self._chains().keys()):
            self._attention.set()
        if not self.alarms.has(AlarmCode.FINALITY):
            self._progress.confirm(agreed, self._witnesses)
        self._explain(agreed)

    def _membership_is(self, agreed: Agreed) -> bool:
        known = self._membership
        return (
            known is not None
            and known.block == agreed.head.block
            and known.nodes is agreed.journal.nodes
            and known.finalized == agreed.finalized
            and known.suspects == self._suspects
        )

    def _publish(self, agreed: Agreed) -> None:
        self._membership = self._panel.membership(
            self._kind.name, agreed.head, agreed.journal.nodes, agreed.finalized, self._suspects
        )

    def _explain(self, agreed: Agreed) -> None:
        """Why there is no progress, if there is none."""
        if self.alarms.has(AlarmCode.FINALITY):
            return
        chains = self._chains()
        supporters = tally.supporters(chains, agreed.journal)
        well = {w.name for w in self._witnesses if w.error is None and w.name in supporters}
        found = tally.dispute(self._panel.quorum, chains, agreed.journal)
        self._disputed = found is not None
        if found is not None:
            if found.depth >= tally.DISPUTE_DEPTH:
                self.alarms.sound(AlarmCode.DISAGREEMENT, found.text)
            self._note(found.text)
            return
        self.alarms.clear(AlarmCode.DISAGREEMENT)
        if self._panel.quorum.enough(well):
            if self._last_error is not None:
                log.info("chain.progress", block=agreed.head.block.number)
            self._last_error = None
            return
        errors = [w.error for w in self._witnesses if w.error is not None]
        if errors:
            self._note("; ".join(errors))

    def _note(self, text: str) -> None:
        if text != self._last_error:
            log.warning("chain.no_progress", reason=text)
        self._last_error = text

    async def _do_what_is_due(self) -> None:
        """What is not a look at a head: to begin anew, to compare all, to ask what is final."""
        agreed = self._agreed
        assert agreed is not None
        try:
            if not self._panel.quorum.enough(self._chains().keys()):
                log.error("chain.resync", reason="too few providers can be followed any further")
                await self._open()
                return
            await self._upkeep.read_tags(self._witnesses, agreed)
            found = await self._upkeep.compare(agreed)
        except ChainError as error:
            log.warning("chain.upkeep_failed", reason=str(error))
            self._note(str(error))
            return
        if found is not None:
            if found.journal is not None:
                self._agreed = Agreed(found.journal, agreed.finalized)
                for witness in self._witnesses:
                    witness.rebase(found.journal)
            self._progress.recovering = False
        self._merge()

    def _status(self, witness: Witness) -> ProviderStatus:
        supporters: set[str] = set()
        if self._agreed is not None:
            supporters = tally.supporters(self._chains(), self._agreed.journal)
        voter = self._panel.quorum.voter_of[witness.name]
        return witness.status(voter=voter, agrees=witness.name in supporters)
