"""What the tests of the published interface share: a contract that is followed, and what it is.

The reference is simple and slow: it reads every token directly, and goes through all logs once.
"""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eth_abi.abi import decode
from eth_utils.crypto import keccak

from chain.local import local_chain
from dstack_vpn.chain import calls
from dstack_vpn.chain.advance import Advance
from dstack_vpn.chain.header import Header
from dstack_vpn.chain.journal import Journal
from dstack_vpn.chain.panel import Panel
from dstack_vpn.chain.providers import open_providers
from dstack_vpn.chain.published import key_of
from dstack_vpn.chain.published_kind import PublishedContract
from dstack_vpn.chain.rpc import Provider
from dstack_vpn.mesh.membership import (
    Address,
    BlockHash,
    ContractKind,
    Membership,
    Node,
    Nodes,
)
from lab.chain import CHAIN_ID, RpcError
from lab.published import Habit, PublishedAccess
from lab.rpcproxy import Proxy

NOBODY = "0x" + "00" * 20


@dataclass
class Followed:
    """A contract, and one provider through whom it is followed block by block."""

    contract: PublishedAccess
    proxy: Proxy
    provider: Provider
    kind: PublishedContract
    journal: Journal

    @property
    def nodes(self) -> Nodes:
        """The tokens as followed."""
        return self.journal.nodes

    def node(self, token_id: int) -> Node:
        """One of them."""
        return self.journal.nodes[token_id]

    async def head(self) -> Header:
        """The newest block."""
        (head,) = await self.provider.batch([calls.latest()])
        assert isinstance(head, Header)
        return head

    async def follow(self) -> None:
        """Go to the newest block."""
        target = await self.head()
        if target.block != self.journal.head.block:
            await Advance(self.provider, self.kind, self.journal, target).run()

    def panel(self, *more: Provider, needed: int | None = None) -> Panel:
        """This provider, and perhaps others of the same chain."""
        address = Address(self.contract.address)
        providers = (self.provider, *more)
        return Panel(providers, chain_id=CHAIN_ID, contract=address, needed=needed)

    def membership(self) -> Membership:
        """What is followed, as it would be saved."""
        head = self.journal.head
        return Membership(
            chain_id=CHAIN_ID,
            contract=Address(self.contract.address),
            genesis=BlockHash("0x" + "00" * 32),
            code_hash=bytes(32),
            block=head.block,
            checkpoint=head.checkpoint,
            nodes=self.journal.nodes,
            kind=ContractKind.PUBLISHED,
        )

    async def snapshot(self, known: Membership | None = None) -> tuple[Any, Nodes]:
        """All tokens at the newest block, as another run of the agent would read them."""
        fresh = kind_of(self.contract)
        block = (await self.head()).block
        return await fresh.snapshot(self.panel(), block, self.provider, known)

    async def assert_true(self, *, also_at_once: bool = True) -> None:
        """What is followed is what the contract has, by the reference and by a snapshot."""
        assert self.journal.head.block == (await self.head()).block
        found = {
            t: (n.holder, n.node_id, n.key, n.created_at, n.revoked, n.suspended or not any(n.key))
            for t, n in self.nodes.items()
        }
        assert found == await reference(self.contract)
        if not also_at_once:
            return
        checkpoint, nodes = await self.snapshot()
        assert checkpoint == self.journal.head.checkpoint
        assert nodes.keys() == self.nodes.keys()


def kind_of(contract: PublishedAccess, **more: Any) -> PublishedContract:
    """The contract as its kind."""
    settings = {"chain_id": CHAIN_ID, "start_block": contract.start_block} | more
    return PublishedContract(Address(contract.address), **settings)


@contextlib.asynccontextmanager
async def followed(directory: Path, habits: Habit = Habit.NONE) -> AsyncIterator[Followed]:
    """A new contract with some habits, followed from its first block on."""
    async with local_chain(directory) as chain, Proxy.open(chain.url) as proxy:
        contract = await PublishedAccess.deploy(chain, habits)
        (provider,) = open_providers([proxy.url], timeout=5.0)
        async with contextlib.aclosing(provider):
            (head,) = await provider.batch([calls.latest()])
            panel = Panel([provider], chain_id=CHAIN_ID, contract=Address(contract.address))
            kind = kind_of(contract)
            journal = Journal(head.block, *await kind.snapshot(panel, head.block, provider, None))
            yield Followed(contract, proxy, provider, kind, journal)


@contextlib.asynccontextmanager
async def another(url: str, host: int) -> AsyncIterator[tuple[Proxy, Provider]]:
    """One more provider of the same chain under another host's name, with faults of its own."""
    async with Proxy.open(url) as proxy:
        named = proxy.url.replace("127.0.0.1", f"127.0.0.{host}")
        provider = open_providers([proxy.url] * (host - 1) + [named], timeout=5.0)[-1]
        async with contextlib.aclosing(provider):
            yield proxy, provider


async def reference(contract: PublishedAccess) -> dict[int, tuple[Any, ...]]:
    """Every token: holder, node id, key, time of mint, revoked, suspended."""
    query = {"address": contract.address, "fromBlock": "0x0", "toBlock": "latest"}
    logs = await contract.chain.rpc("eth_getLogs", query)
    count = sum(_is(log, "NodeAccessGranted(uint256,string,address,string)") for log in logs)
    found = {}
    for token in range(1, count + 1):
        try:
            holder = await contract.call("ownerOf(uint256)", token, returns="address")
            access = await contract.call(
                "getNodeAccess(uint256)", token, returns="string,string,uint256,bool"
            )
        except RpcError:
            continue
        if holder != NOBODY:
            name, key, created, active = access
            # Whether a token without a key is suspended makes no difference.
            suspended = not key or not _set_since_transfer(logs, token, holder, key)
            found[token] = (holder, name, key_of(key), created, not active, suspended)
    return found


def _is(log: dict[str, Any], signature: str) -> bool:
    return bool(log["topics"][0] == "0x" + keccak(text=signature).hex())


def _set_since_transfer(logs: list[dict[str, Any]], token: int, holder: str, key: str) -> bool:
    """Whether the key was set since the last transfer, by going through the logs in order."""
    minted = answer = False
    for log in logs:
        words = [int(topic, 16) for topic in log["topics"][1:]]
        data = bytes.fromhex(log["data"][2:])
        if _is(log, "Transfer(address,address,uint256)") and words[2] == token:
            minted = True
            answer = answer and words[0] == 0
        elif _is(log, "NodeAccessTransferred(uint256,address,address)") and words[0] == token:
            answer = False
        elif _is(log, "NodeAccessGranted(uint256,string,address,string)"):
            minted = minted or words[0] == token
            about = words[1] == int(holder, 16) and decode(["string", "string"], data)[1] == key
            answer = answer or (minted and about)
        elif _is(log, "PublicKeyUpdated(address,string)"):
            about = words[0] == int(holder, 16) and decode(["string"], data)[0] == key
            answer = answer or (minted and about)
    return answer
