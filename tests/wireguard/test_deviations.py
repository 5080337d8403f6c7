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
