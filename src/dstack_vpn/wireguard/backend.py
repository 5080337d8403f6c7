"""What the reconciler may ask of a WireGuard device, whatever makes it work.

The reconciler reads with `seen`, plans, and hands the difference to `apply`. Every backend keeps
the promises below; one test suite holds them all to it.
"""

from collections.abc import Sequence
from typing import Protocol

from dstack_vpn.errors import DeviceError
from dstack_vpn.mesh.device import AddPeer, DeviceChange, PeerChange, SeenDevice, UpdatePeer
from dstack_vpn.wireguard.lease import Target


class Backend(Protocol):
    """One WireGuard device.

    Every method may raise `HostError` when this machine does not allow what is needed or when the
    interface belongs to somebody else (nothing was changed then), and `DeviceError` when the device
    refused or did not answer (ask again later). None of them waits longer than some seconds, and
    no method may run at the same time as another one of the same device.
    """

    @property
    def name(self) -> str:
        """The interface name, such as ``wg0``."""
        ...

    @property
    def kind(self) -> str:
        """What carries the packets: ``kernel``, ``userspace``, or nothing: ``memory``."""
        ...

    @property
    def target(self) -> Target | None:
        """Which device this is, beyond its name; None before one of ours was found or made."""
        ...

    async def seen(self) -> SeenDevice | None:
        """Read the device, link and WireGuard side; None when there is none.

        None also stands for a device of ours that can no longer be spoken to because its process
        is dead or its socket gone: `create` makes it anew. Reading may be cancelled at any time.
        """
        ...

    async def create(self) -> None:
        """Make sure that the device exists.

        A device that is ours already is adopted as it is: peers, sessions and counters stay. A new
        one has no key, no peers and no addresses; the next `seen` and `apply` give it those.
        """
        ...

    async def apply(self, change: DeviceChange) -> None:
        """Carry out a change: peers to be removed first, before anything that could fail.

        When it returns, no packet of a removed peer is accepted any more. Peers that are not in the
        change are not touched and lose no packet. A peer that the device refuses does not keep the
        others from being applied.

        A change may rest on what was read long before, changes since then included. Where another
        device has taken the place of the one that was read, that is a `DeviceError`.

        A listen port that somebody else has is refused with the device listening where it did.

        Sets are not transactions: after a `DeviceError` any part of the change may be in force, so
        read back and plan again. Applying the same change twice does no harm.
        """
        ...

    async def destroy(self) -> None:
        """Take the device down for good and leave nothing of it; no error when there is none.

        Only a device that is ours is ever ended; somebody else's is left alone without an error.
        """
        ...


def subject(change: PeerChange) -> str:
    """How a sentence names the peer of a change: its node id, or its key where that is all."""
    match change:
        case AddPeer(peer=wanted):
            return wanted.node_id
        case UpdatePeer(node_id=node_id):
            return node_id
    return str(change.key)


def refused_peers(name: str, refused: Sequence[str]) -> DeviceError:
    """Say which peers a device refused, and why; each as ``subject (reason)``."""
    return DeviceError(f"{name} refused {len(refused)} peers: {'; '.join(refused[:3])}")


def no_port(name: str, port: int, reason: str) -> DeviceError:
    """Say that a device cannot listen on a port, and why."""
    return DeviceError(f"{name} cannot listen on UDP port {port} ({reason})")
