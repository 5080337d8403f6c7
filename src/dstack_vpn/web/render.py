"""Snapshot to JSON-able data, for each endpoint. Pure; names are camelCase.

Of /health, existing dashboards and scripts read `status`, `bridge`, `components`, `peerRegistry`
and `timestamp`: those names are fixed, new facts stand beside them. Text that holders chose (node
ids, endpoints) goes out as it is: making it valid JSON is the encoder's part, making it harmless
HTML the reader's.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from dstack_vpn.mesh.access import Decision, Verdict
from dstack_vpn.mesh.device import SeenPeer
from dstack_vpn.mesh.endpoint import Endpoint, Source, endpoint_texts
from dstack_vpn.mesh.health import Code, Health, Status
from dstack_vpn.mesh.membership import Membership
from dstack_vpn.mesh.origin import PeerState, peer_state, source_of
from dstack_vpn.mesh.snapshot import Alarm, ProviderStatus, Snapshot

Json = dict[str, Any]

# Fixed by the JSON readers of this world: JavaScript's numbers are exact up to here.
MAX_SAFE_INTEGER = 2**53 - 1

# We chose. Whoever wants all of them asks for the verdicts.
WAITING_SHOWN = 20


def render_health(snapshot: Snapshot, health: Health, *, wall_now: float) -> Json:
    """What /health says."""
    return {
        "status": health.status,
        "ready": health.ready,
        "reasons": [{"code": w.code, "text": w.text} for w in health.warnings],
        "nodeId": snapshot.node_id,
        "bridge": {
            "status": bridge_status(snapshot, health),
            "startTime": _iso(snapshot.started_at),
            "uptime": _uptime(snapshot, wall_now),
            "errors": snapshot.error_count,
            "lastError": snapshot.last_error,
        },
        "components": _components(snapshot, health),
        "peerRegistry": {
            "activePeers": _active_peers(snapshot, wall_now),
            "totalPeers": len(snapshot.peer_names),
        },
        "access": _access_in_short(snapshot.own),
        "chain": _chain(snapshot, health),
        "alarms": [_alarm(a, health) for a in snapshot.chain.alarms],
        "waiting": _waiting(snapshot),
        "timestamp": _iso(wall_now),
    }


def render_ready(health: Health) -> Json:
    """What /ready says."""
    return {"ready": True} if health.ready else {"ready": False, "reason": _blocking(health)}


def render_stats(snapshot: Snapshot, health: Health, *, wall_now: float) -> Json:
    """What /stats says."""
    counts = Counter(d.verdict for d in snapshot.decisions.values())
    peers = snapshot.device.peers.values() if snapshot.device else ()
    return {
        "nodeId": snapshot.node_id,
        "uptime": _uptime(snapshot, wall_now),
        "cycle": snapshot.cycle,
        "appliedBlock": snapshot.applied_block,
        "lag": snapshot.lag_blocks,
        "headAgeSeconds": _seconds(health.head_age),
        "peersetHash": snapshot.peerset_hash,
        "members": counts[Verdict.ACCESS_GRANTED],
        "verdicts": {verdict.value: counts[verdict] for verdict in Verdict},
        "activePeers": _active_peers(snapshot, wall_now),
        "totalPeers": len(snapshot.peer_names),
        "rxBytes": sum(p.rx_bytes for p in peers),
        "txBytes": sum(p.tx_bytes for p in peers),
        "chain": _chain(snapshot, health),
        "alarms": [_alarm(a, health) for a in snapshot.chain.alarms],
        "waiting": _waiting(snapshot),
        "providers": [_provider(p, snapshot, health) for p in snapshot.chain.providers],
        "requestsPerHour": _requests_per_hour(snapshot, wall_now),
        "reorgs": snapshot.chain.reorgs,
        "resyncs": snapshot.chain.resyncs,
        "compares": snapshot.chain.compares,
        "errors": snapshot.error_count,
        "lastChange": snapshot.last_sentence,
        "timestamp": _iso(wall_now),
    }


def render_wireguard(
    snapshot: Snapshot,
    *,
    wall_now: float,
    static: Mapping[str, Endpoint] = MappingProxyType({}),
    template: str = "",
) -> Json:
    """What /wireguard says: the device as it was at the end of the last cycle.

    Args:
        snapshot: with the device.
        wall_now: seconds since 1970.
        static: ENDPOINTS, to tell where an endpoint came from.
        template: ENDPOINT_TEMPLATE, likewise.
    """
    device = snapshot.device
    if device is None:
        return {
            "interface": None,
            "publicKey": snapshot.public_key.text,
            "listenPort": None,
            "mtu": None,
            "up": False,
            "addresses": [],
            "peers": [],
        }
    return {
        "interface": device.name,
        "publicKey": snapshot.public_key.text,
        "listenPort": device.listen_port,
        "mtu": device.mtu,
        "up": device.up,
        "addresses": [str(a) for a in device.addresses],
        "peers": [
            _peer(snapshot, p, wall_now, _source(snapshot, p, static, template))
            for _, p in sorted(device.peers.items())
        ],
    }


def render_access(snapshot: Snapshot) -> Json:
    """What /api/access says: the verdicts on all tokens, and the block that they are about."""
    decisions = sorted(snapshot.decisions.values(), key=lambda d: d.token_id)
    return {"block": _block_number(snapshot), "access": [render_decision(d) for d in decisions]}


def render_decision(decision: Decision) -> Json:
    """The verdict on one token."""
    return {
        "tokenId": _token_id(decision.token_id),
        "nodeId": decision.node_id,
        "publicKey": decision.key.text if decision.key else None,
        "granted": decision.granted,
        "verdict": decision.verdict,
        "reason": decision.reason,
    }


def bridge_status(snapshot: Snapshot, health: Health) -> str:
    """One word on the running whole: starting, waiting, running, repairing or closed."""
    codes = {w.code for w in health.warnings}
    if snapshot.closed:
        return "closed"
    if snapshot.chain.membership is None:
        return "starting"
    if Code.NOT_A_MEMBER in codes:
        return "waiting"
    if snapshot.applied_block is None:
        return "starting"
    return "repairing" if codes & {Code.DEVICE_DOWN, Code.PLAN_PENDING} else "running"


def _components(snapshot: Snapshot, health: Health) -> Json:
    codes = {w.code for w in health.warnings}
    known = snapshot.chain.membership is not None
    held = Status.HEALTHY if snapshot.chain.verified else Status.DEGRADED
    # The states of the parts, each by what it needs to do its work.
    away = codes & {Code.CHAIN_DARK, Code.CHAIN_HALTED}
    contract = Status.DEGRADED if away else held
    config = Status.DEGRADED if Code.PLAN_PENDING in codes else Status.HEALTHY
    parts = {
        "contract": contract if known else Status.UNHEALTHY,
        "accessControl": held if known and not snapshot.closed else Status.UNHEALTHY,
        "registry": held if known else Status.UNHEALTHY,
        "config": Status.UNHEALTHY if Code.DEVICE_DOWN in codes else config,
    }
    return {name: {"status": status} for name, status in parts.items()}


def _chain(snapshot: Snapshot, health: Health) -> Json:
    view = snapshot.chain
    membership = view.membership
    return {
        "state": "closed" if snapshot.closed else health.state,
        "head": membership.block.number if membership else None,
        "hash": membership.block.hash if membership else None,
        "ageSeconds": _seconds(health.head_age),
        "agreedAgeSeconds": _age(view.agreed_at, health),
        "advancedAgeSeconds": _age(view.advanced_at, health),
        "finalized": _finalized(membership),
        "lag": snapshot.lag_blocks,
        "verified": view.verified,
        "needed": view.needed,
        "voters": view.voters,
        "suspects": len(view.suspects),
        "reorgs": view.reorgs,
        "deepestReorg": view.deepest_reorg,
        "lastError": view.last_error,
    }


def _finalized(membership: Membership | None) -> Json | None:
    mark = membership.finalized if membership else None
    if membership is None or mark is None:
        return None
    lag = max(0, membership.block.number - mark.number)
    return {"number": mark.number, "hash": mark.hash, "lag": lag}


def _alarm(alarm: Alarm, health: Health) -> Json:
    return {
        "code": alarm.code,
        "text": alarm.text,
        "provider": alarm.provider or None,
        "ageSeconds": _age(alarm.since, health),
    }


def _waiting(snapshot: Snapshot) -> Json:
    """The grants that wait for their block to count, and why; not all of them are shown."""
    waiting = [d for d in snapshot.decisions.values() if d.verdict is Verdict.NOT_YET_CONFIRMED]
    shown = sorted(waiting, key=lambda d: d.token_id)[:WAITING_SHOWN]
    return {
        "count": len(waiting),
        "tokens": [
            {"tokenId": _token_id(d.token_id), "nodeId": d.node_id, "reason": d.reason}
            for d in shown
        ],
    }


def _provider(provider: ProviderStatus, snapshot: Snapshot, health: Health) -> Json:
    heads = [p.head for p in snapshot.chain.providers if p.head is not None]
    until = provider.quarantined_until
    held = None if until is None or until <= health.at else until - health.at
    return {
        "name": provider.name,
        "voter": provider.voter,
        "healthy": provider.healthy,
        "head": provider.head,
        "headHash": provider.head_hash,
        "lagBlocks": None if provider.head is None else max(heads) - provider.head,
        "agrees": provider.agrees,
        "subscription": provider.subscription,
        "seenAgeSeconds": _age(provider.seen_at, health),
        "quarantinedForSeconds": _seconds(held),
        "lastError": provider.last_error,
        "requests": dict(provider.requests),
        "failures": provider.failures,
        "refused": dict(provider.refused),
    }


def _requests_per_hour(snapshot: Snapshot, wall_now: float) -> Json:
    """By method, of all providers, on average since the start."""
    counts: Counter[str] = Counter()
    for provider in snapshot.chain.providers:
        counts.update(provider.requests)
    hours = max(1000, _uptime(snapshot, wall_now)) / 3_600_000
    return {method: round(count / hours, 1) for method, count in sorted(counts.items())}


def _source(
    snapshot: Snapshot, peer: SeenPeer, static: Mapping[str, Endpoint], template: str
) -> Source | None:
    """Who named the endpoint of a peer; None where it has none, or where nobody knows the peer."""
    wanted, membership = snapshot.peer_names.get(peer.key), snapshot.chain.membership
    node = membership.nodes.get(wanted.token_id) if membership and wanted else None
    if node is None:
        return None
    texts = endpoint_texts(node.node_id, node.endpoint, static=static, template=template)
    return source_of(peer.endpoint, texts, snapshot.resolved)


def _peer(snapshot: Snapshot, peer: SeenPeer, wall_now: float, source: Source | None) -> Json:
    # A peer that nobody wants (somebody added it by hand) has no name until the repair removes it.
    wanted = snapshot.peer_names.get(peer.key)
    decision = snapshot.decisions.get(wanted.token_id) if wanted else None
    shaken = peer.last_handshake > 0
    return {
        "nodeId": wanted.node_id if wanted else None,
        "tokenId": _token_id(wanted.token_id) if wanted else None,
        "publicKey": peer.key.text,
        "verdict": decision.verdict if decision else None,
        "endpoint": str(peer.endpoint) if peer.endpoint else None,
        "endpointSource": source,
        "allowedIps": [str(ip) for ip in peer.allowed_ips],
        "lastHandshake": _iso(peer.last_handshake) if shaken else None,
        "handshakeAgeSeconds": _seconds(wall_now - peer.last_handshake) if shaken else None,
        "rxBytes": peer.rx_bytes,
        "txBytes": peer.tx_bytes,
        "state": peer_state(peer, wall_now=wall_now),
        "live": _live(peer, wall_now),
        "notes": list(snapshot.notes.get(wanted.token_id, ())) if wanted else [],
    }


def _access_in_short(own: Decision | None) -> Json:
    if own is None:
        return {"verdict": None, "reason": "the membership has not been read yet"}
    return {"verdict": own.verdict, "reason": own.reason}


def _blocking(health: Health) -> str:
    return "; ".join(w.text for w in health.warnings if w.blocks_ready)


def _active_peers(snapshot: Snapshot, wall_now: float) -> int:
    if snapshot.device is None:
        return 0
    peers = snapshot.device.peers.values()
    return sum(_live(p, wall_now) for p in peers if p.key in snapshot.peer_names)


def _live(peer: SeenPeer, wall_now: float) -> bool:
    return peer_state(peer, wall_now=wall_now) is PeerState.LIVE


def _block_number(snapshot: Snapshot) -> int | None:
    return snapshot.chain.membership.block.number if snapshot.chain.membership else None


def _token_id(token_id: int) -> int | str:
    """A number where every reader keeps it exact, else its digits."""
    return token_id if token_id <= MAX_SAFE_INTEGER else str(token_id)


def _uptime(snapshot: Snapshot, wall_now: float) -> int:
    return round(max(0.0, wall_now - snapshot.started_at) * 1000)


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(max(0.0, value), 3)


def _age(since: float | None, health: Health) -> float | None:
    return None if since is None else _seconds(health.at - since)


def _iso(wall: float) -> str:
    moment = datetime.fromtimestamp(wall, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
