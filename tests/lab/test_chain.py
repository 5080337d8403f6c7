"""Chains of the lab: each control does what its name says, and our contract's writes arrive."""

import time

import pytest

from lab.chain import Chain, RpcError
from lab.host import Host
from lab.http import HttpError
from lab.lab import Lab
from lab.nft import AccessNFT
from lab.tunnel import new_keys
from lab.waiting import until

DEFAULT_ADDRESS = "0x5fbdb2315678afecb367f032d93f642f64180aa3"


async def test_hosts_reach_a_chain_at_each_of_its_urls(lab: Lab, chain: Chain) -> None:
    """A host can call a chain under all its addresses, which differ from those of other chains."""
    host, other = await lab.host("a"), await lab.chain()
    urls = [chain.url, await chain.another_url(), other.url]
    assert len({url.split(":")[1] for url in urls}) == 3
    for url in urls:
        assert await can_call(host, url)


async def test_an_address_taken_away_is_a_provider_that_is_gone(lab: Lab, chain: Chain) -> None:
    """Removing one address of a node leaves the node and its other addresses as they are."""
    extra = await lab.switch.another_address()
    host = await lab.host("a")
    await lab.switch.remove_address(extra)
    assert not await can_call(host, f"http://{extra}:{chain.port}")
    assert await chain.answers()


async def test_mine_makes_linked_blocks(chain: Chain) -> None:
    """`mine` makes as many blocks as it is told, each the child of the one before."""
    before = await chain.block()
    after = await chain.mine(3)
    assert after.number == before.number + 3
    assert (await chain.block(before.number + 1)).parent == before.hash
    assert await chain.block(after.hash) == after
    with pytest.raises(LookupError):
        await chain.block(after.number + 1)


async def test_reorg_replaces_blocks_and_loses_their_transactions(nft: AccessNFT) -> None:
    """After a reorg the height is the same, the hashes are not, and a mint in it never was."""
    chain = nft.chain
    await chain.mine(2)
    old, minted = await chain.block(), await nft.mint("a")
    new = await chain.reorg(1)
    assert new.number == minted.block
    assert new.parent == old.hash
    assert new.hash != minted.block_hash
    with pytest.raises(LookupError):
        await chain.block(minted.block_hash)
    assert (await nft.checkpoint())[0] == 0


async def test_revert_and_rollback_go_back(chain: Chain) -> None:
    """`revert` and `rollback` bring an old head back, and block numbers come a second time."""
    base = await chain.mine()
    snapshot = await chain.snapshot()
    await chain.mine(5)
    assert await chain.revert(snapshot) == base
    await chain.mine(2)
    assert await chain.rollback(2) == base
    assert (await chain.mine()).number == base.number + 1


async def test_tags_follow_the_epoch(lab: Lab) -> None:
    """With S slots in an epoch safe is S and finalized 2 S blocks behind."""
    chain = await lab.chain(slots_in_an_epoch=2)
    head = await chain.mine(10)
    assert (await chain.block("safe")).number == head.number - 2
    assert (await chain.block("finalized")).number == head.number - 4


async def test_blocks_come_on_demand_or_by_the_clock(nft: AccessNFT) -> None:
    """Without automine a transaction waits for `mine`; with an interval it waits for the clock."""
    chain = nft.chain
    await chain.set_automine(False)
    sent = time.monotonic()
    transaction = await chain.submit("0x", to=await chain.account(1))
    assert await chain.rpc("eth_getTransactionReceipt", transaction) is None
    head = await chain.mine()
    mined = await chain.mined(transaction, sent=sent)
    assert mined.block == head.number
    assert mined.block_hash == head.hash
    assert mined.sent < mined.seen < time.monotonic()
    await chain.set_interval(1)
    assert (await chain.send("0x", to=await chain.account(1))).block > head.number


async def test_a_block_time_makes_blocks(lab: Lab) -> None:
    """A chain with a block time moves on by itself."""
    chain = await lab.chain(block_time=0.1)

    async def moved() -> bool:
        return (await chain.block()).number >= 3

    await until(moved, "three blocks")


async def test_time_moves_forward(chain: Chain) -> None:
    """`increase_time` shows in the next block."""
    before = await chain.block()
    assert (await chain.increase_time(3600)).timestamp - before.timestamp >= 3600


async def test_a_paused_node_accepts_and_does_not_answer(chain: Chain) -> None:
    """SIGSTOP makes it silent, not absent; after SIGCONT it goes on where it was."""
    head = await chain.mine()
    await chain.pause()
    with pytest.raises(HttpError, match="no answer within"):
        await chain.rpc("eth_blockNumber", within=0.3)
    chain.resume()
    assert await chain.block() == head


async def test_a_killed_node_refuses_and_starts_anew(chain: Chain) -> None:
    """SIGKILL loses a chain that keeps no state; it comes back at the same URL, empty."""
    await chain.mine(3)
    url = chain.url
    await chain.kill()
    with pytest.raises(HttpError, match="ConnectError"):
        await chain.block()
    await chain.restart()
    assert chain.url == url
    assert (await chain.block()).number == 0


async def test_a_chain_that_keeps_its_state_survives(lab: Lab) -> None:
    """With `keep_state` blocks, contract and state of old blocks are there after a restart."""
    chain = await lab.chain(keep_state=True)
    nft = await AccessNFT.deploy(chain)
    minted = await nft.mint("a")
    head = await chain.mine()
    await chain.stop()
    await chain.restart()
    assert await chain.block(head.number) == head
    assert (await nft.checkpoint())[0] == 1
    assert (await nft.checkpoint(at=hex(minted.block - 1)))[0] == 0
    assert (await chain.mine()).parent == head.hash


async def test_forks_share_history_and_then_differ(nft: AccessNFT, lab: Lab) -> None:
    """Two forks of a chain have its blocks up to the fork, and blocks of their own after it."""
    head = await nft.chain.block()
    one = await lab.chain(fork=(nft.chain.url, head.number))
    two = await lab.chain(fork=(nft.chain.url, head.number), timestamp=head.timestamp + 100)
    assert (await one.block(head.number)).hash == (await two.block(head.number)).hash == head.hash
    await AccessNFT(one, nft.address).mint("a")
    await two.mine()
    assert (await one.block()).hash != (await two.block()).hash
    assert (await AccessNFT(two, nft.address).checkpoint())[0] == 0


async def test_every_write_of_the_contract(nft: AccessNFT) -> None:
    """Each helper makes one change that `checkpoint` counts, and the state reads as changed."""
    keys = [(await new_keys()).public for _ in range(2)]
    assert nft.address == DEFAULT_ADDRESS
    minted = await nft.mint("node-a", keys[0], to=1)
    token = minted.token_id
    assert token == 1
    assert await active(nft, token)
    await nft.set_endpoint(token, "10.0.0.1:51820", account=1)
    await nft.revoke(token)
    assert not await active(nft, token)
    await nft.restore(token)
    assert await active(nft, token)
    await nft.transfer(token, account=1, to=2)
    assert not await active(nft, token)
    await nft.set_key(token, keys[1], account=2)
    assert await active(nft, token)
    chain_time = (await nft.chain.block()).timestamp
    await nft.renew(token, chain_time + 1000)
    await nft.chain.increase_time(2000)
    assert not await active(nft, token)
    await nft.burn(token, account=2)
    assert (await nft.checkpoint())[0] == 8
    assert (await nft.checkpoint())[2] == 0
    await nft.set_guardian(3)
    other = (await nft.mint("node-b", to=1)).token_id
    await nft.revoke(other, account=3)


async def test_a_refused_write_raises(nft: AccessNFT) -> None:
    """The contract's refusal reaches the test, with the data of its error."""
    with pytest.raises(RpcError) as refused:
        await nft.mint("Not A Label")
    assert refused.value.data


async def active(nft: AccessNFT, token: int) -> bool:
    """What the contract says of a token."""
    types = "string,string,uint256,bool"
    return bool((await nft.call("getNodeAccess(uint256)", token, returns=types))[3])


async def can_call(host: Host, url: str) -> bool:
    """Whether a TCP connection from a host to a URL's port comes about."""
    address, _, port = url.removeprefix("http://").partition(":")
    connect = f"exec 3<>/dev/tcp/{address}/{port}"
    return (await host.run("timeout", "1", "bash", "-c", connect, check=False)).code == 0
