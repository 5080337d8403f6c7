"""Why a peer can or cannot be reached: each verdict and each state of a device has its sentence."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from dstack_vpn.mesh.access import Verdict, find
from dstack_vpn.mesh.audit import Difference, Kind
from dstack_vpn.mesh.device import SeenPeer
from dstack_vpn.mesh.endpoint import Source
from dstack_vpn.mesh.explain import (
    ADVICE,
    AgentFacts,
    Facts,
    Finding,
    Grade,
    PathFacts,
    conclude,
    explain,
)
from dstack_vpn.mesh.membership import Node
from mesh.build import (
    BLOCK,
    CHAIN_NOW,
    WALL_NOW,
    as_seen,
    decide,
    device_of,
    key_of,
    node,
    plan_for,
    seen_peer,
)

WELL = AgentFacts(state="following", lag=0, reasons=())
LIVE = seen_peer(2, endpoint="192.0.2.2:51820", age=3.0)
SEEN = replace(as_seen(device_of(plan_for([node(1), node(2)]))), peers={LIVE.key: LIVE})


def facts(
    *nodes: Node, peer: SeenPeer | None = LIVE, confirmations: int = 0, **values: Any
) -> Facts:
    """Node 1 asks about node 2, with all in order unless told otherwise."""
    tokens = list(nodes) or [node(1), node(2)]
    decisions = decide(tokens, confirmations=confirmations)
    plan = plan_for(tokens)
    seen = as_seen(device_of(plan))
    if peer is not None:
        seen = replace(seen, peers={**seen.peers, peer.key: peer})
    given: dict[str, Any] = {
        "own": find(decisions, "node-1"),
        "peer": find(decisions, "node-2"),
        "node": next((n for n in tokens if n.node_id == "node-2"), None),
        "block": BLOCK,
        "confirmed": BLOCK - confirmations,
        "chain_now": CHAIN_NOW,
        "plan": plan,
        "seen": seen,
        "notes": (),
        "source": Source.TOKEN,
        "agent": WELL,
        "wall_now": WALL_NOW,
    }
    return Facts(**given | values)


def problem(findings: Sequence[Finding]) -> Finding:
    return next(f for f in findings if f.grade is Grade.PROBLEM)


def test_all_in_order() -> None:
    """Nothing but ok, and the conclusion says so."""
    findings = explain(facts())
    assert {f.grade for f in findings} == {Grade.OK}
    assert [f.subject for f in findings] == [
        "peer", "own", "agent", "device", "endpoint", "handshake",
    ]  # fmt: skip
    assert conclude("node-2", findings) == (True, "node-2 is reachable")


def test_routing() -> None:
    """A missing route is a problem, one of others may be; rules are about what peers send."""
    kinds = (Kind.ROUTE_MISSING, Kind.ROUTE_FOREIGN, Kind.RULE_MISSING, Kind.UNREACHABLE_MISSING)
    routing = tuple(Difference(kind=kind, text=f"so it is: {kind}") for kind in kinds)
    found = explain(facts(routing=routing))
    told = [(f.subject, f.grade) for f in found if f.subject in kinds]
    assert told == [("route-missing", Grade.PROBLEM), ("route-foreign", Grade.WARNING)]
    assert conclude("node-2", found)[0] is False
    reachable, words = conclude("node-2", explain(facts(routing=routing[1:])))
    assert (reachable, words) == (True, "node-2 is reachable; but so it is: route-foreign")


@pytest.mark.parametrize("skew", [None, 60.0, -60.0])
def test_a_clock_that_is_right(skew: float | None) -> None:
    """Up to a minute, or not known, is nothing to tell."""
    assert explain(facts(skew=skew)) == explain(facts())


@pytest.mark.parametrize(
    ("skew", "words"),
    [
        (61.4, "clock is 61 s ahead of the chain's newest block, or the chain stands still"),
        (-3600.0, "clock is 3600 s behind the chain's newest block"),
    ],
)
def test_a_clock_that_is_wrong(skew: float, words: str) -> None:
    """It is told with what to do; whoever has a session is reachable all the same."""
    findings = explain(facts(skew=skew))
    (found,) = (f for f in findings if f.subject == "clock")
    assert found.grade is Grade.WARNING
    assert found.text.endswith(words)
    assert "NTP" in found.advice
    assert conclude("node-2", findings) == (True, "node-2 is reachable")


VERDICTS: dict[Verdict, tuple[Node, ...]] = {
    Verdict.NODE_NOT_FOUND: (node(1),),
    Verdict.NO_KEY: (node(1), node(2, key=bytes(32))),
    Verdict.REVOKED: (node(1), node(2, revoked=True)),
    Verdict.SUSPENDED_BY_TRANSFER: (node(1), node(2, suspended=True)),
    Verdict.EXPIRED: (node(1), node(2, expires_at=CHAIN_NOW - 5)),
    Verdict.KEY_INVALID: (node(1), node(2, key=b"short")),
    Verdict.KEY_DUPLICATE: (node(1), node(2, key=key_of(1).raw)),
}


@pytest.mark.parametrize(("verdict", "nodes"), VERDICTS.items(), ids=list(VERDICTS))
def test_who_is_out(verdict: Verdict, nodes: tuple[Node, ...]) -> None:
    """The verdict is the first problem, with what to do; nothing is said of handshakes."""
    findings = explain(facts(*nodes, peer=None))
    first = problem(findings)
    assert findings[0] is first
    assert verdict in first.text
    assert first.advice == ADVICE[verdict]
    assert "handshake" not in {f.subject for f in findings}
    reachable, sentence = conclude("node-2", findings)
    assert not reachable
    assert sentence == f"node-2 cannot be reached: {first.text}"


def test_each_verdict_has_an_advice() -> None:
    """Whatever the verdict, there is something to do about it."""
    assert set(ADVICE) == set(Verdict) - {Verdict.ACCESS_GRANTED}


def test_figures_of_a_verdict() -> None:
    """When it expired, and how many blocks are missing."""
    expired = explain(facts(*VERDICTS[Verdict.EXPIRED], peer=None))
    assert "2025-06-15 15:06:35 UTC" in expired[0].text
    waiting = facts(node(1), node(2, since_block=BLOCK - 2), peer=None, confirmations=5)
    assert "NOT_YET_CONFIRMED" in explain(waiting)[0].text
    assert explain(waiting)[0].text.endswith("; 3 more blocks are needed")


def test_own_verdict() -> None:
    """A node that is out itself reaches nobody, and that is the cause."""
    out = explain(facts(node(1, revoked=True), node(2), peer=None))
    assert problem(out).subject == "own"
    assert problem(out).text.startswith("this node is REVOKED")


@pytest.mark.parametrize(
    ("peer", "grade", "words"),
    [
        (seen_peer(2, endpoint="192.0.2.2:1", age=900), Grade.PROBLEM, "was 900 s ago"),
        (
            seen_peer(2, endpoint="192.0.2.2:1", age=900, keepalive=0),
            Grade.WARNING,
            "for want of traffic",
        ),
        (seen_peer(2, endpoint="192.0.2.2:1"), Grade.PROBLEM, "there was never a handshake; 0"),
        (seen_peer(2), Grade.PROBLEM, "nobody says where it is"),
        (seen_peer(2, endpoint="192.0.2.2:1", keepalive=0), Grade.PROBLEM, "not being tried"),
    ],
)
def test_handshakes(peer: SeenPeer, grade: Grade, words: str) -> None:
    """What an old handshake means, and what none at all."""
    last = explain(facts(peer=peer))[-1]
    assert (last.subject, last.grade) == ("handshake", grade)
    assert words in last.text
    assert last.advice
    assert conclude("node-2", explain(facts(peer=peer)))[0] is (grade is Grade.WARNING)


def test_bytes_that_nobody_answers() -> None:
    """What was sent and not answered is counted, and the possible causes are told."""
    mute = replace(seen_peer(2, endpoint="192.0.2.2:1"), tx_bytes=1480)
    last = explain(facts(peer=mute))[-1]
    assert "0 bytes received, 1480 sent" in last.text
    assert "UDP is blocked" in last.advice


@pytest.mark.parametrize(
    ("values", "subject", "grade"),
    [
        ({"seen": None}, "no-device", Grade.PROBLEM),
        ({"seen": replace(SEEN, peers={})}, "peer-missing", Grade.PROBLEM),
        ({"seen": replace(SEEN, up=False)}, "link-down", Grade.PROBLEM),
        ({"seen": replace(SEEN, listen_port=7)}, "listen-port", Grade.PROBLEM),
        ({"seen": replace(SEEN, mtu=1300)}, "mtu", Grade.WARNING),
        ({"agent": None}, "agent", Grade.WARNING),
        ({"agent": replace(WELL, state="closed")}, "agent", Grade.PROBLEM),
        ({"agent": replace(WELL, state="dark")}, "agent", Grade.WARNING),
        ({"agent": replace(WELL, reasons=("the disk is full",))}, "agent", Grade.WARNING),
        ({"notes": ("the name b.example has no address",)}, "endpoint", Grade.WARNING),
    ],
)
def test_what_else_may_be_wrong(values: dict[str, Any], subject: str, grade: Grade) -> None:
    """The device, the agent and the endpoints each have their finding."""
    assert (subject, grade) in {(f.subject, f.grade) for f in explain(facts(**values))}


def test_warnings_of_the_agent_do_not_make_a_peer_unreachable() -> None:
    """They are told, but the conclusion is about the peer."""
    findings = explain(facts(agent=replace(WELL, state="dark", reasons=("x",))))
    assert conclude("node-2", findings) == (True, "node-2 is reachable")


def test_an_end_that_is_near() -> None:
    """A peer that expires soon is reachable, but."""
    soon = facts(node(1), node(2, expires_at=CHAIN_NOW + 60))
    reachable, sentence = conclude("node-2", explain(soon))
    assert reachable
    assert "; but its access ends in 60 s" in sentence


@pytest.mark.parametrize(
    ("version", "largest", "grade", "words"),
    [
        (4, 1420, Grade.OK, "full size (1420 bytes) pass by IPv4"),
        (6, None, Grade.WARNING, "see whether its firewall drops ICMP"),
        (4, 1340, Grade.PROBLEM, "set MTU=1340 on both nodes"),
        (6, 900, Grade.PROBLEM, "too narrow: IPv6 needs an MTU of 1280"),
    ],
)
def test_sizes_that_pass(version: int, largest: int | None, grade: Grade, words: str) -> None:
    """A path that swallows large packets is a problem, with the MTU that fits as the advice."""
    findings = explain(facts(paths=(PathFacts(version=version, mtu=1420, largest=largest),)))
    last = findings[-1]
    assert (last.subject, last.grade) == ("path", grade)
    assert words in f"{last.text} {last.advice}"
    assert conclude("node-2", findings)[0] is (grade is not Grade.PROBLEM)


def test_sizes_that_could_not_be_tried() -> None:
    """That is told, and says nothing about the peer."""
    last = explain(facts(path_error="no right"))[-1]
    assert (last.grade, last.text) == (Grade.OK, "sizes not tried: no right")
