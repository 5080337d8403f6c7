"""Ways in which a provider of chain data fails, each a value to set on a `Proxy`.

    proxy.fault = Omit("eth_getLogs")
    proxy.fault = [PinnedHead(7), flip(RateLimit("eth_call", code=-32005))]
    proxy.honest()

Each hits the calls of a method (all by default), perhaps only of one view of the contract (`to`) or
those that fit a predicate (`where`). In a list the first one is the nearest to the chain. `rpclag`
has the node that is behind, `rpcforger` the one that makes up blocks.
"""

# ruff: noqa: D102 - what a method is for is said by the base class

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from lab.rawhttp import Hangup
from lab.rpcfault import Ask, Body, Call, Fault, HttpStatus, OnCalls, Reply, error, result

DEEP = b"[" * 100_000
"""For `Garbage`: deeper than a parser can go."""


# Lies


@dataclass(frozen=True)
class Forge(OnCalls):
    """Give what a function makes of the result."""

    change: Callable[[Any], Any] = lambda value: value

    async def answer(self, call: Call, ask: Ask) -> Reply:
        return result(call, self.change((await ask(call)).get("result")))


@dataclass(frozen=True)
class Give(OnCalls):
    """Give a value, such as null or one of another type."""

    value: Any = None

    async def answer(self, call: Call, ask: Ask) -> Reply:
        return result(call, self.value)


@dataclass(frozen=True)
class Omit(OnCalls):
    """Leave out elements of a list: those with these indices, all by default."""

    indices: Sequence[int] | None = None

    async def answer(self, call: Call, ask: Ask) -> Reply:
        full = (await ask(call)).get("result")
        if not isinstance(full, list) or self.indices is None:
            return result(call, [])
        return result(call, [one for i, one in enumerate(full) if i not in self.indices])


@dataclass(frozen=True)
class Reverse(OnCalls):
    """Give a list in the wrong order."""

    async def answer(self, call: Call, ask: Ask) -> Reply:
        return result(call, (await ask(call))["result"][::-1])


@dataclass(frozen=True)
class Swap(OnCalls):
    """Put other bytes, such as another key, wherever some bytes are in the result."""

    old: bytes = b""
    new: bytes = b""

    async def answer(self, call: Call, ask: Ask) -> Reply:
        text = json.dumps(await ask(call))
        swapped: Reply = json.loads(text.replace(self.old.hex(), self.new.hex()))
        return swapped


# Trouble on the way


@dataclass(frozen=True)
class Delay(OnCalls):
    """Hold the answer, which was right when it was asked for, until told or for some seconds."""

    until: asyncio.Event | float = 0.0
    held: list[Call] = field(default_factory=list, init=False, compare=False)
    """Those whose answer was there already, in their order."""

    async def answer(self, call: Call, ask: Ask) -> Reply:
        reply = await ask(call)
        self.held.append(call)
        if isinstance(self.until, asyncio.Event):
            await self.until.wait()
        else:
            await asyncio.sleep(self.until)
        return reply


@dataclass(frozen=True)
class Stall(OnCalls):
    """Take the request and never answer it; of a WebSocket, pings are answered."""

    async def answer(self, call: Call, ask: Ask) -> Reply:
        never: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        return await never


@dataclass(frozen=True)
class Drop(OnCalls):
    """Close the connection in place of an answer; of all methods, refuse WebSockets too."""

    async def answer(self, call: Call, ask: Ask) -> Reply:
        raise Hangup

    async def meet(self) -> None:
        if self.method == "*":
            raise Hangup


@dataclass(frozen=True)
class RateLimit(OnCalls):
    """Refuse: with an HTTP status such as 429 or 503, or where below zero a JSON-RPC error."""

    code: int = 429
    retry_after: int | None = None
    """Seconds, in the header of an HTTP answer."""

    async def answer(self, call: Call, ask: Ask) -> Reply:
        if self.code < 0:
            return error(call, self.code, "over rate limit")
        raise HttpStatus(self.code, self.retry_after)

    async def meet(self) -> None:
        if self.code > 0 and self.method == "*":
            raise HttpStatus(self.code, self.retry_after)


@dataclass(frozen=True)
class Truncate(OnCalls):
    """Give the first bytes of the answer only."""

    keep: int = 20
    breaks: bool = True
    """More are announced, and the connection breaks; otherwise it is a whole answer of so many."""

    def body(self, body: Body) -> Body:
        assert isinstance(body, bytes)
        return self._broken(body) if self.breaks else body[: self.keep]

    async def _broken(self, body: bytes) -> AsyncIterator[bytes]:
        yield body[: self.keep]
        raise Hangup


@dataclass(frozen=True)
class Garbage(OnCalls):
    """Give these bytes in place of the answer, such as `DEEP`."""

    data: bytes = b"\x00\xff\xfe"

    def body(self, body: Body) -> Body:
        return self.data


@dataclass(frozen=True)
class Endless(OnCalls):
    """Give an answer that never ends."""

    piece: bytes = b"[" * 65_536

    def body(self, body: Body) -> Body:
        return self._pieces()

    async def _pieces(self) -> AsyncIterator[bytes]:
        while True:
            yield self.piece


# Sockets


class SilentSubscription(Fault):
    """Take subscriptions and tell nothing; all else is answered, pings too."""

    def notify(self, told: dict[str, Any]) -> None:
        return None


class StalledSocket(Fault):
    """Keep every connection open and neither read nor write, pings included, like a stopped node.

    What was asked meanwhile is answered when this ends.
    """

    freezes = True


# Balancers and nodes that are behind


@dataclass(frozen=True)
class Upstream(Fault):
    """Ask another node, such as one of another branch; subscriptions stay where they are."""

    url: str

    def backend(self) -> str:
        return self.url


@dataclass(frozen=True)
class Turns(Fault):
    """A fault that only some requests meet, one after the other; notifications never do."""

    fault: Fault
    turns: Iterator[bool]

    def turn(self) -> Fault | None:
        return self.fault.turn() if next(self.turns) else None


def flip(fault: Fault) -> Turns:
    """Every second request meets a fault, as behind a balancer; the next one is honest."""
    return Turns(fault, itertools.cycle((False, True)))


def once(fault: Fault) -> Turns:
    """Only the next request meets a fault."""
    return Turns(fault, itertools.chain((True,), itertools.repeat(False)))
