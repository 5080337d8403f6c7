"""Providers with faults: a proxy that alters answers, and servers that misbehave.

`Proxy` speaks JSON-RPC on both sides and counts what passes; `serve_raw` answers every HTTP request
with the bytes a test gives it.
"""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpcore

Call = dict[str, Any]
Reply = dict[str, Any]
Alter = Callable[[Call, Reply], Reply | None]
"""Gets a call and its honest reply; returns the reply to give, None for the honest one."""


def honest(call: Call, reply: Reply) -> None:
    """Alter nothing."""


class Proxy:
    """A JSON-RPC proxy; made by `open`."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.url = ""
        self.alter: Alter = honest
        self.requests = 0  #: HTTP requests so far
        self.methods: Counter[str] = Counter()
        self._pool = httpcore.AsyncConnectionPool()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, backend: str) -> "AsyncIterator[Proxy]":
        """A proxy on a free port of the loopback interface."""
        proxy = cls(backend)
        async with serve_http(proxy._answer) as url, proxy._pool:
            proxy.url = url
            yield proxy

    async def _answer(self, body: bytes) -> bytes:
        self.requests += 1
        asked = json.loads(body)
        calls: list[Call] = asked if isinstance(asked, list) else [asked]
        self.methods.update(call["method"] for call in calls)
        answer = await self._pool.request(
            "POST", self.backend, headers=[("Content-Type", "application/json")], content=body
        )
        replies = json.loads(answer.content)
        replies = replies if isinstance(replies, list) else [replies]
        by_id = {reply["id"]: reply for reply in replies}
        altered = [self.alter(c, by_id[c["id"]]) or by_id[c["id"]] for c in calls]
        return ok(json.dumps(altered if isinstance(asked, list) else altered[0]).encode())


def ok(body: bytes, *, headers: str = "") -> bytes:
    """A whole HTTP answer."""
    head = f"HTTP/1.1 200 OK\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


Write = Callable[[asyncio.StreamWriter, bytes], Awaitable[None]]


@contextlib.asynccontextmanager
async def serve_http(answer: Callable[[bytes], Awaitable[bytes]]) -> AsyncIterator[str]:
    """A server that answers each POST with the bytes that `answer` gives; its URL."""

    async def write(writer: asyncio.StreamWriter, body: bytes) -> None:
        writer.write(await answer(body))
        await writer.drain()

    async with serve_raw(write) as url:
        yield url


@contextlib.asynccontextmanager
async def serve_raw(write: Write) -> AsyncIterator[str]:
    """A server that leaves the whole answer to `write`; its URL."""
    running: set[asyncio.Task[Any]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length")
                )
                await write(writer, await reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            running.discard(task)
            writer.close()

    server = await asyncio.start_server(connected, "0.0.0.0", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in list(running):
            task.cancel()
        if running:
            await asyncio.wait(running)
