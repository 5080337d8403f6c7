"""`python -m bench [NAMES...] [--list] [--quick] [--json]`, run in a world of the lab.

Prints a table and writes bench/results.json: for each entry the median of what was measured, the
median of its floor, taken in turn with it in the same run, and the ratio of the two; where there
are a hundred measurements also what one in a hundred exceeds.
"""

import argparse
import asyncio
import inspect
import sys
import textwrap
from collections.abc import Sequence

from bench import RESULTS
from bench.change import apply_10000_peers, one_change_at_10000
from bench.entry import Bench, Entry, Result, save, table
from bench.latency import (
    event_to_peer,
    event_to_peer_10000,
    poll_event_to_peer,
    revoke_to_last_packet,
)
from bench.load import packets_lost_per_1000_changes
from bench.memory import agent_rss, agent_rss_100, agent_rss_10000
from bench.planning import plan_and_diff_10000
from bench.start import cold_ready, cold_ready_10000, warm_ready, warm_ready_10000
from bench.upkeep import agent_cpu, agent_cpu_busy, health_p99
from lab.lab import Lab
from lab.world import LAB_DIR

ENTRIES = (
    Entry("event_to_peer_ms", "ms", event_to_peer, 2),
    Entry("poll_event_to_peer_ms", "ms", poll_event_to_peer, 1),
    Entry("revoke_to_last_packet_ms", "ms", revoke_to_last_packet, 2),
    Entry("packets_lost_per_1000_changes", "packets", packets_lost_per_1000_changes, 0),
    Entry("plan_and_diff_10000_ms", "ms", plan_and_diff_10000, 2),
    Entry("one_change_at_10000_ms", "ms", one_change_at_10000, 2),
    Entry("apply_10000_peers_s", "s", apply_10000_peers, 3),
    Entry("cold_ready_s", "s", cold_ready, 3),
    Entry("warm_ready_s", "s", warm_ready, 3),
    Entry("agent_rss_100_mb", "MB", agent_rss_100, 1),
    Entry("agent_rss_mb", "MB", agent_rss, 1),
    Entry("agent_cpu_percent", "%", agent_cpu, 2),
    Entry("agent_cpu_busy_percent", "%", agent_cpu_busy, 2),
    Entry("health_p99_ms", "ms", health_p99, 2),
    Entry("event_to_peer_10000_ms", "ms", event_to_peer_10000, 2),
    Entry("cold_ready_10000_s", "s", cold_ready_10000, 3),
    Entry("warm_ready_10000_s", "s", warm_ready_10000, 3),
    Entry("agent_rss_10000_mb", "MB", agent_rss_10000, 1),
)


def main(arguments: Sequence[str]) -> int:
    """Measure what was asked for; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measures the agent.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="entries; all by default")
    parser.add_argument("--list", action="store_true", help="say what is measured, and stop")
    parser.add_argument("--quick", action="store_true", help="few rounds: it works, no more")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    asked = parser.parse_args(arguments)
    unknown = set(asked.names) - {entry.name for entry in ENTRIES}
    if unknown:
        parser.error(f"no entry is called {', '.join(sorted(unknown))}; --list names them")
    chosen = [entry for entry in ENTRIES if entry.name in asked.names or not asked.names]
    if asked.list:
        for entry in chosen:
            explained = inspect.cleandoc(entry.measure.__doc__ or "")
            print(f"{entry.name}\n{textwrap.indent(explained, '    ')}\n")
        return 0
    if not LAB_DIR.is_dir():
        parser.error("not in a lab: run `make bench`, or scripts/lab .venv/bin/python -m bench")
    try:
        results = asyncio.run(measure(chosen, quick=asked.quick))
    except KeyboardInterrupt:
        return 130
    text = save(results, RESULTS)
    print(text if asked.json else table(results), end="")
    return 0


async def measure(entries: Sequence[Entry[Bench]], *, quick: bool) -> list[Result]:
    """Measure entries one after the other, in networks that they share."""
    results = []
    async with Lab.open() as lab:
        bench = Bench(lab, quick)
        try:
            for entry in entries:
                bench.name = entry.name
                results.append(Result.of(entry, await entry.measure(bench)))
        except Exception:
            for name, tail in lab.logs(10).items():
                print(f"--- the end of {name}\n{tail}", file=sys.stderr)
            raise
    return results


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
