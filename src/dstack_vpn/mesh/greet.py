"""Speaking to peers first after a change of the listen port, so that they learn the new one. Pure.

A peer sends to where it last heard us from. After our port has changed that is a port on which
nobody listens, until we have something to send, or a keepalive is due: half a minute in the worst
case in which all that the peer sends is lost. WireGuard, in the kernel and in wireguard-go, sends a
keepalive at once when a peer's persistent keepalive is switched on. So it is switched off and on
again, or on and off where it is to be off; nothing else of the peer is touched.
"""

from dataclasses import replace

from dstack_vpn.mesh.clock import WallClock
from dstack_vpn.mesh.device import DeviceChange, SeenDevice, UpdatePeer, WantedDevice, WantedPeer
from dstack_vpn.mesh.plan import REJECT_AFTER

_ANY = 65_535
"""Seconds; a keepalive that is off again before it is due."""


def greeted(
    change: DeviceChange, wanted: WantedDevice, seen: SeenDevice, *, clock: WallClock, now: float
) -> DeviceChange:
    """The change with what speaks to peers at its end, if it gives the device another listen port.

    Only peers with a session: to speak to any other means a handshake, which is tried with them
    anyway, or is not wanted now.

    Args:
        change: from `seen` to `wanted`.
        wanted: the plan.
        seen: the device as it was read.
        clock: what the wall clock did, to age handshakes.
        now: monotonic seconds.
    """
    if change.listen_port is None or not seen.listen_port:
        return change
    greetings: list[UpdatePeer] = []
    for key, peer in wanted.peers.items():
        there = seen.peers.get(key)
        age = None if there is None else clock.age(there.last_handshake, now=now)
        if age is not None and age < REJECT_AFTER:
            other = 0 if peer.keepalive else _ANY
            greetings += _update(peer, other), _update(peer, peer.keepalive)
    return replace(change, peers=(*change.peers, *greetings))


def _update(peer: WantedPeer, keepalive: int) -> UpdatePeer:
    return UpdatePeer(
        key=peer.key,
        node_id=peer.node_id,
        allowed_ips=None,
        endpoint=None,
        keepalive=keepalive,
        changes=(),
    )
