"""Requirement 10: what providers are known to do to logs, blocks and state, row by row."""

import contextlib
from pathlib import Path

import pytest

from chain.local import assert_same, following, read_nodes, seen_by
from dstack_vpn.chain.tally import DISPUTE_DEPTH
from dstack_vpn.chain.upkeep import COMPARE_EVERY
from dstack_vpn.errors import ChainError
from dstack_vpn.mesh.keys import PublicKey
from lab.nft import AccessNFT
from requirements.lies import ROWS, Alone, Told
from requirements.scene import Scene, scene, urls


async def truth(s: Scene) -> set[PublicKey]:
    """The keys of the contract's members."""
    last = await s.nft.call("nextTokenId()", returns="uint256")
    signature = "getPublicKeyByTokenId(uint256)"
    texts = [await s.nft.call(signature, i, returns="string") for i in range(1, last)]
    return {PublicKey.parse(text) for text in texts if text}


async def told_of(s: Scene, who: int) -> Told:
    """A block with two grants, among logs of another contract, of which one provider lies."""
    other = await AccessNFT.deploy(s.chain)
    token, _ = await s.two_grants(other)
    return Told(s.nft, s.proxies[who], token)


@pytest.mark.parametrize("name", ROWS)
async def test_requirement_10_following_a_single_liar(tmp_path: Path, name: str) -> None:
    """Requirement 10: a lie that can be found out without others is, and nothing comes of it."""
    row = ROWS[name]
    async with scene(tmp_path, count=1) as s:
        await s.mint("a")
        await s.follower.start(None)
        await row.tell(await told_of(s, 0))
        before = s.membership
        await s.poll()
        if row.following is Alone.BELIEVED:
            # Whoever has one provider trusts it with this; the README says so.
            for _ in range(3):
                await s.poll()
            assert s.view.last_error is None
            assert seen_by(s.follower) != await read_nodes(s.nft)
        elif row.following is Alone.UNASKED:
            await assert_same(s.follower, s.nft)
        else:
            assert s.membership == before
            assert "127.0.0.11#1" in (s.view.last_error or "")
            assert s.admitted() <= await truth(s)
            # However often it is said.
            for _ in range(3):
                await s.poll()
                assert s.admitted() <= await truth(s)
        s.proxies[0].honest()
        await s.chain.mine(1)
        await s.arrive()
        # What was believed of the past is found out when all is compared.
        s.clock.now += COMPARE_EVERY + 1
        await s.poll()
        await s.poll()
        await assert_same(s.follower, s.nft)


@pytest.mark.parametrize("name", ROWS)
async def test_requirement_10_starting_from_a_single_liar(tmp_path: Path, name: str) -> None:
    """Requirement 10: the same for a follower that knows nothing yet."""
    row = ROWS[name]
    async with scene(tmp_path, count=1) as s:
        await s.mint("a")
        await row.tell(await told_of(s, 0))
        with contextlib.suppress(ChainError):
            await s.follower.start(None)
        if row.starting is Alone.BELIEVED:
            assert s.view.last_error is None
            assert s.view.verified
        elif row.starting is Alone.UNASKED:
            await assert_same(s.follower, s.nft)
        else:
            assert s.view.membership is None
            assert s.view.last_error is not None
            for _ in range(3):
                await s.poll()
                assert s.admitted() <= await truth(s)


@pytest.mark.parametrize("who", [0, 2])
@pytest.mark.parametrize("name", ROWS)
async def test_requirement_10_one_liar_of_three_admits_nobody(
    tmp_path: Path, name: str, who: int
) -> None:
    """Requirement 10: in no row does one of three let anybody in, nor keep from the truth.

    Not while it is followed, not at a start, and not when all is compared with the contract.
    """
    row = ROWS[name]
    async with scene(tmp_path) as s:
        await s.mint("a")
        await s.follower.start(None)
        told = await told_of(s, who)
        await row.tell(told)
        liar = s.view.providers[who].name
        named = set()
        for _ in range(DISPUTE_DEPTH + 2):
            await s.poll()
            assert s.admitted() <= await truth(s)
            assert s.membership.block.hash == (await s.chain.block()).hash
            named |= {alarm.provider for alarm in s.view.alarms}
            named |= {p.name for p in s.view.providers if p.refused or not p.agrees}
            await s.chain.mine(1)
        await s.poll()
        await assert_same(s.follower, s.nft)
        assert named == (set() if row.following is Alone.UNASKED else {liar})
        # Whoever starts now hears it as well, whether it is the first to be asked or not.
        async with following(s.nft.address, *urls(s.proxies), quorum=2, now=s.clock) as fresh:
            old, s.follower = s.follower, fresh
            for _ in range(4):
                await s.poll()
                assert s.admitted() <= await truth(s)
            await assert_same(fresh, s.nft)
            s.follower = old
        # A full compare, so often that each of them is asked first once.
        for compares in range(1, 4):
            s.clock.now += COMPARE_EVERY + 1
            await s.poll()
            await s.poll()
            assert s.admitted() <= await truth(s)
            assert s.view.compares >= compares - 1
        assert s.view.compares >= 2
        s.proxies[who].honest()
        await s.chain.mine(1)
        await s.arrive()
        await assert_same(s.follower, s.nft)
        assert all(p.agrees for p in s.view.providers)
