"""Watches the kernel's news of our interface, so that a repair need not wait for the next compare.

An interface that was deleted, a wireguard-go that died (its interface goes with it), an address, a
route or a rule that somebody took away: the kernel tells of each at once. What is not told of, such
as a peer that was altered, is found by the periodic compare. The news only wakes the applier; what
is wrong it finds out itself. Formats: rtnetlink(7).

A router may have a million routes that come and go. The kernel sorts them out for us by a filter of
the socket (linux/filter.h, bpf(4)), for what is not read in time is lost, and then looked for.
"""

import array
import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Sequence

import structlog

from dstack_vpn.errors import DeviceError
from dstack_vpn.mesh.device import IpNetwork
from dstack_vpn.wireguard import link
from dstack_vpn.wireguard.netlink import MALFORMED, Message, attributes, split

log = structlog.get_logger()

SETTLE = 0.02
"""Seconds to wait for what belongs together: one deletion is told in many messages."""
PAUSE = 1.0
"""Seconds between two calls at least: somebody may undo what we do again and again."""
AT_ONCE = 64
"""Messages that are read before others on the loop have their turn."""

# Fixed by the kernel: linux/rtnetlink.h, linux/if_link.h, linux/fib_rules.h.
_NEWLINK, _DELLINK, _NEWADDR, _DELADDR, _NEWROUTE, _DELROUTE, _DELRULE = (
    16, 17, 20, 21, 24, 25, 33,
)  # fmt: skip
_GROUPS = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18
"""Links, then addresses, routes and rules of IPv4, and of IPv6."""
_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change mask
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=8BI")  # family, length of the destination, and others
_IFLA_IFNAME, _RTA_DST, _FRA_IIFNAME = 3, 1, 3
_TYPE_AT, _LENGTH_AT = 4, 17
"""Offsets in a message of its type, and in a route's of the length of its destination."""

_FILTER = struct.Struct("=HBBI")  # code, jumps if true and if false, operand
_LOAD_HALF, _LOAD_BYTE, _IF_EQUAL, _RETURN = 0x28, 0x30, 0x15, 0x06
_SO_ATTACH_FILTER = 26
_WHOLE = 0xFFFFFFFF
_BUFFER = 1 << 16


class News:
    """Which messages concern one interface. Pure."""

    def __init__(self, name: str, index: int | None, networks: Iterable[IpNetwork]) -> None:
        """Take what is known of it.

        Args:
            name: interface name.
            index: its number; None while there is none.
            networks: the ranges whose routes matter.
        """
        self._name = name
        self._index = index
        self._ranges = {(n.prefixlen, n.network_address.packed) for n in networks}
        self._lengths = {length for length, _ in self._ranges}

    def concerns(self, message: Message) -> bool:
        """Whether something about our interface changed by itself, or by somebody.

        Raises:
            MALFORMED: not as documented.
        """
        match message.kind:
            case kind if kind in {_NEWLINK, _DELLINK}:
                _, _, index, _, _ = _LINK.unpack_from(message.body)
                named = _text(attributes(message.body[_LINK.size :]).get(_IFLA_IFNAME))
                if named == self._name:
                    self._index = index if kind == _NEWLINK else None
                    return True
                if index != self._index:
                    return False
                self._index = None  # it was given another name
                return True
            case kind if kind in {_NEWADDR, _DELADDR}:
                *_, index = _ADDRESS.unpack_from(message.body)
                return bool(index == self._index)
            case kind if kind == _DELROUTE:
                _, length, *_ = _ROUTE.unpack_from(message.body)
                if length not in self._lengths:
                    return False
                found = attributes(message.body[_ROUTE.size :]).get(_RTA_DST)
                return (length, found) in self._ranges
            case kind if kind == _DELRULE:
                found = attributes(message.body[_ROUTE.size :]).get(_FRA_IIFNAME)
                return _text(found) == self._name
        return False


def routes_filter(lengths: Iterable[int]) -> bytes:
    """Write the filter that lets pass of all routes only those that went, of these lengths.

    Jumps count from the next instruction; the last two let drop and let pass.
    """
    lengths = sorted(lengths)
    rest = len(lengths)
    program = [
        (_LOAD_HALF, 0, 0, _TYPE_AT),
        (_IF_EQUAL, rest + 2, 0, _loaded(_NEWROUTE)),
        (_IF_EQUAL, 0, rest + 2, _loaded(_DELROUTE)),
        (_LOAD_BYTE, 0, 0, _LENGTH_AT),
        *((_IF_EQUAL, rest - place, 0, length) for place, length in enumerate(lengths)),
        (_RETURN, 0, 0, 0),
        (_RETURN, 0, 0, _WHOLE),
    ]
    return b"".join(_FILTER.pack(*instruction) for instruction in program)


def _loaded(number: int) -> int:
    """What a filter, which reads as networks write, makes of a number as this host writes it."""
    return int.from_bytes(number.to_bytes(2, sys.byteorder), "big")


def _attach(kernel: socket.socket, program: bytes) -> None:
    code = array.array("B", program)
    address, size = code.buffer_info()
    described = struct.pack("@HP", size // _FILTER.size, address)
    # Without it all is read here.
    with contextlib.suppress(OSError):
        kernel.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)


async def watch(name: str, networks: Sequence[IpNetwork], changed: Callable[[], None]) -> None:
    """Call back whenever the interface may be another than it was, until cancelled.

    Our own changes are called back too, once. Where the kernel does not let us listen, nothing is
    called back, and the log says so.

    Args:
        name: interface name.
        networks: the ranges of the mesh.
        changed: called on the loop.
    """
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
            kernel.setblocking(False)
            _attach(kernel, routes_filter({network.prefixlen for network in networks}))
            kernel.bind((0, _GROUPS))
            news = News(name, link.index(name), networks)
            # Read all the time, also in the pauses, so that little is lost.
            loop.add_reader(kernel, lambda: _hear(kernel, news, told))
            try:
                while True:
                    await told.wait()
                    await asyncio.sleep(SETTLE)
                    told.clear()
                    changed()
                    await asyncio.sleep(PAUSE)
            finally:
                loop.remove_reader(kernel)
    except (OSError, DeviceError) as error:
        log.warning("link.not_watched", device=name, error=str(error))
        await loop.create_future()


def _hear(kernel: socket.socket, news: News, told: asyncio.Event) -> None:
    """Read what has come, and tell if something of it concerns us; a part of it at a time."""
    try:
        for _ in range(AT_ONCE):
            data, (sender, _) = kernel.recvfrom(_BUFFER)
            if sender == 0 and _concerning(data, news):
                told.set()
    except BlockingIOError:
        return
    except OSError:
        # Of a socket that is bound, nothing but ENOBUFS: something was lost, perhaps about us.
        told.set()


def _concerning(data: bytes, news: News) -> bool:
    try:
        # Each of them is looked at, for the interface's number.
        return bool([message for message in split(data) if news.concerns(message)])
    except MALFORMED:
        return True  # who cannot read it cannot say that it is about others


def _text(value: bytes | None) -> str:
    return "" if value is None else value.rstrip(b"\0").decode("ascii", "replace")
