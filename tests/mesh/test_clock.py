"""The age of a handshake, whatever is done to the clock."""

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.mesh.clock import JUMP, WallClock

MEMORY = 180.0
DAY = 86_400.0
JUMPS = st.just(0.0) | st.floats(2 * JUMP, 1e6) | st.floats(-1e6, -2 * JUMP)
"""What is smaller is taken for slewing, which never adds up to much within `MEMORY`."""


def test_an_even_clock() -> None:
    """Without a jump the age is the difference; slewing is followed."""
    clock = WallClock().see(now=10.0, wall_now=1e9, memory=MEMORY)
    assert clock.age(1e9 - 5, now=10.0) == 5.0
    clock = clock.see(now=20.0, wall_now=1e9 + 10.5, memory=MEMORY)
    assert len(clock.epochs) == 1
    assert clock.age(1e9 + 10.5, now=20.0) == 0.0


def test_never_is_not_long_ago() -> None:
    """0 stands for never, also on a machine whose clock stands at 1970."""
    clock = WallClock().see(now=10.0, wall_now=5.0, memory=MEMORY)
    assert clock.age(0.0, now=10.0) is None


def test_a_stamp_keeps_its_age_when_the_clock_is_set() -> None:
    """Forward or back, what was written before is as old as it was."""
    for jump in (DAY, -DAY, 90.0, -90.0):
        clock = WallClock().see(now=100.0, wall_now=1e9 + 100, memory=MEMORY)
        clock = clock.see(now=110.0, wall_now=1e9 + 110 + jump, memory=MEMORY)
        assert clock.age(1e9 + 100, now=120.0) == 20.0
        assert clock.age(1e9 + 115 + jump, now=120.0) == 5.0


def test_a_stamp_of_the_future_is_no_live_peer() -> None:
    """Nobody knows when it was written, so it says nothing."""
    clock = WallClock().see(now=10.0, wall_now=1e9, memory=MEMORY)
    assert clock.age(1e9 + 60, now=10.0) is None


@given(
    st.lists(
        st.tuples(st.floats(0.01, 100), JUMPS, st.booleans()),
        min_size=1,
        max_size=30,
    )
)
def test_no_jump_makes_a_stamp_older(steps: list[tuple[float, float, bool]]) -> None:
    """A handshake of the last minutes never looks older than it is; little is kept."""
    clock, now, offset = WallClock(), 1000.0, 1e9
    written: list[tuple[float, float]] = []
    for pause, jump, shakes in steps:
        now, offset = now + pause, offset + jump
        clock = clock.see(now=now, wall_now=now + offset, memory=MEMORY)
        if shakes:
            written.append((now, now + offset))
        for at, stamp in written:
            if now - at < MEMORY:
                age = clock.age(stamp, now=now)
                assert age is not None
                assert age <= now - at + JUMP * len(steps)
    times = list(accumulate(pause for pause, _, _ in steps))
    assert len(clock.epochs) <= 2 + sum(times[-1] - t < MEMORY for t in times)
