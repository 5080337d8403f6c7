"""Which process has a pid, and signals for exactly that one.

Used by `process.py` and by the guard, which loads nothing but the bare standard library.
"""

import contextlib
import os
import signal
from collections.abc import Iterator


def start_time(pid: int) -> int | None:
    """When the process was started that has the pid; None for nobody, or for one that has ended.

    In clock ticks since boot: field 22 of ``/proc/PID/stat``, proc(5). A pid alone names nobody,
    since pids are used again; with its start time it does.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:  # noqa: PTH123
            stat = file.read()
    except OSError:
        return None
    # The name in parentheses may hold anything, parentheses included.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def send(pid: int, started: int, number: signal.Signals) -> None:
    """Signal the process that was started then; does nothing when it has ended.

    Raises:
        PermissionError: we lack the right.
    """
    with contextlib.suppress(ProcessLookupError), _handle(pid) as handle:
        # Checked after the handle was taken: from here on it cannot change its meaning.
        if start_time(pid) != started:
            return
        if handle is None:
            os.kill(pid, number)
        else:
            signal.pidfd_send_signal(handle, number)


@contextlib.contextmanager
def _handle(pid: int) -> Iterator[int | None]:
    """Hold on to a process; None where the kernel, or a container's filter, has no such handles."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)
