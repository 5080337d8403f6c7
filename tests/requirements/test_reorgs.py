"""Requirements 12 and 13: branches that are left, and what they had admitted or removed."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chain.local import assert_same, following
from chain.test_follow_random import Walk
from dstack_vpn.chain.tally import DISPUTE_DEPTH
from lab.chain import CHAIN_ID
from lab.rpcfault import Fault
from lab.rpcfaults import Drop, Forge, Garbage, Give, Omit, RateLimit, Reverse, Truncate, flip
from lab.rpcforger import Forger
from lab.rpclag import PinnedHead
from lab.rpcproxy import Proxy
from requirements.scene import Scene, scene, urls

DEEPEST = 2 * DISPUTE_DEPTH


async def grown(s: Scene) -> list[int]:
    """A member before and one in each of some blocks, followed block by block."""
    tokens = [await s.mint("first")]
    await s.follower.start(None)
    for _ in range(DEEPEST + 1):
        tokens.append(await s.mint(s.name()))
        await s.poll()
    return tokens


@pytest.mark.parametrize("depth", range(1, DEEPEST + 1))
async def test_requirement_12_a_reorganisation_of_any_depth_is_followed(
    tmp_path: Path, depth: int
) -> None:
    """Requirement 12: whoever tells of it first, and with a revocation on the new branch."""
    async with scene(tmp_path) as s:
        tokens = await grown(s)
        await s.chain.reorg(depth)
        await s.nft.revoke(tokens[0])
        # One after the other, as providers notice it; the others are not heard meanwhile.
        for heard in s.proxies[:2]:
            for proxy in s.proxies:
                proxy.fault = () if proxy is heard else RateLimit("*", -32000)
            await s.poll()
        assert tokens[0] not in s.members()
        for proxy in s.proxies:
            proxy.honest()
        await s.poll()
        await assert_same(s.follower, s.nft)
        assert s.members() == set(tokens[1 : len(tokens) - depth])
        assert (s.view.reorgs, s.view.deepest_reorg, s.view.alarms) == (1, depth, ())
        assert s.view.resyncs == 1


@pytest.mark.parametrize("depth", [1, 2, 6, DEEPEST])
@pytest.mark.parametrize("tool", ["anvil_rollback", "evm_revert"])
async def test_requirement_12_going_back_in_silence_is_noticed(
    tmp_path: Path, tool: str, depth: int
) -> None:
    """Requirement 12: a head that goes back without notice, with and without another branch."""
    async with scene(tmp_path) as s:
        await s.follower.start(None)
        tokens = [await s.mint("first")]
        await s.poll()
        snapshot = await s.chain.snapshot()
        for _ in range(depth):
            tokens.append(await s.mint(s.name()))
            await s.poll()
        for again in (False, True):
            if tool == "anvil_rollback":
                await s.chain.rollback(depth)
            else:
                await s.chain.revert(snapshot)
                snapshot = await s.chain.snapshot()
            if not again:
                await s.poll()
                await assert_same(s.follower, s.nft)
                assert s.members() == {tokens[0]}
            for _ in range(depth + again):
                await s.mint(s.name())
            await s.poll()
            await assert_same(s.follower, s.nft)
        assert (s.view.reorgs, s.view.resyncs, s.view.alarms) == (2, 1, ())


def catalogue(s: Scene, source: random.Random) -> list[Callable[[], Fault]]:
    """Ways to fail that are over as soon as a test says so."""
    methods = ["eth_getBlockByNumber", "eth_getLogs", "eth_call", "*"]

    def method() -> str:
        return source.choice(methods)

    head = s.membership.block.number
    return [
        lambda: Drop(method()),
        lambda: RateLimit(method(), source.choice([429, 503, -32005, -32000])),
        lambda: Truncate(method(), source.randrange(200), breaks=source.random() < 0.5),
        lambda: Garbage(method()),
        lambda: Give(method(), source.choice([None, "", "0x", [], {}])),
        lambda: Omit("eth_getLogs", source.choice([None, [0]])),
        lambda: Reverse("eth_getLogs"),
        lambda: Forge("eth_call", lambda data: str(data)[:66] + "66" * 32 + str(data)[130:]),
        lambda: Forge("eth_getBlockByNumber", lambda raw: raw and {**raw, "timestamp": "0x1"}),
        lambda: PinnedHead(max(1, head - source.randrange(4))),
        lambda: flip(PinnedHead(max(1, head - source.randrange(4)))),
    ]


async def fail(s: Scene, proxy: Proxy, source: random.Random) -> None:
    """Let a provider fail in one of many ways, or lie about whole blocks."""
    proxy.honest()
    forger = Forger(s.nft.address, CHAIN_ID)
    real = source.random() < 0.3
    known = sorted((await forger.state(proxy)).nodes)
    token = source.choice(known) if known else 1
    lies = [
        lambda: forger.grant(proxy, 500, "mallory", b"\x66" * 32, real_block=real),
        lambda: forger.blocks(proxy, source.randrange(1, 12)),
        lambda: forger.hide(proxy),
    ]
    if known:
        lies += [
            lambda: forger.revoke(proxy, token, real_block=real),
            lambda: forger.swap_key(proxy, token, b"\x66" * 32, real_block=real),
            lambda: forger.burn(proxy, token, real_block=real),
        ]
    if source.random() < 0.4:
        await source.choice(lies)()
    else:
        proxy.fault = source.choice(catalogue(s, source))()


@pytest.mark.parametrize("seed", [7, 23])
async def test_requirement_12_no_difference_in_a_random_walk(tmp_path: Path, seed: int) -> None:
    """Requirement 12: 300 random steps while one of three fails at random; never a difference.

    Whenever two are honest a poll leads to the contract's own state, whatever the third one says;
    and a token that nobody minted, or a key that nobody set, is never agreed on.
    """
    source = random.Random(seed)
    async with scene(tmp_path, rollback_patience=0.0) as s:
        walk = Walk(s.nft, source)
        walk.floor = (await s.chain.block()).number
        await s.follower.start(None)
        faulty: Proxy | None = None
        for _ in range(300):
            if faulty is None and source.random() < 0.5:
                faulty = source.choice(list(s.proxies))
            if faulty is not None:
                if source.random() < 0.3:
                    faulty.honest()
                    faulty = None
                elif source.random() < 0.5:
                    await fail(s, faulty, source)
            for _ in range(source.choice([1, 1, 1, 4])):
                await walk.step()
            await s.arrive()
            await assert_same(s.follower, s.nft)
        for proxy in s.proxies:
            proxy.honest()
        await s.chain.mine(DISPUTE_DEPTH + 2)
        await s.arrive()
        await s.poll()
        await assert_same(s.follower, s.nft)
        assert all(p.agrees for p in s.view.providers)
        assert s.view.reorgs > 10


@pytest.mark.parametrize("confirmations", [0, 2])
async def test_requirement_13_a_dropped_grant_is_out_at_once(
    tmp_path: Path, confirmations: int
) -> None:
    """Requirement 13: with the block that admitted a member the member goes, at the first look."""
    async with scene(tmp_path, confirmations=confirmations) as s:
        old = await s.mint("old")
        await s.chain.mine(confirmations)
        await s.follower.start(None)
        await s.chain.mine(1)
        await s.poll()
        new = await s.mint("new")
        await s.chain.mine(confirmations)
        await s.poll()
        assert s.members() == {old, new}
        await s.chain.reorg(confirmations + 1)
        await s.poll()
        assert s.verdict(new) == "NODE_NOT_FOUND"
        assert s.members() == {old}
        # What comes back comes by the rule for all.
        new = await s.mint("new")
        for depth in range(confirmations + 1):
            await s.poll()
            assert s.members() == ({old, new} if depth == confirmations else {old})
            await s.chain.mine(1)


@pytest.mark.parametrize("known", ["followed", "restarted"])
@pytest.mark.parametrize("longer", [0, 1, 2])
async def test_requirement_13_a_dropped_revocation_restores_by_the_rule_of_grants(
    tmp_path: Path, known: str, longer: int
) -> None:
    """Requirement 13: access that a new branch gives back counts from that branch's first block.

    However old the admission is; and for a node that was restarted in between too.
    """
    async with scene(tmp_path, confirmations=3) as s:
        token = await s.mint("a")
        await s.chain.mine(4)
        await s.follower.start(None)
        await s.chain.mine(2)
        await s.poll()
        assert s.members() == {token}
        await s.nft.revoke(token)
        # It may have been some blocks deep.
        await s.chain.mine(longer)
        await s.poll()
        assert s.verdict(token) == "REVOKED"
        saved = s.membership
        first = (await s.chain.block()).number - longer
        # Anvil's new branch is as long as the old one; a single new block is what is wanted.
        await s.chain.rollback(longer + 1)
        await s.chain.mine(longer + 1)
        more: dict[str, Any] = {"quorum": 2, "now": s.clock, "confirmations": 3}
        async with following(s.nft.address, *urls(s.proxies), **more) as restarted:
            if known == "restarted":
                s.follower = restarted
                await restarted.start(saved)
            # Whoever starts knows no more of the new branch than its newest block.
            begun = longer if known == "restarted" else 0
            for depth in range(longer, begun + 4):
                await s.poll()
                assert s.membership.block.number == first + depth
                expected = "ACCESS_GRANTED" if depth >= begun + 3 else "NOT_YET_CONFIRMED"
                assert s.verdict(token) == expected, depth
                await s.chain.mine(1)
