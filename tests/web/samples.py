"""Snapshots for the tests of the HTTP endpoints, built by the real constructors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

from dstack_vpn.mesh.access import find, judge
from dstack_vpn.mesh.device import SeenDevice, SeenPeer, SocketAddress, WantedPeer
from dstack_vpn.mesh.health import Health, assess
from dstack_vpn.mesh.membership import BlockHash, Mark, Membership, Node
from dstack_vpn.mesh.snapshot import ChainView, ProviderStatus, Snapshot
from mesh import build
from mesh.build import key_of, node

STARTED, WALL_NOW, NOW = 1_700_000_000.0, 1_700_000_100.5, 5000.0
CHAIN_NOW = 1_700_000_099
OWN = key_of(1)


def membership(nodes: Sequence[Node]) -> Membership:
    """The membership of these tokens at the block that these snapshots are about."""
    made = build.membership(nodes, number=90, timestamp=CHAIN_NOW)
    return replace(made, finalized=Mark(26, BlockHash(f"0x{26:064x}")))


def provider(name: str = "rpc.example#1", **values: Any) -> ProviderStatus:
    """A provider that does well unless told otherwise."""
    facts: dict[str, Any] = {
        "name": name,
        "healthy": True,
        "head": 92,
        "last_error": None,
        "requests": {"eth_call": 3, "eth_getLogs": 2},
        "failures": 1,
        "voter": name.partition("#")[0],
        "head_hash": BlockHash(f"0x{92:064x}"),
        "agrees": True,
        "seen_at": NOW - 0.5,
    }
    return ProviderStatus(**facts | values)


def peer(token_id: int, *, age: float | None, endpoint: str | None = "192.0.2.7") -> SeenPeer:
    """A peer on the device whose newest handshake was `age` seconds ago; None for never."""
    return SeenPeer(
        key=key_of(token_id),
        allowed_ips=(IPv4Network(f"10.213.0.{token_id}/32"),),
        endpoint=SocketAddress(IPv4Address(endpoint), 51820) if endpoint else None,
        keepalive=25,
        last_handshake=0 if age is None else WALL_NOW - age,
        rx_bytes=1000 * token_id,
        tx_bytes=10 * token_id,
    )


def device(*peers: SeenPeer, up: bool = True) -> SeenDevice:
    """A device with these peers."""
    return SeenDevice(
        name="wg0",
        public_key=OWN,
        listen_port=51820,
        mtu=1420,
        up=up,
        addresses=(IPv4Interface("10.213.0.1/16"),),
        peers={p.key: p for p in peers},
    )


def snapshot(nodes: Sequence[Node] | None = None, /, **values: Any) -> Snapshot:
    """A node with two live peers and one silent one, all well unless told otherwise."""
    tokens = [node(i) for i in (1, 2, 3, 4)] if nodes is None else nodes
    members = membership(tokens)
    decisions = judge(members, confirmed=90, chain_now=CHAIN_NOW)
    facts: dict[str, Any] = {
        "node_id": "node-1",
        "public_key": OWN,
        "started_at": STARTED,
        "cycle": 7,
        "chain": chain(membership=members),
        "decisions": {d.token_id: d for d in decisions},
        "own": find(decisions, "node-1"),
        "device": device(peer(2, age=1), peer(3, age=179), peer(4, age=None, endpoint=None)),
        "peer_names": {key_of(i): wanted(i) for i in (2, 3, 4)},
        "notes": {4: ("the name b.example has no address",)},
        "applied_block": 90,
        "pending": None,
        "closed": None,
        "error_count": 0,
        "last_error": None,
        "last_sentence": "wg0: added node-4",
    }
    return Snapshot(**facts | values)


def chain(**values: Any) -> ChainView:
    """A view of the chain, agreed two seconds ago unless told otherwise."""
    facts: dict[str, Any] = {
        "membership": membership([]),
        "verified": True,
        "agreed_at": NOW - 2,
        "providers": (provider(), provider("rpc.example#2", healthy=False, head=None)),
        "last_error": None,
        "reorgs": 1,
        "resyncs": 2,
        "confirmed": 90,
        "advanced_at": NOW - 3,
        "needed": 2,
        "voters": 3,
        "deepest_reorg": 4,
        "compares": 5,
    }
    return ChainView(**facts | values)


def blank(**values: Any) -> Snapshot:
    """A node that has just started: nothing was read and there is no device."""
    nothing = {
        "chain": chain(membership=None, verified=False, agreed_at=None, last_error="refused"),
        "decisions": {},
        "own": None,
        "device": None,
        "peer_names": {},
        "notes": {},
        "applied_block": None,
        "last_sentence": "",
        "cycle": 0,
    }
    return snapshot(**nothing | values)


def wanted(token_id: int) -> WantedPeer:
    """The peer of a token as the plan has it."""
    return WantedPeer(
        key=key_of(token_id),
        token_id=token_id,
        node_id=f"node-{token_id}",
        allowed_ips=(IPv4Network(f"10.213.0.{token_id}/32"),),
        endpoint=None,
        keepalive=25,
    )


@dataclass
class Source:
    """Gives the application a snapshot and a clock that stands still."""

    snapshot: Snapshot

    def assess(self, fresh: float | None = None) -> Health:
        """The judgement at that moment, with the default policy."""
        return assess(self.snapshot, now=NOW, dark_after=60, fresh=fresh)

    def wall_now(self) -> float:
        """Seconds since 1970."""
        return WALL_NOW
