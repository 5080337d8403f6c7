"""Why a peer can or cannot be reached: facts in, findings out, from cause to detail. Pure.

Each finding is one sentence, with what to do where there is something to be done. A problem is what
keeps packets from flowing; a warning is what may.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from dstack_vpn.mesh.access import Decision, Verdict
from dstack_vpn.mesh.audit import Difference, Kind, differences
from dstack_vpn.mesh.device import SeenDevice, SeenPeer
from dstack_vpn.mesh.endpoint import Source
from dstack_vpn.mesh.health import MOST_SKEW
from dstack_vpn.mesh.membership import Node
from dstack_vpn.mesh.origin import PeerState, peer_state
from dstack_vpn.mesh.plan import Plan

# We chose. An expiry this near is told, for the two sides may see it at different blocks.
SOON = 600.0

LEAST_MTU = 1280
"""What IPv6 asks of every link, RFC 8200 section 5, and the least that MTU may be set to."""


class Grade(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    """What was looked at, in a word; stable for scripts."""
    grade: Grade
    text: str
    advice: str = ""
    """What to do; empty where there is nothing to be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentFacts:
    """What the running agent says of itself."""

    state: str
    """How it stands with the chain, such as ``following``, ``dark``, ``halted``, ``closed``."""
    lag: int | None
    """Blocks by which the device is behind the newest head."""
    reasons: tuple[str, ...]
    """What is wrong with the node by its own judgement, a sentence each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathFacts:
    """What was found by echo requests through the tunnel."""

    version: int
    """4 or 6: of the addresses in the mesh."""
    mtu: int
    """Of our interface; the largest packet that was tried."""
    largest: int | None
    """Bytes of the largest packet that came back; None when none did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that is known at one moment."""

    own: Decision
    peer: Decision
    node: Node | None
    """The peer's token."""
    block: int
    confirmed: int | None
    """Admissions count up to this block."""
    chain_now: float
    plan: Plan
    seen: SeenDevice | None
    notes: Sequence[str]
    """What of its endpoints cannot be used, and why."""
    source: Source | None
    """Who named the endpoint in use."""
    agent: AgentFacts | None
    """None when no agent answers."""
    wall_now: float
    skew: float | None = None
    """Seconds by which the wall clock is ahead of the chain's newest block; None for not known."""
    routing: tuple[Difference, ...] = ()
    """What of the host's routing is not as it should be."""
    paths: tuple[PathFacts, ...] = ()
    """Empty where nothing was tried."""
    path_error: str = ""
    """Why nothing could be tried; empty where something was, or nobody wanted it."""


ADVICE: dict[Verdict, str] = {
    Verdict.NODE_NOT_FOUND: "see dstack-vpn node list; a node is registered with node register",
    Verdict.NO_KEY: "its holder sets one: dstack-vpn node set-key",
    Verdict.REVOKED: "the contract's owner can give it back: dstack-vpn node restore",
    Verdict.SUSPENDED_BY_TRANSFER: "its new holder sets a key: dstack-vpn node set-key",
    Verdict.EXPIRED: "the contract's owner can renew it: dstack-vpn node renew",
    Verdict.KEY_INVALID: "its holder sets another key: dstack-vpn node set-key",
    Verdict.KEY_DUPLICATE: "its holder makes a key of its own: dstack-vpn keys generate",
    Verdict.NODE_ID_INVALID: "register it anew under a DNS label",
    Verdict.NODE_ID_DUPLICATE: "register it anew under a name that nobody has",
    Verdict.PUBLIC_KEY_MISMATCH: "run the node with the token's key, or set its key on the token",
    Verdict.UNADDRESSABLE: "register it anew; a contract counts token ids from 1",
    Verdict.NOT_YET_CONFIRMED: "wait for the blocks, or set a lower CONFIRMATIONS",
    Verdict.SOURCE_DISPUTED: "ask the RPC providers that are named, or wait until they agree",
}
"""What to do about each verdict but the granted one."""


def explain(facts: Facts) -> tuple[Finding, ...]:
    """All findings, from cause to detail; the first problem is the one to look at first."""
    found = [_verdict("peer", facts.peer, facts), _verdict("own", facts.own, facts)]
    found += _expiry(facts)
    found += _agent(facts.agent)
    found += _clock(facts)
    found += _device(facts)
    found += _routing(facts.routing)
    if facts.peer.granted and facts.own.granted:
        found += _traffic(facts)
    return tuple(found)


def conclude(name: str, findings: Sequence[Finding]) -> tuple[bool, str]:
    """Whether a peer is reachable as far as can be seen, and the conclusion in one sentence."""
    first = next((f for f in findings if f.grade is Grade.PROBLEM), None)
    if first is not None:
        return False, f"{name} cannot be reached: {first.text}"
    # What troubles the agent is told below; packets to this peer flow nevertheless. So they do when
    # the clock is wrong, once there is a session.
    own = (f for f in findings if f.subject not in {"agent", "clock"})
    warning = next((f for f in own if f.grade is Grade.WARNING), None)
    but = f"; but {warning.text}" if warning else ""
    return True, f"{name} is reachable{but}"


def _verdict(subject: str, decision: Decision, facts: Facts) -> Finding:
    who = "this node" if subject == "own" else "the peer"
    if decision.granted:
        text = f"{who} is a member: token {decision.token_id}, by block {facts.block}"
        return Finding(subject=subject, grade=Grade.OK, text=text)
    text = f"{who} is {decision.verdict}: {decision.reason}"
    node = facts.node
    if subject == "peer" and node is not None:
        if decision.verdict is Verdict.EXPIRED:
            text += f" ({_moment(node.expires_at)})"
        if decision.verdict is Verdict.NOT_YET_CONFIRMED and facts.confirmed is not None:
            text += f"; {node.since_block - facts.confirmed} more blocks are needed"
    return Finding(subject=subject, grade=Grade.PROBLEM, text=text, advice=ADVICE[decision.verdict])


def _moment(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"Unix time {seconds}"


def _expiry(facts: Facts) -> Iterator[Finding]:
    node = facts.node
    if node is None or not facts.peer.granted or not node.expires_at:
        return
    left = node.expires_at - facts.chain_now
    if left < SOON:
        yield Finding(
            subject="expiry",
            grade=Grade.WARNING,
            text=f"its access ends in {left:.0f} s of chain time, at {_moment(node.expires_at)}",
            advice=ADVICE[Verdict.EXPIRED],
        )


def _agent(agent: AgentFacts | None) -> Iterator[Finding]:
    if agent is None:
        yield Finding(
            subject="agent",
            grade=Grade.WARNING,
            text="no agent answers on this machine, so nobody brings changes to the device",
            advice="start it: dstack-vpn up",
        )
        return
    if agent.state == "closed":
        yield Finding(
            subject="agent",
            grade=Grade.PROBLEM,
            text="the agent has closed the node: it has had no news of the chain for too long",
            advice="see why the RPC providers are away; peers come back with the first new head",
        )
    elif agent.state != "following":
        yield Finding(
            subject="agent",
            grade=Grade.WARNING,
            text=f"the agent's chain is {agent.state}: it holds the members that it knew",
            advice="see dstack-vpn status, and whether its RPC providers answer",
        )
    else:
        behind = f", {agent.lag} blocks behind" if agent.lag else ""
        text = f"the agent follows the chain{behind}"
        yield Finding(subject="agent", grade=Grade.OK, text=text)
    for reason in agent.reasons:
        yield Finding(subject="agent", grade=Grade.WARNING, text=f"the agent says: {reason}")


def _clock(facts: Facts) -> Iterator[Finding]:
    """A peer takes no handshake that is dated before one that it has had, so a clock matters."""
    skew = facts.skew
    if skew is None or abs(skew) <= MOST_SKEW:
        return
    way, unless = ("ahead of", ", or the chain stands still") if skew > 0 else ("behind", "")
    yield Finding(
        subject="clock",
        grade=Grade.WARNING,
        text=f"this machine's clock is {abs(skew):.0f} s {way} the chain's newest block{unless}",
        advice="set it, and keep it set (NTP): after it went back, peers that had a handshake dated"
        " later take no new one from this node",
    )


def _device(facts: Facts) -> Iterator[Finding]:
    (wanted,) = facts.plan.devices
    found = [
        Finding(
            subject=difference.kind,
            grade=Grade.WARNING if difference.kind == "mtu" else Grade.PROBLEM,
            text=difference.text,
            advice="the agent puts this right; without it, start dstack-vpn up",
        )
        for difference in differences(wanted, facts.seen, reasons=facts.plan.removal_reasons)
        # Of other peers one does not matter here, unless it has taken the addresses of this one.
        if difference.key is None or difference.key == facts.peer.key
    ]
    yield from found
    seen = facts.seen
    if not found and seen is not None:
        text = f"{seen.name} is as it should be: UDP port {seen.listen_port}, MTU {seen.mtu}"
        yield Finding(subject="device", grade=Grade.OK, text=text)


def _routing(found: Sequence[Difference]) -> Iterator[Finding]:
    """What keeps packets for a peer from the device; where those of peers end is another thing."""
    for difference in found:
        if difference.kind is Kind.ROUTE_MISSING:
            advice = "the agent puts this right; without it, start dstack-vpn up"
            grade = Grade.PROBLEM
        elif difference.kind is Kind.ROUTE_FOREIGN:
            advice, grade = "see whose it is: ip route show table all", Grade.WARNING
        else:
            continue
        yield Finding(subject=difference.kind, grade=grade, text=difference.text, advice=advice)


def _traffic(facts: Facts) -> Iterator[Finding]:
    peer = facts.seen.peers.get(facts.peer.key) if facts.seen and facts.peer.key else None
    if peer is None:
        return
    live = peer_state(peer, wall_now=facts.wall_now) is PeerState.LIVE
    for told in facts.notes:
        yield Finding(
            subject="endpoint",
            grade=Grade.WARNING,
            text=told,
            advice="" if live else "its holder sets another: dstack-vpn node set-endpoint",
        )
    if peer.endpoint is not None:
        named = {
            None: "",
            Source.SETTINGS: ", from ENDPOINTS",
            Source.TOKEN: ", from its token",
            Source.TEMPLATE: ", from ENDPOINT_TEMPLATE",
            Source.ROAMED: ", from where it spoke itself",
        }[facts.source]
        text = f"it is spoken to at {peer.endpoint}{named}"
        yield Finding(subject="endpoint", grade=Grade.OK, text=text)
    yield _handshake(peer, facts.wall_now)
    yield from map(_path, facts.paths)
    if facts.path_error:
        yield Finding(subject="path", grade=Grade.OK, text=f"sizes not tried: {facts.path_error}")


def _path(path: PathFacts) -> Finding:
    by = f"by IPv{path.version}"
    if path.largest is None:
        return Finding(
            subject="path",
            grade=Grade.WARNING,
            text=f"it answers no echo request {by} through the tunnel",
            advice="see whether its firewall drops ICMP, and whether it has this node as a member",
        )
    if path.largest >= path.mtu:
        text = f"packets of full size ({path.mtu} bytes) pass {by}"
        return Finding(subject="path", grade=Grade.OK, text=text)
    fits = path.largest >= LEAST_MTU
    return Finding(
        subject="path",
        grade=Grade.PROBLEM,
        text=f"{by} only packets up to {path.largest} of {path.mtu} bytes pass, larger ones vanish",
        advice=f"set MTU={path.largest} on both nodes"
        if fits
        else f"the network underneath is too narrow: IPv6 needs an MTU of {LEAST_MTU}",
    )


def _handshake(peer: SeenPeer, wall_now: float) -> Finding:
    state, age = peer_state(peer, wall_now=wall_now), wall_now - peer.last_handshake
    counted = f"{peer.rx_bytes} bytes received, {peer.tx_bytes} sent"
    if state is PeerState.LIVE:
        text = f"the last handshake was {max(0.0, age):.0f} s ago; {counted}"
        return Finding(subject="handshake", grade=Grade.OK, text=text)
    if state is PeerState.SILENT:
        idle = peer.keepalive == 0
        text = f"the last handshake was {age:.0f} s ago; {counted}"
        if idle:
            text += "; without keepalives that may only be for want of traffic"
        return Finding(
            subject="handshake",
            grade=Grade.WARNING if idle else Grade.PROBLEM,
            text=text,
            advice="see whether its machine runs, and whether UDP still gets there and back",
        )
    if peer.endpoint is None:
        return Finding(
            subject="handshake",
            grade=Grade.PROBLEM,
            text="nobody says where it is, and it has not spoken to us",
            advice="its holder sets an endpoint (dstack-vpn node set-endpoint), or set ENDPOINTS",
        )
    if state is PeerState.NEVER:
        return Finding(
            subject="handshake",
            grade=Grade.PROBLEM,
            text="there was no handshake, and it is not being tried at this moment",
            advice="it is tried when its turn comes; at most 50 silent neighbours are at once",
        )
    return Finding(
        subject="handshake",
        grade=Grade.PROBLEM,
        text=f"there was never a handshake; {counted}",
        advice=(
            "one of these: its machine is down; UDP is blocked on the way; its agent does not have"
            " this node as a member; it runs with another key than its token's. Run dstack-vpn why"
            " for this node over there"
        ),
    )
