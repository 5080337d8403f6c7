"""Routes of the host: which of them a range of the mesh overlaps, which lead to neighbours."""

from ipaddress import IPv4Network, ip_network

from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.wireguard.routes import Route, overlap, parse_routes
from wireguard.samples import patient

MESH = IPv4Network("10.213.0.0/16")
ROUTES = """[
 {"dst":"default","gateway":"192.0.2.1","dev":"eth0","flags":[]},
 {"dst":"0.0.0.0/1","dev":"tun0","flags":[]},
 {"dst":"192.0.2.0/24","dev":"eth0","protocol":"kernel","scope":"link","flags":[]},
 {"dst":"10.213.7.0/24","gateway":"192.0.2.9","dev":"eth0","flags":[]},
 {"dst":"10.213.0.0/16","dev":"wg0","protocol":"kernel","scope":"link","flags":[]},
 {"type":"blackhole","dst":"198.51.100.0/24","flags":[]},
 {"type":"local","dst":"192.0.2.5","dev":"eth0","table":"local","flags":[]},
 {"dst":"203.0.113.0/24","nexthops":[{"gateway":"192.0.2.1","dev":"eth0"}],"flags":[]}
]"""


def test_routes_are_read() -> None:
    """Default routes, whole or in halves, are left out; without a gateway it is on-link."""
    routes = parse_routes(ROUTES, version=4)
    assert [str(route) for route in routes] == [
        "192.0.2.0/24 dev eth0",
        "10.213.7.0/24 dev eth0",
        "10.213.0.0/16 dev wg0",
        "198.51.100.0/24",
        "192.0.2.5/32 dev eth0",
        "203.0.113.0/24",
    ]
    assert [str(route.network) for route in routes if route.on_link] == [
        "192.0.2.0/24",
        "10.213.0.0/16",
    ]
    assert parse_routes("", version=4) == ()


def test_a_range_that_the_host_uses_is_found() -> None:
    """Routes inside or around the range count, those of our own interface do not."""
    routes = parse_routes(ROUTES, version=4)
    found = overlap(MESH, routes, ignoring="wg0")
    assert found is not None
    assert str(found) == "10.213.7.0/24 dev eth0"
    assert overlap(IPv4Network("10.213.7.8/30"), routes, ignoring="wg0") == found
    assert overlap(IPv4Network("10.99.0.0/16"), routes, ignoring="wg0") is None
    own = [route for route in routes if route.device == "wg0"]
    assert overlap(MESH, own, ignoring="wg0") is None
    assert overlap(MESH, own, ignoring="wg1") == own[0]
    assert overlap(ip_network("fd00::/48"), routes, ignoring="wg0") is None


@patient
@given(st.ip_addresses(v=4), st.integers(2, 32), st.ip_addresses(v=4), st.integers(2, 32))
def test_overlap_goes_both_ways(one: object, a: int, other: object, b: int) -> None:
    """Of two ranges each overlaps the other or neither does."""
    first, second = (ip_network(f"{ip}/{n}", strict=False) for ip, n in ((one, a), (other, b)))
    assert (overlap(first, [Route(second, "x")], ignoring="") is None) == (
        overlap(second, [Route(first, "x")], ignoring="") is None
    )
