"""What planning costs: for everybody, and for the one token that changed. No device, no chain."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from bench.entry import Bench, Samples
from dstack_vpn.mesh.access import Decision, judge_self
from dstack_vpn.mesh.amend import amend
from dstack_vpn.mesh.device import SeenDevice
from dstack_vpn.mesh.diff import diff
from dstack_vpn.mesh.keys import PublicKey
from dstack_vpn.mesh.membership import Node
from dstack_vpn.mesh.plan import Plan, make_plan
from mesh.build import (
    NOW,
    as_seen,
    clock_at,
    decide,
    device_of,
    local_node,
    node,
)

OWN, CHANGED = 1, 2  #: tokens: of this node, and of the one that is revoked


class Membership:
    """So many members, the plan for them, and a device that is as planned."""

    def __init__(self, size: int) -> None:
        self.nodes: dict[int, Node] = {n: node(n, key=os.urandom(32)) for n in range(1, size + 1)}
        self._local = replace(local_node(OWN), public_key=PublicKey(self.nodes[OWN].key))
        self._decisions = self._judged(self.nodes)
        self._own = judge_self(
            tuple(self._decisions.values()), self._local.node_id, self._local.public_key
        )
        self._seen: SeenDevice | None = None
        self._plan = self._planned()
        self._seen = as_seen(device_of(self._plan))
        self._after = self._judged({CHANGED: replace(self.nodes[CHANGED], revoked=True)})

    def compare(self) -> None:
        """Plan for all and compare with the device, which is as it should be."""
        plan = self._planned()
        assert not diff(device_of(plan), self._seen, reasons=plan.removal_reasons)

    def change(self) -> None:
        """Plan for one token that was revoked."""
        assert self._seen is not None
        _, change = amend(
            self._plan, self._after, nodes=self.nodes, own=self._own, seen=self._seen, **self._rest
        )
        assert len(change.peers) == 1

    def floor(self) -> None:
        """One look at each member."""
        there = self._seen.peers if self._seen else {}
        wanted = {d.key: d for d in self._decisions.values() if d.key}
        assert len(wanted.keys() - there.keys()) == 1  # this node itself

    @property
    def _rest(self) -> Mapping[str, Any]:
        return {
            "local": self._local, "resolved": {}, "since": {}, "now": NOW, "clock": clock_at(),
        }  # fmt: skip

    def _planned(self) -> Plan:
        return make_plan(
            nodes=self.nodes, decisions=self._decisions, own=self._own, seen=self._seen,
            **self._rest,
        )  # fmt: skip

    @staticmethod
    def _judged(nodes: Mapping[int, Node]) -> dict[int, Decision]:
        return {d.token_id: d for d in decide(nodes.values())}


def _timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


async def plan_and_diff_10000(bench: Bench) -> Samples:
    """A plan for all of 10,000 members, and its comparison with a device that is as planned.

    This is what a compare computes, every `SYNC_INTERVAL`, apart from reading the device. The floor
    is one look at each member: a dictionary of all that are granted, by key, and which of its keys
    the device lacks. The parts are what a change computes instead: a plan for one revoked token and
    what it changes, in a network of 10,000 and in one of 100.
    """
    many, few = Membership(10_000), Membership(100)
    samples = Samples(parts={"one change of 10000": [], "one change of 100": []})
    for _ in bench.rounds(101, quick=3):
        samples.values.append(_timed(many.compare))
        samples.floors.append(_timed(many.floor))
        samples.parts["one change of 10000"].append(_timed(many.change))
        samples.parts["one change of 100"].append(_timed(few.change))
    bench.told(samples)
    return samples
