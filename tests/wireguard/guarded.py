"""Devices whose agent dies: what the tests of the guard share."""

import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from dstack_vpn.mesh.device import SeenDevice
from dstack_vpn.mesh.diff import diff
from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.wireguard import lease as leases
from dstack_vpn.wireguard.backend import Backend
from dstack_vpn.wireguard.lease import Guard, Lease, Target
from dstack_vpn.wireguard.process import Process
from lab.process import Process as Program
from lab.waiting import until
from wireguard.driver import make
from wireguard.samples import device, peer, unique_name

DRIVER = Path(__file__).with_name("guard_driver.py")
PATHS = f"{DRIVER.parents[2] / 'src'}:{DRIVER.parents[1]}"


@dataclass
class Guarded:
    """A device, its state directory, and the processes around it."""

    kind: str
    directory: Path
    backend: Backend
    private_key: PrivateKey

    @property
    def path(self) -> str:
        """Where the lease is."""
        return str(self.directory / f"{self.backend.name}.lease")

    @property
    def target(self) -> Target:
        """The device beyond its name."""
        assert self.backend.target is not None
        return self.backend.target

    @property
    def lease(self) -> Lease:
        """The lease, which must be there."""
        found = leases.peek(self.path)
        assert found is not None
        return found

    async def bring(self) -> None:
        """Make the device with two peers and an address."""
        await self.backend.create()
        name = self.backend.name
        addresses = ("10.98.0.1/16",)
        wanted = device(self.private_key, peer(1), peer(2), name=name, addresses=addresses)
        await self.backend.apply(diff(wanted, await self.backend.seen()))

    async def seen(self) -> SeenDevice:
        """Read the device, which must be there."""
        found = await self.backend.seen()
        assert found is not None
        return found

    async def peers(self) -> int:
        """How many peers it has."""
        return len((await self.seen()).peers)

    async def emptied(self) -> None:
        """Wait until all peers are gone."""

        async def empty() -> bool:
            return await self.peers() == 0

        await until(empty, "all peers are gone")

    def guards(self) -> list[Process]:
        """The guards that run on this lease, whoever started them."""
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        found = [process for pid in pids if (process := Process.of(pid)) is not None]
        return [process for process in found if process.command[-1:] == (self.path,)]

    async def only_guard(self) -> Process:
        """Wait until one guard runs on this lease, the one that it names, and no other.

        The kernel tells of a new process before it has laid out its arguments.
        """
        name = self.lease.guard
        wanted = Process(name.pid, name.started)
        await until(lambda: self.guards() == [wanted], "the guard of the lease is the only one")
        return wanted

    async def no_guard(self) -> None:
        """Wait until no guard runs on this lease."""
        await until(lambda: not self.guards(), "no guard runs")

    async def agent(self, period: float) -> Program:
        """Start an agent that keeps the lease."""
        return await Program.start(
            sys.executable, DRIVER, self.kind, self.backend.name, self.private_key.reveal(),
            self.directory, str(period),
            name=f"agent-{self.backend.name}",
            log=self.directory / "agent.log",
            env={"PYTHONPATH": PATHS, "PATH": os.environ["PATH"]},
        )  # fmt: skip


@asynccontextmanager
async def guarded(kind: str, directory: Path) -> AsyncIterator[Guarded]:
    """Give a device that is not there yet; ends it and all of its guards."""
    private_key = PrivateKey.generate()
    backend = make(kind, unique_name(), private_key, directory / "marker")
    found = Guarded(kind, directory, backend, private_key)
    try:
        yield found
    finally:
        for guard in found.guards():
            guard.signal(signal.SIGKILL)
        await backend.destroy()
        shutil.rmtree(directory, ignore_errors=True)


def write(path: str, target: Target, until: float, guard: Guard) -> None:
    """Write a lease as an agent does."""
    with leases.opened(path, create=True) as file:
        leases.write(file, Lease(target, until, guard))
