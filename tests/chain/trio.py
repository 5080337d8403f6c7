"""Three providers of one chain, each behind a proxy of its own: two votes decide."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from chain.local import at, following
from dstack_vpn.chain.follow import Follower
from dstack_vpn.mesh.access import Decision, Verdict, judge
from dstack_vpn.mesh.snapshot import Alarm, AlarmCode
from lab.chain import CHAIN_ID
from lab.nft import AccessNFT
from lab.rpcforger import Forger
from lab.rpcproxy import Proxy


@dataclass(slots=True)
class Clock:
    """Monotonic time that stands still until it is told otherwise."""

    now: float = 1000.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


@dataclass(slots=True)
class Trio:
    """A follower of three proxies at 127.0.0.1 to 127.0.0.3, one of which may lie."""

    nft: AccessNFT
    proxies: tuple[Proxy, ...]
    follower: Follower
    clock: Clock
    forger: Forger = field(init=False)

    def __post_init__(self) -> None:
        self.forger = Forger(self.nft.address, CHAIN_ID)

    @property
    def liar(self) -> Proxy:
        """The third of them."""
        return self.proxies[2]

    def decisions(self) -> Mapping[int, Decision]:
        """The verdict on every token at this moment."""
        view = self.follower.view
        assert view.membership is not None
        found = judge(
            view.membership,
            confirmed=view.confirmed,
            chain_now=view.membership.block.timestamp,
            suspects=view.suspects,
        )
        return {decision.token_id: decision for decision in found}

    def verdict(self, token_id: int) -> Verdict:
        """The verdict on a token; NODE_NOT_FOUND for one that is not known."""
        decision = self.decisions().get(token_id)
        return decision.verdict if decision else Verdict.NODE_NOT_FOUND

    def alarm(self, code: AlarmCode) -> Alarm | None:
        """The alarm of a code, if one is raised."""
        return next((a for a in self.follower.view.alarms if a.code is code), None)

    async def see(self, blocks: int = 1) -> None:
        """Make blocks, one after the other, and look after each."""
        for _ in range(blocks):
            await self.nft.chain.mine(1)
            await self.follower.poll()


@contextlib.asynccontextmanager
async def trio_of(nft: AccessNFT, **more: Any) -> AsyncIterator[Trio]:
    """Three proxies before the contract's chain, and a follower that has not started."""
    clock = Clock()
    async with contextlib.AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(Proxy.open(nft.chain.url)) for _ in range(3)]
        urls = [at(proxy.url, host) for host, proxy in enumerate(proxies, 1)]
        options: dict[str, Any] = {"quorum": 2, "now": clock, **more}
        follower = await stack.enter_async_context(following(nft.address, *urls, **options))
        yield Trio(nft, tuple(proxies), follower, clock)
