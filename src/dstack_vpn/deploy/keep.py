"""Which containers must be started again, and why; pure. `keeper` asks and acts.

What the engine leaves down although its restart policies say otherwise (seen with Docker 20.10,
and reported of later ones: moby issues 11777 and 50326):

- After a restart of the engine or the host, a container that joins another's network is started
  without regard to whether that one runs yet; when it does not, the start fails and is not
  repeated.
- ``docker kill`` counts as a wish of the operator's, like ``docker stop``, though a killed node
  is rarely what somebody wants to keep.
- The retries of ``on-failure:N`` count over the whole life of a container, not since it last
  worked.
- When the owner of a network is started again, those who joined the old one are left in it,
  alone.

- Whether ``on-failure`` starts again, after a restart of the engine, what the engine itself had
  stopped differs (it did with 20.10; moby issues 46465 and 47846 tell of both).

What stays down here too: what was stopped (exit code 143, 130 or 0), what ended for a mistake of
the user (exit code 2), which starting again cannot mend, and what nobody wants to be started by
itself (the restart policy "no", and `compose run`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dstack_vpn.deploy.containers import EXITED, Container, in_order

STOPPED = frozenset({0, 130, 143})
"""Exit codes of what ended as it was asked to."""
MISTAKE = 2
"""Exit code for a mistake of the user."""
FIRST, MOST = 1.0, 60.0
"""Seconds before the same container is started once more: first, and at most."""
TOGETHER = 25.0
"""Seconds between the ends of two containers that the engine stopped when it ended itself: a little
more than a container gets to stop."""
SETTLED = 60.0
"""Seconds of running after which earlier starts are forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A container to be started, or started anew."""

    container: Container
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tries:
    """When a container that we started lately may be started once more."""

    pause: float
    """Seconds from the last start until then."""
    due_at: float
    """Monotonic seconds."""


def decide(
    containers: Sequence[Container], tries: Mapping[str, Tries], *, now: float, own: str = ""
) -> list[Start]:
    """What must be started now, owners of networks first.

    Args:
        containers: all of the project.
        tries: by container id, as `after` keeps them.
        now: monotonic seconds.
        own: id of the container that we run in; empty outside of one.
    """
    by_id = {c.id: c for c in containers}
    keeper = by_id.get(own)
    found = []
    for container in in_order(containers):
        if container.policy == "no" or container.one_off:
            continue
        why = _down(container, keeper) or _stranded(container, by_id)
        due = tries.get(container.id)
        if why and (due is None or now >= due.due_at):
            found.append(Start(container=container, why=why))
    return found


def _down(container: Container, keeper: Container | None) -> str:
    if container.state != EXITED:
        return ""
    if container.error:
        return f"the engine could not start it ({container.error[:200]})"
    if container.exit_code in STOPPED:
        by_engine = container.exit_code != 0 and _as_one(container, keeper)
        return "it ended when the engine did" if by_engine else ""
    if container.exit_code == MISTAKE:
        return ""
    if container.exit_code == 137:
        return "it was killed"
    return f"it ended with exit code {container.exit_code}"


def _as_one(container: Container, keeper: Container | None) -> bool:
    """Whether it ended when our last run did, so that the engine stopped both.

    Not what ended since we run again: that somebody stopped. Whoever stops a node within moments
    before us, and then starts us alone, gets it back.
    """
    if keeper is None or not keeper.finished_at:
        return False
    return keeper.finished_at - TOGETHER <= container.finished_at <= keeper.started_at


def _stranded(container: Container, by_id: Mapping[str, Container]) -> str:
    owner = by_id.get(container.network_of)
    if owner is None or not (container.running and owner.running):
        return ""
    if owner.started_at > container.started_at:
        return f"the network of {owner.name} was made anew"
    return ""


def after(
    tries: Mapping[str, Tries],
    started: Sequence[Start],
    containers: Sequence[Container],
    *,
    now: float,
    wall_now: float,
) -> dict[str, Tries]:
    """The tries to be remembered after a round.

    Args:
        tries: before it.
        started: what was started in it.
        containers: as they were before it.
        now: monotonic seconds.
        wall_now: seconds since 1970, which the engine tells times in.
    """
    kept = {}
    just = {start.container.id for start in started}
    for container in containers:
        before = tries.get(container.id)
        if container.id in just:
            pause = min(before.pause * 2, MOST) if before else FIRST
            kept[container.id] = Tries(pause=pause, due_at=now + pause)
        elif before is not None and not (
            container.running and wall_now - container.started_at > SETTLED
        ):
            kept[container.id] = before
    return kept
