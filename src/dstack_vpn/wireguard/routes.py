"""Whether a range of the mesh overlaps a route of the host. Pure.

A mesh range that overlaps would take over addresses that the host reaches today (a container
bridge, an office network, a provider's metadata service), so it is an error at the start, when
somebody is looking. The same routes tell which endpoints are neighbours, of which only so many may
stay unanswered at once. `link.py` reads the routes.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_network

from dstack_vpn.mesh.device import IpNetwork

PROTOCOL = "216"
"""By which routes of ours are known that lead to no device, ip-route(8); `policy` makes them."""
CATCH_ALL = 1
"""Longest prefix that counts as a default route: some VPNs write theirs as two halves."""

_BEYOND = frozenset({"gateway", "via", "nexthops"})


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the host."""

    network: IpNetwork
    device: str
    """The interface it leads to, empty for none (blackhole, several next hops)."""
    on_link: bool = False
    """Its addresses are neighbours: no gateway, so each is asked for by ARP or its IPv6 kin."""

    def __str__(self) -> str:
        return f"{self.network} dev {self.device}" if self.device else str(self.network)


def parse_routes(text: str, *, version: int) -> tuple[Route, ...]:
    """Read the output of ``ip -json -4|-6 route show table all``.

    Default routes are left out, and so are those of ours that lead to no device.

    Raises:
        ValueError: it is not what iproute2 prints.
    """
    routes = []
    for entry in json.loads(text or "[]"):
        target = entry.get("dst", "default")
        if target == "default" or entry.get("protocol") == PROTOCOL:
            continue
        network = ip_network(target)
        if network.version == version and network.prefixlen > CATCH_ALL:
            device = str(entry.get("dev", ""))
            routes.append(Route(network, device, on_link=_leads_to_neighbours(entry)))
    return tuple(routes)


def _leads_to_neighbours(entry: Mapping[str, object]) -> bool:
    plain = entry.get("type", "unicast") == "unicast"
    return plain and entry.get("dev", "lo") != "lo" and not _BEYOND.intersection(entry)


def overlap(network: IpNetwork, routes: Iterable[Route], *, ignoring: str) -> Route | None:
    """Return the first route that shares an address with the network.

    Args:
        network: a range of the mesh.
        routes: routes of the host.
        ignoring: our own interface, whose routes of an earlier run do not count.
    """
    return next(
        (
            route
            for route in routes
            if route.device != ignoring
            and route.network.version == network.version
            and route.network.overlaps(network)
        ),
        None,
    )
