"""Programs of a lab: started, signalled, waited for; what they print is a file.

A program in a host has a parent outside of the host (see `Host.entry`). If that parent is killed
the program is too; signals go to the program itself, whose process id is read from its parent's
list of children.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from lab.waiting import PATIENCE, until

#: What a process is on the way into a host, before it is the program.
HELPERS = (b"nsenter", b"unshare")


class CommandError(AssertionError):
    """A command of the lab failed; the text holds what it printed."""


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended."""

    code: int
    out: str


async def run(
    *argv: str | Path,
    check: bool = True,
    within: float = PATIENCE,
    env: Mapping[str, str] | None = None,
    text: str = "",
) -> Finished:
    """Run a command to its end; `out` is everything it printed, `text` its standard input."""
    words = [str(word) for word in argv]
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=env,
    )
    try:
        async with asyncio.timeout(within):
            out, _ = await process.communicate(text.encode())
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    finished = Finished(await process.wait(), out.decode(errors="replace"))
    if check and finished.code != 0:
        raise CommandError(f"{' '.join(words)} ended with {finished.code}:\n{finished.out}")
    return finished


@dataclass(slots=True)
class Process:
    """A running program; made by `start`."""

    name: str
    log: Path  #: standard output and error, as they come
    inside: bool  #: of a host, below a parent outside of it
    _process: asyncio.subprocess.Process
    _offset: int  #: where in the log this run begins: a program that is restarted adds to its log
    _pid: int = 0

    @classmethod
    async def start(
        cls,
        *argv: str | Path,
        name: str,
        log: Path,
        env: Mapping[str, str] | None = None,
        entry: Sequence[str] = (),
    ) -> Self:
        """Start a program; `entry` is the command that enters its host."""
        with log.open("ab") as output:
            offset = output.tell()
            process = await asyncio.create_subprocess_exec(
                *entry,
                *(str(word) for word in argv),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
            )
        started = cls(name, log, bool(entry), process, offset)
        try:
            await until(started._is_there, f"{name} has started")
        except BaseException:
            await started.kill()
            raise
        return started

    def _is_there(self) -> bool:
        """Find its process id; true as soon as it is the program itself, or has ended."""
        outer = self._process.pid
        if not self.inside or not self.running:
            self._pid = self._pid or outer
            return True
        try:
            children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
            self._pid = int(children[0]) if children else 0
            name = Path(f"/proc/{self._pid}/cmdline").read_bytes().partition(b"\0")[0]
        except (FileNotFoundError, ProcessLookupError):
            return False
        # Before that a signal would hit a helper, which may not know what it means.
        return name not in (b"", *HELPERS)

    @property
    def pid(self) -> int:
        """The program's own process id, as the lab sees it."""
        return self._pid

    @property
    def parent_pid(self) -> int:
        """The process that we started: the program, or its parent outside of its host."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet, as far as the event loop knows."""
        return self._process.returncode is None

    @property
    def output(self) -> str:
        """All that it has printed so far."""
        with self.log.open("rb") as log:
            log.seek(self._offset)
            return log.read().decode(errors="replace")

    def say(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program itself, if it still runs."""
        if self.running:
            try:
                os.kill(self._pid, number)
            except ProcessLookupError:
                return

    async def pause(self) -> None:
        """Stop it in its tracks (SIGSTOP): sockets stay open, nothing answers any more."""
        self.signal(signal.SIGSTOP)
        # The signal is there at once; each thread notices when it runs next.
        await until(self._is_paused, f"{self.name} is stopped")

    def _is_paused(self) -> bool:
        threads = Path(f"/proc/{self._pid}/task").glob("*/stat")
        return all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in threads)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self.signal(signal.SIGCONT)

    async def wait(self, within: float = PATIENCE) -> int:
        """Wait for its end; the exit code, or minus the signal's number."""
        async with asyncio.timeout(within):
            code = await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        return code

    async def stop(self, within: float = PATIENCE) -> int:
        """Ask it to end (SIGTERM) and wait; a program that does not is killed, as a failure."""
        self.signal(signal.SIGTERM)
        self.resume()
        try:
            return await self.wait(within)
        except TimeoutError:
            await self.kill()
            raise CommandError(
                f"{self.name} did not end within {within:g} s of SIGTERM:\n{self.tail()}"
            ) from None

    async def hang_up(self, within: float = PATIENCE) -> None:
        """Close its standard input, which our own programs take as the request to end."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            await self.wait(within)
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """End it at once (SIGKILL)."""
        # Its parent outside of the host would not mirror this signal in its own exit code.
        self.signal(signal.SIGKILL)
        if self._pid == 0 and self.running:  # killed before it had one: take its parent
            self._process.kill()
        await self.wait()

    def rss(self) -> int:
        """Resident memory in bytes."""
        for line in Path(f"/proc/{self._pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise CommandError(f"{self.name} has no memory: it has ended")

    def tail(self, lines: int = 40) -> str:
        """The last lines that it printed."""
        return "\n".join(self.output.splitlines()[-lines:])

    async def line(self, containing: str, *, within: float = PATIENCE) -> str:
        """Wait for a whole line of output that contains a text, and return the first."""

        def look() -> str | None:
            whole = self.output.rpartition("\n")[0]
            for line in whole.splitlines():
                if containing in line:
                    return line
            if not self.running:
                raise CommandError(f"{self.name} ended before {containing!r}:\n{self.tail()}")
            return None

        return await until(look, f"{self.name} prints {containing!r}", within=within)
