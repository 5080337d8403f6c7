"""What an entry is, and what becomes of it."""

import statistics
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.network import Network, build
from lab.lab import Lab


@dataclass(slots=True)
class Samples:
    """What was measured in turn: us, and the best that this machine could do without us."""

    values: list[float] = field(default_factory=list)
    floors: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Bench:
    """One run: its lab, and the networks that it has built so far."""

    lab: Lab
    quick: bool
    networks: dict[int, Network] = field(default_factory=dict)
    name: str = ""  #: of the entry that is being measured

    async def network(self, size: int) -> Network:
        """The network of a size; built when it is first asked for."""
        if size not in self.networks:
            self.say(f"{size} members are minted")
            self.networks[size] = await build(self.lab, size)
        return self.networks[size]

    def rounds(self, full: int, quick: int = 2) -> range:
        """So many rounds."""
        return range(quick if self.quick else full)

    def say(self, text: str) -> None:
        """Show progress on standard error."""
        print(f"{self.name}: {text}", file=sys.stderr, flush=True)

    def told(self, samples: Samples) -> None:
        """Show the newest samples."""
        value, floor = samples.values[-1], samples.floors[-1]
        self.say(f"round {len(samples.values)}: {value:.3g}, floor {floor:.3g}")


@dataclass(frozen=True, slots=True)
class Entry:
    """A figure of the table, and the function that measures it."""

    name: str
    unit: str
    measure: Callable[[Bench], Awaitable[Samples]]
    digits: int


@dataclass(frozen=True, slots=True)
class Result:
    """A line of bench/results.json."""

    name: str
    value: float
    unit: str
    floor: float
    ratio: float  #: value / floor
    n: int

    @classmethod
    def of(cls, entry: Entry, samples: Samples) -> "Result":
        """The medians, rounded to what they are worth."""
        value = round(statistics.median(samples.values), entry.digits)
        floor = round(statistics.median(samples.floors), entry.digits)
        return cls(entry.name, value, entry.unit, floor, value / floor, len(samples.values))

    def json(self) -> dict[str, Any]:
        """As the file has it."""
        return asdict(self)
