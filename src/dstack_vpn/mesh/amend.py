"""A plan brought up to date for the few tokens that changed, without looking at the others.

Pure. The same rules and the same comparison as in `plan` and `diff`, over a few peers in place of
all of them, so that a change in a large network costs what it does in a small one. It rests on the
device as last read and changed since; what it cannot know of (drift, a peer that moved) is found by
the next full compare.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

from dstack_vpn.mesh.access import Decision
from dstack_vpn.mesh.clock import WallClock
from dstack_vpn.mesh.device import DeviceChange, IpAddress, SeenDevice
from dstack_vpn.mesh.diff import check_plan, diff_peers
from dstack_vpn.mesh.keys import PublicKey
from dstack_vpn.mesh.membership import Nodes
from dstack_vpn.mesh.plan import LocalNode, Plan, Planner, peers_of, removal_reasons

K = TypeVar("K")
V = TypeVar("V")


def amend(
    plan: Plan,
    changed: Mapping[int, Decision | None],
    *,
    nodes: Nodes,
    own: Decision,
    local: LocalNode,
    seen: SeenDevice,
    resolved: Mapping[str, Sequence[IpAddress]],
    since: Mapping[PublicKey, float],
    now: float,
    clock: WallClock,
) -> tuple[Plan, DeviceChange]:
    """Plan anew for some tokens; the plan as it is now, and what it changes on the device.

    Args:
        plan: of the tokens before, for the same local node and the same verdict on it.
        changed: the verdicts of the tokens as they are now, None for one that is gone. They must
            hold every token that has or had a key that one of them has now (see `entangled`).
        nodes: tokens at the newest agreed block.
        own: the verdict on this node.
        local: this node's settings.
        seen: the device as it is known to be.
        resolved: see `make_plan`; only the names of these tokens are needed.
        since: see `make_plan`.
        now: see `make_plan`.
        clock: see `make_plan`.
    """
    (device,) = plan.devices
    planner = Planner(local=local, seen=seen, resolved=resolved, since=since, now=now, clock=clock)
    verdicts = [changed[token] for token in sorted(changed)]
    decisions = [decision for decision in verdicts if decision is not None]
    members = peers_of(decisions, own, None).values()
    old = {plan.keys[token] for token in changed if token in plan.keys}
    wanted = planner.cap_newcomers(
        [planner.peer(d, nodes[d.token_id].endpoint) for d in members], plan.tries - old
    )
    new = {peer.key: peer for peer in wanted}
    check_plan(replace(device, peers=new))
    reasons = removal_reasons(decisions, own, None)
    there = {key: seen.peers[key] for key in old | new.keys() if key in seen.peers}
    times = [at for at in (plan.replan_at, planner.replan_at) if at is not None]
    amended = Plan(
        devices=(replace(device, peers=_altered(device.peers, old, new)),),
        removal_reasons=MappingProxyType(reasons),
        notes=_altered(plan.notes, changed.keys(), planner.notes),
        keys=_altered(plan.keys, changed.keys(), {p.token_id: p.key for p in wanted}),
        tries=frozenset(planner.tries),
        staggered=_altered(plan.staggered, changed.keys(), planner.staggered),
        replan_at=min(times, default=None),
    )
    return amended, DeviceChange(name=device.name, peers=diff_peers(new, there, reasons))


def entangled(plan: Plan, changed: AbstractSet[int], keys: AbstractSet[PublicKey]) -> set[int]:
    """Those tokens, and whoever else has a key in the plan that is now one of `keys`."""
    (device,) = plan.devices
    return {*changed, *(device.peers[key].token_id for key in keys if key in device.peers)}


def _altered(old: Mapping[K, V], without: AbstractSet[K], new: Mapping[K, V]) -> Mapping[K, V]:
    """A mapping without some entries and with others, in no order; one copy, however large."""
    if not new and not any(key in old for key in without):
        return old
    # Not dict(old), which hashes each key of a proxy anew.
    altered = old.copy() if isinstance(old, MappingProxyType) else dict(old)
    for key in without:
        altered.pop(key, None)
    altered.update(new)
    return MappingProxyType(altered)
