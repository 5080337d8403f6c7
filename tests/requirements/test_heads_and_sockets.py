"""Requirements 21 to 24: heads that jump, sockets that go silent or freeze, endless answers."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from websockets.asyncio.server import ServerConnection, serve

from chain.local import assert_same, at, following, local_chain, ws
from dstack_vpn.chain import calls, rpc_socket
from dstack_vpn.chain.providers import open_providers
from dstack_vpn.chain.rpc import MAX_ANSWER, Provider
from dstack_vpn.chain.rpc_http import HttpProvider
from dstack_vpn.chain.rpc_socket import SILENT_AFTER, SocketProvider
from dstack_vpn.errors import ProviderError
from dstack_vpn.mesh.chaintime import ChainState, chain_state
from dstack_vpn.mesh.membership import Address
from dstack_vpn.mesh.snapshot import ChainView, Subscription
from lab.nft import AccessNFT
from lab.rawhttp import serve_raw
from lab.rpcfaults import Delay, Drop, SilentSubscription, Upstream, flip
from lab.rpclag import PinnedHead
from lab.rpcproxy import Proxy
from lab.waiting import until
from requirements.scene import FIRST_HOST, Clock, Scene, providers, scene

DARK_AFTER = 60.0
MEGABYTE = 1024 * 1024


async def test_requirement_21_heads_that_go_back_and_forth_change_nothing(tmp_path: Path) -> None:
    """Requirement 21: a head that flips between old and new, as behind a balancer, moves nobody.

    Neither a peer nor the agreed head goes back, and there is no reorganisation and no new reading
    of the members, whether one of three providers does so or all of them.
    """
    async with scene(tmp_path, rollback_patience=60.0) as s:
        kept, revoked = await s.mint("kept"), await s.mint("revoked")
        await s.follower.start(None)
        old = (await s.chain.block()).number
        await s.nft.revoke(revoked)
        await s.chain.mine(2)
        await s.arrive()
        block = s.membership.block
        assert s.members() == {kept}
        for flipping in (s.proxies[:1], s.proxies):
            for proxy in flipping:
                proxy.fault = flip(PinnedHead(old))
            for _ in range(12):
                view = await s.poll()
                assert s.members() == {kept}
                assert s.membership.block == block
                assert (view.reorgs, view.resyncs, view.alarms) == (0, 1, ())


async def test_requirement_21_two_branches_behind_one_url_are_no_storm(tmp_path: Path) -> None:
    """Requirement 21: a URL with two branches behind it is followed on both, and moves nobody."""
    async with scene(tmp_path, count=2) as s:
        kept = await s.mint("kept")
        await s.follower.start(None)
        fork = ["--fork-url", s.chain.url, "--fork-block-number", str(s.membership.block.number)]
        async with local_chain(tmp_path, "fork", options=fork) as other:
            await other.mine(2)
            await s.chain.mine(2)
            await s.arrive()
            block = s.membership.block
            s.proxies[0].fault = flip(Upstream(other.url))
            for _ in range(12):
                await s.poll()
                assert s.members() == {kept}
                assert s.membership.block == block
            assert (s.view.reorgs, s.view.resyncs) == (0, 1)
            s.proxies[0].honest()
            await s.mint("more")
            await s.arrive()
            await assert_same(s.follower, s.nft)


@contextlib.asynccontextmanager
async def over_sockets(directory: Path) -> AsyncIterator[Scene]:
    """One provider over a WebSocket."""
    clock = Clock()
    async with local_chain(directory) as chain:
        nft = await AccessNFT.deploy(chain)
        async with (
            providers(chain.url, 1) as proxies,
            following(
                nft.address, at(proxies[0].ws_url, FIRST_HOST), now=clock, answer_within=2.0
            ) as follower,
        ):
            yield Scene(nft, proxies, follower, clock)


def state_of(view: ChainView, now: float) -> ChainState:
    """How it stands with a chain that should have a block every 2 s."""
    return chain_state(view, now=now, dark_after=DARK_AFTER, block_time=2.0)


async def test_requirement_22_a_silent_subscription_is_noticed_and_not_needed(
    tmp_path: Path,
) -> None:
    """Requirement 22: with a socket that answers all but tells nothing, polling misses nothing.

    After three heads that it did not tell, the subscription counts as silent, which is told once,
    and the connection is made anew: once, and again not before a minute.
    """
    async with over_sockets(tmp_path) as s:
        (proxy,) = s.proxies
        proxy.fault = SilentSubscription()
        await s.follower.start(None)
        view = s.view
        await until(lambda: proxy.subscribers("newHeads") == 1, "it has subscribed")
        with capture_logs() as told:
            for number in range(4 * SILENT_AFTER):
                await s.mint(f"n{number}")
                view = await s.poll()
                await assert_same(s.follower, s.nft)
                silent = number + 1 >= SILENT_AFTER
                assert (view.providers[0].subscription is Subscription.SILENT) == silent
        assert [line["event"] for line in told].count("chain.subscription_silent") == 1
        assert proxy.methods["eth_subscribe"] == 2
        assert view.providers[0].failures == 0
        assert view.providers[0].healthy

        (provider,) = s.follower._panel.providers
        assert isinstance(provider, SocketProvider)
        provider._renew_from -= rpc_socket.RENEW_EVERY
        await s.mint("later")
        await s.poll()
        await s.poll()
        assert proxy.methods["eth_subscribe"] == 3
        proxy.honest()
        await s.mint("told")
        await until(lambda: told_of(s), "the subscription tells again")
        await s.arrive()


def told_of(s: Scene) -> bool:
    """Whether the only provider's subscription tells of new heads."""
    return s.view.providers[0].subscription is Subscription.LIVE


async def test_requirement_22_a_chain_that_stops_is_noticed_by_the_age_of_its_head(
    tmp_path: Path,
) -> None:
    """Requirement 22: no block comes and the socket is well: that shows by the head's age alone."""
    async with over_sockets(tmp_path) as s:
        await s.mint("a")
        await s.follower.start(None)
        await until(lambda: told_of(s), "it has subscribed")
        view = s.view
        for seconds in range(0, 120, 2):
            s.clock.now += 2
            view = await s.poll()
            standing = seconds + 2 > DARK_AFTER
            expected = ChainState.HALTED if standing else ChainState.FOLLOWING
            assert state_of(view, s.clock()) is expected
        assert told_of(s)
        assert view.agreed_at == s.clock()


TIMES = ("PING_EVERY", "PING_TIMEOUT", "CLOSE_TIMEOUT")


async def test_requirement_23_a_stopped_node_is_noticed_by_pings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requirement 23: a node that is stopped is noticed within two ping intervals, 10 s at most.

    The intervals are a tenth here. When it goes on, the subscription is made again.
    """
    longest = sum(getattr(rpc_socket, name) for name in TIMES)
    assert longest <= 2 * rpc_socket.PING_EVERY
    assert longest <= 10
    for name in TIMES:
        monkeypatch.setattr(rpc_socket, name, getattr(rpc_socket, name) / 10)
    async with local_chain(tmp_path) as chain:
        nft = await AccessNFT.deploy(chain)
        async with following(nft.address, ws(chain.url), answer_within=2.0) as follower:
            await follower.start(None)
            (provider,) = follower._panel.providers
            assert isinstance(provider, SocketProvider)
            live = lambda: provider.subscription is Subscription.LIVE  # noqa: E731
            await until(live, "it has subscribed")
            subscribed = provider.status.requests["eth_subscribe"]
            await chain.pause()
            stopped = time.monotonic()
            await until(lambda: provider._socket is None, "it is noticed")
            assert time.monotonic() - stopped <= longest / 10 + 0.5  # the machine is busy
            view = await follower.poll()
            assert not view.providers[0].healthy
            chain.resume()
            await until(live, "it has subscribed again")
            assert provider.status.requests["eth_subscribe"] > subscribed

            async def well() -> bool:
                return (await follower.poll()).last_error is None

            await until(well, "it is followed again")


def healthy(s: Scene) -> bool:
    """Whether the only provider is said to be."""
    return s.view.providers[0].healthy


async def test_requirement_23_it_is_healthy_when_it_has_caught_up(
    tmp_path: Path,
) -> None:
    """Requirement 23: who was away counts as healthy when what happened meanwhile was read.

    Chain id, first block and code are asked for again as well: it may be another machine.
    """
    async with over_sockets(tmp_path) as s:
        (proxy,) = s.proxies
        await s.mint("before")
        await s.follower.start(None)
        (provider,) = s.follower._panel.providers
        assert isinstance(provider, SocketProvider)
        proxy.fault = Drop()
        proxy.drop()
        await until(lambda: provider._socket is None, "it is noticed")
        await s.poll()
        assert not healthy(s)
        await s.mint("meanwhile")
        await s.chain.mine(20)
        block, known = s.membership.block, proxy.methods["eth_getCode"]

        reading = Delay("eth_getLogs", until=asyncio.Event())
        assert isinstance(reading.until, asyncio.Event)
        proxy.fault = reading
        await until(lambda: told_of(s), "it has subscribed again")
        provider._not_before = 0.0
        async with asyncio.TaskGroup() as group:
            group.create_task(s.follower.poll())
            await until(lambda: bool(reading.held), "it reads what it missed")
            assert proxy.methods["eth_getCode"] == known + 1
            assert not healthy(s)
            assert s.membership.block == block
            reading.until.set()
        assert healthy(s)
        await assert_same(s.follower, s.nft)


# Answers that are large, too large, or without end

CODE = calls.code(Address("0x" + "00" * 20))


@contextlib.asynccontextmanager
async def provider_at(url: str) -> AsyncIterator[Provider]:
    """The provider of a URL."""
    (provider,) = open_providers([url], timeout=30.0)
    async with contextlib.aclosing(provider):
        yield provider


class Answering:
    """A server over HTTP and WebSocket whose one answer has so many bytes; None has no end."""

    def __init__(self, size: int | None) -> None:
        self.size = size
        self.sent = 0

    async def pieces(self) -> AsyncIterator[str]:
        """The answer, piece by piece."""
        yield '{"id": 1, "result": "0x'
        while self.size is None or self.sent < self.size:
            self.sent += 65_536
            yield "ab" * 32_768
        yield '"}'

    async def http(self, writer: asyncio.StreamWriter, _body: bytes) -> None:
        """Over HTTP, in chunks."""
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        async for piece in self.pieces():
            writer.write(f"{len(piece):x}\r\n{piece}\r\n".encode())
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    async def socket(self, socket: ServerConnection) -> None:
        """Over a WebSocket, in fragments of one message."""
        async for text in socket:
            if json.loads(text)["method"] != "eth_subscribe":
                await socket.send(self.pieces())

    @contextlib.asynccontextmanager
    async def open(self, scheme: str) -> AsyncIterator[str]:
        """Start it; its URL."""
        if scheme == "http":
            async with serve_raw(self.http) as url:
                yield url
            return
        async with serve(self.socket, "127.0.0.1", 0, compression=None, ping_interval=None) as up:
            yield f"ws://127.0.0.1:{next(iter(up.sockets)).getsockname()[1]}"


@pytest.mark.parametrize("scheme", ["http", "ws"])
async def test_requirement_24_ten_megabytes_are_read(scheme: str) -> None:
    """Requirement 24: an answer of 10 MB works, over HTTP and over a WebSocket."""
    async with Answering(10 * MEGABYTE).open(scheme) as url, provider_at(url) as provider:
        (found,) = await provider.batch([CODE])
    assert len(found) == 5 * MEGABYTE


@pytest.mark.parametrize("scheme", ["http", "ws"])
@pytest.mark.parametrize("size", [100 * MEGABYTE, None])
async def test_requirement_24_what_is_larger_is_cut_off(scheme: str, size: int | None) -> None:
    """Requirement 24: of an answer of 100 MB, or without end, no more than the limit is read."""
    server = Answering(size)
    async with server.open(scheme) as url, provider_at(url) as provider:
        with pytest.raises(ProviderError):
            await provider.batch([CODE])
        assert MAX_ANSWER <= server.sent <= 1.5 * MAX_ANSWER


async def test_requirement_24_all_bounds_are_set(tmp_path: Path) -> None:
    """Requirement 24: sizes, times and queues have limits of ours, not a library's defaults."""
    (http,) = open_providers(["http://127.0.0.1:1"])
    assert isinstance(http, HttpProvider)
    assert http._pool._max_connections == 4
    assert http._timeout == 10.0
    await http.aclose()
    async with local_chain(tmp_path) as chain, provider_at(ws(chain.url)) as provider:
        await provider.batch([calls.chain_id()])
        assert isinstance(provider, SocketProvider)
        socket = provider._socket
        assert socket is not None
        assert socket.protocol.max_message_size == MAX_ANSWER == 32 * MEGABYTE
        assert socket.max_queue_high == 16
        assert (socket.ping_interval, socket.ping_timeout) == (4.0, 3.0)
        assert socket.close_timeout == 1.0


async def test_requirement_24_a_flood_of_notifications_is_not_kept(tmp_path: Path) -> None:
    """Requirement 24: of any number of heads that are told, the last one is all that is held."""
    async with (
        local_chain(tmp_path) as chain,
        Proxy.open(chain.url) as proxy,
        provider_at(proxy.ws_url) as provider,
    ):
        await provider.batch([calls.chain_id()])
        await until(lambda: proxy.subscribers("newHeads") == 1, "it has subscribed")
        head = await proxy.ask("eth_getBlockByNumber", "latest", False)
        for _ in range(2000):
            await proxy.tell("newHeads", {**head, "padding": "x" * 1000})
        await provider.batch([calls.chain_id()])
        assert isinstance(provider, SocketProvider)
        assert provider.take_head() is not None
        assert provider.take_head() is None
        assert provider._waiting == {}
