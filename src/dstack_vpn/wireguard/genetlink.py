"""Generic netlink over its socket: finding a family, sending requests, reading dumps.

The kernel does the work of a request within the call that sends it, and writes the next part of a
dump within the call that reads one, each time waiting for its lock of all interfaces. So every call
is made in a thread: a socket that is set not to block would block the loop all the same. Formats:
netlink(7) and "Generic Netlink" of the kernel's documentation; `netlink` is what lies below them.
"""

import asyncio
import errno
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from dstack_vpn.errors import DeviceError, HostError
from dstack_vpn.wireguard import netlink
from dstack_vpn.wireguard.netlink import ACK, DUMP, GENERIC, MALFORMED, REQUEST, Message

TIMEOUT = 5.0
"""Seconds until the kernel must have answered."""
MAX_ANSWER = 64 * 2**20
"""Bytes; 10,000 peers take about 3 MB."""
BUFFER = 2**16
"""Bytes that are read at once; the kernel writes parts of at most 32 KiB."""

# Fixed by the kernel: linux/netlink.h, linux/genetlink.h.
_NETLINK_GENERIC = 16
_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_CONTROLLER, _CONTROLLER_VERSION, _GETFAMILY = 0x10, 2, 3
_FAMILY_ID, _FAMILY_NAME = 1, 2

Dial = Callable[[], socket.socket]
"""How a socket is opened that leads to the kernel."""


class InterruptedDumpError(Exception):
    """What was dumped changed meanwhile, or a part was lost: read it again."""


def dial() -> socket.socket:
    """Open a socket that leads to the kernel of this network namespace.

    Raises:
        OSError: none is to be had.
    """
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_GENERIC)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
    # Refusals in words, and without an echo of the request, which may hold the private key.
    for option in (_EXT_ACK, _CAP_ACK):
        sock.setsockopt(_SOL_NETLINK, option, 1)
    return sock


class Channel:
    """A socket that speaks to one family."""

    def __init__(self, name: str, sock: socket.socket) -> None:
        """Take a device's name for the sentences, and a socket."""
        self._name = name
        self._sock = sock
        self._sequence = secrets.randbits(31)
        self.family = _CONTROLLER

    async def request(self, body: bytes) -> None:
        """Send a request and wait until it was carried out.

        Raises:
            OSError: the kernel refused it; its own words are in the text.
            HostError: we may not ask for that.
            DeviceError: no answer in time, or one that cannot be read.
        """
        try:
            async for _ in self._exchange(body, ACK):
                pass
        except InterruptedDumpError:
            raise DeviceError(f"{self._name}: an answer of the kernel was lost") from None

    async def ask(self, body: bytes, *, dump: bool = False) -> AsyncIterator[bytes]:
        """Send a request and give the bodies of what is answered.

        Raises:
            OSError: the kernel refused it; its own words are in the text.
            InterruptedDumpError: what was given so far contradicts itself; ask again.
            HostError: we may not ask for that.
            DeviceError: no answer in time, or one that cannot be read.
        """
        async for answer in self._exchange(body, DUMP if dump else ACK):
            yield answer.body

    async def _exchange(self, body: bytes, flags: int) -> AsyncIterator[Message]:
        """Give each message of an answer, up to the verdict at its end."""
        self._sequence += 1
        request = netlink.message(self.family, REQUEST | flags, self._sequence, body)
        part = await self._call(self._first, request)
        size = 0
        while size <= MAX_ANSWER:
            size += len(part)
            for answer in self._answers(part):
                if answer.flags & netlink.DUMP_INTERRUPTED:
                    raise InterruptedDumpError
                if answer.kind in {netlink.NLMSG_ERROR, netlink.NLMSG_DONE}:
                    self._judge(answer)
                    return
                yield answer
            part = await self._call(self._next)
        raise DeviceError(f"{self._name}: the kernel answers without end")

    def _answers(self, part: bytes) -> list[Message]:
        """Split a part; answers to a request that was given up are left out."""
        try:
            return [one for one in netlink.split(part) if one.sequence == self._sequence]
        except MALFORMED:
            raise DeviceError(f"{self._name}: the kernel's answer is malformed") from None

    def _judge(self, answer: Message) -> None:
        try:
            error = netlink.refusal(answer)
        except MALFORMED:
            raise DeviceError(f"{self._name}: the kernel's answer is malformed") from None
        if error is not None and error.errno in {errno.EPERM, errno.EACCES}:
            raise HostError(
                "no right to configure WireGuard: run as root or with the capability NET_ADMIN"
            )
        if error is not None:
            raise error

    async def _call(self, function: Callable[..., bytes], *arguments: bytes) -> bytes:
        try:
            async with asyncio.timeout(TIMEOUT):
                part = await asyncio.to_thread(function, *arguments)
        except TimeoutError:
            raise DeviceError(f"{self._name} did not answer within {TIMEOUT:g} s") from None
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                raise InterruptedDumpError from None
            raise DeviceError(f"{self._name}: no word with the kernel ({error.strerror})") from None
        if not part:
            raise DeviceError(f"{self._name}: the kernel hung up in the middle of an answer")
        return part

    def _first(self, request: bytes) -> bytes:
        self._sock.settimeout(TIMEOUT)  # so that no thread outlives its exchange for long
        self._sock.send(request)
        return self._sock.recv(BUFFER)

    def _next(self) -> bytes:
        return self._sock.recv(BUFFER)


@asynccontextmanager
async def connect(name: str, family: str, dial: Dial = dial) -> AsyncIterator[Channel | None]:
    """Open a channel to a family; None when the kernel does not have it.

    Asking for a family makes the kernel load the module that has it.

    Args:
        name: the device that is spoken about in sentences.
        family: such as ``wireguard``.
        dial: how a socket is opened.

    Raises:
        HostError: we may not ask.
        DeviceError: no socket, no answer in time, or one that cannot be read.
    """
    try:
        opened = dial()
    except OSError as error:
        if error.errno in {errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}:
            yield None  # a kernel without netlink, such as a sandbox's
            return
        raise DeviceError(f"{name}: no socket to the kernel ({error.strerror})") from None
    with opened as sock:
        channel = Channel(name, sock)
        number = await _resolve(channel, family)
        if number is not None:
            channel.family = number
        yield None if number is None else channel


async def _resolve(channel: Channel, family: str) -> int | None:
    named = netlink.attribute(_FAMILY_NAME, family.encode("ascii") + b"\0")
    found: int | None = None
    try:
        async for body in channel.ask(GENERIC.pack(_GETFAMILY, _CONTROLLER_VERSION, 0) + named):
            (found,) = netlink.U16.unpack(netlink.attributes(body[GENERIC.size :])[_FAMILY_ID])
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise DeviceError(f"{family} cannot be looked up: {error.strerror}") from None
    except (InterruptedDumpError, *MALFORMED):
        raise DeviceError(f"{family} cannot be looked up: the answer is malformed") from None
    return found
