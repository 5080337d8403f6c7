"""The plan: which devices and peers this node wants, from verdicts and what the device shows.

A pure function of members, local settings, the device as seen, resolved names and time. It stands
between `access` (who is in) and `diff` (what must change). Same input, same plan: everything is
sorted before it is emitted. `amend` brings a plan up to date for a few tokens.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType

from dstack_vpn.mesh.access import Decision
from dstack_vpn.mesh.addresses import AddressPlan
from dstack_vpn.mesh.clock import WallClock
from dstack_vpn.mesh.device import (
    IpAddress,
    IpInterface,
    IpNetwork,
    SeenDevice,
    SeenPeer,
    SocketAddress,
    WantedDevice,
    WantedPeer,
)
from dstack_vpn.mesh.diff import sorted_keys
from dstack_vpn.mesh.endpoint import Endpoint, check_address, endpoint_texts, parse_endpoint
from dstack_vpn.mesh.keys import PublicKey
from dstack_vpn.mesh.membership import Nodes

# The specification fixes (WireGuard, section 6.1): a session is dead after 180 s.
REJECT_AFTER = 180.0

# We chose. Both sides of a new pair start a handshake when they add each other; if they start at
# one instant, the two collide and only WireGuard's retry heals it, 5 s later. So the side with the
# greater key waits this long, which is more than a round trip.
STAGGER = 0.3

# Unanswered addresses on the local link fill the one send queue of a userspace device; some
# hundreds stall it. So at most so many are tried at once, and the window moves on.
ON_LINK_TRIES = 50
ON_LINK_WINDOW = 60.0

# A peer without a handshake is tried at its next candidate after this time.
CANDIDATE_TIME = 15.0

TURN = 500
"""Members that are planned for between two pauses: some milliseconds of work."""

Decisions = Sequence[Decision] | Mapping[int, Decision]
"""The verdicts, one a token: in any order, or by token id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalNode:
    """What this node brings to the plan: its settings, and facts of its host."""

    node_id: str
    public_key: PublicKey
    interface: str
    listen_port: int
    mtu: int
    keepalive: int
    """Seconds; 0 is off."""
    addresses: AddressPlan
    static_endpoints: Mapping[str, Endpoint] = field(default_factory=lambda: MappingProxyType({}))
    """Node id to endpoint; comes before what the token says."""
    endpoint_template: str = ""
    """Such as ``{node_id}:51820``; the last resort. Empty for none."""
    ipv6: bool = True
    """Whether this host can have IPv6 addresses; without, the node goes on with IPv4 alone."""
    on_link: tuple[IpNetwork, ...] = ()
    """Networks of this host's own links, on which an absent neighbour never answers."""

    @property
    def networks(self) -> tuple[IpNetwork, ...]:
        """The ranges of the mesh that this node can have an address of, one of each family."""
        return tuple(n for n in self.addresses.networks if self.ipv6 or n.version == 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is wanted, and what is worth telling about it."""

    devices: tuple[WantedDevice, ...]
    removal_reasons: Mapping[PublicKey, str]
    """Why a key that may be on a device is not wanted there."""
    notes: Mapping[int, tuple[str, ...]]
    """By token id: what was left out of a granted node, and why."""
    keys: Mapping[int, PublicKey]
    """The peers, by token id."""
    tries: frozenset[PublicKey]
    """Peers on the local link that are spoken to and do not answer; `ON_LINK_TRIES` at most."""
    staggered: Mapping[int, float]
    """By token id: monotonic time at which a new peer may be spoken to first."""
    replan_at: float | None
    """Monotonic time at which the plan as a whole changes by itself, if it is known."""

    @property
    def wake_at(self) -> float | None:
        """Monotonic time at which anything of the plan changes by itself, if it is known."""
        times = [*self.staggered.values(), *([] if self.replan_at is None else [self.replan_at])]
        return min(times, default=None)


def candidates(
    node_endpoint: str, node_id: str, local: LocalNode
) -> tuple[tuple[Endpoint, ...], tuple[str, ...]]:
    """Endpoints to try for a granted node in order, and notes on those that were refused."""
    found: list[Endpoint] = []
    notes: list[str] = []
    mesh = local.addresses.networks
    texts = endpoint_texts(
        node_id, node_endpoint, static=local.static_endpoints, template=local.endpoint_template
    )
    for source, text in texts.items():
        # Settings are read before the ranges of the mesh are known, so these are checked here too.
        endpoint = parsed(text)
        if isinstance(endpoint, str):
            notes.append(f"endpoint from the {source} left out: {endpoint}")
        elif not isinstance(endpoint.host, str) and any(
            endpoint.host in network for network in mesh
        ):
            trouble = f"{endpoint.host} lies inside the mesh itself"
            notes.append(f"endpoint from the {source} left out: {trouble}")
        else:
            found.append(endpoint)
    return tuple(dict.fromkeys(found)) if len(found) > 1 else tuple(found), tuple(notes)


@lru_cache(maxsize=2**14)
def parsed(text: str) -> Endpoint | str:
    """The endpoint, or what is wrong with it; planning for thousands would be mostly parsing."""
    try:
        return parse_endpoint(text)
    except ValueError as error:
        return str(error)


def make_plan(
    *,
    nodes: Nodes,
    decisions: Decisions,
    own: Decision,
    local: LocalNode,
    seen: SeenDevice | None,
    resolved: Mapping[str, Sequence[IpAddress]],
    since: Mapping[PublicKey, float],
    now: float,
    clock: WallClock,
    closed: str | None = None,
) -> Plan:
    """Plan the devices of this node; see `planning`."""
    steps = planning(
        nodes=nodes,
        decisions=decisions,
        own=own,
        local=local,
        seen=seen,
        resolved=resolved,
        since=since,
        now=now,
        clock=clock,
        closed=closed,
    )
    while True:
        try:
            next(steps)
        except StopIteration as end:
            plan: Plan = end.value
            return plan


def planning(
    *,
    nodes: Nodes,
    decisions: Decisions,
    own: Decision,
    local: LocalNode,
    seen: SeenDevice | None,
    resolved: Mapping[str, Sequence[IpAddress]],
    since: Mapping[PublicKey, float],
    now: float,
    clock: WallClock,
    closed: str | None = None,
) -> Generator[None, None, Plan]:
    """Plan the devices of this node, with pauses in which others may work.

    Args:
        nodes: tokens at the newest agreed block.
        decisions: the verdict on each of them.
        own: the verdict on this node; without a grant it gets no peers and no addresses.
        local: this node's settings.
        seen: the device as it is, or None.
        resolved: DNS name to addresses, resolved beforehand.
        since: monotonic time at which a peer was put on the device; absent means not yet.
        now: monotonic seconds.
        clock: what the wall clock did, to age handshakes.
        closed: why all peers must go although they are members, or None.
    """
    planner = Planner(local=local, seen=seen, resolved=resolved, since=since, now=now, clock=clock)
    members = sorted(peers_of(decisions, own, closed).values(), key=lambda d: d.token_id)
    peers = []
    for number, decision in enumerate(members, 1):
        peers.append(planner.peer(decision, nodes[decision.token_id].endpoint))
        if number % TURN == 0:
            yield
    peers = planner.cap_on_link(peers)
    yield
    by_key = {peer.key: peer for peer in peers}
    device = WantedDevice(
        name=local.interface,
        public_key=local.public_key,
        listen_port=local.listen_port,
        mtu=local.mtu,
        addresses=_own_addresses(own, local),
        peers=MappingProxyType({key: by_key[key] for key in sorted_keys(by_key)}),
    )
    return Plan(
        devices=(device,),
        removal_reasons=MappingProxyType(removal_reasons(decisions, own, closed)),
        notes=MappingProxyType(planner.notes),
        keys=MappingProxyType({peer.token_id: peer.key for peer in peers}),
        tries=frozenset(planner.tries),
        staggered=MappingProxyType(planner.staggered),
        replan_at=planner.replan_at,
    )


def peers_of(decisions: Decisions, own: Decision, closed: str | None) -> dict[PublicKey, Decision]:
    """Who may be a peer of this node, by key; nobody when it is no member itself, or closed."""
    if closed is not None or not own.granted:
        return {}
    return {
        d.key: d for d in every(decisions) if d.granted and d.key and d.token_id != own.token_id
    }


def removal_reasons(
    decisions: Decisions, own: Decision, closed: str | None
) -> dict[PublicKey, str]:
    """Why a key that may be on a device must not be a peer, as far as there is a token with it."""
    granted = {d.key for d in every(decisions) if d.granted}
    reasons = {
        d.key: f"{d.verdict}: {d.reason}"
        for d in every(decisions)
        # Whoever copied a member's key says nothing about why the member goes.
        if d.key and not d.granted and d.key not in granted
    }
    if closed is None and own.granted:
        return reasons
    why = closed or f"this node itself is {own.verdict}: {own.reason}"
    return {d.key: why for d in every(decisions) if d.key} | reasons


def every(decisions: Decisions) -> Iterable[Decision]:
    """The verdicts one by one."""
    return decisions.values() if isinstance(decisions, Mapping) else decisions


def _own_addresses(own: Decision, local: LocalNode) -> tuple[IpInterface, ...]:
    if not own.granted:
        return ()
    return tuple(
        a for a in local.addresses.interfaces(own.token_id) if local.ipv6 or a.version == 4
    )


def _resolve(
    endpoints: Sequence[Endpoint], resolved: Mapping[str, Sequence[IpAddress]], local: LocalNode
) -> tuple[tuple[SocketAddress, ...], tuple[str, ...]]:
    addresses: list[SocketAddress] = []
    notes: list[str] = []
    for endpoint in endpoints:
        if not isinstance(endpoint.host, str):
            addresses.append(SocketAddress(endpoint.host, endpoint.port))
            continue
        found = resolved.get(endpoint.host, ())
        if not found:
            notes.append(f"the name {endpoint.host} has no address")
        for ip in found:
            try:
                addresses.append(
                    SocketAddress(check_address(ip, local.addresses.networks), endpoint.port)
                )
            except ValueError as error:
                notes.append(f"the name {endpoint.host} left out: {error}")
    if len(addresses) > 1:
        addresses = list(dict.fromkeys(addresses))
    return tuple(addresses), tuple(notes)


class Planner:
    """Decides for each peer where to send and whether to speak first, at this moment."""

    def __init__(
        self,
        *,
        local: LocalNode,
        seen: SeenDevice | None,
        resolved: Mapping[str, Sequence[IpAddress]],
        since: Mapping[PublicKey, float],
        now: float,
        clock: WallClock,
    ) -> None:
        """See `make_plan`."""
        self._local = local
        self._seen: Mapping[PublicKey, SeenPeer] = seen.peers if seen else {}
        self._resolved = resolved
        self._since = since
        self._now = now
        self._clock = clock
        self.notes: dict[int, tuple[str, ...]] = {}
        self.tries: set[PublicKey] = set()
        self.staggered: dict[int, float] = {}
        self.replan_at: float | None = None

    def peer(self, decision: Decision, node_endpoint: str) -> WantedPeer:
        """The peer of a granted token."""
        assert decision.key is not None
        endpoints, trouble = candidates(node_endpoint, decision.node_id, self._local)
        addresses, more = _resolve(endpoints, self._resolved, self._local)
        endpoint, keepalive = self._approach(decision.key, decision.token_id, addresses)
        if trouble or more:
            self.notes[decision.token_id] = trouble + more
        return WantedPeer(
            key=decision.key,
            token_id=decision.token_id,
            node_id=decision.node_id,
            allowed_ips=self._local.addresses.hosts(decision.token_id),
            endpoint=endpoint,
            keepalive=keepalive,
        )

    def _approach(
        self, key: PublicKey, token_id: int, addresses: Sequence[SocketAddress]
    ) -> tuple[SocketAddress | None, int]:
        """The endpoint to set (None: leave it) and the keepalive to have."""
        peer = self._seen.get(key)
        if self._live(peer):
            # A live peer may have roamed; what WireGuard learned beats what anybody wrote.
            return None, self._local.keepalive
        if not addresses:
            return None, self._local.keepalive if peer and peer.endpoint else 0
        since = self._since.get(key, self._now)
        age = self._now - since
        endpoint = addresses[int(age // CANDIDATE_TIME) % len(addresses)]
        if len(addresses) > 1:
            # One beat for all peers, so that thousands of them do not wake us thousands of times.
            self._replan((self._now // CANDIDATE_TIME + 1) * CANDIDATE_TIME)
        if self._local.public_key > key and age < STAGGER and not (peer and peer.last_handshake):
            self.staggered[token_id] = since + STAGGER
            return endpoint, 0
        return endpoint, self._local.keepalive

    def cap_on_link(self, peers: Sequence[WantedPeer]) -> list[WantedPeer]:
        """Let at most `ON_LINK_TRIES` unanswered neighbours of all peers be tried at once."""
        unanswered = [p for p in peers if self._is_on_link_try(p)]
        windows = -(-len(unanswered) // ON_LINK_TRIES)
        start = int(self._now // ON_LINK_WINDOW) % windows * ON_LINK_TRIES if windows else 0
        self.tries = {p.key for p in unanswered[start : start + ON_LINK_TRIES]}
        quiet = {p.key for p in unanswered} - self.tries
        return [self._silenced(p) if p.key in quiet else p for p in peers]

    def cap_newcomers(
        self, peers: Sequence[WantedPeer], tries: frozenset[PublicKey]
    ) -> list[WantedPeer]:
        """Let further neighbours be tried while there is room beside those under way."""
        self.tries = set(tries)
        capped = []
        for peer in peers:
            if not self._is_on_link_try(peer):
                capped.append(peer)
            elif len(self.tries) < ON_LINK_TRIES:
                self.tries.add(peer.key)
                capped.append(peer)
            else:
                capped.append(self._silenced(peer))
        return capped

    def _silenced(self, peer: WantedPeer) -> WantedPeer:
        """The peer, present and able to reach us, but not spoken to before the window moves on."""
        self._replan((self._now // ON_LINK_WINDOW + 1) * ON_LINK_WINDOW)
        self.staggered.pop(peer.token_id, None)
        return WantedPeer(
            key=peer.key,
            token_id=peer.token_id,
            node_id=peer.node_id,
            allowed_ips=peer.allowed_ips,
            endpoint=None,
            keepalive=0,
        )

    def _live(self, peer: SeenPeer | None) -> bool:
        age = None if peer is None else self._clock.age(peer.last_handshake, now=self._now)
        return age is not None and age < REJECT_AFTER

    def _is_on_link_try(self, peer: WantedPeer) -> bool:
        """Whether packets of ours go to an address on the local link that does not answer."""
        seen = self._seen.get(peer.key)
        if self._live(seen):
            return False
        # A peer without an endpoint in the plan is still spoken to where it was last heard.
        target = peer.endpoint or (seen.endpoint if seen and peer.keepalive else None)
        return target is not None and self._on_link(target.ip)

    def _on_link(self, ip: IpAddress) -> bool:
        return any(ip in network for network in self._local.on_link)

    def _replan(self, at: float) -> None:
        self.replan_at = at if self.replan_at is None else min(self.replan_at, at)
