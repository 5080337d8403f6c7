"""A whole mesh for tests of the agent: one chain, one contract, and nodes in hosts of their own."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lab.agent import Agent
from lab.chain import Chain, Mined
from lab.http import HttpError
from lab.lab import Lab
from lab.nft import AccessNFT
from lab.tunnel import new_keys
from lab.waiting import PATIENCE, until


@dataclass(slots=True)
class Mesh:
    """Nodes n1, n2, … whose tokens count from 1 in the order of `join`."""

    lab: Lab
    chain: Chain
    nft: AccessNFT
    agents: list[Agent] = field(default_factory=list)
    endpoints: dict[str, str] = field(default_factory=dict)
    _names: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    async def node(self, **settings: Any) -> Agent:
        """A node in a new host, neither minted nor started.

        Its endpoint is known to all nodes that are made later; earlier ones learn it from it.
        """
        name = f"n{next(self._names)}"
        host = await self.lab.host(name)
        settings.setdefault("rpc_url", self.chain.url)
        agent = self.lab.agent(
            host,
            name,
            keys=await new_keys(),
            contract=self.nft.address,
            endpoints=dict(self.endpoints),
            **settings,
        )
        self.endpoints[name] = f"{host.ip4}:51820"
        self.agents.append(agent)
        return agent

    async def mint(self, agent: Agent, *, to: int = 0, key: str | None = None) -> Mined:
        """Mint the node's token, for its own key unless another is given."""
        return await self.nft.mint(agent.node_id, agent.keys.public if key is None else key, to=to)

    async def join(self, count: int, **settings: Any) -> list[Agent]:
        """Make, mint and start nodes, and wait until all are ready and know each other."""
        agents = [await self.node(**settings) for _ in range(count)]
        for agent in agents:
            await self.mint(agent)
        for agent in agents:
            await agent.start()
        for agent in agents:
            await agent.wait_ready()
        for agent in agents:
            await self.has_peers(agent, *(a for a in agents if a is not agent))
        return agents

    async def has_peers(self, agent: Agent, *others: Agent, within: float = PATIENCE) -> None:
        """Wait until the device of a node has exactly these peers."""
        wanted = {other.keys.public for other in others}

        async def look() -> bool:
            return set(await agent.wg_peers()) == wanted

        names = ", ".join(other.node_id for other in others) or "no peers"
        await until(look, f"{agent.node_id} has {names}", within=within, retry_on=(OSError,))

    async def says(
        self, agent: Agent, what: str, look: Callable[[dict[str, Any]], object]
    ) -> dict[str, Any]:
        """Wait until /health of a node fulfils a condition; returns it."""

        async def ask() -> dict[str, Any] | None:
            answer = await agent.health()
            return answer if look(answer) else None

        return await until(ask, f"{agent.node_id} says {what}", retry_on=(HttpError,))
