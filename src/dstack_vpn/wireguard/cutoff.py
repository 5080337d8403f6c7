"""All peers off a device at once, and nothing else: what the guard does.

Interface, addresses and routes stay, so that no packet for a member takes another way. Loaded by
the guard with the bare standard library, which is why it has the two requests of its own that the
backends need an event loop for. The formats are those of `uapi` and `wgnetlink`.
"""

import errno
import signal
import socket
import struct
from collections.abc import Callable

from dstack_vpn.wireguard import netlink, pids
from dstack_vpn.wireguard.lease import KernelTarget, Target, UserspaceTarget
from dstack_vpn.wireguard.netlink import ACK, GENERIC, MALFORMED, REQUEST, U16, U32

TIMEOUT = 5.0
"""Seconds that a device may take for each step of an answer."""

NO_PEERS = b"set=1\nreplace_peers=true\n\n"
"""The request for wireguard-go: the cross-platform text protocol of wireguard.com/xplatform."""
_DONE = b"errno=0\n\n"
_UCRED = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED

# Fixed by the kernel: linux/genetlink.h, linux/wireguard.h.
_NETLINK_GENERIC = 16
_CONTROLLER, _CONTROLLER_VERSION, _GETFAMILY = 0x10, 2, 3
_FAMILY_ID, _FAMILY_NAME = 1, 2
_WIREGUARD, _VERSION = b"wireguard\0", 1
_SET_DEVICE, _IFINDEX, _FLAGS, _REPLACE_PEERS = 1, 1, 5, 1
_BUFFER = 2**16


def _dial() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_GENERIC)


def is_there(target: Target) -> bool:
    """Whether this very device still exists; taken to be so where that cannot be found out."""
    if isinstance(target, UserspaceTarget):
        return pids.start_time(target.pid) == target.started
    try:
        socket.if_indextoname(target.number)
    except OSError as error:
        return error.errno not in {errno.ENXIO, errno.ENODEV}
    return True


def remove_all_peers(target: Target, *, dial: Callable[[], socket.socket] = _dial) -> bool:
    """Take all peers off this very device.

    Args:
        target: the device; another one in its place is never spoken to.
        dial: how a socket is opened that leads to the kernel.

    Returns:
        Whether the device said that it was done.
    """
    try:
        if isinstance(target, KernelTarget):
            return _kernel(target, dial)
        return _userspace(target)
    except (OSError, *MALFORMED):
        return False


def end(target: UserspaceTarget) -> None:
    """Kill a wireguard-go that does not answer; it takes its interface with it.

    Raises:
        PermissionError: we lack the right.
    """
    pids.send(target.pid, target.started, signal.SIGKILL)


def _userspace(target: UserspaceTarget) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(TIMEOUT)
        sock.connect(target.socket)
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        if _UCRED.unpack(credentials)[0] != target.pid or not is_there(target):
            return False
        sock.sendall(NO_PEERS)
        answer = b""
        while len(answer) < len(_DONE) and (part := sock.recv(_BUFFER)):
            answer += part
        return answer == _DONE


def _kernel(target: KernelTarget, dial: Callable[[], socket.socket]) -> bool:
    with dial() as sock:
        sock.settimeout(TIMEOUT)
        found = _ask(sock, netlink.message(_CONTROLLER, REQUEST, 1, get_family()))
        (family,) = U16.unpack(netlink.attributes(found.body[GENERIC.size :])[_FAMILY_ID])
        _ask(sock, netlink.message(family, REQUEST | ACK, 2, set_no_peers(target.number)))
        return True


def get_family() -> bytes:
    """Write the question for the number that the kernel gave to its WireGuard."""
    named = netlink.attribute(_FAMILY_NAME, _WIREGUARD)
    return GENERIC.pack(_GETFAMILY, _CONTROLLER_VERSION, 0) + named


def set_no_peers(index: int) -> bytes:
    """Write the request to replace all peers of an interface by none."""
    told = netlink.attribute(_IFINDEX, U32.pack(index))
    flags = netlink.attribute(_FLAGS, U32.pack(_REPLACE_PEERS))
    return GENERIC.pack(_SET_DEVICE, _VERSION, 0) + told + flags


def _ask(sock: socket.socket, request: bytes) -> netlink.Message:
    """Send a request and read its answer.

    Raises:
        OSError: the kernel refused it.
        MALFORMED: not as documented.
    """
    sock.send(request)
    answer = next(netlink.split(sock.recv(_BUFFER)), None)
    if answer is None:
        raise ValueError("the kernel hung up")
    if answer.kind == netlink.NLMSG_ERROR and (refused := netlink.refusal(answer)) is not None:
        raise refused
    return answer
