"""A follower of three providers over time: restarts, tags, finality, the dark, compares."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chain.local import assert_same, at, following, local_chain, new_key
from chain.trio import trio_of
from dstack_vpn.chain.upkeep import COMPARE_AGAIN, COMPARE_EVERY, FINAL_EVERY, TAG_EVERY
from dstack_vpn.errors import ChainError
from dstack_vpn.mesh.access import Verdict
from dstack_vpn.mesh.membership import Tag
from dstack_vpn.mesh.snapshot import AlarmCode
from lab.nft import AccessNFT
from lab.rpcfault import Call
from lab.rpcfaults import Omit, RateLimit, Stall
from lab.rpclag import PinnedHead


async def test_a_restart_confirms_nobody_earlier(contract: AccessNFT) -> None:
    """Who had too few blocks before has too few after, whatever was saved of him."""
    async with trio_of(contract, confirmations=5) as trio:
        await trio.follower.start(None)
        token = (await contract.mint("a", new_key())).token_id
        await trio.follower.poll()
        assert trio.verdict(token) is Verdict.NOT_YET_CONFIRMED
        saved = trio.follower.view.membership
        assert saved is not None
    async with trio_of(contract, confirmations=5) as trio:
        await trio.follower.start(saved)
        await trio.follower.poll()
        assert trio.verdict(token) is Verdict.NOT_YET_CONFIRMED
        await trio.see(4)
        assert trio.verdict(token) is Verdict.NOT_YET_CONFIRMED
        await trio.see(1)
        assert trio.verdict(token) is Verdict.ACCESS_GRANTED


@pytest.mark.parametrize("tag", [Tag.SAFE, Tag.FINALIZED])
async def test_admissions_wait_for_a_tag(tmp_path: Path, tag: Tag) -> None:
    """A block counts when two of three call it safe, or final; removals wait for nothing."""
    async with local_chain(tmp_path, options=["--slots-in-an-epoch", "2"]) as chain:
        contract = await AccessNFT.deploy(chain)
        await chain.mine(70)
        async with trio_of(contract, confirmations=tag) as trio:
            await trio.follower.start(None)
            token = (await contract.mint("a", new_key())).token_id
            depth = 2 if tag is Tag.SAFE else 4
            for _ in range(depth):
                trio.clock.now += TAG_EVERY
                await trio.follower.poll()
                assert trio.verdict(token) is Verdict.NOT_YET_CONFIRMED
                await chain.mine(1)
            trio.clock.now += TAG_EVERY
            await trio.follower.poll()
            assert trio.verdict(token) is Verdict.ACCESS_GRANTED
            await contract.revoke(token)
            await trio.follower.poll()
            assert trio.verdict(token) is Verdict.REVOKED


async def test_a_final_block_is_never_left(tmp_path: Path) -> None:
    """A reorganisation below it stops admissions with an alarm, also after a restart."""
    async with local_chain(tmp_path, options=["--slots-in-an-epoch", "1"]) as chain:
        contract = await AccessNFT.deploy(chain)
        old = (await contract.mint("a", new_key())).token_id
        async with trio_of(contract, finality=True) as trio:
            await trio.follower.start(None)
            await chain.mine(5)
            await trio.follower.poll()
            before = trio.follower.view.membership
            assert before is not None
            assert before.finalized is not None
            assert before.finalized.number == before.block.number - 2
            await chain.reorg(4)
            new = (await contract.mint("b", new_key())).token_id
            for _ in range(2):
                await trio.see()
            assert trio.alarm(AlarmCode.FINALITY) is not None
            after = trio.follower.view.membership
            assert after is not None
            assert after.block == before.block
            assert trio.verdict(new) is Verdict.NODE_NOT_FOUND
            assert trio.verdict(old) is Verdict.ACCESS_GRANTED
            # What takes access away still does.
            await contract.revoke(old)
            await trio.follower.poll()
            assert trio.verdict(old) is Verdict.SOURCE_DISPUTED
        async with trio_of(contract, finality=True) as trio:
            with pytest.raises(ChainError, match="was final"):
                await trio.follower.start(before)
            view = await trio.follower.poll()
            assert not view.verified
            assert trio.alarm(AlarmCode.FINALITY) is not None


async def test_who_is_behind_the_final_block_has_not_left_it(tmp_path: Path) -> None:
    """At a start providers that lag raise no alarm; one about another branch is over in the end."""
    async with local_chain(tmp_path, options=["--slots-in-an-epoch", "1"]) as chain:
        contract = await AccessNFT.deploy(chain)
        async with trio_of(contract, finality=True) as trio:
            await trio.follower.start(None)
            await trio.see(5)
            trio.clock.now += FINAL_EVERY
            await trio.see()
            saved = trio.follower.view.membership
            assert saved is not None
            assert saved.finalized is not None
        final = saved.finalized
        async with trio_of(contract, finality=True) as trio:
            for proxy in trio.proxies[:2]:
                proxy.fault = PinnedHead(final.number - 1)
            with pytest.raises(ChainError, match=f"behind block {final.number}, which is final"):
                await trio.follower.start(saved)
            assert trio.follower.view.alarms == ()
            for proxy in trio.proxies:
                proxy.honest()
            elsewhere = replace(saved, finalized=replace(final, hash=saved.block.hash))
            with pytest.raises(ChainError, match="was final"):
                await trio.follower.start(elsewhere)
            assert trio.alarm(AlarmCode.FINALITY) is not None
            await trio.follower.start(saved)
            token = (await contract.mint("b", new_key())).token_id
            await trio.follower.poll()
            assert trio.alarm(AlarmCode.FINALITY) is None
            assert trio.verdict(token) is Verdict.ACCESS_GRANTED


async def test_a_full_compare_comes_first_after_the_dark(contract: AccessNFT) -> None:
    """Removals are carried out at once; whoever came meanwhile waits for the compare."""
    async with trio_of(contract, dark_after=60.0) as trio:
        old = (await contract.mint("a", new_key())).token_id
        await trio.follower.start(None)
        for proxy in trio.proxies:
            proxy.fault = RateLimit()
        await trio.follower.poll()
        trio.clock.now += 100
        await contract.revoke(old)
        new = (await contract.mint("b", new_key())).token_id
        for proxy in trio.proxies:
            proxy.fault = Stall("eth_call", to="hashNodes(uint256,uint256)")
        compares = trio.follower.view.compares
        for witness in trio.follower._witnesses:
            witness.provider._end_pause()
        for look in [trio.follower._look(w) for w in trio.follower._witnesses]:
            await look
        assert trio.verdict(old) is Verdict.REVOKED
        assert trio.verdict(new) is Verdict.NOT_YET_CONFIRMED
        for proxy in trio.proxies:
            proxy.honest()
        await trio.follower.poll()
        assert trio.follower.view.compares == compares + 1
        assert trio.verdict(new) is Verdict.ACCESS_GRANTED


async def test_a_full_compare_puts_right_what_following_missed(contract: AccessNFT) -> None:
    """Once an hour all members are compared; what differs is taken from the contract, loudly."""
    token = (await contract.mint("a", new_key())).token_id
    async with trio_of(contract) as trio:
        await trio.follower.start(None)
        agreed = trio.follower._agreed
        assert agreed is not None
        forged = replace(agreed.journal.nodes[token], key=b"\x66" * 32)
        agreed.journal._nodes = {token: forged, 9: replace(forged, token_id=9)}
        await trio.follower.poll()
        trio.clock.now += COMPARE_EVERY + 1
        await trio.follower.poll()
        await assert_same(trio.follower, contract)
        assert trio.alarm(AlarmCode.MEMBERS_DIFFERED) is not None
        trio.clock.now += COMPARE_EVERY + 1
        await trio.follower.poll()
        assert trio.alarm(AlarmCode.MEMBERS_DIFFERED) is None


def in_range(call: Call) -> bool:
    """Whether logs are asked for by a range of heights."""
    return "blockHash" not in call["params"][0]


async def test_final_blocks_are_read_again(tmp_path: Path) -> None:
    """A provider that has other logs of them than were followed is named; all are compared."""
    async with local_chain(tmp_path, options=["--slots-in-an-epoch", "1"]) as chain:
        contract = await AccessNFT.deploy(chain)
        await chain.mine(5)
        async with trio_of(contract, finality=True) as trio:
            await trio.follower.start(None)
            await trio.follower.poll()
            compares = trio.follower.view.compares
            for round_ in range(3):
                await contract.mint(f"n{round_}", new_key())
                await chain.mine(3)
                trio.clock.now += FINAL_EVERY
                await trio.follower.poll()
            assert trio.follower.view.alarms == ()
            assert trio.follower.view.compares == compares
            asked = sum(proxy.methods["eth_getLogs"] for proxy in trio.proxies)
            assert asked
            # Each in its turn, and who agrees again is no longer blamed.
            compares = trio.follower.view.compares
            for round_ in range(6):
                wrong = round_ == 0
                for proxy in trio.proxies:
                    proxy.fault = [Omit("eth_getLogs", where=in_range)] if wrong else []
                await contract.mint(f"again{round_}", new_key())
                await chain.mine(3)
                trio.clock.now += FINAL_EVERY
                await trio.follower.poll()
                if wrong:
                    assert trio.alarm(AlarmCode.LOGS_DIFFERED) is not None
            assert trio.follower.view.compares == compares + 1
            assert trio.follower.view.alarms == ()


async def test_a_minority_of_another_chain_is_left_out(contract: AccessNFT, tmp_path: Path) -> None:
    """Two of three are enough; the third is named in an alarm and not listened to."""
    options = ["--timestamp", "1700000000"]
    async with local_chain(tmp_path, "other", options=options) as other:
        await AccessNFT.deploy(other)
        url = contract.chain.url
        urls = [url, at(url, 2), at(other.url, 3)]
        async with following(contract.address, *urls, quorum=2) as follower:
            await follower.start(None)
            await contract.mint("a", new_key())
            await follower.poll()
            await assert_same(follower, contract)
            (alarm,) = follower.view.alarms
            assert (alarm.code, alarm.provider) == (AlarmCode.PROVIDER_REFUSED, "127.0.0.3#3")


@pytest.mark.parametrize("left", [False, True])
async def test_a_full_compare_undoes_no_removal(
    contract: AccessNFT, monkeypatch: pytest.MonkeyPatch, left: bool
) -> None:
    """A revocation that is agreed on while it runs stands, on its block or on another branch."""
    async with trio_of(contract, confirmations=0) as trio:
        one, two = [(await contract.mint(name, new_key())).token_id for name in "ab"]
        follower = trio.follower
        await follower.start(None)
        await trio.see()
        agreed = follower._agreed
        assert agreed is not None
        wrong = replace(agreed.journal.nodes[two], key=b"\x66" * 32)
        agreed.journal._nodes = {**agreed.journal.nodes, two: wrong}
        compare, read, go_on = follower._kind.compare, asyncio.Event(), asyncio.Event()

        async def slowly(*given: Any) -> Any:
            found = await compare(*given)
            read.set()
            await go_on.wait()
            return found

        monkeypatch.setattr(follower._kind, "compare", slowly)
        follower._progress.recovering = True
        follower._upkeep.compare_now()
        async with asyncio.TaskGroup() as group:
            group.create_task(follower._do_what_is_due())
            await read.wait()
            if left:
                await contract.chain.reorg(1)
            await contract.revoke(one)
            for witness in follower._witnesses:
                await follower._look(witness)
            assert trio.verdict(one) is Verdict.REVOKED
            go_on.set()
        assert trio.verdict(one) is Verdict.REVOKED
        assert trio.alarm(AlarmCode.MEMBERS_DIFFERED) is not None
        assert follower._progress.recovering is left
        trio.clock.now += COMPARE_AGAIN
        await follower.poll()
        await assert_same(follower, contract)
        assert not follower._progress.recovering
        assert trio.verdict(one) is Verdict.REVOKED
