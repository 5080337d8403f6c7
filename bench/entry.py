"""What an entry is, and what becomes of it."""

import json
import math
import statistics
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from bench.network import Network, build
from lab.lab import Lab

GROUP = 10  #: rounds between two changes of what is measured


@dataclass(slots=True)
class Samples:
    """What was measured in turn: us, and the best that this machine could do without us."""

    values: list[float] = field(default_factory=list)
    floors: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)
    """What the values are made of, or stand beside; a name in brackets ends with another unit."""


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

    def groups(self, full: int) -> list[range]:
        """So many rounds, in groups of an even size: we are measured first, then the floor."""
        return [range(2)] if self.quick else [range(GROUP)] * (full // GROUP)


B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Entry(Generic[B]):
    """A figure of the table, and the function that measures it."""

    name: str
    unit: str
    measure: Callable[[B], Awaitable[Samples]]
    digits: int


@dataclass(frozen=True, slots=True)
class Result:
    """A line of bench/results.json."""

    name: str
    value: float
    unit: str
    floor: float
    ratio: float | None  #: value / floor; None of a floor of nothing
    n: int
    p99: float | None = None  #: of the values; None where they are too few
    floor_p99: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)  #: what the value is made of; medians

    @classmethod
    def of(cls, entry: Entry[B], samples: Samples) -> "Result":
        """The medians and the worst but one in a hundred, rounded to what they are worth."""
        value = round(statistics.median(samples.values), entry.digits)
        floor = round(statistics.median(samples.floors), entry.digits)
        return cls(
            name=entry.name,
            value=value,
            unit=entry.unit,
            floor=floor,
            ratio=value / floor if floor else None,
            n=len(samples.values),
            p99=_p99(samples.values, entry.digits),
            floor_p99=_p99(samples.floors, entry.digits),
            parts={n: round(statistics.median(p), entry.digits) for n, p in samples.parts.items()},
        )

    def json(self) -> dict[str, Any]:
        """As the file has it."""
        return {name: value for name, value in asdict(self).items() if value not in (None, {})}


def _p99(samples: Sequence[float], digits: int) -> float | None:
    """See `p99`; None of fewer than a hundred."""
    if len(samples) < 100:
        return None
    return round(p99(samples), digits)


def p99(samples: Sequence[float]) -> float:
    """The value that one in a hundred exceeds, by nearest rank."""
    return sorted(samples)[math.ceil(len(samples) * 0.99) - 1]


def save(results: Sequence[Result], path: Path) -> str:
    """Put results into the file, in the place of those of the same name; their own text."""
    lines = [result.json() for result in results]
    new = {line["name"] for line in lines}
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    both = [line for line in kept if line["name"] not in new] + lines
    path.write_text(json.dumps(both, indent=2) + "\n", encoding="utf-8")
    return json.dumps(lines, indent=2) + "\n"


def table(results: Sequence[Result]) -> str:
    """The results for people."""
    lines = [f"{'':30} {'value':>9} {'floor':>9} {'':7} {'ratio':>6} {'n':>4}"]
    for r in results:
        ratio = "-" if r.ratio is None else f"{r.ratio:.1f}"
        lines.append(f"{r.name:30} {r.value:9g} {r.floor:9g} {r.unit:7} {ratio:>6} {r.n:4}")
        if r.p99 is not None and r.floor_p99 is not None:
            lines.append(f"{'  p99':30} {r.p99:9g} {r.floor_p99:9g} {r.unit}")
        for name, value in r.parts.items():
            unit = "" if name.endswith(")") else r.unit
            lines.append(f"  {name:28} {value:9g} {'':9} {unit}".rstrip())
    return "\n".join(lines) + "\n"
