"""Requirements 14 and 15: what is final, and tags that go back or differ."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chain.local import assert_same, following
from dstack_vpn.chain.tally import DISPUTE_DEPTH
from dstack_vpn.chain.upkeep import FINAL_EVERY, TAG_EVERY
from dstack_vpn.errors import ChainError
from dstack_vpn.mesh.membership import Tag
from dstack_vpn.mesh.snapshot import AlarmCode
from lab.rpcfault import Call, Fault
from lab.rpcfaults import Forge, Give, Omit, RateLimit
from lab.rpcforger import header_hash
from requirements.scene import Scene, scene, urls

FINAL = ["--slots-in-an-epoch", "1"]
"""Of anvil: the newest block but two is final."""


async def settled(s: Scene, blocks: int) -> None:
    """Make blocks, and let the time come at which it is asked what is final."""
    await s.chain.mine(blocks)
    s.clock.now += FINAL_EVERY + 1
    await s.arrive()
    assert s.membership.finalized is not None
    assert s.membership.finalized.number == s.membership.block.number - 2


@pytest.mark.parametrize("depth", [3, DISPUTE_DEPTH + 4])
async def test_requirement_14_what_is_final_is_never_left(tmp_path: Path, depth: int) -> None:
    """Requirement 14: a reorganisation below a final block stops all grants, with an alarm.

    Nothing is rolled back, not by many polls, not by a restart from what was saved; and removals
    that providers tell of still take place.
    """
    async with scene(tmp_path, options=FINAL, finality=True) as s:
        tokens = [await s.mint(f"n{i}") for i in range(3)]
        await s.follower.start(None)
        await settled(s, depth + 3)
        before, confirmed = s.membership, s.view.confirmed
        assert s.members() == set(tokens)
        await s.chain.reorg(depth)
        new = await s.mint("new")
        await s.chain.mine(5)
        for _ in range(3):
            s.clock.now += FINAL_EVERY + 1
            await s.poll()
            (alarm,) = s.alarms(AlarmCode.FINALITY)
            assert "was final" in alarm.text
            assert before.finalized is not None
            assert before.finalized.hash[:10] in alarm.text
            assert s.membership.block == before.block
            assert s.membership.finalized == before.finalized
            assert s.view.confirmed == confirmed
            assert s.members() == set(tokens)
            await s.chain.mine(DISPUTE_DEPTH)
        # One that only one of them tells of; then one that all tell of.
        await s.hold(*s.proxies[1:])
        await s.nft.revoke(tokens[0])
        await s.poll()
        assert s.members() == set(tokens[1:])
        for proxy in s.proxies:
            proxy.honest()
        await s.nft.burn(tokens[1])
        await s.chain.mine(DISPUTE_DEPTH + 2)
        for _ in range(3):
            await s.poll()
            assert s.members() == {tokens[2]}
            assert not s.alarms(AlarmCode.QUARANTINED)
        more: dict[str, Any] = {"quorum": 2, "now": s.clock, "finality": True}
        saved = s.membership
        async with following(s.nft.address, *urls(s.proxies), **more) as restarted:
            s.follower = restarted
            with pytest.raises(ChainError, match="was final"):
                await restarted.start(saved)
            for _ in range(2):
                await s.poll()
                assert s.alarms(AlarmCode.FINALITY)
                assert not s.view.verified
                assert s.membership == saved
                assert new not in s.members()
        # Only a person can decide that this is the chain.
        async with following(s.nft.address, *urls(s.proxies), **more) as anew:
            s.follower = anew
            await anew.start(None)
            await assert_same(anew, s.nft)
            assert s.members() == {tokens[2], new}


async def test_requirement_14_one_of_three_on_another_branch_is_no_violation(
    tmp_path: Path,
) -> None:
    """Requirement 14: the alarm takes as many as an agreement; one alone is only in the wrong."""
    async with scene(tmp_path, options=FINAL, finality=True) as s:
        token = await s.mint("a")
        await s.follower.start(None)
        await settled(s, 8)
        number = s.membership.block.number
        raw = await s.chain.rpc("eth_getBlockByNumber", hex(number - 4), False)
        other = {**raw, "extraData": "0x6f74686572"}
        other["hash"] = "0x" + header_hash(other).hex()

        def is_that(call: Call) -> bool:
            return call["method"] == "eth_getBlockByNumber" and (
                call["params"][0] in ("finalized", raw["number"])
            )

        s.proxies[0].fault = Give("eth_getBlockByNumber", other, where=is_that)
        new = await s.mint("new")
        await settled(s, 3)
        assert s.members() == {token, new}
        assert not s.alarms(AlarmCode.FINALITY)
        more: dict[str, Any] = {"quorum": 2, "now": s.clock, "finality": True}
        async with following(s.nft.address, *urls(s.proxies), **more) as restarted:
            await restarted.start(s.membership)
            await assert_same(restarted, s.nft)


def by_tag(change: Callable[[Any], Any]) -> Fault:
    """Another answer to the question for the safe block."""
    return Forge("eth_getBlockByNumber", change, where=is_safe)


def is_safe(call: Call) -> bool:
    return bool(call["params"][0] == "safe")


STRANGE: dict[str, Callable[[dict[str, Any], dict[str, Any]], Fault]] = {
    "the newest block": lambda first, newest: by_tag(lambda _: newest),
    "the first block": lambda first, newest: by_tag(lambda _: first),
    "no block": lambda first, newest: by_tag(lambda _: None),
    "another hash": lambda first, newest: by_tag(lambda raw: {**raw, "hash": "0x" + "11" * 32}),
    "a forged block": lambda first, newest: by_tag(forged),
    "a list": lambda first, newest: by_tag(lambda _: []),
    "an error": lambda first, newest: RateLimit("eth_getBlockByNumber", -32000, where=is_safe),
    "an empty list": lambda first, newest: Omit("eth_getBlockByNumber", where=is_safe),
}


def forged(raw: dict[str, Any]) -> dict[str, Any]:
    other = {**raw, "extraData": "0x6f74686572", "number": hex(int(raw["number"], 16) + 1)}
    return {**other, "hash": "0x" + header_hash(other).hex()}


@pytest.mark.parametrize("name", STRANGE)
async def test_requirement_15_a_strange_safe_block_admits_nobody(tmp_path: Path, name: str) -> None:
    """Requirement 15: whatever one of three calls safe, who is not safe by two stays out.

    And whoever is in stays in, also where all go back with it.
    """
    options = ["--slots-in-an-epoch", "3"]
    async with scene(tmp_path, options=options, confirmations=Tag.SAFE) as s:
        old = await s.mint("old")
        await s.chain.mine(70)
        await s.follower.start(None)
        s.clock.now += TAG_EVERY
        await s.poll()
        assert s.members() == {old}
        new = await s.mint("new")
        first, newest = [
            await s.chain.rpc("eth_getBlockByNumber", which, False) for which in ("0x1", "latest")
        ]
        s.proxies[0].fault = STRANGE[name](first, newest)
        for depth in range(5):
            s.clock.now += TAG_EVERY
            await s.poll()
            await assert_same(s.follower, s.nft)
            assert s.members() == ({old, new} if depth >= 3 else {old}), depth
            await s.chain.mine(1)
        # All three in the same way: nobody new comes in, unless all of them say so.
        late = await s.mint("late")
        newest = await s.chain.rpc("eth_getBlockByNumber", "latest", False)
        for proxy in s.proxies:
            proxy.fault = STRANGE[name](first, newest)
        for _ in range(3):
            s.clock.now += TAG_EVERY
            await s.poll()
            assert s.members() >= {old, new}
            assert (late in s.members()) == (name == "the newest block")
            await s.chain.mine(1)


async def test_requirement_15_a_safe_block_that_goes_back_and_differs(tmp_path: Path) -> None:
    """Requirement 15: with three different answers that go up and down the second highest counts.

    Nobody that was in goes out for it, and nobody comes in that two do not call safe.
    """
    options = ["--slots-in-an-epoch", "1"]
    async with scene(tmp_path, options=options, confirmations=Tag.SAFE) as s:
        await s.chain.mine(70)
        await s.follower.start(None)
        reached = 0
        for heights in ((60, 40, 20), (20, 30, 65), (10, 70, 68), (1, 1, 1), (69, 2, 70)):
            for proxy, height in zip(s.proxies, heights, strict=True):
                raw = await s.chain.rpc("eth_getBlockByNumber", hex(height), False)
                proxy.fault = Give("eth_getBlockByNumber", raw, where=is_safe)
            s.clock.now += TAG_EVERY
            await s.poll()
            await assert_same(s.follower, s.nft)
            reached = max(reached, sorted(heights)[1])
            assert s.view.confirmed == reached
