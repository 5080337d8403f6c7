"""Requirements 1 to 3: whom a follower believes to begin with, and what it begins with."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from chain.local import assert_same, following, local_chain, new_key, seen_by
from chain.samples import word
from dstack_vpn.chain import checkpoint_kind, pages
from dstack_vpn.chain.rpc_http import HttpProvider
from dstack_vpn.errors import ChainError, WrongChainError
from dstack_vpn.mesh.membership import BlockHash, Membership
from dstack_vpn.mesh.snapshot import AlarmCode
from lab.nft import AccessNFT
from lab.rpcfault import Ask, Call, Fault, Reply, block_of, calldata, selector
from lab.rpcfaults import Drop, Forge, Upstream
from lab.rpcproxy import Proxy
from lab.waiting import until
from requirements.scene import scene, urls

GET_NODES = "getNodes(uint256,uint256)"
HASH_NODES = "hashNodes(uint256,uint256)"
CODE = "0x60006000fd"

WRONG: dict[str, tuple[Callable[[Membership], Membership], str]] = {
    "chain id": (lambda saved: saved, "serves the chain with id 31337"),
    "genesis": (lambda saved: replace(saved, genesis=BlockHash("0x" + "11" * 32)), "another chain"),
    "code": (lambda saved: replace(saved, code_hash=b"\x11" * 32), "shows other code"),
}


@pytest.mark.parametrize("what", WRONG)
async def test_requirement_01_another_chain_or_contract_is_no_start(
    tmp_path: Path, what: str
) -> None:
    """Requirement 1: a start ends where chain id, first block or code is not the expected one."""
    change, told = WRONG[what]
    async with scene(tmp_path) as s:
        await s.mint("a")
        saved: Membership | None = change(await s.follower.start(None))
        chain_id = 31337
        if what == "chain id":
            saved, chain_id = None, 8453
        async with following(
            s.nft.address, *urls(s.proxies), quorum=2, chain_id=chain_id
        ) as follower:
            with pytest.raises(WrongChainError, match=told):
                await follower.start(saved)
            assert not follower.view.verified


async def other_chain(nft: AccessNFT, other: AccessNFT, proxy: Proxy) -> None:
    proxy.fault = Upstream(other.chain.url)


async def other_id(nft: AccessNFT, other: AccessNFT, proxy: Proxy) -> None:
    proxy.fault = Forge("eth_chainId", lambda _: "0x1")


async def other_code(nft: AccessNFT, other: AccessNFT, proxy: Proxy) -> None:
    proxy.fault = Forge("eth_getCode", lambda _: CODE)


@pytest.mark.parametrize("socket", [False, True])
@pytest.mark.parametrize("become", [other_chain, other_id, other_code])
async def test_requirement_01_who_comes_back_is_checked_again(
    tmp_path: Path, become: Callable[..., Awaitable[None]], *, socket: bool
) -> None:
    """Requirement 1: who was away shows chain id, first block and code again before it counts.

    Once something was verified this ends no node: what the provider says is not used, and an alarm
    names it.
    """
    options = ["--timestamp", "1700000000"]
    async with scene(tmp_path) as s, local_chain(tmp_path, "other", options=options) as chain:
        other = await AccessNFT.deploy(chain)
        await s.mint("a")
        (proxy, *_) = s.proxies
        url = proxy.ws_url if socket else proxy.url
        async with following(s.nft.address, url, now=s.clock) as follower:
            s.follower = follower
            before = await follower.start(None)
            proxy.fault = Drop()
            proxy.drop()

            async def away() -> bool:
                return (await s.poll()).last_error is not None

            await until(away, "the provider is away")
            proxy.forget()
            await become(s.nft, other, proxy)
            await s.mint("b")

            async def refused() -> bool:
                await s.poll()
                return bool(s.alarms(AlarmCode.PROVIDER_REFUSED))

            await until(refused, "the other chain is found out")
            assert {"eth_chainId", "eth_getCode"} <= proxy.methods.keys()
            assert s.view.membership == before
            proxy.honest()
            await s.arrive()
            await assert_same(follower, s.nft)
            assert not s.alarms(AlarmCode.PROVIDER_REFUSED)


@dataclass
class During(Fault):
    """Do something once, while a call of a view is answered."""

    view: str
    act: Callable[[], Awaitable[Any]]
    done: list[Call] = field(default_factory=list)

    async def answer(self, call: Call, ask: Ask) -> Reply:
        """Do it after the first answer."""
        reply = await ask(call)
        if not self.done and calldata(call).startswith(selector(self.view)):
            self.done.append(call)
            await self.act()
        return reply


def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PAGE", 2)
    monkeypatch.setattr(checkpoint_kind, "PAGE", 2)
    monkeypatch.setattr(pages, "_AT_ONCE", 1)


def blocks_of(proxy: Proxy) -> list[Any]:
    """How each page and each digest that was asked for named its block."""
    views = selector(GET_NODES), selector(HASH_NODES)
    return [block_of(call) for call in proxy.calls if calldata(call).startswith(views)]


async def test_requirement_02_a_snapshot_is_of_one_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requirement 2: all pages name one block by its hash and demand that it is canonical.

    A new head in the middle of them gets nothing of its own into the snapshot.
    """
    small_pages(monkeypatch)
    async with scene(tmp_path) as s:
        tokens = [await s.mint(f"n{i}") for i in range(7)]
        block = await s.chain.block()
        # Whichever of them is asked for the pages.
        meanwhile = During(GET_NODES, lambda: s.nft.revoke(tokens[6]))
        for proxy in s.proxies:
            proxy.fault = meanwhile
        membership = await s.follower.start(None)
        asked = [at for proxy in s.proxies for at in blocks_of(proxy)]
        # Two of three are enough for each of the four pages.
        assert 2 * 4 <= len(asked) <= 3 * 4
        assert all(at == {"blockHash": block.hash, "requireCanonical": True} for at in asked)
        assert membership.block.hash == block.hash
        assert s.members() == set(tokens)
        await s.arrive()
        await assert_same(s.follower, s.nft)
        assert s.members() == set(tokens[:6])


@pytest.mark.parametrize("known", [False, True])
async def test_requirement_02_a_reorganisation_begins_a_snapshot_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, known: bool
) -> None:
    """Requirement 2: where the block goes away meanwhile, nothing that was read of it is used."""
    small_pages(monkeypatch)
    async with scene(tmp_path) as s:
        tokens = [await s.mint(f"n{i}") for i in range(3)]
        saved = await s.follower.start(None) if known else None
        tokens += [await s.mint(f"n{i}") for i in range(3, 7)]
        meanwhile = During(GET_NODES, lambda: s.chain.reorg(2))
        for proxy in s.proxies:
            proxy.forget()
            proxy.fault = meanwhile
        async with following(s.nft.address, *urls(s.proxies), quorum=2) as follower:
            s.follower = follower
            with pytest.raises(ChainError):
                await follower.start(saved)
            # What is on the disk stays in force; of what was half read there is nothing.
            assert s.view.membership == saved
            assert not s.view.verified
            read = blocks_of(s.proxies[0])
            assert read
            # Requests that nobody waits for any more go on to their end.
            running = [
                p._exchanges for p in follower._panel.providers if isinstance(p, HttpProvider)
            ]
            await until(lambda: not any(running), "no request is under way")
            for proxy in s.proxies:
                proxy.forget()
            await s.arrive()
            await assert_same(follower, s.nft)
            again = [at for proxy in s.proxies for at in blocks_of(proxy)]
            # What is saved is confirmed at the head, between two looks at which block that is.
            assert any(at != "latest" for at in again)
            assert not any(at in read for at in again if at != "latest")
            assert s.members() == set(tokens[:5])


def count(number: int) -> Callable[[Any], Any]:
    return lambda _: "0x" + word(number).hex()


def cut_off(data: str) -> str:
    """The page with one token less, well-formed: that which was burned last of all."""
    words = [data[2 + 64 * i : 66 + 64 * i] for i in range((len(data) - 2) // 64)]
    number = int(words[1], 16)
    offsets = [int(words[2 + i], 16) - 32 for i in range(number - 1)]
    end = 2 + int(words[2 + number - 1], 16) // 32
    table = [word(offset).hex() for offset in offsets]
    return "0x" + words[0] + word(number - 1).hex() + "".join(table + words[2 + number : end])


MISCOUNTS = {
    "more tokens than entries": Forge("eth_call", count(9), to="nextTokenId()"),
    "fewer tokens than entries": Forge("eth_call", count(3), to="nextTokenId()"),
    "no tokens": Forge("eth_call", count(1), to="nextTokenId()"),
    "an entry less": Forge("eth_call", cut_off, to=GET_NODES),
    "no entries": Forge("eth_call", lambda _: "0x" + (word(32) + word(0)).hex(), to=GET_NODES),
    "more members": Forge("eth_call", lambda data: data[:130] + word(4).hex(), to="checkpoint()"),
    "fewer members": Forge("eth_call", lambda data: data[:130] + word(2).hex(), to="checkpoint()"),
}


@pytest.mark.parametrize("name", MISCOUNTS)
async def test_requirement_03_a_count_that_is_off_is_an_error(tmp_path: Path, name: str) -> None:
    """Requirement 3: too few or too many entries are an error, never a smaller network."""
    async with scene(tmp_path, count=1) as s:
        for i in range(4):
            await s.nft.mint(f"n{i}", new_key())
        await s.nft.burn(4)
        s.proxies[0].fault = MISCOUNTS[name]
        with pytest.raises(ChainError):
            await s.follower.start(None)
        assert s.view.membership is None
        assert s.members() == set()
        s.proxies[0].honest()
        await s.arrive()
        await assert_same(s.follower, s.nft)
        assert len(seen_by(s.follower)) == 3
