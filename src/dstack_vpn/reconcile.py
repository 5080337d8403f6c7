"""The loop: observe, plan, diff, apply, and say in one sentence what was done.

Level-triggered and idempotent: each cycle starts from the newest membership and the device as it
is, so that it may be restarted anywhere. Each family of failures has one boundary: the chain (hold
what is known, by the dark policy), the device (`applier`: read back, plan anew, back off), the
disk (go on without). Everything else is a bug and ends the process.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Protocol

import structlog

from dstack_vpn.applier import Applier, HostPolicy
from dstack_vpn.config import Settings
from dstack_vpn.errors import StoreError
from dstack_vpn.mesh.access import Verdict
from dstack_vpn.mesh.chaintime import (
    UNVERIFIED_BRANCH,
    ChainClock,
    ChainState,
    Closing,
    chain_state,
    closing,
    turns_at,
)
from dstack_vpn.mesh.events import Event, EventKind, membership_events
from dstack_vpn.mesh.judging import NO_DECISIONS, Judge, Judgement
from dstack_vpn.mesh.membership import NO_NODES, Membership
from dstack_vpn.mesh.plan import LocalNode
from dstack_vpn.mesh.sentence import describe
from dstack_vpn.mesh.snapshot import ChainView, Snapshot
from dstack_vpn.resolve import Resolver
from dstack_vpn.store import Saved, Store
from dstack_vpn.wireguard.backend import Backend
from dstack_vpn.wireguard.confkeeper import ConfigurationWriter, ConfKeeper
from dstack_vpn.wireguard.guardian import Watched
from dstack_vpn.wireguard.lease import Target

log = structlog.get_logger()

SAVE_EVERY = 60.0
"""Seconds after which an unchanged membership is saved again, for its age."""


class ChainSource(Protocol):
    """The follower, as the loop needs it."""

    @property
    def view(self) -> ChainView:
        """What is known at this moment."""

    async def start(self, saved: Membership | None) -> Membership:
        """Read the membership once; raises ChainError or WrongChainError."""

    async def run(
        self, saved: Membership | None, *, interval: float, changed: Callable[[], None]
    ) -> None:
        """Follow the chain until cancelled; a chain that is away is said in the view.

        Args:
            saved: what was last verified.
            interval: seconds between two looks.
            changed: called whenever the view may have changed, and after the first attempt.

        Raises:
            WrongChainError: the first contact shows another chain than the one configured.
        """


class DeviceGuard(Protocol):
    """The part of `wireguard.guardian` that is needed here."""

    async def watch(self, target: Target | None, closes_at: float | None) -> Watched:
        """Let the peers stay until a loop time, also should this process die; None for ever."""


class Reconciler:
    """Brings one device to what the chain says, and keeps it there."""

    def __init__(
        self,
        *,
        settings: Settings,
        local: LocalNode,
        source: ChainSource,
        device: Backend,
        store: Store,
        write_conf: ConfigurationWriter,
        publish: Callable[[tuple[Event, ...]], None],
        reconfigured: Callable[[], LocalNode | None] = lambda: None,
        policy: HostPolicy | None = None,
        guard: DeviceGuard | None = None,
        watch_link: Callable[[Callable[[], None]], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        """Take the parts.

        `publish` is called after each cycle, with its events; `reconfigured` before each, and says
        of what this node brings to the plan what it is from then on, if that is something else.
        `guard` applies the dark policy while this process does not run; None for no such guard.
        `watch_link` runs until it is cancelled, and calls back when somebody altered the interface.
        """
        self._settings = settings
        self._source = source
        self._store = store
        self._conf = ConfKeeper(write_conf, self._disk_failed)
        self._publish = publish
        self._reconfigured = reconfigured
        self._device = device
        self._guard = guard
        self._watch_link = watch_link
        self._saved = store.load()
        self._saved_at = -SAVE_EVERY
        self._loaded_at = _now()
        self._clock = ChainClock()
        self._state = ChainState.UNKNOWN
        self._judging = Judge(node_id=local.node_id, public_key=local.public_key)
        self._next_end: int | None = None
        # Tokens that changed since the device side was last told, and whether it has yet to do what
        # it was told.
        self._news: frozenset[int] = frozenset()
        self._behind = True
        self._begun = source.view
        self._disk_error: str | None = None
        self._asked = asyncio.Event()
        self._wake = asyncio.Event()
        self._cycling = asyncio.Lock()
        self._resolver = Resolver(self._compare_now)
        self._applier = Applier(
            local=local,
            device=device,
            resolver=self._resolver,
            sync_interval=settings.sync_interval,
            has_news=self._has_news,
            policy=policy,
        )
        if self._saved:
            # At the start, news is what differs from what the last run left.
            held = self._saved.membership
            self._judging.judge(
                held, confirmed=self._held_up_to(held), chain_now=held.block.timestamp
            )
        self.snapshot = Snapshot(
            node_id=local.node_id,
            public_key=local.public_key,
            started_at=time.time(),
            cycle=0,
            chain=source.view,
            decisions=NO_DECISIONS,
            own=None,
            device=None,
            peer_names={},
            notes={},
            applied_block=None,
            pending=None,
            closed=None,
            error_count=0,
            last_error=None,
            last_sentence="",
        )

    async def run(self) -> None:
        """Follow and reconcile until cancelled.

        Raises:
            UserError: the chain or the host is not what was configured (in an exception group).
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._resolver.run(), name="resolve")
            group.create_task(self._follow(), name="follow")
            group.create_task(self._reconcile(), name="reconcile")
            group.create_task(self._conf.run(), name="configuration")
            if self._watch_link is not None:
                group.create_task(self._watch_link(self._compare_now), name="link")

    async def _follow(self) -> None:
        saved = self._saved.membership if self._saved else None
        interval = self._settings.poll_interval
        await self._source.run(saved, interval=interval, changed=self._looked)

    def _looked(self) -> None:
        self._asked.set()
        self._wake.set()

    async def _reconcile(self) -> None:
        # The chain is asked before the disk is believed: what it refuses must find nothing changed.
        await self._asked.wait()
        while True:
            self._wake.clear()
            async with self._cycling:
                await self.cycle()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._wake.wait()

    async def settle(self, *, within: float) -> None:
        """Let the cycle under way end, and no other begin, so that what it did is also recorded.

        Args:
            within: seconds after which it is not waited for any longer.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._cycling.acquire()
                await self._conf.flush()

    def _disk_failed(self, error: str) -> None:
        # Noted by the next cycle: the one under way is about to replace the snapshot.
        self._disk_error = error
        self._wake.set()

    def _has_news(self) -> bool:
        """Whether other members are told of than those that the cycle under way began with."""
        begun, view = self._begun, self._source.view
        if view.membership is None or begun.membership is None:
            return False
        return (
            view.membership.nodes is not begun.membership.nodes or view.suspects != begun.suspects
        )

    def _compare_now(self) -> None:
        self._applier.request_compare()
        self._wake.set()

    def _pause(self) -> float:
        """Seconds until something is due by itself."""
        now = _now()
        due = [self._applier.due_at()]
        if self.snapshot.chain.membership is None:
            return self._settings.sync_interval
        if self._next_end is not None:
            due.append(now + self._next_end - self._clock.at(now))
        closes = self._closing(now)
        if closes is not None and not self.snapshot.closed:
            due.append(closes.at)
        turns = turns_at(
            self._source.view,
            now=now,
            dark_after=self._settings.dark_after,
            block_time=self._settings.network.block_time,
        )
        if turns is not None:
            due.append(turns)
        return max(0.0, min(due) - now)

    async def cycle(self) -> str:
        """One cycle; returns the sentence that says what was changed, empty for nothing."""
        now = _now()
        old = self.snapshot
        if (local := self._reconfigured()) is not None:
            self._applier.configure(local)
        snapshot = replace(old, cycle=old.cycle + 1, chain=self._observe(now))
        self._begun = snapshot.chain
        if self._disk_error is not None:
            snapshot = _note_disk_error(snapshot, self._disk_error)
            self._disk_error = None
        snapshot, events = self._judge(snapshot, old, now)
        # Before the device is changed: what the guard did to it meanwhile is put right at once.
        snapshot = await self._renew_lease(snapshot, now)
        sentence = ""
        membership, own = snapshot.chain.membership, snapshot.own
        if membership is not None and own is not None:
            if self._device_is_due(old, snapshot, now):
                guarded = self._device.target
                applied = await self._applier.apply(
                    snapshot, membership, own, now=now, changed=self._changed(old, snapshot)
                )
                self._news, self._behind = frozenset(), applied.snapshot.pending is not None
                snapshot = applied.snapshot
                if self._device.target != guarded:
                    # One that was made just now has members already, and no guard yet.
                    snapshot = await self._renew_lease(snapshot, now)
                if applied.wanted is not None:
                    self._conf.put(applied.wanted, membership)
                sentence = applied.sentence
                events += applied.events(membership.block.number)
            elif snapshot.pending is None:
                # Nothing that concerns the device changed: the plan of the older block stands.
                snapshot = replace(snapshot, applied_block=membership.block.number)
        elif snapshot.chain.last_error:
            await self._applier.strip()
        _tell(old, snapshot, events)
        self._tell_state(snapshot.chain, now)
        self.snapshot = await self._persist(snapshot, events, now)
        self._publish(events)
        return sentence

    def _observe(self, now: float) -> ChainView:
        view = self._source.view
        if view.verified and view.membership is not None:
            self._clock = self._clock.see(view.membership, branch=view.reorgs, now=now)
            return view
        if self._saved is None:
            return view
        # The chain is away at the start: what the last run verified is held, by its age.
        held = self._saved.membership
        saw = now - self._saved_age(now)
        self._clock = self._clock.see(held, branch=UNVERIFIED_BRANCH, now=saw)
        return replace(view, membership=held)

    def _judge(
        self, snapshot: Snapshot, old: Snapshot, now: float
    ) -> tuple[Snapshot, tuple[Event, ...]]:
        membership = snapshot.chain.membership
        closes = self._closing(now)
        closed = closes.reason if closes is not None and now >= closes.at else None
        if membership is None:
            return replace(snapshot, closed=closed), ()
        found = self._judging.judge(
            membership,
            confirmed=self._confirmed(snapshot.chain, membership),
            chain_now=self._clock.at(now),
            suspects=snapshot.chain.suspects,
        )
        self._next_end = found.next_end
        self._news |= found.changed
        known = old.chain.membership or (self._saved.membership if self._saved else None)
        events = membership_events(
            block=membership.block.number,
            before=found.before,
            after=found.after,
            nodes_before=known.nodes if known else NO_NODES,
            nodes_after=membership.nodes,
        )
        _tell_copies(found)
        judged = replace(snapshot, decisions=found.decisions, own=found.own, closed=closed)
        return judged, events

    async def _renew_lease(self, snapshot: Snapshot, now: float) -> Snapshot:
        """Let the peers stay, should this process end here, for as long as the dark policy does."""
        closes = self._closing(now)
        rules = bool(self._settings.dark_close_after)
        # While nothing is known yet, the lease that an earlier run left stays in force.
        if self._guard is None or (rules and closes is None):
            return snapshot
        at = closes.at if rules and closes is not None else None
        watched = await self._guard.watch(self._device.target, at)
        if watched.ran_out:
            self._applier.request_compare()
        if watched.warning is not None and watched.warning != snapshot.unguarded:
            log.warning("guard.failed", reason=watched.warning)
        return replace(snapshot, unguarded=watched.warning)

    def _confirmed(self, view: ChainView, membership: Membership) -> int | None:
        """The block up to which admissions count."""
        return view.confirmed if view.verified else self._held_up_to(membership)

    def _held_up_to(self, held: Membership) -> int | None:
        """The block up to which the admissions of a saved membership count.

        Of what the last run knew those are held whom it had surely admitted: while nobody answers,
        nobody is let in.
        """
        depth = self._settings.confirmations
        if isinstance(depth, int):
            return held.block.number - depth
        return held.finalized.number if held.finalized else None

    def _device_is_due(self, old: Snapshot, new: Snapshot, now: float) -> bool:
        return (
            now >= self._applier.due_at()
            or old.applied_block is None
            or bool(self._news)
            or old.own != new.own
            or old.closed != new.closed
        )

    def _changed(self, old: Snapshot, new: Snapshot) -> frozenset[int] | None:
        """The tokens that the device side must look at; None for all."""
        if self._behind or old.own != new.own or old.closed != new.closed:
            return None
        return self._news

    def _closing(self, now: float) -> Closing | None:
        return closing(
            self._source.view,
            dark_close_after=self._settings.dark_close_after,
            halt_close_after=self._settings.halt_close_after,
            saved_age=self._saved_age(now) if self._saved else None,
            now=now,
        )

    def _saved_age(self, now: float) -> float:
        assert self._saved is not None
        # By a wall clock that stands before the save it would have no age, for ever.
        return max(now - self._loaded_at, time.time() - self._saved.saved_at)

    def _tell_state(self, view: ChainView, now: float) -> None:
        """Log once how it stands with the chain when that is another thing than before."""
        state = chain_state(
            view,
            now=now,
            dark_after=self._settings.dark_after,
            block_time=self._settings.network.block_time,
        )
        before, self._state = self._state, state
        if state is before or view.membership is None:
            return
        block = view.membership.block.number
        if state is ChainState.DARK and view.agreed_at is not None:
            age = round(now - view.agreed_at)
            log.warning("chain.dark", block=block, age=age, reason=view.last_error)
        elif state is ChainState.HALTED and view.advanced_at is not None:
            log.warning("chain.halted", block=block, age=round(now - view.advanced_at))
        elif before in (ChainState.DARK, ChainState.HALTED):
            log.info("chain.light", block=block, was=str(before))

    async def _persist(self, snapshot: Snapshot, events: tuple[Event, ...], now: float) -> Snapshot:
        """Save what was verified; a disk that is full or gone stops nothing."""
        membership = snapshot.chain.membership if snapshot.chain.verified else None
        known = self._saved.membership if self._saved else None
        try:
            if events:
                await asyncio.to_thread(self._store.record, events, wall_now=time.time())
            if membership is not None and (
                known is None
                or (membership.checkpoint, membership.suspects)
                != (known.checkpoint, known.suspects)
                or now - self._saved_at >= SAVE_EVERY
            ):
                wall_now = time.time()
                await asyncio.to_thread(self._store.save, membership, wall_now=wall_now)
                self._saved = Saved(membership=membership, saved_at=wall_now)
                self._saved_at = now
        except StoreError as error:
            return _note_disk_error(snapshot, str(error))
        return snapshot

    async def dry_run(self) -> str:
        """Read the chain and the device once, change nothing, and say what would be changed.

        Raises:
            ChainError: the chain cannot be read.
        """
        await self._source.start(self._saved.membership if self._saved else None)
        now = _now()
        snapshot = replace(self.snapshot, chain=self._observe(now))
        snapshot, _ = self._judge(snapshot, self.snapshot, now)
        membership, own = snapshot.chain.membership, snapshot.own
        assert membership is not None
        assert own is not None
        seen = await self._applier.look()
        plan, change = self._applier.plan(snapshot, membership, own, seen, now=now)
        would = describe(change, plan.devices[0], membership.block.number)
        return f"this node is {own.verdict}: {own.reason}\n{would or 'nothing would change'}"


def _tell(old: Snapshot, new: Snapshot, events: tuple[Event, ...]) -> None:
    """Log what changed for people, once each."""
    for event in events:
        if event.kind not in {EventKind.APPLIED, EventKind.REPAIRED}:
            log.info(
                f"membership.{event.kind}",
                node_id=event.node_id,
                token_id=event.token_id,
                block=event.block,
                verdict=event.verdict,
                reason=event.detail,
            )
    if new.own is not None and old.own != new.own:
        tell = log.info if new.own.granted else log.warning
        tell("access.own", verdict=new.own.verdict, reason=new.own.reason)
    if new.closed and not old.closed:
        log.error("chain.closed", reason=new.closed)


def _tell_copies(found: Judgement) -> None:
    """Log once of each token that came to have the key of another one."""
    known = {d.token_id for d in found.before if d.verdict is Verdict.KEY_DUPLICATE}
    for decision in found.after:
        if decision.verdict is Verdict.KEY_DUPLICATE and decision.token_id not in known:
            log.warning("access.key_copied", token_id=decision.token_id, reason=decision.reason)


def _note_disk_error(snapshot: Snapshot, error: str) -> Snapshot:
    """The snapshot with an error of the disk counted and told."""
    log.error("disk.failed", error=error)
    return replace(snapshot, error_count=snapshot.error_count + 1, last_error=error)


def _now() -> float:
    return asyncio.get_running_loop().time()
