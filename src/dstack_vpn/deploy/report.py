"""The table of ``deploy status``; pure.

One row a service: what the engine says of its container, what its health check says now, and of
a node what it says of itself (/health; see docs/http.md) and what its device says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dstack_vpn.deploy.containers import ENDS, Container, parse_time
from dstack_vpn.deploy.loglines import printable
from dstack_vpn.mesh.plan import REJECT_AFTER

HEAD = ("SERVICE", "STATE", "HEALTH", "PEERS", "BLOCK", "LAG", "HANDSHAKE", "NOTE")
SETTLED = 10.0
"""Seconds that what was started again has to run until it counts as running."""
PROBE = "dstack_vpn.probe"
"""The module in the health check of a node."""


def is_node(container: Container) -> bool:
    """Whether it runs a node of the mesh."""
    return PROBE in container.check


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a health check said just now."""

    passed: bool
    said: str
    """The last line of its output."""


def read_check(code: int, out: str, err: str) -> Checked:
    """Read how the command of a health check ended."""
    text = (out if code == 0 else err.strip() or out).strip()
    return Checked(passed=code == 0, said=printable(text.rpartition("\n")[2].strip()))


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What a node and its device say; None where they did not say it, or not so that we know it."""

    reasons: tuple[str, ...] = ()
    """What is wrong, in its own words."""
    peers: int | None = None
    """How many it should have."""
    block: int | None = None
    lag: int | None = None
    ages: tuple[float, ...] | None = None
    """Seconds since the handshake with each peer that there was one with, by the node's clock.
    From the device itself: a node looks at it once in SYNC_INTERVAL."""


def read_facts(health: Any, handshakes: str | None) -> NodeFacts:
    """Read what a node says of itself.

    Args:
        health: what its /health answered; None if it did not.
        handshakes: what ``wg show INTERFACE latest-handshakes`` printed, wg(8); None if it failed.
    """
    chain = _part(health, "chain")
    reasons = _part(health).get("reasons")
    return NodeFacts(
        reasons=tuple(
            printable(str(_part(reason).get("text", "")))
            for reason in (reasons if isinstance(reasons, list) else ())
        ),
        peers=_whole(_part(health, "peerRegistry").get("totalPeers")),
        block=_whole(chain.get("head")),
        lag=_whole(chain.get("lag")),
        ages=_ages(_part(health).get("timestamp"), handshakes),
    )


def _part(value: Any, name: str = "") -> Mapping[str, Any]:
    part = _part(value).get(name) if name else value
    return part if isinstance(part, dict) else {}


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _ages(timestamp: Any, handshakes: str | None) -> tuple[float, ...] | None:
    if not isinstance(timestamp, str) or handshakes is None:
        return None
    try:
        now = parse_time(timestamp)
        moments = [int(line.split("\t")[1]) for line in handshakes.splitlines()]
        return tuple(max(0.0, now - moment) for moment in moments if moment)
    except (ValueError, IndexError, OverflowError):
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One service."""

    service: str
    container: str | None
    state: str
    health: str
    ok: bool
    note: str
    peers: int | None = None
    total_peers: int | None = None
    block: int | None = None
    lag: int | None = None
    handshake_age: float | None = None
    """Seconds since the newest handshake with any peer."""

    def cells(self) -> tuple[str, ...]:
        """The row for people."""
        known = self.peers is not None or self.total_peers is not None
        peers = f"{_or_dash(self.peers)}/{_or_dash(self.total_peers)}" if known else "-"
        age = "-" if self.handshake_age is None else f"{self.handshake_age:.0f} s ago"
        return (
            self.service, self.state, self.health, peers, _or_dash(self.block), _or_dash(self.lag),
            age, self.note,
        )  # fmt: skip

    def json(self) -> dict[str, Any]:
        """The row for scripts."""
        return {
            "service": self.service,
            "container": self.container,
            "state": self.state,
            "health": self.health,
            "ok": self.ok,
            "note": self.note,
            "activePeers": self.peers,
            "totalPeers": self.total_peers,
            "block": self.block,
            "lag": self.lag,
            "handshakeAgeSeconds": self.handshake_age,
        }


def make_rows(
    services: Sequence[str],
    containers: Sequence[Container],
    *,
    now: float,
    checks: Mapping[str, Checked],
    nodes: Mapping[str, NodeFacts],
) -> list[Row]:
    """One row for each service that should be there.

    Args:
        services: as the Compose file has them, with the profiles that are on.
        containers: of the project.
        now: seconds since 1970.
        checks: by container id, of those that run and have a health check.
        nodes: by container id, of those that are nodes and run.
    """
    rows = []
    for service in services:
        own = [c for c in containers if c.service == service and not c.one_off]
        if not own:
            rows.append(
                Row(service=service, container=None, state="missing", health="-", ok=False,
                    note="there is no container; `dstack-vpn deploy` makes it")
            )  # fmt: skip
        rows += [_row(c, now, checks.get(c.id), nodes.get(c.id, NodeFacts())) for c in own]
    return rows


def _row(container: Container, now: float, checked: Checked | None, facts: NodeFacts) -> Row:
    state, health, ok, note = container.state, "-", True, ""
    if container.done:
        state = "done"
    elif not container.running:
        ok, note = False, container.error or f"ended with exit code {container.exit_code}"
    elif checked is not None:
        ok = checked.passed
        health = "healthy" if ok else "unhealthy"
        note = "" if ok else "; ".join(facts.reasons) or checked.said
    elif container.policy in ENDS:
        ok, note = False, "it has not done yet what it is for"
    elif container.restarts and now - container.started_at < SETTLED:
        ok, note = False, "it does not keep running"
    if container.restarts:
        note = f"{note}; " * bool(note) + f"started again by the engine: {container.restarts}"
    ages = facts.ages
    return Row(
        service=container.service,
        container=container.name,
        state=state,
        health=health,
        ok=ok,
        note=note,
        peers=None if ages is None else sum(age < REJECT_AFTER for age in ages),
        total_peers=facts.peers,
        block=facts.block,
        lag=facts.lag,
        handshake_age=min(ages or (), default=None),
    )


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)
