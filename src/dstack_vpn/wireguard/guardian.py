"""The agent's side of the guard: renews the lease on a device's peers, and sees that one guards it.

Called by the reconciler once a cycle. `lease.py` is what both sides know of each other, `guard.py`
the process. Whatever goes wrong here is a warning: a node that is alive and follows its chain is
not to lose its members to a full disk.
"""

import asyncio
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import structlog

from dstack_vpn.errors import DeviceError, HostError
from dstack_vpn.wireguard import lease as leases
from dstack_vpn.wireguard import process
from dstack_vpn.wireguard.command import clean_environment
from dstack_vpn.wireguard.lease import NOBODY, Guard, Lease, Target
from dstack_vpn.wireguard.process import Process

log = structlog.get_logger()

RESTART = 5.0
"""Seconds after which another guard is started when one has died."""

_ROOT = str(Path(__file__).parents[2])
# -I -S: neither the environment, nor the working directory, nor any site package is looked at.
_START = (
    f"import sys; sys.path.append({_ROOT!r}); "
    "from dstack_vpn.wireguard.guard import main; main(sys.argv[1])"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """How it stands with the guard."""

    ran_out: bool = False
    """The lease had run out, or there was none: compare the device at once, its peers may be gone.

    Told once, by the call that renewed it.
    """
    warning: str | None = None
    """Why the device is not guarded as it should be, as a sentence."""


class Guardian:
    """Keeps the lease of one device."""

    def __init__(self, name: str, directory: Path) -> None:
        """Nothing happens until a method is called.

        Args:
            name: interface name.
            directory: the state directory, where the lease is kept as ``NAME.lease``.
        """
        self.path = directory.absolute() / f"{name}.lease"
        self._name = name
        self._held: Lease | None = None
        """As we wrote it last."""
        self._written = 0.0
        self._started = -RESTART
        """When we started a guard last, in seconds since boot."""
        self._ended = False

    async def watch(self, target: Target | None, closes_at: float | None) -> Watched:
        """Let the peers stay until a moment, and start a guard if there is none.

        Where nothing is due this is one look at /proc. To be called before a cycle changes the
        device, so that what the guard did meanwhile is known.

        Args:
            target: the device; None while there is none.
            closes_at: loop time at which all peers must go unless it is put off; None for never.
        """
        if closes_at is None:
            return Watched(warning=None if self._ended else await self.end())
        self._ended = False
        now = leases.boottime()
        until = now + closes_at - asyncio.get_running_loop().time()
        # What is closed already the agent itself keeps so.
        if target is None or until <= now or self._is_right(target, until, now):
            return Watched()
        return await asyncio.to_thread(self._renew, target, until)

    async def end(self) -> str | None:
        """End the guard and forget the lease: the device was taken down, or the rule is off.

        Returns:
            A warning as a sentence, when that was not possible.
        """
        held = await asyncio.to_thread(leases.peek, str(self.path)) or self._held
        try:
            if held is not None:
                await process.end(_process(held.guard))
            self.path.unlink(missing_ok=True)
        except (HostError, DeviceError) as error:
            return f"the guard of {self._name} cannot be ended: {error}"
        except OSError as error:
            return f"the lease {self.path} cannot be removed ({error.strerror})"
        self._held, self._ended = None, True
        return None

    def _is_right(self, target: Target, until: float, now: float) -> bool:
        held = self._held
        return (
            held is not None
            and held.target == target
            and not leases.is_due(held.until, until, now=now, written=self._written)
            and _process(held.guard).alive
        )

    def _renew(self, target: Target, until: float) -> Watched:
        """Write the lease, and start a guard if the one that it names is dead."""
        try:
            with leases.opened(str(self.path), create=True) as file:
                held = leases.read(file)
                if held is None:
                    # A disk without room is to be found out before a guard is started in vain.
                    leases.write(file, Lease(target, until, NOBODY))
                guard, warning = self._guard(held)
                new = Lease(target, until, guard)
                leases.write(file, new)
                # Asked last: we may have been stopped here for any time.
                now = leases.boottime()
        except TimeoutError:
            return Watched(warning=f"the guard of {self._name} is at work, or was stopped")
        except (OSError, ValueError) as error:
            return Watched(warning=self._unrenewed(until, error))
        self._held, self._written = new, now
        ran_out = held is None or held.until <= now
        if held is not None and ran_out:
            log.warning("guard.ran_out", device=self._name, late=round(now - held.until, 3))
        return Watched(ran_out=ran_out, warning=warning)

    def _guard(self, held: Lease | None) -> tuple[Guard, str | None]:
        """The guard that acts on the lease, and a warning when it is not what it should be."""
        warning = None
        if held is not None and held.guard != NOBODY:
            if _process(held.guard).alive:
                return held.guard, None
            if leases.boottime() - self._started < RESTART:
                return held.guard, f"{self._name} has no guard: it died soon after its start"
            warning = f"the guard of {self._name} had died; another one was started"
        self._started = leases.boottime()
        try:
            started = process.spawn(
                (sys.executable, "-I", "-S", "-c", _START, str(self.path)), clean_environment()
            )
        except HostError as error:
            return NOBODY, f"{self._name} has no guard: {error}"
        if started is None:
            return NOBODY, f"{self._name} has no guard: it ended at its start"
        log.info("guard.started", device=self._name, pid=started.pid)
        return Guard(started.pid, started.started), warning

    def _unrenewed(self, until: float, error: Exception) -> str:
        """Say why the lease was not renewed; a guard that would soon cut us off is ended."""
        # A guard keeps to the last lease that it read, also where that is gone by now.
        held = leases.peek(str(self.path)) or self._held
        now = leases.boottime()
        if held is not None and held.guard != NOBODY and held.until - now < (until - now) / 2:
            try:
                _process(held.guard).signal(signal.SIGTERM)
            except HostError as refused:
                return f"the guard of {self._name} cannot be told that we live: {refused}"
        reason = getattr(error, "strerror", None) or error
        return f"the lease {self.path} cannot be written ({reason})"


def _process(guard: Guard) -> Process:
    return Process(guard.pid, guard.started)
