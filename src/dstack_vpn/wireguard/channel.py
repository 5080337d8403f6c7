"""The UAPI text over the unix socket of a userspace WireGuard.

One connection carries any number of requests. Each exchange has a time limit, because a device
whose packets are stuck may never answer. The text itself is `uapi.py`.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from dstack_vpn.errors import DeviceError, HostError
from dstack_vpn.wireguard.uapi import CHUNK, END, GET, GetReader, Request, UapiDevice, parse_errno

TIMEOUT = 5.0
"""Seconds without any progress in an exchange."""
LONGEST = 6
"""Times `TIMEOUT` for a whole one: reading a large device takes a busy machine that long."""
MAX_ANSWER = 64 * 2**20
"""Bytes; 10,000 peers take about 3 MB."""
PART = 2**16
"""Bytes that are read at once: 200 peers, some milliseconds of work."""
HEAD_START = 0.001
"""Seconds for which a device that was given much is left alone with it. It is woken on the very
processor that woke it, and begins when we pause: else our writing would not go on beside its work,
but before it."""

_UCRED = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED


class Channel:
    """A connection to a device."""

    def __init__(self, name: str, sock: socket.socket) -> None:
        self._name = name
        self._sock = sock
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        self.pid: int = _UCRED.unpack(credentials)[0]
        """The process that listens; 0 when it is outside of our PID namespace."""

    async def get(self) -> UapiDevice:
        """Read the device.

        Raises:
            DeviceError: no answer in time, or one that cannot be read.
        """
        reader = GetReader()
        try:
            async with self._exchange(GET) as parts:
                async for part in parts:
                    reader.feed(part)
                    if reader.done:
                        break
                    # A large device answers for longer than others on the loop should wait.
                    await asyncio.sleep(0)
            return reader.device()
        except ValueError as error:
            raise DeviceError(f"{self._name}: {error}") from None

    async def set(self, request: Request) -> int:
        """Send a request; return 0, or the device's (negative) error number.

        Raises:
            DeviceError: no answer in time, or one that cannot be read.
        """
        async with self._exchange(request.text) as parts:
            return await self._errno(parts)

    async def set_all(
        self, requests: Iterable[Request]
    ) -> AsyncGenerator[tuple[Request, int], None]:
        """Send requests one after the other; give each with the device's answer to it, see `set`.

        While the device works on one, the next is written. It is not sent before the answer:
        wireguard-go reads ahead while it takes a request, and forgets what it read of the next.
        """
        waiting = iter(requests)
        request = next(waiting, None)
        while request is not None:
            async with self._exchange(request.text) as parts:
                if len(request.peers) >= CHUNK:
                    await asyncio.sleep(HEAD_START)
                following = next(waiting, None)
                errno = await self._errno(parts)
            yield request, errno
            request = following

    async def _errno(self, parts: AsyncIterator[bytes]) -> int:
        answer = bytearray()
        async for part in parts:
            answer += part
            if answer.endswith(END):
                break
        try:
            return parse_errno(bytes(answer))
        except ValueError as error:
            raise DeviceError(f"{self._name}: {error}") from None

    @asynccontextmanager
    async def _exchange(self, request: bytes) -> AsyncIterator[AsyncIterator[bytes]]:
        """Send a request; what comes back is given as it comes, until nobody wants more."""
        try:
            async with (
                asyncio.timeout(LONGEST * TIMEOUT),
                asyncio.timeout(TIMEOUT) as progress,
                aclosing(self._parts(progress)) as parts,
            ):
                await asyncio.get_running_loop().sock_sendall(self._sock, request)
                yield parts
        except TimeoutError:
            raise DeviceError(f"{self._name} did not answer within {TIMEOUT:g} s") from None
        except OSError as error:
            raise DeviceError(f"{self._name} hung up: {error.strerror}") from None

    async def _parts(self, progress: asyncio.Timeout) -> AsyncGenerator[bytes, None]:
        loop = asyncio.get_running_loop()
        size = 0
        while size <= MAX_ANSWER:
            part = await loop.sock_recv(self._sock, PART)
            if not part:
                raise DeviceError(f"{self._name} hung up in the middle of an answer")
            size += len(part)
            progress.reschedule(loop.time() + TIMEOUT)
            yield part
        raise DeviceError(f"{self._name} answers without end")


@asynccontextmanager
async def connect(name: str, path: Path) -> AsyncIterator[Channel | None]:
    """Connect to the socket; None when nobody listens there.

    Raises:
        HostError: we may not use the socket.
        DeviceError: the socket is there but did not take the connection.
    """
    try:
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:  # too many open files
        raise DeviceError(f"{name}: no socket for {path} ({error.strerror})") from None
    with opened as sock:
        sock.setblocking(False)
        try:
            async with asyncio.timeout(TIMEOUT):
                await asyncio.get_running_loop().sock_connect(sock, str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            channel = None
        except PermissionError:
            raise HostError(f"no right to speak to {path}: run as root") from None
        except OSError as error:  # a time-out is one too
            reason = error.strerror or str(error) or "time-out"
            raise DeviceError(f"{name}: cannot connect to {path} ({reason})") from None
        else:
            channel = Channel(name, sock)
        yield channel
