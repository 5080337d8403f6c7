"""Ports of the user's own network that lead into a lab, for a browser outside.

A socket stays in the network namespace in which it was made. So the outer process opens listening
sockets on 127.0.0.1 before it enters a world, their descriptors pass through `scripts/lab`, and
the process inside accepts on them and relays to a host:

    outside:  sockets = listen(2)
              subprocess.run(["scripts/lab", ...], pass_fds=[s.fileno() for s in sockets])
    inside:   async with published(fd, str(host.ip4), 8080) as url: print(url)
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

CHUNK = 1 << 16


def listen(count: int) -> list[socket.socket]:
    """Open listening sockets on free ports of this side's 127.0.0.1."""
    return [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]


@asynccontextmanager
async def published(fd: int, host: str, port: int) -> AsyncIterator[str]:
    """Relay what connects to an inherited listening socket to an address of this side.

    Yields:
        The URL under which the outside reaches it.
    """
    listener = socket.socket(fileno=fd)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            try:
                inner_reader, inner_writer = await asyncio.open_connection(host, port)
            except OSError:
                return  # the connection closes, as it would at a port where nobody listens
            with contextlib.closing(inner_writer):
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(copy(reader, inner_writer))
                    tasks.create_task(copy(inner_reader, writer))

    server = await asyncio.start_server(serve, sock=listener)
    async with server:
        outer_host, outer_port = listener.getsockname()
        yield f"http://{outer_host}:{outer_port}"


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one direction to its end, and pass the end on."""
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(CHUNK):
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()
