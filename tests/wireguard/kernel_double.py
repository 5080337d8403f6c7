"""The kernel's side of WireGuard's netlink protocol, for machines whose kernel has none.

It decodes SET_DEVICE and answers GET_DEVICE as linux/wireguard.h describes them, strict as the
kernel's own policies are, and keeps each device in a `MemoryDevice`. Nothing of what it checks is
imported: it is a second reading of the same documents. Interfaces are real ones of another kind.
The authors' program `wg` speaks to it in test_wg_tool.py, which is what vouches for it.
"""

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from pathlib import Path

from dstack_vpn.errors import DeviceError
from dstack_vpn.mesh.device import (
    AddPeer,
    DeviceChange,
    IpNetwork,
    RemovePeer,
    SocketAddress,
    UpdatePeer,
    WantedPeer,
)
from dstack_vpn.mesh.keys import PrivateKey, PublicKey
from dstack_vpn.wireguard.memory import MemoryDevice
from lab.process import run

FAMILY_ID = 0x1D
"""The kernel gives numbers from 0x10 up as families come."""
GOODSIZE = 3776
"""Bytes of one part of a dump: what fits a page, as the kernel has it for a first reader."""

NESTED = 0x8000
KEY = "key"
U8, U16, U32 = "u8", "u16", "u32"
LENGTHS = {KEY: 32, U8: 1, U16: 2, U32: 4}
NEST, NAME, ADDRESS, ENDPOINT = "nest", "name", "address", "endpoint"
DEVICE = {1: U32, 2: NAME, 3: KEY, 4: KEY, 5: U32, 6: U16, 7: U32, 8: NEST}
PEER = {1: KEY, 2: KEY, 3: U32, 4: ENDPOINT, 5: U16, 9: NEST, 10: U32}
ALLOWED_IP = {1: U16, 2: ADDRESS, 3: U8}
Tree = dict[int, bytes]


class RefusedError(Exception):
    """The kernel's refusal: an error number and words."""

    def __init__(self, code: int, words: str = "") -> None:
        super().__init__(words)
        self.code = code
        self.words = words


def walk(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Give (type as on the wire, value) of each attribute."""
    while data:
        if len(data) < 4:
            raise RefusedError(errno.EINVAL, "leftover bytes")
        length, kind = struct.unpack("=HH", data[:4])
        if length < 4 or length > len(data):
            raise RefusedError(errno.EINVAL, "Attribute failed policy validation")
        yield kind, data[4:length]
        data = data[length + -length % 4 :]


def checked(data: bytes, policy: dict[int, str]) -> Tree:
    """Read attributes by a policy, as strictly as NL_VALIDATE_STRICT."""
    found: Tree = {}
    for wire, value in walk(data):
        kind = wire & 0x3FFF
        form = policy.get(kind)
        if form is None:
            raise RefusedError(errno.EINVAL, "Unknown attribute type")
        if (form == NEST) != bool(wire & NESTED):
            raise RefusedError(errno.EINVAL, "NLA_F_NESTED is missing")
        wrong = (
            (form in LENGTHS and len(value) != LENGTHS[form])
            or (form == ENDPOINT and len(value) < 16)
            or (form == ADDRESS and len(value) < 4)
            or (form == NAME and (not value.endswith(b"\0") or len(value) > 16))
        )
        if wrong:
            raise RefusedError(errno.ERANGE, "Attribute failed policy validation")
        found[kind] = value
    return found


def attr(kind: int, value: bytes) -> bytes:
    """Write an attribute."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


@dataclass
class KernelDouble:
    """A kernel that has WireGuard, or has none."""

    has_wireguard: bool = True
    may: bool = True
    """Whether who asks has NET_ADMIN."""
    goodsize: int = GOODSIZE
    interrupted: int = 0
    """So many dumps from now say that the device changed meanwhile."""
    taken_ports: set[int] = field(default_factory=set)
    """UDP ports that another program has, from the moment at which the kernel is asked for them."""
    taken: bool = False
    """Whether whoever tries a port beforehand finds it taken."""
    no_memory_for: set[PublicKey] = field(default_factory=set)
    """Keys of peers for which the kernel has no memory."""
    refusal: tuple[int, str] | None = None
    """What every SET_DEVICE is refused with: an error number and words."""
    requests: int = 0
    """How many came, those that are not yet answered included."""
    received: list[bytes] = field(default_factory=list)
    """Bodies of SET_DEVICE, from the generic header on."""
    devices: dict[int, MemoryDevice] = field(default_factory=dict)
    """By interface number."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def dial(self) -> socket.socket:
        """Open a socket that leads here."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        threading.Thread(target=self.serve, args=(ours,), daemon=True).start()
        return theirs

    def why_taken(self, _port: int) -> str | None:
        """Answer who tries a port: those of the double are not this host's."""
        return os.strerror(errno.EADDRINUSE) if self.taken else None

    async def add_link(self, name: str) -> None:
        """Make an interface that stands for one of kind wireguard."""
        await run("ip", "link", "add", "dev", name, "mtu", "1420", "type", "bridge")
        index = socket.if_nametoindex(name)
        model = MemoryDevice(name, PrivateKey.generate())
        model.device = None
        self.devices[index] = model
        await model.create()

    @contextmanager
    def listening(self, path: Path) -> Iterator[None]:
        """Take connections at a path, one after the other."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(path))
            listener.listen()

            def accept() -> None:
                with suppress(OSError):
                    while True:
                        self.serve(listener.accept()[0])

            thread = threading.Thread(target=accept)
            thread.start()
            yield
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()

    def serve(self, sock: socket.socket) -> None:
        """Answer each request that comes, until the other side hangs up."""
        with sock, suppress(ConnectionError):
            while request := sock.recv(1 << 17):
                for answer in self.answer(request):
                    sock.send(answer)

    def answer(self, request: bytes) -> list[bytes]:
        """Carry out one request."""
        length, kind, flags, sequence, _ = struct.unpack("=IHHII", request[:16])
        assert length == len(request), "one message in each call"
        assert flags & 1, "NLM_F_REQUEST is missing"
        self.requests += 1

        def message(kind: int, body: bytes, more: int = 0) -> bytes:
            return struct.pack("=IHHII", 16 + len(body), kind, more, sequence, 0) + body

        def verdict(code: int, words: str = "") -> bytes:
            told = attr(1, words.encode() + b"\0") if words else b""
            # NLM_F_CAPPED: the header of the request alone is quoted; NLM_F_ACK_TLVS: words follow.
            return message(2, struct.pack("=i", -code) + request[:16] + told, 0x300 if told else 0)

        try:
            with self.lock:
                answers = [message(*one) for one in self.carry_out(kind, flags, request[16:])]
        except RefusedError as refused:
            return [verdict(refused.code, refused.words)]
        return [*answers, verdict(0)] if flags & 4 and not flags & 0x300 else answers

    def carry_out(self, kind: int, flags: int, body: bytes) -> list[tuple[int, bytes, int]]:
        """Do what is asked; give what is answered besides a verdict, as type, body and flags."""
        if kind == 0x10:
            return [(0x10, self.family(body), 0)]
        if kind != FAMILY_ID or not self.has_wireguard:
            raise RefusedError(errno.ENOENT)
        if not self.may:
            raise RefusedError(errno.EPERM)
        if body[0] == 0 and flags & 0x300 == 0x300:
            return self.dump(body)
        if body[0] != 1:
            raise RefusedError(errno.EOPNOTSUPP)
        self.received.append(body)
        self.set_device(body)
        return []

    def family(self, body: bytes) -> bytes:
        """Answer CTRL_CMD_GETFAMILY."""
        assert body[0] == 3
        (name,) = [value for kind, value in walk(body[4:]) if kind == 2]
        if name != b"wireguard\0" or not self.has_wireguard:
            raise RefusedError(errno.ENOENT)
        head = struct.pack("=BBH", 1, 2, 0)
        return head + attr(2, name) + attr(1, struct.pack("=H", FAMILY_ID)) + attr(3, bytes(4))

    def device(self, told: Tree) -> tuple[int, MemoryDevice]:
        """The device that a request names; an interface of another kind is none."""
        if (1 in told) == (2 in told):
            raise RefusedError(errno.EBADR)
        try:
            if 1 in told:
                (index,) = struct.unpack("=I", told[1])
                socket.if_indextoname(index)
            else:
                index = socket.if_nametoindex(told[2].rstrip(b"\0").decode())
        except OSError:
            raise RefusedError(errno.ENODEV) from None
        if index not in self.devices:
            raise RefusedError(errno.EOPNOTSUPP)
        return index, self.devices[index]

    # -- SET_DEVICE

    def set_device(self, body: bytes) -> None:
        """Do what a request says, in the order in which the kernel does it."""
        if self.refusal is not None:
            raise RefusedError(*self.refusal)
        told = checked(body[4:], DEVICE)
        _, model = self.device(told)
        (flags,) = struct.unpack("=I", told.get(5, bytes(4)))
        if flags & ~1:
            raise RefusedError(errno.EOPNOTSUPP)
        if 6 in told:
            (port,) = struct.unpack("=H", told[6])
            if port in self.taken_ports:
                raise RefusedError(errno.EADDRINUSE)
            model.alter(DeviceChange(name=model.name, listen_port=port))
        if flags & 1:
            removals = tuple(RemovePeer(key=key, reason="") for key in model.peers)
            model.alter(DeviceChange(name=model.name, peers=removals))
        if 3 in told and any(told[3]):
            model.private_key = PrivateKey(told[3])
            model.alter(DeviceChange(name=model.name, set_key=True))
        elif 3 in told and model.device is not None:
            model.device = replace(model.device, public_key=None)
        for wire, peer in walk(told.get(8, b"")):
            if not wire & NESTED:
                raise RefusedError(errno.EINVAL, "NLA_F_NESTED is missing")
            self.set_peer(model, checked(peer, PEER))

    def set_peer(self, model: MemoryDevice, told: Tree) -> None:
        """Do what a request says of one peer."""
        if 1 not in told:
            raise RefusedError(errno.EINVAL)
        key = PublicKey(told[1])
        (flags,) = struct.unpack("=I", told.get(3, bytes(4)))
        if flags & ~7:
            raise RefusedError(errno.EOPNOTSUPP)
        if key not in model.peers:
            if flags & (1 | 4) or key == getattr(model.device, "public_key", None):
                return
            if key in self.no_memory_for:
                raise RefusedError(errno.ENOMEM)
            fresh = WantedPeer(
                key=key, token_id=0, node_id="", allowed_ips=(), endpoint=None, keepalive=0
            )
            self.alter(model, AddPeer(peer=fresh))
        if flags & 1:
            self.alter(model, RemovePeer(key=key, reason=""))
            return
        networks = [] if flags & 2 else list(model.allowed[key])
        for wire, one in walk(told.get(9, b"")):
            if not wire & NESTED:
                raise RefusedError(errno.EINVAL, "NLA_F_NESTED is missing")
            networks.append(allowed_ip(checked(one, ALLOWED_IP)))
        (keepalive,) = struct.unpack("=H", told[5]) if 5 in told else (None,)
        update = UpdatePeer(
            key=key,
            node_id="",
            allowed_ips=tuple(networks),
            endpoint=endpoint(told[4]) if 4 in told else None,
            keepalive=keepalive,
            changes=(),
        )
        self.alter(model, update)

    def alter(self, model: MemoryDevice, change: AddPeer | UpdatePeer | RemovePeer) -> None:
        """Alter one peer of a device."""
        try:
            model.alter(DeviceChange(name=model.name, peers=(change,)))
        except DeviceError:
            raise RefusedError(errno.EINVAL) from None

    # -- GET_DEVICE

    def dump(self, body: bytes) -> list[tuple[int, bytes, int]]:
        """Answer GET_DEVICE in messages of at most `goodsize` bytes, NLMSG_DONE last."""
        index, model = self.device(checked(body[4:], DEVICE))
        changed = self.interrupted > 0
        self.interrupted -= changed
        flags = 0x2 | (0x10 if changed else 0)  # NLM_F_MULTI, NLM_F_DUMP_INTR
        head = struct.pack("=BBH", 0, 1, 0)
        parts = [
            (FAMILY_ID, head + device + (attr(8 | NESTED, peers) if peers else b""), flags)
            for device, peers in pages(model, index, self.goodsize - 24)
        ]
        return [*parts, (3, bytes(4), flags)]


def pages(model: MemoryDevice, index: int, space: int) -> Iterator[tuple[bytes, bytes]]:
    """Divide a device into pages: its own attributes (on the first one) and some peers."""
    seen = model.look()
    assert seen is not None
    own = attr(6, struct.pack("=H", seen.listen_port)) + attr(7, bytes(4))
    own += attr(1, struct.pack("=I", index)) + attr(2, model.name.encode() + b"\0")
    if seen.public_key is not None:
        own += attr(3, model.private_key.raw) + attr(4, seen.public_key.raw)
    room, page = space - len(own), b""
    for peer in seen.peers.values():
        head = attr(1, peer.key.raw)
        seconds = struct.pack("=qq", int(peer.last_handshake), int(peer.last_handshake % 1 * 1e9))
        fields = attr(2, bytes(32)) + attr(6, seconds) + attr(5, struct.pack("=H", peer.keepalive))
        fields += attr(8, struct.pack("=Q", peer.tx_bytes))
        # Where 64 bits must be aligned the kernel fills up with an attribute that says nothing.
        fields += attr(0, b"") + attr(7, struct.pack("=Q", peer.rx_bytes))
        fields += attr(10, struct.pack("=I", 1))
        if peer.endpoint is not None:
            fields += attr(4, sockaddr(peer.endpoint))
        networks = [described(network) for network in peer.allowed_ips]
        if room < 4 + len(head) + len(fields) + 8:
            yield own, page
            own, room, page = b"", space, b""
        while True:
            fitting = b""
            left = room - 8 - len(head) - len(fields)
            while networks and len(fitting) + len(networks[0]) <= left:
                fitting += networks.pop(0)
            entry = attr(NESTED, head + fields + (attr(9 | NESTED, fitting) if fitting else b""))
            page += entry
            room -= len(entry)
            if not networks:
                break
            # The same peer goes on in the next message, with its key and allowed IPs only.
            yield own, page
            own, room, page, fields = b"", space, b"", b""
    yield own, page


def allowed_ip(told: Tree) -> IpNetwork:
    """Read an allowed IP; bits below the prefix are dropped, as the kernel does."""
    if set(told) != {1, 2, 3}:
        raise RefusedError(errno.EINVAL)
    (family,) = struct.unpack("=H", told[1])
    size = {socket.AF_INET: 4, socket.AF_INET6: 16}.get(family)
    if size != len(told[2]) or told[3][0] > size * 8:
        raise RefusedError(errno.EINVAL)
    return ip_network((told[2], told[3][0]), strict=False)


def described(network: IPv4Network | IPv6Network) -> bytes:
    """Write an allowed IP, with its attributes in the kernel's order."""
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    told = attr(3, bytes([network.prefixlen])) + attr(1, struct.pack("=H", family))
    return attr(NESTED, told + attr(2, network.network_address.packed))


def endpoint(raw: bytes) -> SocketAddress | None:
    """Read a sockaddr; one of neither family is passed over, as the kernel does."""
    (family,) = struct.unpack("=H", raw[:2])
    port = int.from_bytes(raw[2:4], "big")
    if family == socket.AF_INET and len(raw) == 16:
        return SocketAddress(IPv4Address(raw[4:8]), port)
    if family == socket.AF_INET6 and len(raw) == 28:
        return SocketAddress(IPv6Address(raw[8:24]), port)
    return None


def sockaddr(address: SocketAddress) -> bytes:
    """Write a sockaddr."""
    port = address.port.to_bytes(2, "big")
    if address.ip.version == 4:
        return struct.pack("=H", socket.AF_INET) + port + address.ip.packed + bytes(8)
    family = struct.pack("=H", socket.AF_INET6)
    return family + port + bytes(4) + address.ip.packed + bytes(4)
