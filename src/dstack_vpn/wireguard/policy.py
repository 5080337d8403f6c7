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

Reading and writing is iproute2's, ip-route(8) and ip-rule(8), since neither is ever urgent.
"""

import contextlib
import json
from collections.abc import Iterable, Sequence

from dstack_vpn.errors import DeviceError
from dstack_vpn.mesh.device import IpInterface, IpNetwork
from dstack_vpn.wireguard.command import run
from dstack_vpn.wireguard.routes import PROTOCOL

PREFERENCE = 5182
"""Of the rule: before the table ``main`` (32766), after ``local`` (0)."""
_METRIC = {4: 4278198272, 6: 2147483647}
"""Worse than any route of the device: the largest that the family takes, or nearly."""


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

    async def hold(self, addresses: Sequence[IpInterface]) -> tuple[str, ...]:
        """Put in place what is missing; what that was, in words.

        Args:
            addresses: of the device, if it is up and has some.

        Raises:
            HostError: no right to configure routes.
            DeviceError: iproute2 failed.
        """
        done: list[str] = []
        for network in self._networks:
            missing = await self._missing(network, addresses)
            if missing:
                text = "\n".join((*missing, ""))
                # -force: one refused line must not keep the others from being tried.
                await run("ip", f"-{network.version}", "-force", "-batch", "-", stdin=text)
            done += missing
        return tuple(done)

    async def release(self) -> None:
        """Take it all away after a wanted stop; no error for what is gone already."""
        for network in self._networks:
            family = f"-{network.version}"
            for line in (
                ("route", "delete", *self._unreachable(network)),
                ("rule", "delete", *self._rule()),
            ):
                with contextlib.suppress(DeviceError):
                    await run("ip", family, *line)

    async def _missing(self, network: IpNetwork, addresses: Sequence[IpInterface]) -> list[str]:
        version = network.version
        family = f"-{version}"
        text = await run(
            "ip", "-json", family, "route", "show", "table", "main", "root", str(network)
        )
        routes = [r for r in _entries(text) if r.get("dst") == str(network)]
        text = await run("ip", "-json", family, "rule", "show", "pref", str(PREFERENCE))
        ruled = any(
            r.get("iif") == self._name and r.get("action") == "blackhole" for r in _entries(text)
        )
        lines = []
        if not any(r.get("type") == "unreachable" for r in routes):
            lines.append(("route", "add", *self._unreachable(network)))
        own = [a for a in addresses if a.version == version and a.network == network]
        if own and not any(r.get("dev") == self._name for r in routes):
            lines.append(("route", "add", str(network), "dev", self._name, *_connected(own[0])))
        if ruled == self._forwarding:
            verb = "delete" if self._forwarding else "add"
            lines.append(("rule", verb, *self._rule()))
        return [" ".join(line) for line in lines]

    def _unreachable(self, network: IpNetwork) -> tuple[str, ...]:
        metric = str(_METRIC[network.version])
        return ("unreachable", str(network), "metric", metric, "proto", PROTOCOL)

    def _rule(self) -> tuple[str, ...]:
        return ("pref", str(PREFERENCE), "iif", self._name, "blackhole")


def _connected(address: IpInterface) -> tuple[str, ...]:
    """The route that the kernel makes by itself when a device gets an address."""
    if address.version == 6:
        return ("proto", "kernel", "metric", "256")
    return ("proto", "kernel", "scope", "link", "src", str(address.ip))


def _entries(text: str) -> list[dict[str, object]]:
    try:
        found = json.loads(text or "[]")
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise DeviceError("ip printed routes or rules in a form that we do not know")
    return found
