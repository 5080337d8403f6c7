"""HTTP servers whose every byte is a test's: `serve_http` and `serve_raw`."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

TURNS = 10
"""Of the loop, in which a connection that the kernel gave us just now has got to its handler."""


async def accept_no_more(listeners: Iterable[socket.socket]) -> None:
    """Stop to listen, to be called before a server is closed.

    asyncio takes a connection in two turns of the loop. Of one whose server is closed between them
    it makes a transport that nobody can close any more.
    """
    for listener in listeners:
        asyncio.get_running_loop().remove_reader(listener.fileno())
    for _ in range(TURNS):
        await asyncio.sleep(0)


class Hangup(ConnectionError):  # noqa: N818 - what is done, not what went wrong
    """The connection is to be closed here and now."""


def ok(body: bytes, *, headers: str = "", status: int = 200) -> bytes:
    """A whole HTTP answer."""
    head = f"HTTP/1.1 {status} OK\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
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
    running: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running[task] = writer
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
            del running[task]
            writer.close()

    server = await asyncio.start_server(connected, "0.0.0.0", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        await accept_no_more(server.sockets)
        server.close()
        for _ in range(TURNS):
            for task, writer in list(running.items()):
                # Not closed: that would wait for a client who does not read.
                writer.transport.abort()
                task.cancel()
            await asyncio.sleep(0)
        if running:
            await asyncio.wait(running)
