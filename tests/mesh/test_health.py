"""Health: what can be wrong, how bad it is, and whether traffic can pass all the same."""

from dataclasses import replace

import pytest

from dstack_vpn.mesh.access import find
from dstack_vpn.mesh.health import Code, Health, Status, assess
from dstack_vpn.mesh.snapshot import Alarm, AlarmCode, Snapshot
from mesh.build import CHAIN_NOW, NOW, chain_view, decide, membership, node, seen_device, snapshot

DARK_AFTER = 60.0


def judge(shot: Snapshot, *, later: float = 0.0, fresh: float | None = None) -> Health:
    """The health of a snapshot, so many seconds after the last agreed head."""
    return assess(shot, now=NOW + later, dark_after=DARK_AFTER, fresh=fresh, block_time=2.0)


def with_own(*tokens: str) -> Snapshot:
    """A snapshot of a node that no token names."""
    decisions = decide([node(i, node_id=name) for i, name in enumerate(tokens, 1)])
    return replace(
        snapshot(), decisions={d.token_id: d for d in decisions}, own=find(decisions, "node-1")
    )


READY = snapshot()
NOT_READ = replace(READY, chain=chain_view(verified=False, agreed_at=None), applied_block=None)
FROM_DISK = replace(READY, chain=chain_view(membership(), verified=False, agreed_at=None))
DOWN = replace(READY, device=seen_device(up=False))
HALTED = replace(READY, chain=chain_view(membership(), advanced_at=NOW - 61))
ALARM = Alarm(code=AlarmCode.QUARANTINED, text="a#1 told of a removal", provider="a#1", since=NOW)
ALARMED = replace(READY, chain=chain_view(membership(), alarms=(ALARM,)))

TABLE = [
    # snapshot, seconds since the last agreed head, codes, status, ready
    ("all well", READY, 0, [], "healthy", True),
    ("head of a minute ago", READY, 60, [], "healthy", True),
    ("dark", READY, 61, [Code.CHAIN_DARK], "degraded", True),
    ("dark for a day", READY, 86_400, [Code.CHAIN_DARK], "degraded", True),
    ("halted", HALTED, 0, [Code.CHAIN_HALTED], "degraded", True),
    ("halted, then dark", HALTED, 61, [Code.CHAIN_DARK], "degraded", True),
    ("alarm", ALARMED, 0, [Code.QUARANTINED], "degraded", True),
    ("alarm in the dark", ALARMED, 61, [Code.CHAIN_DARK, Code.QUARANTINED], "degraded", True),
    ("never read", NOT_READ, 0, [Code.CHAIN_UNKNOWN], "unhealthy", False),
    ("from disk", FROM_DISK, 0, [Code.CHAIN_UNVERIFIED], "degraded", False),
    ("closed", replace(READY, closed="dark"), 90_000, [Code.CLOSED], "unhealthy", False),
    ("no member", with_own("other"), 0, [Code.NOT_A_MEMBER], "degraded", False),
    ("device down", DOWN, 0, [Code.DEVICE_DOWN], "unhealthy", False),
    ("no device", replace(READY, device=None), 0, [Code.DEVICE_DOWN], "unhealthy", False),
    ("refused", replace(READY, pending="no"), 0, [Code.PLAN_PENDING], "degraded", False),
    ("no guard", replace(READY, unguarded="no"), 0, [Code.UNGUARDED], "degraded", True),
    ("no plan", replace(READY, applied_block=None), 0, [Code.PLAN_PENDING], "degraded", False),
    (
        "dark and down",
        DOWN,
        61,
        [Code.CHAIN_DARK, Code.DEVICE_DOWN],
        "unhealthy",
        False,
    ),
]


@pytest.mark.parametrize(
    ("shot", "later", "codes", "status", "ready"),
    [row[1:] for row in TABLE],
    ids=[row[0] for row in TABLE],
)
def test_table(shot: Snapshot, later: float, codes: list[Code], status: str, ready: bool) -> None:
    """Ready is "can pass traffic"; a chain that is away degrades, and kills no tunnel."""
    health = judge(shot, later=later)
    assert [w.code for w in health.warnings] == codes
    assert (health.status, health.ready) == (status, ready)
    assert bool(health.reason) == bool(codes)


def test_words_are_stable() -> None:
    """Scripts match on these words."""
    assert [str(s) for s in Status] == ["healthy", "degraded", "unhealthy"]
    assert {str(c) for c in Code} == {
        "chain-unknown",
        "chain-unverified",
        "chain-dark",
        "chain-stale",
        "closed",
        "not-a-member",
        "device-down",
        "plan-pending",
        "one-provider",
        "chain-halted",
        "clock-skew",
        "key-copied",
        "unguarded",
        *AlarmCode,
    }


@pytest.mark.parametrize(
    ("later", "fresh", "ready"),
    [(5, 5, True), (5.1, 5, False), (61, 3600, True), (61, None, True), (0, 0, True)],
)
def test_strict_form(later: float, fresh: float | None, ready: bool) -> None:
    """/ready?fresh=SECONDS also asks for an agreed head that is no older than that."""
    health = judge(READY, later=later, fresh=fresh)
    assert health.ready == ready
    assert (Code.CHAIN_STALE in [w.code for w in health.warnings]) == (not ready)


def test_strict_form_without_any_head() -> None:
    """A node that never saw an agreed head is not fresh by any measure."""
    never = replace(READY, chain=chain_view(membership(), agreed_at=None))
    assert judge(never).ready
    assert not judge(never, fresh=1e9).ready
    assert judge(never).head_age is None


def test_one_provider_is_shown_for_ever() -> None:
    """Trusting a single provider is the operator's choice: always shown, never ill health."""
    health = assess(READY, now=NOW, dark_after=DARK_AFTER, trusts_one_provider=True)
    assert [w.code for w in health.warnings] == [Code.ONE_PROVIDER]
    assert (health.status, health.ready) == ("healthy", True)


def test_a_halt_says_where_and_for_how_long() -> None:
    """The block at which the chain stands, and since when; members are held."""
    (warning,) = judge(HALTED).warnings
    assert warning.text == (
        "the chain stands still: its head has been block 1000 for 61 s; members are held"
    )


def test_a_chain_without_a_pulse_is_never_halted() -> None:
    """Where blocks come only when somebody writes, none for an hour is nothing special."""
    quiet = replace(READY, chain=chain_view(membership(), advanced_at=NOW - 3600))
    assert assess(quiet, now=NOW, dark_after=DARK_AFTER, wall_now=0.0).warnings == ()


def test_an_alarm_is_told_as_it_is() -> None:
    """What an alarm says is what /health says, under the alarm's own word."""
    (warning,) = judge(ALARMED).warnings
    assert (str(warning.code), warning.text) == (ALARM.code.value, ALARM.text)


@pytest.mark.parametrize(
    ("ahead", "text"),
    [
        (3600, "this machine's clock is 3600 s ahead of the chain's newest block"),
        (-3600, "this machine's clock is 3600 s behind the chain's newest block"),
        (61, "this machine's clock is 61 s ahead"),
        (60, None),
        (-60, None),
    ],
)
def test_a_wrong_clock_is_told(ahead: float, text: str | None) -> None:
    """By how much and which way; it makes nobody a member, and takes no traffic down."""
    health = assess(
        READY, now=NOW, dark_after=DARK_AFTER, block_time=2.0, wall_now=CHAIN_NOW + ahead
    )
    assert [w.code for w in health.warnings] == ([Code.CLOCK_SKEW] if text else [])
    assert health.reason.startswith(text or "")
    assert health.reason.endswith("nothing about members is decided by it" if text else "")
    assert health.ready


def test_the_state_is_a_word() -> None:
    """How it stands with the chain, beside what is wrong."""
    words = [judge(shot).state for shot in (READY, HALTED, FROM_DISK, NOT_READ)]
    assert words == ["following", "halted", "unverified", "unknown"]
    assert judge(READY, later=61).state == "dark"


def test_reason_begins_with_what_blocks() -> None:
    """The first thing that a reader sees is why no traffic passes; the rest follows."""
    reason = judge(replace(READY, pending="no permission"), later=61).reason
    assert reason.startswith("the device is not as planned: no permission; no agreed head for 61 s")


def test_reason_says_what_the_chain_said() -> None:
    """The error of the last poll stands beside the darkness that it explains."""
    chain = replace(READY.chain, last_error="rpc.example#1: refused")
    assert "(rpc.example#1: refused)" in judge(replace(READY, chain=chain), later=61).reason


def test_clock_that_is_behind() -> None:
    """An agreement that lies in the future counts as new, not as negative age."""
    assert judge(READY, later=-5).head_age == 0
