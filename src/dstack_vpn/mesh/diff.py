"""From the device as seen to the device as wanted, as data that says what to do and why.

Pure, and the last step before a backend: the plan goes in as `WantedDevice`, what the backend read
goes in as `SeenDevice`, and a `DeviceChange` comes out. The same two states always give the same
change, in the same order, and a device on which a change was applied gives an empty one.

Two facts about WireGuard devices shape it. An allowed IP belongs to one peer at most, and giving
it to another takes it away without a word; taking the thief off does not give it back, so a robbed
peer is repaired here like any other drift. And sending an unchanged listen port or private key is
not free (wireguard-go reopens its socket), so only what differs is ever in a change.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from operator import attrgetter
from types import MappingProxyType

from dstack_vpn.mesh.device import (
    AddPeer,
    DeviceChange,
    FieldChange,
    IpInterface,
    IpNetwork,
    PeerChange,
    RemovePeer,
    SeenDevice,
    SeenPeer,
    UpdatePeer,
    WantedDevice,
    WantedPeer,
)
from dstack_vpn.mesh.keys import PublicKey

NOT_A_MEMBER = "not a member"
"""Why a peer is removed about which the caller gives no reason of its own."""

_NO_REASONS: Mapping[PublicKey, str] = MappingProxyType({})


def diff(
    wanted: WantedDevice,
    seen: SeenDevice | None,
    *,
    reasons: Mapping[PublicKey, str] = _NO_REASONS,
) -> DeviceChange:
    """Say what must happen to the device.

    A wanted listen port of 0 and a wanted endpoint of None leave alone what the device has.

    Args:
        wanted: the plan.
        seen: the device as read, or None for one that was only just created.
        reasons: why a key is not wanted, for the keys whose reason the caller knows.

    Raises:
        ValueError: the plan contradicts itself (two peers share an allowed IP, a peer is filed
            under another key, the device is its own peer). That is an error of the planner.
    """
    check_plan(wanted)
    current = seen or SeenDevice(
        name=wanted.name,
        public_key=None,
        listen_port=0,
        mtu=0,
        up=False,
        addresses=(),
        peers={},
    )
    there, ours = set(current.addresses), set(wanted.addresses)
    new_port = wanted.listen_port not in {0, current.listen_port}
    return DeviceChange(
        name=wanted.name,
        set_key=current.public_key != wanted.public_key,
        listen_port=wanted.listen_port if new_port else None,
        old_port=current.listen_port,
        mtu=wanted.mtu if current.mtu != wanted.mtu else None,
        old_mtu=current.mtu,
        up=not current.up,
        remove_addresses=sorted_interfaces(there - ours),
        add_addresses=sorted_interfaces(ours - there),
        peers=diff_peers(wanted.peers, current.peers, reasons),
    )


def diff_peers(
    wanted: Mapping[PublicKey, WantedPeer],
    seen: Mapping[PublicKey, SeenPeer],
    reasons: Mapping[PublicKey, str],
) -> tuple[PeerChange, ...]:
    """Removals, then updates, then additions, each sorted by key.

    Removals come first because they are what cannot wait. Among the rest the order changes nothing
    in the outcome: wanted allowed IPs are disjoint, so a peer that has its own takes none from a
    peer that was served before it.
    """
    updates: dict[PublicKey, PeerChange] = {}
    additions: dict[PublicKey, PeerChange] = {}
    for key, peer in wanted.items():
        there = seen.get(key)
        if there is None:
            additions[key] = AddPeer(peer=peer)
        elif (update := diff_peer(peer, there)) is not None:
            updates[key] = update
    removals: dict[PublicKey, PeerChange] = {}
    if len(wanted) - len(additions) < len(seen):
        removals = {
            key: RemovePeer(key=key, reason=reasons.get(key, NOT_A_MEMBER))
            for key in seen
            if key not in wanted
        }
    # Sorted last: of thousands of peers nearly all stay as they are.
    return tuple(
        changes[key] for changes in (removals, updates, additions) for key in sorted_keys(changes)
    )


def diff_peer(wanted: WantedPeer, seen: SeenPeer) -> UpdatePeer | None:
    """Say what must change about a peer that is there; None when nothing must."""
    changes: list[FieldChange] = []
    allowed_ips = endpoint = keepalive = None
    # Both are sorted as a rule, so the sets, which are slow to make, are hardly ever needed.
    same = wanted.allowed_ips == seen.allowed_ips or set(wanted.allowed_ips) == set(
        seen.allowed_ips
    )
    if not same:
        allowed_ips = sorted_networks(wanted.allowed_ips)
        old, new = _text(sorted_networks(seen.allowed_ips)), _text(allowed_ips)
        changes.append(FieldChange(field="allowed_ips", old=old, new=new))
    if wanted.endpoint is not None and wanted.endpoint != seen.endpoint:
        endpoint = wanted.endpoint
        old = str(seen.endpoint or "")
        changes.append(FieldChange(field="endpoint", old=old, new=str(endpoint)))
    if wanted.keepalive != seen.keepalive:
        keepalive = wanted.keepalive
        changes.append(
            FieldChange(field="keepalive", old=str(seen.keepalive), new=str(wanted.keepalive))
        )
    if not changes:
        return None
    return UpdatePeer(
        key=wanted.key,
        node_id=wanted.node_id,
        allowed_ips=allowed_ips,
        endpoint=endpoint,
        keepalive=keepalive,
        changes=tuple(changes),
    )


def check_plan(wanted: WantedDevice) -> None:
    """Refuse a plan that no device could hold.

    Raises:
        ValueError: says which peers contradict each other.
    """
    # By what makes a network the one that it is: hashing thousands of networks takes far longer.
    owners: dict[tuple[int, int, int], PublicKey] = {}
    for key, peer in wanted.peers.items():
        if peer.key != key:
            raise ValueError(f"the plan files peer {peer.key} under the key {key}")
        if key == wanted.public_key:
            raise ValueError(f"the plan makes {wanted.name} a peer of itself")
        for network in peer.allowed_ips:
            place = network.version, int(network.network_address), network.prefixlen
            other = owners.setdefault(place, key)
            if other != key:
                raise ValueError(f"the plan gives {network} to both {other} and {key}")


def patched(seen: SeenDevice, change: DeviceChange) -> SeenDevice:
    """What a device shows once a change of its peers is on it; spares reading it again.

    The link side of the change is left out: what the host makes of it must be read. So are what
    only a device knows: a peer that is new has no handshake yet.
    """
    peers = dict(seen.peers)
    for peer in change.peers:
        match peer:
            case RemovePeer(key=key):
                peers.pop(key, None)
            case AddPeer(peer=wanted):
                peers[wanted.key] = _fresh(wanted)
            case UpdatePeer(key=key) if (there := peers.get(key)) is not None:
                peers[key] = _updated(there, peer)
    return replace(seen, peers=peers)


def _fresh(wanted: WantedPeer) -> SeenPeer:
    return SeenPeer(
        key=wanted.key,
        allowed_ips=sorted_networks(wanted.allowed_ips),
        endpoint=wanted.endpoint,
        keepalive=wanted.keepalive,
        last_handshake=0.0,
        rx_bytes=0,
        tx_bytes=0,
    )


def _updated(there: SeenPeer, update: UpdatePeer) -> SeenPeer:
    return SeenPeer(
        key=there.key,
        allowed_ips=there.allowed_ips if update.allowed_ips is None else update.allowed_ips,
        endpoint=there.endpoint if update.endpoint is None else update.endpoint,
        keepalive=there.keepalive if update.keepalive is None else update.keepalive,
        last_handshake=there.last_handshake,
        rx_bytes=there.rx_bytes,
        tx_bytes=there.tx_bytes,
    )


def sorted_keys(keys: Iterable[PublicKey]) -> list[PublicKey]:
    """By their bytes; thousands of keys compare much faster so than as dataclasses."""
    return sorted(keys, key=attrgetter("raw"))


def sorted_networks(networks: Iterable[IpNetwork]) -> tuple[IpNetwork, ...]:
    """IPv4 before IPv6, then by address, then by prefix; duplicates dropped."""
    return tuple(
        sorted(set(networks), key=lambda n: (n.version, n.network_address.packed, n.prefixlen))
    )


def sorted_interfaces(interfaces: Iterable[IpInterface]) -> tuple[IpInterface, ...]:
    """IPv4 before IPv6, then by address, then by prefix; duplicates dropped."""
    return tuple(
        sorted(set(interfaces), key=lambda i: (i.version, i.ip.packed, i.network.prefixlen))
    )


def _text(networks: Iterable[IpNetwork]) -> str:
    return ", ".join(map(str, networks))
