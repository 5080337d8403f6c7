"""Peers, devices and states for the tests of the device."""

import itertools
import os
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface

from hypothesis import HealthCheck, settings

from dstack_vpn.mesh.device import (
    AddPeer,
    DeviceChange,
    IpNetwork,
    SocketAddress,
    WantedDevice,
    WantedPeer,
)
from dstack_vpn.mesh.keys import PrivateKey, PublicKey

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""For property tests: how long an example takes says nothing on a machine that others use too."""

_numbers = itertools.count(1)


def unique_name() -> str:
    """An interface name that no other test of this world has; workers have their own pids."""
    return f"t{os.getpid() % 100000}x{next(_numbers)}"


def key(number: int) -> PublicKey:
    """A public key by number, the same each time; nobody has its private key."""
    return PublicKey(number.to_bytes(32, "big"))


def hosts(number: int) -> tuple[IpNetwork, ...]:
    """The allowed IPs of the peer with this number."""
    return (
        IPv4Network((IPv4Address("10.213.0.0") + number, 32)),
        IPv6Network((IPv6Address("fd59:11ea:eff5::") + number, 128)),
    )


def peer(
    number: int,
    *,
    allowed_ips: tuple[IpNetwork, ...] | None = None,
    endpoint: SocketAddress | None = None,
    keepalive: int = 0,
) -> WantedPeer:
    """A wanted peer by number."""
    return WantedPeer(
        key=key(number),
        token_id=number,
        node_id=f"node-{number}",
        allowed_ips=hosts(number) if allowed_ips is None else allowed_ips,
        endpoint=endpoint,
        keepalive=keepalive,
    )


def device(
    private_key: PrivateKey,
    *peers: WantedPeer,
    name: str = "wg0",
    listen_port: int = 0,
    mtu: int = 1420,
    addresses: tuple[str, ...] = (),
) -> WantedDevice:
    """A wanted device."""
    return WantedDevice(
        name=name,
        public_key=private_key.public,
        listen_port=listen_port,
        mtu=mtu,
        addresses=tuple(map(ip_interface, addresses)),
        peers={peer.key: peer for peer in peers},
    )


def adding(name: str, *peers: WantedPeer) -> DeviceChange:
    """A change that adds peers and does nothing else."""
    return DeviceChange(name=name, peers=tuple(AddPeer(peer=peer) for peer in peers))


def at(text: str, port: int = 51820) -> SocketAddress:
    """An endpoint."""
    address = IPv6Address(text) if ":" in text else IPv4Address(text)
    return SocketAddress(address, port)
