"""What happened to the membership: the difference of two sets of verdicts, in words.

Events are for people, journals and subscribers. Nothing decides by them: the reconciler is
level-triggered and would arrive at the same device without a single event.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from dstack_vpn.mesh.access import Decision, Verdict
from dstack_vpn.mesh.membership import NO_NODES, Nodes


class EventKind(StrEnum):
    """The kinds of event a subscriber can get."""

    GRANTED = "granted"
    REVOKED = "revoked"
    TRANSFERRED = "transferred"
    KEY_CHANGED = "key-changed"
    APPLIED = "applied"
    REPAIRED = "repaired"
    """Somebody else had altered the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened, at a block."""

    kind: EventKind
    block: int
    """Number of the block at which it was known."""
    token_id: int
    """0 for events about the whole device."""
    node_id: str
    verdict: Verdict | None
    detail: str
    """One sentence or phrase for people."""


def membership_events(
    *,
    block: int,
    before: Sequence[Decision],
    after: Sequence[Decision],
    nodes_before: Nodes = NO_NODES,
    nodes_after: Nodes = NO_NODES,
) -> tuple[Event, ...]:
    """Tell what changed between two sets of verdicts, sorted by token id."""
    old = {d.token_id: d for d in before}
    new = {d.token_id: d for d in after}
    events: list[Event] = []
    for token_id in sorted(old.keys() | new.keys()):
        was, now = old.get(token_id), new.get(token_id)
        kinds = _kinds(token_id, was, now, nodes_before, nodes_after)
        shown = now or was
        assert shown is not None
        events.extend(
            Event(
                kind=kind,
                block=block,
                token_id=token_id,
                node_id=shown.node_id,
                verdict=now.verdict if now else Verdict.NODE_NOT_FOUND,
                detail=now.reason if now else "the token was burned",
            )
            for kind in kinds
        )
    return tuple(events)


def _kinds(
    token_id: int,
    was: Decision | None,
    now: Decision | None,
    nodes_before: Nodes,
    nodes_after: Nodes,
) -> list[EventKind]:
    kinds: list[EventKind] = []
    seller, buyer = nodes_before.get(token_id), nodes_after.get(token_id)
    if seller and buyer and seller.holder != buyer.holder:
        kinds.append(EventKind.TRANSFERRED)
    member_before, member_now = bool(was and was.granted), bool(now and now.granted)
    if member_before and not member_now:
        if EventKind.TRANSFERRED not in kinds:
            kinds.append(EventKind.REVOKED)
    elif member_now and not member_before:
        kinds.append(EventKind.GRANTED)
    elif was and now and member_now and was.key != now.key:
        kinds.append(EventKind.KEY_CHANGED)
    return kinds
