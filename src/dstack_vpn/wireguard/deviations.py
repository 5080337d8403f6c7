"""What of a host's routing is not as the mesh needs it, and the command that puts it right. Pure.

`policy.py` reads routes and rules by ip(8) and carries the commands out; ``dstack-vpn verify`` only
tells. What others made is told as well, and left alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from dstack_vpn.mesh.audit import Difference, Kind
from dstack_vpn.mesh.device import IpInterface, IpNetwork
from dstack_vpn.wireguard.routes import PROTOCOL

# We chose. Early, for rules of others that come before ours would win; and yet with room below: the
# kernel numbers a rule that is added without a preference one less than the second of all rules,
# and the order of such rules, which wg-quick(8) relies on, would end at 0.
PREFERENCE = 50
"""Of the first of our rules."""

_METRIC = {4: 4278198272, 6: 2147483647}
"""Worse than any route of the device: the largest that the family takes, or nearly."""

_NOT_LED = frozenset({"broadcast", "anycast", "multicast"})
"""Types of routes that an address of an interface brings along, beside its own."""
_NEVER_TAKEN = frozenset({"fwmark", "oif", "uid_start"})
"""Selectors that no packet of a member fits unless somebody marked it, or a program sent it."""
_ENDS = frozenset({"blackhole", "unreachable", "prohibit", "nop"})

Entry = Mapping[str, object]
"""One route or rule, as ``ip -json`` prints it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """One thing that is not as it should be."""

    version: int
    """4 or 6: the family that it is of."""
    difference: Difference
    command: str = ""
    """For ip(8), to put it right; empty where it is not ours to alter."""


def deviations(
    name: str,
    network: IpNetwork,
    *,
    forwarding: bool,
    addresses: Sequence[IpInterface],
    routes: Sequence[Entry],
    rules: Sequence[Entry],
) -> Iterator[Deviation]:
    """Compare the routing of one family with what it should be; what others did comes last.

    Args:
        name: interface name.
        network: the range of the mesh.
        forwarding: whether packets of members may go on to other hosts.
        addresses: of the device, if it is up and has some.
        routes: those of all tables that lie within the range.
        rules: all of the family.

    Raises:
        ValueError: an address in them is none.
    """
    own = [a for a in addresses if a.version == network.version and a.network == network]
    yield from _routes(name, network, own, routes)
    yield from _rules(name, network, forwarding, rules)
    yield from _foreign_routes(name, network, own, routes)
    if not forwarding:
        yield from _rules_before(name, network, rules)


def unreachable(network: IpNetwork) -> str:
    """The route by which a range is unreachable where the device has no better one."""
    return f"unreachable {network} metric {_METRIC[network.version]} proto {PROTOCOL}"


def blackhole(name: str) -> tuple[str, ...]:
    """The rules by which what came in by the device reaches this host and no other.

    The first is what the table ``local`` is for at preference 0; there are programs that move that
    one to a later place, and then the second would also take what is for this host.
    """
    return (
        f"pref {PREFERENCE} iif {name} lookup local",
        f"pref {PREFERENCE + 1} iif {name} blackhole",
    )


def _routes(
    name: str, network: IpNetwork, own: Sequence[IpInterface], routes: Sequence[Entry]
) -> Iterator[Deviation]:
    of_range = [r for r in routes if r.get("dst") == str(network) and "table" not in r]
    if not any(r.get("type") == "unreachable" for r in of_range):
        text = f"{network} is not unreachable without {name}: packets may leave in the clear then"
        route = unreachable(network)
        yield _missing(network, Kind.UNREACHABLE_MISSING, text, f"route add {route}")
    if own and not any(r.get("dev") == name for r in of_range):
        text = f"there is no route to {network} by {name}"
        route = f"{network} dev {name} {_connected(own[0])}"
        yield _missing(network, Kind.ROUTE_MISSING, text, f"route add {route}")


def _rules(
    name: str, network: IpNetwork, forwarding: bool, rules: Sequence[Entry]
) -> Iterator[Deviation]:
    for place, rule in enumerate(blackhole(name)):
        stands = any(_is_ours(r, name, place) for r in rules)
        if stands and forwarding:
            text = f"the rule '{rule}' stands although FORWARDING is on"
            yield _missing(network, Kind.RULE_LEFT, text, f"rule delete {rule}")
        elif not stands and not forwarding:
            text = f"the rule '{rule}' is missing, by which members reach no other host"
            yield _missing(network, Kind.RULE_MISSING, text, f"rule add {rule}")


def _foreign_routes(
    name: str, network: IpNetwork, own: Sequence[IpInterface], routes: Sequence[Entry]
) -> Iterator[Deviation]:
    # Some kernels have the address of an interface as a route to another one.
    ours = {str(address.ip) for address in own}
    for route in routes:
        to = str(route.get("dst"))
        if route.get("dev") == name or route.get("protocol") == PROTOCOL or to in ours:
            continue
        if route.get("type") in _NOT_LED or not network.overlaps(ip_network(to)):
            continue
        words = [str(route.get("type", "")), to]
        for said, key in (("via", "gateway"), ("dev", "dev"), ("table", "table")):
            words += [said, str(route[key])] if key in route else []
        text = (
            f"the route '{' '.join(words).strip()}' of this host lies in the mesh range {network}:"
            f" packets for members there may not go by {name}; remove it"
        )
        yield _foreign(network, Kind.ROUTE_FOREIGN, text)


def _rules_before(name: str, network: IpNetwork, rules: Sequence[Entry]) -> Iterator[Deviation]:
    for rule in rules:
        preference = rule.get("priority")
        if not isinstance(preference, int) or preference > PREFERENCE + 1:
            return
        if _is_ours(rule, name, 1):
            return
        if _is_ours(rule, name, 0) or not _may_lead_on(rule, name, network):
            continue
        where = f"the table {table}" if (table := rule.get("table")) else "another way"
        text = (
            f"a rule of this host with preference {preference} comes before those of"
            f" this node: what members send to other hosts may go on by {where}"
        )
        yield _foreign(network, Kind.RULE_FOREIGN, text)


def _may_lead_on(rule: Entry, name: str, network: IpNetwork) -> bool:
    """Whether a rule may take what a member sent, whose address is of the mesh, to another host."""
    if rule.get("table") == "local" or rule.get("action") in _ENDS:
        return False
    if rule.get("iif", name) != name:
        return False
    if "not" in rule:
        return True
    source = rule.get("src", "all")
    if source != "all":
        length = rule.get("srclen", network.max_prefixlen)
        # Unlike a route's, what a rule says beyond its length stays, and is printed.
        if not network.overlaps(ip_network(f"{source}/{length}", strict=False)):
            return False
    return not _NEVER_TAKEN.intersection(rule)


def _is_ours(rule: Entry, name: str, place: int) -> bool:
    says = rule.get("action") == "blackhole" if place else rule.get("table") == "local"
    return says and rule.get("iif") == name and rule.get("priority") == PREFERENCE + place


def _connected(address: IpInterface) -> str:
    """The route that the kernel makes by itself when a device gets an address."""
    if address.version == 6:
        return "proto kernel metric 256"
    return f"proto kernel scope link src {address.ip}"


def _missing(network: IpNetwork, kind: Kind, text: str, command: str) -> Deviation:
    difference = Difference(kind=kind, text=text)
    return Deviation(version=network.version, difference=difference, command=command)


def _foreign(network: IpNetwork, kind: Kind, text: str) -> Deviation:
    return Deviation(version=network.version, difference=Difference(kind=kind, text=text))
