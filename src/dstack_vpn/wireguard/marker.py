"""The note by which a restarted agent knows that a device is its own.

The public key proves that in most cases, but not for a device that got no key yet, or one made
before the node's key was changed. So a note is written before the process is started and completed
after it. A note alone ends nobody: it names a process by pid, start time and boot.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from dstack_vpn.wireguard.conffile import write_private
from dstack_vpn.wireguard.process import Process

log = structlog.get_logger()

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TICKS = 100
"""Clock ticks per second in /proc, the same on every Linux: USER_HZ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """What is on disk."""

    interface: str
    boot: str
    """The boot during which it was written; start times of another boot mean nothing."""
    since: int
    """Clock ticks since boot when we were about to start the process."""
    process: Process | None
    """The process, or None when we did not live to write it down."""

    @classmethod
    def now(cls, interface: str, process: Process | None = None) -> "Marker":
        """Make a note at this moment."""
        ticks = int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS)
        return cls(interface=interface, boot=boot(), since=ticks, process=process)

    def names(self, interface: str, process: Process, *, keyless: bool) -> bool:
        """Whether the process is the one that the note is about.

        A note without a process is about one that started after it was written, runs a device of
        that name, and has not been given a key by anybody.
        """
        if self.interface != interface or self.boot != boot():
            return False
        if self.process is not None:
            return self.process == process
        # The two clocks may differ by the tick that we rounded down.
        return keyless and process.started >= self.since - 1 and interface in process.command


def write(path: Path, marker: Marker) -> None:
    """Write the note; where that is impossible the device's key has to do as proof."""
    try:
        write_private(path, json.dumps(asdict(marker)))
    except OSError as error:
        log.warning("marker.not_written", path=str(path), error=error.strerror)


def read(path: Path) -> Marker | None:
    """Read the note; None when there is none or it makes no sense."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        process = data["process"]
        return Marker(
            interface=str(data["interface"]),
            boot=str(data["boot"]),
            since=int(data["since"]),
            process=None if process is None else Process(**process),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError):
        log.warning("marker.unreadable", path=str(path))
        return None


def remove(path: Path) -> None:
    """Remove the note."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("marker.not_removed", path=str(path), error=error.strerror)


def boot() -> str:
    """Which boot of the machine this is."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
