"""Whether a range of the mesh overlaps a route of the host. Pure.

A mesh range that overlaps would take over addresses that the host reaches today (a container
bridge, an office network, a provider's metadata service), so it is an error at the start, when
somebody is looking. `link.py` reads the routes.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_network

from dstack_vpn.mesh.device import IpNetwork

CATCH_ALL = 1
"""Longest prefix that counts as a default route: some VPNs write theirs as two halves."""


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the host."""

    network: IpNetwork
    device: str
    """The interface it leads to, empty for none (blackhole, several next hops)."""

    def __str__(self) -> str:
        return f"{self.network} dev {self.device}" if self.device else str(self.network)


def parse_routes(text: str, *, version: int) -> tuple[Route, ...]:
    """Read the output of ``ip -json -4|-6 route show table all``, default routes left out.

    Raises:
        ValueError: it is not what iproute2 prints.
    """
    routes = []
    for entry in json.loads(text or "[]"):
        target = entry.get("dst", "default")
        if target == "default":
            continue
        network = ip_network(target)
        if network.version == version and network.prefixlen > CATCH_ALL:
            routes.append(Route(network, str(entry.get("dev", ""))))
    return tuple(routes)


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
