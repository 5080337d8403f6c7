"""What the engine says of a container, parsed once; pure.

The same JSON comes from ``docker inspect`` and from the engine's API (``GET /containers/ID/json``).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
ONE_OFF_LABEL = "com.docker.compose.oneoff"

ENDS = ("no", "on-failure")
"""Restart policies of what is not meant to run on once it has ended with success."""
RUNNING, EXITED = "running", "exited"
"""The two of the engine's states (created, running, paused, restarting, removing, exited, dead) on
which something depends here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One container of a Compose project."""

    id: str
    name: str
    service: str
    project: str
    one_off: bool
    """Whether `compose run` made it, for one command."""
    state: str
    exit_code: int
    error: str
    """Why the engine could not start it; empty when it could."""
    started_at: float
    """Seconds since 1970; 0 for never."""
    finished_at: float
    """When it ended the last time, even if it runs again; seconds since 1970, 0 for never."""
    network_of: str
    """Id of the container whose network it shares; empty for none."""
    policy: str
    """Restart policy: no, always, unless-stopped or on-failure."""
    restarts: int
    """How often the engine started it again by that policy."""
    check: tuple[str, ...]
    """Command of its health check; empty for none."""

    @property
    def running(self) -> bool:
        """Whether its main process runs."""
        return self.state == RUNNING

    @property
    def done(self) -> bool:
        """Whether it did what it was for: it ended with success and is not meant to run on."""
        return (
            self.policy in ENDS and self.state == EXITED and self.exit_code == 0 and not self.error
        )


def parse(inspected: Mapping[str, Any]) -> Container:
    """Read one element of what ``docker inspect`` prints.

    Raises:
        ValueError: it is not in the form that the engine documents.
    """
    try:
        config, state, host = inspected["Config"], inspected["State"], inspected["HostConfig"]
        labels = config.get("Labels") or {}
        mode = str(host.get("NetworkMode") or "")
        policy = host.get("RestartPolicy") or {}
        return Container(
            id=str(inspected["Id"]),
            name=str(inspected["Name"]).removeprefix("/"),
            service=str(labels.get(SERVICE_LABEL, "")),
            project=str(labels.get(PROJECT_LABEL, "")),
            one_off=str(labels.get(ONE_OFF_LABEL, "")).lower() == "true",
            state=str(state["Status"]),
            exit_code=int(state["ExitCode"]),
            error=str(state.get("Error") or ""),
            started_at=parse_time(str(state.get("StartedAt") or "")),
            finished_at=parse_time(str(state.get("FinishedAt") or "")),
            network_of=mode.removeprefix("container:") if mode.startswith("container:") else "",
            policy=str(policy.get("Name") or "no"),
            restarts=int(inspected.get("RestartCount") or 0),
            check=_check(config.get("Healthcheck") or {}),
        )
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"the engine described a container in a form we do not know: {error!r}"
        ) from None


def _check(healthcheck: Mapping[str, Any]) -> tuple[str, ...]:
    kind, *words = healthcheck.get("Test") or ["NONE"]
    if kind == "CMD":
        return tuple(str(word) for word in words)
    if kind == "CMD-SHELL":
        return ("/bin/sh", "-c", *(str(word) for word in words))
    return ()


_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)")


def parse_time(text: str) -> float:
    """Seconds since 1970 of a time as the engine writes it (RFC 3339); 0 for never.

    Raises:
        ValueError: it is no such time.
    """
    if not text or text.startswith("0001-"):
        return 0.0
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:40]!r} is no time")
    whole = datetime.fromisoformat(found[1] + ("+00:00" if found[3] == "Z" else found[3]))
    return whole.timestamp() + float(found[2] or 0)


def in_order(containers: Sequence[Container]) -> list[Container]:
    """Sorted by service and name, those first whose network others share."""
    owners = {c.network_of for c in containers}
    return sorted(containers, key=lambda c: (c.id not in owners, c.service, c.name))
