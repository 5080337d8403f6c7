"""Chain time now, and the policies for a chain that is away, or that stands still.

All run on monotonic seconds, so that a wrong wall clock neither expires nor revives anybody.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from dstack_vpn.mesh.membership import BlockHash, Membership
from dstack_vpn.mesh.snapshot import ChainView

# We chose. By the time that it is this old, a head says little about the time.
NEW_HEAD = 60.0

UNVERIFIED_BRANCH = -2
"""A branch that no verified membership is on, so that the first one sets the clock anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainClock:
    """Chain time as the newest agreed timestamp plus the time that went by since.

    It never runs backward while the chain only grows or stands still (blocks arrive with jitter,
    and a node that expired must not flicker); a block of another branch may set it back.
    """

    offset: float = 0.0
    """Chain time less monotonic time, seconds."""
    block: int = -1
    hash: BlockHash | None = None
    branch: int = -1

    def see(self, membership: Membership, *, branch: int, now: float) -> Self:
        """The clock after a membership was agreed on.

        Args:
            membership: the newest one.
            branch: a number that changes with each reorganisation; UNVERIFIED_BRANCH for a
                membership that nobody has confirmed yet, whose age is by a clock that may be wrong.
            now: monotonic seconds.
        """
        block = membership.block
        if (block.hash, branch) == (self.hash, self.branch):
            return self
        offset = block.timestamp - now
        # Read anew, however that came about, a block is no other one than it was.
        same = block.hash == self.hash
        grown = branch == self.branch and block.number > self.block
        if UNVERIFIED_BRANCH not in (branch, self.branch) and (same or grown):
            offset = max(offset, self.offset)
        return type(self)(offset=offset, block=block.number, hash=block.hash, branch=branch)

    def at(self, now: float) -> float:
        """Chain time at a monotonic time, seconds since 1970."""
        return now + self.offset


class ChainState(StrEnum):
    """How it stands with the chain, in a word."""

    UNKNOWN = "unknown"
    """No membership has been read, not even from disk."""
    UNVERIFIED = "unverified"
    """The membership is from the disk; nobody has confirmed it yet."""
    FOLLOWING = "following"
    DARK = "dark"
    """For too long, not enough providers have agreed on a head."""
    HALTED = "halted"
    """Enough providers agree, but for too long on one and the same head."""


def chain_state(
    view: ChainView, *, now: float, dark_after: float, block_time: float | None
) -> ChainState:
    """How it stands with the chain.

    Args:
        view: what the follower knows.
        now: monotonic seconds.
        dark_after: seconds after which it is dark, or halted.
        block_time: seconds between two blocks; None where blocks come only when somebody writes,
            so that a chain that stands still is nothing special.
    """
    if view.membership is None:
        return ChainState.UNKNOWN
    if not view.verified or view.agreed_at is None:
        return ChainState.UNVERIFIED
    if now - view.agreed_at > dark_after:
        return ChainState.DARK
    if block_time is not None and view.advanced_at is not None:
        return ChainState.HALTED if now - view.advanced_at > dark_after else ChainState.FOLLOWING
    return ChainState.FOLLOWING


def turns_at(
    view: ChainView, *, now: float, dark_after: float, block_time: float | None
) -> float | None:
    """The next monotonic time at which the state becomes another one by itself, or None."""
    begins = [view.agreed_at, None if block_time is None else view.advanced_at]
    ends = [begin + dark_after for begin in begins if begin is not None]
    return min((end for end in ends if end >= now), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """From when on all peers are out although they are members, and why."""

    at: float
    """Monotonic seconds."""
    reason: str


def closing(
    view: ChainView,
    *,
    dark_close_after: float,
    halt_close_after: float,
    saved_age: float | None,
    now: float,
) -> Closing | None:
    """What closes first, unless a new head comes.

    A standstill is only as long as enough providers have confirmed it: what the chain does in the
    dark nobody knows, and there the other limit holds.

    Args:
        view: what the follower knows.
        dark_close_after: seconds in the dark after which peers go; 0 means never.
        halt_close_after: seconds of a standstill after which peers go; 0 means never.
        saved_age: seconds since a previous run last agreed on a head, when this one has not yet.
        now: monotonic seconds.

    Returns:
        None when the policies never close, or when there is nothing to close.
    """
    found = []
    agreed_at = view.agreed_at
    if agreed_at is None and saved_age is not None:
        agreed_at = now - saved_age
    if dark_close_after and agreed_at is not None:
        reason = (
            "no agreed head of the chain for longer than DARK_CLOSE_AFTER"
            f" ({dark_close_after:g} s): all peers are out until there is one"
        )
        found.append(Closing(at=agreed_at + dark_close_after, reason=reason))
    if halt_close_after and view.advanced_at is not None and view.agreed_at is not None:
        at = view.advanced_at + halt_close_after
        if view.agreed_at >= at:
            reason = (
                "the chain has stood still for longer than HALT_CLOSE_AFTER"
                f" ({halt_close_after:g} s): all peers are out until it goes on"
            )
            found.append(Closing(at=at, reason=reason))
    return min(found, key=lambda c: c.at, default=None)


def clock_skew(view: ChainView, *, now: float, wall_now: float) -> float | None:
    """Seconds by which the wall clock is ahead of the chain; None where that cannot be said.

    Only a head that has just come tells what time it is.

    Args:
        view: what the follower knows.
        now: monotonic seconds.
        wall_now: seconds since 1970, as this machine has it.
    """
    if view.membership is None or not view.verified or view.advanced_at is None:
        return None
    age = now - view.advanced_at
    if age >= NEW_HEAD:
        return None
    return wall_now - (view.membership.block.timestamp + age)
