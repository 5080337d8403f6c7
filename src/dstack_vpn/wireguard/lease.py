"""The lease on a device's peers: how long they may stay while nothing is heard of the agent.

The agent renews it (`guardian.py`), the guard acts when it has run out (`guard.py`, which loads
this with the bare standard library: no dataclass, no JSON, for its memory).

It is one small file that only root can read. The text is of lines ``key=value``, as UAPI has them,
and filled up with line feeds to `SIZE` bytes, so that it is written in place by a single call, into
room that the disk has given already. Nothing is flushed: after a reboot there is neither device nor
lease. The guard of an older version reads what a newer agent writes, so keys stay as they are, and
a key that is not known is passed over.

Time is that of CLOCK_BOOTTIME, which goes on in a suspended machine and is set by nobody.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

SIZE = 512
"""Bytes."""
PATIENCE = 1.0
"""Seconds that the other side may hold the file; longer only if it was stopped in its tracks."""
SLACK = 0.1
"""Seconds by which two instants may differ and be the same."""
LEAST, PART = 1.0, 0.01
"""A lease is written again no sooner than after so many seconds, or half of its time where that is
less, and such a part of its time."""

_POLL = 0.005
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class KernelTarget(NamedTuple):
    """A device of the kernel."""

    name: str
    number: int
    """The interface's index, which no later one gets."""


class UserspaceTarget(NamedTuple):
    """A device of wireguard-go."""

    name: str
    socket: str
    """Path of its control socket."""
    pid: int
    started: int
    """As `pids.start_time` has it."""


Target = KernelTarget | UserspaceTarget


class Guard(NamedTuple):
    """The process that acts on a lease."""

    pid: int
    started: int


NOBODY = Guard(0, 0)


class Lease(NamedTuple):
    """What is in the file."""

    target: Target
    until: float
    """Seconds since boot, to the millisecond."""
    guard: Guard
    """Who acts on it; any other guard has been replaced and ends."""


def boottime() -> float:
    """Seconds since boot, those of suspension included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot() -> str:
    """Which boot of the machine this is."""
    with open(_BOOT_ID, encoding="ascii") as file:  # noqa: PTH123 - no pathlib, for the memory
        return file.read().strip()


# -- pure


def render(lease: Lease, boot_id: str) -> bytes:
    """Write the text.

    Raises:
        ValueError: it does not fit, or a name or path has a line feed in it.
    """
    target = lease.target
    kind = "kernel" if isinstance(target, KernelTarget) else "userspace"
    fields = {
        "boot": boot_id,
        "until": f"{lease.until:.3f}",
        "guard": lease.guard.pid,
        "guard_started": lease.guard.started,
        "kind": kind,
        **target._asdict(),
    }
    lines = [f"{key}={value}" for key, value in fields.items()]
    text = "\n".join(lines).encode()
    if len(text) >= SIZE or text.count(b"\n") != len(lines) - 1:
        raise ValueError("the lease does not take these names")
    return text.ljust(SIZE, b"\n")


def parse(data: bytes, boot_id: str) -> Lease | None:
    """Read the text; None for what makes no sense, or stems from another boot."""
    try:
        told = dict(line.split("=", 1) for line in data.decode().split("\n") if line)
        until = float(told["until"])
        if told["boot"] != boot_id or len(data) != SIZE or not 0 <= until < float("inf"):
            return None
        target: Target
        if told["kind"] == "kernel":
            target = KernelTarget(told["name"], int(told["number"]))
        else:
            target = UserspaceTarget(
                told["name"], told["socket"], int(told["pid"]), int(told["started"])
            )
        guard = Guard(int(told["guard"]), int(told["guard_started"]))
    except (LookupError, ValueError):
        return None
    return Lease(target, until, guard)


def is_due(held: float, wanted: float, *, now: float, written: float) -> bool:
    """Whether a lease is worth being written again.

    An earlier end is, at once. A later one is now and then: 1 % of the time of a lease is nothing,
    and a day's would be written every two seconds.

    Args:
        held: seconds since boot until which it was given.
        wanted: until when it is to be.
        now: seconds since boot.
        written: when it was written last.
    """
    if abs(wanted - held) <= SLACK:
        return False
    left = wanted - now
    # A lease of a second must not run out before it may be written again.
    return wanted < held or now - written >= max(min(LEAST, left / 2), PART * left)


# -- the file


@contextmanager
def opened(path: str, *, create: bool = False) -> Iterator[int]:
    """Open the file and have it for oneself.

    Raises:
        TimeoutError: the other side held it for longer than `PATIENCE`.
        OSError: it is not there, or cannot be opened for writing.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    file = os.open(path, flags, 0o600)
    try:
        _lock(file)
        yield file
    finally:
        os.close(file)


def _lock(file: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError from None
        else:
            return
        time.sleep(_POLL)


def read(file: int) -> Lease | None:
    """Read an open lease; None when it makes no sense.

    Raises:
        OSError: the disk fails.
    """
    return parse(os.pread(file, SIZE + 1, 0), boot())


def peek(path: str) -> Lease | None:
    """Read a lease without having it for oneself; None also when there is none."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return read(file)
        finally:
            os.close(file)
    except OSError:
        return None


def write(file: int, lease: Lease) -> None:
    """Write an open lease.

    Raises:
        OSError: the disk is full or fails.
        ValueError: as `render` says.
    """
    text = render(lease, boot())
    if os.pwrite(file, text, 0) != SIZE:
        raise OSError("the disk took a part of it only")
