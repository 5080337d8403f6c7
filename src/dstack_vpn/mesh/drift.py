"""What somebody else did to the device: the part of a change that the plan does not explain. Pure.

A compare finds what differs from the plan. Where the plan itself became another one, that is the
work of the day. Where it did not, the device was altered by hand or by another program, and putting
it right is worth telling.
"""

from dataclasses import replace

from dstack_vpn.mesh.device import (
    AddPeer,
    DeviceChange,
    PeerChange,
    RemovePeer,
    UpdatePeer,
    WantedDevice,
)


def unexplained(change: DeviceChange, before: WantedDevice, now: WantedDevice) -> DeviceChange:
    """The part of a change that repairs the device.

    Args:
        change: what a compare found.
        before: the plan that was on the device.
        now: the plan that it was compared with.
    """
    return replace(
        change,
        set_key=change.set_key and before.public_key == now.public_key,
        listen_port=change.listen_port if before.listen_port == now.listen_port else None,
        mtu=change.mtu if before.mtu == now.mtu else None,
        remove_addresses=tuple(a for a in change.remove_addresses if a not in before.addresses),
        add_addresses=tuple(a for a in change.add_addresses if a in before.addresses),
        peers=tuple(p for p in change.peers if _is_repair(p, before, now)),
    )


def _is_repair(change: PeerChange, before: WantedDevice, now: WantedDevice) -> bool:
    match change:
        case RemovePeer(key=key):
            return key not in before.peers
        case AddPeer(peer=peer):
            return peer.key in before.peers
        case UpdatePeer(key=key):
            old, new = before.peers.get(key), now.peers[key]
            # Where a peer is heard is WireGuard's to say, so an endpoint is nobody's misdeed.
            return old is not None and (
                (change.allowed_ips is not None and old.allowed_ips == new.allowed_ips)
                or (change.keepalive is not None and old.keepalive == new.keepalive)
            )
