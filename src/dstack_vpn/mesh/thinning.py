"""Which of the states that were kept go when one more comes. Pure.

The rule, from its reasons. Under steady change the last ten states would span ten seconds, so the
states are thinned by age: dense close to now, sparse long ago. And ten changes of the membership
must not push out the last state with other interface settings, which is what a rollback is for. So:

1. The newest state stays.
2. Of the others those go first that have a newer one with the same interface section right after
   them, and an older one before them: of these the most crowded, which is the one whose neighbours
   lie closest together, measured by its age.
3. Where there is none such, the oldest goes.

What is left covers all the time since the oldest state, in steps that grow with the age.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptState:
    """What the rule asks about a state."""

    number: int
    time: float
    """Wall-clock seconds since 1970 at which it came into force."""
    section: str = field(repr=False)
    """Its whole interface section, which may hold a private key."""
    size: int
    """Bytes."""


def surplus(
    states: Sequence[KeptState], *, now: float, most: int, most_bytes: int
) -> tuple[int, ...]:
    """The numbers of the states that go, in their order.

    Args:
        states: by number, the newest last.
        now: wall-clock seconds since 1970.
        most: how many may stay; 0 for none.
        most_bytes: how large those that stay may be together; one stays however large it is.
    """
    left = list(states)
    gone = []
    size = sum(state.size for state in left)
    while len(left) > most or (size > most_bytes and len(left) > 1):
        state = left.pop(_dispensable(left, now))
        size -= state.size
        gone.append(state.number)
    return tuple(gone)


def _dispensable(states: Sequence[KeptState], now: float) -> int:
    """The place of the one that goes first."""
    repeated = [
        place
        for place in range(1, len(states) - 1)
        if states[place].section == states[place + 1].section
    ]
    if not repeated:
        return 0
    return min(repeated, key=lambda place: _room(states, place, now))


def _room(states: Sequence[KeptState], place: int, now: float) -> float:
    """How much of the time, as a share of its age, is covered by this state alone."""
    # A clock that was set back is no reason to divide by nothing.
    age = max(now - states[place].time, 1.0)
    return abs(states[place + 1].time - states[place - 1].time) / age
