"""Numbered packets from one host to another: how many were lost, when, and for how long.

stream = await Stream.start(a, b, "10.98.0.2", rate=1000)
...                                     # whatever should not disturb it
report = await stream.stop()
assert report.lost == 0
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from lab.host import Host
from lab.process import Process
from lab.waiting import PATIENCE, until

METER = Path(__file__).with_name("meter.py")
PYTHON = (sys.executable, "-I", "-S", str(METER))

#: After the sender's end, packets on their way are waited for until none came for so long.
QUIET = 0.3


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What has arrived so far; times are time.monotonic of any process of the machine."""

    count: int
    duplicates: int
    reordered: int
    highest: int  #: the highest packet number, -1 before the first
    first: float
    last: float  #: when the last packet was accepted
    last_sent: float  #: when that packet was sent
    longest_gap: float  #: seconds between two packets in a row
    gap_began: float
    worst_delay: float  #: seconds from sender to receiver


@dataclass(frozen=True, slots=True)
class Report:
    """A finished stream."""

    sent: int  #: tried, including the refused
    refused: int  #: sends that failed at once: no route, no device
    began: float
    ended: float
    arrivals: Arrivals

    @property
    def lost(self) -> int:
        """Packets that never arrived."""
        return self.sent - self.arrivals.count


@dataclass(slots=True)
class Stream:
    """A running stream; made by `start`."""

    sender: Process
    receiver: Process
    _reports: int = 0

    @classmethod
    async def start(
        cls, source: Host, target: Host, address: str, *, rate: float = 1000, size: int = 16
    ) -> Self:
        """Send so many packets a second, of so many bytes each, to an address of the target."""
        name = f"to-{target.name}-{address}"
        receiver = await target.start(*PYTHON, "receive", address, name=f"from-{source.name}")
        try:
            port = (await receiver.line("port")).split()[1]
            how = "send", address, port, str(rate), str(size)
            sender = await source.start(*PYTHON, *how, name=name)
        except BaseException:
            await receiver.kill()
            raise
        stream = cls(sender, receiver)
        try:
            await sender.line("sending")
        except BaseException:
            await stream.close()
            raise
        return stream

    async def arrivals(self) -> Arrivals:
        """What has arrived so far."""
        self.receiver.say("report")
        return await self._next_report()

    async def _next_report(self) -> Arrivals:
        self._reports += 1

        def look() -> Arrivals | None:
            lines = [line for line in self.receiver.output.splitlines(True) if line[0] == "{"]
            if len(lines) < self._reports or not lines[self._reports - 1].endswith("\n"):
                return None
            return Arrivals(**json.loads(lines[self._reports - 1]))

        return await until(look, f"{self.receiver.name} reports")

    async def flows(self, packets: int = 50, *, within: float = PATIENCE) -> Arrivals:
        """Wait until so many more packets have arrived."""
        goal = (await self.arrivals()).count + packets

        async def look() -> Arrivals | None:
            arrivals = await self.arrivals()
            return arrivals if arrivals.count >= goal else None

        return await until(look, f"{self.receiver.name}: {packets} more packets", within=within)

    async def quiet(self, seconds: float = QUIET, *, within: float = PATIENCE) -> Arrivals:
        """Wait until nothing has arrived for some time; `last` is then the last packet accepted."""
        asked = time.monotonic()

        async def look() -> Arrivals | None:
            arrivals = await self.arrivals()
            since = max(arrivals.last, asked)
            return arrivals if time.monotonic() - since >= seconds else None

        return await until(
            look, f"{self.receiver.name} hears nothing for {seconds} s", within=within
        )

    async def stop(self) -> Report:
        """Stop sending, let the packets on their way arrive, and count."""
        await self.sender.hang_up()
        sent = json.loads(self.sender.output.splitlines()[-1])

        async def all_there() -> bool:
            return (await self.arrivals()).count >= int(sent["sent"])

        if not await all_there():
            await self.quiet()
        arrivals = await self.arrivals()
        await self.receiver.hang_up()
        return Report(arrivals=arrivals, **sent)

    async def close(self) -> None:
        """End both ends, if they still run."""
        await self.sender.kill()
        await self.receiver.kill()
