"""The servers of the lab leave nothing open."""

import asyncio
import contextlib
import gc
import socket
import warnings
from urllib.parse import urlsplit

import pytest

from lab.rawhttp import TURNS, ok, serve_raw
from lab.rpcproxy import Proxy


async def connect(url: str, turns: int) -> socket.socket:
    """Connect as the server is about to close: so many turns of its loop before."""
    parts = urlsplit(url)
    assert parts.port is not None
    client = socket.create_connection(("127.0.0.1", parts.port))
    for _ in range(turns):
        await asyncio.sleep(0)
    return client


@pytest.mark.parametrize("turns", range(TURNS))
async def test_a_connection_that_comes_as_the_server_closes_is_closed(turns: int) -> None:
    """Wherever the loop is with taking it."""

    async def write(writer: asyncio.StreamWriter, _: bytes) -> None:
        writer.write(ok(b"{}"))

    with warnings.catch_warnings(record=True) as left:
        warnings.simplefilter("always")
        async with serve_raw(write) as url:
            one = await connect(url, turns)
        # Nobody answers there: this is about who asks.
        async with Proxy.open("http://127.0.0.1:9") as proxy:
            two = await connect(proxy.url, turns)
        gc.collect()
    assert [str(warning.message) for warning in left] == []
    for client in (one, two):
        client.settimeout(5.0)
        with client, contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
