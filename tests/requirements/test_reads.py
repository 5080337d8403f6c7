"""Requirements 9 and 11: what events lead to, and what is checked before anybody gets in."""

from pathlib import Path

import pytest

from chain.local import assert_same, new_key
from dstack_vpn.mesh.keys import PublicKey
from lab.chain import CHAIN_ID
from lab.published import Habit, PublishedAccess
from lab.rpcfault import block_of, calldata, selector
from lab.rpcfaults import Forge, Give, RateLimit, Swap
from lab.rpcforger import Forger
from requirements.lies import MALLORY
from requirements.scene import Scene, scene

ACCESS = "getNodeAccess(uint256)"

SEMANTICS = {
    "a key a token": Habit.NONE,
    "a key a token, kept at a transfer": Habit.KEEP_KEY,
    "a key an owner": Habit.KEY_OF_OWNER,
}


def contract_of(s: Scene) -> PublishedAccess:
    """The contract with only the published interface."""
    return PublishedAccess(s.chain, s.nft.address, 0)


@pytest.mark.parametrize("name", SEMANTICS)
async def test_requirement_09_events_lead_to_reads_at_their_block(
    tmp_path: Path, name: str
) -> None:
    """Requirement 9: which token an owner of two set a key for is read, not guessed.

    `PublicKeyUpdated` names the owner only. Whichever way the contract keeps keys, what is followed
    is what it has, and each state was asked for at the hash of the block of the event.
    """
    async with scene(tmp_path, habits=SEMANTICS[name]) as s:
        contract = contract_of(s)
        one, two = await s.mint("a", to=1), await s.mint("b", to=1)
        await s.mint("c", to=2)
        await s.follower.start(None)
        await s.assert_published()
        for token in (one, two, two, one):
            for proxy in s.proxies:
                proxy.forget()
            await contract.set_key(token, new_key(), account=1)
            await s.poll()
            await s.assert_published()
            head = await s.chain.block()
            for proxy in s.proxies:
                asked = [c for c in proxy.calls if calldata(c).startswith(selector(ACCESS))]
                assert {int(calldata(c)[10:], 16) for c in asked} == {one, two}
                at = {"blockHash": head.hash, "requireCanonical": True}
                assert all(block_of(c) == at for c in asked)
        # Several in one block, in one transaction, and while a token changes hands.
        await contract.at_once(
            ("updatePublicKey(uint256,string)", two, new_key()),
            ("updatePublicKey(uint256,string)", one, new_key()),
            ("updatePublicKey(uint256,string)", two, new_key()),
            account=1,
        )
        await s.poll()
        await s.assert_published()
        await contract.transfer(one, account=1, to=2)
        await s.poll()
        await s.assert_published()
        assert one not in s.members()
        await contract.set_key(one, new_key(), account=2)
        await s.poll()
        await s.assert_published()
        assert s.view.resyncs == 1


async def test_requirement_11_receipts_are_read_where_somebody_gets_in(tmp_path: Path) -> None:
    """Requirement 11: a block that admits is held against its receipts; one that removes is not."""
    async with scene(tmp_path, count=1, habits=Habit.NONE) as s:
        token = await s.mint("a")
        await s.follower.start(None)
        (proxy,) = s.proxies
        for write, admits in (
            (s.nft.mint("b", new_key()), True),
            (s.nft.revoke(token), False),
            (contract_of(s).grant_again(token), True),
            (contract_of(s).set_key(token, new_key()), True),
            (s.nft.transfer(token, to=3), False),
        ):
            await write
            proxy.forget()
            await s.poll()
            await s.assert_published()
            assert bool(proxy.methods["eth_getBlockReceipts"]) == admits


BAD_RECEIPTS = {
    "refused": RateLimit("eth_getBlockReceipts", -32601),
    "null": Give("eth_getBlockReceipts", None),
    "none": Give("eth_getBlockReceipts", []),
    "without logs": Forge("eth_getBlockReceipts", lambda got: [{**r, "logs": []} for r in got]),
    "of another block": Forge(
        "eth_getBlockReceipts", lambda got: [{**r, "blockHash": "0x" + "11" * 32} for r in got]
    ),
    "with another status": Forge(
        "eth_getBlockReceipts", lambda got: [{**r, "status": "0x0"} for r in got]
    ),
}


@pytest.mark.parametrize("name", BAD_RECEIPTS)
async def test_requirement_11_without_good_receipts_nobody_gets_in(
    tmp_path: Path, name: str
) -> None:
    """Requirement 11: a provider that cannot prove its logs admits nobody; who was in stays in."""
    async with scene(tmp_path, count=1, habits=Habit.NONE) as s:
        token = await s.mint("a")
        await s.follower.start(None)
        before = s.membership
        s.proxies[0].fault = BAD_RECEIPTS[name]
        await s.two_grants()
        await s.poll()
        assert s.membership == before
        assert s.members() == {token}
        assert "127.0.0.11#1" in (s.view.last_error or "")
        s.proxies[0].honest()
        await s.arrive()
        await s.assert_published()


@pytest.mark.parametrize("habits", [None, Habit.NONE])
async def test_requirement_11_a_second_provider_must_read_the_same(
    tmp_path: Path, habits: Habit | None
) -> None:
    """Requirement 11: with two votes nobody gets in before a second one shows the same content.

    The same block hash is not enough: what they say of the block must be the same too.
    """
    async with scene(tmp_path, count=2, quorum=2, habits=habits) as s:
        await s.mint("a")
        await s.follower.start(None)
        one, two = s.proxies
        key = new_key()
        if habits is None:
            await s.nft.set_endpoint(1, "198.51.100.7:1")
            await Forger(s.nft.address, CHAIN_ID).grant(two, 9, "mallory", MALLORY, real_block=True)
        else:
            await s.nft.mint("b", key)
            two.fault = Swap("eth_call", key.encode(), str(PublicKey(MALLORY)).encode())
        before = s.membership
        for _ in range(3):
            await s.poll()
            assert s.membership == before
            assert s.members() == {1}
        two.honest()
        await s.hold(two)
        await s.chain.mine(1)
        new = (await s.nft.mint("late", new_key())).token_id
        await s.poll()
        assert new not in s.members()
        two.honest()
        await s.arrive()
        await (assert_same(s.follower, s.nft) if habits is None else s.assert_published())
        assert new in s.members()
        assert PublicKey(MALLORY) not in s.admitted()
        assert one.requests
