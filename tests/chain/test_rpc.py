"""Providers over HTTP and WebSocket against servers that misbehave; and nothing leaks."""

import asyncio
import contextlib
import itertools
import json
import logging
import operator
import random
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from chain.local import assert_same, following, new_key, ws
from dstack_vpn.chain import calls, jsonrpc, rpc_http, rpc_socket
from dstack_vpn.chain.jsonrpc import RATE_LIMITS
from dstack_vpn.chain.panel import Panel
from dstack_vpn.chain.providers import open_providers
from dstack_vpn.chain.rpc import Provider
from dstack_vpn.errors import BadAnswerError, ChainError, ProviderError, SettingError
from dstack_vpn.mesh.membership import Address
from lab.nft import AccessNFT
from lab.rpcproxy import ok, serve_http, serve_raw
from lab.waiting import until

KEY = "S3cretKey0123456789"


@contextlib.asynccontextmanager
async def provider_at(url: str, *, within: float = 2.0) -> AsyncIterator[Provider]:
    """A provider of the URL, with a key in each place where one can be."""
    scheme, _, rest = url.partition("://")
    secret = f"{scheme}://user:{KEY}pw@{rest}/v2/{KEY}?apikey={KEY}q"
    (provider,) = open_providers([secret], timeout=within)
    try:
        yield provider
    finally:
        await provider.aclose()


async def answering(answer: bytes) -> Callable[[bytes], Awaitable[bytes]]:
    async def give(_body: bytes) -> bytes:
        return answer

    return give


def reply(result: object, *, number: int = 1) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, "result": result}).encode()


def fault(code: int, message: str) -> bytes:
    return json.dumps({"id": 1, "error": {"code": code, "message": message}}).encode()


HTTP_FAULTS: dict[str, tuple[bytes, str]] = {
    "not HTTP": (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "the answer is not HTTP"),
    "empty": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "not JSON-RPC"),
    "a page": (ok(b"<html>blocked</html>"), "not JSON-RPC"),
    "null": (ok(b"null"), "not JSON-RPC"),
    "another id": (ok(reply("0x1", number=7)), "something else"),
    "no result": (ok(b'{"id":1}'), "neither result nor error"),
    "a redirect": (
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n",
        "HTTP status 302",
    ),
    "an error page": (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "HTTP status 503"),
    "a rate limit": (
        b"HTTP/1.1 429 Too Many\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n",
        "HTTP status 429",
    ),
    "a refusal with its reason": (
        ok(fault(-32602, "up to a 10 block range")).replace(b"200 OK", b"400 Bad Request"),
        "eth_chainId was refused: up to a 10 block range (code -32602)",
    ),
    "a refusal with a page": (
        ok(b"<html>blocked</html>").replace(b"200 OK", b"400 Bad Request"),
        "HTTP status 400",
    ),
    "a refusal with an answer": (
        ok(reply("0x7a69")).replace(b"200 OK", b"400 Bad Request"),
        "HTTP status 400",
    ),
    "an error that echoes the key": (ok(fault(-32000, f"bad key {KEY}")), "bad key …"),
    "compression that was not asked for": (
        ok(b"\x1f\x8b\x08\x00garbage", headers="Content-Encoding: gzip\r\n"),
        "not JSON-RPC",
    ),
}


@pytest.mark.parametrize("name", HTTP_FAULTS)
async def test_a_fault_over_http_is_one_sentence(name: str) -> None:
    """Each is a ProviderError with the provider's name, and none holds a part of the URL."""
    answer, words = HTTP_FAULTS[name]
    async with serve_http(await answering(answer)) as url, provider_at(url) as provider:
        with pytest.raises(ProviderError) as caught:
            await provider.batch([calls.chain_id()])
        assert str(caught.value).startswith("127.0.0.1#1: ")
        assert words in str(caught.value)
        assert provider.status.failures == 1
        assert not provider.status.healthy
        assert_no_secret(caught.value, provider)


def assert_no_secret(error: BaseException, provider: Provider) -> None:
    """Neither the error with all its causes, nor the provider, nor its status tells a key."""
    shown = "".join(traceback.format_exception(error)) + repr(error)
    shown += repr(provider) + str(provider) + repr(provider.status)
    for word in (KEY, "apikey", "/v2/", "user:"):
        assert word not in shown


async def test_a_call_that_is_answered_badly_names_the_method() -> None:
    """A number that is none is refuted by the parser, and the provider is named."""
    async with (
        serve_http(await answering(ok(reply("x")))) as url,
        provider_at(url) as provider,
    ):
        with pytest.raises(BadAnswerError) as caught:
            await provider.batch([calls.chain_id()])
        assert str(caught.value) == (
            "quantity: 127.0.0.1#1 answered eth_chainId with something that is not a number"
        )


async def test_an_answer_of_ten_megabytes_is_read() -> None:
    """Large is not too large."""
    code = "0x" + "ab" * 5_000_000
    async with (
        serve_http(await answering(ok(reply(code)))) as url,
        provider_at(url, within=20.0) as provider,
    ):
        (found,) = await provider.batch([calls.code(Address("0x" + "00" * 20))])
        assert len(found) == 5_000_000


async def endless(writer: asyncio.StreamWriter, _body: bytes) -> None:
    """Send a chunked answer that never ends."""
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b"[" * 65536 + b"\r\n")
        await writer.drain()


async def test_an_endless_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit, not when memory ends."""
    monkeypatch.setattr(rpc_http, "MAX_ANSWER", 2 * 1024 * 1024)
    async with serve_raw(endless) as url, provider_at(url, within=20.0) as provider:
        with pytest.raises(ProviderError, match="more than 2 MB to eth_getCode"):
            await provider.batch([calls.code(Address("0x" + "00" * 20))])
        provider._not_before = 0.0
        with pytest.raises(ProviderError, match="more than 192 kB to eth_chainId"):
            await provider.batch([calls.chain_id()])


HEAVY = b'{"id":1,"result":[' + b"[]," * 10_000_000 + b"[]]}"
"""30 MB; more than 700 MB once it is decoded."""


@pytest.mark.parametrize("scheme", ["http", "ws"])
@pytest.mark.parametrize("call", [calls.chain_id(), calls.code(Address("0x" + "00" * 20))])
async def test_a_heavy_answer_is_refused_undecoded(
    scheme: str, call: calls.Call[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither memory nor time goes to what cannot be the answer, and the limit is named."""
    decoded: list[int] = []
    decode = jsonrpc._one_or_many.decode

    class Counting:
        def decode(self, text: bytes | str) -> object:
            decoded.append(len(text))
            return decode(text)

    monkeypatch.setattr(jsonrpc, "_one_or_many", Counting())

    async def act(socket: ServerConnection) -> None:
        await say(socket, HEAVY.decode())

    server = serve_http(await answering(ok(HEAVY))) if scheme == "http" else serve_socket(act)
    words = rf"^127\.0\.0\.1#1: an answer of more than .* to .*{call.method}"
    async with server as url, provider_at(url, within=20.0) as provider:
        with pytest.raises(ProviderError, match=words):
            await provider.batch([call])
    assert sum(decoded) < 1000


async def test_an_answer_nobody_waits_for_any_more_is_no_fault() -> None:
    """On a socket it may be large and late; what was asked meanwhile is answered all the same."""
    late = asyncio.Event()

    async def act(socket: ServerConnection) -> None:
        held: list[int] = []
        async for text in socket:
            request = json.loads(text)
            if request["method"] == "eth_getCode":
                held.append(request["id"])
                late.set()
            elif request["method"] == "eth_chainId":
                await socket.send(reply("0x" + "ab" * 2**20, number=held.pop()).decode())
                await socket.send(reply("0x1", number=request["id"]).decode())

    code = calls.code(Address("0x" + "00" * 20))
    async with serve_socket(act) as url, provider_at(url) as provider:
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(provider.batch([code]))
            await late.wait()
            asked.cancel()
        assert await provider.batch([calls.chain_id()]) == (1,)
        assert provider.status.failures == 0
        assert isinstance(provider, rpc_socket.SocketProvider)
        assert provider._unanswered == {}


async def drip(writer: asyncio.StreamWriter, _body: bytes) -> None:
    """Send one byte at a time, which never lets a time-out between two bytes pass."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.01)


async def never(_writer: asyncio.StreamWriter, _body: bytes) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("write", [drip, never])
async def test_a_slow_answer_is_cut_off(
    write: Callable[[asyncio.StreamWriter, bytes], Awaitable[None]],
) -> None:
    """The time is that of the whole answer."""
    async with serve_raw(write) as url, provider_at(url, within=0.3) as provider:
        with pytest.raises(ProviderError, match=r"no answer within 0\.3 s") as caught:
            await provider.batch([calls.chain_id()])
        assert_no_secret(caught.value, provider)


async def test_no_cancelled_question_keeps_a_connection() -> None:
    """Whenever those are given up who are not waited for: all connections come free again."""

    async def soon(writer: asyncio.StreamWriter, body: bytes) -> None:
        await asyncio.sleep(random.random() * 0.002)
        writer.write(ok(reply("0x1", number=json.loads(body)["id"])))

    async with serve_raw(soon) as url:
        port = url.rpartition(":")[2]
        urls = [f"http://127.0.0.1:{port}", f"http://localhost:{port}"]
        providers = open_providers([*urls, urls[0] + "/3"], timeout=2.0)
        panel = Panel(
            providers,
            chain_id=1,
            contract=Address("0x" + "11" * 20),
            voters=["a", "b", "c"],
            needed=2,
        )
        plan = {provider: [calls.chain_id()] for provider in providers}
        for _ in range(150):
            assert (await panel.settle(plan, lambda _, value: value[0], "it"))[0] == 1
        for steps in [*range(40)] * 10:
            async with asyncio.TaskGroup() as group:
                asked = group.create_task(providers[0].batch([calls.chain_id()]))
                for _ in range(steps):
                    await asyncio.sleep(0)
                asked.cancel()
        for provider in providers:
            assert isinstance(provider, rpc_http.HttpProvider)
            first = provider._pool
            assert await provider.batch([calls.chain_id()]) == (1,)
            exchanges = provider._exchanges
            await until(partial(operator.not_, exchanges), "what was given up has ended")
            assert all(connection.is_idle() for connection in first.connections)
            assert provider._free._value == 4
            assert provider.status.failures == 0
            await provider.aclose()


async def drip_headers(writer: asyncio.StreamWriter, _body: bytes) -> None:
    """Never come to the end of the headers."""
    writer.write(b"HTTP/1.1 200 OK\r\n")
    for number in itertools.count():
        writer.write(b"X-%d: y\r\n" % number)
        await writer.drain()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("write", [drip, drip_headers, never])
async def test_what_hangs_ends_by_itself(
    write: Callable[[asyncio.StreamWriter, bytes], Awaitable[None]],
) -> None:
    """Four hanging answers, given up at once or at their time, are no reason not to ask again."""
    hanging, taken = True, 0

    async def act(writer: asyncio.StreamWriter, body: bytes) -> None:
        nonlocal taken
        taken += 1
        if hanging:
            await write(writer, body)
        writer.write(ok(reply("0x1", number=json.loads(body)["id"])))

    async with serve_raw(act) as url, provider_at(url, within=0.3) as provider:
        assert isinstance(provider, rpc_http.HttpProvider)
        first = provider._pool
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(provider.batch([calls.chain_id()])) for _ in range(6)]
            await until(lambda: taken == 4, "all connections are in use")
            for task in asked:
                task.cancel()
        hanging = False
        await until(lambda: not provider._exchanges, "they end")
        assert provider._pool is not first
        assert first.connections == []
        assert provider._uses.total() == 0
        assert await provider.batch([calls.chain_id()]) == (1,)


@pytest.mark.parametrize("scheme", ["http", "ws"])
async def test_a_refused_connection(scheme: str) -> None:
    """Nobody listens."""
    async with provider_at(f"{scheme}://127.0.0.1:1") as provider:
        with pytest.raises(ProviderError, match="cannot connect") as caught:
            await provider.batch([calls.chain_id()])
        assert_no_secret(caught.value, provider)


@pytest.mark.parametrize(
    ("scheme", "words"), [("https", "cannot connect"), ("wss", "the TLS handshake failed")]
)
async def test_a_server_without_tls(scheme: str, words: str) -> None:
    """Somebody answers, but not in TLS."""

    async def plain(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with provider_at(f"{scheme}://127.0.0.1:{port}") as provider:
            with pytest.raises(ProviderError, match=words) as caught:
                await provider.batch([calls.chain_id()])
            assert_no_secret(caught.value, provider)


async def test_a_stale_connection_is_no_failure() -> None:
    """A server that closes idle connections costs one more attempt, not an error."""

    async def once(writer: asyncio.StreamWriter, body: bytes) -> None:
        writer.write(ok(reply("0x7a69", number=json.loads(body)["id"])))
        await writer.drain()
        writer.close()

    async with serve_raw(once) as url, provider_at(url) as provider:
        for _ in range(3):
            assert await provider.batch([calls.chain_id()]) == (31337,)
        assert provider.status.failures == 0


async def test_the_pause_after_a_rate_limit_is_what_was_asked_for() -> None:
    """Retry-After is a lower bound, with an upper limit of our own, and no time is spent asking."""
    for asked, least, most in (("7", 7.0, 8.75), ("999999", 60.0, 75.0), ("x", 2.0, 2.5)):
        head = f"HTTP/1.1 429 Busy\r\nRetry-After: {asked}\r\nContent-Length: 0\r\n\r\n"
        async with (
            serve_http(await answering(head.encode())) as url,
            provider_at(url) as provider,
        ):
            with pytest.raises(ProviderError):
                await provider.batch([calls.chain_id()])
            left = provider._not_before - asyncio.get_running_loop().time()
            assert least - 0.5 < left <= most
            with pytest.raises(ProviderError, match="HTTP status 429"):
                await provider.batch([calls.chain_id()])
            assert provider.status.failures == 1
            assert provider.status.requests == {"eth_chainId": 1}


@pytest.mark.parametrize("code", sorted(RATE_LIMITS))
async def test_every_code_of_a_rate_limit_earns_a_pause(code: int) -> None:
    """Also for a call that may fail: it is the provider that is busy."""
    async with (
        serve_http(await answering(ok(fault(code, "slow down")))) as url,
        provider_at(url) as provider,
    ):
        with pytest.raises(ProviderError):
            await provider.batch([calls.optional(calls.chain_id())])
        assert provider._not_before - asyncio.get_running_loop().time() > 1


async def test_pauses_grow_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Doubled with each failure up to the longest."""
    async with provider_at("http://127.0.0.1:1") as provider:
        pauses = []
        for _ in range(9):
            provider._not_before = 0.0
            with pytest.raises(ProviderError):
                await provider.batch([calls.chain_id()])
            pauses.append(provider._not_before - asyncio.get_running_loop().time())
        assert pauses[0] < 0.4
        assert 9.5 < pauses[-1] <= 12.5


async def test_large_batches_are_split(contract: AccessNFT) -> None:
    """Providers limit the size of a batch."""
    await contract.chain.mine(120)
    (provider,) = open_providers([contract.chain.url])
    headers = await provider.batch([calls.header_at(n) for n in range(120)])
    assert [h.block.number for h in headers] == list(range(120))
    await provider.aclose()


Forward = Callable[[str | bytes], bool]


@contextlib.asynccontextmanager
async def socket_proxy(
    url: str,
    *,
    pass_on: Forward = lambda message: True,
    clients: set[ServerConnection] | None = None,
) -> AsyncIterator[str]:
    """A WebSocket proxy that passes on those messages of the server that it is told to."""

    async def handle(client: ServerConnection) -> None:
        if clients is not None:
            clients.add(client)
        async with connect(ws(url), max_size=None) as server:

            async def up() -> None:
                with contextlib.suppress(ConnectionClosed):
                    async for message in client:
                        await server.send(message)
                await server.close()

            async with asyncio.TaskGroup() as group:
                group.create_task(up(), name="up")
                async for message in server:
                    if pass_on(message):
                        await client.send(message)
                await client.close()

    async with serve(handle, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


class Interruptible:
    """A WebSocket proxy whose connections can be cut."""

    def __init__(self) -> None:
        self.url = ""
        self._clients: set[ServerConnection] = set()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, backend: str) -> "AsyncIterator[Interruptible]":
        """Start it in front of a chain."""
        proxy = cls()
        async with socket_proxy(backend, clients=proxy._clients) as proxy.url:
            yield proxy

    async def interrupt(self) -> None:
        """Cut all connections without a word."""
        for client in list(self._clients):
            client.transport.abort()


async def test_a_socket_wakes_and_spares_a_question(contract: AccessNFT) -> None:
    """After a notification one batch brings the change."""
    async with following(contract.address, ws(contract.chain.url)) as follower:
        await follower.start(None)
        await follower._witnesses[0].wait(5)
        await follower.poll()
        before = follower.view.providers[0].requests
        await contract.mint("a", new_key())
        await follower._witnesses[0].wait(60)
        await follower.poll()
        await assert_same(follower, contract)
        after = follower.view.providers[0].requests
        asked = {m: n - before.get(m, 0) for m, n in after.items() if n != before.get(m, 0)}
        assert asked == {"eth_call": 1, "eth_getLogs": 1}


async def test_a_silent_socket_is_polled(contract: AccessNFT) -> None:
    """A subscription that is accepted and never says a word costs latency, nothing else."""
    quiet = lambda message: "eth_subscription" not in str(message)  # noqa: E731
    async with (
        socket_proxy(contract.chain.url, pass_on=quiet) as url,
        following(contract.address, url) as follower,
    ):
        await follower.start(None)
        for i in range(3):
            await contract.mint(f"n{i}", new_key())
            await follower._witnesses[0].wait(0.05)
            await follower.poll()
            await assert_same(follower, contract)


async def test_a_socket_that_breaks_comes_back(contract: AccessNFT) -> None:
    """The loss is noticed, the connection is made again, and what happened meanwhile is found."""
    async with (
        Interruptible.open(contract.chain.url) as between,
        following(contract.address, between.url) as follower,
    ):
        await follower.start(None)
        await contract.mint("a", new_key())
        await between.interrupt()
        await contract.mint("b", new_key())

        async def arrived() -> bool:
            await follower._witnesses[0].wait(0.05)
            membership = (await follower.poll()).membership
            return membership is not None and len(membership.nodes) == 2

        await until(arrived, "both mints are known")
        await assert_same(follower, contract)
        # Chain id, first block and code were checked again.
        assert follower.view.providers[0].requests["eth_chainId"] == 2


async def test_a_frozen_server_is_noticed(
    contract: AccessNFT, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pings tell a stopped process from a quiet chain; afterwards all is as before."""
    monkeypatch.setattr(rpc_socket, "PING_EVERY", 0.2)
    monkeypatch.setattr(rpc_socket, "PING_TIMEOUT", 0.2)
    chain = contract.chain
    async with following(contract.address, ws(chain.url), answer_within=0.5) as follower:
        await follower.start(None)
        provider = follower._panel.providers[0]
        assert isinstance(provider, rpc_socket.SocketProvider)
        generation = provider.generation
        await chain.pause()
        await until(lambda: provider._socket is None, "the silence is noticed", within=5)
        chain.resume()
        await until(lambda: provider._socket is not None, "the socket is back")
        assert provider.generation > generation
        await contract.mint("a", new_key())

        async def arrived() -> bool:
            return (await follower.poll()).last_error is None

        await until(arrived, "the mint is known")
        await assert_same(follower, contract)


SocketAct = Callable[[ServerConnection], Awaitable[None]]


@contextlib.asynccontextmanager
async def serve_socket(act: SocketAct) -> AsyncIterator[str]:
    """A WebSocket server that does one thing with each connection."""
    async with serve(act, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


async def say(socket: ServerConnection, message: str) -> None:
    async for _ in socket:
        await socket.send(message)


SOCKET_FAULTS: dict[str, str] = {
    "garbage": "hello",
    "another id": '{"id": 77, "result": "0x1"}',
    "no result": '{"id": 1}',
    "a batch error": '{"id": null, "error": {"code": -32005, "message": "slow down"}}',
    "an error that echoes the key": json.dumps(
        {"id": 1, "error": {"code": -32000, "message": f"bad key {KEY}"}}
    ),
}


@pytest.mark.parametrize("name", SOCKET_FAULTS)
async def test_a_fault_over_a_socket_is_one_sentence(name: str) -> None:
    """Each is a ProviderError, and none holds a part of the URL."""

    async def act(socket: ServerConnection) -> None:
        await say(socket, SOCKET_FAULTS[name])

    async with serve_socket(act) as url, provider_at(url, within=0.5) as provider:
        with pytest.raises(ProviderError) as caught:
            await provider.batch([calls.chain_id()])
        assert_no_secret(caught.value, provider)


async def test_a_message_above_the_limit_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is not read into memory."""
    monkeypatch.setattr(rpc_socket, "MAX_ANSWER", 100_000)

    async def act(socket: ServerConnection) -> None:
        await say(socket, "x" * 200_000)

    async with serve_socket(act) as url, provider_at(url) as provider:
        with pytest.raises(ProviderError):
            await provider.batch([calls.chain_id()])


async def test_a_flood_of_notifications_is_not_a_flood_of_polls(contract: AccessNFT) -> None:
    """However often a server wakes us, there is a pause between two polls."""
    async with following(contract.address, contract.chain.url) as follower:
        await follower.start(None)
        loop = asyncio.get_running_loop()
        end, polls = loop.time() + 0.5, 0
        while loop.time() < end:
            follower._panel.providers[0].on_wake()
            await follower._witnesses[0].wait(1)
            await follower.poll()
            polls += 1
        assert polls <= 30


async def test_nothing_secret_is_logged(
    contract: AccessNFT, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also at level DEBUG, also of the libraries."""
    caplog.set_level(logging.DEBUG)
    for scheme in ("http", "ws"):
        url = contract.chain.url.replace("http", scheme)
        async with provider_at(url) as provider:
            # anvil takes any path and any login.
            with contextlib.suppress(ChainError):
                await provider.batch([calls.chain_id()])
    async with provider_at("ws://127.0.0.1:1") as provider:
        with contextlib.suppress(ChainError):
            await provider.batch([calls.chain_id()])
    shown = caplog.text + "".join(map(str, capsys.readouterr()))
    for word in (KEY, "apikey", "/v2/"):
        assert word not in shown


def names(*urls: str) -> list[str]:
    return [provider.name for provider in open_providers(urls)]


async def test_providers_are_named_by_host_and_number() -> None:
    """Nothing else of a URL is ever shown."""
    assert names(f"https://u:{KEY}@rpc.example/{KEY}", "ws://[::1]:8546") == [
        "rpc.example#1",
        "::1#2",
    ]


@pytest.mark.parametrize("url", ["http://rpc.é/", "https://é:1/k", "http://rpc.example/é"])
def test_a_url_that_is_not_ascii_is_a_sentence(url: str) -> None:
    """Told by number, for the URL may carry a key."""
    with pytest.raises(SettingError, match=r"^RPC_URL number 1 is no URL; accepted: .* ASCII$"):
        open_providers([url])
