"""What an entry is, and what becomes of it."""

import json
import statistics
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

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
    ratio: float  #: value / floor
    n: int
    parts: Mapping[str, float] = field(default_factory=dict)  #: what the value is made of; medians

    @classmethod
    def of(
        cls, entry: Entry[B], samples: Samples, *, parts: Mapping[str, float] | None = None
    ) -> "Result":
        """The medians, rounded to what they are worth."""
        value = round(statistics.median(samples.values), entry.digits)
        floor = round(statistics.median(samples.floors), entry.digits)
        number = len(samples.values)
        return cls(entry.name, value, entry.unit, floor, value / floor, number, parts or {})

    def json(self) -> dict[str, Any]:
        """As the file has it."""
        line = asdict(self)
        if not self.parts:
            del line["parts"]
        return line


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
    lines = [f"{'':26} {'value':>9} {'floor':>9} {'':4} {'ratio':>6} {'n':>4}"]
    for r in results:
        lines.append(f"{r.name:26} {r.value:9g} {r.floor:9g} {r.unit:4} {r.ratio:6.1f} {r.n:4}")
        lines += [f"  {name:24} {value:9g} {'':9} {r.unit}" for name, value in r.parts.items()]
    return "\n".join(lines) + "\n"
