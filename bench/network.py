"""A network of any size to measure in: a chain, one agent, one bare device, many absent members.

Host `a` runs the agent that is measured. Host `b` has a device with the same peers and no agent,
for the floors. Host `c` is a member whose device was configured by hand, so that it sends whatever
happens. All other members are tokens with random keys and without endpoints: nodes that are away.
"""

import base64
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address

from bench.device import Device, to_hex
from bench.writes import BLOCK_GAS, make_block, mint_all
from lab.agent import INSIDE, Agent
from lab.chain import REPOSITORY, Chain
from lab.host import Host
from lab.http import HttpError
from lab.lab import Lab
from lab.nft import AccessNFT
from lab.process import Process
from lab.tunnel import PORT, Keys, new_keys
from lab.tunnel import Device as HandMade
from lab.waiting import until

RANGE = IPv4Address("10.213.0.0")  #: the agents' default range; address = range + token
AGENT, CALLER, GUEST = 1, 2, 3  #: tokens: of host a, of host c, of an absent member that toggles
POLL_INTERVAL = 0.25  #: seconds, of the agents
BARE = RANGE + 60_000  #: the bare device is no member of the contract
PYTHON = (sys.executable, "-I", "-S")
BARE_PROGRAM = REPOSITORY / "bench/bare.py"


@dataclass(frozen=True, slots=True)
class Made:
    """A block that was made on demand."""

    number: int
    asked: float  #: when it was ordered (time.monotonic)


@dataclass(slots=True)
class Network:
    """What the entries measure in; made by `build`."""

    lab: Lab
    size: int
    chain: Chain
    nft: AccessNFT
    agent: Agent
    bare: Host
    caller: Host
    keys: list[str]  #: public key by token - 1

    def key_of(self, token: int) -> str:
        """The public key of a token."""
        return self.keys[token - 1]

    async def put_in_block(self, signature: str, token: int) -> Made:
        """Make a block with one transaction."""
        number = (await self.chain.block()).number + 1
        await self.nft.submit(signature, token)
        return Made(number, await make_block(self.chain))

    async def revoke(self, token: int) -> Made:
        """Revoke a token in a block of its own."""
        return await self.put_in_block("revokeNodeAccess(uint256)", token)

    async def restore(self, token: int) -> Made:
        """Restore a token in a block of its own."""
        return await self.put_in_block("restoreNodeAccess(uint256)", token)

    async def settled(self) -> None:
        """Wait until the agent has applied the newest block."""
        head = (await self.chain.block()).number

        async def look() -> bool:
            return bool((await self.agent.stats())["appliedBlock"] == head)

        await until(look, "the agent applied the newest block", retry_on=(HttpError,))

    @asynccontextmanager
    async def over(self, scheme: str) -> AsyncIterator[None]:
        """The agent restarted with its provider at a URL of another kind, such as ``http``."""
        before = self.agent.environment["RPC_URL"]
        url = self.chain.url.replace("http", scheme)
        try:
            await self._restart(url)
            yield
        finally:
            await self._restart(before)

    async def _restart(self, rpc_url: str) -> None:
        self.agent.environment["RPC_URL"] = rpc_url
        await self.agent.stop()
        await self.agent.start()
        await self.agent.wait_ready(60)
        await has_all(self)

    @asynccontextmanager
    async def following(
        self, remove: bytes, add: bytes, *, how: Sequence[str] = ("follow",)
    ) -> AsyncIterator[Process]:
        """The agent held (SIGSTOP), and a bare follower of the contract beside the bare device."""
        names = []
        for name, lines in (("remove", remove), ("add", add)):
            (self.bare.run_dir / name).write_bytes(b"set=1\n" + lines + b"\n\n")
            names.append(f"/run/{name}")
        await self.agent.running.pause()
        follower = await self.bare.start(
            *PYTHON, BARE_PROGRAM, *how, "wg0", self.chain.url.removeprefix("http://"),
            self.nft.address, *names, name="follow",
        )  # fmt: skip
        try:
            await follower.line("following")
            yield follower
        finally:
            await follower.kill()
            self.agent.running.resume()
            await self.settled()


async def build(lab: Lab, size: int) -> Network:
    """Make a network of so many members and wait until the agent has them all on its device."""
    chain = await lab.chain(options=("--gas-limit", str(BLOCK_GAS)))
    nft = await AccessNFT.deploy(chain)
    await chain.set_automine(False)
    a, b, c = [await lab.host(f"{name}{size}") for name in "abc"]
    keys = await new_keys()
    caller = await HandMade.up(c, RANGE + CALLER)
    bare = await HandMade.up(b, BARE)
    others = [random_key() for _ in range(size - 2)]
    publics = [keys.public, caller.keys.public, *others]
    await mint_all(nft, publics)
    endpoint = f"{c.ip4}:{PORT}"
    agent = lab.agent(
        a, "node-1", keys=keys, contract=nft.address, rpc_url=chain.url.replace("http", "ws"),
        endpoints={"node-2": endpoint}, poll_interval=POLL_INTERVAL, sync_interval=30_000,
        settings={"LOG_LEVEL": "info"},
    )  # fmt: skip
    network = Network(lab, size, chain, nft, agent, b, c, publics)
    with Device.at(c.run_dir) as device:
        for key, address, host in (
            (keys.public, RANGE + AGENT, a),
            (bare.keys.public, BARE, b),
        ):
            await device.set(
                *peer(key, address), b"endpoint=%s:%d" % (str(host.ip4).encode(), PORT)
            )
    with Device.at(b.run_dir) as device:
        await device.set(*everybody(network))
    await agent.start()
    await agent.wait_ready(60)
    await has_all(network)
    return network


async def has_all(network: Network) -> None:
    """Wait until the agent's device has all members but itself."""
    with Device.at(network.agent.host.run_dir) as device:

        async def look() -> bool:
            return await device.peers() == network.size - 1

        await until(look, f"{network.size - 1} peers on the device", within=60)


def random_key() -> str:
    """A public key whose owner does not exist."""
    return base64.b64encode(os.urandom(32)).decode()


def peer(key: str, address: IPv4Address) -> list[bytes]:
    """A peer with its allowed IP, as UAPI lines."""
    allowed = f"allowed_ip={address}/32".encode()
    return [b"public_key=" + to_hex(key), b"replace_allowed_ips=true", allowed]


def caller_lines(network: Network) -> list[bytes]:
    """The caller as a peer that can be reached, as the agent would write it."""
    where = f"endpoint={network.caller.ip4}:{PORT}".encode()
    return [
        *peer(network.key_of(CALLER), RANGE + CALLER), where,
        b"persistent_keepalive_interval=25",
    ]  # fmt: skip


def everybody(network: Network) -> list[bytes]:
    """All members but the agent's own node, as UAPI lines."""
    lines = caller_lines(network)
    for token in range(GUEST, network.size + 1):
        lines += peer(network.key_of(token), RANGE + token)
    return lines


def set_up_lines(network: Network, keys: Keys) -> bytes:
    """A whole configuration as one UAPI request."""
    private = base64.b64decode(keys.private).hex().encode()
    lines = [b"set=1", b"private_key=" + private, b"listen_port=%d" % PORT, *everybody(network)]
    return b"\n".join(lines) + b"\n\n"


def config_path(network: Network, keys: Keys) -> str:
    """Write the whole configuration for a bare program; its path inside of the agent's host."""
    (network.agent.directory / "bare.conf").write_bytes(set_up_lines(network, keys))
    return str(INSIDE / "bare.conf")
