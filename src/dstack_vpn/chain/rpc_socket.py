"""A provider over a WebSocket: requests go over it, and it wakes us when there is a new head.

I/O. The subscription is only a wake-up, since subscriptions lose notifications in silence; nothing
is missed when it never says a word. A head that it tells is a hint which spares one question. Where
heads are found by asking and none of them is told, the connection is made anew from time to time:
behind one URL there are many machines, and the next one may tell.
"""

import asyncio
import contextlib
import logging
import random
import ssl
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import httpcore
import msgspec
import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from dstack_vpn.chain.header import Header, parse_header
from dstack_vpn.chain.jsonrpc import (
    Message,
    MessageError,
    Reply,
    Request,
    bound_of,
    check_size,
    decode_messages,
    decode_value,
    encode,
    reply_of,
)
from dstack_vpn.chain.rpc import MAX_ANSWER, Provider
from dstack_vpn.errors import BadAnswerError, ProviderError
from dstack_vpn.mesh.snapshot import Subscription

log = structlog.get_logger()

PING_EVERY = 4.0
PING_TIMEOUT = 3.0
CLOSE_TIMEOUT = 1.0
"""Seconds: a frozen peer is given up after at most 8, which is their sum."""

FIRST_RETRY = 0.1
LONGEST_RETRY = 5.0
"""Seconds between attempts to connect: doubled each time, with jitter."""

SILENT_AFTER = 3
"""Newer heads found by asking, with none told in between, after which a subscription is silent."""
RENEW_EVERY = 60.0
LONGEST_RENEW = 960.0
"""Seconds between connections made anew because of that: doubled while none of them tells."""

_SUBSCRIBE = Request(id=0, method="eth_subscribe", params=("newHeads",))
"""Other requests count from 1."""

_MOST_GIVEN_UP = 200
"""Requests that nobody waits for any more, whose answers may come yet."""

# The library logs the request line, and with it the path of the URL, at level DEBUG.
_silent = logging.getLogger("dstack_vpn.chain.socket.silent")
_silent.disabled = True


class SocketProvider(Provider):
    """A JSON-RPC endpoint at a ``ws`` or ``wss`` URL."""

    def __init__(self, url: str, number: int, *, timeout: float = 10.0) -> None:
        super().__init__(url, number, timeout=timeout)
        self._url = url
        # The same roots as for HTTPS: the system's and those that come with httpcore.
        self._tls = httpcore.default_ssl_context() if urlsplit(url).scheme == "wss" else None
        self._runner: asyncio.Task[None] | None = None
        self._socket: ClientConnection | None = None
        self._tried = asyncio.Event()
        self._connects = 0
        self._problem = "not connected yet"
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._unanswered: dict[int, Request] = {}
        """What was asked on this connection: an answer nobody waits for any more may be large."""
        self._told: msgspec.Raw | None = None
        self._subscribed = False
        self._untold = 0
        self._silent = False
        self._renewing = False
        self._renew_pause = RENEW_EVERY
        self._renew_from = 0.0

    @property
    def subscription(self) -> Subscription:
        """Whether new heads are told."""
        if self._silent:
            return Subscription.SILENT
        return Subscription.LIVE if self._subscribed else Subscription.NONE

    def found_head(self, number: int) -> None:
        """Note its newest verified block, and that the subscription did not tell of it, if so."""
        newer = self.head is not None and number > self.head
        super().found_head(number)
        if not newer or self._socket is None:
            return
        self._untold += 1
        if self._untold >= SILENT_AFTER:
            self._hear_nothing()

    async def aclose(self) -> None:
        """Close the socket and end its task."""
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await runner

    def take_head(self) -> Header | None:
        """The head that was last told, when its hash fits; None otherwise."""
        told, self._told = self._told, None
        if told is None:
            return None
        try:
            params = decode_value(told, _SUBSCRIBE)
            return parse_header(params["result"]) if isinstance(params, dict) else None
        except (BadAnswerError, MessageError, KeyError):
            # Not every server tells whole headers; it was a wake-up all the same.
            return None

    async def _exchange(self, requests: Sequence[Request]) -> Mapping[int, Reply]:
        if self._runner is None:
            # Owned here: kept, never ends by itself, reports failures, ended by `aclose`.
            self._runner = asyncio.create_task(self._run(), name=self.name)  # noqa: TID251
        await self._tried.wait()
        socket = self._socket
        if socket is None:
            raise ProviderError(self.name, self._problem)
        loop = asyncio.get_running_loop()
        futures = {request.id: loop.create_future() for request in requests}
        self._waiting |= futures
        self._unanswered |= {request.id: request for request in requests}
        given_up = [number for number in self._unanswered if number not in self._waiting]
        for number in given_up[:-_MOST_GIVEN_UP]:
            del self._unanswered[number]
        try:
            # As one batch: small answers one by one would wait for each other's acknowledgement
            # where a server leaves Nagle's algorithm on (measured: 40 ms).
            await socket.send(encode(requests), text=True)
            return {request.id: await futures[request.id] for request in requests}
        except WebSocketException:
            raise ProviderError(self.name, self._problem) from None
        finally:
            for number, future in futures.items():
                self._waiting.pop(number, None)
                if not future.cancel() and not future.cancelled():
                    future.exception()  # seen, so that the loop does not complain
            self._renew_if_idle()

    async def _run(self) -> None:
        pause = FIRST_RETRY
        while True:
            try:
                async with self._connect() as socket:
                    pause = FIRST_RETRY
                    await self._listen(socket)
                self._lost("the connection was closed")
            except Exception as error:  # noqa: BLE001 - whatever it is, the answer is to reconnect
                self._lost(_words(error))
            if self._renewing:
                self._renewing = False
                continue
            jitter = 1 + random.random() / 4  # noqa: S311 - spreads load, guards nothing
            await asyncio.sleep(pause * jitter)
            pause = min(LONGEST_RETRY, pause * 2)

    def _connect(self) -> connect:
        return connect(
            self._url,
            ssl=self._tls,
            logger=_silent,
            compression=None,
            proxy=None,
            open_timeout=self._timeout,
            ping_interval=PING_EVERY,
            ping_timeout=PING_TIMEOUT,
            close_timeout=CLOSE_TIMEOUT,
            max_size=MAX_ANSWER,
            max_queue=16,
            user_agent_header=None,
        )

    async def _listen(self, socket: ClientConnection) -> None:
        self._connects += 1
        if self._connects > 1:
            self.generation += 1
        self._socket = socket
        self._untold = 0
        self._problem = "the connection broke"
        self._end_pause()
        self._tried.set()
        self._unanswered = {}
        self._requests[_SUBSCRIBE.method] += 1
        await socket.send(encode([_SUBSCRIBE]), text=True)
        # What happened while it was away is learned by asking.
        self.on_wake()
        async for text in socket:
            may_come = [*self._unanswered.values(), _SUBSCRIBE]
            check_size(text, bound_of(may_come), may_come)
            for message in decode_messages(text):
                self._take(message)

    def _take(self, message: Message) -> None:
        if message.method == "eth_subscription":
            # Decoded when it is wanted: a flood of them costs little.
            self._told = message.params
            self._hear()
            self.on_wake()
            return
        if type(message.id) is int and message.id == _SUBSCRIBE.id:
            self._subscribed = message.error is None
            return
        request = None
        if message.id is None:
            # An error that names no request is about a whole batch; nobody knows which.
            answered = list(self._waiting.values()) if message.error is not None else []
        else:
            request = self._unanswered.pop(message.id, None) if type(message.id) is int else None
            known = request is not None and message.id in self._waiting
            answered = [self._waiting[message.id]] if known else []
        for future in answered:
            if future.done():
                continue
            try:
                future.set_result(reply_of(message, request or _SUBSCRIBE))
            except MessageError as error:
                future.set_exception(error)

    def _hear(self) -> None:
        """Note that the subscription tells."""
        self._untold = 0
        self._renew_pause = RENEW_EVERY
        if self._silent:
            self._silent = False
            log.info("chain.subscription_live", provider=self.name)

    def _hear_nothing(self) -> None:
        """Tell once that the subscription is silent, and connect anew where that is due."""
        if not self._silent:
            self._silent = True
            log.warning("chain.subscription_silent", provider=self.name, heads=self._untold)
        now = asyncio.get_running_loop().time()
        if now < self._renew_from or self._renewing:
            return
        self._untold = 0
        self._renew_from = now + self._renew_pause
        self._renew_pause = min(LONGEST_RENEW, self._renew_pause * 2)
        self._renewing = True
        # Whoever asks from now on waits for the new connection; whoever asked is answered first.
        self._tried.clear()
        self._renew_if_idle()

    def _renew_if_idle(self) -> None:
        if self._renewing and self._socket is not None and not self._waiting:
            socket, self._socket = self._socket, None
            socket.transport.close()

    def _lost(self, problem: str) -> None:
        self._socket = None
        self._problem = problem
        self._told = None
        self._subscribed = False
        if not self._renewing:
            self._tried.set()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ProviderError(self.name, problem))


def _words(error: Exception) -> str:
    """What happened, in our words: the library's may hold parts of the URL."""
    match error:
        case InvalidStatus():
            return f"HTTP status {error.response.status_code} in place of a WebSocket"
        case TimeoutError():
            return "cannot connect in time"
        case ssl.SSLError():
            return "the TLS handshake failed"
        case OSError():
            return "cannot connect"
        case MessageError():
            return str(error)
        case _:
            return f"the connection broke ({type(error).__name__})"
