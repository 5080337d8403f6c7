"""The guard: a small process that takes all peers off a device when its lease has run out.

It is what is left of the dark rule when the agent is dead, or stopped in its tracks: the device
goes on without the agent, and whoever would have to be closed out after `DARK_CLOSE_AFTER` would
otherwise stay. Started by `guardian.py` in a session of its own, it outlives the agent and serves
the next one, needs nothing but the standard library, has no secret, and reads no file of the
package again once it runs.

It ends when it has acted, when its device is gone, when a lease names another guard, and by
SIGTERM. All else is in the lease: a file that is gone or makes no sense renews nothing, so the last
lease that was read stays in force and runs out.
"""

import contextlib
import os
import time
from collections.abc import Iterator

from dstack_vpn.wireguard import cutoff, pids
from dstack_vpn.wireguard import lease as leases
from dstack_vpn.wireguard.lease import NOBODY, Guard, Lease, UserspaceTarget

TRIES = 5
"""So often a wireguard-go is asked, with growing pauses, before it is killed."""
LONGEST_PAUSE = 10.0
"""Seconds until the lease is looked at again. No sleep of ours counts the time of suspension, so
this is also how late the guard may be after one."""


def main(path: str) -> None:
    """Guard by the lease at a path until there is nothing more to guard."""
    os.chdir("/")  # keep no directory from being unmounted
    pid = os.getpid()
    watch(path, Guard(pid, pids.start_time(pid) or 0))


def watch(path: str, me: Guard) -> None:
    """Sleep, look, and act once."""
    held: Lease | None = None
    tries = 0
    while True:
        with _opened(path) as file:
            held = leases.peek(path) or held
            if held is None or held.guard != me:
                return
            left = held.until - leases.boottime()
            tries = tries + 1 if left <= 0 else 0
            if not cutoff.is_there(held.target) or (tries and _act(held, tries)):
                _sign_off(file, held)
                return
        time.sleep(pause(left, tries))


def pause(left: float, tries: int) -> float:
    """Seconds until the next look.

    Args:
        left: of the lease, in seconds.
        tries: how often the device was asked in vain.
    """
    return min(2.0 ** min(tries - 1, 10) if tries else max(left, 0.0), LONGEST_PAUSE)


def _act(lease: Lease, tries: int) -> bool:
    """Take the peers off, by the last resort when nothing else did it; whether that is done."""
    if cutoff.remove_all_peers(lease.target):
        return True
    if tries < TRIES or not isinstance(lease.target, UserspaceTarget):
        return False
    # Peers that can be taken off in no other way go with the device.
    with contextlib.suppress(PermissionError):
        cutoff.end(lease.target)
    return not cutoff.is_there(lease.target)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int | None]:
    """Have the file for oneself, or go on without.

    An agent that was stopped while it held the file must not keep us from acting.
    """
    with contextlib.ExitStack() as stack:
        file = None
        with contextlib.suppress(OSError):
            file = stack.enter_context(leases.opened(path))
        yield file


def _sign_off(file: int | None, lease: Lease) -> None:
    """Leave word that this guard did not die, but had nothing more to do."""
    with contextlib.suppress(OSError):
        if file is not None:
            leases.write(file, lease._replace(guard=NOBODY))
