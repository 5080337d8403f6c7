"""Small builders: each makes a value that is fine in every way but the one that a test is about."""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address, ip_network

from dstack_vpn.mesh.access import Decision, judge, judge_self
from dstack_vpn.mesh.addresses import AddressPlan
from dstack_vpn.mesh.clock import WallClock
from dstack_vpn.mesh.device import IpAddress, SeenDevice, SeenPeer, SocketAddress, WantedDevice
from dstack_vpn.mesh.endpoint import Endpoint, parse_endpoint
from dstack_vpn.mesh.keys import PublicKey
from dstack_vpn.mesh.membership import (
    Address,
    Block,
    BlockHash,
    Checkpoint,
    Membership,
    Node,
    Suspect,
)
from dstack_vpn.mesh.plan import REJECT_AFTER, LocalNode, Plan, make_plan
from dstack_vpn.mesh.snapshot import Alarm, ChainView, Snapshot

BUYER = Address("0x" + "22" * 20)
CONTRACT = Address("0x5fbdb2315678afecb367f032d93f642f64180aa3")
HOLDER = Address("0x" + "11" * 20)
ADDRESSES = AddressPlan.of(31337, CONTRACT)
BLOCK = 1000
"""Number of the block that memberships are at."""
CHAIN_NOW = 1_750_000_000
"""Time of that block."""
NOW = 5_000.0
"""Monotonic seconds."""
WALL_NOW = 1_750_000_007.0


def key_of(number: int) -> PublicKey:
    """A key that belongs to a number; greater numbers give greater keys."""
    return PublicKey(number.to_bytes(32, "big"))


def node(
    token_id: int = 1,
    *,
    node_id: str | None = None,
    key: bytes | None = None,
    endpoint: str = "",
    holder: Address = HOLDER,
    created_at: int = 0,
    expires_at: int = 0,
    revoked: bool = False,
    suspended: bool = False,
    since_block: int = 1,
) -> Node:
    """A token that is granted: named and keyed after its id, long confirmed, unexpired."""
    return Node(
        token_id=token_id,
        holder=holder,
        node_id=f"node-{token_id}" if node_id is None else node_id,
        key=key_of(token_id).raw if key is None else key,
        endpoint=endpoint,
        role=bytes(32),
        created_at=created_at,
        expires_at=expires_at,
        revoked=revoked,
        suspended=suspended,
        since_block=since_block,
    )


def block(number: int = BLOCK, *, timestamp: int = CHAIN_NOW) -> Block:
    """A block of a chain whose hashes are its numbers."""
    return Block(
        number=number,
        hash=BlockHash(f"0x{number:064x}"),
        parent_hash=BlockHash(f"0x{number - 1:064x}"),
        timestamp=timestamp,
    )


def membership(
    nodes: Iterable[Node] = (), *, number: int = BLOCK, timestamp: int = CHAIN_NOW
) -> Membership:
    """These tokens at a block."""
    by_id = {n.token_id: n for n in nodes}
    return Membership(
        chain_id=31337,
        contract=CONTRACT,
        genesis=BlockHash("0x" + "00" * 32),
        code_hash=bytes(32),
        block=block(number, timestamp=timestamp),
        checkpoint=Checkpoint(
            revision=len(by_id),
            history=bytes(32),
            member_count=sum(n.active for n in by_id.values()),
        ),
        nodes=by_id,
    )


def turn_state(turn: int) -> Membership:
    """One of many memberships of which every token says which one it belongs to."""
    tokens = [node(i, endpoint=f"turn-{turn}", revoked=i % 7 == turn % 7) for i in range(1, 60)]
    return membership(tokens, number=turn)


def decide(nodes: Iterable[Node], *, confirmations: int = 0) -> tuple[Decision, ...]:
    """The verdicts on these tokens."""
    return judge(membership(nodes), confirmed=BLOCK - confirmations, chain_now=CHAIN_NOW)


def suspect(told: Node | None, *, number: int = BLOCK + 2, providers: int = 1) -> Suspect:
    """What one provider, or several, say of a token."""
    names = tuple(f"rpc-{i}.example#{i}" for i in range(1, providers + 1))
    return Suspect(node=told, block=number, hash=BlockHash("0x" + "5a" * 32), providers=names)


def local_node(
    token_id: int = 1,
    *,
    static: Mapping[str, str] | None = None,
    template: str = "",
    keepalive: int = 25,
    ipv6: bool = True,
    on_link: Sequence[str] = (),
) -> LocalNode:
    """This node, whose token is `node(token_id)`."""
    endpoints: dict[str, Endpoint] = {n: parse_endpoint(e) for n, e in (static or {}).items()}
    return LocalNode(
        node_id=f"node-{token_id}",
        public_key=key_of(token_id),
        interface="wg0",
        listen_port=51820,
        mtu=1420,
        keepalive=keepalive,
        addresses=ADDRESSES,
        static_endpoints=endpoints,
        endpoint_template=template,
        ipv6=ipv6,
        on_link=tuple(ip_network(n) for n in on_link),
    )


def socket_address(text: str) -> SocketAddress:
    """``1.2.3.4:5`` or ``[::1]:5`` as a resolved endpoint."""
    host, _, port = text.rpartition(":")
    return SocketAddress(ip_address(host.strip("[]")), int(port))


def seen_peer(
    number: int, *, endpoint: str | None = None, age: float | None = None, keepalive: int = 25
) -> SeenPeer:
    """The peer of a token on the device; `age` is that of its handshake, None for never."""
    return SeenPeer(
        key=key_of(number),
        allowed_ips=ADDRESSES.hosts(number),
        endpoint=None if endpoint is None else socket_address(endpoint),
        keepalive=keepalive,
        last_handshake=0.0 if age is None else WALL_NOW - age,
        rx_bytes=0,
        tx_bytes=0,
    )


def seen_device(*peers: SeenPeer, own: int = 1, up: bool = True) -> SeenDevice:
    """A device as planned for a token, with these peers."""
    return SeenDevice(
        name="wg0",
        public_key=key_of(own),
        listen_port=51820,
        mtu=1420,
        up=up,
        addresses=ADDRESSES.interfaces(own),
        peers={p.key: p for p in peers},
    )


def clock_at(now: float = NOW, wall_now: float = WALL_NOW) -> WallClock:
    """A wall clock that was never set while anybody looked."""
    return WallClock().see(now=now, wall_now=wall_now, memory=REJECT_AFTER)


def plan_for(
    nodes: Sequence[Node],
    *,
    local: LocalNode | None = None,
    seen: SeenDevice | None = None,
    resolved: Mapping[str, Sequence[IpAddress]] | None = None,
    since: Mapping[PublicKey, float] | None = None,
    now: float = NOW,
    wall_now: float = WALL_NOW,
    closed: str | None = None,
) -> Plan:
    """The plan of `local` for these tokens, judged as the reconciler judges them."""
    local = local or local_node()
    decisions = decide(nodes)
    return make_plan(
        nodes=membership(nodes).nodes,
        decisions=decisions,
        own=judge_self(decisions, local.node_id, local.public_key),
        local=local,
        seen=seen,
        resolved=resolved or {},
        since=since or {},
        now=now,
        clock=clock_at(now, wall_now),
        closed=closed,
    )


def device_of(plan: Plan) -> WantedDevice:
    """The one device of a plan."""
    (device,) = plan.devices
    return device


def as_seen(wanted: WantedDevice) -> SeenDevice:
    """The device once the plan is on it."""
    peers = {
        key: SeenPeer(
            key=key,
            allowed_ips=peer.allowed_ips,
            endpoint=peer.endpoint,
            keepalive=peer.keepalive,
            last_handshake=0.0,
            rx_bytes=0,
            tx_bytes=0,
        )
        for key, peer in wanted.peers.items()
    }
    return SeenDevice(
        name=wanted.name,
        public_key=wanted.public_key,
        listen_port=wanted.listen_port,
        mtu=wanted.mtu,
        up=True,
        addresses=wanted.addresses,
        peers=peers,
    )


def chain_view(
    members: Membership | None = None,
    *,
    verified: bool = True,
    agreed_at: float | None = NOW,
    advanced_at: float | None = NOW,
    alarms: tuple[Alarm, ...] = (),
) -> ChainView:
    """A chain that the providers agreed on just now."""
    return ChainView(
        membership=members,
        verified=verified,
        agreed_at=agreed_at,
        providers=(),
        last_error=None,
        reorgs=0,
        resyncs=1,
        confirmed=None if members is None else members.block.number,
        advanced_at=advanced_at,
        alarms=alarms,
    )


def snapshot(nodes: Sequence[Node] | None = None, *, own: int = 1) -> Snapshot:
    """A node that is ready: verified, a member, its plan on its device."""
    tokens = (node(1), node(2)) if nodes is None else nodes
    decisions = decide(tokens)
    plan = device_of(plan_for(tokens, local=local_node(own)))
    return Snapshot(
        node_id=f"node-{own}",
        public_key=key_of(own),
        started_at=WALL_NOW,
        cycle=1,
        chain=chain_view(membership(tokens)),
        decisions={d.token_id: d for d in decisions},
        own=judge_self(decisions, f"node-{own}", key_of(own)),
        device=as_seen(plan),
        peer_names=plan.peers,
        notes={},
        applied_block=BLOCK,
        pending=None,
        closed=None,
        error_count=0,
        last_error=None,
        last_sentence="",
    )
