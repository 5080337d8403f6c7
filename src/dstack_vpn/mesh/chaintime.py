"""Chain time now, and the dark policy: how long a membership that nobody confirms is worth.

Both run on monotonic seconds, so that a wrong wall clock neither expires nor revives anybody.
"""

from dataclasses import dataclass
from typing import Self

from dstack_vpn.mesh.membership import Membership
from dstack_vpn.mesh.snapshot import ChainView


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainClock:
    """Chain time as the newest agreed timestamp plus the time that went by since.

    It never runs backward while the chain only grows (blocks arrive with jitter, and a node that
    expired must not flicker); a reorganisation may set it back.
    """

    offset: float = 0.0
    """Chain time less monotonic time, seconds."""
    block: int = -1
    branch: int = -1

    def see(self, membership: Membership, *, branch: int, now: float) -> Self:
        """The clock after a membership was agreed on.

        Args:
            membership: the newest one.
            branch: a number that changes with each reorganisation.
            now: monotonic seconds.
        """
        if (membership.block.number, branch) == (self.block, self.branch):
            return self
        offset = membership.block.timestamp - now
        if branch == self.branch:
            offset = max(offset, self.offset)
        return type(self)(offset=offset, block=membership.block.number, branch=branch)

    def at(self, now: float) -> float:
        """Chain time at a monotonic time, seconds since 1970."""
        return now + self.offset


def dark_closes_at(
    view: ChainView, *, close_after: float, saved_age: float | None, now: float
) -> float | None:
    """Monotonic time from which the dark policy removes all peers.

    Args:
        view: what the follower knows.
        close_after: seconds in the dark after which peers go; 0 means never.
        saved_age: seconds since a previous run last agreed on a head, when this one has not yet.
        now: monotonic seconds.

    Returns:
        None when the policy never closes, or when there is nothing to close.
    """
    if not close_after:
        return None
    if view.agreed_at is not None:
        return view.agreed_at + close_after
    return None if saved_age is None else now - saved_age + close_after
