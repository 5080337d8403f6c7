"""The configuration file kept up to date beside the loop: no change of the device waits for a disk.

The file of a large network takes longer to write than its device takes to be changed. So whoever
applied a plan leaves it here and goes on. What is written is the newest plan that was left, and the
longer the writing takes the longer it waits for more: at most `SHARE` of the time goes into it, and
a change that follows right after another one has the processor for itself.
"""

import asyncio
import threading
import time
from collections.abc import Callable

from dstack_vpn.mesh.device import WantedDevice
from dstack_vpn.mesh.membership import Membership

ConfigurationWriter = Callable[[WantedDevice, Membership], None]
"""Writes the wg-quick text of a device; may raise OSError. Runs in a worker thread."""

SHARE = 0.1
"""Of the time, as the last writing took it."""


class ConfKeeper:
    """Writes one configuration file, whenever there is a newer plan."""

    def __init__(self, write: ConfigurationWriter, on_error: Callable[[str], None]) -> None:
        """Take how to write, and whom to tell when the disk refuses; nothing happens before `run`.

        Args:
            write: called in a worker thread, never twice at a time.
            on_error: called on the loop, with a sentence; the next plan is written all the same.
        """
        self._write = write
        self._on_error = on_error
        self._left: tuple[WantedDevice, Membership] | None = None
        self._is_left = asyncio.Event()
        self._took = 0.0
        self._flushing = asyncio.Lock()
        # A thread cannot be cancelled: one that is left behind must not meet the next one.
        self._writing = threading.Lock()

    def put(self, wanted: WantedDevice, membership: Membership) -> None:
        """Leave the plan that is in force now, for the file."""
        self._left = wanted, membership
        self._is_left.set()

    async def run(self) -> None:
        """Write what is left here, until cancelled."""
        while True:
            await self._is_left.wait()
            await asyncio.sleep(self._took * (1 / SHARE - 1))
            await self.flush()

    async def flush(self) -> None:
        """Return when the newest plan that was left here is on disk, or the disk refused it."""
        async with self._flushing:
            left, self._left = self._left, None
            self._is_left.clear()
            if left is None:
                return
            started = time.monotonic()
            try:
                await asyncio.to_thread(self._in_thread, *left)
                self._took = time.monotonic() - started
            except OSError as error:
                self._on_error(f"{error.filename}: {error.strerror}")
            except asyncio.CancelledError:
                # Nobody knows how far the thread comes, so the last `flush` writes it once more.
                if self._left is None:
                    self.put(*left)
                raise

    def _in_thread(self, wanted: WantedDevice, membership: Membership) -> None:
        with self._writing:
            self._write(wanted, membership)
