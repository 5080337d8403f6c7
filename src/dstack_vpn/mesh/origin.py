"""Where the endpoint that a device has for a peer came from, and how it stands with the peer. Pure.

The plan tries the candidates of a peer in turn, and WireGuard replaces whichever it was by the
address that the peer speaks from: so it is told from the address itself.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from dstack_vpn.mesh.device import IpAddress, SeenPeer, SocketAddress
from dstack_vpn.mesh.endpoint import Endpoint
from dstack_vpn.mesh.plan import REJECT_AFTER, parsed


class Source(StrEnum):
    """Who named an endpoint; in the order in which they come."""

    SETTINGS = "settings"
    """ENDPOINTS of this node."""
    TOKEN = "token"  # noqa: S105 - a word
    """The holder of the peer's token."""
    TEMPLATE = "template"
    """ENDPOINT_TEMPLATE of this node."""
    ROAMED = "roamed"
    """Nobody: the peer spoke from there."""


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


def endpoint_texts(
    node_id: str, token: str, *, static: Mapping[str, Endpoint], template: str
) -> dict[Source, str]:
    """What is written about where a node is, by who wrote it.

    Args:
        node_id: of the node.
        token: the endpoint on its token, hostile.
        static: ENDPOINTS.
        template: ENDPOINT_TEMPLATE; empty for none.
    """
    texts = {
        Source.SETTINGS: str(static[node_id]) if node_id in static else "",
        Source.TOKEN: token,
        Source.TEMPLATE: template.replace("{node_id}", node_id),
    }
    return {source: text for source, text in texts.items() if text}


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
