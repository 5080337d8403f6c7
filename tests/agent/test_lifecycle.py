"""The embedded bridge: started, stopped, kept, stopped again; in this process, on a real device."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from dstack_vpn import WireGuardContractBridge
from dstack_vpn.mesh.events import EventKind
from lab.chain import Chain
from lab.nft import AccessNFT
from lab.tunnel import Keys, new_keys
from wireguard.samples import unique_name


def exists(interface: str) -> bool:
    """Whether there is such an interface here."""
    return interface in {name for _, name in socket.if_nameindex()}


class Node:
    """What makes bridges of one node: its key, its name and its directory."""

    def __init__(self, nft: AccessNFT, keys: Keys, directory: Path, ipv4_range: str) -> None:
        self.nft = nft
        self.keys = keys
        self.directory = directory
        self.interface = unique_name()
        self.ipv4_range = ipv4_range

    def bridge(self) -> WireGuardContractBridge:
        """A new bridge, not started."""
        return WireGuardContractBridge(
            node_id="embedded",
            private_key=self.keys.private,
            network="hardhat",
            rpc_url=self.nft.chain.url,
            contract_address=self.nft.address,
            sync_interval=0.2,
            poll_interval=0.05,
            state_dir=self.directory,
            wg_interface=self.interface,
            health_check_port=0,
            listen_port=free_port(),
            ipv4_range=self.ipv4_range,
        )


def free_port() -> int:
    """A UDP port that nobody has now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest_asyncio.fixture
async def node(chain: Chain, tmp_path: Path) -> AsyncIterator[Node]:
    """A node whose token is minted; its device is gone afterwards."""
    # Parallel tests share one network, and the contract's address makes the IPv6 range.
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for _ in range(worker):
        await AccessNFT.deploy(chain)
    nft = await AccessNFT.deploy(chain)
    keys = await new_keys()
    await nft.mint("embedded", keys.public)
    made = Node(nft, keys, tmp_path / "state", f"10.{100 + worker}.0.0/24")
    yield made
    assert not exists(made.interface)


async def test_a_stop_takes_the_device_down_and_a_second_one_does_nothing(node: Node) -> None:
    """`stop` may be called twice, and a stopped bridge holds nothing open."""
    bridge = node.bridge()
    await bridge.start()
    await bridge.wait_ready(timeout=20)
    assert exists(node.interface)

    await bridge.stop()
    assert not exists(node.interface)
    await bridge.stop()

    # Its state directory is free again, which two agents could not share.
    async with node.bridge() as again:
        await again.wait_ready(timeout=20)


async def test_a_device_that_is_kept_is_adopted_and_not_ended_by_a_second_stop(node: Node) -> None:
    """`stop(keep_device=True)` leaves the device to the next bridge."""
    bridge = node.bridge()
    await bridge.start()
    await bridge.wait_ready(timeout=20)
    index = socket.if_nametoindex(node.interface)

    await bridge.stop(keep_device=True)
    await bridge.stop()
    assert socket.if_nametoindex(node.interface) == index

    async with node.bridge() as again:
        await again.wait_ready(timeout=20)
        assert socket.if_nametoindex(node.interface) == index
    assert not exists(node.interface)


async def test_events_and_waiters_end_with_the_bridge(node: Node) -> None:
    """Subscribers get what happens, and their iteration ends at the stop, as waiting does."""
    bridge = node.bridge()
    await bridge.start()
    await bridge.wait_ready(timeout=20)
    told: list[tuple[EventKind, str]] = []
    heard = {kind: asyncio.Event() for kind in EventKind}

    async def listen() -> None:
        async for event in bridge.events():
            told.append((event.kind, event.node_id))
            heard[event.kind].set()

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(listen())
        group.create_task(bridge.wait_stopped())
        await asyncio.sleep(0)  # lets the subscription begin
        await node.nft.mint("other", (await new_keys()).public)
        await heard[EventKind.GRANTED].wait()
        await node.nft.revoke(2)
        await heard[EventKind.REVOKED].wait()
        await bridge.stop()

    about_other = [kind for kind, name in told if name == "other"]
    assert about_other == [EventKind.GRANTED, EventKind.REVOKED]


async def test_waiting_for_readiness_says_why_it_is_not(node: Node) -> None:
    """`wait_ready` gives up with the reason that /ready would give."""
    await node.nft.revoke(1)
    async with node.bridge() as bridge:
        with pytest.raises(TimeoutError, match="REVOKED"):
            await bridge.wait_ready(timeout=2)
        assert bridge.access("embedded").verdict == "REVOKED"
        assert bridge.health()["status"] == "degraded"
