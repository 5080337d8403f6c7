"""One experiment: a switch, hosts, chains and nodes, and the end of all of them.

    async with Lab.open() as lab:
        a, b = await lab.host("a"), await lab.host("b")
        chain = await lab.chain()
        await a.reaches(b.ip4)

Everything that it keeps on disk lies below /run/lab/N, in the memory of the world.
"""

import contextlib
import itertools
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self

from lab.agent import Agent
from lab.chain import Chain
from lab.host import Host
from lab.process import Process
from lab.switch import Switch
from lab.traffic import Stream
from lab.tunnel import Tunnel
from lab.world import LAB_DIR


class Lab:
    """The hosts, chains and nodes of one experiment; `open` makes one."""

    def __init__(self, directory: Path, switch: Switch, stack: AsyncExitStack) -> None:
        self.directory = directory
        self.switch = switch
        self.hosts: dict[str, Host] = {}
        self.log_dir = directory / "logs"
        self.log_dir.mkdir()
        self._stack = stack
        self._count = itertools.count(1)

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Self]:
        """Make an empty lab, and end everything in it afterwards, the newest first."""
        directory = free_directory()
        async with AsyncExitStack() as stack:
            stack.callback(shutil.rmtree, directory)
            switch = await Switch.create(int(directory.name))
            stack.push_async_callback(switch.close)
            yield cls(directory, switch, stack)

    async def host(self, name: str) -> Host:
        """Boot a machine on the switch; the same name again boots it with the files it had."""
        host = await Host.boot(
            name,
            switch=self.switch,
            run_dir=self.directory / "hosts" / name / "run",
            log_dir=self.log_dir,
        )
        self.hosts[name] = host
        self._stack.push_async_callback(host.close)
        return host

    async def start(self, *argv: str | Path, name: str, **options: Any) -> Process:
        """Start a program beside the hosts, in the lab's own network."""
        log = self.log_dir / f"{name}.log"
        process = await Process.start(*argv, name=name, log=log, **options)
        self._stack.push_async_callback(process.kill)
        return process

    async def chain(self, **options: Any) -> Chain:
        """Start an anvil node at an address of its own; the options are those of `Chain.start`."""
        name = f"chain-{next(self._count)}"
        directory = self.directory / name
        directory.mkdir()
        chain = await Chain.start(
            name=name, switch=self.switch, directory=directory, log_dir=self.log_dir, **options
        )
        self._stack.push_async_callback(chain.close)
        return chain

    def agent(self, host: Host, node_id: str, **settings: Any) -> Agent:
        """A node in a host, not started yet; the settings are those of `Agent`."""
        agent = Agent(host, node_id, **settings)
        self._stack.push_async_callback(agent.close)
        return agent

    async def tunnel(self, a: Host, b: Host) -> Tunnel:
        """WireGuard between two hosts by hand."""
        return await Tunnel.up(a, b)

    async def stream(self, source: Host, target: Host, address: object, **options: Any) -> Stream:
        """Begin to send numbered packets from one host to an address of another."""
        stream = await Stream.start(source, target, str(address), **options)
        self._stack.push_async_callback(stream.close)
        return stream

    def logs(self, lines: int = 40) -> dict[str, str]:
        """The last lines of every program, by the name of its log; none once the lab is closed."""
        tails: dict[str, str] = {}
        if not self.log_dir.is_dir():
            return tails
        for path in sorted(self.log_dir.iterdir()):
            text = path.read_text(errors="replace").splitlines()
            tails[path.name] = "\n".join(text[-lines:])
        return tails


def free_directory() -> Path:
    """Take the first number that no other lab of this world has; making a directory is atomic."""
    for number in range(256):
        with contextlib.suppress(FileExistsError):
            directory = LAB_DIR / str(number)
            directory.mkdir()
            return directory
    raise AssertionError(f"{LAB_DIR} is full of labs that were not closed")
