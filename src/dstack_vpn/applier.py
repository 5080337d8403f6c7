"""The device side of the loop: see the device, plan, diff, apply, back off.

Invoked by `reconcile` once a cycle when something is due. There are two ways. A change of a few
tokens is planned for by itself and written at once, for no more work than it takes in a small
network; it rests on what the device is known to be. A full compare reads the device and plans for
everybody: at the start, every `sync_interval`, after a failure, when this node itself is judged
otherwise, and when time alone changes the plan. It pauses for others on the loop, and makes room
for a change that comes meanwhile.

Holds what must be remembered between cycles: the plan, the device as known, when each peer was
added, when the next compare is due, and the back-off after a failure. A set of changes is not a
transaction, so after an error the device is read back and planned for anew; removals always come
first.
"""

import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Protocol

import structlog

from dstack_vpn.applied import Applied, Brought, Cycle, Known, outcome, tell
from dstack_vpn.errors import DeviceError
from dstack_vpn.mesh.access import Decision
from dstack_vpn.mesh.amend import amend, entangled
from dstack_vpn.mesh.clock import WallClock
from dstack_vpn.mesh.device import (
    AddPeer,
    DeviceChange,
    IpInterface,
    RemovePeer,
    SeenDevice,
    WantedDevice,
)
from dstack_vpn.mesh.diff import NOT_A_MEMBER, diff, patched
from dstack_vpn.mesh.drift import unexplained
from dstack_vpn.mesh.greet import greeted
from dstack_vpn.mesh.keys import PublicKey
from dstack_vpn.mesh.membership import Membership
from dstack_vpn.mesh.plan import (
    REJECT_AFTER,
    STAGGER,
    LocalNode,
    Plan,
    make_plan,
    peers_of,
    planning,
    removal_reasons,
)
from dstack_vpn.mesh.sentence import in_words
from dstack_vpn.mesh.snapshot import Snapshot
from dstack_vpn.resolve import Asked, Resolver
from dstack_vpn.turns import PutOffError, in_turns, until_news
from dstack_vpn.wireguard.backend import Backend

log = structlog.get_logger()

RETRY_FIRST, RETRY_MOST = 0.5, 30.0
"""Seconds before a failed change is tried again: first, and at most."""


class HostPolicy(Protocol):
    """The part of `wireguard.policy` that is needed here."""

    async def hold(self, addresses: Sequence[IpInterface]) -> tuple[str, ...]:
        """Put in place what is missing; what that was, in words. May raise DeviceError."""


class Applier:
    """Brings one device to the plan, and keeps it there."""

    def __init__(
        self,
        *,
        local: LocalNode,
        device: Backend,
        resolver: Resolver,
        sync_interval: float,
        has_news: Callable[[], bool] = lambda: False,
        policy: HostPolicy | None = None,
    ) -> None:
        """Take the parts.

        Args:
            local: what this node brings to the plan.
            device: where it is applied.
            resolver: of the names in endpoints.
            sync_interval: seconds between full compares.
            has_news: whether members changed since the cycle that is under way began; a compare
                of the device is put off then.
            policy: what the host's routing has to say of the mesh; None to leave that alone.
        """
        self._local = local
        self._device = device
        self._resolver = resolver
        self._sync_interval = sync_interval
        self._has_news = has_news
        self._policy = policy
        self._since: dict[PublicKey, float] = {}
        self._known: Known | None = None
        self._compare_at = 0.0
        self._compare_asked = False
        self._retry_at: float | None = None
        self._retry_delay = RETRY_FIRST
        self._clock = WallClock()

    def configure(self, local: LocalNode) -> None:
        """Plan with other settings of this node from the next cycle on."""
        self._local = local
        self.request_compare()

    def request_compare(self) -> None:
        """Make the next cycle look at the device, whatever else is due."""
        self._compare_asked = True

    def due_at(self) -> float:
        """Monotonic time at which the device must be looked at even if nothing happens."""
        if self._retry_at is not None:
            return self._retry_at
        if self._compare_asked:
            return 0.0
        wake_at = self._known.plan.wake_at if self._known else None
        return self._compare_at if wake_at is None else min(self._compare_at, wake_at)

    async def apply(
        self,
        snapshot: Snapshot,
        membership: Membership,
        own: Decision,
        *,
        now: float,
        changed: AbstractSet[int] | None = None,
    ) -> Applied:
        """Plan and apply; a device that refuses is told in the snapshot and tried again later.

        Args:
            snapshot: with this cycle's verdicts and closure.
            membership: that the verdicts are about.
            own: the verdict on this node.
            now: monotonic seconds.
            changed: tokens that may not be what they were when this was last called and brought
                the device to the plan; None for all.

        Raises:
            HostError: this machine does not allow what is needed.
        """
        snapshot = replace(snapshot, resolved=self._resolver.shown)
        cycle = Cycle(snapshot, membership, own, now)
        known = self._known
        few = (
            changed is not None
            and known is not None
            and self._retry_at is None
            and (known.own, known.closed) == (own, None)
            and snapshot.closed is None
            # Changes without end must not keep the device from being compared at all.
            and now < self._compare_at + self._sync_interval
        )
        if not few or changed is None or known is None:
            return await self._compare(cycle, put_off=False)
        amended = await self._amend(known, cycle, changed)
        if amended is None:
            return await self._compare(cycle, put_off=False)
        if changed or not self._compare_is_due(now):
            # Where both are due, the compare has a cycle of its own, right after this one.
            return amended
        return await self._compare(cycle, put_off=True)

    def plan(
        self,
        snapshot: Snapshot,
        membership: Membership,
        own: Decision,
        seen: SeenDevice | None,
        *,
        now: float,
    ) -> tuple[Plan, DeviceChange]:
        """The plan and the change that it needs; touches nothing."""
        plan = make_plan(
            nodes=membership.nodes,
            decisions=snapshot.decisions,
            own=own,
            local=self._local,
            seen=seen,
            resolved=self._resolver.known,
            since=self._since,
            now=now,
            clock=self._look_at_clock(now),
            closed=snapshot.closed,
        )
        (wanted,) = plan.devices
        return plan, diff(wanted, seen, reasons=plan.removal_reasons)

    async def strip(self) -> None:
        """Take all peers off a device that a previous run left, for nobody knows who is a member.

        Fail closed: without a verified membership, not even a saved one, there are no peers.
        """
        try:
            seen = await self._device.seen()
            if seen is not None and seen.peers:
                reason = "the membership is not known"
                peers = tuple(RemovePeer(key=key, reason=reason) for key in sorted(seen.peers))
                await self._device.apply(DeviceChange(name=seen.name, peers=peers))
                log.warning("device.stripped", peers=len(peers), reason=reason)
        except DeviceError as error:
            log.error("device.failed", error=str(error))

    async def look(self) -> SeenDevice | None:
        """The device as it is, or None when there is none or it does not answer."""
        try:
            return await self._device.seen()
        except DeviceError:
            return None

    # -- a few tokens

    async def _amend(self, known: Known, cycle: Cycle, changed: AbstractSet[int]) -> Applied | None:
        """Apply what a few tokens change; None when the device must be compared after all."""
        now, decisions = cycle.now, cycle.snapshot.decisions
        due = {token for token, at in known.plan.staggered.items() if at <= now}
        verdicts = {token: decisions.get(token) for token in changed | due}
        keys = {d.key for d in verdicts.values() if d is not None and d.granted and d.key}
        for token in entangled(known.plan, verdicts.keys(), keys):
            verdicts.setdefault(token, decisions.get(token))
        names = Asked(self._resolver.known)
        plan, change = amend(
            known.plan,
            verdicts,
            nodes=cycle.membership.nodes,
            own=cycle.own,
            local=self._local,
            seen=known.seen,
            resolved=names,
            since=self._since,
            now=now,
            clock=self._look_at_clock(now),
        )
        if change:
            try:
                await self._device.apply(change)
            except DeviceError as error:
                log.warning("device.change_failed", error=str(error), block=cycle.block)
                return None
        # Told before the books are kept: a line of the log is when it was in force.
        sentence = tell(cycle, plan, change)
        self._known = replace(known, plan=plan, seen=patched(known.seen, change))
        self._remember(change, now)
        self._resolver.resolve(names.asked, keep=True)
        return outcome(cycle, self._known, change, sentence)

    # -- everybody

    def _compare_is_due(self, now: float) -> bool:
        replan_at = self._known.plan.replan_at if self._known else None
        times = (self._compare_at, self._compare_at if replan_at is None else replan_at)
        return self._compare_asked or now >= min(times)

    async def _compare(self, cycle: Cycle, *, put_off: bool) -> Applied:
        """Read the device, plan for everybody, and apply what differs.

        Args:
            cycle: what is to be applied.
            put_off: whether it may be put off when there is news, for nothing of it is urgent.
        """
        before = self._compare_asked, self._compare_at
        # Before anything is awaited: a name that is resolved meanwhile asks for the next compare.
        self._compare_asked, self._compare_at = False, cycle.now + self._sync_interval
        has_news = self._has_news if put_off else lambda: False
        try:
            brought = await self._bring(cycle, has_news)
        except PutOffError:
            asked, self._compare_at = before
            self._compare_asked |= asked
            return Applied(snapshot=cycle.snapshot, sentence="", wanted=None)
        except DeviceError as error:
            self._retry_at = cycle.now + self._retry_delay
            self._retry_delay = min(self._retry_delay * 2, RETRY_MOST)
            log.error("device.failed", error=str(error), block=cycle.block, retry_at=self._retry_at)
            failed = await self._failed(cycle, error)
            return Applied(snapshot=failed, sentence="", wanted=None)
        first = self._known is None
        self._retry_at, self._retry_delay = None, RETRY_FIRST
        self._known = brought.known
        sentence = tell(cycle, brought.known.plan, brought.change)
        done = outcome(cycle, brought.known, brought.change, sentence)
        if first:
            # What an earlier run wrote of this device may be about other settings.
            (wanted,) = brought.known.plan.devices
            done = replace(done, wanted=wanted)
        if not brought.repair:
            return done
        log.warning("device.repaired", what=brought.repair, block=cycle.block)
        told = replace(done.snapshot, repairs=done.snapshot.repairs + 1, last_repair=brought.repair)
        return replace(done, snapshot=told, repair=brought.repair)

    async def _bring(self, cycle: Cycle, has_news: Callable[[], bool]) -> Brought:
        now, snapshot = cycle.now, cycle.snapshot
        removed = await self._remove_at_once(snapshot, cycle.own)
        async with until_news(has_news):
            seen = await self._device.seen()
        repair = ""
        if seen is None:
            if self._known is not None:
                repair = f"{self._local.interface} was gone, and was made anew"
            seen = await self._create()
        for key in seen.peers:
            # Adopted, or added just before something failed: it was put there in the past.
            self._since.setdefault(key, now - STAGGER)
        names = Asked(self._resolver.known)
        steps = planning(
            nodes=cycle.membership.nodes,
            decisions=snapshot.decisions,
            own=cycle.own,
            local=self._local,
            seen=seen,
            resolved=names,
            since=self._since,
            now=now,
            clock=self._look_at_clock(now),
            closed=snapshot.closed,
        )
        plan = await in_turns(steps, has_news)
        self._resolver.resolve(names.asked)
        (wanted,) = plan.devices
        change = diff(wanted, seen, reasons=plan.removal_reasons)
        if self._known is not None and not repair:
            (before,) = self._known.plan.devices
            repair = in_words(unexplained(change, before, wanted))
        if change:
            try:
                await self._device.apply(greeted(change, wanted, seen, clock=self._clock, now=now))
            except DeviceError as error:
                await self._fall_back(wanted, seen, error)
                raise
            if replace(change, peers=()):
                seen = await self._see()
            else:
                seen = patched(seen, change)
        held = await self._hold(seen)
        if self._known is not None and held:
            repair = "; ".join((repair, *held) if repair else held)
        change = replace(change, peers=removed + change.peers)
        self._remember(change, now)
        return Brought(Known(plan, seen, cycle.own, snapshot.closed), change, repair)

    async def _hold(self, seen: SeenDevice) -> tuple[str, ...]:
        """See that the host's routing is as it should be; what was not, in words."""
        if self._policy is None:
            return ()
        return await self._policy.hold(seen.addresses if seen.up else ())

    async def _fall_back(self, wanted: WantedDevice, seen: SeenDevice, error: DeviceError) -> None:
        """Take the interface back to its last good state where a change of it failed half-way.

        Of the plan only the interface is given up until the next try: peers are as it has them, so
        nobody comes back who was removed.

        Raises:
            _FellBackError: it is as before, and the peers are as planned.
        """
        good = self._known.seen if self._known is not None else seen
        if good.public_key != wanted.public_key or not good.up:
            return  # a device that is only just being made has no such state
        back = replace(
            wanted,
            listen_port=good.listen_port,
            mtu=good.mtu,
            # A node that is no member any more has no addresses, whatever it had before.
            addresses=good.addresses if wanted.addresses else (),
        )
        try:
            now = await self._device.seen()
            if now is None or not replace(diff(wanted, now), peers=()):
                return  # gone, or it was a peer that was refused
            await self._device.apply(diff(back, now))
        except DeviceError as second:
            log.error("device.fall_back_failed", error=str(second))
            return
        raise _FellBackError(f"{error}; the interface is as it was before") from error

    async def _remove_at_once(self, snapshot: Snapshot, own: Decision) -> tuple[RemovePeer, ...]:
        """Remove those of the last plan who are no longer members, before anything is read.

        A removal needs no knowledge of the device, so it waits for none: reading a large device
        takes longer than the removal itself, and may fail. Where it fails, the way on is the same:
        a device that is gone is made anew without them, and any other one is read and compared.
        """
        if self._known is None:
            return ()
        members = peers_of(snapshot.decisions, own, snapshot.closed)
        gone = [
            key for device in self._known.plan.devices for key in device.peers if key not in members
        ]
        if not gone:
            return ()
        reasons = removal_reasons(snapshot.decisions, own, snapshot.closed)
        peers = tuple(RemovePeer(key=key, reason=reasons.get(key, NOT_A_MEMBER)) for key in gone)
        try:
            await self._device.apply(DeviceChange(name=self._local.interface, peers=peers))
        except DeviceError as error:
            log.warning("device.removal_failed", error=str(error))
            return ()
        return peers

    async def _see(self) -> SeenDevice:
        seen = await self._device.seen()
        return await self._create() if seen is None else seen

    async def _create(self) -> SeenDevice:
        await self._device.create()
        seen = await self._device.seen()
        if seen is None:
            raise DeviceError(f"{self._local.interface} vanished after it was made")
        return seen

    async def _failed(self, cycle: Cycle, error: DeviceError) -> Snapshot:
        snapshot, fell_back = cycle.snapshot, isinstance(error, _FellBackError)
        return replace(
            snapshot,
            device=await self.look(),
            applied_block=cycle.block if fell_back else snapshot.applied_block,
            pending=str(error),
            fell_back=fell_back,
            error_count=snapshot.error_count + 1,
            last_error=str(error),
        )

    def _look_at_clock(self, now: float) -> WallClock:
        self._clock = self._clock.see(now=now, wall_now=time.time(), memory=REJECT_AFTER)
        return self._clock

    def _remember(self, change: DeviceChange, now: float) -> None:
        for peer in change.peers:
            if isinstance(peer, AddPeer):
                self._since[peer.peer.key] = now
            elif isinstance(peer, RemovePeer):
                self._since.pop(peer.key, None)


class _FellBackError(DeviceError):
    """A change of the interface failed, which is as before; the peers are as planned."""
