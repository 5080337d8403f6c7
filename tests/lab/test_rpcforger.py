"""Forged blocks and forged state, as a single provider that is believed would have them."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from chain.local import local_chain, new_key
from dstack_vpn.chain import calls
from dstack_vpn.chain.header import Header
from dstack_vpn.chain.rpc import Provider
from dstack_vpn.chain.verify import apply_changes, check_count, check_proof, fold, may_have_changes
from dstack_vpn.mesh.membership import Checkpoint, Nodes
from lab.asking import CONTRACT, ask, asking, logs_of, told
from lab.chain import CHAIN_ID
from lab.nft import AccessNFT
from lab.rpcforger import Forger
from lab.rpcproxy import Proxy
from lab.waiting import until

KEY, OTHER = b"\x66" * 32, b"\x77" * 32


@pytest_asyncio.fixture
async def nft(tmp_path: Path) -> AsyncIterator[AccessNFT]:
    """Our contract, with one member, on a chain that makes a block for each transaction."""
    async with local_chain(tmp_path) as chain:
        deployed = await AccessNFT.deploy(chain)
        await deployed.mint("a", new_key())
        yield deployed


@pytest_asyncio.fixture
async def proxy(nft: AccessNFT) -> AsyncIterator[Proxy]:
    """A proxy before it."""
    async with Proxy.open(nft.chain.url) as opened:
        yield opened


@pytest.fixture
def forger(nft: AccessNFT) -> Forger:
    """A liar about our contract."""
    return Forger(nft.address, CHAIN_ID)


async def snapshot(provider: Provider, header: Header) -> tuple[Checkpoint, Nodes]:
    """What the provider states at a block: checkpoint, count, page and digest, which must fit."""
    block = header.block
    stated, next_id = await provider.batch(
        [
            calls.checkpoint(CONTRACT, block),
            calls.next_token_id(CONTRACT, calls.at_hash(block)),
        ]
    )
    page, digest = await provider.batch(
        [
            calls.page(CONTRACT, block, 1, next_id - 1),
            calls.page_digest(CONTRACT, calls.at_hash(block), 1, next_id - 1),
        ]
    )
    assert page.digest == digest
    assert len(page.nodes) == next_id - 1
    # How old an access is depends on where it was read.
    nodes = {n.token_id: replace(n, since_block=0) for n in page.nodes if n is not None}
    check_count(nodes, stated)
    return stated, nodes


async def followed(provider: Provider, base: Header) -> tuple[Header, Nodes]:
    """Follow a single provider from a block to its newest with all checks; what it shows there."""
    head = await ask(provider, calls.latest())
    numbers = range(base.block.number + 1, head.block.number + 1)
    headers = await provider.batch([calls.header_at(number) for number in numbers])
    assert headers[-1] == head
    stated, nodes = await snapshot(provider, base)
    known = base
    for header in headers:
        assert header.block.parent_hash == known.block.hash
        assert header.block.timestamp >= known.block.timestamp
        changes = await ask(provider, logs_of(header)) if may_have_changes(header, CONTRACT) else []
        step = fold(header.block, stated, nodes, changes)
        stated, nodes, known = step.checkpoint, apply_changes(nodes, step.changes), header
    at_head, listed = await snapshot(provider, head)
    check_proof(stated, at_head)
    assert {i: replace(node, since_block=0) for i, node in nodes.items()} == listed
    return head, listed


@pytest.mark.parametrize("scheme", ["http", "ws"])
async def test_forged_blocks_pass_every_check_of_one(
    nft: AccessNFT, proxy: Proxy, forger: Forger, scheme: str
) -> None:
    """Header hashes, parents, bloom, logs, history and pages all fit, block after block."""
    async with asking(proxy, scheme) as provider:
        base = await ask(provider, calls.latest())
        before = await snapshot(provider, base)
        await forger.grant(proxy, 2, "mallory", KEY)
        head, nodes = await followed(provider, base)
        assert head.block.number == base.block.number + 1
        assert (nodes[2].node_id, nodes[2].key, nodes[2].active) == ("mallory", KEY, True)
        await forger.swap_key(proxy, 1, OTHER)
        assert (await followed(provider, base))[1][1].key == OTHER
        await forger.revoke(proxy, 1)
        assert (await followed(provider, base))[1][1].revoked
        await forger.burn(proxy, 1)
        assert set((await followed(provider, base))[1]) == {2}
        await forger.change(proxy, {4: replace(nodes[2], token_id=4), 2: None})
        head, nodes = await followed(provider, base)
        assert set(nodes) == {4}
        assert head.block.number == base.block.number + 5
        proxy.honest()
        assert await ask(provider, calls.latest()) == base
        assert await snapshot(provider, base) == before


async def test_a_head_that_is_forged_far_too_high(proxy: Proxy, forger: Forger) -> None:
    """A thousand blocks on the real one, linked, of one second each; nothing above is known."""
    async with asking(proxy) as provider:
        base = await ask(provider, calls.latest())
        await forger.blocks(proxy, 1000)
        head = await ask(provider, calls.latest())
        assert head.block.number == base.block.number + 1000
        assert head.block.timestamp == base.block.timestamp + 1000
        first, last, above, below = await provider.batch(
            [
                calls.header_at(base.block.number + 1),
                calls.header_at(head.block.number - 1),
                calls.header_at_or_none(head.block.number + 1),
                calls.header_at(base.block.number),
            ]
        )
        assert (first.block.parent_hash, below) == (base.block.hash, base)
        assert (head.block.parent_hash, above) == (last.block.hash, None)
        assert await snapshot(provider, head) == await snapshot(provider, base)


async def test_a_forged_time(proxy: Proxy, forger: Forger) -> None:
    """A block may have any time, with a change or without one."""
    async with asking(proxy) as provider:
        await forger.time(proxy, 4_000_000_000)
        assert (await ask(provider, calls.latest())).block.timestamp == 4_000_000_000
        await forger.change(proxy, {}, timestamp=4_000_000_999)
        assert (await ask(provider, calls.latest())).block.timestamp == 4_000_000_999


async def test_whoever_subscribed_is_told_of_forged_blocks(
    nft: AccessNFT, proxy: Proxy, forger: Forger
) -> None:
    """And no longer of real ones, until the lie ends."""
    async with asking(proxy, "ws") as provider:
        await ask(provider, calls.chain_id())
        await until(lambda: proxy.subscribers("newHeads"), "it subscribed")
        raw = await forger.grant(proxy, 2, "mallory", KEY)
        await told(provider, raw["hash"])
        await nft.chain.mine()
        assert (await ask(provider, calls.latest())).block.hash == raw["hash"]
        assert provider.take_head() is None
        proxy.honest()
        block = await nft.chain.mine()
        await told(provider, block.hash)


async def test_two_that_are_made_to_lie_alike_agree(
    nft: AccessNFT, proxy: Proxy, forger: Forger
) -> None:
    """The same lies at the same head are the same blocks; other lies are others."""
    async with Proxy.open(nft.chain.url) as second, Proxy.open(nft.chain.url) as third:
        one, two, other = [
            await forger.grant(teller, 2, "mallory", key)
            for teller, key in ((proxy, KEY), (second, KEY), (third, OTHER))
        ]
        assert one == two
        assert one["hash"] != other["hash"]
        assert await forger.blocks(proxy, 2) == await forger.blocks(second, 2)


async def test_a_range_of_logs_has_real_and_forged_ones(proxy: Proxy, forger: Forger) -> None:
    """Also where a filter asks for any of several topics."""
    await forger.grant(proxy, 2, "mallory", KEY)
    async with asking(proxy) as provider:
        for topics, count in (([], 2), ([None, None, ["0x" + "0" * 63 + "2"]], 1)):
            query = {"fromBlock": "0x0", "address": CONTRACT, "topics": topics}
            logs = calls.Call("eth_getLogs", (query,), node_changes)
            assert len(await ask(provider, logs)) == count


def node_changes(value: object) -> list[dict[str, object]]:
    """Those logs that have three topics, as our event has."""
    assert isinstance(value, list)
    return [log for log in value if len(log["topics"]) == 3 and len(log["data"]) > 600]


@pytest.mark.parametrize("scheme", ["http", "ws"])
async def test_a_lie_about_a_real_block(
    nft: AccessNFT, proxy: Proxy, forger: Forger, scheme: str
) -> None:
    """The hash is the true one, and what the provider says of it fits, and stays afterwards."""
    async with asking(proxy, scheme) as provider, asking(proxy) as honest:
        base = await ask(provider, calls.latest())
        await nft.set_endpoint(1, "198.51.100.7:1")
        truth = await followed(honest, base)
        await forger.grant(proxy, 2, "mallory", KEY, real_block=True)
        head, nodes = await followed(provider, base)
        assert head == truth[0]
        assert (nodes[1].endpoint, nodes[2].key) == ("198.51.100.7:1", KEY)
        await nft.chain.mine(3)
        head, nodes = await followed(provider, base)
        assert nodes[2].key == KEY
        assert head.block.number == truth[0].block.number + 3
        proxy.honest()
        assert set((await followed(provider, base))[1]) == {1}


async def test_a_change_that_is_kept_back(nft: AccessNFT, proxy: Proxy, forger: Forger) -> None:
    """A real block without its revocation: no logs, and the state as it was before."""
    async with asking(proxy) as provider:
        base = await ask(provider, calls.latest())
        await nft.revoke(1)
        await forger.hide(proxy)
        head, nodes = await followed(provider, base)
        assert head.block.number == base.block.number + 1
        assert may_have_changes(head, CONTRACT)
        assert nodes[1].active
        proxy.honest()
        assert not (await followed(provider, base))[1][1].active


async def test_a_contract_that_is_not_there_yet(tmp_path: Path) -> None:
    """Its first change can be forged as well."""
    async with (
        local_chain(tmp_path) as chain,
        Proxy.open(chain.url) as proxy,
        asking(proxy) as provider,
    ):
        await Forger(CONTRACT, CHAIN_ID).grant(proxy, 1, "mallory", KEY)
        head = await ask(provider, calls.latest())
        stated, nodes = await snapshot(provider, head)
        assert (stated.revision, stated.member_count, nodes[1].key) == (1, 1, KEY)
