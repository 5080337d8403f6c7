"""What a device has otherwise than the chain says, one sentence each. Pure.

Endpoints may roam and keepalives come and go by themselves, so neither is compared: who is a peer,
with which addresses, and what this node's own interface is like. What the host's routing has
otherwise than it should is found by `wireguard.deviations`, in the same words.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from dstack_vpn.mesh.device import (
    AddPeer,
    DeviceChange,
    PeerChange,
    RemovePeer,
    SeenDevice,
    WantedDevice,
)
from dstack_vpn.mesh.diff import diff
from dstack_vpn.mesh.keys import PublicKey


class Kind(StrEnum):
    """What differs; stable words for scripts."""

    NO_DEVICE = "no-device"
    OWN_KEY = "own-key"
    LINK_DOWN = "link-down"
    LISTEN_PORT = "listen-port"
    MTU = "mtu"
    ADDRESS_MISSING = "address-missing"
    ADDRESS_FOREIGN = "address-foreign"
    PEER_MISSING = "peer-missing"
    PEER_FOREIGN = "peer-foreign"
    ALLOWED_IPS = "allowed-ips"
    # Of the host's routing.
    UNREACHABLE_MISSING = "unreachable-missing"
    ROUTE_MISSING = "route-missing"
    RULE_MISSING = "rule-missing"
    RULE_LEFT = "rule-left"
    ROUTE_FOREIGN = "route-foreign"
    RULE_FOREIGN = "rule-foreign"


ROUTING = frozenset(
    {
        Kind.UNREACHABLE_MISSING,
        Kind.ROUTE_MISSING,
        Kind.RULE_MISSING,
        Kind.RULE_LEFT,
        Kind.ROUTE_FOREIGN,
        Kind.RULE_FOREIGN,
    }
)
"""The kinds that are about the host's routing, and none about the device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that is not as the chain and the settings say."""

    kind: Kind
    text: str
    """One sentence."""
    key: PublicKey | None = None
    """The peer that it is about; None for the interface."""


def differences(
    wanted: WantedDevice, seen: SeenDevice | None, *, reasons: Mapping[PublicKey, str]
) -> tuple[Difference, ...]:
    """Compare a device with what it should be.

    Args:
        wanted: the plan; a listen port of 0 is any.
        seen: the device as read, or None when there is none.
        reasons: why a key is not wanted, for the keys whose reason is known.

    Returns:
        The interface first, then peers that must not be there, wrong ones and missing ones, each
        sorted by key.
    """
    if seen is None:
        text = f"there is no device {wanted.name} of this node"
        return (Difference(kind=Kind.NO_DEVICE, text=text),)
    lasting = {
        key: replace(peer, endpoint=None, keepalive=there.keepalive)
        if (there := seen.peers.get(key))
        else peer
        for key, peer in wanted.peers.items()
    }
    change = diff(replace(wanted, peers=lasting), seen, reasons=reasons)
    return (*_of_interface(change, wanted, seen), *(_of_peer(c, wanted) for c in change.peers))


def _of_interface(
    change: DeviceChange, wanted: WantedDevice, seen: SeenDevice
) -> Iterator[Difference]:
    name = wanted.name
    if change.set_key:
        has = f"the key {seen.public_key}" if seen.public_key else "no key"
        yield Difference(
            kind=Kind.OWN_KEY, text=f"{name} has {has}, this node's is {wanted.public_key}"
        )
    if change.up:
        yield Difference(kind=Kind.LINK_DOWN, text=f"the link of {name} is down")
    if change.listen_port is not None:
        text = f"{name} listens on UDP port {seen.listen_port}, the setting is {change.listen_port}"
        yield Difference(kind=Kind.LISTEN_PORT, text=text)
    if change.mtu is not None:
        text = f"the MTU of {name} is {seen.mtu}, it should be {change.mtu}"
        yield Difference(kind=Kind.MTU, text=text)
    for address in change.add_addresses:
        yield Difference(kind=Kind.ADDRESS_MISSING, text=f"{name} lacks its address {address}")
    for address in change.remove_addresses:
        text = f"{name} has the address {address}, which is not this node's"
        yield Difference(kind=Kind.ADDRESS_FOREIGN, text=text)


def _of_peer(change: PeerChange, wanted: WantedDevice) -> Difference:
    match change:
        case RemovePeer(key=key, reason=reason):
            text = f"peer {key} must not be there: {reason}"
            return Difference(kind=Kind.PEER_FOREIGN, text=text, key=key)
        case AddPeer(peer=peer):
            text = f"{peer.node_id} (token {peer.token_id}, {peer.key}) is a member and no peer"
            return Difference(kind=Kind.PEER_MISSING, text=text, key=peer.key)
    peer = wanted.peers[change.key]
    (field,) = change.changes
    text = (
        f"{peer.node_id} (token {peer.token_id}) has the allowed IPs {field.old or 'none'}, its own"
        f" are {field.new}"
    )
    return Difference(kind=Kind.ALLOWED_IPS, text=text, key=change.key)
