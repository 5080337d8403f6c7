"""What the host's routing says of the mesh: where its packets may go, and where they end.

Held by the applier at each compare, from the agent's start to a wanted stop, whether there is a
device or not:

- Mesh addresses are *unreachable* but by the device. Without that, packets for them would leave by
  the default route, in the clear, while a node is no member or its device is gone.
- The device's own routes to the mesh are there, also after somebody deleted one.
- Unless forwarding is asked for, what members send ends at this node: packets that came in by the
  device and are for another host meet a *blackhole*. A routing rule, not a sysctl: those are
  read-only in containers, and there is none for one interface of IPv6. What is for the node itself
  is looked up before, in the table ``local``.

Routes of others inside of the mesh range, and rules of others before ours, are told once each and
left alone. What differs is found by `deviations`. Reading and writing is iproute2's, ip-route(8)
and ip-rule(8), since neither is ever urgent.
"""

import contextlib
import json
from collections.abc import Iterable, Sequence

import structlog

from dstack_vpn.errors import DeviceError
from dstack_vpn.mesh.audit import Difference, Kind
from dstack_vpn.mesh.device import IpInterface, IpNetwork
from dstack_vpn.wireguard.command import run
from dstack_vpn.wireguard.deviations import (
    Deviation,
    Entry,
    blackhole,
    deviations,
    unreachable,
)

log = structlog.get_logger()


class Policy:
    """The routing policy of one interface."""

    def __init__(self, name: str, networks: Iterable[IpNetwork], *, forwarding: bool) -> None:
        """Nothing happens until a method is called.

        Args:
            name: interface name.
            networks: the ranges of the mesh, at most one of each family.
            forwarding: whether packets of members may go on to other hosts.
        """
        self._name = name
        self._networks = tuple(networks)
        self._forwarding = forwarding
        self._told: frozenset[Difference] = frozenset()

    async def look(self, addresses: Sequence[IpInterface]) -> tuple[Deviation, ...]:
        """Read what is not as it should be, and change nothing.

        Args:
            addresses: of the device, if it is up and has some.

        Raises:
            HostError: iproute2 is not installed.
            DeviceError: it failed, or printed what we do not understand.
        """
        found: list[Deviation] = []
        for network in self._networks:
            family = f"-{network.version}"
            within = ("table", "all", "root", str(network))
            routes = _entries(await run("ip", "-json", family, "route", "show", *within))
            rules = _entries(await run("ip", "-json", family, "rule", "show"))
            try:
                found += deviations(
                    self._name,
                    network,
                    forwarding=self._forwarding,
                    addresses=addresses,
                    routes=routes,
                    rules=rules,
                )
            except (ValueError, TypeError):
                raise _unknown() from None
        return tuple(found)

    async def hold(self, addresses: Sequence[IpInterface]) -> tuple[str, ...]:
        """Put in place what is missing; what that was, in words.

        Args:
            addresses: of the device, if it is up and has some.

        Raises:
            HostError: no right to configure routes.
            DeviceError: iproute2 failed.
        """
        found = await self.look(addresses)
        self._tell([d.difference for d in found if not d.command])
        for version in (4, 6):
            lines = [d.command for d in found if d.version == version and d.command]
            if lines:
                text = "\n".join((*lines, ""))
                # -force: one refused line must not keep the others from being tried.
                await run("ip", f"-{version}", "-force", "-batch", "-", stdin=text)
        return tuple(d.command for d in found if d.command)

    async def release(self) -> None:
        """Take it all away after a wanted stop; no error for what is gone already."""
        for network in self._networks:
            lines = [f"route delete {unreachable(network)}"]
            lines += [f"rule delete {rule}" for rule in blackhole(self._name)]
            for line in lines:
                with contextlib.suppress(DeviceError):
                    await run("ip", f"-{network.version}", *line.split())

    def _tell(self, foreign: Sequence[Difference]) -> None:
        """Log what others did: each once, and again where it went and came back."""
        for difference in dict.fromkeys(foreign):
            if difference in self._told:
                continue
            if difference.kind is Kind.ROUTE_FOREIGN:
                log.warning("host.foreign_route", reason=difference.text)
            else:
                log.warning("host.foreign_rule", reason=difference.text)
        self._told = frozenset(foreign)


def _entries(text: str) -> list[Entry]:
    try:
        found = json.loads(text or "[]")
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise _unknown()
    return found


def _unknown() -> DeviceError:
    return DeviceError("ip printed routes or rules in a form that we do not know")
