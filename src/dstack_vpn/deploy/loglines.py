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

import msgspec

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
        if not parse_time(stamp):
            return None
    except ValueError:
        return None
    try:
        # Strict, so that it can be told again as JSON: no NaN, no half of a surrogate pair.
        parsed = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
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


def parse_lines(service: str, text: str) -> list[Line]:
    """The lines of one container in the order of time; its two streams come one after the other."""
    # Not by splitlines(), which knows many more ends of lines than the engine does.
    lines = (parse_line(service, line) for line in text.split("\n"))
    return sorted((line for line in lines if line), key=_time)


def merge(streams: Iterable[Iterable[Line]]) -> Iterator[Line]:
    """Lines of several containers by time; each stream is in order by itself."""
    return heapq.merge(*streams, key=_time)


class Held:
    """Lines that are held back for a moment, so that those of several containers come in order."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._held: list[tuple[float, Line]] = []

    def add(self, line: Line, *, now: float) -> None:
        """Hold back a line that has come."""
        self._held.append((now, line))

    def due(self, *, now: float) -> list[Line]:
        """Let go what was held long enough, and all that is older than something of that."""
        late = [line.time for at, line in self._held if now - at >= self._seconds]
        newest = max(late, default="")
        due = [line for _, line in self._held if line.time <= newest]
        self._held = [(at, line) for at, line in self._held if line.time > newest]
        return sorted(due, key=_time)


def show(line: Line, *, width: int) -> str:
    """A line for people, without what would steer a terminal.

    Args:
        line: of a container.
        width: that of the longest service name.
    """
    facts = "".join(f" {name}={_value(value)}" for name, value in line.facts.items())
    text = f"{line.time[11:23]:<12} {line.service:<{width}} {line.level:<5} {line.text}{facts}"
    return printable(text)


def printable(text: str) -> str:
    """Text with escapes in the place of what would steer a terminal, or end a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    quoted = isinstance(value, str) and (not text or not text.isprintable() or " " in text)
    return json.dumps(text, ensure_ascii=False) if quoted else text


def _time(line: Line) -> str:
    return line.time
