"""One interface as the kernel has it, asked by rtnetlink: state, MTU and addresses.

I/O at the end, pure parsing above it. This is read before and after every change of a device, where
a process of `ip` would cost more than the change itself, and could fail when processes are scarce.
Writing stays with iproute2 (`link`), for it is rare. Formats: rtnetlink(7); `netlink` is what lies
below it.
"""

import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface

from dstack_vpn.errors import DeviceError
from dstack_vpn.mesh.device import IpInterface
from dstack_vpn.mesh.diff import sorted_interfaces
from dstack_vpn.wireguard import netlink
from dstack_vpn.wireguard.netlink import DUMP, HEADER, MALFORMED, attributes

# Fixed by the kernel: linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h.
_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change mask
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_NEWLINK, _GETLINK, _NEWADDR, _GETADDR = 16, 18, 20, 22
_IFLA_MTU = 4
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFF_UP = 0x1

_GONE = {errno.ENODEV, errno.ENXIO}
_BUFFER = 1 << 16
_TIMEOUT = 2.0
"""Seconds; the kernel answers within the call that asks."""
_TRIES = 5
"""Dumps that a change of the table interrupted are asked for again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkState:
    """An interface as the kernel has it."""

    mtu: int
    up: bool
    addresses: tuple[IpInterface, ...]
    """Sorted, without link-local ones."""


class _InterruptedError(Exception):
    """The table changed while it was dumped."""


def read_link(index: int) -> LinkState | None:
    """Read an interface by its index; None when there is none.

    Raises:
        DeviceError: the kernel refused, or answered in a form that we do not know.
    """
    for _ in range(_TRIES):
        try:
            link = _ask(_GETLINK, 0, _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0))
            addresses = _ask(_GETADDR, DUMP, _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, index))
            return parse_link(link, addresses, index)
        except _InterruptedError:
            continue
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise DeviceError(f"the interface cannot be read: {error.strerror}") from None
        except MALFORMED:
            raise DeviceError(
                "the kernel told an interface in a form that we do not know"
            ) from None
    raise DeviceError("the interface cannot be read: its addresses change all the time")


def parse_link(link: bytes, addresses: bytes, index: int) -> LinkState | None:
    """Put the two answers together.

    Args:
        link: the answer to RTM_GETLINK.
        addresses: the answer to a dump with RTM_GETADDR, perhaps of all interfaces.
        index: the interface.

    Raises:
        OSError: the kernel's own error.
        MALFORMED: not as documented.
    """
    found = next((body for kind, body in messages(link) if kind == _NEWLINK), None)
    if found is None:
        return None
    _, _, _, flags, _ = _LINK.unpack_from(found)
    mtu = attributes(found[_LINK.size :])[_IFLA_MTU]
    told = (_interface(body, index) for kind, body in messages(addresses) if kind == _NEWADDR)
    return LinkState(
        mtu=netlink.U32.unpack(mtu)[0],
        up=bool(flags & _IFF_UP),
        addresses=sorted_interfaces(a for a in told if a is not None and not a.is_link_local),
    )


def _interface(body: bytes, index: int) -> IpInterface | None:
    family, prefix, _, _, of = _ADDRESS.unpack_from(body)
    if of != index:
        return None
    told = attributes(body[_ADDRESS.size :])
    # Of a point-to-point address, IFA_ADDRESS is the other end and IFA_LOCAL our own.
    raw = told.get(_IFA_LOCAL, told.get(_IFA_ADDRESS))
    if raw is None:
        return None
    if family == socket.AF_INET:
        return IPv4Interface((raw, prefix))
    return IPv6Interface((raw, prefix)) if family == socket.AF_INET6 else None


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Split netlink messages into type and body, up to the end of a dump.

    Raises:
        OSError: the kernel answered with an error.
        MALFORMED: not as documented.
    """
    for message in netlink.split(data):
        if message.flags & netlink.DUMP_INTERRUPTED:
            raise _InterruptedError
        if message.kind == netlink.NLMSG_ERROR and (error := netlink.refusal(message)):
            raise error
        if message.kind == netlink.NLMSG_DONE:
            return
        yield message.kind, message.body


def _ask(kind: int, flags: int, body: bytes) -> bytes:
    """Send one request and bring everything that belongs to its answer."""
    request = netlink.message(kind, netlink.REQUEST | flags, 1, body)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(_TIMEOUT)
        kernel.send(request)
        answer = kernel.recv(_BUFFER)
        while flags & DUMP and not _complete(answer):
            answer += kernel.recv(_BUFFER)
    return answer


def _complete(answer: bytes) -> bool:
    """Whether a dump has come to its end, or to an error."""
    offset = 0
    while offset + HEADER.size <= len(answer):
        length, kind, _, _, _ = HEADER.unpack_from(answer, offset)
        if kind in {netlink.NLMSG_DONE, netlink.NLMSG_ERROR} or length < HEADER.size:
            return True
        offset += netlink.aligned(length)
    return False
