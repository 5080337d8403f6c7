"""Requirements 16 to 18: removals by one source, grants by enough of them, and who has a vote."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from chain.local import at, following, local_chain, new_key
from dstack_vpn.mesh.access import judge
from dstack_vpn.mesh.keys import PublicKey
from dstack_vpn.mesh.snapshot import AlarmCode
from lab.chain import CHAIN_ID
from lab.nft import AccessNFT
from lab.rpcfaults import Drop, RateLimit
from lab.rpcforger import Forger
from lab.rpclag import PinnedHead
from requirements.scene import Scene, providers, scene, urls

Write = Callable[[Scene, int], Awaitable[Any]]


async def expire(s: Scene, token: int) -> None:
    await s.nft.renew(token, (await s.chain.block()).timestamp)


async def hand_over(s: Scene, token: int) -> None:
    await s.nft.transfer(token, to=3)
    await s.nft.set_key(token, new_key(), account=3)


REMOVALS: dict[str, tuple[Write, str]] = {
    "revoked": (lambda s, token: s.nft.revoke(token), "REVOKED"),
    "transferred": (lambda s, token: s.nft.transfer(token, to=3), "SUSPENDED_BY_TRANSFER"),
    "transferred and set up anew": (hand_over, "NOT_YET_CONFIRMED"),
    "burned": (lambda s, token: s.nft.burn(token), "NODE_NOT_FOUND"),
    "ended": (expire, "EXPIRED"),
    "given another key": (lambda s, token: s.nft.set_key(token, new_key()), "NOT_YET_CONFIRMED"),
}


@pytest.mark.parametrize("name", REMOVALS)
async def test_requirement_16_a_removal_counts_at_once_from_any_one(
    tmp_path: Path, name: str
) -> None:
    """Requirement 16: the old key is out at zero confirmations, though grants need two and five.

    One provider that tells of it is enough; when the others do too, the verdict is the contract's.
    """
    write, verdict = REMOVALS[name]
    async with scene(tmp_path, confirmations=5) as s:
        token, other = await s.mint("a"), await s.mint("b")
        await s.chain.mine(6)
        await s.follower.start(None)
        assert s.members() == {token, other}
        (kept,) = {d.key for d in s.decisions().values() if d.token_id == other}
        await s.hold(*s.proxies[1:])
        before = s.membership
        await write(s, token)
        await s.poll()
        assert s.membership == before
        assert s.verdict(token) == "SOURCE_DISPUTED"
        assert s.admitted() == {kept}
        (alarm,) = s.alarms(AlarmCode.SUSPENDED)
        assert alarm.provider == "127.0.0.11#1"
        for proxy in s.proxies:
            proxy.honest()
        await s.poll()
        assert s.verdict(token) == verdict
        assert s.admitted() == {kept}
        assert not s.alarms(AlarmCode.SUSPENDED)


@pytest.mark.parametrize("name", REMOVALS)
async def test_requirement_16_a_removal_that_all_tell_counts_at_once(
    tmp_path: Path, name: str
) -> None:
    """Requirement 16: at the first look after its block; a new key waits, the old one does not."""
    write, verdict = REMOVALS[name]
    async with scene(tmp_path, confirmations=5) as s:
        token, other = await s.mint("a"), await s.mint("b")
        await s.chain.mine(6)
        await s.follower.start(None)
        old = s.decisions()[token].key
        await write(s, token)
        await s.poll()
        assert s.verdict(token) == verdict
        assert s.members() == {other}
        await s.chain.mine(4)
        await s.poll()
        assert s.members() == {other}
        await s.chain.mine(1)
        await s.poll()
        again = verdict == "NOT_YET_CONFIRMED"
        assert s.members() == ({token, other} if again else {other})
        assert old not in s.admitted()


async def test_requirement_16_time_alone_ends_access(tmp_path: Path) -> None:
    """Requirement 16: where access ends by itself no event is needed, nor any provider."""
    async with scene(tmp_path, confirmations=5) as s:
        token = await s.mint("a")
        ends = (await s.chain.block()).timestamp + 1000
        await s.nft.renew(token, ends)
        await s.chain.mine(6)
        await s.follower.start(None)
        for proxy in s.proxies:
            proxy.fault = Drop()
        await s.poll()
        for now, granted in ((ends - 1, True), (ends, False)):
            (found,) = judge(s.membership, confirmed=s.view.confirmed, chain_now=now)
            assert found.granted == granted


async def test_requirement_17_a_grant_takes_enough_votes_and_depth(tmp_path: Path) -> None:
    """Requirement 17: two of three must have the block that is N below; one waits for the other."""
    async with scene(tmp_path, confirmations=3) as s:
        await s.chain.mine(4)
        await s.follower.start(None)
        await s.hold(*s.proxies)
        new = await s.mint("new")
        admitted = (await s.chain.block()).number
        one, two, _ = s.proxies
        # One tells of it with any number of blocks on top; another one has nothing, or is away.
        await s.chain.mine(10)
        one.honest()
        for other in (two.fault, Drop(), RateLimit("*", -32005)):
            two.fault = other
            await s.poll()
            assert s.verdict(new) == "NODE_NOT_FOUND"
        # A second one that is on its way: its depth is what counts.
        for depth in range(5):
            two.fault = PinnedHead(admitted + depth)
            await s.poll()
            assert s.membership.block.number == admitted + depth
            assert s.verdict(new) == ("ACCESS_GRANTED" if depth >= 3 else "NOT_YET_CONFIRMED")


async def test_requirement_17_others_that_differ_do_not_count(tmp_path: Path) -> None:
    """Requirement 17: three with three blocks at one height agree on none, whatever they say."""
    async with scene(tmp_path) as s:
        await s.mint("a")
        await s.follower.start(None)
        before = s.membership
        forger = Forger(s.nft.address, CHAIN_ID)
        for proxy, key in zip(s.proxies[1:], (b"\x66" * 32, b"\x77" * 32), strict=True):
            await forger.grant(proxy, 2, "new", key)
            await forger.blocks(proxy, 9)
        new = await s.mint("new")
        await s.chain.mine(9)
        for _ in range(3):
            await s.poll()
            assert s.membership == before
            assert s.verdict(new) == "NODE_NOT_FOUND"
        s.proxies[2].honest()
        await s.poll()
        assert s.verdict(new) == "ACCESS_GRANTED"
        assert PublicKey(b"\x66" * 32) not in s.admitted()


@pytest.mark.parametrize(("count", "quorum"), [(3, 2), (3, 3), (5, 3)])
async def test_requirement_17_one_vote_too_few_waits(
    tmp_path: Path, count: int, quorum: int
) -> None:
    """Requirement 17: with k - 1 of n nobody comes in; with the k-th one everybody does."""
    async with scene(tmp_path, count=count, quorum=quorum) as s:
        await s.mint("a")
        await s.follower.start(None)
        await s.hold(*s.proxies)
        new = await s.mint("new")
        await s.chain.mine(5)
        for told in range(1, count + 1):
            s.proxies[told - 1].honest()
            for _ in range(2):
                await s.poll()
                assert (new in s.members()) == (told >= quorum)


async def test_requirement_18_silence_never_makes_the_quorum_smaller(tmp_path: Path) -> None:
    """Requirement 18: whoever dies, as many votes are needed as were configured."""
    async with scene(tmp_path) as s:
        member = await s.mint("a")
        await s.follower.start(None)
        s.proxies[1].fault = Drop()
        s.proxies[1].drop()
        first = await s.mint("b")
        await s.poll()
        assert s.members() == {member, first}
        s.proxies[2].fault = Drop()
        s.proxies[2].drop()
        second = await s.mint("c")
        await s.chain.mine(20)
        for _ in range(5):
            s.clock.now += 3600
            await s.poll()
            assert s.verdict(second) == "NODE_NOT_FOUND"
            assert (s.view.needed, s.view.voters) == (2, 3)
        assert s.view.last_error is not None
        # Nor does a new start find enough of them.
        async with following(s.nft.address, *urls(s.proxies), quorum=2, now=s.clock) as fresh:
            for _ in range(3):
                view = await fresh.poll()
                assert view.membership is None
        s.proxies[1].honest()
        await s.poll()
        assert s.members() == {member, first, second}


@pytest.mark.parametrize("declared", [False, True])
async def test_requirement_18_urls_of_one_operator_are_one_vote(
    tmp_path: Path, *, declared: bool
) -> None:
    """Requirement 18: two URLs of one host, or of one declared operator, have a vote together."""
    async with local_chain(tmp_path) as chain, providers(chain.url) as proxies:
        nft = await AccessNFT.deploy(chain)
        hosts = (11, 12, 13) if declared else (11, 11, 13)
        addresses = [at(p.url, host) for p, host in zip(proxies, hosts, strict=True)]
        voters = ["one", "one", "two"] if declared else None
        async with following(nft.address, *addresses, quorum=2, voters=voters) as follower:
            s = Scene(nft, proxies, follower)
            await s.mint("a")
            await follower.start(None)
            assert (s.view.needed, s.view.voters) == (2, 2)
            assert len({p.voter for p in s.view.providers}) == 2
            # Both URLs of the first say it, and the second voter says nothing.
            await s.hold(proxies[2])
            new = await s.mint("new")
            await s.chain.mine(20)
            for _ in range(3):
                await s.poll()
                assert s.verdict(new) == "NODE_NOT_FOUND"
            # Half of a voter is no vote.
            await s.hold(proxies[1])
            later = await s.mint("later")
            proxies[2].honest()
            await s.poll()
            assert new in s.members()
            assert later not in s.members()
            proxies[1].honest()
            await s.poll()
            assert later in s.members()
