"""Chain time, and what a chain that is away or stands still leads to, on monotonic seconds."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.mesh.chaintime import (
    UNVERIFIED_BRANCH,
    ChainClock,
    chain_state,
    clock_skew,
    closing,
    turns_at,
)
from dstack_vpn.mesh.membership import BlockHash, Membership
from dstack_vpn.mesh.snapshot import ChainView
from mesh.build import BLOCK, CHAIN_NOW, NOW, chain_view, membership


def test_runs_on_from_the_newest_block() -> None:
    """Between blocks chain time goes on with the monotonic clock."""
    clock = ChainClock().see(membership(), branch=0, now=NOW)
    assert [clock.at(NOW + s) - CHAIN_NOW for s in (0, 1.5, 3600)] == [0, 1.5, 3600]


def test_late_block_does_not_set_it_back() -> None:
    """A block whose timestamp lags behind moves nothing back: nobody who expired flickers."""
    clock = ChainClock().see(membership(), branch=0, now=NOW)
    lagging = membership(number=BLOCK + 1, timestamp=CHAIN_NOW + 2)
    assert clock.see(lagging, branch=0, now=NOW + 5).at(NOW + 5) == CHAIN_NOW + 5


def test_early_block_sets_it_forward() -> None:
    """A block whose timestamp is ahead moves chain time forward."""
    clock = ChainClock().see(membership(), branch=0, now=NOW)
    ahead = membership(number=BLOCK + 1, timestamp=CHAIN_NOW + 9)
    assert clock.see(ahead, branch=0, now=NOW + 2).at(NOW + 2) == CHAIN_NOW + 9


def test_seeing_one_block_twice_changes_nothing() -> None:
    """Polling the same head again is no new statement about time."""
    clock = ChainClock().see(membership(), branch=0, now=NOW)
    assert clock.see(membership(), branch=0, now=NOW + 60) == clock


def test_reorganisation_may_set_it_back() -> None:
    """On another branch chain time is what that branch says."""
    clock = ChainClock().see(membership(), branch=0, now=NOW)
    assert clock.see(elsewhere(), branch=1, now=NOW).at(NOW) == CHAIN_NOW - 100
    # Also where all was read anew, and no reorganisation was seen.
    assert clock.see(elsewhere(), branch=0, now=NOW).at(NOW) == CHAIN_NOW - 100


@pytest.mark.parametrize("branch", [0, 1])
def test_reading_anew_does_not_set_it_back(branch: int) -> None:
    """Who expired while the chain stood still stays out, whatever leads to the same block again."""
    clock = ChainClock().see(membership(), branch=0, now=NOW)
    again = clock.see(membership(), branch=branch, now=NOW + 3600)
    assert again.at(NOW + 3600) == CHAIN_NOW + 3600


def test_what_nobody_confirmed_sets_no_time() -> None:
    """The age of what is on the disk is by a clock that may be wrong: the first answer decides."""
    clock = ChainClock().see(membership(), branch=UNVERIFIED_BRANCH, now=NOW - 1e9)
    assert clock.see(membership(), branch=0, now=NOW).at(NOW) == CHAIN_NOW


def elsewhere() -> Membership:
    """A membership at a block of the same height on another branch, 100 s older."""
    made = membership(timestamp=CHAIN_NOW - 100)
    return replace(made, block=replace(made.block, hash=BlockHash("0x" + "ee" * 32)))


steps = st.lists(
    st.tuples(st.floats(0, 100), st.integers(0, 3), st.integers(-200, 200)), max_size=20
)


@given(steps)
def test_never_backward_while_the_chain_grows(steps: list[tuple[float, int, int]]) -> None:
    """Whatever timestamps arrive, and whenever, chain time only goes forward."""
    clock, now, number = ChainClock().see(membership(), branch=0, now=NOW), NOW, BLOCK
    shown = clock.at(now)
    for wait, blocks, jitter in steps:
        now, number = now + wait, number + blocks
        head = membership(number=number, timestamp=round(CHAIN_NOW + now - NOW + jitter))
        clock = clock.see(head, branch=0, now=now)
        # Floats of this size are exact to a quarter of a microsecond.
        assert clock.at(now) >= shown - 1e-6
        shown = clock.at(now)


def closes_at(
    view: ChainView,
    *,
    dark: float = 0,
    halt: float = 0,
    saved_age: float | None = None,
    now: float = NOW,
) -> float | None:
    """When the policies with these limits close."""
    found = closing(
        view, dark_close_after=dark, halt_close_after=halt, saved_age=saved_age, now=now
    )
    return None if found is None else found.at


@pytest.mark.parametrize(
    ("agreed_at", "saved_age", "close_after", "expected"),
    [
        (NOW - 10, None, 900, NOW + 890),
        (NOW - 10, 5.0, 900, NOW + 890),
        (NOW - 1000, None, 900, NOW - 100),
        (None, 100.0, 900, NOW + 800),
        (None, 1000.0, 900, NOW - 100),
        (None, None, 900, None),
        (NOW - 10, None, 0, None),
        (None, 1e9, 0, None),
    ],
)
def test_dark_closes_at(
    agreed_at: float | None, saved_age: float | None, close_after: float, expected: float | None
) -> None:
    """Counted from the last agreed head, of this run or of the one before; 0 never closes."""
    view = chain_view(agreed_at=agreed_at)
    assert closes_at(view, dark=close_after, saved_age=saved_age) == expected


@pytest.mark.parametrize(
    ("stood_still", "dark_for", "limit", "expected"),
    [
        (100, 0, 900, None),
        (900, 0, 900, NOW),
        (1000, 0, 900, NOW - 100),
        (1000, 0, 0, None),
        # What the chain does in the dark nobody knows: it counts as long as it was confirmed.
        (1000, 101, 900, None),
        (1000, 100, 900, NOW - 100),
    ],
)
def test_halt_closes_at(
    stood_still: float, dark_for: float, limit: float, expected: float | None
) -> None:
    """Counted from the last new head, up to when it was last confirmed; 0 never closes."""
    view = chain_view(agreed_at=NOW - dark_for, advanced_at=NOW - stood_still)
    assert closes_at(view, halt=limit) == expected


@given(st.floats(0, 1e4), st.floats(0, 1e4), st.floats(0, 2e4))
def test_a_halt_that_closed_stays_closed_in_the_dark(
    stood_still: float, limit: float, dark_for: float
) -> None:
    """Providers that fall silent bring nobody back whom the standstill put out."""
    view = chain_view(agreed_at=NOW, advanced_at=NOW - stood_still)
    before = closes_at(view, halt=limit)
    assert closes_at(view, halt=limit, now=NOW + dark_for) == before


def test_whichever_closes_first_says_why() -> None:
    """The reason names the setting that closed, and what would open again."""
    view = chain_view(agreed_at=NOW - 1000, advanced_at=NOW - 3000)
    dark = closing(view, dark_close_after=900, halt_close_after=2500, saved_age=None, now=NOW)
    halt = closing(view, dark_close_after=901, halt_close_after=1500, saved_age=None, now=NOW)
    assert dark is not None
    assert halt is not None
    assert dark.reason.startswith("no agreed head of the chain for longer than DARK_CLOSE_AFTER")
    assert "has stood still for longer than HALT_CLOSE_AFTER (1500 s)" in halt.reason
    assert halt.reason.endswith("all peers are out until it goes on")


@pytest.mark.parametrize(
    ("agreed", "advanced", "block_time", "state"),
    [
        (0, 0, 2.0, "following"),
        (60, 60, 2.0, "following"),
        (61, 61, 2.0, "dark"),
        (0, 61, 2.0, "halted"),
        (61, 3600, 2.0, "dark"),
        # A chain that only has blocks when somebody writes stands still most of the time.
        (0, 3600, None, "following"),
        (61, 61, None, "dark"),
    ],
)
def test_dark_is_not_halted(
    agreed: float, advanced: float, block_time: float | None, state: str
) -> None:
    """Dark: nothing is agreed on. Halted: it is, but on an old head."""
    view = chain_view(membership(), agreed_at=NOW - agreed, advanced_at=NOW - advanced)
    assert chain_state(view, now=NOW, dark_after=60, block_time=block_time) == state


@given(st.floats(0, 200), st.floats(0, 200), st.sampled_from([None, 2.0]))
def test_when_the_state_turns(agreed: float, advanced: float, block_time: float | None) -> None:
    """Until the time that is told the state is what it is now; just after it is another one."""
    view = chain_view(membership(), agreed_at=NOW - agreed, advanced_at=NOW - agreed - advanced)

    def state(now: float) -> str:
        return chain_state(view, now=now, dark_after=60, block_time=block_time)

    turns = turns_at(view, now=NOW, dark_after=60, block_time=block_time)
    if turns is None:
        assert state(NOW) == state(NOW + 1e6) == "dark"
    else:
        assert turns >= NOW
        assert state(turns) == state(NOW)
        assert state(turns + 1e-6) != state(NOW)


def test_before_anything_is_confirmed() -> None:
    """Nothing is known at first; what comes from the disk is known, and confirmed by nobody."""
    words = [
        chain_state(view, now=NOW, dark_after=60, block_time=2.0)
        for view in (
            chain_view(verified=False, agreed_at=None),
            chain_view(membership(), verified=False, agreed_at=None),
        )
    ]
    assert words == ["unknown", "unverified"]


@pytest.mark.parametrize("age", [0, 30, 59])
@pytest.mark.parametrize("ahead", [-3600.0, -1.0, 0.0, 3600.0])
def test_clock_skew(ahead: float, age: float) -> None:
    """A new head tells by how much this machine's clock is off, whenever it is asked."""
    view = chain_view(membership(), advanced_at=NOW - age)
    assert clock_skew(view, now=NOW, wall_now=CHAIN_NOW + age + ahead) == ahead


def test_an_old_head_tells_nothing_of_the_time() -> None:
    """While the chain stands still, or before anything was confirmed, no clock is blamed."""
    for view in (
        chain_view(membership(), advanced_at=NOW - 60),
        chain_view(membership(), advanced_at=None),
        chain_view(membership(), verified=False),
        chain_view(),
    ):
        assert clock_skew(view, now=NOW, wall_now=0.0) is None
