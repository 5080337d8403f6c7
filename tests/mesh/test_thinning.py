"""Which states stay: bounded, the newest always, other settings first, and spread over the time."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.mesh.thinning import KeptState, surplus
from wireguard.samples import patient

PLENTY = 2**40


def states(sections: str, *, step: float = 10.0, size: int = 1) -> list[KeptState]:
    """States numbered from 1, one for each letter, which stands for an interface section."""
    return [
        KeptState(number=number, time=number * step, section=section, size=size)
        for number, section in enumerate(sections, 1)
    ]


def kept(found: list[KeptState], *, most: int, most_bytes: int = PLENTY) -> str:
    """The sections of those that stay."""
    now = max((s.time for s in found), default=0.0) + 1
    gone = surplus(found, now=now, most=most, most_bytes=most_bytes)
    return "".join(s.section for s in found if s.number not in gone)


def test_nothing_goes_while_there_is_room() -> None:
    """As many as may be stay, and none of none."""
    assert kept(states("aaaa"), most=4) == "aaaa"
    assert kept([], most=0) == ""


def test_none_is_kept_where_none_is_wanted() -> None:
    """0 is none, not even the newest."""
    assert kept(states("ab"), most=0) == ""


def test_changes_of_the_membership_push_out_no_settings() -> None:
    """A hundred states with the same section leave the last one with another where it is."""
    assert kept(states("b" + "a" * 100), most=3).startswith("b")
    assert kept(states("a" * 50 + "b" + "a" * 50), most=4).count("b") == 1


def test_where_all_differ_the_oldest_goes() -> None:
    """There is nothing to thin."""
    assert kept(states("abcdefg"), most=3) == "efg"


def test_the_bytes_are_bounded() -> None:
    """As if fewer were wanted; one stays however large it is."""
    assert kept(states("abcdefg", size=10), most=9, most_bytes=25) == "fg"
    assert kept(states("abc", size=10), most=9, most_bytes=1) == "c"


@patient
@given(
    steps=st.lists(st.floats(-5, 1e6), max_size=30),
    sections=st.text("abc", min_size=30, max_size=30),
    most=st.integers(1, 12),
    most_bytes=st.integers(1, 400),
)
def test_the_rule(steps: list[float], sections: str, most: int, most_bytes: int) -> None:
    """One after the other, whatever the clock does: the bounds hold, and each that goes had to."""
    now, left = 0.0, list[KeptState]()
    for number, step in enumerate(steps, 1):
        now += step
        state = KeptState(
            number=number, time=now, section=sections[number - 1], size=number * 7 % 50
        )
        left.append(state)
        gone = surplus(left, now=now, most=most, most_bytes=most_bytes)
        stay = [s for s in left if s.number not in gone]
        assert stay[-1] is state
        assert len(stay) <= most
        assert sum(s.size for s in stay) <= most_bytes or len(stay) == 1
        if len(gone) == 1 and most > 1:
            place = [s.number for s in left].index(gone[0])
            inner = range(1, len(left) - 1)
            repeated = [i for i in inner if left[i].section == left[i + 1].section]
            assert place in repeated if repeated else place == 0
        left = stay


def test_ten_states_cover_seconds_and_hours() -> None:
    """A change each second for six hours: from one state to the next the age grows eightfold."""
    left: list[KeptState] = []
    seconds = 6 * 3600
    for second in range(seconds):
        left.append(KeptState(number=second, time=float(second), section="a", size=1))
        gone = surplus(left, now=second + 1.0, most=10, most_bytes=PLENTY)
        left = [state for state in left if state.number not in gone]
    ages = [seconds - state.time for state in left]
    assert (len(ages), ages[0], ages[-1]) == (10, seconds, 1)
    assert max(older / newer for older, newer in pairwise(ages)) <= 8
