"""Requirement 38: removals are applied before all else, and no failure is passed over."""

from pathlib import Path

import pytest

from dstack_vpn.mesh.device import AddPeer, RemovePeer
from dstack_vpn.mesh.health import Code
from dstack_vpn.mesh.keys import PublicKey
from dstack_vpn.wireguard.uapi import render
from requirements.node import OWN, Node, node


def ready(n: Node) -> bool:
    """Whether it says that it passes traffic."""
    return n.health().ready


async def test_requirement_38_removals_come_first_and_failures_are_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requirement 38: of what comes at once removals are applied first; nothing is skipped.

    A device that fails, or refuses a peer, is told in /health and tried again until it is right.
    """
    async with node(tmp_path, monkeypatch) as n:
        two, three = await n.scene.mint("two"), await n.scene.mint("three")
        await n.look()
        assert await n.peers() == {two, three}
        n.device.applied.clear()
        four = await n.scene.mint("four")
        await n.scene.nft.revoke(two)
        await n.look()
        assert await n.peers() == {three, four}
        kinds = [type(peer) for change in n.device.applied for peer in change.peers]
        assert set(kinds) == {RemovePeer, AddPeer}
        assert kinds.index(AddPeer) > max(i for i, k in enumerate(kinds) if k is RemovePeer)

        n.device.stalled = True
        five = await n.scene.mint("five")
        await n.scene.nft.revoke(three)
        await n.look()
        assert n.snapshot.pending is not None
        assert Code.DEVICE_DOWN in n.codes()
        assert not ready(n)
        errors = n.snapshot.error_count
        await n.pass_time(60, every=5)
        assert n.snapshot.error_count > errors
        assert await n.peers() == {three, four}
        n.device.stalled = False
        n.device.refused = {PublicKey(n.scene.membership.nodes[five].key)}
        await n.pass_time(60, every=5)
        assert three not in await n.peers()
        assert Code.PLAN_PENDING in n.codes()
        n.device.refused = set()
        await n.pass_time(60, every=5)
        assert await n.peers() == {four, five}
        assert ready(n)


async def test_requirement_38_what_is_sent_to_a_device_begins_with_removals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requirement 38: in the words of a device removals stand in requests of their own, first."""
    async with node(tmp_path, monkeypatch) as n:
        two = await n.scene.mint("two")
        await n.look()
        n.device.applied.clear()
        await n.scene.nft.revoke(two)
        await n.scene.mint("three")
        await n.look()
        for change in n.device.applied:
            sent = render(change, OWN)
            assert all(b"remove=true" in request.text for request in sent.removals)
            assert all(b"remove=true" not in request.text for request in sent.peers)
        assert any(render(change, OWN).removals for change in n.device.applied)
