"""What of a host's routing is not as the mesh needs it: each thing by itself, and none too many."""

from collections.abc import Callable
from ipaddress import ip_interface, ip_network

import pytest

from dstack_vpn.mesh.audit import ROUTING, Kind
from dstack_vpn.wireguard.deviations import Deviation, Entry, deviations

V4, V6 = ip_network("10.213.0.0/16"), ip_network("fd59:11ea:eff5::/48")
ADDRESSES = (ip_interface("10.213.0.1/16"), ip_interface("fd59:11ea:eff5::1/48"))
# As iproute2 6.1 prints them.
LOCAL: Entry = {"priority": 0, "src": "all", "table": "local"}
MAIN: Entry = {"priority": 32766, "src": "all", "table": "main"}
FIRST: Entry = {"priority": 50, "src": "all", "iif": "wg0", "table": "local"}
SECOND: Entry = {"priority": 51, "src": "all", "iif": "wg0", "action": "blackhole"}
RULES = (LOCAL, FIRST, SECOND, MAIN)
CONNECTED: Entry = {"dst": str(V4), "dev": "wg0", "protocol": "kernel", "scope": "link"}
UNREACHABLE: Entry = {
    "type": "unreachable",
    "dst": str(V4),
    "protocol": "216",
    "metric": 4278198272,
}
HOST: Entry = {"type": "local", "dst": "10.213.0.1", "dev": "wg0", "table": "local"}
ROUTES = (CONNECTED, UNREACHABLE, HOST)


def found(
    *, routes: tuple[Entry, ...] = ROUTES, rules: tuple[Entry, ...] = RULES, **values: object
) -> list[Deviation]:
    """What deviates of IPv4."""
    values = {"forwarding": False, "addresses": ADDRESSES, **values}
    return list(deviations("wg0", V4, routes=routes, rules=rules, **values))  # type: ignore[arg-type]


CASES: dict[Kind, tuple[Callable[[], list[Deviation]], str]] = {
    Kind.UNREACHABLE_MISSING: (
        lambda: found(routes=(CONNECTED, HOST)),
        "route add unreachable 10.213.0.0/16 metric 4278198272 proto 216",
    ),
    Kind.ROUTE_MISSING: (
        lambda: found(routes=(UNREACHABLE, HOST)),
        "route add 10.213.0.0/16 dev wg0 proto kernel scope link src 10.213.0.1",
    ),
    Kind.RULE_MISSING: (
        lambda: found(rules=(LOCAL, FIRST, MAIN)),
        "rule add pref 51 iif wg0 blackhole",
    ),
    Kind.RULE_LEFT: (
        lambda: found(rules=(LOCAL, SECOND, MAIN), forwarding=True),
        "rule delete pref 51 iif wg0 blackhole",
    ),
    Kind.ROUTE_FOREIGN: (
        lambda: found(routes=(*ROUTES, {"dst": "10.213.5.0/24", "dev": "eth0"})),
        "",
    ),
    Kind.RULE_FOREIGN: (
        lambda: found(rules=(LOCAL, {"priority": 9, "src": "all", "table": "7"}, *RULES[1:])),
        "",
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_one_deviation(kind: Kind) -> None:
    """Each is found, is the only one, and comes with what puts it right."""
    make, command = CASES[kind]
    (one,) = make()
    assert (one.difference.kind, one.command, one.version) == (kind, command, 4)
    assert one.difference.text


def test_each_kind_has_a_case() -> None:
    """No kind goes untested."""
    assert CASES.keys() == ROUTING


def test_in_order() -> None:
    """Nothing is told where all is as it should be."""
    assert found() == []
    assert found(rules=(LOCAL, MAIN), forwarding=True) == []


def test_without_a_device_its_route_is_not_missed() -> None:
    """What has no address cannot have a route; that nothing leaves is looked at all the same."""
    assert found(routes=(UNREACHABLE,), addresses=()) == []
    (one,) = found(routes=(), addresses=())
    assert one.difference.kind is Kind.UNREACHABLE_MISSING


def test_ipv6() -> None:
    """The other family has commands of its own form."""
    left = deviations("wg0", V6, forwarding=False, addresses=ADDRESSES, routes=(), rules=())
    assert [(d.version, d.command) for d in left] == [
        (6, "route add unreachable fd59:11ea:eff5::/48 metric 2147483647 proto 216"),
        (6, "route add fd59:11ea:eff5::/48 dev wg0 proto kernel metric 256"),
        (6, "rule add pref 50 iif wg0 lookup local"),
        (6, "rule add pref 51 iif wg0 blackhole"),
    ]


def test_rules_of_others_are_not_taken_for_ours() -> None:
    """Another interface's, another place, another action."""
    others = (
        {**SECOND, "iif": "wg1"},
        {**SECOND, "priority": 5182},
        {**SECOND, "action": "unreachable"},
    )
    for other in others:
        (one,) = found(rules=(LOCAL, FIRST, other, MAIN))
        assert one.difference.kind is Kind.RULE_MISSING


@pytest.mark.parametrize(
    ("route", "words"),
    [
        ({"dst": "10.213.5.0/24", "gateway": "192.0.2.1", "dev": "eth0"}, "via 192.0.2.1 dev eth0"),
        ({"dst": "10.213.0.9", "dev": "lo", "type": "local", "table": "local"}, "local 10.213.0.9"),
        ({"dst": "10.213.5.0/24", "type": "blackhole"}, "'blackhole 10.213.5.0/24'"),
        ({"dst": "10.213.5.0/24", "dev": "wg1", "table": "77"}, "dev wg1 table 77"),
        ({"dst": "10.213.5.0/24", "nexthops": [{}, {}]}, "'10.213.5.0/24'"),
    ],
)
def test_routes_of_others(route: Entry, words: str) -> None:
    """Each is told with where it leads."""
    (one,) = found(routes=(*ROUTES, route))
    assert words in one.difference.text
    assert str(V4) in one.difference.text


@pytest.mark.parametrize(
    "route",
    [
        {"dst": "10.213.5.0/24", "dev": "wg0"},
        {"dst": "10.213.255.255", "dev": "eth0", "type": "broadcast", "table": "local"},
        {"dst": "10.213.0.1", "dev": "lo", "type": "local", "table": "local"},
        {"dst": "10.213.0.0/17", "type": "unreachable", "protocol": "216"},
        {"dst": "10.0.0.0/16", "dev": "eth0"},
    ],
    ids=["of our device", "broadcast", "our address", "of ours", "outside"],
)
def test_routes_that_are_nobody_elses(route: Entry) -> None:
    """Ours, and what lies outside of the mesh."""
    assert found(routes=(*ROUTES, route)) == []


@pytest.mark.parametrize(
    "rule",
    [
        {"src": "all", "table": "main", "suppress_prefixlen": 0},
        {"not": None, "src": "all", "fwmark": "0xca6c", "table": "51820"},
        {"src": "10.0.0.0", "srclen": 8, "table": "7"},
        {"src": "10.1.2.3", "srclen": 8, "table": "7"},
        {"src": "10.213.0.7", "table": "7"},
        {"src": "all", "dst": "192.0.2.1", "table": "7"},
        {"src": "all", "iif": "wg0", "table": "7"},
        {"src": "all", "goto": 32766},
    ],
)
def test_rules_of_others_that_come_first(rule: Entry) -> None:
    """What a member sends may fit them, so that FORWARDING=off is not all that counts."""
    before = {"priority": 9, **rule}
    (one,) = found(rules=(LOCAL, before, *RULES[1:]))
    assert "preference 9" in one.difference.text
    assert found(rules=(*RULES, {**before, "priority": 100})) == []
    assert found(rules=(LOCAL, before, MAIN), forwarding=True) == []


@pytest.mark.parametrize(
    "rule",
    [
        {"src": "192.0.2.1", "table": "7"},
        {"src": "192.0.2.0", "srclen": 24, "table": "7"},
        {"src": "192.0.2.5", "srclen": 24, "table": "7"},
        {"src": "all", "iif": "eth0", "table": "7"},
        {"src": "all", "oif": "eth0", "table": "7"},
        {"src": "all", "fwmark": "0x200", "table": "7"},
        {"src": "all", "uid_start": 5, "uid_end": 6, "table": "7"},
        {"src": "all", "action": "prohibit"},
        {"src": "all", "table": "local"},
    ],
)
def test_rules_of_others_that_do_not_matter(rule: Entry) -> None:
    """No packet of a member fits them, or none goes on by them."""
    assert found(rules=(LOCAL, {"priority": 9, **rule}, *RULES[1:])) == []


def test_an_address_that_is_none_is_an_error() -> None:
    """What ip(8) does not print is not guessed at."""
    with pytest.raises(ValueError, match="nonsense"):
        found(routes=(*ROUTES, {"dst": "nonsense"}))
