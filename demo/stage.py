"""The chain, the contract and the nodes, and what the steps do with them."""

import asyncio
import json
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from bench.device import sees

from demo.figures import Figures
from demo.screen import Screen
from lab.agent import Agent
from lab.chain import Chain, Mined
from lab.host import Host
from lab.http import HttpError
from lab.lab import Lab
from lab.nft import AccessNFT
from lab.traffic import Stream
from lab.tunnel import Keys, new_keys
from lab.waiting import until

NAMES = ("alice", "bob", "carol", "dave")
RANGE = IPv4Address("10.213.0.0")
PORT = 51820
POLL_INTERVAL = 0.25  #: seconds; the agent's default on a local chain
TAIL = 12  #: lines of each log that a failure shows

#: Of a line of log, told first or not at all.
HEAD = ("timestamp", "level", "event", "node", "component")


@dataclass(slots=True)
class Node:
    """One machine with an agent on it."""

    name: str
    host: Host
    agent: Agent
    token: int = 0  #: 0 until it is minted

    @property
    def keys(self) -> Keys:
        """The keys that its agent has."""
        return self.agent.keys

    @property
    def address(self) -> IPv4Address:
        """Its address in the private network, a function of its token."""
        return RANGE + self.token

    def log(self) -> str:
        """The last lines that its agent wrote, for people."""
        if self.agent.process is None:
            return ""
        return "\n".join(map(readable, self.agent.running.tail(TAIL).splitlines()))


@dataclass(slots=True)
class Stage:
    """Everything that is in play."""

    lab: Lab
    screen: Screen
    figures: Figures
    chain: Chain
    nft: AccessNFT
    nodes: dict[str, Node] = field(default_factory=dict)
    streams: list[Stream] = field(default_factory=list)  #: between members nobody touches

    @classmethod
    async def set_up(cls, lab: Lab, screen: Screen) -> "Stage":
        """Start the chain, and deploy the contract on it."""
        chain = await lab.chain()
        return cls(lab, screen, Figures(), chain, await AccessNFT.deploy(chain))

    @property
    def websocket(self) -> str:
        """The chain's URL with which agents hear of new blocks at once."""
        return self.chain.url.replace("http://", "ws://")

    async def gone(self, node: Node, *others: Node) -> None:
        """Wait until a node's key is on none of the other devices."""
        for other in others:
            self.screen.doing(f"{node.name} is to vanish from {other.name}'s device")
            await sees(other.host.run_dir, node.keys.public, there=False)

    async def add_nodes(self) -> None:
        """Boot a machine for each name and start an agent on it."""
        hosts = {name: await self.lab.host(name) for name in NAMES}
        for name, host in hosts.items():
            keys = await new_keys()
            self.nodes[name] = Node(name, host, self.new_agent(host, name, keys))
        await asyncio.gather(*(node.agent.start() for node in self.nodes.values()))

    def new_agent(self, host: Host, name: str, keys: Keys) -> Agent:
        """An agent with the defaults of the product, as a user would configure it."""
        switch = {other.name: f"{other.ip4}:{PORT}" for other in self.lab.hosts.values()}
        return self.lab.agent(
            host,
            name,
            keys=keys,
            contract=self.nft.address,
            rpc_url=self.websocket,
            endpoints=switch,
            poll_interval=POLL_INTERVAL,
            sync_interval=30_000,
            settings={"LOG_LEVEL": "info"},
        )

    def of(self, *names: str) -> list[Node]:
        """Nodes by name."""
        return [self.nodes[name] for name in names]

    async def verdict(self, node: Node, verdict: str) -> str:
        """Wait until a node's own /ready refuses with a verdict; the reason that it gives."""

        async def look() -> str | None:
            answer = await node.agent.get("/ready")
            reason = str(answer.json().get("reason", ""))
            return reason if answer.status == 503 and verdict in reason else None

        self.screen.doing(f"{node.name}'s /ready is to say {verdict}")
        return await until(
            look, f"{node.name}'s /ready answers 503 with {verdict}", retry_on=(HttpError,)
        )

    async def write_and_see(
        self, write: Awaitable[Mined], watch: Sequence[tuple[Node, str]], *, there: bool = True
    ) -> tuple[Mined, list[float]]:
        """Change the contract, and watch keys come to devices, or go from them.

        Returns:
            What was mined, and for each key milliseconds from its receipt to the device.
        """
        async with asyncio.TaskGroup() as group:
            watched = [
                group.create_task(sees(node.host.run_dir, key, there=there)) for node, key in watch
            ]
            mined = await write
        times = [(task.result() - mined.seen) * 1000 for task in watched]
        if there:
            self.figures.add("event_to_peer_ms", times)
        return mined, times

    async def pings(self, *pairs: tuple[Node, Node]) -> list[float]:
        """Wait until each pair has had an answer through the tunnel; the round trips in ms."""
        times = []
        for a, b in pairs:
            self.screen.doing(f"{a.name} pings {b.name}")
            await a.host.reaches(b.address)
            # The first answer waited for a handshake: that is not the tunnel's round trip.
            times.append(await a.host.reaches(b.address))
        return times

    async def silence(self, *pairs: tuple[Node, Node]) -> None:
        """Make sure that pings of a second each stay unanswered."""

        async def unanswered(a: Node, b: Node) -> None:
            self.screen.doing(f"{a.name} pings {b.name} in vain")
            answer = await a.host.ping(b.address, within=1)
            assert answer is None, f"{b.name} answered {a.name}'s ping in {answer} ms"

        await asyncio.gather(*(unanswered(a, b) for a, b in pairs))

    def logs(self) -> dict[str, str]:
        """The last lines of all that the agents and the chain wrote."""
        tails = {f"{name}'s log": node.log() for name, node in self.nodes.items()}
        tails["the chain's log"] = self.chain.process.tail(TAIL)
        return {name: tail for name, tail in tails.items() if tail}


def readable(line: str) -> str:
    """A line of JSON from an agent's log as text; anything else as it is."""
    try:
        fields = json.loads(line)
        words = [fields["timestamp"][11:23], fields["level"], fields["event"]]
    except (ValueError, KeyError, TypeError):
        return line
    return " ".join(words + [f"{name}={fields[name]}" for name in fields if name not in HEAD])
