"""Where the endpoint that a device has for a peer came from, and how it stands with the peer. Pure.

The plan tries the candidates of a peer in turn, and WireGuard replaces whichever it was by the
address that the peer speaks from: so it is told from the address itself.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from dstack_vpn.mesh.device import IpAddress, SeenPeer, SocketAddress
from dstack_vpn.mesh.endpoint import Source
from dstack_vpn.mesh.plan import REJECT_AFTER, parsed


class PeerState(StrEnum):
    """How it stands with the sessions of a peer."""

    LIVE = "live"
    """Its newest handshake is younger than 180 s, which is how long WireGuard uses a session."""
    SILENT = "silent"
    """It had one."""
    TRYING = "trying"
    """It never had one; we speak to it, or tried to."""
    NEVER = "never"
    """It never had one, and is not spoken to."""


def source_of(
    endpoint: SocketAddress | None,
    texts: Mapping[Source, str],
    resolved: Mapping[str, Sequence[IpAddress]],
) -> Source | None:
    """Who named the endpoint of a peer; None where it has none.

    Args:
        endpoint: as the device has it.
        texts: see `endpoint_texts`.
        resolved: DNS name to addresses.
    """
    if endpoint is None:
        return None
    for source, text in texts.items():
        named = parsed(text)
        if isinstance(named, str):
            continue
        hosts = resolved.get(named.host, ()) if isinstance(named.host, str) else (named.host,)
        if named.port == endpoint.port and endpoint.ip in hosts:
            return source
    return Source.ROAMED


def peer_state(peer: SeenPeer, *, wall_now: float) -> PeerState:
    """How it stands with a peer at a wall-clock time."""
    if peer.last_handshake > 0:
        age = wall_now - peer.last_handshake
        return PeerState.LIVE if age < REJECT_AFTER else PeerState.SILENT
    if peer.endpoint is not None and (peer.keepalive or peer.tx_bytes):
        return PeerState.TRYING
    return PeerState.NEVER
