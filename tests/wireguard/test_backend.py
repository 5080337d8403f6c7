"""One suite for every backend: what `backend.Backend` promises holds in memory and for real."""

import random
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_interface
from pathlib import Path

import pytest
import pytest_asyncio

from dstack_vpn.errors import DeviceError
from dstack_vpn.mesh.device import (
    AddPeer,
    DeviceChange,
    PeerChange,
    RemovePeer,
    SeenDevice,
    UpdatePeer,
    WantedDevice,
)
from dstack_vpn.mesh.diff import diff, sorted_networks
from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.wireguard.backend import Backend
from dstack_vpn.wireguard.kernel import KernelDevice
from dstack_vpn.wireguard.memory import MemoryDevice
from dstack_vpn.wireguard.userspace import UserspaceDevice
from lab.fixtures import need_kernel_wireguard, need_lab
from wireguard.kernel_double import KernelDouble
from wireguard.samples import adding, at, device, hosts, key, peer, unique_name
from wireguard.seeing import look

PRIVATE_KEY = PrivateKey.generate()


REAL = ("userspace", "kernel", "kernel-double")
"""Backends that are no model: wireguard-go, Linux's own WireGuard, and ours for its double."""


def make(kind: str, name: str, tmp_path: Path) -> Backend:
    """The backend of this kind."""
    if kind == "memory":
        return MemoryDevice(name, PRIVATE_KEY)
    need_lab()
    marker = tmp_path / "marker"
    if kind == "userspace":
        return UserspaceDevice(name, PRIVATE_KEY, marker_path=marker)
    if kind == "kernel":
        need_kernel_wireguard()
        return KernelDevice(name, PRIVATE_KEY, marker_path=marker)
    double = KernelDouble()
    return KernelDevice(
        name,
        PRIVATE_KEY,
        marker_path=marker,
        dial=double.dial,
        add_link=double.add_link,
        why_taken=double.why_taken,
    )


@pytest_asyncio.fixture(params=["memory", *REAL])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    """A device that was created and has nothing yet."""
    made = make(request.param, unique_name(), tmp_path)
    await made.create()
    yield made
    await made.destroy()


async def bring(backend: Backend, wanted: WantedDevice) -> SeenDevice:
    """One turn of the reconciler; fails unless the device is as wanted afterwards."""
    await backend.apply(diff(wanted, await backend.seen()))
    seen = await look(backend)
    assert not diff(wanted, seen)
    return seen


async def test_a_new_device_is_empty(backend: Backend) -> None:
    """After create there is a device without key, peers and addresses, and it is down."""
    seen = await look(backend)
    assert (seen.name, seen.public_key, seen.up) == (backend.name, None, False)
    assert (dict(seen.peers), seen.addresses) == ({}, ())


async def test_a_device_becomes_what_is_wanted(backend: Backend) -> None:
    """Key, port, MTU, addresses and peers arrive with one change, and reading gives them back."""
    wanted = device(
        PRIVATE_KEY,
        peer(1, endpoint=at("192.0.2.1"), keepalive=25),
        peer(2, endpoint=at("2001:db8::2", 41)),
        peer(3),
        name=backend.name,
        listen_port=42017,
        mtu=1380,
        addresses=("10.213.0.9/16", "fd59:11ea:eff5::9/48"),
    )
    seen = await bring(backend, wanted)
    assert seen.public_key == PRIVATE_KEY.public
    assert (seen.listen_port, seen.mtu, seen.up) == (42017, 1380, True)
    assert seen.addresses == wanted.addresses
    first = seen.peers[key(1)]
    assert (first.endpoint, first.keepalive) == (at("192.0.2.1"), 25)
    assert first.allowed_ips == hosts(1)
    assert first.last_handshake == 0.0
    assert seen.peers[key(2)].endpoint == at("2001:db8::2", 41)
    assert seen.peers[key(3)].endpoint is None


async def test_addresses_are_exchanged(backend: Backend) -> None:
    """An address that is no longer wanted goes, another comes."""
    await bring(backend, device(PRIVATE_KEY, name=backend.name, addresses=("10.213.0.9/16",)))
    wanted = device(PRIVATE_KEY, name=backend.name, addresses=("10.214.0.9/16", "fd01::1/48"))
    seen = await bring(backend, wanted)
    assert seen.addresses == (ip_interface("10.214.0.9/16"), ip_interface("fd01::1/48"))


async def test_only_what_changed_is_altered(backend: Backend) -> None:
    """A peer that is not in a change stays as it is; a field that is None in an update too."""
    before = await bring(
        backend,
        device(
            PRIVATE_KEY,
            peer(1, endpoint=at("192.0.2.1"), keepalive=5),
            peer(2, endpoint=at("192.0.2.2")),
            name=backend.name,
        ),
    )
    update = UpdatePeer(
        key=key(1), node_id="node-1", allowed_ips=None, endpoint=None, keepalive=7, changes=()
    )
    await backend.apply(DeviceChange(name=backend.name, peers=(update,)))
    after = await look(backend)
    assert after.peers[key(2)] == before.peers[key(2)]
    assert after.peers[key(1)].keepalive == 7
    assert after.peers[key(1)].endpoint == at("192.0.2.1")
    assert after.peers[key(1)].allowed_ips == hosts(1)
    assert after.listen_port == before.listen_port


async def test_a_removed_peer_is_gone(backend: Backend) -> None:
    """A removal takes off one peer and is no error when repeated."""
    await bring(backend, device(PRIVATE_KEY, peer(1), peer(2), name=backend.name))
    removal = DeviceChange(name=backend.name, peers=(RemovePeer(key=key(1), reason="REVOKED"),))
    for _ in range(2):
        await backend.apply(removal)
        assert set((await look(backend)).peers) == {key(2)}


async def test_an_update_of_an_unknown_peer_is_ignored(backend: Backend) -> None:
    """A peer that was taken off meanwhile does not come back half configured."""
    update = UpdatePeer(
        key=key(1), node_id="x", allowed_ips=hosts(1), endpoint=None, keepalive=1, changes=()
    )
    await backend.apply(DeviceChange(name=backend.name, set_key=True, peers=(update,)))
    assert dict((await look(backend)).peers) == {}


async def test_a_thief_is_removed_and_the_robbed_peer_repaired(backend: Backend) -> None:
    """An allowed IP moves silently to who got it last; one turn gives it back."""
    wanted = device(PRIVATE_KEY, peer(1), peer(2), name=backend.name)
    await bring(backend, wanted)
    await backend.apply(adding(backend.name, peer(99, allowed_ips=hosts(1)[:1])))
    robbed = await look(backend)
    assert robbed.peers[key(1)].allowed_ips == hosts(1)[1:]
    assert robbed.peers[key(99)].allowed_ips == hosts(1)[:1]
    await bring(backend, wanted)


async def test_two_peers_swap_their_addresses(backend: Backend) -> None:
    """Allowed IPs that change hands in both directions end where they belong after one change."""
    await bring(backend, device(PRIVATE_KEY, peer(1), peer(2), name=backend.name))
    swapped = (peer(1, allowed_ips=hosts(2)), peer(2, allowed_ips=hosts(1)))
    await bring(backend, device(PRIVATE_KEY, *swapped, name=backend.name))


async def test_a_refused_peer_does_not_stop_the_others(backend: Backend) -> None:
    """A set that fails in its middle is an error, all the same every other peer is as wanted."""
    broken = peer(5, keepalive=70000)
    wanted = device(PRIVATE_KEY, *map(peer, range(1, 5)), broken, peer(6), name=backend.name)
    await bring(backend, device(PRIVATE_KEY, peer(7), name=backend.name))
    with pytest.raises(DeviceError, match="refused 1 peers: "):
        await backend.apply(diff(wanted, await backend.seen()))
    # wireguard-go has the peer by then, without what it refused; the kernel was never asked.
    (left,) = diff(wanted, await backend.seen()).peers
    assert (left.peer.key if isinstance(left, AddPeer) else left.key) == key(5)


async def test_a_change_may_be_applied_twice(backend: Backend) -> None:
    """Repeating a change does no harm, so that one may be repeated after an unclear end."""
    wanted = device(
        PRIVATE_KEY, peer(1), name=backend.name, addresses=("10.213.0.9/16", "fd01::1/48")
    )
    change = diff(wanted, await backend.seen())
    await backend.apply(change)
    await backend.apply(change)
    assert not diff(wanted, await backend.seen())


@pytest.mark.parametrize("backend", ["userspace", "kernel"], indirect=True)
async def test_a_port_of_somebody_else_is_refused(backend: Backend) -> None:
    """The device stays where it is, has its key, and takes the port once it is free."""
    wanted = device(PRIVATE_KEY, name=backend.name)
    before = await bring(backend, wanted)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other:
        other.bind(("::", 0))
        wanted = replace(wanted, listen_port=other.getsockname()[1])
        for _ in range(2):
            with pytest.raises(DeviceError, match="cannot listen on UDP port"):
                await backend.apply(diff(wanted, await backend.seen()))
        assert await look(backend) == before
    await bring(backend, wanted)


async def test_create_adopts_what_is_there(backend: Backend) -> None:
    """Create changes nothing about a device that exists."""
    before = await bring(backend, device(PRIVATE_KEY, peer(1), name=backend.name))
    await backend.create()
    assert await backend.seen() == before


async def test_destroy_leaves_nothing_and_create_begins_anew(backend: Backend) -> None:
    """After destroy there is no device, however often; create makes an empty one."""
    await bring(backend, device(PRIVATE_KEY, peer(1), name=backend.name))
    for _ in range(2):
        await backend.destroy()
        assert await backend.seen() is None
    with pytest.raises(DeviceError, match="is gone"):
        await backend.apply(adding(backend.name, peer(1)))
    await backend.create()
    assert dict((await look(backend)).peers) == {}


async def test_5000_peers(backend: Backend) -> None:
    """A large membership is applied in one change and taken off in another."""
    many = device(PRIVATE_KEY, *map(peer, range(1, 5001)), name=backend.name)
    assert len((await bring(backend, many)).peers) == 5000
    few = device(PRIVATE_KEY, *map(peer, range(1, 3)), name=backend.name)
    assert len((await bring(backend, few)).peers) == 2


@pytest.mark.parametrize("kind", REAL)
@pytest.mark.parametrize("seed", range(3))
async def test_the_model_does_what_the_device_does(kind: str, seed: int, tmp_path: Path) -> None:
    """The device in memory and each real one stay equal under the same changes, thefts included."""
    chance = random.Random(seed)
    name = unique_name()
    real = make(kind, name, tmp_path)
    model = MemoryDevice(name, PRIVATE_KEY)
    # What is half done when a number is out of range is wireguard-go's: the kernel gets no such.
    keepalives = (0, 0, 5, 70000) if kind == "userspace" else (0, 0, 5)
    await real.create()
    await model.create()
    try:
        for _ in range(60):
            change = random_change(chance, name, keepalives)
            said = []
            for backend in (real, model):
                try:
                    await backend.apply(change)
                    said.append("")
                except DeviceError as error:
                    said.append(str(error).partition(":")[0])
            assert said[0] == said[1]
            one, other = await look(real), await look(model)
            assert one.peers == other.peers
            assert (one.public_key, one.mtu, one.up) == (other.public_key, other.mtu, other.up)
            assert one.addresses == other.addresses
    finally:
        await real.destroy()


def random_change(chance: random.Random, name: str, keepalives: tuple[int, ...]) -> DeviceChange:
    """A change that no diff would make: unknown, foreign and contradicting peers."""
    pool = [network for number in range(1, 5) for network in hosts(number)]
    peers: list[PeerChange] = []
    for number in chance.sample(range(1, 7), chance.randint(0, 4)):
        allowed = tuple(sorted_networks(chance.sample(pool, chance.randint(0, 3))))
        endpoint = chance.choice([None, at("192.0.2.1"), at("2001:db8::1", 9)])
        keepalive = chance.choice(keepalives)
        wanted = peer(number, allowed_ips=allowed, endpoint=endpoint, keepalive=keepalive)
        update = UpdatePeer(
            key=key(number),
            node_id="x",
            allowed_ips=chance.choice([None, allowed]),
            endpoint=endpoint,
            keepalive=chance.choice([None, keepalive]),
            changes=(),
        )
        removal = RemovePeer(key=key(number), reason="")
        peers += chance.choice([[removal], [update], [AddPeer(peer=wanted)]])
    return DeviceChange(
        name=name,
        set_key=chance.random() < 0.2,
        mtu=chance.choice([None, 1300, 1420]),
        up=chance.random() < 0.2,
        add_addresses=(ip_interface("10.213.0.9/16"),) if chance.random() < 0.2 else (),
        peers=tuple(peers),
    )
