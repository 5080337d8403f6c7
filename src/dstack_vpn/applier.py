"""The device side of the loop: see the device, plan, diff, apply, write the configuration down.

Invoked by `reconcile` once a cycle when something is due. Holds what must be remembered between
cycles: when each peer was added, when the next full compare is due, and the back-off after a
failure. A set of changes is not a transaction, so after an error the device is read back and
planned for anew; removals always come first.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from dstack_vpn.errors import DeviceError
from dstack_vpn.mesh.access import Decision
from dstack_vpn.mesh.device import AddPeer, DeviceChange, RemovePeer, SeenDevice, WantedDevice
from dstack_vpn.mesh.diff import NOT_A_MEMBER, diff
from dstack_vpn.mesh.keys import PublicKey
from dstack_vpn.mesh.membership import Membership
from dstack_vpn.mesh.plan import (
    STAGGER,
    LocalNode,
    Plan,
    candidates,
    make_plan,
    peers_of,
    removal_reasons,
)
from dstack_vpn.mesh.sentence import describe
from dstack_vpn.mesh.snapshot import Snapshot
from dstack_vpn.resolve import Resolver
from dstack_vpn.wireguard.backend import Backend

log = structlog.get_logger()

RETRY_FIRST, RETRY_MOST = 0.5, 30.0
"""Seconds before a failed change is tried again: first, and at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What became of one plan."""

    snapshot: Snapshot
    sentence: str
    """What was changed; empty when nothing was."""
    wanted: WantedDevice | None
    """The device as it now should be, if it differs from before; for the configuration file."""


class Applier:
    """Brings one device to the plan, and keeps it there."""

    def __init__(
        self,
        *,
        local: LocalNode,
        device: Backend,
        resolver: Resolver,
        sync_interval: float,
    ) -> None:
        """Take the parts; `sync_interval` is the time between full compares, in seconds."""
        self._local = local
        self._device = device
        self._resolver = resolver
        self._sync_interval = sync_interval
        self._since: dict[PublicKey, float] = {}
        self._plan: Plan | None = None
        self._compare_at = 0.0
        self._retry_at: float | None = None
        self._retry_delay = RETRY_FIRST

    def request_compare(self) -> None:
        """Make the next cycle look at the device, whatever else is due."""
        self._compare_at = 0.0

    def due_at(self) -> float:
        """Monotonic time at which the device must be looked at even if nothing happens."""
        if self._retry_at is not None:
            return self._retry_at
        if self._plan is not None and self._plan.wake_at is not None:
            return min(self._compare_at, self._plan.wake_at)
        return self._compare_at

    async def apply(
        self,
        snapshot: Snapshot,
        membership: Membership,
        own: Decision,
        *,
        now: float,
        changed: frozenset[int] | None = None,  # noqa: ARG002 - all are planned for, so far
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
        block = membership.block.number
        started = time.monotonic()
        # Before anything is awaited: a name that is resolved meanwhile asks for the next compare.
        self._compare_at = now + self._sync_interval
        try:
            removed = await self._remove_at_once(snapshot, own)
            seen = await self._see()
            for key in seen.peers:
                # Adopted, or added just before something failed: it was put there in the past.
                self._since.setdefault(key, now - STAGGER)
            plan, change = self.plan(snapshot, membership, own, seen, now=now)
            (wanted,) = plan.devices
            if change:
                await self._device.apply(change)
                seen = await self._see()
            change = replace(change, peers=removed + change.peers)
        except DeviceError as error:
            self._retry_at = now + self._retry_delay
            self._retry_delay = min(self._retry_delay * 2, RETRY_MOST)
            log.error("device.failed", error=str(error), block=block, retry_at=self._retry_at)
            return Applied(
                snapshot=await self._failed(snapshot, str(error)), sentence="", wanted=None
            )
        self._retry_at, self._retry_delay = None, RETRY_FIRST
        self._plan = plan
        self._remember(change, now)
        sentence = describe(change, wanted, block)
        if sentence:
            took = round((time.monotonic() - started) * 1000, 1)
            log.info("cycle.applied", sentence=sentence, block=block, ms=took)
        done = replace(
            snapshot,
            device=seen,
            peer_names=wanted.peers,
            notes=plan.notes,
            applied_block=block,
            pending=None,
            last_sentence=sentence or snapshot.last_sentence,
        )
        return Applied(snapshot=done, sentence=sentence, wanted=wanted if change else None)

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
            resolved=self._resolver.resolve(self._names(snapshot.decisions, membership)),
            since=self._since,
            now=now,
            wall_now=time.time(),
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

    async def _remove_at_once(self, snapshot: Snapshot, own: Decision) -> tuple[RemovePeer, ...]:
        """Remove those of the last plan who are no longer members, before anything is read.

        A removal needs no knowledge of the device, so it waits for none: reading a large device
        takes longer than the removal itself, and may fail. Where it fails, the way on is the same:
        a device that is gone is made anew without them, and any other one is read and compared.
        """
        if self._plan is None:
            return ()
        members = peers_of(snapshot.decisions, own, snapshot.closed)
        reasons = removal_reasons(snapshot.decisions, own, snapshot.closed)
        gone = tuple(
            RemovePeer(key=key, reason=reasons.get(key, NOT_A_MEMBER))
            for device in self._plan.devices
            for key in device.peers
            if key not in members
        )
        if gone:
            try:
                await self._device.apply(DeviceChange(name=self._local.interface, peers=gone))
            except DeviceError as error:
                log.warning("device.removal_failed", error=str(error))
                return ()
        return gone

    async def _see(self) -> SeenDevice:
        seen = await self._device.seen()
        if seen is None:
            await self._device.create()
            seen = await self._device.seen()
            if seen is None:
                raise DeviceError(f"{self._local.interface} vanished after it was made")
        return seen

    async def _failed(self, snapshot: Snapshot, error: str) -> Snapshot:
        return replace(
            snapshot,
            device=await self.look(),
            pending=error,
            error_count=snapshot.error_count + 1,
            last_error=error,
        )

    def _names(self, decisions: Sequence[Decision], membership: Membership) -> set[str]:
        names: set[str] = set()
        for decision in decisions:
            if decision.granted:
                node = membership.nodes[decision.token_id]
                found, _ = candidates(node.endpoint, node.node_id, self._local)
                names.update(e.host for e in found if isinstance(e.host, str))
        return names

    def _remember(self, change: DeviceChange, now: float) -> None:
        for peer in change.peers:
            if isinstance(peer, AddPeer):
                self._since[peer.peer.key] = now
            elif isinstance(peer, RemovePeer):
                self._since.pop(peer.key, None)


ConfigurationWriter = Callable[[WantedDevice, Membership], None]
"""Writes the wg-quick text of a device; may raise OSError. Runs in a worker thread."""


async def write_configuration(
    writer: ConfigurationWriter, applied: Applied, membership: Membership
) -> Snapshot:
    """Write the device down after a change; a full disk is told and stops nothing."""
    if applied.wanted is None:
        return applied.snapshot
    try:
        await asyncio.to_thread(writer, applied.wanted, membership)
    except OSError as error:
        return note_disk_error(applied.snapshot, f"{error.filename}: {error.strerror}")
    return applied.snapshot


def note_disk_error(snapshot: Snapshot, error: str) -> Snapshot:
    """The snapshot with an error of the disk counted and told."""
    log.error("disk.failed", error=error)
    return replace(snapshot, error_count=snapshot.error_count + 1, last_error=error)
