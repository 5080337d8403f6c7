"""The text that a userspace WireGuard is configured with, both ways. Pure.

Format: the cross-platform userspace interface as its authors describe it at
https://www.wireguard.com/xplatform/ ("Configuration Protocol"): lines of ``key=value``, keys in
lower-case hex, a blank line at the end of each request and each answer, ``errno=`` as the last line
of an answer. `channel.py` carries it, `userspace.py` decides when.

A request is rendered whole before any of it is sent: a client that stalls in the middle of one
holds the device's lock, and every other reader hangs until it goes away.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address

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
from dstack_vpn.mesh.keys import PrivateKey, PublicKey

GET = b"get=1\n\n"
END = b"\n\n"
CHUNK = 1000
"""Peers in one request at most. Writing it takes some milliseconds, and the device holds its lock
against other readers for less than a tenth of a second; packets do not wait for that lock."""
REMEMBERED = 2**15
"""Parsed endpoints and lists of allowed IPs that are kept."""

_HEX_KEY = re.compile(r"[0-9a-f]{64}")
_ERRNO = re.compile(r"errno=(0|-?[1-9][0-9]{0,9})")
_NAME = re.compile(r"[a-z0-9_]+")
_ONCE = frozenset(
    {
        "endpoint",
        "last_handshake_time_sec",
        "last_handshake_time_nsec",
        "rx_bytes",
        "tx_bytes",
        "persistent_keepalive_interval",
    }
)
_KNOWN = _ONCE | {"public_key", "allowed_ip", "preshared_key", "protocol_version"}
_ZERO_KEY = "0" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class UapiDevice:
    """The WireGuard side of a device, as it answers ``get=1``."""

    public_key: PublicKey | None
    """None while no private key is set."""
    listen_port: int
    """0 when the device has no socket."""
    peers: dict[PublicKey, SeenPeer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One ``set=1`` request and the peers it is about."""

    text: bytes = field(repr=False)
    """Out of reprs because the settings hold the private key."""
    peers: tuple[PeerChange, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """A whole change as requests, in the order in which they are sent.

    Removals stand alone and first, so that no failure of anything else can delay them. Those about
    peers are written one by one as they are taken: all of a large change would be long work.
    """

    removals: Iterator[Request]
    settings: Request | None
    peers: Iterator[Request]


def render(change: DeviceChange, private_key: PrivateKey) -> Requests:
    """Write a change as requests of at most `CHUNK` peers each.

    The private key and the listen port are only written when the change says so.
    """
    removals = [peer for peer in change.peers if isinstance(peer, RemovePeer)]
    others = [peer for peer in change.peers if not isinstance(peer, RemovePeer)]
    return Requests(
        removals=map(render_peers, _chunks(removals)),
        settings=render_settings(change, private_key),
        peers=map(render_peers, _chunks(others)),
    )


def render_settings(change: DeviceChange, private_key: PrivateKey) -> Request | None:
    """Write what a change says about the device itself; None when it says nothing."""
    lines = []
    if change.set_key:
        lines.append(f"private_key={private_key.raw.hex()}")
    if change.listen_port is not None:
        lines.append(f"listen_port={change.listen_port}")
    return Request(text=_request(lines)) if lines else None


def render_peers(changes: Iterable[PeerChange]) -> Request:
    """Write changes of peers as one request."""
    peers = tuple(changes)
    return Request(text=_request(line for peer in peers for line in _peer_lines(peer)), peers=peers)


def parse_errno(answer: bytes) -> int:
    """Read the answer to a set request: 0, or the error number, negative as devices write it.

    Raises:
        ValueError: it is not exactly one ``errno=`` line and a blank one.
    """
    match = _ERRNO.fullmatch(answer.removesuffix(END).decode("ascii", "replace"))
    if match is None or not answer.endswith(END):
        raise ValueError("the device answered a set request with something else than errno")
    return int(match[1])


def parse_get(answer: bytes) -> UapiDevice:
    """Read the answer to ``get=1``; see `GetReader`.

    Raises:
        ValueError: the answer is cut off, malformed, or reports an error.
    """
    reader = GetReader()
    reader.feed(answer)
    return reader.device()


class GetReader:
    """Reads the answer to ``get=1`` as it comes: the device's own lines, then peer after peer.

    The private key in it is turned into the public one at once and never kept; no error quotes a
    line. Keys that we do not know are skipped if they look like keys: a reader that refused them
    could no longer take a revoked peer off a newer device.
    """

    def __init__(self) -> None:
        """Nothing was read yet."""
        self._rest = ""
        self._last = ""
        self._public_key: PublicKey | None = None
        self._listen_port = 0
        self._peers: dict[PublicKey, SeenPeer] = {}
        self._peer: _Peer | None = None
        self.done = False
        """The blank line at the end of the answer was read."""

    def feed(self, part: bytes) -> None:
        """Read on; a part may end anywhere.

        Raises:
            ValueError: the answer is malformed, or goes on after its end.
        """
        lines = (self._rest + part.decode("ascii", "replace")).split("\n")
        self._rest = lines.pop()
        for line in lines:
            if self.done:
                raise ValueError("the device's answer goes on after its end")
            if not line and self._last.startswith("errno="):
                self.done = True
                continue
            self._last = line
            name, equals, value = line.partition("=")
            if not equals or not (name in _KNOWN or _NAME.fullmatch(name)):
                raise ValueError("the device's answer has a line that is not key=value")
            if name == "public_key":
                self._end_peer()
                self._peer = _Peer(value)
            elif self._peer is not None:
                self._peer.take(name, value)
            else:
                self._take(name, value)

    def device(self) -> UapiDevice:
        """What was read.

        Raises:
            ValueError: the answer is cut off, or reports an error.
        """
        errno = _ERRNO.fullmatch(self._last)
        if errno is None or not self.done or self._rest:
            raise ValueError("the device's answer is cut off")
        if int(errno[1]) != 0:
            raise ValueError(f"the device answered get with errno {errno[1]}")
        self._end_peer()
        return UapiDevice(
            public_key=self._public_key, listen_port=self._listen_port, peers=self._peers
        )

    def _take(self, name: str, value: str) -> None:
        if name == "private_key" and value != _ZERO_KEY:
            self._public_key = PrivateKey(_hex_key(name, value)).public
        elif name == "own_public_key" and value != _ZERO_KEY:  # boringtun keeps its private key
            self._public_key = _public_key(value)
        elif name == "listen_port":
            self._listen_port = _number(name, value, 65535)

    def _end_peer(self) -> None:
        """Keep the peer whose lines were read."""
        peer, self._peer = self._peer, None
        # A key of zeroes can shake no hand, so nobody is behind such a peer; it is no member's
        # and must not keep the others from being read.
        if peer is None or peer.key == _ZERO_KEY:
            return
        seen = peer.seen()
        if self._peers.setdefault(seen.key, seen) is not seen:
            raise ValueError("the device's answer has the same peer twice")


class _Peer:
    """A peer of which we have read some lines."""

    __slots__ = ("allowed_ips", "key", "values")

    def __init__(self, key: str) -> None:
        self.key = key
        self.values: dict[str, str] = {}
        self.allowed_ips: list[str] = []

    def take(self, name: str, value: str) -> None:
        if name == "allowed_ip":
            self.allowed_ips.append(value)
        elif name in _ONCE:
            if name in self.values:
                raise ValueError(f"the device's answer has {name} twice for one peer")
            self.values[name] = value

    def seen(self) -> SeenPeer:
        endpoint = self.values.get("endpoint")
        seconds = self._value("last_handshake_time_sec", 2**63)
        return SeenPeer(
            key=_public_key(self.key),
            allowed_ips=_networks(*self.allowed_ips),
            endpoint=None if endpoint is None else _socket_address(endpoint),
            keepalive=self._value("persistent_keepalive_interval", 65535),
            last_handshake=seconds + self._value("last_handshake_time_nsec", 999_999_999) / 1e9,
            rx_bytes=self._value("rx_bytes", 2**64),
            tx_bytes=self._value("tx_bytes", 2**64),
        )

    def _value(self, name: str, most: int) -> int:
        value = self.values.get(name, "0")
        return 0 if value == "0" else _number(name, value, most)


def _peer_lines(change: PeerChange) -> list[str]:
    # Lists: of thousands of peers, generators of generators take as long as the text itself.
    match change:
        case AddPeer(peer=peer):
            fields = _field_lines(peer.allowed_ips, peer.endpoint, peer.keepalive)
            return [f"public_key={peer.key.hex}", *fields]
        case UpdatePeer(key=key):
            fields = _field_lines(change.allowed_ips, change.endpoint, change.keepalive)
            # A peer that somebody took off meanwhile must not come back half configured.
            return [f"public_key={key.hex}", "update_only=true", *fields]
        case RemovePeer(key=key):
            return [f"public_key={key.hex}", "remove=true"]


def _field_lines(
    allowed_ips: tuple[IpNetwork, ...] | None,
    endpoint: SocketAddress | None,
    keepalive: int | None,
) -> list[str]:
    lines = []
    if endpoint is not None:
        lines.append(f"endpoint={endpoint}")
    if keepalive is not None:
        lines.append(f"persistent_keepalive_interval={keepalive}")
    if allowed_ips is not None:
        lines.append("replace_allowed_ips=true")
        lines += [f"allowed_ip={_network_text(network)}" for network in allowed_ips]
    return lines


def _network_text(network: IpNetwork) -> str:
    # Not str(), which takes most of the time of writing thousands of peers; devices read both.
    packed = network.network_address.packed
    if len(packed) == 4:
        return f"{packed[0]}.{packed[1]}.{packed[2]}.{packed[3]}/{network.prefixlen}"
    return f"{packed.hex(':', 2)}/{network.prefixlen}"


def _request(lines: Iterable[str]) -> bytes:
    return "\n".join(("set=1", *lines, "", "")).encode("ascii")


def _chunks(items: Sequence[PeerChange]) -> Iterator[Sequence[PeerChange]]:
    return (items[start : start + CHUNK] for start in range(0, len(items), CHUNK))


def _hex_key(name: str, value: str) -> bytes:
    if not _HEX_KEY.fullmatch(value):
        raise ValueError(f"the device's answer has a {name} that is not 64 hex digits")
    return bytes.fromhex(value)


def _number(name: str, value: str, most: int) -> int:
    # Only ASCII gets here, so a decimal is a digit; the length keeps int() from long work.
    if not value.isdecimal() or len(value) > 20 or (value[0] == "0" and value != "0"):
        raise ValueError(f"the device's answer has a {name} that is no number")
    number = int(value)
    if number > most:
        raise ValueError(f"the device's answer has a {name} above {most}")
    return number


def _public_key(value: str) -> PublicKey:
    return PublicKey(_hex_key("public_key", value))


# A device is read again and again, and nearly always says the same: what is slow to parse is
# remembered, which also lets all readings share one object.


def _network(value: str) -> IpNetwork:
    # Not ip_network, which tries one family after the other.
    return IPv6Network(value) if ":" in value else IPv4Network(value)


@lru_cache(maxsize=REMEMBERED)
def _networks(*values: str) -> tuple[IpNetwork, ...]:
    try:
        return shared(sorted_networks(map(_network, values)))
    except ValueError:
        raise ValueError("the device's answer has an allowed_ip that is no network") from None


@lru_cache(maxsize=REMEMBERED)
def _socket_address(value: str) -> SocketAddress:
    host, _, port = value.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        ip = ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        raise ValueError("the device's answer has an endpoint that is no address") from None
    if (ip.version == 6) != bracketed:
        raise ValueError("the device's answer has an endpoint with misplaced brackets")
    return SocketAddress(ip, _number("port", port, 65535))
