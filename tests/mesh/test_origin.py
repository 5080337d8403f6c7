"""Where an endpoint came from, and how it stands with a peer."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from dstack_vpn.mesh.endpoint import Source, endpoint_texts, parse_endpoint
from dstack_vpn.mesh.origin import PeerState, peer_state, source_of
from mesh.build import WALL_NOW, seen_peer, socket_address

TEXTS = endpoint_texts(
    "node-2",
    "b.example:51820",
    static={"node-2": parse_endpoint("192.0.2.2:51820")},
    template="{node_id}.vpn:51821",
)
RESOLVED = {
    "b.example": (ip_address("198.51.100.1"), ip_address("2001:db8::1")),
    "node-2.vpn": (ip_address("203.0.113.5"),),
}


@pytest.mark.parametrize(
    ("endpoint", "source"),
    [
        ("192.0.2.2:51820", Source.SETTINGS),
        ("198.51.100.1:51820", Source.TOKEN),
        ("[2001:db8::1]:51820", Source.TOKEN),
        ("203.0.113.5:51821", Source.TEMPLATE),
        ("203.0.113.5:51820", Source.ROAMED),
        ("192.0.2.2:51821", Source.ROAMED),
        ("192.0.2.77:51820", Source.ROAMED),
    ],
)
def test_source(endpoint: str, source: Source) -> None:
    """Address and port must both be those that somebody wrote."""
    assert source_of(socket_address(endpoint), TEXTS, RESOLVED) is source


def test_source_of_nothing() -> None:
    """No endpoint has no source; what cannot be read named nobody."""
    assert source_of(None, TEXTS, RESOLVED) is None
    assert endpoint_texts("b", "", static={}, template="") == {}
    hostile = {Source.TOKEN: "\x1b[31m"}
    assert source_of(socket_address("192.0.2.2:1"), hostile, {}) is Source.ROAMED


@pytest.mark.parametrize(
    ("age", "endpoint", "state"),
    [
        (179.0, "192.0.2.2:1", PeerState.LIVE),
        (180.0, "192.0.2.2:1", PeerState.SILENT),
        (None, "192.0.2.2:1", PeerState.TRYING),
        (None, None, PeerState.NEVER),
    ],
)
def test_state(age: float | None, endpoint: str | None, state: PeerState) -> None:
    """By the age of the handshake, or by whether it is spoken to."""
    assert peer_state(seen_peer(2, endpoint=endpoint, age=age), wall_now=WALL_NOW) is state


def test_a_peer_that_waits_for_its_turn() -> None:
    """With an endpoint and not spoken to, it is not being tried."""
    quiet = replace(seen_peer(2, endpoint="192.0.2.2:1"), keepalive=0)
    assert peer_state(quiet, wall_now=WALL_NOW) is PeerState.NEVER
    assert peer_state(replace(quiet, tx_bytes=148), wall_now=WALL_NOW) is PeerState.TRYING
