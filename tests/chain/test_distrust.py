"""One of three that lies: what it can do, for how long, and what is told of it."""

import contextlib

import msgspec
import pytest

from chain.local import assert_same, at, new_key
from chain.trio import Trio, trio_of
from dstack_vpn.chain.distrust import MOST_WITHDRAWN, QUARANTINE
from dstack_vpn.chain.follow import Follower
from dstack_vpn.chain.providers import open_providers
from dstack_vpn.chain.tally import DISPUTE_DEPTH
from dstack_vpn.mesh.access import Verdict
from dstack_vpn.mesh.membership import Address, Membership
from dstack_vpn.mesh.snapshot import AlarmCode
from lab.chain import CHAIN_ID
from lab.nft import AccessNFT
from lab.rpcfaults import Drop, Give, Stall
from lab.rpclag import PinnedHead

LIAR = "127.0.0.3#3"


async def member(trio: Trio, name: str = "a") -> int:
    """A member whom all know; the follower has started."""
    token = (await trio.nft.mint(name, new_key())).token_id
    await trio.follower.start(None)
    assert trio.verdict(token) is Verdict.ACCESS_GRANTED
    return token


async def test_a_false_removal_suspends_until_the_others_refute_it(contract: AccessNFT) -> None:
    """The member is out at once and in again some blocks later; who lied is named all the time."""
    async with trio_of(contract) as trio:
        token = await member(trio)
        await trio.forger.revoke(trio.liar, token)
        await trio.follower.poll()
        decision = trio.decisions()[token]
        assert decision.verdict is Verdict.SOURCE_DISPUTED
        assert LIAR in decision.reason
        alarm = trio.alarm(AlarmCode.SUSPENDED)
        assert alarm is not None
        assert (alarm.provider, LIAR in alarm.text) == (LIAR, True)
        await trio.see(DISPUTE_DEPTH + 1)
        assert trio.verdict(token) is Verdict.ACCESS_GRANTED
        assert trio.alarm(AlarmCode.SUSPENDED) is None
        alarm = trio.alarm(AlarmCode.QUARANTINED)
        assert alarm is not None
        assert alarm.provider == LIAR
        trio.liar.honest()
        await trio.see()
        await assert_same(trio.follower, contract)


async def test_a_lie_about_a_block_that_all_have_is_refuted_at_once(contract: AccessNFT) -> None:
    """Other members at the hash that enough agree on need no patience."""
    async with trio_of(contract) as trio:
        token = await member(trio)
        await contract.set_endpoint(token, "198.51.100.7:1")
        await trio.forger.revoke(trio.liar, token, real_block=True)
        await trio.follower.poll()
        assert trio.verdict(token) is Verdict.ACCESS_GRANTED
        assert trio.alarm(AlarmCode.QUARANTINED) is not None


async def test_in_quarantine_its_word_alone_removes_nobody(contract: AccessNFT) -> None:
    """The second lie has no effect; when the quarantine is over it is heard again, once."""
    async with trio_of(contract) as trio:
        token = await member(trio)
        await contract.set_endpoint(token, "198.51.100.7:1")
        await trio.forger.revoke(trio.liar, token, real_block=True)
        await trio.follower.poll()
        trio.liar.honest()
        await trio.see()
        await trio.forger.revoke(trio.liar, token)
        await trio.follower.poll()
        assert trio.verdict(token) is Verdict.ACCESS_GRANTED
        trio.clock.now += QUARANTINE + 1
        await trio.follower.poll()
        assert trio.verdict(token) is Verdict.SOURCE_DISPUTED
        assert trio.alarm(AlarmCode.QUARANTINED) is None
        await trio.see(DISPUTE_DEPTH + 1)
        assert trio.verdict(token) is Verdict.ACCESS_GRANTED
        alarm = trio.alarm(AlarmCode.QUARANTINED)
        assert alarm is not None
        assert "for 2 h" in alarm.text


async def test_who_changes_its_story_each_time_is_found_out(contract: AccessNFT) -> None:
    """A new false branch from every new head is never left behind, but it is counted."""
    async with trio_of(contract) as trio:
        token = await member(trio)
        out = 0
        for _ in range(8):
            trio.liar.honest()
            await contract.chain.mine(1)
            await trio.forger.revoke(trio.liar, token)
            await trio.follower.poll()
            out += trio.verdict(token) is Verdict.SOURCE_DISPUTED
        assert out == MOST_WITHDRAWN
        alarm = trio.alarm(AlarmCode.QUARANTINED)
        assert alarm is not None
        assert "took back 3 times" in alarm.text
        assert trio.verdict(token) is Verdict.ACCESS_GRANTED


async def test_a_removal_that_moves_with_its_branch_is_not_counted(contract: AccessNFT) -> None:
    """Honest providers that tell of one removal in several blocks in turn were right each time."""
    async with trio_of(contract) as trio:
        await trio.follower.start(None)
        for name in "abcde":
            token = (await contract.mint(name, new_key())).token_id
            await trio.see()
            await contract.revoke(token)
            await trio.follower._look(trio.follower._witnesses[2])
            await contract.chain.reorg(1)
            await contract.revoke(token)
            await trio.see()
            assert trio.verdict(token) is Verdict.REVOKED
        assert trio.alarm(AlarmCode.QUARANTINED) is None


async def test_a_suspicion_outlasts_what_is_kept(contract: AccessNFT) -> None:
    """Whoever alone goes on for longer than the window, after a reorganisation, is heard on."""
    async with trio_of(contract) as trio:
        token = await member(trio)
        await trio.see(5)
        for proxy in trio.proxies[1:]:
            proxy.fault = Drop()
        await contract.chain.rollback(2)
        await contract.revoke(token)
        await trio.see(3)
        assert trio.verdict(token) is Verdict.SOURCE_DISPUTED
        for _ in range(28):
            await contract.chain.mine(10)
            await trio.follower.poll()
            assert trio.verdict(token) is Verdict.SOURCE_DISPUTED


async def test_a_late_machine_makes_nobody_forget(contract: AccessNFT) -> None:
    """In a dispute each is asked again; an older head behind the same URL takes nothing back."""
    async with trio_of(contract, quorum=3, rollback_patience=60.0) as trio:
        token = await member(trio)
        number = (await contract.chain.block()).number
        await trio.forger.blocks(trio.liar, 1)
        trio.proxies[1].fault = PinnedHead(number)
        await contract.revoke(token)
        await trio.follower.poll()
        assert trio.verdict(token) is Verdict.SOURCE_DISPUTED
        old = await trio.proxies[0].ask("eth_getBlockByNumber", hex(number), False)
        trio.proxies[0].fault = Give(
            "eth_getBlockByNumber", old, where=lambda call: call["params"][0] == "latest"
        )
        for _ in range(3):
            await trio.follower.poll()
            assert trio.verdict(token) is Verdict.SOURCE_DISPUTED


async def test_a_suspicion_of_one_who_fell_silent_ends(contract: AccessNFT) -> None:
    """Whoever accuses and cannot be asked again is not believed for ever."""
    async with trio_of(contract) as trio:
        token = await member(trio)
        await trio.forger.revoke(trio.liar, token)
        await trio.follower.poll()
        assert trio.verdict(token) is Verdict.SOURCE_DISPUTED
        trio.liar.fault = [*trio.liar.fault, Drop()]
        await trio.see(DISPUTE_DEPTH + 2)
        assert trio.verdict(token) is Verdict.ACCESS_GRANTED
        # It was silent: that is not held against it at once.
        assert trio.alarm(AlarmCode.QUARANTINED) is None


async def test_a_restart_forgets_no_suspicion(contract: AccessNFT) -> None:
    """Who was out on one provider's word is out after a start, until that one is heard again."""
    async with trio_of(contract) as trio:
        token = await member(trio)
        for proxy in trio.proxies[:2]:
            proxy.fault = PinnedHead((await contract.chain.block()).number)
        await contract.revoke(token)
        await trio.follower.poll()
        assert trio.verdict(token) is Verdict.SOURCE_DISPUTED
        saved = trio.follower.view.membership
        assert saved is not None
        decoded = msgspec.json.decode(msgspec.json.encode(saved), type=Membership)
        assert decoded == saved
        # Providers are known by their names; those of another follower at the same ports too.
        again = Follower(
            providers=open_providers(
                [at(proxy.url, host) for host, proxy in enumerate(trio.proxies, 1)], timeout=0.3
            ),
            chain_id=CHAIN_ID,
            contract=Address(contract.address.lower()),
            confirmations=0,
            quorum=2,
        )
        async with contextlib.aclosing(again):
            trio.liar.fault = Stall()
            await again.start(decoded)
            assert set(again.view.suspects) == {token}
            await again.poll()
            assert set(again.view.suspects) == {token}
            trio.liar.honest()
            for proxy in trio.proxies:
                proxy.honest()
            for provider in again._panel.providers:
                provider._end_pause()
            await again.poll()
            view = again.view
            assert view.membership is not None
            assert view.membership.nodes[token].revoked
            assert view.suspects == {}


async def test_the_quarantine_is_of_all_that_is_one_vote(contract: AccessNFT) -> None:
    """A voter with several URLs has one try, not one for each of them."""
    async with trio_of(contract, quorum=1, voters=["a", "b", "b"]) as trio:
        token = await member(trio)
        await contract.set_endpoint(token, "198.51.100.7:1")
        await trio.forger.revoke(trio.liar, token, real_block=True)
        await trio.follower.poll()
        view = trio.follower.view
        assert trio.verdict(token) is Verdict.ACCESS_GRANTED
        assert [p.quarantined_until is not None for p in view.providers] == [False, True, True]


@pytest.mark.parametrize("real_block", [False, True])
async def test_a_false_grant_admits_nobody(contract: AccessNFT, *, real_block: bool) -> None:
    """Neither in a forged block nor at an honest one, however many blocks are on top."""
    async with trio_of(contract) as trio:
        token = await member(trio)
        if real_block:
            await contract.set_endpoint(token, "198.51.100.7:1")
        key = bytes(range(32))
        await trio.forger.grant(trio.liar, 7, "evil", key, real_block=real_block)
        await trio.forger.blocks(trio.liar, 20)
        for _ in range(3):
            await trio.follower.poll()
            assert trio.verdict(7) is Verdict.NODE_NOT_FOUND
        await trio.see(DISPUTE_DEPTH + 2)
        assert trio.verdict(7) is Verdict.NODE_NOT_FOUND
        assert trio.verdict(token) is Verdict.ACCESS_GRANTED
        assert trio.alarm(AlarmCode.DISAGREEMENT) is not None
        await assert_same(trio.follower, contract)


async def test_what_a_true_removal_needs_is_one_source(contract: AccessNFT) -> None:
    """Two that are late hold up no removal, and the member stays out while they are."""
    async with trio_of(contract) as trio:
        token = await member(trio)
        for proxy in trio.proxies[:2]:
            proxy.fault = PinnedHead((await contract.chain.block()).number)
        await contract.revoke(token)
        await trio.follower.poll()
        await trio.see(DISPUTE_DEPTH + 3)
        assert trio.verdict(token) is Verdict.SOURCE_DISPUTED
        for proxy in trio.proxies[:2]:
            proxy.honest()
        await trio.see()
        assert trio.verdict(token) is Verdict.REVOKED
        assert trio.alarm(AlarmCode.SUSPENDED) is None
