"""Packets lost while others join, move and are revoked: a live pair under load."""

import asyncio
import time
from dataclasses import dataclass

from bench.entry import Bench, Samples
from lab.host import Host
from lab.lab import Lab
from lab.traffic import Report, Stream
from wireguard.members import Member

CHANGES = 1000  #: in a round, shared by both sides
PAYLOAD = 1392  #: bytes: full packets, with the headers of UDP and IPv4 in an MTU of 1420
#: Mbit/s each way, of which the first that loses nothing is taken
RATES = 200, 150, 120, 100, 80, 60, 40, 20, 10, 5, 1
TRIAL = 5.0  #: seconds for which a rate must lose nothing, three times in a row
TRIALS = 3
TOGETHER = 90.0  #: seconds for the changes of a side at most


@dataclass(frozen=True, slots=True)
class Pair:
    """Two members with a tunnel, and streams of full packets both ways."""

    lab: Lab
    members: tuple[Member, Member]

    @classmethod
    async def start(cls, lab: Lab) -> "Pair":
        """Make the two, and wait until packets pass."""
        hosts = [await lab.host(f"load{name}") for name in "ab"]
        a, b = pair = [await Member.start(host, n) for n, host in enumerate(hosts, 1)]
        members = [(m.token, m.public_key, f"{m.host.ip4}:51820") for m in pair]
        for _ in range(2):  # of a new pair one side waits before it speaks first
            for member in pair:
                await member.order(members=members)
        await a.host.reaches(b.address)
        return cls(lab, (a, b))

    async def streams(self, rate: float) -> tuple[Stream, Stream]:
        """Send so many Mbit/s each way."""
        a, b = self.members
        packets = rate * 1e6 / 8 / PAYLOAD

        async def stream(source: Host, target: Member) -> Stream:
            flowing = await self.lab.stream(
                source, target.host, target.address, rate=packets, size=PAYLOAD
            )
            await flowing.flows()
            return flowing

        return await stream(a.host, b), await stream(b.host, a)

    async def lost_in(self, rate: float, seconds: float) -> int:
        """Packets lost of so many seconds without a change."""
        streams = await self.streams(rate)
        await asyncio.sleep(seconds)
        return await _lost(streams)

    async def lost_in_changes(self, rate: float, changes: int) -> tuple[int, float]:
        """Packets lost during so many changes, and the seconds that these took."""
        streams = await self.streams(rate)
        began = time.monotonic()
        for member in self.members:
            await member.order(TOGETHER, changes=changes // 2)
        took = time.monotonic() - began
        return await _lost(streams), took


async def _lost(streams: tuple[Stream, Stream]) -> int:
    reports: list[Report] = [await stream.stop() for stream in streams]
    return sum(report.lost for report in reports)


async def packets_lost_per_1000_changes(bench: Bench) -> Samples:
    """Packets lost on a live pair, both ways together, during 1,000 changes of the membership.

    Strangers come, move and are revoked, one by one as fast as they are applied, through the
    agent's applier and backend on both sides. Meanwhile full packets go both ways, at the highest
    of several rates up to 200 Mbit/s each way that this machine carries without a loss when nothing
    changes, in three trials; the rate is among the parts. The floor is the same stream for
    the same time without a change; where it loses nothing there is no ratio. At that rate no
    processor is left for anything else, and what the changes take is missing for packets; so what
    is lost at half the rate is told too.
    """
    pair = await Pair.start(bench.lab)
    rate = await _highest(bench, pair)
    samples = Samples()
    changes = 100 if bench.quick else CHANGES
    for _ in bench.rounds(7):
        lost, took = await pair.lost_in_changes(rate, changes)
        samples.values.append(lost)
        samples.floors.append(await pair.lost_in(rate, took))
        at_half, _ = await pair.lost_in_changes(rate / 2, changes)
        samples.parts.setdefault("at half the rate", []).append(at_half)
        samples.parts.setdefault("rate (Mbit/s each way)", []).append(rate)
        samples.parts.setdefault("changes (a second)", []).append(changes / took)
        bench.told(samples)
    return samples


async def _highest(bench: Bench, pair: Pair) -> float:
    """The highest rate that passes without a loss."""
    for rate in RATES:
        for _ in bench.rounds(TRIALS, quick=1):
            lost = await pair.lost_in(rate, 1.0 if bench.quick else TRIAL)
            if lost:
                bench.say(f"{rate} Mbit/s each way: {lost} lost without a change")
                break
        else:
            bench.say(f"{rate} Mbit/s each way")
            return rate
    return RATES[-1]
