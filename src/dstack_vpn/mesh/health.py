"""Health as a list of coded warnings, judged from a snapshot and the time.

*Ready* means that this node can pass traffic by the policy in force: the membership was verified,
the device is up, the plan is on it, and nothing closed it. A chain that is away makes a node
*degraded*, not unready: an orchestrator must not kill working tunnels because an RPC is down.
"""

from dataclasses import dataclass
from enum import StrEnum

from dstack_vpn.mesh.snapshot import Snapshot


class Status(StrEnum):
    """Overall health, best first."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


class Code(StrEnum):
    """What can be wrong; stable words for scripts."""

    CHAIN_UNKNOWN = "chain-unknown"
    CHAIN_UNVERIFIED = "chain-unverified"
    CHAIN_DARK = "chain-dark"
    CHAIN_STALE = "chain-stale"
    CLOSED = "closed"
    NOT_A_MEMBER = "not-a-member"
    DEVICE_DOWN = "device-down"
    PLAN_PENDING = "plan-pending"
    ONE_PROVIDER = "one-provider"


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthWarning:
    """One thing that is wrong."""

    code: Code
    text: str
    status: Status
    """How bad it is by itself."""
    blocks_ready: bool
    """Whether the node cannot pass traffic because of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The judgement: overall status, readiness and why."""

    status: Status
    ready: bool
    warnings: tuple[HealthWarning, ...]
    head_age: float | None
    """Seconds since the providers last agreed on a head; None for never."""

    @property
    def reason(self) -> str:
        """Why it is not ready, else why it is not healthy, else empty."""
        worst = sorted(self.warnings, key=lambda w: not w.blocks_ready)
        return "; ".join(w.text for w in worst)


def assess(
    snapshot: Snapshot,
    *,
    now: float,
    dark_after: float,
    fresh: float | None = None,
    trusts_one_provider: bool = False,
) -> Health:
    """Judge a snapshot.

    Args:
        snapshot: the newest one.
        now: monotonic seconds.
        dark_after: seconds without an agreed head after which the chain counts as dark.
        fresh: the strict form of readiness: at most so many seconds since the last agreed head.
        trusts_one_provider: the operator chose to trust a single provider on a public chain.
    """
    agreed_at = snapshot.chain.agreed_at
    age = None if agreed_at is None else max(0.0, now - agreed_at)
    found = [*_chain_warnings(snapshot, age, dark_after, fresh), *_device_warnings(snapshot)]
    if trusts_one_provider:
        found.append(
            _warn(Code.ONE_PROVIDER, "a single RPC provider is trusted with the member list")
        )
    ready = not any(w.blocks_ready for w in found)
    status = Status.HEALTHY
    for level in (Status.DEGRADED, Status.UNHEALTHY):
        # A permanent choice of the operator is shown, but it is no ill health.
        if any(w.status is level for w in found if w.code is not Code.ONE_PROVIDER):
            status = level
    return Health(status=status, ready=ready, warnings=tuple(found), head_age=age)


def _warn(code: Code, text: str, *, bad: bool = False, blocks: bool = False) -> HealthWarning:
    status = Status.UNHEALTHY if bad else Status.DEGRADED
    return HealthWarning(code=code, text=text, status=status, blocks_ready=blocks)


def _chain_warnings(
    snapshot: Snapshot, age: float | None, dark_after: float, fresh: float | None
) -> list[HealthWarning]:
    chain = snapshot.chain
    because = f" ({chain.last_error})" if chain.last_error else ""
    if snapshot.closed:
        return [_warn(Code.CLOSED, snapshot.closed, bad=True, blocks=True)]
    if chain.membership is None:
        text = f"the membership has not been read yet{because}"
        return [_warn(Code.CHAIN_UNKNOWN, text, bad=True, blocks=True)]
    found = []
    if not chain.verified:
        text = f"the membership is from this node's disk; no provider confirmed it yet{because}"
        found.append(_warn(Code.CHAIN_UNVERIFIED, text, blocks=True))
    elif age is not None and age > dark_after:
        text = f"no agreed head for {age:.0f} s; members are held, nobody is admitted{because}"
        found.append(_warn(Code.CHAIN_DARK, text))
    if fresh is not None and (age is None or age > fresh):
        text = f"the last agreed head is older than the {fresh:g} s asked for"
        found.append(_warn(Code.CHAIN_STALE, text, blocks=True))
    return found


def _device_warnings(snapshot: Snapshot) -> list[HealthWarning]:
    found = []
    if snapshot.own is not None and not snapshot.own.granted:
        text = f"this node is not a member: {snapshot.own.verdict}: {snapshot.own.reason}"
        found.append(_warn(Code.NOT_A_MEMBER, text, blocks=True))
    if snapshot.device is None or not snapshot.device.up:
        found.append(
            _warn(Code.DEVICE_DOWN, "the WireGuard device is not up", bad=True, blocks=True)
        )
    elif snapshot.pending:
        text = f"the device is not as planned: {snapshot.pending}"
        found.append(_warn(Code.PLAN_PENDING, text, blocks=True))
    elif snapshot.applied_block is None and snapshot.chain.membership is not None:
        found.append(_warn(Code.PLAN_PENDING, "no plan has been applied yet", blocks=True))
    return found
