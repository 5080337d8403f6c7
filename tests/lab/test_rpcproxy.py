"""The proxy that fails and lies, before a real chain, as the real providers meet it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest
import pytest_asyncio

from chain.local import local_chain, new_key
from dstack_vpn.chain import calls, rpc_http, rpc_socket
from dstack_vpn.chain import contract as abi
from dstack_vpn.chain.calls import Call
from dstack_vpn.chain.rpc_socket import SocketProvider
from dstack_vpn.errors import ProviderError
from lab.asking import CONTRACT, answers, ask, asking, logs_of, told
from lab.chain import CHAIN_ID
from lab.nft import AccessNFT
from lab.rpcfault import Fault
from lab.rpcfaults import (
    DEEP,
    Delay,
    Drop,
    Endless,
    Forge,
    Garbage,
    Give,
    Omit,
    RateLimit,
    Reverse,
    SilentSubscription,
    Stall,
    StalledSocket,
    Swap,
    Truncate,
    Upstream,
    flip,
    once,
)
from lab.rpclag import PinnedHead
from lab.rpcproxy import Proxy
from lab.waiting import until

SCHEMES = ["http", "ws"]


@pytest_asyncio.fixture
async def nft(tmp_path: Path) -> AsyncIterator[AccessNFT]:
    """Our contract, with one member, on a chain that makes a block for each transaction."""
    async with local_chain(tmp_path) as chain:
        deployed = await AccessNFT.deploy(chain)
        await deployed.mint("a", new_key())
        yield deployed


@pytest_asyncio.fixture
async def proxy(nft: AccessNFT) -> AsyncIterator[Proxy]:
    """A proxy before it."""
    async with Proxy.open(nft.chain.url) as opened:
        yield opened


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_without_faults_it_is_the_chain(nft: AccessNFT, proxy: Proxy, scheme: str) -> None:
    """Single calls and batches come through, and each of them is counted and kept."""
    async with asking(proxy, scheme) as provider:
        (head,) = await provider.batch([calls.latest()])
        chain_id, changes = await provider.batch([calls.chain_id(), logs_of(head)])
    assert head.block.hash == (await nft.chain.block()).hash
    assert (chain_id, len(changes)) == (CHAIN_ID, 1)
    told = {"eth_subscribe": 1} if scheme == "ws" else {}
    assert proxy.methods == {
        "eth_getBlockByNumber": 1, "eth_chainId": 1, "eth_getLogs": 1, **told
    }  # fmt: skip
    assert proxy.requests == 2 + len(told)
    assert proxy.calls[-1]["params"][0]["blockHash"] == head.block.hash
    proxy.forget()
    assert (proxy.requests, proxy.calls, +proxy.methods) == (0, [], {})


async def test_a_subscription_tells_of_heads(nft: AccessNFT, proxy: Proxy) -> None:
    """A notification of the chain arrives as it is."""
    async with asking(proxy, "ws") as provider:
        await provider.batch([calls.chain_id()])
        await until(lambda: proxy.subscribers("newHeads"), "it subscribed")
        block = await nft.chain.mine()
        await told(provider, block.hash)


OTHER = b"\x66" * 32
EMPTY = "0x" + "00" * 96

LOGS_LIES: dict[str, tuple[Fault, str]] = {
    "all omitted": (Omit("eth_getLogs"), "[]"),
    "forged": (Forge("eth_getLogs", lambda logs: [{**logs[0], "removed": True}]), "log-removed"),
    "null": (Give("eth_getLogs", None), "not a list"),
    "of another type": (Give("eth_getLogs", {"a": [7]}), "not a list"),
    "reversed": (Reverse("eth_getLogs"), "out of order"),
    "refused": (RateLimit("eth_getLogs", code=-32005), "code -32005"),
}


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_lies_about_logs(nft: AccessNFT, proxy: Proxy, scheme: str) -> None:
    """Each is told while it is set and of its method only; several at once add up."""
    await nft.chain.set_automine(False)
    sent = [await nft.submit("setEndpoint(uint256,string)", 1, f"10.0.0.{i}:1") for i in (1, 2)]
    head = await nft.chain.mine()
    for transaction in sent:
        await nft.chain.mined(transaction, sent=0)
    async with asking(proxy, scheme) as provider:
        (newest,) = await provider.batch([calls.header_at(head.number)])
        logs = logs_of(newest)
        honest = await ask(provider, logs)
        assert len(honest) == 2
        for fault, words in LOGS_LIES.values():
            proxy.fault = fault
            assert words in str(await ask(provider, logs))
            assert await ask(provider, calls.chain_id()) == CHAIN_ID
        proxy.fault = Omit("eth_getLogs", [0])
        assert await ask(provider, logs) == honest[1:]
        proxy.fault = Swap("eth_getLogs", honest[0].node.key, OTHER)
        assert {change.node.key for change in await ask(provider, logs)} == {OTHER}
        proxy.fault = [Omit("eth_getLogs", [1]), Give("eth_chainId", "0x7")]
        assert await ask(provider, logs) == honest[:1]
        assert await ask(provider, calls.chain_id()) == 7
        proxy.honest()
        assert await ask(provider, logs) == honest


async def test_a_fault_of_one_view_or_of_some_calls(nft: AccessNFT, proxy: Proxy) -> None:
    """A signature, or a predicate, chooses the calls that are hit."""
    stated = calls.read(CONTRACT, abi.CALL_CHECKPOINT, "latest", abi.decode_checkpoint)
    next_token = calls.next_token_id(CONTRACT, "latest")
    async with asking(proxy) as provider:
        proxy.fault = Give("eth_call", EMPTY, to="checkpoint()")
        checkpoint, next_id = await provider.batch([stated, next_token])
        assert (checkpoint.revision, next_id) == (0, 2)
        proxy.fault = Give("eth_getBlockByNumber", None, where=lambda c: c["params"][0] == "0x1")
        before, at, after = await provider.batch(
            [calls.header_at_or_none(number) for number in (0, 1, 2)]
        )
        assert at is None
        assert (before.block.number, after.block.number) == (0, 2)


BROKEN: dict[str, tuple[Fault, str, str]] = {
    "a 429": (RateLimit(code=429, retry_after=30), "HTTP status 429", "code 429"),
    "a 503": (RateLimit(code=503), "HTTP status 503", "code 503"),
    "-32005": (RateLimit(code=-32005), "code -32005", "code -32005"),
    "-32011": (RateLimit(code=-32011), "code -32011", "code -32011"),
    "-32016": (RateLimit(code=-32016), "code -32016", "code -32016"),
    "a whole answer that is short": (Truncate(breaks=False), "not JSON-RPC", "not JSON-RPC"),
    "an answer that breaks off": (Truncate(), "not HTTP", "broke"),
    "garbage": (Garbage(), "not JSON-RPC", "broke"),
    "null": (Garbage(data=b"null"), "not JSON-RPC", "not JSON-RPC"),
    "deep nesting": (Garbage(data=DEEP), "JSON values", "JSON values"),
    "endless": (Endless(), "an answer of more than", "broke"),
    "dropped": (Drop("eth_chainId"), "not HTTP", "broke"),
}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", BROKEN)
async def test_trouble_on_the_way(
    proxy: Proxy, scheme: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each makes a request fail, in words that tell which one it was, and ends when it is ended."""
    monkeypatch.setattr(rpc_http, "MAX_ANSWER", 500_000)
    monkeypatch.setattr(rpc_socket, "MAX_ANSWER", 500_000)
    fault, over_http, over_socket = BROKEN[name]
    async with asking(proxy, scheme) as provider:
        assert await ask(provider, calls.chain_id()) == CHAIN_ID
        proxy.fault = fault
        words = over_http if scheme == "http" else over_socket
        assert words in str(await ask(provider, calls.chain_id()))
        proxy.honest()
        await answers(provider)


async def test_retry_after_reaches_the_provider(proxy: Proxy) -> None:
    """The header is there, and the provider is left alone for so long."""
    async with asking(proxy) as provider:
        proxy.fault = RateLimit(retry_after=30)
        with pytest.raises(ProviderError) as caught:
            await provider.batch([calls.chain_id()])
        assert caught.value.retry_after == 30


@pytest.mark.parametrize("fault", [RateLimit(), Drop()])
async def test_a_socket_that_is_refused(proxy: Proxy, fault: Fault) -> None:
    """A fault of all methods meets whoever opens a WebSocket as well."""
    async with asking(proxy, "ws") as provider:
        proxy.fault = fault
        assert "127.0.0.1#1" in await ask(provider, calls.chain_id())
        assert not proxy.calls
        proxy.honest()
        await answers(provider)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_delayed_answer_is_an_old_one(nft: AccessNFT, proxy: Proxy, scheme: str) -> None:
    """It comes when the test lets it go, and tells what was true when it was asked for."""
    before = await nft.chain.block()
    async with asking(proxy, scheme) as provider, asyncio.TaskGroup() as group:
        go = asyncio.Event()
        proxy.fault = delay = Delay("eth_getBlockByNumber", go)
        asked = group.create_task(ask(provider, calls.latest()))
        await until(lambda: delay.held, "its answer is held")
        assert await ask(provider, calls.chain_id()) == CHAIN_ID
        await nft.chain.mine()
        go.set()
        assert (await asked).block.hash == before.hash
        proxy.fault = Delay("eth_getBlockByNumber", 0.01)
        assert (await ask(provider, calls.latest())).block.number == before.number + 1


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_stalled_request_is_never_answered(proxy: Proxy, scheme: str) -> None:
    """Others are meanwhile, over the same connection."""
    async with asking(proxy, scheme, within=0.1) as provider:
        assert await ask(provider, calls.chain_id()) == CHAIN_ID
        proxy.fault = Stall("eth_getBlockByNumber")
        assert "no answer within 0.1 s" in await ask(provider, calls.latest())
        assert await ask(provider, calls.chain_id()) == CHAIN_ID


async def test_every_second_request_meets_a_fault(nft: AccessNFT, proxy: Proxy) -> None:
    """As behind a balancer: of two heads, or of two chains; and once is once."""
    head = (await nft.chain.block()).number
    async with Proxy.open(nft.chain.url) as second, asking(proxy) as provider:

        async def heads(count: int) -> list[int]:
            return [(await ask(provider, calls.latest())).block.number for _ in range(count)]

        proxy.fault = flip(PinnedHead(1))
        assert await heads(4) == [head, 1, head, 1]
        proxy.fault = once(PinnedHead(1))
        assert await heads(3) == [1, head, head]
        proxy.fault = flip(Upstream(second.url))
        second.fault = PinnedHead(0)
        assert await heads(4) == [head, 0, head, 0]
        assert second.requests == 2


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_node_that_is_behind(nft: AccessNFT, proxy: Proxy, scheme: str) -> None:
    """It shows an old block as its newest, state as of then, and knows nothing above."""
    old = await nft.chain.block()
    await nft.mint("b", new_key())
    async with asking(proxy, scheme) as provider:
        new = await ask(provider, calls.latest())
        proxy.fault = PinnedHead(old.number)
        head = await ask(provider, calls.latest())
        assert head.block.hash == old.hash
        assert await ask(provider, calls.next_token_id(CONTRACT, "latest")) == 2
        assert await ask(provider, calls.header_at_or_none(new.block.number)) is None
        assert (await ask(provider, calls.header_at(1))).block.number == 1
        assert (await ask(provider, calls.checkpoint(CONTRACT, head.block))).revision == 1
        assert "header not found" in await ask(provider, calls.checkpoint(CONTRACT, new.block))
        assert "unknown block" in await ask(provider, logs_of(new))
        assert len(await ask(provider, logs_of(head))) == 1
        assert await ask(provider, block_number()) == old.number
        for query, count in (({"fromBlock": "0x0"}, 1), ({"fromBlock": hex(new.block.number)}, 0)):
            topics = ["0x" + abi.NODE_CHANGED.hex()]
            logs = Call("eth_getLogs", ({**query, "topics": topics},), lambda value: value)
            found = await ask(provider, logs)
            assert len(found) == count


def block_number() -> Call[int]:
    return Call("eth_blockNumber", (), lambda value: int(str(value), 16))


@pytest.mark.parametrize("fault", [SilentSubscription(), PinnedHead(2)])
async def test_a_silent_subscription(nft: AccessNFT, proxy: Proxy, fault: Fault) -> None:
    """It is taken and tells nothing, of a new block that is; all else goes on."""
    async with asking(proxy, "ws") as provider:
        assert await ask(provider, calls.chain_id()) == CHAIN_ID
        proxy.fault = fault
        await nft.chain.mine()
        await nft.chain.mine()
        assert await ask(provider, calls.chain_id()) == CHAIN_ID
        assert isinstance(provider, SocketProvider)
        assert provider._socket is not None
        await (await provider._socket.ping())
        assert provider.take_head() is None
        proxy.honest()
        block = await nft.chain.mine()
        await told(provider, block.hash)


async def test_a_stalled_socket_is_like_a_stopped_node(proxy: Proxy) -> None:
    """Neither pings nor requests are answered, over either; and then all goes on."""
    async with asking(proxy, "ws", within=0.1) as provider, asking(proxy, within=0.1) as other:
        for one in (provider, other):
            assert await ask(one, calls.chain_id()) == CHAIN_ID
        assert isinstance(provider, SocketProvider)
        assert provider._socket is not None
        proxy.fault = StalledSocket()
        pong = cast("asyncio.Future[float]", await provider._socket.ping())
        for one in (provider, other):
            assert "no answer within 0.1 s" in await ask(one, calls.chain_id())
        assert not pong.done()
        async with asking(proxy, "ws", within=0.1) as newcomer:
            assert isinstance(await ask(newcomer, calls.chain_id()), str)
        proxy.honest()
        await pong
        for one in (provider, other):
            await answers(one)


async def test_a_stalled_socket_answers_later_what_it_was_asked(proxy: Proxy) -> None:
    """What was sent meanwhile is not lost, as after SIGCONT."""
    async with asking(proxy, "ws") as provider, asyncio.TaskGroup() as group:
        assert await ask(provider, calls.chain_id()) == CHAIN_ID
        await until(lambda: proxy.subscribers("newHeads"), "it subscribed")
        proxy.forget()
        proxy.fault = StalledSocket()
        asked = group.create_task(ask(provider, calls.chain_id()))
        async with asking(proxy) as other:
            before = group.create_task(ask(other, calls.latest()))
            await until(lambda: proxy.methods["eth_getBlockByNumber"], "the other one has asked")
            assert proxy.methods["eth_chainId"] == 0
            proxy.honest()
            assert await asked == CHAIN_ID
            assert (await before).block.number == 2


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_connections_that_are_cut(proxy: Proxy, scheme: str) -> None:
    """All at once, at any moment; new ones are taken."""
    async with asking(proxy, scheme) as provider, asyncio.TaskGroup() as group:
        proxy.fault = Stall("eth_getBlockByNumber")
        asked = group.create_task(ask(provider, calls.latest()))
        await until(lambda: proxy.methods["eth_getBlockByNumber"], "it was asked")
        proxy.fault = Drop("eth_getBlockByNumber")
        proxy.drop()
        assert isinstance(await asked, str)
        proxy.honest()
        await answers(provider)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_chain_that_is_gone(nft: AccessNFT, proxy: Proxy, scheme: str) -> None:
    """The proxy closes connections then; it makes nothing up."""
    async with asking(proxy, scheme) as provider:
        assert await ask(provider, calls.chain_id()) == CHAIN_ID
        await nft.chain.kill()
        assert isinstance(await ask(provider, calls.chain_id()), str)
