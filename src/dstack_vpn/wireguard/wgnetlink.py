"""The messages that the kernel's WireGuard is configured with, both ways. Pure.

Format: the generic netlink family ``wireguard``, version 1, as its authors describe it in the
kernel's include/uapi/linux/wireguard.h and Documentation/netlink/specs/wireguard.yaml: the commands
GET_DEVICE and SET_DEVICE, each with a tree of attributes. `netlink` writes messages and attributes,
`genetlink` carries them, `kernel` decides when.

Devices are named by their index, which no other one ever gets while the machine runs: a request
that was meant for a device that is gone changes none that took its name.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from dstack_vpn.mesh.device import (
    AddPeer,
    DeviceChange,
    IpNetwork,
    PeerChange,
    RemovePeer,
    SeenPeer,
    SocketAddress,
    UpdatePeer,
    shared,
)
from dstack_vpn.mesh.diff import sorted_networks
from dstack_vpn.mesh.keys import KEY_BYTES, PrivateKey, PublicKey
from dstack_vpn.wireguard.netlink import (
    GENERIC,
    U8,
    U16,
    U32,
    U64,
    attribute,
    attributes,
    nest,
    pairs,
)

FAMILY, VERSION = "wireguard", 1
CHUNK = 100
"""Peers in one request at most: the kernel holds its lock of all interfaces for a whole one."""
MOST_ALLOWED_IPS = 1000
"""Allowed IPs of a peer in one message at most; they are continued in the next one."""
MOST_BYTES = 60_000
"""Bytes of peers in one message at most; the length of an attribute has 16 bits."""
REMEMBERED = 2**15
"""Parsed endpoints and lists of allowed IPs that are kept."""

# Fixed by the kernel: linux/wireguard.h.
_GET_DEVICE, _SET_DEVICE = 0, 1
_IFINDEX, _IFNAME, _PRIVATE_KEY, _PUBLIC_KEY, _FLAGS, _LISTEN_PORT = 1, 2, 3, 4, 5, 6
_PEERS = 8
_PEER_KEY, _PEER_FLAGS, _PEER_ENDPOINT, _PEER_KEEPALIVE = 1, 3, 4, 5
_PEER_HANDSHAKE, _PEER_RX, _PEER_TX, _PEER_ALLOWED_IPS = 6, 7, 8, 9
_REMOVE_ME, _REPLACE_ALLOWED_IPS, _UPDATE_ONLY = 1, 2, 4
_IP_FAMILY, _IP_ADDRESS, _IP_PREFIX = 1, 2, 3
# linux/in.h, linux/in6.h, linux/time_types.h, linux/socket.h.
_SOCKADDR_IN = struct.Struct("=H2s4s8x")  # family, port, address
_SOCKADDR_IN6 = struct.Struct("=H2sI16sI")  # family, port, flow, address, scope
_PORT = struct.Struct(">H")
_TIMESPEC = struct.Struct("=qq")  # seconds, nanoseconds
_AF_INET, _AF_INET6 = 2, 10
_ZERO_KEY = bytes(KEY_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelState:
    """The WireGuard side of a device, as GET_DEVICE tells it."""

    index: int
    """The interface's number."""
    public_key: PublicKey | None
    """None while no private key is set."""
    listen_port: int
    """0 while none was chosen."""
    peers: dict[PublicKey, SeenPeer]


# -- requests


def get_device(name: str) -> bytes:
    """Write the request for a device, to be sent as one for a dump.

    Raises:
        ValueError: the name is not ASCII.
    """
    return _command(_GET_DEVICE, [attribute(_IFNAME, name.encode("ascii") + b"\0")])


def set_settings(index: int, change: DeviceChange, private_key: PrivateKey) -> bytes | None:
    """Write what a change says about the device itself; None when it says nothing."""
    settings = []
    if change.set_key:
        settings.append(attribute(_PRIVATE_KEY, private_key.raw))
    if change.listen_port is not None:
        settings.append(attribute(_LISTEN_PORT, U16.pack(change.listen_port)))
    return _set_device(index, settings) if settings else None


def set_peers(index: int, changes: Iterable[PeerChange]) -> Iterator[bytes]:
    """Write changes of peers as messages to be sent one after the other.

    Raises:
        ValueError: a number does not fit its attribute.
    """
    batch: list[bytes] = []
    size = 0
    for change in changes:
        for part in _parts(change):
            if size + len(part) > MOST_BYTES:
                yield _set_device(index, [nest(_PEERS, batch)])
                batch, size = [], 0
            batch.append(part)
            size += len(part)
    if batch:
        yield _set_device(index, [nest(_PEERS, batch)])


def chunks(changes: Sequence[PeerChange]) -> Iterator[Sequence[PeerChange]]:
    """Divide changes of peers into requests of at most `CHUNK`."""
    return (changes[start : start + CHUNK] for start in range(0, len(changes), CHUNK))


def _parts(change: PeerChange) -> Iterator[bytes]:
    """Write one change of a peer: as one entry, or several where it has very many allowed IPs."""
    match change:
        case RemovePeer(key=key):
            flags = attribute(_PEER_FLAGS, U32.pack(_REMOVE_ME))
            yield nest(0, [attribute(_PEER_KEY, key.raw), flags])
        case AddPeer(peer=peer):
            yield from _entries(
                peer.key, 0, _fields(peer.endpoint, peer.keepalive), peer.allowed_ips
            )
        case UpdatePeer(key=key):
            # A peer that somebody took off meanwhile must not come back half configured.
            fields = _fields(change.endpoint, change.keepalive)
            yield from _entries(key, _UPDATE_ONLY, fields, change.allowed_ips)


def _entries(
    key: PublicKey, flags: int, fields: list[bytes], allowed_ips: tuple[IpNetwork, ...] | None
) -> Iterator[bytes]:
    networks = allowed_ips or ()
    if allowed_ips is not None:
        flags |= _REPLACE_ALLOWED_IPS
    yield _entry(key, flags, fields, networks[:MOST_ALLOWED_IPS])
    for start in range(MOST_ALLOWED_IPS, len(networks), MOST_ALLOWED_IPS):
        # What continues a peer may not replace what came before, nor bring the peer back.
        yield _entry(key, _UPDATE_ONLY, [], networks[start : start + MOST_ALLOWED_IPS])


def _entry(
    key: PublicKey, flags: int, fields: list[bytes], networks: tuple[IpNetwork, ...]
) -> bytes:
    told = [attribute(_PEER_KEY, key.raw), *fields, attribute(_PEER_FLAGS, U32.pack(flags))]
    if networks:
        told.append(nest(_PEER_ALLOWED_IPS, map(_allowed_ip, networks)))
    return nest(0, told)


def _fields(endpoint: SocketAddress | None, keepalive: int | None) -> list[bytes]:
    fields = []
    if endpoint is not None:
        fields.append(attribute(_PEER_ENDPOINT, _sockaddr(endpoint)))
    if keepalive is not None:
        if not 0 <= keepalive < 2**16:
            raise ValueError(f"a keepalive of {keepalive} s is none from 0 to 65535")
        fields.append(attribute(_PEER_KEEPALIVE, U16.pack(keepalive)))
    return fields


def _allowed_ip(network: IpNetwork) -> bytes:
    family = _AF_INET if network.version == 4 else _AF_INET6
    return nest(
        0,
        [
            attribute(_IP_FAMILY, U16.pack(family)),
            attribute(_IP_ADDRESS, network.network_address.packed),
            attribute(_IP_PREFIX, U8.pack(network.prefixlen)),
        ],
    )


def _sockaddr(endpoint: SocketAddress) -> bytes:
    port = _PORT.pack(endpoint.port)
    if endpoint.ip.version == 4:
        return _SOCKADDR_IN.pack(_AF_INET, port, endpoint.ip.packed)
    return _SOCKADDR_IN6.pack(_AF_INET6, port, 0, endpoint.ip.packed, 0)


def _set_device(index: int, told: Iterable[bytes]) -> bytes:
    return _command(_SET_DEVICE, [attribute(_IFINDEX, U32.pack(index)), *told])


def _command(command: int, told: Iterable[bytes]) -> bytes:
    return GENERIC.pack(command, VERSION, 0) + b"".join(told)


# -- answers


class DumpReader:
    """Reads the answer to GET_DEVICE message by message.

    The private key and the preshared keys in it are stepped over, and no error quotes a value.
    Attributes that we do not know are skipped: a reader that refused them could no longer take a
    revoked peer off the device of a newer kernel.
    """

    def __init__(self) -> None:
        """Nothing was read yet."""
        self._index: int | None = None
        self._public_key: PublicKey | None = None
        self._listen_port = 0
        self._peers: dict[PublicKey, SeenPeer] = {}
        self._key = _ZERO_KEY
        """Of the peer that is being read: the next message may continue it."""
        self._told: dict[int, bytes] = {}
        self._allowed_ips: list[bytes] = []

    def feed(self, body: bytes) -> None:
        """Read on: the body of one message.

        Raises:
            ValueError: it is not as documented.
        """
        with _documented():
            GENERIC.unpack_from(body)
            for kind, value in pairs(body[GENERIC.size :]):
                if kind == _PEERS:
                    for _, peer in pairs(value):
                        self._take_peer(peer)
                elif kind == _IFINDEX:
                    (self._index,) = U32.unpack(value)
                elif kind == _PUBLIC_KEY and value != _ZERO_KEY:
                    self._public_key = PublicKey(value)
                elif kind == _LISTEN_PORT:
                    (self._listen_port,) = U16.unpack(value)

    def device(self) -> KernelState:
        """What was read, once the dump has come to its end.

        Raises:
            ValueError: what was read is no device.
        """
        with _documented():
            self._end_peer()
        if self._index is None:
            raise ValueError("the device's answer names no interface")
        return KernelState(
            index=self._index,
            public_key=self._public_key,
            listen_port=self._listen_port,
            peers=self._peers,
        )

    def _take_peer(self, peer: bytes) -> None:
        told = attributes(peer)
        key = told.get(_PEER_KEY)
        if key is None or len(key) != KEY_BYTES:
            raise ValueError("the device's answer has a peer without a key")
        if key != self._key:
            self._end_peer()
            self._key, self._told = key, told
        allowed_ips = told.get(_PEER_ALLOWED_IPS)
        if allowed_ips is not None:
            self._allowed_ips.append(allowed_ips)

    def _end_peer(self) -> None:
        """Keep the peer that is complete now."""
        raw, told, networks = self._key, self._told, self._allowed_ips
        self._key, self._told, self._allowed_ips = _ZERO_KEY, {}, []
        # A key of zeroes can shake no hand, so nobody is behind such a peer; it is no member's
        # and must not keep the others from being read.
        if raw == _ZERO_KEY:
            return
        key = PublicKey(raw)
        if key in self._peers:
            raise ValueError("the device's answer has the same peer twice")
        endpoint = told.get(_PEER_ENDPOINT)
        handshake = told.get(_PEER_HANDSHAKE)
        self._peers[key] = SeenPeer(
            key=key,
            allowed_ips=_networks(*networks),
            endpoint=None if endpoint is None else _socket_address(endpoint),
            keepalive=_number(U16, told.get(_PEER_KEEPALIVE)),
            last_handshake=0.0 if handshake is None else _seconds(handshake),
            rx_bytes=_number(U64, told.get(_PEER_RX)),
            tx_bytes=_number(U64, told.get(_PEER_TX)),
        )


@contextmanager
def _documented() -> Iterator[None]:
    try:
        yield
    except struct.error:
        raise ValueError("the device's answer has an attribute of a wrong length") from None


def _number(form: struct.Struct, value: bytes | None) -> int:
    return 0 if value is None else int(form.unpack(value)[0])


def _seconds(value: bytes) -> float:
    seconds, nanoseconds = _TIMESPEC.unpack(value)
    if seconds < 0 or not 0 <= nanoseconds < 10**9:
        raise ValueError("the device's answer has a handshake at no time")
    return float(seconds + nanoseconds / 1e9)


# A device is read again and again, and nearly always says the same: what is slow to parse is
# remembered, which also lets all readings share one object.


@lru_cache(maxsize=REMEMBERED)
def _networks(*values: bytes) -> tuple[IpNetwork, ...]:
    return shared(sorted_networks(_network(one) for value in values for _, one in pairs(value)))


def _network(value: bytes) -> IpNetwork:
    told = attributes(value)
    try:
        (family,) = U16.unpack(told[_IP_FAMILY])
        (prefix,) = U8.unpack(told[_IP_PREFIX])
        address = told[_IP_ADDRESS]
        if (family, len(address)) == (_AF_INET, 4):
            return IPv4Network((address, prefix))
        if (family, len(address)) == (_AF_INET6, 16):
            return IPv6Network((address, prefix))
    except (KeyError, ValueError):
        pass
    raise ValueError("the device's answer has an allowed IP that is no network")


@lru_cache(maxsize=REMEMBERED)
def _socket_address(value: bytes) -> SocketAddress:
    (family,) = U16.unpack_from(value)
    if (family, len(value)) == (_AF_INET, _SOCKADDR_IN.size):
        _, port, address = _SOCKADDR_IN.unpack(value)
        return SocketAddress(IPv4Address(address), *_PORT.unpack(port))
    if (family, len(value)) == (_AF_INET6, _SOCKADDR_IN6.size):
        _, port, _, address, _ = _SOCKADDR_IN6.unpack(value)
        return SocketAddress(IPv6Address(address), *_PORT.unpack(port))
    raise ValueError("the device's answer has an endpoint that is no address")
