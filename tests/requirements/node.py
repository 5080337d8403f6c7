"""A whole node on virtual time: follower, loop, state file, and a device in memory.

What a scene has, and what the node makes of it: `look` is a poll and a cycle, `pass_time` lets time
go by for all of it at once.
"""

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from chain.local import following, local_chain
from dstack_vpn import reconcile
from dstack_vpn.chain.follow import Follower
from dstack_vpn.config import load_settings
from dstack_vpn.mesh.health import Health, assess
from dstack_vpn.mesh.keys import PrivateKey, PublicKey
from dstack_vpn.mesh.snapshot import Snapshot
from dstack_vpn.reconcile import Reconciler
from dstack_vpn.store import Store
from dstack_vpn.wireguard.memory import MemoryDevice
from lab.nft import AccessNFT
from lab.rpcproxy import Proxy
from mesh.build import local_node
from requirements.scene import Clock, Scene, providers, urls

OWN = PrivateKey(bytes(31) + b"\x01")
DARK_AFTER = 60.0
BLOCK_TIME = 2.0

PUBLIC = {
    "NODE_ID": "node-1",
    "NETWORK": "base",
    "RPC_URL": "https://a.example,https://b.example,https://c.example",
    "CONTRACT_ADDRESS": "0x" + "11" * 20,
    "CONFIRMATIONS": "0",
    "DARK_AFTER": str(int(DARK_AFTER)),
}
"""As on a public chain, which has a block every two seconds; no URL of these is ever asked."""


@dataclass
class Node:
    """A node whose token is 1."""

    scene: Scene
    loop: Reconciler
    device: MemoryDevice
    store: Store

    @property
    def clock(self) -> Clock:
        """Its monotonic clock."""
        return self.scene.clock

    @property
    def follower(self) -> Follower:
        """Its follower."""
        return self.scene.follower

    @property
    def proxies(self) -> Sequence[Proxy]:
        """Its providers."""
        return self.scene.proxies

    @property
    def snapshot(self) -> Snapshot:
        """As of the last cycle."""
        return self.loop.snapshot

    async def look(self) -> None:
        """Look at every provider, and do a cycle."""
        await self.scene.poll()
        await self.loop.cycle()

    async def pass_time(self, seconds: float, *, every: float = 10.0) -> None:
        """Let time pass, with a look from time to time and one at its end."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now = min(end, self.clock.now + every)
            await self.look()

    async def peers(self) -> set[int]:
        """The tokens whose keys are on the device."""
        membership = self.snapshot.chain.membership
        tokens = membership.nodes.values() if membership else ()
        on_device = set(self.device.peers)
        found = {n.token_id for n in tokens if any(n.key) and PublicKey(n.key) in on_device}
        assert len(found) == len(on_device)
        return found

    def health(self, *, wall_now: float | None = None) -> Health:
        """Judged now."""
        return assess(
            self.snapshot,
            now=self.clock.now,
            dark_after=DARK_AFTER,
            block_time=BLOCK_TIME,
            wall_now=wall_now,
        )

    def codes(self) -> set[str]:
        """Of the warnings of now."""
        return {str(warning.code) for warning in self.health().warnings}


@contextlib.asynccontextmanager
async def node(
    directory: Path,
    patch: pytest.MonkeyPatch,
    *,
    count: int = 2,
    settings: dict[str, str] | None = None,
    options: Sequence[str] = (),
    **more: Any,
) -> AsyncIterator[Node]:
    """A node that has not looked yet; its own token is minted.

    Args:
        directory: of the test.
        patch: of the test.
        count: providers; two must agree, or the only one.
        settings: variables, beside those of a public chain.
        options: of the chain.
        more: of the follower.
    """
    clock = Clock()
    patch.setattr(reconcile, "_now", clock)
    async with local_chain(directory, options=options) as chain:
        nft = await AccessNFT.deploy(chain)
        await nft.mint("node-1", OWN.public.text)
        device = MemoryDevice("wg0", OWN)
        async with (
            providers(chain.url, count) as proxies,
            _running((nft, proxies, clock), device, directory / "state.db", settings, more) as made,
        ):
            yield made


@contextlib.asynccontextmanager
async def restarted(
    before: Node, *, settings: dict[str, str] | None = None, **more: Any
) -> AsyncIterator[Node]:
    """The same node started once more: what it knows it has from its disk, and its device stays."""
    s = before.scene
    before.store.close()
    async with _running(
        (s.nft, s.proxies, s.clock), before.device, before.store.path, settings, more
    ) as made:
        yield made


@contextlib.asynccontextmanager
async def _running(
    scene: tuple[AccessNFT, Sequence[Proxy], Clock],
    device: MemoryDevice,
    path: Path,
    settings: dict[str, str] | None,
    more: dict[str, Any],
) -> AsyncIterator[Node]:
    nft, proxies, clock = scene
    quorum = min(2, len(proxies))
    async with following(nft.address, *urls(proxies), quorum=quorum, now=clock, **more) as follower:
        with contextlib.closing(Store(path)) as store:
            loop = Reconciler(
                settings=load_settings(PUBLIC | (settings or {})),
                local=replace(local_node(), public_key=OWN.public),
                source=follower,
                device=device,
                store=store,
                write_conf=lambda _wanted, _membership: None,
                publish=lambda _events: None,
            )
            saved = store.load()
            if saved is not None:
                follower._adopt(saved.membership)
            yield Node(Scene(nft, proxies, follower, clock), loop, device, store)
