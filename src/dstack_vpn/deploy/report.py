"""The table of ``deploy status``; pure.

One row a service: what the engine says of its container, what its health check says now, and of
a node what it says of itself (/health; see docs/http.md) and what its device says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dstack_vpn.deploy.containers import Container, parse_time
from dstack_vpn.mesh.plan import REJECT_AFTER

HEAD = ("SERVICE", "STATE", "HEALTH", "PEERS", "BLOCK", "LAG", "HANDSHAKE", "NOTE")
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
    """Its output, in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What a node says of itself; None where it did not say it."""

    health: Mapping[str, Any] | None = None
    """What /health answered."""
    handshakes: Mapping[str, int] | None = None
    """Time of the last handshake by public key of the peer, seconds since 1970; 0 for none. From
    the device itself: a node looks at it once in SYNC_INTERVAL."""


def parse_handshakes(text: str) -> dict[str, int]:
    """Read what ``wg show INTERFACE latest-handshakes`` prints, wg(8).

    Raises:
        ValueError: it is something else.
    """
    found = {}
    for line in text.splitlines():
        key, tab, moment = line.partition("\t")
        if not tab or not moment.isdigit():
            raise ValueError("wg printed handshakes in a form that we do not know")
        found[key] = int(moment)
    return found


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
        peers = "-" if self.peers is None else f"{self.peers}/{self.total_peers}"
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
    checks: Mapping[str, Checked],
    nodes: Mapping[str, NodeFacts],
) -> list[Row]:
    """One row for each service that should be there.

    Args:
        services: as the Compose file has them, with the profiles that are on.
        containers: of the project.
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
        rows += [_row(c, checks.get(c.id), nodes.get(c.id, NodeFacts())) for c in own]
    return rows


def _row(container: Container, checked: Checked | None, facts: NodeFacts) -> Row:
    if container.done:
        state, health, ok, note = "done", "-", True, ""
    elif not container.running:
        state, health, ok = container.state, "-", False
        note = container.error or f"ended with exit code {container.exit_code}"
    elif checked is None:
        state, health, ok, note = "running", "-", True, ""
    else:
        ok = checked.passed
        state, health, note = (
            "running",
            "healthy" if ok else "unhealthy",
            "" if ok else checked.said,
        )
    health_facts = facts.health or {}
    if not ok and (reasons := _reasons(health_facts)):
        note = reasons
    if container.restarts:
        note = f"{note}; " * bool(note) + f"started again {container.restarts} times"
    chain = health_facts.get("chain") or {}
    ages = _ages(facts)
    return Row(
        service=container.service,
        container=container.name,
        state=state,
        health=health,
        ok=ok,
        note=note,
        peers=None if ages is None else sum(age < REJECT_AFTER for age in ages),
        total_peers=(health_facts.get("peerRegistry") or {}).get("totalPeers"),
        block=chain.get("head"),
        lag=chain.get("lag"),
        handshake_age=min(ages or (), default=None),
    )


def _ages(facts: NodeFacts) -> list[float] | None:
    """Seconds since the handshake with each peer that there was one with, by the node's clock."""
    if facts.handshakes is None or facts.health is None:
        return None
    now = parse_time(str(facts.health.get("timestamp", "")))
    return [max(0.0, now - moment) for moment in facts.handshakes.values() if moment]


def _reasons(health: Mapping[str, Any]) -> str:
    return "; ".join(str(r.get("text", "")) for r in health.get("reasons") or [])


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)
