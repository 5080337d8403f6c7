"""Agents with three providers, one of which lies or two are silent; the other kind of contract."""

import contextlib
import os
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, cast

from agent.mesh import Mesh
from dstack_vpn.chain.tally import DISPUTE_DEPTH
from lab.agent import Agent
from lab.chain import CHAIN_ID, Chain
from lab.lab import Lab
from lab.nft import AccessNFT
from lab.published import Habit, PublishedAccess
from lab.rpcfaults import Stall
from lab.rpcforger import Forger
from lab.rpcproxy import Proxy
from lab.waiting import until


@contextlib.asynccontextmanager
async def providers(mesh: Mesh) -> AsyncIterator[tuple[list[Proxy], str]]:
    """Three proxies before the chain, each at an address of its own, and RPC_URL for them."""
    async with contextlib.AsyncExitStack() as stack:
        proxies, urls = [], []
        for _ in range(3):
            proxy = await stack.enter_async_context(Proxy.open(mesh.chain.url))
            address = str(await mesh.chain.switch.another_address())
            proxies.append(proxy)
            urls.append(proxy.url.replace("127.0.0.1", address) + "/v2/k3y-0f-the-pr0vider")
        yield proxies, ",".join(urls)


def has_head(number: int, health: dict[str, Any]) -> bool:
    """Whether a node has come to a block."""
    return bool(health["chain"]["head"] == number)


async def verdict(agent: Agent, node_id: str, word: str) -> None:
    """Wait until a node gives this verdict on another one."""

    async def look() -> bool:
        return bool((await agent.get(f"/api/access/{node_id}")).json()["verdict"] == word)

    await until(look, f"{agent.node_id} calls {node_id} {word}")


async def test_a_provider_that_lies_admits_nobody_and_suspends_for_a_moment(mesh: Mesh) -> None:
    """No stranger gets in; a false removal takes a peer off the device, loudly, for some blocks."""
    async with providers(mesh) as (proxies, urls):
        one, two = await mesh.join(2, rpc_url=urls)
        forger = Forger(mesh.nft.address, CHAIN_ID)
        await forger.grant(proxies[2], 3, "mallory", os.urandom(32))
        await forger.revoke(proxies[2], 2)
        await forger.blocks(proxies[2], 3)

        await mesh.has_peers(one)
        health = await mesh.says(one, "one source", lambda h: h["alarms"])
        (alarm,) = [a for a in health["alarms"] if a["code"] == "suspended-by-one-source"]
        assert "#3" in alarm["provider"]
        assert "k3y" not in str(health)
        await verdict(one, "n2", "SOURCE_DISPUTED")

        for _ in range(DISPUTE_DEPTH + 1):
            head = (await mesh.chain.mine(1)).number
            await mesh.says(one, f"block {head}", partial(has_head, head))
        await mesh.has_peers(one, two)
        proxies[2].honest()
        await mesh.chain.mine(1)
        health = await mesh.says(
            one, "quarantine", lambda h: "source-quarantined" in str(h["alarms"])
        )
        assert health["status"] == "degraded"
        assert "k3y" not in str(one.log())
        await mesh.has_peers(two, one)


async def test_two_silent_providers_hold_up_no_revocation(mesh: Mesh) -> None:
    """One of three that still answers is enough to be out; it is not enough to be in again."""
    async with providers(mesh) as (proxies, urls):
        one, two, three = await mesh.join(3, rpc_url=urls)
        victim = await mesh.lab.stream(three.host, one.host, "10.213.0.1")
        await victim.flows()
        for proxy in proxies[:2]:
            proxy.fault = Stall()

        await mesh.nft.revoke(3)
        await mesh.has_peers(one, two)
        await mesh.has_peers(two, one)
        await victim.quiet()
        await mesh.nft.restore(3)
        head = (await mesh.chain.block()).number

        async def seen() -> bool:
            found = (await one.stats())["providers"]
            return bool(found[2]["head"] == head)

        await until(seen, "the third provider has shown the restoring")
        await mesh.has_peers(one, two)
        for proxy in proxies[:2]:
            proxy.honest()
        await mesh.has_peers(one, two, three)


async def test_agents_follow_a_contract_that_has_only_the_published_interface(
    lab: Lab, chain: Chain
) -> None:
    """Minting admits, revoking and transferring remove, though the seller's key stays in place."""
    habits = Habit.KEEP_KEY | Habit.ONLY_TRANSFER | Habit.NO_REASON
    contract = await PublishedAccess.deploy(chain, habits)
    mesh = Mesh(lab, chain, cast("AccessNFT", contract))
    settings = {"CONTRACT_KIND": "published", "START_BLOCK": str(contract.start_block)}
    one, two, three = await mesh.join(3, settings=settings)
    await one.host.reaches("10.213.0.2")

    await contract.revoke(3)
    await mesh.has_peers(one, two)
    await contract.transfer(2, to=4)
    await mesh.has_peers(one)
    await verdict(one, "n2", "SUSPENDED_BY_TRANSFER")
    await contract.set_key(2, two.keys.public, account=4)
    await mesh.has_peers(one, two)
    assert (await three.get("/ready")).status == 503
