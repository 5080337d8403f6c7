"""The interface of a device: up, MTU, addresses, and the routes around it.

Used by the backends, and by the bridge at the start for `check_ranges`. Addresses carry the prefix
of the mesh (10.213.0.7/16), so the kernel's connected routes lead to all members and no route is
ever added per peer. Forwarding and every other interface stay as they are.

Reading is done at every change, so it is by `rtnetlink`. Writing is rare and iproute2's work: one
process of some milliseconds, where a netlink library is 19 MB for good.
"""

import errno
import fcntl
import socket
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from dstack_vpn.errors import DeviceError, HostError
from dstack_vpn.mesh.device import (
    DeviceChange,
    IpInterface,
    IpNetwork,
    SeenDevice,
    SeenPeer,
)
from dstack_vpn.mesh.diff import sorted_networks
from dstack_vpn.mesh.keys import PublicKey
from dstack_vpn.wireguard.command import run
from dstack_vpn.wireguard.routes import Route, overlap, parse_routes
from dstack_vpn.wireguard.rtnetlink import LinkState, read_link

_SIOCGIFINDEX = 0x8933
"""The kernel's question for an interface's number, netdevice(7)."""
_INDEX = "16si20x"
"""Its struct ifreq: the name, the number, and what fills its 40 bytes."""

_IPV6_SYSCTL = Path("/proc/sys/net/ipv6/conf")


def exists(name: str) -> bool:
    """Whether the interface exists in our network namespace.

    Raises:
        DeviceError: that cannot be found out now.
    """
    return index(name) is not None


def read(name: str) -> LinkState | None:
    """Read an interface; None when there is none.

    Raises:
        DeviceError: the kernel refused, or answered in a form that we do not know.
    """
    number = index(name)
    return None if number is None else read_link(number)


def seen_device(
    name: str,
    state: LinkState,
    *,
    public_key: PublicKey | None,
    listen_port: int,
    peers: Mapping[PublicKey, SeenPeer],
) -> SeenDevice:
    """Put together what the kernel says of the interface and what WireGuard says of the device."""
    return SeenDevice(
        name=name,
        public_key=public_key,
        listen_port=listen_port,
        mtu=state.mtu,
        up=state.up,
        addresses=state.addresses,
        peers=peers,
    )


def index(name: str) -> int | None:
    """The interface's number; None only where the kernel says that there is none.

    Raises:
        DeviceError: that cannot be found out now.
    """
    # Not socket.if_nametoindex, whose one error also stands for "too many open files": a device
    # taken for gone would be ended and made anew.
    request = struct.pack(_INDEX, name.encode(), 0)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as kernel:
            answer = fcntl.ioctl(kernel, _SIOCGIFINDEX, request)
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None
        raise DeviceError(f"interface {name} cannot be looked up: {error.strerror}") from None
    return int(struct.unpack(_INDEX, answer)[1])


async def alter(name: str, change: DeviceChange) -> tuple[str, ...]:
    """Carry out the link side of a change; return warnings, as sentences.

    IPv6 addresses are left out, with a warning, where IPv6 is switched off for the interface: a
    mesh without IPv6 is better than none.

    Raises:
        HostError: no right to configure interfaces.
        DeviceError: the kernel refused; the other parts of the change were made nevertheless.
    """
    warnings: tuple[str, ...] = ()
    additions = change.add_addresses
    if any(address.version == 6 for address in additions) and not ipv6_enabled(name):
        additions = tuple(address for address in additions if address.version == 4)
        warnings = (ipv6_warning(name),)
    lines = render_link(name, change, additions)
    if lines:
        # -force: one refused line must not keep the others from being tried.
        await run("ip", "-force", "-batch", "-", stdin="\n".join((*lines, "")))
    return warnings


def render_link(
    name: str, change: DeviceChange, additions: Iterable[IpInterface]
) -> tuple[str, ...]:
    """Write the link side of a change as lines for ``ip -batch``."""
    lines = [f"address delete {address} dev {name}" for address in change.remove_addresses]
    if change.mtu is not None:
        lines.append(f"link set dev {name} mtu {change.mtu}")
    if change.up:
        lines.append(f"link set dev {name} up")
    for address in additions:
        # Without nodad an IPv6 address would be tentative, and unusable, for a second or two.
        suffix = " nodad" if address.version == 6 else ""
        lines.append(f"address replace {address} dev {name}{suffix}")
    return tuple(lines)


async def add_wireguard(name: str) -> None:
    """Make an interface whose packets the kernel's WireGuard carries."""
    await run("ip", "link", "add", "dev", name, "type", "wireguard")


async def set_down(name: str) -> None:
    """Take the link down; the next diff brings it up again."""
    await run("ip", "link", "set", "dev", name, "down")


async def delete(name: str) -> None:
    """Delete the interface; a userspace device notices and ends."""
    await run("ip", "link", "delete", "dev", name)


def ipv6_enabled(name: str = "default") -> bool:
    """Whether an interface (or, by default, one yet to be made) may have IPv6 addresses."""
    if not exists(name):
        name = "default"
    try:
        return (_IPV6_SYSCTL / name / "disable_ipv6").read_text().strip() == "0"
    except OSError:  # a kernel without IPv6
        return False


def ipv6_warning(name: str) -> str:
    """Say what is missing where `ipv6_enabled` is false."""
    return (
        f"IPv6 is switched off for {name}: it gets its IPv4 address only "
        "(sysctl net.ipv6.conf.all.disable_ipv6=0 switches it on)"
    )


async def host_routes() -> tuple[Route, ...]:
    """All routes of our network namespace, in every table, default routes left out.

    Raises:
        HostError: iproute2 is not installed.
        DeviceError: it failed, or printed what we do not understand.
    """
    routes: list[Route] = []
    for version in (4, 6):
        text = await run("ip", "-json", f"-{version}", "route", "show", "table", "all")
        try:
            routes += parse_routes(text, version=version)
        except (ValueError, AttributeError, TypeError):
            raise DeviceError("ip printed routes in a form that we do not know") from None
    return tuple(routes)


async def on_link_networks(*, ignoring: str) -> tuple[IpNetwork, ...]:
    """Networks of this host's own links, in which an absent neighbour never answers; sorted.

    Args:
        ignoring: our own interface, whose networks do not count.

    Raises:
        HostError: iproute2 is not installed.
        DeviceError: the routes could not be read.
    """
    routes = await host_routes()
    return sorted_networks(r.network for r in routes if r.on_link and r.device != ignoring)


async def check_ranges(networks: Iterable[IpNetwork], name: str) -> None:
    """Refuse mesh ranges that the host uses already; run it before the device gets addresses.

    Args:
        networks: the ranges of the mesh.
        name: our own interface, whose routes do not count.

    Raises:
        HostError: names the range and the route.
        DeviceError: the routes could not be read.
    """
    routes = await host_routes()
    for network in networks:
        route = overlap(network, routes, ignoring=name)
        if route is not None:
            # The IPv6 range follows from the contract: there is nothing to set.
            choice = "set another IPV4_RANGE, or " if network.version == 4 else ""
            raise HostError(
                f"the mesh range {network} overlaps the route {route} of this host: "
                f"{choice}remove that route"
            )
