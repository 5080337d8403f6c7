"""The largest packet that gets to a peer and back through the tunnel, found by ICMP echo.

Formats: RFC 792 and RFC 4443 (echo), sizes are those of whole IP packets. All are sent with DF set
and the kernel's idea of the path's MTU is left out (ip(7), IP_PMTUDISC_PROBE). Of each size two are
sent, in ladders: a round of some sizes at once, then a finer one between the largest that came back
and the next above it, so that a silent path costs three rounds and not a dozen.
"""

import asyncio
import os
import socket
import struct
from contextlib import closing, suppress

from dstack_vpn.errors import HostError
from dstack_vpn.mesh.device import IpAddress

SMALL = 100
"""Bytes of a packet that passes wherever anything does."""
ROUND = 0.5
"""Seconds that a round waits for what has not come back."""
STEPS = 16
"""Sizes of a round."""
TIMES = 2
"""Packets of each size, for one may get lost."""

_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE = 10, 23, 3
_ECHO = struct.Struct("!BBHHH")
_HEADERS = {4: 20 + _ECHO.size, 6: 40 + _ECHO.size}
_REQUEST, _REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}


async def largest_packet(address: IpAddress, *, mtu: int) -> int | None:
    """The size in bytes of the largest packet that comes back, at most the MTU of the interface.

    Args:
        address: of the peer, in the mesh.
        mtu: of our own interface.

    Returns:
        None when not even a small one comes back.

    Raises:
        HostError: this process may not send echo requests.
    """
    with closing(_Echo(address)) as echo:
        back = await echo.send({SMALL, mtu})
        if not back or mtu in back:
            return max(back, default=None)
        passes, fails = SMALL, mtu
        while fails - passes > 1:
            step = -(-(fails - passes) // STEPS)
            sizes = set(range(passes + step, fails, step))
            passes = max(await echo.send(sizes), default=passes)
            fails = min(size for size in (*sizes, fails) if size > passes)
        return passes


class _Echo:
    """A socket for echo requests to one address."""

    def __init__(self, address: IpAddress) -> None:
        self._address = address
        self._raw = False
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        protocol = socket.IPPROTO_ICMP if address.version == 4 else socket.IPPROTO_ICMPV6
        try:
            self._socket = socket.socket(family, socket.SOCK_DGRAM, protocol)
        except PermissionError:
            try:
                self._socket = socket.socket(family, socket.SOCK_RAW, protocol)
                self._raw = True
            except PermissionError:
                raise HostError(
                    "no right to send echo requests: run as root, or allow them by the sysctl"
                    " net.ipv4.ping_group_range"
                ) from None
        self._socket.setblocking(False)
        if address.version == 4:
            self._socket.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
        else:
            self._socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
        # Of a raw socket all of the host's replies are heard; of the other one the kernel sets it.
        self._ident = int.from_bytes(os.urandom(2))

    def close(self) -> None:
        self._socket.close()

    async def send(self, sizes: set[int]) -> set[int]:
        """Send packets of these sizes; those that came back within a round."""
        back: set[int] = set()
        loop = asyncio.get_running_loop()
        with suppress(TimeoutError):
            async with asyncio.timeout(ROUND):
                for size in sorted(sizes) * TIMES:
                    # A size that the host itself refuses does not pass.
                    with suppress(OSError):
                        request = self._request(size)
                        await loop.sock_sendto(self._socket, request, (str(self._address), 0))
                # The largest proves the smaller ones.
                while max(sizes) not in back:
                    data, sender = await loop.sock_recvfrom(self._socket, 2**16)
                    if sender[0] == str(self._address):
                        back |= sizes & {self._sequence(data)}
        return back

    def _request(self, size: int) -> bytes:
        version = self._address.version
        # The sequence number is the size, so that a reply says which one it answers.
        head = _REQUEST[version], 0, 0, self._ident, size
        body = bytes(size - _HEADERS[version])
        text = _ECHO.pack(*head) + body
        return _ECHO.pack(head[0], 0, checksum(text), self._ident, size) + body

    def _sequence(self, data: bytes) -> int | None:
        """The sequence number of a reply to us; None for whatever else is heard."""
        version = self._address.version
        if self._raw and version == 4:
            data = data[(data[0] & 0x0F) * 4 :]
        if len(data) < _ECHO.size:
            return None
        kind, _, _, ident, sequence = _ECHO.unpack_from(data)
        if kind != _REPLY[version] or (self._raw and ident != self._ident):
            return None
        return int(sequence)


def checksum(data: bytes) -> int:
    """The Internet checksum, RFC 1071; for IPv6 the kernel puts its own in its place."""
    padded = data + bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)
