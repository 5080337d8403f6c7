"""Whose device of the kernel is it? Nothing is changed before this is answered.

It is ours when its public key is ours, or when our note on disk is about it. The key proves it in
most cases, but not for a device that got no key yet, or one made before the node's key was changed.
So a note is written before the device is made and completed after it, with the interface's number:
a network namespace gives none out twice. What `claim.py` and `marker.py` are for a process, this is
for a device without one.
"""

import json
import socket
import struct
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from dstack_vpn.errors import HostError
from dstack_vpn.mesh.keys import PublicKey
from dstack_vpn.wireguard import marker
from dstack_vpn.wireguard.conffile import write_private
from dstack_vpn.wireguard.wgnetlink import KernelState

log = structlog.get_logger()

_SO_NETNS_COOKIE = 71
"""The number of our network namespace, unique since boot: linux/socket.h, since Linux 5.14."""
_COOKIE = struct.Struct("=Q")


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What is on disk."""

    interface: str
    boot: str
    """The boot during which it was written; the other numbers mean nothing in another one."""
    network: int
    """The network namespace; 0 on a kernel that does not number them."""
    index: int | None
    """The interface's number, or None when we did not live to write it down."""


class KernelClaim:
    """Our claim to a device of this name."""

    def __init__(self, name: str, public_key: PublicKey, path: Path) -> None:
        self._name = name
        self._public_key = public_key
        self._path = path
        self.known: int | None = None
        """The number of the interface that was found to be ours."""

    def require_ours(self, state: KernelState) -> None:
        """Make sure that a device as read is ours, and remember it.

        Raises:
            HostError: it belongs to somebody else.
        """
        if state.index == self.known:
            return
        if state.public_key != self._public_key and not self._noted(state):
            raise HostError(
                f"interface {self._name} is taken by a WireGuard device with another key: "
                "set another WG_INTERFACE, or take it down"
            )
        self.stake(state.index)

    def stake(self, index: int | None) -> None:
        """Note that the device of this number is ours; None: one that is about to be made."""
        self.known = index
        try:
            write_private(self._path, json.dumps(asdict(self._note(index))))
        except OSError as error:  # the device's key has to do as proof
            log.warning("marker.not_written", path=str(self._path), error=error.strerror)

    def drop(self) -> None:
        """Forget the device."""
        self.known = None
        marker.remove(self._path)

    def _noted(self, state: KernelState) -> bool:
        """Whether our note is about this device, or about one to be made that looks like it."""
        noted = self._read()
        if noted == self._note(state.index):
            return True
        return noted == self._note(None) and state.public_key is None and not state.peers

    def _note(self, index: int | None) -> Note:
        return Note(
            interface=self._name, boot=marker.boot(), network=_network_namespace(), index=index
        )

    def _read(self) -> Note | None:
        try:
            return Note(**json.loads(self._path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError):
            log.warning("marker.unreadable", path=str(self._path))
            return None


def _network_namespace() -> int:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            cookie = sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, _COOKIE.size)
        return int(_COOKIE.unpack(cookie)[0])
    except (OSError, struct.error):
        return 0
