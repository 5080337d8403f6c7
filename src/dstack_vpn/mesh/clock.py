"""How long ago a handshake was, on a machine whose clock may be set while it runs. Pure.

WireGuard stamps a handshake with the wall clock of that moment. When that clock jumps, all older
stamps are as wrong as it was, and a live peer could be taken for a silent one. So it is remembered
how the wall clock stood to the monotonic one, and since when: a stamp is read by what held when it
was written.
"""

from dataclasses import dataclass

# We chose. Clocks are slewed by milliseconds and set by seconds.
JUMP = 1.0


@dataclass(frozen=True, slots=True)
class Epoch:
    """A time in which the wall clock ran evenly."""

    since: float
    """Monotonic seconds at which it began; minus infinity for the first."""
    offset: float
    """Wall-clock seconds less monotonic ones."""


@dataclass(frozen=True, slots=True)
class WallClock:
    """What the wall clock did so far."""

    epochs: tuple[Epoch, ...] = ()
    """Newest last."""

    def see(self, *, now: float, wall_now: float, memory: float) -> "WallClock":
        """Look at both clocks.

        Args:
            now: monotonic seconds.
            wall_now: seconds since 1970.
            memory: seconds after which the end of an epoch is forgotten.
        """
        offset = wall_now - now
        if not self.epochs:
            return WallClock((Epoch(float("-inf"), offset),))
        *older, newest = self.epochs
        # An epoch ends where the next one begins.
        kept = [e for e, n in zip(older, self.epochs[1:], strict=True) if now - n.since < memory]
        if abs(offset - newest.offset) < JUMP:
            return WallClock((*kept, Epoch(newest.since, offset)))
        return WallClock((*kept, newest, Epoch(now, offset)))

    def age(self, stamp: float, *, now: float) -> float | None:
        """Seconds since a wall-clock stamp was written; None for never, or nobody knows when.

        Where two epochs could have written it, the younger reading counts: to take a silent peer
        for a live one costs a few minutes, the other way round it costs a connection.
        """
        if not stamp:
            return None
        until, ages = now, []
        for epoch in reversed(self.epochs):
            written = stamp - epoch.offset
            if epoch.since - JUMP <= written <= until + JUMP:
                ages.append(max(0.0, now - written))
            until = epoch.since
        return min(ages, default=None)
