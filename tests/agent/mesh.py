"""A whole mesh for tests of the agent: one chain, one contract, and nodes in hosts of their own."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lab.agent import Agent
from lab.chain import Chain, Mined
from lab.host import Host
from lab.http import HttpError
from lab.lab import Lab
from lab.nft import AccessNFT
from lab.process import CommandError
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
        """A node in a new host, neither minted nor started; it knows the endpoints of all before.

        Earlier nodes learn its endpoint when it speaks to them.
        """
        return await self._furnish(await self._boot(), **settings)

    async def _boot(self) -> Host:
        name = f"n{next(self._names)}"
        host = await self.lab.host(name)
        self.endpoints[name] = f"{host.ip4}:51820"
        return host

    async def _furnish(self, host: Host, **settings: Any) -> Agent:
        settings.setdefault("rpc_url", self.chain.url)
        agent = self.lab.agent(
            host,
            host.name,
            keys=await new_keys(),
            contract=self.nft.address,
            endpoints=dict(self.endpoints),
            **settings,
        )
        self.agents.append(agent)
        return agent

    async def mint(self, agent: Agent, *, to: int = 0, key: str | None = None) -> Mined:
        """Mint the node's token, for its own key unless another is given."""
        return await self.nft.mint(agent.node_id, agent.keys.public if key is None else key, to=to)

    async def join(self, count: int, **settings: Any) -> list[Agent]:
        """Make, mint and start nodes, and wait until each has a session with each other."""
        hosts = [await self._boot() for _ in range(count)]
        agents = [await self._furnish(host, **settings) for host in hosts]
        for agent in agents:
            await self.mint(agent)
        for agent in agents:
            await agent.start()
        for agent in agents:
            await agent.wait_ready()
        for agent in agents:
            await self.has_sessions(agent, *(a for a in agents if a is not agent))
        return agents

    async def has_peers(self, agent: Agent, *others: Agent, within: float = PATIENCE) -> None:
        """Wait until the device of a node has exactly these peers."""
        wanted = {other.keys.public for other in others}

        async def look() -> bool:
            return set(await agent.wg_peers()) == wanted

        names = ", ".join(other.node_id for other in others) or "no peers"
        # A device that is just being made anew does not answer.
        again = (OSError, CommandError)
        await until(look, f"{agent.node_id} has {names}", within=within, retry_on=again)

    async def has_sessions(self, agent: Agent, *others: Agent) -> None:
        """Wait until a node has exactly these peers, and a session with each."""
        wanted = {other.keys.public for other in others}

        async def look() -> bool:
            peers = await agent.wg_peers()
            return set(peers) == wanted and all(p.latest_handshake for p in peers.values())

        await until(look, f"{agent.node_id} has sessions with all", retry_on=(OSError,))

    async def says(
        self, agent: Agent, what: str, look: Callable[[dict[str, Any]], object]
    ) -> dict[str, Any]:
        """Wait until /health of a node fulfils a condition; returns it."""

        async def ask() -> dict[str, Any] | None:
            answer = await agent.health()
            return answer if look(answer) else None

        return await until(ask, f"{agent.node_id} says {what}", retry_on=(HttpError,))
