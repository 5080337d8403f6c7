"""What a device has otherwise than the chain says: every kind of difference, and none too many."""

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_interface

import pytest

from dstack_vpn.mesh.audit import ROUTING, Kind, differences
from dstack_vpn.mesh.device import SeenDevice
from mesh.build import (
    ADDRESSES,
    as_seen,
    device_of,
    key_of,
    node,
    plan_for,
    seen_peer,
    socket_address,
)

PLAN = plan_for([node(1), node(2), node(3), node(4, revoked=True)])
WANTED = device_of(PLAN)
EQUAL = as_seen(WANTED)


def without(token_id: int) -> SeenDevice:
    peers = {key: peer for key, peer in EQUAL.peers.items() if key != key_of(token_id)}
    return replace(EQUAL, peers=peers)


def having(number: int, **values: object) -> SeenDevice:
    peer = replace(seen_peer(number), **values)  # type: ignore[arg-type]
    return replace(EQUAL, peers={**EQUAL.peers, peer.key: peer})


CASES: dict[str, tuple[SeenDevice | None, Kind, str]] = {
    "no device": (None, Kind.NO_DEVICE, "there is no device wg0"),
    "another key": (replace(EQUAL, public_key=key_of(9)), Kind.OWN_KEY, str(key_of(9))),
    "no key": (replace(EQUAL, public_key=None), Kind.OWN_KEY, "has no key"),
    "down": (replace(EQUAL, up=False), Kind.LINK_DOWN, "is down"),
    "port": (replace(EQUAL, listen_port=5), Kind.LISTEN_PORT, "port 5, the setting is 51820"),
    "mtu": (replace(EQUAL, mtu=1300), Kind.MTU, "is 1300, it should be 1420"),
    "no IPv6": (
        replace(EQUAL, addresses=EQUAL.addresses[:1]),
        Kind.ADDRESS_MISSING,
        str(ADDRESSES.interfaces(1)[1]),
    ),
    "another address": (
        replace(EQUAL, addresses=(*EQUAL.addresses, ip_interface("10.9.9.9/24"))),
        Kind.ADDRESS_FOREIGN,
        "10.9.9.9/24",
    ),
    "a missing peer": (without(3), Kind.PEER_MISSING, "node-3 (token 3"),
    "a stranger": (having(9), Kind.PEER_FOREIGN, "not a member"),
    "a revoked one": (having(4), Kind.PEER_FOREIGN, "REVOKED"),
    "allowed IPs": (
        having(3, allowed_ips=ADDRESSES.hosts(8)),
        Kind.ALLOWED_IPS,
        "10.213.0.8/32",
    ),
    "no allowed IPs": (having(3, allowed_ips=()), Kind.ALLOWED_IPS, "the allowed IPs none"),
}


@pytest.mark.parametrize(("seen", "kind", "words"), CASES.values(), ids=CASES.keys())
def test_one_difference(seen: SeenDevice | None, kind: Kind, words: str) -> None:
    """Each is found, is the only one, and says what it is about."""
    (found,) = differences(WANTED, seen, reasons=PLAN.removal_reasons)
    assert found.kind is kind
    assert words in found.text


def test_each_kind_has_a_case() -> None:
    """No kind goes untested."""
    assert {kind for _, kind, _ in CASES.values()} == set(Kind) - ROUTING


@pytest.mark.parametrize(
    "alter",
    [
        lambda p: replace(p, endpoint=socket_address("192.0.2.9:7")),
        lambda p: replace(p, keepalive=0),
        lambda p: replace(p, last_handshake=5.0, rx_bytes=7, tx_bytes=8),
        lambda p: replace(p, allowed_ips=p.allowed_ips[::-1]),
    ],
    ids=["roamed", "silenced", "spoken to", "sorted otherwise"],
)
def test_what_moves_by_itself_is_no_difference(alter: Callable[..., object]) -> None:
    """Endpoints, keepalives and counters are not compared."""
    peers = {key: alter(peer) for key, peer in EQUAL.peers.items()}
    seen = replace(EQUAL, peers=peers)  # type: ignore[arg-type]
    assert differences(WANTED, seen, reasons=PLAN.removal_reasons) == ()


def test_a_node_that_is_out_has_nobody() -> None:
    """Of a revoked node every peer and every address is one too many."""
    plan = plan_for([node(1, revoked=True), node(2)])
    found = differences(device_of(plan), EQUAL, reasons=plan.removal_reasons)
    assert [d.kind for d in found] == [Kind.ADDRESS_FOREIGN] * 2 + [Kind.PEER_FOREIGN] * 2
