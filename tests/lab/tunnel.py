"""WireGuard by hand, for tests that need a tunnel but no agent; and reading devices.

A device is read through its UAPI socket in the host's /run where there is one (wireguard-go), else
with `wg` (kernel).
"""

import asyncio
import base64
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Self

from lab.host import Host
from lab.process import Process, run
from lab.waiting import until

PORT = 51820
LONGEST = 2**26  #: bytes of an answer; that of ten thousand peers has 3 MB


@dataclass(frozen=True, slots=True)
class WgPeer:
    """A peer as a device reports it."""

    public_key: str  #: base64
    endpoint: str | None
    allowed_ips: frozenset[str]
    latest_handshake: int  #: seconds since 1970, 0 = never
    received: int  #: bytes
    sent: int  #: bytes
    keepalive: int  #: seconds, 0 = off


@dataclass(frozen=True, slots=True)
class Keys:
    """A WireGuard key pair in base64."""

    private: str
    public: str


async def new_keys() -> Keys:
    """Make a key pair with `wg`."""
    private = (await run("wg", "genkey")).out.strip()
    return Keys(private, (await run("wg", "pubkey", text=private)).out.strip())


async def wg_peers(host: Host, interface: str = "wg0") -> dict[str, WgPeer]:
    """The peers of a device in a host, by public key."""
    socket = host.run_dir / f"wireguard/{interface}.sock"
    if not socket.exists():
        dump = await host.run("wg", "show", interface, "dump")
        return {peer.public_key: peer for peer in map(from_dump, dump.out.splitlines()[1:])}
    reader, writer = await asyncio.open_unix_connection(str(socket), limit=LONGEST)
    try:
        writer.write(b"get=1\n\n")
        async with asyncio.timeout(10):
            text = (await reader.readuntil(b"\n\n")).decode()
    finally:
        writer.close()
        await writer.wait_closed()
    _, *peers = text.split("public_key=")
    return {peer.public_key: peer for peer in map(from_uapi, peers)}


def from_uapi(text: str) -> WgPeer:
    """Parse what follows `public_key=` up to the next peer."""
    key, *lines = text.strip().splitlines()
    pairs = [(name, value) for name, _, value in (line.partition("=") for line in lines)]
    values = dict(pairs)
    return WgPeer(
        public_key=base64.b64encode(bytes.fromhex(key)).decode(),
        endpoint=values.get("endpoint"),
        allowed_ips=frozenset(value for name, value in pairs if name == "allowed_ip"),
        latest_handshake=int(values.get("last_handshake_time_sec", 0)),
        received=int(values.get("rx_bytes", 0)),
        sent=int(values.get("tx_bytes", 0)),
        keepalive=int(values.get("persistent_keepalive_interval", 0)),
    )


def from_dump(line: str) -> WgPeer:
    """Parse a peer's line of `wg show wg0 dump`."""
    key, _, endpoint, ips, handshake, received, sent, keepalive = line.split("\t")
    return WgPeer(
        public_key=key,
        endpoint=None if endpoint == "(none)" else endpoint,
        allowed_ips=frozenset() if ips == "(none)" else frozenset(ips.split(",")),
        latest_handshake=int(handshake),
        received=int(received),
        sent=int(sent),
        keepalive=0 if keepalive == "off" else int(keepalive),
    )


@dataclass(slots=True)
class Device:
    """A wireguard-go device in a host, made by hand."""

    host: Host
    keys: Keys
    address: IPv4Address
    process: Process

    @classmethod
    async def up(cls, host: Host, address: IPv4Address, *, interface: str = "wg0") -> Self:
        """Make the device, with an address in 10.98.0.0/16 and no peer."""
        keys = await new_keys()
        process = await host.start("wireguard-go", "-f", interface, name=f"wireguard-{interface}")
        await until(
            (host.run_dir / f"wireguard/{interface}.sock").is_socket, f"{interface} in {host.name}"
        )
        await host.run(
            "wg", "set", interface, "listen-port", str(PORT), "private-key", "/dev/stdin",
            text=keys.private,
        )  # fmt: skip
        await host.run("ip", "addr", "add", f"{address}/16", "dev", interface)
        await host.run("ip", "link", "set", interface, "up")
        return cls(host, keys, address, process)

    async def add(self, peer: "Device") -> None:
        """Admit another device at the address of its host."""
        await self.host.run(
            "wg", "set", "wg0", "peer", peer.keys.public,
            "endpoint", f"{peer.host.ip4}:{PORT}", "allowed-ips", f"{peer.address}/32",
        )  # fmt: skip

    async def remove(self, peer: "Device") -> None:
        """Remove a peer."""
        await self.host.run("wg", "set", "wg0", "peer", peer.keys.public, "remove")


@dataclass(frozen=True, slots=True)
class Tunnel:
    """Two devices that are each other's peer."""

    a: Device
    b: Device

    @classmethod
    async def up(cls, a: Host, b: Host) -> Self:
        """Make a tunnel between two hosts, and wait until a ping has come back through it."""
        one = await Device.up(a, IPv4Address("10.98.0.1"))
        two = await Device.up(b, IPv4Address("10.98.0.2"))
        await two.add(one)
        await one.add(two)
        await a.reaches(two.address)
        return cls(one, two)
