"""What the requirements are shown on: our contract, providers of it that can fail, and a follower.

Each provider is a proxy before one real chain, under a host's name of its own, so that each has a
vote. Time is virtual: `clock.now += 60` lets a minute pass for the follower, and nobody waits.
"""

import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from chain.local import at, following, local_chain, new_key
from chain.published import kind_of, reference
from dstack_vpn.chain.follow import Follower
from dstack_vpn.mesh.access import Decision, judge
from dstack_vpn.mesh.keys import PublicKey
from dstack_vpn.mesh.membership import Membership
from dstack_vpn.mesh.snapshot import Alarm, AlarmCode, ChainView
from lab.chain import Chain
from lab.nft import AccessNFT
from lab.published import Habit, PublishedAccess
from lab.rpclag import PinnedHead
from lab.rpcproxy import Proxy
from lab.waiting import until

FIRST_HOST = 11
"""Providers are 127.0.0.11, 127.0.0.12 and so on."""


@dataclass
class Clock:
    """Monotonic seconds that pass when a test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        """As the follower reads it."""
        return self.now


@dataclass
class Scene:
    """A contract, who tells of it, and who follows."""

    nft: AccessNFT
    proxies: Sequence[Proxy]
    follower: Follower
    clock: Clock = field(default_factory=Clock)
    _names: "itertools.count[int]" = field(default_factory=itertools.count, init=False)

    @property
    def chain(self) -> Chain:
        """The chain below all providers."""
        return self.nft.chain

    @property
    def view(self) -> ChainView:
        """What the follower knows."""
        return self.follower.view

    @property
    def membership(self) -> Membership:
        """What is agreed on, without what single providers say beside it."""
        assert self.view.membership is not None
        return replace(self.view.membership, suspects={})

    def name(self) -> str:
        """A node id that nothing has had."""
        return f"x{next(self._names)}"

    async def two_grants(self, beside: AccessNFT | None = None) -> tuple[int, int]:
        """Two new members in one block, perhaps with logs of another contract; their tokens."""
        signature = "mintNodeAccess(address,string,string,string)"
        who = await self.chain.account(1)
        await self.chain.set_automine(False)
        sent = []
        for _ in range(2):
            mint = who, self.name(), new_key(), ""
            sent.append(await self.nft.submit(signature, *mint))
            if beside:
                await beside.submit(signature, who, self.name(), new_key(), "")
        await self.chain.mine(1)
        await self.chain.set_automine(True)
        one, two = [await self.chain.mined(transaction, sent=0) for transaction in sent]
        return one.token_id, two.token_id

    async def mint(self, node_id: str, **more: Any) -> int:
        """A new member; its token."""
        return (await self.nft.mint(node_id, new_key(), **more)).token_id

    async def poll(self) -> ChainView:
        """Look once at every provider, whatever pause one of them has earned."""
        for provider in self.follower._panel.providers:
            provider._not_before = 0.0
        return await self.follower.poll()

    async def arrive(self) -> None:
        """Look until the chain's newest block is agreed on."""
        head = await self.chain.block()

        async def there() -> bool:
            membership = (await self.poll()).membership
            return membership is not None and membership.block.hash == head.hash

        await until(there, f"block {head.number} is agreed on")

    async def hold(self, *proxies: Proxy) -> None:
        """Let these providers know nothing newer than the newest block of now."""
        number = (await self.chain.block()).number
        for proxy in proxies:
            proxy.fault = PinnedHead(number)

    async def assert_published(self) -> None:
        """What is followed is what a contract with only the published interface has."""
        contract = PublishedAccess(self.chain, self.nft.address, 0)
        head = await self.chain.block()
        assert self.view.last_error is None
        assert self.membership.block.hash == head.hash
        found = {
            t: (n.holder, n.node_id, n.key, n.created_at, n.revoked, n.suspended or not any(n.key))
            for t, n in self.membership.nodes.items()
        }
        assert found == await reference(contract)

    # Who is in

    def decisions(self) -> dict[int, Decision]:
        """Every token's verdict at chain time."""
        return decisions(self.view)

    def verdict(self, token_id: int) -> str:
        """One token's verdict, or NODE_NOT_FOUND."""
        found = self.decisions().get(token_id)
        return found.verdict if found else "NODE_NOT_FOUND"

    def members(self) -> set[int]:
        """The tokens that are in."""
        return {token for token, found in self.decisions().items() if found.granted}

    def admitted(self) -> set[PublicKey]:
        """The keys that may be on the device."""
        return admitted_keys(self.view)

    def alarms(self, code: AlarmCode) -> list[Alarm]:
        """Those that are raised of a code."""
        return [alarm for alarm in self.view.alarms if alarm.code is code]


def decisions(view: ChainView) -> dict[int, Decision]:
    """Every token's verdict in a view; none where nothing is known."""
    if view.membership is None:
        return {}
    judged = judge(
        view.membership,
        confirmed=view.confirmed,
        chain_now=view.membership.block.timestamp,
        suspects=view.suspects,
    )
    return {found.token_id: found for found in judged}


def admitted_keys(view: ChainView) -> set[PublicKey]:
    """The keys that a view lets in."""
    return {found.key for found in decisions(view).values() if found.granted and found.key}


@contextlib.asynccontextmanager
async def providers(backend: str, count: int = 3) -> AsyncIterator[list[Proxy]]:
    """Providers of one chain."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Proxy.open(backend)) for _ in range(count)]


def urls(proxies: Sequence[Proxy]) -> list[str]:
    """Their URLs, each on a host of its own."""
    return [at(proxy.url, FIRST_HOST + i) for i, proxy in enumerate(proxies)]


@contextlib.asynccontextmanager
async def scene(
    directory: Path,
    *,
    count: int = 3,
    quorum: int | None = None,
    options: Sequence[str] = (),
    habits: Habit | None = None,
    **more: Any,
) -> AsyncIterator[Scene]:
    """Providers of a chain with our contract on it, and a follower that has not started.

    Args:
        directory: of the test.
        count: providers.
        quorum: votes needed; of three two, of one or two all.
        options: of the chain.
        habits: of a contract that has only the published interface, in place of ours.
        more: of the follower.
    """
    clock = Clock()
    needed = count // 2 + 1 if quorum is None else quorum
    async with local_chain(directory, options=options) as chain:
        if habits is None:
            nft = await AccessNFT.deploy(chain)
        else:
            published = await PublishedAccess.deploy(chain, habits)
            nft = AccessNFT(chain, published.address)
            more["kind"] = kind_of(published)
        async with (
            providers(chain.url, count) as proxies,
            following(nft.address, *urls(proxies), quorum=needed, now=clock, **more) as follower,
        ):
            yield Scene(nft, proxies, follower, clock)
