"""What the demo measured: samples by name, their medians, the report in JSON.

Nothing here is a constant of ours: a figure without a sample does not exist.
"""

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

REPORT = Path("demo-report.json")


@dataclass(frozen=True, slots=True)
class Kind:
    """A figure: its name in the report, and how it is told."""

    name: str
    meaning: str
    unit: str
    digits: int = 0


KINDS = (
    Kind("members", "members of the network", ""),
    Kind(
        "event_to_peer_ms", "receipt of a grant to the peer on another member's device (*)", "ms", 1
    ),
    Kind("event_to_peer_polling_ms", "the same with polling instead of a WebSocket (*)", "ms", 1),
    Kind(
        "revoke_to_last_packet_ms",
        "receipt of a revocation to the last packet that a member accepted (*)",
        "ms",
        1,
    ),
    Kind(
        "revoke_sent_to_last_packet_ms",
        "the same from when the transaction was handed to the chain",
        "ms",
        1,
    ),
    Kind("packets_sent_unaffected", "packets between two unaffected members, sent", ""),
    Kind("packets_lost_unaffected", "packets between two unaffected members, lost", ""),
    Kind("cold_ready_s", "start of an agent without any state to ready", "s", 2),
    Kind("warm_ready_s", "start of an agent beside its running device to ready", "s", 2),
    Kind("agent_rss_mb", "resident memory of an agent", "MB", 1),
)


FOOTNOTE = (
    "(*) The receipt as the sender of the transaction sees it. Below zero the members, who hear of "
    "the block by themselves, had acted before the sender knew that it was in a block."
)


@dataclass(slots=True)
class Figures:
    """The samples so far."""

    samples: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, values: Iterable[float]) -> None:
        """Note samples of a figure."""
        assert any(kind.name == name for kind in KINDS), name
        self.samples.setdefault(name, []).extend(values)

    def median(self, name: str) -> float:
        """The median of a figure's samples."""
        return statistics.median(self.samples[name])

    def rows(self) -> list[tuple[str, str, str]]:
        """The table: what, the median with its unit, and n with the range."""
        rows = []
        for kind in KINDS:
            samples = self.samples[kind.name]
            value = f"{self.median(kind.name):,.{kind.digits}f} {kind.unit}".strip()
            spread = ""
            if len(samples) > 1:
                low, high = min(samples), max(samples)
                spread = f"median of {len(samples)}, {low:,.{kind.digits}f} to"
                spread += f" {high:,.{kind.digits}f}"
            rows.append((kind.meaning, value, spread))
        return rows

    def write(self) -> Path:
        """Write the report into the current directory; every value in it is a number."""
        values: dict[str, float] = {}
        for kind in KINDS:
            value = self.median(kind.name)
            values[kind.name] = round(value, 3) if kind.digits else round(value)
            if kind.unit:
                values[f"{kind.name}_n"] = len(self.samples[kind.name])
        REPORT.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        return REPORT
