"""Health as a list of coded warnings, judged from a snapshot and the time.

*Ready* means that this node can pass traffic by the policy in force: the membership was verified,
the device is up, the plan is on it, and nothing closed it. A chain that is away makes a node
*degraded*, not unready: an orchestrator must not kill working tunnels because an RPC is down.
"""

from dataclasses import dataclass
from enum import StrEnum

from dstack_vpn.mesh.access import Verdict
from dstack_vpn.mesh.chaintime import ChainState, chain_state, clock_skew
from dstack_vpn.mesh.snapshot import AlarmCode, Snapshot

# We chose. Who wants to see more asks for the verdicts.
COPIES_NAMED = 5

# We chose. Blocks are stamped to the second or two; whoever is further off has no clock to show.
MOST_SKEW = 60.0


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
    UNGUARDED = "unguarded"
    ONE_PROVIDER = "one-provider"
    CHAIN_HALTED = "chain-halted"
    CLOCK_SKEW = "clock-skew"
    KEY_COPIED = "key-copied"
    # The alarms of the chain, each by its own word.
    SUSPENDED = AlarmCode.SUSPENDED
    QUARANTINED = AlarmCode.QUARANTINED
    DISAGREEMENT = AlarmCode.DISAGREEMENT
    PROVIDER_REFUSED = AlarmCode.PROVIDER_REFUSED
    FINALITY = AlarmCode.FINALITY
    MEMBERS_DIFFERED = AlarmCode.MEMBERS_DIFFERED
    LOGS_DIFFERED = AlarmCode.LOGS_DIFFERED


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
    state: ChainState
    """How it stands with the chain."""
    at: float
    """Monotonic seconds of the judgement."""
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
    block_time: float | None = None,
    wall_now: float | None = None,
) -> Health:
    """Judge a snapshot.

    Args:
        snapshot: the newest one.
        now: monotonic seconds.
        dark_after: seconds without an agreed head after which the chain counts as dark.
        fresh: the strict form of readiness: at most so many seconds since the last agreed head.
        trusts_one_provider: the operator chose to trust a single provider on a public chain.
        block_time: seconds between two blocks; None where blocks come only when somebody writes,
            so that neither a standstill nor the time of the newest block says anything.
        wall_now: seconds since 1970 as this machine has it, to be compared with the chain's.
    """
    chain = snapshot.chain
    age = None if chain.agreed_at is None else max(0.0, now - chain.agreed_at)
    state = chain_state(chain, now=now, dark_after=dark_after, block_time=block_time)
    found = _chain_warnings(snapshot, state, age, now)
    if chain.membership is not None and not snapshot.closed:
        found += _stale(age, fresh)
    found += [_warn(Code(alarm.code), alarm.text) for alarm in chain.alarms]
    found += _copies(snapshot)
    if block_time is not None and wall_now is not None:
        found += _skew_warnings(clock_skew(chain, now=now, wall_now=wall_now))
    found += _device_warnings(snapshot)
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
    return Health(
        status=status, ready=ready, warnings=tuple(found), state=state, at=now, head_age=age
    )


def _warn(code: Code, text: str, *, bad: bool = False, blocks: bool = False) -> HealthWarning:
    status = Status.UNHEALTHY if bad else Status.DEGRADED
    return HealthWarning(code=code, text=text, status=status, blocks_ready=blocks)


def _chain_warnings(
    snapshot: Snapshot, state: ChainState, age: float | None, now: float
) -> list[HealthWarning]:
    chain = snapshot.chain
    because = f" ({chain.last_error})" if chain.last_error else ""
    if snapshot.closed:
        return [_warn(Code.CLOSED, snapshot.closed, bad=True, blocks=True)]
    if chain.membership is None:
        text = f"the membership has not been read yet{because}"
        return [_warn(Code.CHAIN_UNKNOWN, text, bad=True, blocks=True)]
    if not chain.verified:
        text = f"the membership is from this node's disk; no provider confirmed it yet{because}"
        return [_warn(Code.CHAIN_UNVERIFIED, text, blocks=True)]
    if state is ChainState.DARK:
        text = f"no agreed head for {age:.0f} s; members are held, nobody is admitted{because}"
        return [_warn(Code.CHAIN_DARK, text)]
    if state is ChainState.HALTED and chain.advanced_at is not None:
        stood = now - chain.advanced_at
        text = (
            f"the chain stands still: its head has been block {chain.membership.block.number} for"
            f" {stood:.0f} s; members are held"
        )
        return [_warn(Code.CHAIN_HALTED, text)]
    return []


def _copies(snapshot: Snapshot) -> list[HealthWarning]:
    """Tokens with the key of another one, which stays; somebody should ask who did that."""
    found = sorted(
        (d for d in snapshot.decisions.values() if d.verdict is Verdict.KEY_DUPLICATE),
        key=lambda d: d.token_id,
    )
    if not found:
        return []
    named = [f"token {d.token_id} is out, since {d.reason}" for d in found[:COPIES_NAMED]]
    more = [f"and {len(found) - COPIES_NAMED} more"] if len(found) > COPIES_NAMED else []
    return [_warn(Code.KEY_COPIED, "; ".join([*named, *more]))]


def _stale(age: float | None, fresh: float | None) -> list[HealthWarning]:
    if fresh is None or (age is not None and age <= fresh):
        return []
    text = f"the last agreed head is older than the {fresh:g} s asked for"
    return [_warn(Code.CHAIN_STALE, text, blocks=True)]


def _skew_warnings(skew: float | None) -> list[HealthWarning]:
    if skew is None or abs(skew) <= MOST_SKEW:
        return []
    text = (
        f"this machine's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the"
        " chain's newest block; nothing about members is decided by it"
    )
    return [_warn(Code.CLOCK_SKEW, text)]


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
        found.append(_warn(Code.PLAN_PENDING, text, blocks=not snapshot.fell_back))
    elif snapshot.applied_block is None and snapshot.chain.membership is not None:
        found.append(_warn(Code.PLAN_PENDING, "no plan has been applied yet", blocks=True))
    if snapshot.unguarded:
        found.append(_warn(Code.UNGUARDED, snapshot.unguarded))
    return found
