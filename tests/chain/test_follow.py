"""The follower against a real chain: starts, follows, goes back, starts again."""

import asyncio
import contextlib
import time
from dataclasses import replace
from pathlib import Path

import pytest

from chain.local import assert_same, at, following, local_chain, new_key, seen_by, ws
from chain.samples import hex_of
from dstack_vpn.chain import checkpoint_kind, follow, journal, pages
from dstack_vpn.chain.contract import call_get_nodes
from dstack_vpn.errors import BadAnswerError, ChainError, WrongChainError
from dstack_vpn.mesh.membership import Address, Membership
from dstack_vpn.variables import NETWORKS
from lab.nft import AccessNFT
from lab.rpcproxy import Call, Proxy, Reply
from lab.waiting import until


async def test_every_write_arrives(contract: AccessNFT) -> None:
    """After each kind of write one poll shows exactly what the contract shows."""
    async with following(contract.address, contract.chain.url) as follower:
        await follower.start(None)
        await assert_same(follower, contract)
        token = (await contract.mint("a")).token_id
        writes = [
            contract.set_key(token, new_key()),
            contract.set_endpoint(token, "198.51.100.7:51820"),
            contract.renew(token, 2_000_000_000),
            contract.send("setRole(uint256,bytes32)", token, b"r" * 32),
            contract.revoke(token),
            contract.restore(token),
            contract.transfer(token, to=3),
            contract.set_key(token, new_key(), account=3),
            contract.mint("b", new_key(), to=2),
            contract.burn(token),
        ]
        for write in writes:
            await follower.poll()
            await assert_same(follower, contract)
            await write
        await follower.poll()
        await assert_same(follower, contract)
        assert follower.view.resyncs == 1
        assert follower.view.verified


async def test_an_idle_poll_costs_one_request_and_a_change_two(contract: AccessNFT) -> None:
    """What a month of polling costs can be computed from this."""
    async with (
        Proxy.open(contract.chain.url) as proxy,
        following(contract.address, proxy.url) as follower,
    ):
        await follower.start(None)
        proxy.requests = 0
        proxy.methods.clear()
        await follower.poll()
        assert (proxy.requests, dict(proxy.methods)) == (1, {"eth_getBlockByNumber": 1})
        proxy.methods.clear()
        await contract.mint("a", new_key())
        await follower.poll()
        assert proxy.requests == 3
        assert proxy.methods == {"eth_getBlockByNumber": 1, "eth_call": 1, "eth_getLogs": 1}
        await assert_same(follower, contract)


async def test_empty_blocks_are_followed_without_asking_for_logs(contract: AccessNFT) -> None:
    """Blooms and equal histories excuse blocks, however many came at once."""
    async with following(contract.address, contract.chain.url) as follower:
        await follower.start(None)
        for blocks in (1, 2, 40, 200):
            await contract.chain.mine(blocks)
            await follower.poll()
            await assert_same(follower, contract)
        (provider,) = follower.view.providers
        assert "eth_getLogs" not in provider.requests
        assert follower.view.resyncs == 1


async def test_a_gap_of_many_changes_is_folded(contract: AccessNFT) -> None:
    """Changes in many blocks between two polls are all found, each in its block."""
    async with following(contract.address, contract.chain.url) as follower:
        await follower.start(None)
        made = []
        for i in range(12):
            made.append(await contract.mint(f"n{i}", new_key()))
            await contract.chain.mine(3)
        await follower.poll()
        await assert_same(follower, contract)
        assert follower.view.resyncs == 1
        membership = follower.view.membership
        assert membership is not None
        for one in made:
            assert membership.nodes[one.token_id].since_block == one.block


async def start_saved(contract: AccessNFT, url: str) -> Membership:
    async with following(contract.address, url) as follower:
        return await follower.start(None)


async def test_a_restart_is_one_request_a_provider(contract: AccessNFT) -> None:
    """One batch to each is all, whatever blocks without a change came in between."""
    chain = contract.chain
    await contract.mint("a", new_key())
    saved = await start_saved(contract, chain.url)
    await chain.mine(1000)
    async with (
        Proxy.open(chain.url) as one,
        Proxy.open(chain.url) as other,
        following(contract.address, one.url, at(other.url, 2)) as follower,
    ):
        membership = await follower.start(saved)
        assert (one.requests, other.requests) == (1, 1)
        assert membership.nodes == saved.nodes
        await assert_same(follower, contract)
        assert follower.view.resyncs == 0


async def test_a_restart_after_changes_reads_only_the_pages_that_changed(
    contract: AccessNFT, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other pages are confirmed by their digest, by every provider."""
    monkeypatch.setattr(pages, "PAGE", 4)
    monkeypatch.setattr(checkpoint_kind, "PAGE", 4)
    chain = contract.chain
    tokens = [(await contract.mint(f"n{i}", new_key())).token_id for i in range(11)]
    await contract.burn(tokens[1])
    saved = await start_saved(contract, chain.url)
    await contract.revoke(tokens[5])
    await contract.mint("new", new_key())
    async with (
        Proxy.open(chain.url) as proxy,
        following(contract.address, at(proxy.url, 9), proxy.url) as follower,
    ):
        read: list[str] = []
        get_nodes = hex_of(call_get_nodes(1, 1)[:4])

        def watch(call: Call, _reply: Reply) -> None:
            if call["method"] == "eth_call" and call["params"][0]["data"].startswith(get_nodes):
                read.append(call["params"][0]["data"])

        proxy.alter = watch
        await follower.start(saved)
        await assert_same(follower, contract)
        assert sorted(int(data[10:74], 16) for data in read) == [5, 9]


async def test_a_disk_that_lies_is_not_believed(contract: AccessNFT) -> None:
    """A token altered on disk is read again, whether or not the contract changed since."""
    token = (await contract.mint("a", new_key())).token_id
    saved = await start_saved(contract, contract.chain.url)
    forged = replace(saved.nodes[token], key=b"\x66" * 32)
    added = {**saved.nodes, 7: replace(forged, token_id=7)}
    impossible = replace(forged, created_at=-1)
    damaged = {token: impossible}, {2**255: forged}
    for nodes in ({token: forged}, added, {}, *damaged):
        async with following(contract.address, contract.chain.url) as follower:
            await follower.start(replace(saved, nodes=nodes))
            await assert_same(follower, contract)
            assert follower.view.resyncs == 1
        await contract.set_endpoint(token, "198.51.100.7:1")


async def test_a_restart_after_a_long_time_reads_a_snapshot(contract: AccessNFT) -> None:
    """A saved block outside of the window is of no use when the contract changed since."""
    token = (await contract.mint("a", new_key())).token_id
    saved = await start_saved(contract, contract.chain.url)
    await contract.revoke(token)
    await contract.chain.mine(journal.WINDOW + 10)
    async with following(contract.address, contract.chain.url) as follower:
        await follower.start(saved)
        await assert_same(follower, contract)
        assert follower.view.resyncs == 1


async def test_a_snapshot_has_as_many_pages_as_it_takes(
    contract: AccessNFT, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full pages, a last one that is not full, burned tokens at the edges, two providers."""
    monkeypatch.setattr(pages, "PAGE", 4)
    tokens = [(await contract.mint(f"n{i}", new_key())).token_id for i in range(11)]
    for token in (tokens[0], tokens[3], tokens[4], tokens[10]):
        await contract.burn(token)
    urls = (contract.chain.url, at(contract.chain.url, 2))
    async with following(contract.address, *urls) as follower:
        await follower.start(None)
        await assert_same(follower, contract)
        assert len(seen_by(follower)) == 7


@pytest.mark.parametrize("confirmations", [0, 3, 5, 100])
async def test_a_snapshot_is_taken_below_the_head(contract: AccessNFT, confirmations: int) -> None:
    """Who was there that many blocks ago is confirmed, who came later is not."""
    old = await contract.mint("old", new_key())
    await contract.chain.mine(6)
    new = await contract.mint("new", new_key())
    async with following(
        contract.address, contract.chain.url, confirmations=confirmations
    ) as follower:
        membership = await follower.start(None)
        await assert_same(follower, contract)
        head = membership.block.number
        depths = {t: head - n.since_block for t, n in membership.nodes.items()}
        assert depths[old.token_id] >= min(confirmations, head - old.block)
        assert depths[new.token_id] == 0


@pytest.mark.parametrize("depth", [1, 2, 6])
async def test_a_reorganisation_is_undone(contract: AccessNFT, depth: int) -> None:
    """Members of blocks that are no more are no more."""
    chain = contract.chain
    await contract.mint("stays", new_key())
    async with following(contract.address, chain.url) as follower:
        await follower.start(None)
        for i in range(6):
            await contract.mint(f"n{i}", new_key())
            await follower.poll()
        await chain.reorg(depth)
        await follower.poll()
        await assert_same(follower, contract)
        assert len(seen_by(follower)) == 7 - depth
        assert (follower.view.reorgs, follower.view.resyncs) == (1, 1)


async def test_a_revocation_that_is_reorganised_away_restores_the_node(
    contract: AccessNFT,
) -> None:
    """The node is back as it was, but as new as the branch that brings it back."""
    minted = await contract.mint("a", new_key())
    async with following(contract.address, contract.chain.url) as follower:
        before = await follower.start(None)
        await contract.revoke(minted.token_id)
        await follower.poll()
        await contract.chain.reorg(1)
        await contract.chain.mine(1)
        await follower.poll()
        await assert_same(follower, contract)
        after = follower.view.membership
        assert after is not None
        token = minted.token_id
        assert after.nodes[token].access_state == before.nodes[token].access_state
        assert before.nodes[token].since_block < after.nodes[token].since_block
        assert after.nodes[token].since_block == after.block.number - 1


async def test_going_back_without_notice_is_noticed(contract: AccessNFT) -> None:
    """Anvil tells nobody of a rollback or a revert; parent hashes do."""
    chain = contract.chain
    async with following(contract.address, chain.url) as follower:
        await follower.start(None)
        await contract.mint("a", new_key())
        snapshot = await chain.snapshot()
        await contract.mint("b", new_key())
        await contract.mint("c", new_key())
        await follower.poll()
        await chain.rollback(1)
        await follower.poll()
        await assert_same(follower, contract)
        await chain.revert(snapshot)
        await contract.mint("d", new_key())
        await follower.poll()
        await assert_same(follower, contract)
        assert follower.view.reorgs == 2


async def test_a_shorter_chain_is_believed_late_where_it_must_be(contract: AccessNFT) -> None:
    """With patience, members of blocks that nobody has any more stay until the time is over."""
    chain = contract.chain
    async with following(contract.address, chain.url, rollback_patience=0.3) as follower:
        await follower.start(None)
        await contract.mint("a", new_key())
        await follower.poll()
        await chain.rollback(1)
        view = await follower.poll()
        assert "behind block 2" in (view.last_error or "")
        assert len(seen_by(follower)) == 1

        async def gone() -> bool:
            return (await follower.poll()).last_error is None

        await until(gone, "the rollback is believed")
        await assert_same(follower, contract)


async def test_a_branch_older_than_the_window_leads_to_a_snapshot(
    contract: AccessNFT, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the window cannot undo is read anew."""
    monkeypatch.setattr(follow, "WINDOW", 4)
    chain = contract.chain
    async with following(contract.address, chain.url) as follower:
        await follower.start(None)
        for i in range(8):
            await contract.mint(f"n{i}", new_key())
            await follower.poll()
        await chain.reorg(7)
        await follower.poll()
        await assert_same(follower, contract)
        assert follower.view.resyncs == 2


async def test_a_reorganisation_of_more_than_is_kept_at_once(contract: AccessNFT) -> None:
    """Hundreds of blocks replaced by more between two looks end in the contract's state."""
    async with following(contract.address, contract.chain.url) as follower:
        await contract.mint("a", new_key())
        await follower.start(None)
        for _ in range(2):
            await contract.chain.mine(200)
            await follower.poll()
        await contract.chain.rollback(200)
        await contract.chain.rpc("evm_increaseTime", 100)
        await contract.chain.mine(300)
        for _ in range(2):
            await follower.poll()
        await assert_same(follower, contract)


async def test_a_start_that_fails_is_tried_at_the_pace_that_is_set(contract: AccessNFT) -> None:
    """A WebSocket that connects, while the others are away, does not make it a busy loop."""
    urls = [ws(contract.chain.url), "http://127.0.0.2:9", "http://127.0.0.3:9"]
    async with following(contract.address, *urls, quorum=2) as follower:
        attempts = 0

        def changed() -> None:
            nonlocal attempts
            attempts += 1

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await follower.run(None, interval=0.2, changed=changed)
        assert 2 <= attempts <= 6


async def test_wrong_chain_id(contract: AccessNFT) -> None:
    """The sentence names both ids and the provider."""
    async with following(contract.address, contract.chain.url, chain_id=8453) as follower:
        with pytest.raises(WrongChainError) as caught:
            await follower.start(None)
    assert str(caught.value) == (
        "127.0.0.1#1 serves the chain with id 31337, but this node is configured for chain id 8453"
    )


async def test_no_contract_at_the_address(contract: AccessNFT) -> None:
    """The sentence names the address."""
    address = "0x" + "12" * 20
    async with following(address, contract.chain.url) as follower:
        with pytest.raises(WrongChainError, match=f"there is no contract at {address}"):
            await follower.start(None)


FIRST = NETWORKS["hardhat"].contract
"""Where the first contract of the first account comes to be."""


async def test_a_contract_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    """Meanwhile it is a temporary error that names the address; then it is followed."""
    async with (
        local_chain(tmp_path) as chain,
        following(FIRST, chain.url, at(chain.url, 2), contract_wait=600) as follower,
    ):
        with pytest.raises(ChainError, match=f"there is no contract at {FIRST.lower()}"):
            await follower.start(None)
        for _ in range(2):
            view = await follower.poll()
            assert (view.membership, view.verified) == (None, False)
            assert "it is waited for, for 600 s (CONTRACT_WAIT) at most" in (view.last_error or "")
        deployed = await AccessNFT.deploy(chain)
        assert deployed.address.lower() == FIRST.lower()
        await deployed.mint("a", new_key())
        await follower.poll()
        await assert_same(follower, deployed)


async def test_the_wait_for_a_contract_has_an_end(contract: AccessNFT) -> None:
    """When the time is over it is the mistake that it is without any wait."""
    wait = 0.2
    async with following("0x" + "12" * 20, contract.chain.url, contract_wait=wait) as follower:
        began = time.monotonic()
        with pytest.raises(ChainError):
            await follower.start(None)

        async def over() -> str:
            try:
                await follower.poll()
            except WrongChainError as error:
                return str(error)
            return ""

        told = await until(over, "the start ends")
        assert time.monotonic() - began >= wait
        assert told.startswith("there is no contract at")
        assert "waited" not in told


async def test_a_contract_that_is_gone_is_not_waited_for(contract: AccessNFT) -> None:
    """The wait is for a beginning: what was there before and is not is refused as ever."""
    saved = await start_saved(contract, contract.chain.url)
    await contract.chain.rpc("anvil_setCode", contract.address, "0x")
    async with following(contract.address, contract.chain.url, contract_wait=600) as follower:
        with pytest.raises(BadAnswerError, match="perhaps it is behind"):
            await follower.start(saved)


# Runtime code that answers every call: with a revert, with nothing, with one word, with three
# words of ones (so the revision is out of range).
FOREIGN = {
    "reverts": "60006000fd",
    "says nothing": "60006000f3",
    "says too little": "60206000f3",
    "says garbage": "60001960005260001960205260001960405260606000f3",
}


@pytest.mark.parametrize("kind", FOREIGN)
async def test_a_foreign_contract(contract: AccessNFT, kind: str) -> None:
    """A contract without our interface is not taken for an empty one."""
    address = "0x" + "13" * 20
    await contract.chain.rpc("anvil_setCode", address, "0x" + FOREIGN[kind])
    async with following(address, contract.chain.url) as follower:
        with pytest.raises(WrongChainError, match="not a membership contract of this project"):
            await follower.start(None)


async def test_a_saved_state_of_another_mesh(contract: AccessNFT) -> None:
    """It is refused before anything is asked, and the sentence says how to go on."""
    saved = await start_saved(contract, contract.chain.url)
    for other in (replace(saved, chain_id=1), replace(saved, contract=Address("0x" + "00" * 20))):
        async with following(contract.address, contract.chain.url) as follower:
            with pytest.raises(WrongChainError, match=r"saved state.*--reset-state"):
                await follower.start(other)


async def test_a_chain_that_began_anew(contract: AccessNFT, tmp_path: Path) -> None:
    """The same chain id and address on a chain with another first block is not the same mesh."""
    saved = await start_saved(contract, contract.chain.url)
    options = ["--timestamp", "1700000000"]
    async with local_chain(tmp_path, "other", options=options) as other:
        again = await AccessNFT.deploy(other)
        assert again.address == contract.address
        async with following(again.address, other.url) as follower:
            with pytest.raises(WrongChainError, match=r"serves another chain.*--reset-state"):
                await follower.start(saved)


async def test_other_code_at_the_address(contract: AccessNFT) -> None:
    """Code that is not the pinned one is refused at a start."""
    saved = await start_saved(contract, contract.chain.url)
    await contract.chain.rpc("anvil_setCode", contract.address, "0x" + FOREIGN["reverts"])
    async with following(contract.address, contract.chain.url) as follower:
        with pytest.raises(WrongChainError, match="shows other code"):
            await follower.start(saved)


async def test_a_node_that_restarts_as_another_chain_is_found_out(contract: AccessNFT) -> None:
    """Anvil comes back under the same id with another first block: said, and nothing is lost.

    Once something was verified, a provider that turned into another chain must not end the node.
    """
    chain = contract.chain
    async with following(contract.address, chain.url) as follower:
        await follower.start(None)
        await contract.mint("a", new_key())
        await follower.poll()
        await chain.kill()
        view = await follower.poll()
        assert view.last_error is not None
        assert "127.0.0.1#1" in view.last_error
        assert len(seen_by(follower)) == 1
        # The first block depends on nothing but its second, which could be the same one.
        chain._options = ("--timestamp", "1700000000")
        await chain.restart()

        async def found_out() -> bool:
            return "serves another chain" in ((await follower.poll()).last_error or "")

        await until(found_out, "the new chain is refused")
        assert len(seen_by(follower)) == 1
        assert len(seen_by(follower)) == 1


async def test_unreachable_providers_are_a_temporary_error(contract: AccessNFT) -> None:
    """Nothing to reach is no wrong chain: the saved state is shown until polls get through."""
    chain = contract.chain
    await contract.mint("a", new_key())
    saved = await start_saved(contract, chain.url)
    async with following(contract.address, chain.url, answer_within=0.5) as follower:
        await chain.pause()
        with pytest.raises(ChainError) as caught:
            await follower.start(saved)
        assert not isinstance(caught.value, WrongChainError)
        view = follower.view
        assert (view.membership, view.verified, view.agreed_at) == (saved, False, None)
        chain.resume()

        async def verified() -> bool:
            return (await follower.poll()).verified

        await until(verified, "the saved state is confirmed")
        await assert_same(follower, contract)


async def test_two_chains_that_part_stop_everything(contract: AccessNFT, tmp_path: Path) -> None:
    """When two hosts have different blocks at one height nothing moves, and the view says so."""
    chain = contract.chain
    token = (await contract.mint("a", new_key())).token_id
    number = (await chain.block()).number
    fork = ["--fork-url", chain.url, "--fork-block-number", str(number)]
    async with (
        local_chain(tmp_path, "fork", options=fork) as other,
        following(contract.address, chain.url, at(other.url, 2)) as follower,
    ):
        before = await follower.start(None)
        await other.mine(1)
        await contract.revoke(token)
        for _ in range(3):
            view = await follower.poll()
            assert view.membership is not None
            assert replace(view.membership, suspects={}) == before
            assert view.last_error is not None
            assert "disagree on block" in view.last_error
            assert "127.0.0.1#1" in view.last_error
            assert "127.0.0.2#2" in view.last_error


async def test_the_slowest_of_several_sets_the_pace(contract: AccessNFT) -> None:
    """With two hosts the agreed head is the lower one, on the chain of the other."""
    chain = contract.chain
    urls = chain.url, at(chain.url, 2)
    async with Proxy.open(urls[1]) as proxy:
        slow = at(proxy.url, 2)
        async with following(contract.address, chain.url, slow) as follower:
            await follower.start(None)
            held = await chain.rpc("eth_getBlockByNumber", "latest", False)
            proxy.alter = lambda call, reply: (
                {**reply, "result": held} if call["params"][:1] == ["latest"] else None
            )
            await contract.mint("a", new_key())
            view = await follower.poll()
            assert view.last_error is None
            assert view.membership is not None
            assert view.membership.block.hash == held["hash"]
            proxy.alter = lambda call, reply: None
            await follower.poll()
            await assert_same(follower, contract)
