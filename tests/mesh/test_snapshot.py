"""What readers get: the lag behind the chain, and one hash that members compare."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.mesh.device import SeenDevice
from dstack_vpn.mesh.snapshot import ProviderStatus
from mesh.build import BLOCK, key_of, node, snapshot


@given(st.sets(st.integers(1, 70_000), min_size=2, max_size=8))
def test_members_that_agree_show_one_hash(ids: set[int]) -> None:
    """Every member of one block shows the same hash, though each device lacks its own node."""
    tokens = [node(i) for i in ids]
    assert len({snapshot(tokens, own=i).peerset_hash for i in ids}) == 1


def test_hash_differs_when_one_lacks_a_peer() -> None:
    """A member that misses a peer, or has one more, shows another hash."""
    three = [node(i) for i in (1, 2, 3)]
    shown = snapshot(three, own=1).peerset_hash
    assert snapshot(three[:2], own=2).peerset_hash != shown
    assert snapshot([*three, node(4)], own=2).peerset_hash != shown
    assert snapshot([*three[:2], node(3, key=b"k" * 32)], own=2).peerset_hash != shown


def test_hash_is_of_the_device_not_of_the_plan() -> None:
    """What counts is what the device has: a peer's address that was taken away shows."""
    shot = snapshot()
    device = shot.device
    assert isinstance(device, SeenDevice)
    robbed = replace(device.peers[key_of(2)], allowed_ips=())
    changed = replace(shot, device=replace(device, peers={key_of(2): robbed}))
    assert changed.peerset_hash != shot.peerset_hash
    assert replace(shot, device=None).peerset_hash != shot.peerset_hash


def provider(head: int | None) -> ProviderStatus:
    """A provider whose newest head is this."""
    return ProviderStatus(
        name="rpc.example#1", healthy=True, head=head, last_error=None, requests={}, failures=0
    )


def test_lag() -> None:
    """The lag is counted from the newest head that anybody showed; it is never negative."""
    shot = snapshot()

    def lag(*heads: int | None) -> int | None:
        chain = replace(shot.chain, providers=tuple(map(provider, heads)))
        return replace(shot, chain=chain).lag_blocks

    assert lag(BLOCK + 3, None, BLOCK + 1) == 3
    assert lag(BLOCK - 3) == 0
    assert lag(None) is None
    assert lag() is None
    assert replace(shot, applied_block=None).lag_blocks is None
