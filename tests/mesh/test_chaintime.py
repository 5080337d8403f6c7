"""Chain time, and when the dark policy closes: both on monotonic seconds alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.mesh.chaintime import ChainClock, dark_closes_at
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
    other = membership(timestamp=CHAIN_NOW - 100)
    assert clock.see(other, branch=1, now=NOW).at(NOW) == CHAIN_NOW - 100


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
    closes_at = dark_closes_at(view, close_after=close_after, saved_age=saved_age, now=NOW)
    assert closes_at == expected
