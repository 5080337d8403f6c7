"""Requirements 4 and 5: how blocks are followed, and which headers are discarded."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chain.local import assert_same, following, local_chain
from dstack_vpn.chain.journal import WINDOW
from lab.chain import CHAIN_ID
from lab.rpcfault import Ask, Call, Fault, Reply, result
from lab.rpcfaults import Drop, Forge, Give
from lab.rpcforger import Forger
from lab.rpcproxy import Proxy
from requirements.scene import Scene, scene


def asked_headers(proxy: Proxy) -> Counter[int]:
    """How often each height was asked for."""
    named = [c["params"][0] for c in proxy.calls if c["method"] == "eth_getBlockByNumber"]
    return Counter(int(which, 16) for which in named if which.startswith("0x"))


def asked_logs(proxy: Proxy) -> Counter[str]:
    """How often the logs of each block were asked for."""
    return Counter(c["params"][0]["blockHash"] for c in proxy.calls if c["method"] == "eth_getLogs")


def followed(s: Scene) -> list[int]:
    """The heights of the agreed chain, oldest first."""
    agreed = s.follower._agreed
    assert agreed is not None
    return [r.block.number for r in agreed.journal.after(agreed.journal.oldest)]


@pytest.mark.parametrize("gap", [1, 2, 9, 100, WINDOW])
async def test_requirement_04_every_block_of_a_gap_is_visited_once(
    tmp_path: Path, gap: int
) -> None:
    """Requirement 4: each block after the snapshot is visited, none twice, and none is left out."""
    async with scene(tmp_path, count=1) as s:
        first = await s.mint("a")
        start = (await s.follower.start(None)).block.number
        (proxy,) = s.proxies
        proxy.forget()
        # Changes at both ends and inside.
        await s.chain.rpc("anvil_mine", hex(gap // 2))
        await s.nft.revoke(first)
        if (left := gap - gap // 2 - 1) > 0:
            await s.chain.mine(left - 1) if left > 1 else None
            await s.mint("b")
        end = (await s.chain.block()).number
        await s.poll()
        await assert_same(s.follower, s.nft)
        assert followed(s) == list(range(start + 1, end + 1))[-WINDOW + 1 :]
        # The last one came as the head.
        assert asked_headers(proxy) == Counter(range(start + 1, end))
        assert set(asked_logs(proxy).values()) == {1}
        await s.nft.restore(first)
        proxy.forget()
        await s.poll()
        assert not asked_headers(proxy)
        assert s.view.resyncs == 1


@pytest.mark.parametrize("gap", [WINDOW + 1, 2000, 10_000])
async def test_requirement_04_a_gap_wider_than_the_window_is_bridged(
    tmp_path: Path, gap: int
) -> None:
    """Requirement 4: where too many blocks came, the tokens are confirmed anew at an agreed block.

    Nothing that happened in between is missed, and the blocks after it are followed again.
    """
    async with scene(tmp_path) as s:
        tokens = [await s.mint(f"n{i}") for i in range(3)]
        await s.follower.start(None)
        # A real chain of so many blocks takes minutes to make: all three tell of the same one.
        forger = Forger(s.nft.address, CHAIN_ID)
        for proxy in s.proxies:
            await forger.revoke(proxy, tokens[0])
            await forger.blocks(proxy, gap // 2)
            await forger.burn(proxy, tokens[1])
            await forger.grant(proxy, 9, "late", b"\x09" * 32)
            await forger.blocks(proxy, gap - gap // 2)
        end = int((await forger.blocks(s.proxies[0], 1))["number"], 16)
        for proxy in s.proxies[1:]:
            await forger.blocks(proxy, 1)
        await s.poll()
        assert s.membership.block.number == end
        assert s.members() == {tokens[2], 9}
        assert s.view.resyncs == 2
        for proxy in s.proxies:
            await forger.blocks(proxy, 5)
            await forger.revoke(proxy, tokens[2])
        await s.poll()
        assert s.members() == {9}
        assert followed(s) == list(range(end + 1, end + 7))


@pytest.mark.parametrize("socket", [False, True])
async def test_requirement_04_no_block_is_skipped_over_a_disconnect(
    tmp_path: Path, *, socket: bool
) -> None:
    """Requirement 4: what happened while a connection was away is visited when it is back."""
    async with scene(tmp_path, count=1) as s:
        (proxy,) = s.proxies
        url = proxy.ws_url if socket else proxy.url
        async with following(s.nft.address, url, now=s.clock) as follower:
            s.follower = follower
            start = (await follower.start(None)).block.number
            for _ in range(3):
                proxy.fault = Drop()
                proxy.drop()
                token = await s.mint(s.name())
                await s.chain.mine(3)
                await s.nft.revoke(token)
                assert (await s.poll()).last_error is not None
                proxy.honest()
                await s.mint(f"m{token}")
                await s.arrive()
                await assert_same(follower, s.nft)
            assert followed(s) == list(range(start + 1, (await s.chain.block()).number + 1))
            assert s.view.resyncs == 1


class Sibling(Fault):
    """Give another chain's block of the same height, with a hash that is right."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self._raw = raw

    def hits(self, call: Call) -> bool:
        """Whether that height is asked for."""
        number: str = self._raw["number"]
        return call["method"] == "eth_getBlockByNumber" and bool(call["params"][0] == number)

    async def answer(self, call: Call, ask: Ask) -> Reply:
        """Give it."""
        return result(call, self._raw)


def with_parts(**parts: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda block: {**block, **parts}


HEADERS: dict[str, tuple[Fault, str]] = {
    "another time": (Forge("eth_getBlockByNumber", with_parts(timestamp="0x1")), "header-hash"),
    "another parent": (
        Forge("eth_getBlockByNumber", with_parts(parentHash="0x" + "11" * 32)),
        "header-hash",
    ),
    "another bloom": (
        Forge("eth_getBlockByNumber", with_parts(logsBloom="0x" + "ff" * 256)),
        "header-hash",
    ),
    "another hash": (
        Forge("eth_getBlockByNumber", with_parts(hash="0x" + "11" * 32)),
        "header-hash",
    ),
    "another height": (
        Forge(
            "eth_getBlockByNumber",
            with_parts(number="0x1"),
            where=lambda call: call["params"][0] != "latest",
        ),
        "header-hash",
    ),
}


@pytest.mark.parametrize("name", [*HEADERS, "a genuine block of another height", "a sibling"])
async def test_requirement_05_a_header_that_does_not_fit_is_discarded(
    tmp_path: Path, name: str
) -> None:
    """Requirement 5: hash, height and parent of each header are checked, whoever gives it.

    What fails is not used and counted by its check; the others are not held up by it.
    """
    async with scene(tmp_path) as s:
        await s.mint("a")
        before = await s.follower.start(None)
        number = before.block.number
        fork = ["--fork-url", s.chain.url, "--fork-block-number", str(number)]
        async with local_chain(tmp_path, "fork", options=fork) as other:
            await other.mine(2)
            await s.mint("b")
            await s.mint("c")
            liar = s.proxies[0]
            fault: Fault
            if name == "a sibling":
                raw = await other.rpc("eth_getBlockByNumber", hex(number + 1), False)
                fault, check = Sibling(raw), "parent"
            elif name == "a genuine block of another height":
                raw = await s.chain.rpc("eth_getBlockByNumber", hex(1), False)
                fault = Give(
                    "eth_getBlockByNumber",
                    raw,
                    where=lambda call: call["params"][0] == hex(number + 1),
                )
                check = "header-number"
            else:
                fault, check = HEADERS[name]
            liar.fault = fault
            await s.poll()
            first, second, third = s.view.providers
            assert check in (first.last_error or "") or first.refused.get(check)
            assert not first.agrees
            assert second.agrees
            assert third.agrees
            await assert_same(s.follower, s.nft)
            # The same answers alone lead nowhere.
            for proxy in s.proxies:
                proxy.fault = fault
            after = s.membership
            await s.chain.mine(2)
            await s.poll()
            if name in HEADERS:
                assert s.membership == after
                assert s.view.last_error is not None
