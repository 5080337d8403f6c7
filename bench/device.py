"""A WireGuard device by its UAPI socket, bare: what a measurement looks at, and what floors use.

Deliberately not the agent's own client: a measurement should not trust what it measures, and looks
for one key in the answer instead of parsing hundreds of peers.
"""

import asyncio
import base64
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

#: Seconds between two looks at a device; times taken with it are late by half of that on average.
#: More often would disturb what is measured: a look at 100 peers takes the device 0.3 ms.
PAUSE = 0.002
PATIENCE = 20.0


def to_hex(key: str) -> bytes:
    """A key in base64 as the device writes it."""
    return base64.b64decode(key).hex().encode()


class Device:
    """One connection to a device; it serves any number of requests."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    @classmethod
    @contextmanager
    def at(cls, run_dir: Path, interface: str = "wg0") -> Iterator[Self]:
        """Connect to the device of a host, by the host's /run as the lab sees it."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.connect(str(run_dir / f"wireguard/{interface}.sock"))
            sock.setblocking(False)
            yield cls(sock)

    async def ask(self, request: bytes) -> bytes:
        """Send a request, and return the answer up to its blank line."""
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._sock, request)
        answer = bytearray()
        while not answer.endswith(b"\n\n"):
            part = await loop.sock_recv(self._sock, 1 << 18)
            if not part:
                raise ConnectionError("the device hung up")
            answer += part
        return bytes(answer)

    async def set(self, *lines: bytes) -> None:
        """Change something; a refusal is an error."""
        answer = await self.ask(b"set=1\n" + b"\n".join(lines) + b"\n\n")
        assert answer == b"errno=0\n\n", answer

    async def peers(self) -> int:
        """How many peers it has."""
        return (await self.ask(b"get=1\n\n")).count(b"public_key=")

    async def sees(self, key: str, *, there: bool = True, within: float = PATIENCE) -> float:
        """Wait until a key (base64) is a peer, or is none any more; the time (time.monotonic)."""
        wanted = b"public_key=" + to_hex(key) + b"\n"
        async with asyncio.timeout(within):
            while True:
                if (wanted in await self.ask(b"get=1\n\n")) is there:
                    return time.monotonic()
                await asyncio.sleep(PAUSE)


async def sees(run_dir: Path, key: str, *, there: bool = True) -> float:
    """Wait until a key is a peer of a host's device, or no longer; the time (time.monotonic)."""
    with Device.at(run_dir) as device:
        return await device.sees(key, there=there)
