"""Requirement 10 for a contract that has only the published interface, row by row."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chain.local import following, local_chain
from chain.published import kind_of, reference
from dstack_vpn.chain.tally import DISPUTE_DEPTH
from dstack_vpn.chain.upkeep import COMPARE_EVERY
from dstack_vpn.mesh.keys import PublicKey
from lab.nft import AccessNFT
from lab.published import Habit, PublishedAccess
from lab.rpcfault import Call
from lab.rpcfaults import Forge, Give, Omit, Swap, Upstream
from lab.rpcproxy import Proxy
from requirements.lies import MALLORY, Told, hex_of, hex_word, is_view, put, sibling
from requirements.scene import Scene, scene, urls

KEY = str(PublicKey(MALLORY)).encode()
GRANTED = "NodeAccessGranted(uint256,string,address,string)"


@dataclass(frozen=True)
class Lie:
    """What one provider is about to tell."""

    told: Told
    fork: AccessNFT
    """The same contract on a chain of the liar's own, which parts before the newest block."""

    @property
    def proxy(self) -> Proxy:
        """Who tells it."""
        return self.told.proxy

    async def text(self) -> bytes:
        """The key that was granted, as the contract keeps it."""
        return str(PublicKey(await self.told.key())).encode()


async def swap_in_logs(lie: Lie) -> None:
    """Another key in the data of the logs."""
    lie.proxy.fault = Swap("eth_getLogs", await lie.text(), KEY)


async def swap_in_receipts(lie: Lie) -> None:
    """And in the receipts that would refute it."""
    key = await lie.text()
    lie.proxy.fault = [Swap(m, key, KEY) for m in ("eth_getLogs", "eth_getBlockReceipts")]


async def rewrite_root(lie: Lie) -> None:
    """And in the header that would refute those."""
    await swap_in_receipts(lie)
    root = "0x" + "11" * 32
    hide = Forge("eth_getBlockByNumber", lambda raw: raw and {**raw, "receiptsRoot": root})
    lie.proxy.fault = [*lie.proxy.fault, hide]


async def swap_in_state(lie: Lie) -> None:
    """Another key in the state of the token, at the honest hash."""
    lie.proxy.fault = Swap("eth_call", await lie.text(), KEY)


async def swap_in_all(lie: Lie) -> None:
    """Another key in all that is ever said."""
    lie.proxy.fault = Swap("*", await lie.text(), KEY)


async def another_chain(lie: Lie) -> None:
    """Blocks that fit in themselves in every way: those of a chain of the liar's own."""
    await lie.fork.mint("mallory", KEY.decode())
    await lie.fork.chain.mine(5)
    lie.proxy.fault = Upstream(lie.fork.chain.url)


async def sibling_of(lie: Lie) -> None:
    """Another block of the same height, whose hash is right."""
    await sibling(lie.told)


def insert(logs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One more grant after the true ones: of the last token, to a token that nobody minted."""
    if not logs:
        return logs
    *_, last = logs
    topics = [last["topics"][0], hex_word(99), *last["topics"][2:]]
    return [*logs, {**last, "topics": topics, "logIndex": hex(int(last["logIndex"], 16) + 1)}]


def view(signature: str) -> Callable[[Call], bool]:
    return lambda call: is_view(call, signature)


def plain(tell: Callable[[Any], Awaitable[None]]) -> Callable[[Lie], Awaitable[None]]:
    async def told(lie: Lie) -> None:
        await tell(lie.told)

    return told


ACCESS, OWNER = view("getNodeAccess(uint256)"), view("ownerOf(uint256)")

# The lie; what one provider alone is believed of it while it is followed, and at a start, where the
# old logs are not held against receipts.
ROWS: dict[str, tuple[Callable[[Lie], Awaitable[None]], bool, bool]] = {
    "all logs omitted": (plain(put(Omit("eth_getLogs"))), False, False),
    "one of the logs omitted": (plain(put(Omit("eth_getLogs", [1]))), False, False),
    "a grant inserted": (plain(put(Forge("eth_getLogs", insert))), False, False),
    "a key swapped in data": (swap_in_logs, False, False),
    "a key swapped in logs and receipts": (swap_in_receipts, False, False),
    "the receipts root rewritten": (rewrite_root, False, False),
    "a sibling of the block": (sibling_of, False, False),
    "whole blocks forged": (another_chain, True, True),
    "a key swapped in the state": (swap_in_state, False, False),
    "a key swapped in all answers": (swap_in_all, False, True),
    "nobody": (plain(put(Give("eth_call", "0x", where=ACCESS))), False, False),
    "another owner": (plain(put(Give("eth_call", hex_word(0x66), where=OWNER))), False, False),
    "no owner": (plain(put(Give("eth_call", hex_of(bytes(32)), where=OWNER))), False, False),
}


async def told_of(s: Scene, fork: AccessNFT, who: int) -> Lie:
    """A block with two grants, among logs of another contract, of which one provider lies."""
    other = await AccessNFT.deploy(s.chain)
    token, _ = await s.two_grants(other)
    return Lie(Told(s.nft, s.proxies[who], token), fork)


async def truth(s: Scene) -> set[PublicKey]:
    """The keys of the contract's tokens."""
    found = await reference(PublishedAccess(s.chain, s.nft.address, 0))
    return {PublicKey(entry[2]) for entry in found.values() if len(entry[2]) == 32}


def fork_of(s: Scene, number: int) -> list[str]:
    """Options of a chain that parts from ours after a block."""
    return ["--fork-url", s.chain.url, "--fork-block-number", str(number)]


@pytest.mark.parametrize("name", ROWS)
async def test_requirement_10_a_single_liar_about_the_published_interface(
    tmp_path: Path, name: str
) -> None:
    """Requirement 10: what one can be caught at alone admits nobody, followed or at a start."""
    tell, followed, started = ROWS[name]
    async with scene(tmp_path, count=1, habits=Habit.NONE) as s:
        await s.mint("a")
        await s.follower.start(None)
        before = s.membership
        options = fork_of(s, before.block.number)
        async with local_chain(tmp_path, "fork", options=options) as chain:
            lie = await told_of(s, AccessNFT(chain, s.nft.address), 0)
            await tell(lie)
            for _ in range(3):
                await s.poll()
                assert (s.admitted() <= await truth(s)) != followed
            contract = PublishedAccess(s.chain, s.nft.address, 1)
            kind = kind_of(contract)
            async with following(s.nft.address, *urls(s.proxies), kind=kind) as fresh:
                s.follower, old = fresh, s.follower
                for _ in range(3):
                    await s.poll()
                    assert (s.admitted() <= await truth(s)) != started
                s.follower = old
            s.proxies[0].honest()
            await s.chain.mine(7)
            await s.arrive()
            s.clock.now += COMPARE_EVERY + 1
            await s.poll()
            await s.poll()
            assert s.admitted() <= await truth(s)


@pytest.mark.parametrize("who", [0, 2])
@pytest.mark.parametrize("name", ROWS)
async def test_requirement_10_one_liar_of_three_about_the_published_interface(
    tmp_path: Path, name: str, who: int
) -> None:
    """Requirement 10: in no row does one of three let anybody in, nor keep from the truth."""
    tell, *_ = ROWS[name]
    async with scene(tmp_path, habits=Habit.NONE) as s:
        await s.mint("a")
        await s.follower.start(None)
        options = fork_of(s, s.membership.block.number)
        async with local_chain(tmp_path, "fork", options=options) as chain:
            lie = await told_of(s, AccessNFT(chain, s.nft.address), who)
            await tell(lie)
            for _ in range(DISPUTE_DEPTH + 2):
                await s.poll()
                assert s.admitted() <= await truth(s)
                await s.chain.mine(1)
            await s.arrive()
            await s.assert_published()
            kind = kind_of(PublishedAccess(s.chain, s.nft.address, 1))
            more: dict[str, Any] = {"quorum": 2, "now": s.clock, "kind": kind}
            async with following(s.nft.address, *urls(s.proxies), **more) as fresh:
                old, s.follower = s.follower, fresh
                for _ in range(4):
                    await s.poll()
                    assert s.admitted() <= await truth(s)
                await s.assert_published()
                s.follower = old
            s.clock.now += COMPARE_EVERY + 1
            await s.poll()
            await s.poll()
            assert s.admitted() <= await truth(s)
            assert s.view.compares
            s.proxies[who].honest()
            await s.chain.mine(1)
            await s.arrive()
            await s.poll()
            await s.assert_published()
