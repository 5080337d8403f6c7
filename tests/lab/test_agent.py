"""Nodes of the lab: two that the contract admits find each other; one that it revokes is out."""

from lab.agent import Agent
from lab.host import Host
from lab.lab import Lab
from lab.nft import AccessNFT
from lab.tunnel import new_keys
from lab.waiting import until


async def test_two_nodes_and_a_revocation(
    lab: Lab, nft: AccessNFT, hosts: tuple[Host, Host]
) -> None:
    """Agents come up from their environment, make a tunnel, answer, and obey the contract."""
    agents = []
    for host in hosts:
        keys = await new_keys()
        minted = await nft.mint(host.name, keys.public)
        await nft.set_endpoint(minted.token_id, f"{host.ip4}:51820")
        agents.append(
            lab.agent(host, host.name, keys=keys, contract=nft.address, rpc_url=nft.chain.url)
        )
    a, b = agents
    for agent in agents:
        await agent.start()
    for agent in agents:
        await agent.wait_ready()
    assert set(await a.wg_peers()) == {b.keys.public}
    assert (await a.health())["status"] == "healthy"
    assert (await a.ready())["ready"] is True
    assert await a.config()
    assert await a.stats()
    assert a.log()
    assert a.rss() < 100e6
    await a.host.reaches("10.213.0.2")

    await nft.revoke(2)
    await until(lambda: no_peers(a), "a has no peer left")
    assert await a.stop() == 0
    await b.kill()


async def no_peers(agent: Agent) -> bool:
    """Whether a node's device has no peer."""
    return not await agent.wg_peers()
