"""The three faces of a WireGuard device: wanted, seen, and the change from one to the other.

*Wanted* is what a plan says, *seen* is what the device answered, and a *change* says in data what
to do and why. Backends turn changes into UAPI text or netlink messages; nothing else touches a
device.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)

from dstack_vpn.mesh.keys import PublicKey

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network
IpInterface = IPv4Interface | IPv6Interface


_SHARED: dict[tuple[IpNetwork, ...], tuple[IpNetwork, ...]] = {}
_MOST_SHARED = 2**17


def shared(networks: tuple[IpNetwork, ...]) -> tuple[IpNetwork, ...]:
    """The same networks, as one object for all who have equal ones.

    What is wanted of a peer and what is seen of it are nearly always equal; of ten thousand peers
    the second copy is ten megabytes.
    """
    if len(_SHARED) >= _MOST_SHARED:
        _SHARED.clear()
    return _SHARED.setdefault(networks, networks)


@dataclass(frozen=True, slots=True, order=True)
class SocketAddress:
    """A resolved UDP endpoint."""

    ip: IpAddress
    port: int

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if self.ip.version == 6 else f"{self.ip}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedPeer:
    """A peer as the plan wants it."""

    key: PublicKey
    token_id: int
    node_id: str
    allowed_ips: tuple[IpNetwork, ...]
    """Sorted; no two peers of a device share one."""
    endpoint: SocketAddress | None
    """Where to send; None leaves alone what the device has (a live peer may have roamed)."""
    keepalive: int
    """Seconds between keepalives, 0 is off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedDevice:
    """A device as the plan wants it."""

    name: str
    public_key: PublicKey
    listen_port: int
    mtu: int
    addresses: tuple[IpInterface, ...]
    peers: Mapping[PublicKey, WantedPeer]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenPeer:
    """A peer as the device reports it."""

    key: PublicKey
    allowed_ips: tuple[IpNetwork, ...]
    """Sorted."""
    endpoint: SocketAddress | None
    keepalive: int
    last_handshake: float
    """Wall-clock seconds since 1970 of the newest handshake, 0 for never."""
    rx_bytes: int
    tx_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenDevice:
    """A device as it is, link and WireGuard side together."""

    name: str
    public_key: PublicKey | None
    """None while no private key is set."""
    listen_port: int
    mtu: int
    up: bool
    addresses: tuple[IpInterface, ...]
    """Sorted, without link-local ones."""
    peers: Mapping[PublicKey, SeenPeer]


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """One property that is not as wanted."""

    field: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.field} {self.old or 'none'} -> {self.new or 'none'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovePeer:
    """Take a peer off the device; its packets stop at once."""

    key: PublicKey
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AddPeer:
    """Put a peer on the device."""

    peer: WantedPeer


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdatePeer:
    """Alter a peer that is there; fields that are None stay untouched, its session lives on."""

    key: PublicKey
    node_id: str
    allowed_ips: tuple[IpNetwork, ...] | None
    endpoint: SocketAddress | None
    keepalive: int | None
    changes: tuple[FieldChange, ...]


PeerChange = RemovePeer | AddPeer | UpdatePeer


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceChange:
    """All that must happen to one device; falsy when nothing must."""

    name: str
    set_key: bool = False
    """The private key must be (re)written; backends hold it, changes never carry a secret."""
    listen_port: int | None = None
    old_port: int = field(default=0, compare=False)
    """What the device has, for who tells of the change; 0 for nothing."""
    mtu: int | None = None
    old_mtu: int = field(default=0, compare=False)
    """Likewise."""
    up: bool = False
    """The link must be brought up."""
    remove_addresses: tuple[IpInterface, ...] = ()
    add_addresses: tuple[IpInterface, ...] = ()
    peers: tuple[PeerChange, ...] = ()
    """Removals first, then updates, then additions, each sorted by key."""

    def __bool__(self) -> bool:
        link = self.set_key or self.up or self.listen_port is not None or self.mtu is not None
        return link or bool(self.remove_addresses or self.add_addresses or self.peers)
