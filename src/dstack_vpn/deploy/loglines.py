"""The logs of several containers as one, in the order of time; pure.

Nodes and the keeper write a JSON object a line, with `event`, `level` and `timestamp`; other
programs write what they like, which counts as level info. The time is the engine's, for all
alike.
"""

import heapq
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dstack_vpn.deploy.containers import parse_time

LEVELS = ("debug", "info", "warn", "error")
_ALIASES = {"warning": "warn", "critical": "error", "fatal": "error"}
_SHOWN_APART = frozenset({"event", "level", "timestamp", "node"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of one container."""

    time: str
    """As the engine tells it: UTC, RFC 3339 with nanoseconds, so that text order is time order."""
    service: str
    level: str
    text: str
    """The event, or the whole line where there is none."""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def at_least(self, level: str) -> bool:
        """Whether it is as severe as that level."""
        return LEVELS.index(self.level) >= LEVELS.index(level)


def parse_line(service: str, stamped: str) -> Line | None:
    """Read a line of ``docker logs --timestamps``; None for one without a time (a cut one)."""
    stamp, _, text = stamped.rstrip("\r\n").partition(" ")
    try:
        parse_time(stamp)
    except ValueError:
        return None
    try:
        parsed = json.loads(text)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict) or not isinstance(parsed.get("event"), str):
        return Line(time=stamp, service=service, level="info", text=text)
    level = str(parsed.get("level", "info")).lower()
    level = _ALIASES.get(level, level)
    return Line(
        time=stamp,
        service=service,
        level=level if level in LEVELS else "info",
        text=parsed["event"],
        facts={k: v for k, v in parsed.items() if k not in _SHOWN_APART},
    )


def merge(streams: Iterable[Iterable[Line]]) -> Iterator[Line]:
    """Lines of several containers by time; each stream is in order by itself."""
    return heapq.merge(*streams, key=lambda line: line.time)


def show(line: Line, *, width: int) -> str:
    """A line for people; `width` is that of the longest service name."""
    clock = line.time[11:23].ljust(12, "0")
    facts = "".join(f" {name}={_value(value)}" for name, value in line.facts.items())
    return f"{clock} {line.service:<{width}} {line.level:<5} {line.text}{facts}"


def as_json(line: Line) -> dict[str, Any]:
    """A line for scripts."""
    return {
        "time": line.time,
        "service": line.service,
        "level": line.level,
        "event": line.text,
        **({"facts": dict(line.facts)} if line.facts else {}),
    }


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return json.dumps(text) if isinstance(value, str) and (" " in text or not text) else text


def sort_lines(service: str, stamped: Iterable[str]) -> list[Line]:
    """The lines of one container in the order of time; its two streams come one after the other."""
    lines = (parse_line(service, text) for text in stamped)
    return sorted((line for line in lines if line), key=lambda line: line.time)
