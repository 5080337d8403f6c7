"""What the applier works on and what comes of it: the records of a cycle, and how it is told.

Nothing here touches a device; `applier` decides and acts.
"""

import time
from dataclasses import dataclass, replace

import structlog

from dstack_vpn.mesh.access import Decision
from dstack_vpn.mesh.device import DeviceChange, SeenDevice, WantedDevice
from dstack_vpn.mesh.events import Event, EventKind
from dstack_vpn.mesh.membership import Membership
from dstack_vpn.mesh.plan import Plan
from dstack_vpn.mesh.sentence import describe
from dstack_vpn.mesh.snapshot import Snapshot

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What became of one plan."""

    snapshot: Snapshot
    sentence: str
    """What was changed; empty when nothing was."""
    wanted: WantedDevice | None
    """The device as it now should be, if it differs from before; for the configuration file."""
    repair: str = ""
    """What somebody else had done to the device, as it was put right; empty for nothing."""

    def events(self, block: int) -> tuple[Event, ...]:
        """What is told of the device to whoever listens; `block` is the one that was applied."""
        told = {EventKind.REPAIRED: self.repair, EventKind.APPLIED: self.sentence}
        return tuple(
            Event(kind=kind, block=block, token_id=0, node_id="", verdict=None, detail=detail)
            for kind, detail in told.items()
            if detail
        )


class Cycle:
    """What one call is to apply."""

    def __init__(
        self, snapshot: Snapshot, membership: Membership, own: Decision, now: float
    ) -> None:
        self.snapshot = snapshot
        self.membership = membership
        self.own = own
        self.now = now
        self.block = membership.block.number
        self.started = time.monotonic()


@dataclass(frozen=True, slots=True)
class Known:
    """What is in force: the plan, and what it rests on."""

    plan: Plan
    seen: SeenDevice
    """As last read, with what was changed since."""
    own: Decision
    closed: str | None


@dataclass(frozen=True, slots=True)
class Brought:
    """What a compare came to."""

    known: Known
    change: DeviceChange
    repair: str
    """What somebody else had done, in words."""


def tell(cycle: Cycle, plan: Plan, change: DeviceChange) -> str:
    """Say in the log what was changed, if anything was; the sentence."""
    (wanted,) = plan.devices
    sentence = describe(change, wanted, cycle.block)
    if sentence:
        took = round((time.monotonic() - cycle.started) * 1000, 1)
        log.info("cycle.applied", sentence=sentence, block=cycle.block, ms=took)
    return sentence


def outcome(cycle: Cycle, known: Known, change: DeviceChange, sentence: str) -> Applied:
    """What readers are told once a plan is in force."""
    (wanted,) = known.plan.devices
    done = replace(
        cycle.snapshot,
        device=known.seen,
        peer_names=wanted.peers,
        notes=known.plan.notes,
        applied_block=cycle.block,
        pending=None,
        fell_back=False,
        last_sentence=sentence or cycle.snapshot.last_sentence,
    )
    return Applied(snapshot=done, sentence=sentence, wanted=wanted if change else None)
