"""Processes that are not our children in spirit: started to outlive us, ended by exact identity.

A pid alone names nobody, since pids are used again; a pid with its start time does. All that is
signalled here is one process that was checked to be the one that is meant.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dstack_vpn.errors import DeviceError, HostError
from dstack_vpn.wireguard import pids

PATIENCE = 5.0
"""Seconds that a process gets to end by itself before it is killed."""
POLL = 0.01

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """One process, beyond the reuse of pids."""

    pid: int
    started: int
    """Clock ticks since boot: field 22 of ``/proc/PID/stat``, proc(5)."""

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Look up who has the pid now; None for nobody, or for one that has ended."""
        if pid <= 0:
            return None
        started = pids.start_time(pid)
        if started is None:
            _bury(pid)
            return None
        return cls(pid, started)

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return Process.of(self.pid) == self

    @property
    def shares_our_network(self) -> bool:
        """Whether it is in our network namespace; taken to be so where we may not look."""
        try:
            theirs = (_PROC / str(self.pid) / "ns/net").readlink()
        except OSError:
            return True
        return theirs == (_PROC / "self/ns/net").readlink()

    @property
    def command(self) -> tuple[str, ...]:
        """Its command line, empty when it has ended."""
        try:
            line = (_PROC / str(self.pid) / "cmdline").read_bytes()
        except OSError:
            return ()
        return tuple(part.decode(errors="replace") for part in line.split(b"\0")[:-1])

    def holds_udp_port(self, port: int) -> bool:
        """Whether it has a UDP socket on the port; taken to be so where we may not look."""
        base = _PROC / str(self.pid)
        bound = set()
        for table in ("udp", "udp6"):
            with contextlib.suppress(OSError):
                bound |= _sockets_on(port, (base / "net" / table).read_text())
        try:
            links = [Path(entry) for entry in (base / "fd").iterdir()]
        except OSError:
            return True
        for link in links:
            with contextlib.suppress(OSError):  # closed meanwhile
                if str(link.readlink()) in bound:
                    return True
        return False

    def signal(self, number: signal.Signals) -> None:
        """Signal this very process; does nothing when it has ended.

        Raises:
            HostError: we lack the right.
        """
        try:
            pids.send(self.pid, self.started, number)
        except PermissionError:
            raise HostError(
                f"no right to end process {self.pid}: run as the user that started it"
            ) from None


def spawn(argv: Sequence[str], environment: dict[str, str]) -> Process | None:
    """Start a program that outlives us; None when it ended at once.

    It gets a session of its own, so that no Ctrl-C or hang-up of ours reaches it, and /dev/null
    for its output: a pipe or a file of ours would kill it (SIGPIPE) or fill the disk after we are
    gone. Not through asyncio, whose transports kill their process when they are collected.

    Raises:
        HostError: the program is not installed, or may not be run.
    """
    program = shutil.which(argv[0], path=environment["PATH"])
    if program is None:
        raise HostError(f"{argv[0]} is not installed: install it, or add its directory to PATH")
    null = os.devnull
    try:
        pid = os.posix_spawn(
            program,
            list(argv),
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, null, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, null, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, null, os.O_WRONLY, 0),
                *((os.POSIX_SPAWN_CLOSE, file) for file in _inherited_files()),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
        )
    except OSError as error:
        raise HostError(f"{program} cannot be run: {error.strerror}") from None
    return Process.of(pid)


def _inherited_files() -> list[int]:
    """Open files that our own parent left to us, such as a listening socket or a shell's pipe.

    A program that outlives us would hold them for ever. Files that Python opens are never left to
    programs, so there is nothing else to close.
    """
    inherited = []
    for entry in (_PROC / "self/fd").iterdir():
        file = int(entry.name)
        with contextlib.suppress(OSError):  # the one that lists them is closed by now
            if file > 2 and os.get_inheritable(file):
                inherited.append(file)
    return inherited


async def end(process: Process) -> None:
    """End a process: SIGTERM, and after `PATIENCE` SIGKILL. Returns when it is gone.

    Raises:
        HostError: we lack the right.
        DeviceError: it survives SIGKILL (stuck in the kernel).
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        process.signal(number)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if not process.alive:
                return
            await asyncio.sleep(POLL)
    raise DeviceError(f"process {process.pid} cannot be ended")


def _bury(pid: int) -> None:
    """Collect a dead child; the children of others are none of our business."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _sockets_on(port: int, table: str) -> set[str]:
    """Which sockets of /proc/net/udp have the local port, as their links in /proc/PID/fd."""
    sockets = set()
    for line in table.splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == port:
            sockets.add(f"socket:[{fields[9]}]")
    return sockets
