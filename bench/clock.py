"""When the chain told of a block: the start of what is measured, stamped by the kernel.

A subscription of our own to the node that the agent follows. The kernel notes when each segment
arrived (SO_TIMESTAMPNS, socket(7)), so nothing need be read while something is measured, and it
does not matter how late this process is.
"""

import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from bench.bare import WebSocket
from lab.chain import Chain

SO_TIMESTAMPNS = 35  #: asm-generic/socket.h; Python has no name for it
_STAMP = struct.Struct("qq")
_ROOM = 256
PATIENCE = 20.0


class BlockClock:
    """Tells at which time (time.monotonic) the node told of a block first."""

    def __init__(self, subscriptions: "Sequence[_Subscription]") -> None:
        self._subscriptions = subscriptions

    @classmethod
    @contextmanager
    def of(cls, chain: Chain) -> Iterator[Self]:
        """Subscribe to a chain, twice: whom a busy node tells first is chance."""
        where = chain.url.removeprefix("http://")
        with _Subscription(where) as one, _Subscription(where) as two:
            yield cls((one, two))

    def told(self, number: int) -> float:
        """When the node told of the block with this number.

        To be asked for before the next block is made: of two messages in one the last one counts.
        """
        return min(subscription.told(number) for subscription in self._subscriptions)


class _Subscription(WebSocket):
    """One subscription to new heads."""

    def __init__(self, where: str) -> None:
        self._arrived = 0.0
        super().__init__(where)
        self._sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._sock.settimeout(PATIENCE)
        self.send("eth_subscribe", "newHeads")
        assert "result" in self.receive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def told(self, number: int) -> float:
        """When this one was told of a block."""
        while True:
            message: dict[str, Any] = self.receive()
            if int(message["params"]["result"]["number"], 16) == number:
                return self._arrived

    def _more(self) -> None:
        part, notes, _, _ = self._sock.recvmsg(1 << 16, _ROOM)
        # Else the node may hold back the end of its next message until the last one is known to
        # have arrived, which the kernel says 40 ms late to those who do not answer.
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        if not part:
            raise ConnectionError("the node hung up")
        self._arrived = time.monotonic()
        for level, kind, data in notes:
            if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
                seconds, nanoseconds = _STAMP.unpack(data)
                self._arrived += seconds + nanoseconds / 1e9 - time.time()
        self._got += part
