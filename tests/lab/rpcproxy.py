"""A provider with faults: a JSON-RPC proxy before a real chain, over HTTP and WebSocket.

`Proxy` counts what passes and applies whatever faults are set at the moment: `rpcfaults` has the
ready-made ones, `rpcforger` whole blocks that never were. `serve_http` and `serve_raw` are servers
that answer every HTTP request with the bytes a test gives them.
"""

import asyncio
import contextlib
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

import httpcore
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import WebSocketException
from websockets.http11 import Request, Response

from lab.rawhttp import Hangup, accept_no_more, ok, serve_http, serve_raw
from lab.rpcfault import Ask, Body, Call, Fault, HttpStatus, Reply, error

__all__ = ["Alter", "Call", "Proxy", "Reply", "ok", "serve_http", "serve_raw"]

Alter = Callable[[Call, Reply], Reply | None]
"""Gets a call and its honest reply; returns the reply to give, None for the honest one."""


_SUBSCRIPTIONS = ("eth_subscribe", "eth_unsubscribe")


def honest(call: Call, reply: Reply) -> None:
    """Alter nothing."""


class Proxy:
    """A JSON-RPC proxy; made by `open`."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.url = ""
        self.ws_url = ""
        self.alter: Alter = honest
        self.requests = 0  #: HTTP requests and WebSocket messages so far
        self.methods: Counter[str] = Counter()
        self.calls: list[Call] = []  #: all of them, as they came
        self._faults: tuple[Fault, ...] = ()
        self._pool = httpcore.AsyncConnectionPool()
        self._writers: set[asyncio.StreamWriter] = set()
        self._sockets: dict[ServerConnection, dict[str, str]] = {}  # what each subscribed to, by id
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._ids = itertools.count(1)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, backend: str) -> "AsyncIterator[Proxy]":
        """A proxy on free ports of the loopback interface, under all of its addresses."""
        proxy = cls(backend)
        sockets = serve(
            proxy._serve_socket,
            "0.0.0.0",
            0,
            process_request=proxy._meet,
            compression=None,
            ping_interval=None,
            open_timeout=None,
            max_size=None,
        )
        # The pool is closed last: who is still being served may ask by it.
        async with proxy._pool, serve_raw(proxy._serve_http) as proxy.url, sockets as server:
            proxy.ws_url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            try:
                yield proxy
            finally:
                await accept_no_more(server.sockets)
                proxy.drop()

    # What a test sets and asks

    @property
    def fault(self) -> Sequence[Fault]:
        """The faults in force; the first one is the nearest to the chain."""
        return self._faults

    @fault.setter
    def fault(self, faults: Fault | Iterable[Fault]) -> None:
        self._faults = (faults,) if isinstance(faults, Fault) else tuple(faults)
        frozen = any(fault.freezes for fault in self._faults)
        (self._flowing.clear if frozen else self._flowing.set)()
        for socket in self._sockets:
            self._freeze(socket)

    def honest(self) -> None:
        """End all faults."""
        self.alter, self.fault = honest, ()

    def forget(self) -> None:
        """Count from zero again."""
        self.requests = 0
        self.methods.clear()
        self.calls.clear()

    def drop(self) -> None:
        """Cut all connections without a word; new ones are taken."""
        for transport in (
            *(s.transport for s in self._sockets),
            *(w.transport for w in self._writers),
        ):
            transport.abort()

    async def ask(self, method: str, *params: Any) -> Any:
        """Ask the chain itself; the result."""
        call = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}
        (reply,) = await self._fetch(self.backend, [call])
        if "error" in reply:
            raise LookupError(f"{method}: {reply['error']}")
        return reply["result"]

    def subscribers(self, kind: str) -> int:
        """How many subscriptions there are to a kind, such as newHeads."""
        return sum(list(kinds.values()).count(kind) for kinds in self._sockets.values())

    async def tell(self, kind: str, result: Any) -> None:
        """Tell everybody who subscribed to a kind."""
        for socket, subscribed in list(self._sockets.items()):
            for number in [n for n, k in subscribed.items() if k == kind]:
                params = {"subscription": number, "result": result}
                message = {"jsonrpc": "2.0", "method": "eth_subscription", "params": params}
                await socket.send(json.dumps(message))

    # From a request to its answer

    async def _answer(self, body: bytes | str, subscribe: Ask | None = None) -> Body:
        """Answer what came, over whatever it came.

        Args:
            body: a call or a batch.
            subscribe: answers calls about subscriptions.
        """
        asked = json.loads(body)
        calls: list[Call] = asked if isinstance(asked, list) else [asked]
        self.requests += 1
        self.methods.update(call["method"] for call in calls)
        self.calls += calls
        faults = [fault for chosen in self._faults if (fault := chosen.turn()) is not None]
        backend = next((url for fault in faults if (url := fault.backend())), self.backend)
        plain = [c for c in calls if subscribe is None or c["method"] not in _SUBSCRIPTIONS]
        # All at once and before any fault has its say: a batch stays one request for the chain.
        known = await self._fetch(backend, plain) if plain else []

        async def ask(call: Call) -> Reply:
            if subscribe is not None and call["method"] in _SUBSCRIPTIONS:
                return await subscribe(call)
            for asked, reply in zip(plain, known, strict=True):
                if asked is call:
                    return reply
            return (await self._fetch(backend, [call]))[0]

        try:
            async with asyncio.TaskGroup() as group:
                answering = [group.create_task(_through(faults, call, ask)) for call in calls]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        replies = [task.result() for task in answering]
        given = [self.alter(*pair) or pair[1] for pair in zip(calls, replies, strict=True)]
        answer: Body = json.dumps(given if isinstance(asked, list) else given[0]).encode()
        for fault in faults:
            if any(map(fault.hits, calls)):
                answer = fault.body(answer)
        return answer

    async def _fetch(self, backend: str, calls: Sequence[Call]) -> list[Reply]:
        """Ask a chain for all of these in one request."""
        content = json.dumps(calls if len(calls) > 1 else calls[0]).encode()
        headers = [("Content-Type", "application/json")]
        try:
            answer = await self._pool.request("POST", backend, headers=headers, content=content)
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise Hangup(f"{backend} is away") from error
        replies = json.loads(answer.content)
        by_id = {reply["id"]: reply for reply in (replies if len(calls) > 1 else [replies])}
        return [by_id[call["id"]] for call in calls]

    async def _serve_http(self, writer: asyncio.StreamWriter, body: bytes) -> None:
        self._writers.add(writer)
        try:
            answer = await self._answer(body)
            await self._flowing.wait()
        except HttpStatus as refused:
            writer.write(ok(b"", headers=refused.headers, status=refused.status))
        else:
            if isinstance(answer, bytes):
                writer.write(ok(answer))
                return
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
            async for piece in answer:
                writer.write(piece)
                await writer.drain()

    # WebSockets

    async def _meet(self, socket: ServerConnection, _request: Request) -> Response | None:
        try:
            await self._flowing.wait()
            for fault in self._faults:
                await fault.meet()
        except Hangup:
            socket.transport.abort()
        except HttpStatus as refused:
            return socket.respond(refused.status, "")
        return None

    def _freeze(self, socket: ServerConnection) -> None:
        """Read from a socket or not, pings too, which the library answers."""
        transport = socket.transport
        (transport.resume_reading if self._flowing.is_set() else transport.pause_reading)()

    async def _serve_socket(self, socket: ServerConnection) -> None:
        subscribed = self._sockets[socket] = {}
        url = self.backend.replace("http://", "ws://")
        try:
            async with (
                connect(url, compression=None, max_size=None) as chain,
                asyncio.TaskGroup() as group,
            ):
                asked: dict[int, asyncio.Future[Reply]] = {}

                async def subscribe(call: Call) -> Reply:
                    number = next(self._ids)
                    asked[number] = asyncio.get_running_loop().create_future()
                    await chain.send(json.dumps({**call, "id": number}))
                    reply = {**await asked[number], "id": call["id"]}
                    if call["method"] == "eth_subscribe" and "result" in reply:
                        subscribed[reply["result"]] = call["params"][0]
                    return reply

                tasks = {group.create_task(self._pass_on(chain, socket, asked), name="told")}
                async for text in socket:
                    answer = self._answer_socket(socket, text, subscribe)
                    tasks.add(group.create_task(answer, name="answer"))
                for task in tasks:
                    task.cancel()
        except* (OSError, WebSocketException):
            socket.transport.abort()
        finally:
            del self._sockets[socket]

    async def _pass_on(
        self, chain: ClientConnection, socket: ServerConnection, asked: dict[int, Any]
    ) -> None:
        """What the chain says over its socket: answers about subscriptions, and what they tell."""
        async for text in chain:
            said: dict[str, Any] | None = json.loads(text)
            if said and said.get("method") != "eth_subscription":
                asked[said["id"]].set_result(said)
                continue
            for fault in self._faults:
                said = fault.notify(said) if said else None
            if said:
                await self._flowing.wait()
                await socket.send(json.dumps(said))
        raise Hangup("the chain closed its socket")

    async def _answer_socket(
        self, socket: ServerConnection, text: str | bytes, subscribe: Ask
    ) -> None:
        try:
            answer = await self._answer(text, subscribe)
        except HttpStatus as refused:
            calls = json.loads(text)
            each = [
                error(c, refused.status, "") for c in (calls if type(calls) is list else [calls])
            ]
            answer = json.dumps(each if type(calls) is list else each[0]).encode()
        await self._flowing.wait()
        await socket.send(answer, text=True)


async def _through(faults: Sequence[Fault], call: Call, ask: Ask) -> Reply:
    """Answer a call through the faults that it meets, the last one first."""
    if not faults:
        return await ask(call)
    *nearer, last = faults

    async def ask_nearer(asked: Call) -> Reply:
        return await _through(nearer, asked, ask)

    return await (last.answer(call, ask_nearer) if last.hits(call) else ask_nearer(call))
