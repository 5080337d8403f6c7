"""The loop on parts in memory."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

from dstack_vpn.config import load_settings
from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.mesh.membership import Membership
from dstack_vpn.mesh.snapshot import ChainView
from dstack_vpn.reconcile import Reconciler
from dstack_vpn.store import Store
from dstack_vpn.wireguard.memory import MemoryDevice
from mesh.build import key_of, local_node, membership, node

OWN = PrivateKey(bytes(31) + b"\x01")


class Dark:
    """A chain that nobody tells anything about."""

    view = ChainView(
        membership=None,
        verified=False,
        agreed_at=None,
        providers=(),
        last_error="nobody answers",
        reorgs=0,
        resyncs=0,
    )

    async def start(self, saved: Membership | None) -> Membership:
        """Never asked here."""
        raise NotImplementedError

    async def poll(self) -> ChainView:
        """Nothing new."""
        return self.view

    async def wait(self, seconds: float, /) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


async def test_a_clock_that_stands_before_the_save_holds_nobody_for_ever(tmp_path: Path) -> None:
    """A machine that starts in 1970 without a chain closes when it ran for long enough itself."""
    store = Store(tmp_path / "state.db")
    held = membership([node(1, key=OWN.public.raw), node(2)])
    store.save(held, wall_now=time.time() + 1e6)
    device = MemoryDevice("wg0", OWN)
    loop = Reconciler(
        settings=load_settings(
            {"NODE_ID": "node-1", "NETWORK": "hardhat", "DARK_CLOSE_AFTER": "60"}
        ),
        local=replace(local_node(), public_key=OWN.public),
        source=Dark(),
        device=device,
        store=store,
        write_conf=lambda _wanted, _membership: None,
        publish=lambda _events: None,
    )
    await loop.cycle()
    assert list(device.peers) == [key_of(2)]

    loop._loaded_at -= 61  # time does not pass faster for a test
    await loop.cycle()
    assert loop.snapshot.closed
    assert not device.peers
    store.close()
