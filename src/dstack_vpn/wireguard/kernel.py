"""A WireGuard device of the Linux kernel.

The reconciler speaks to it through `backend.Backend`. The kernel carries the packets by itself:
nothing runs that could be killed, and the next agent adopts the device as it finds it. Whether a
device of the name is ours at all is answered by `kernelclaim.py`; `wgnetlink.py` has the messages.
"""

import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import structlog

from dstack_vpn.errors import DeviceError, HostError
from dstack_vpn.mesh.device import DeviceChange, PeerChange, RemovePeer, SeenDevice
from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.wireguard import genetlink, link, udpport, wgnetlink
from dstack_vpn.wireguard.backend import no_port, refused_peers, subject
from dstack_vpn.wireguard.genetlink import Channel, Dial, InterruptedDumpError
from dstack_vpn.wireguard.kernelclaim import KernelClaim
from dstack_vpn.wireguard.lease import KernelTarget
from dstack_vpn.wireguard.udpport import WhyTaken
from dstack_vpn.wireguard.wgnetlink import DumpReader, KernelState

log = structlog.get_logger()

TRIES = 10
"""Dumps that a change of the device interrupted are asked for again."""

AddLink = Callable[[str], Awaitable[None]]
"""How an interface is made; may raise HostError or DeviceError."""


class KernelDevice:
    """One device of the kernel; keeps the promises of `backend.Backend`."""

    def __init__(
        self,
        name: str,
        private_key: PrivateKey,
        *,
        marker_path: Path,
        dial: Dial = genetlink.dial,
        add_link: AddLink = link.add_wireguard,
        why_taken: WhyTaken = udpport.why_taken,
    ) -> None:
        """Nothing happens until a method is called.

        Args:
            name: interface name, at most 15 letters as Linux has it.
            private_key: what the device is given when a change says so.
            marker_path: where to note that a device is ours; a file of the state directory.
            dial: how a socket to the kernel is opened.
            add_link: how the interface is made.
            why_taken: how a listen port is found to be free.
        """
        self._name = name
        self._private_key = private_key
        self._dial = dial
        self._add_link = add_link
        self._why_taken = why_taken
        self._claim = KernelClaim(name, private_key.public, marker_path)
        self._read_from: int | None = None
        """The interface that was last read; a change that rests on it is not for another one."""

    @property
    def name(self) -> str:
        """The interface name."""
        return self._name

    @property
    def kind(self) -> str:
        """See `Backend.kind`."""
        return "kernel"

    @property
    def target(self) -> KernelTarget | None:
        """See `Backend.target`."""
        known = self._claim.known
        return None if known is None else KernelTarget(self._name, known)

    async def seen(self) -> SeenDevice | None:
        """See `Backend.seen`."""
        state = link.read(self._name)
        device = await self._device()
        if device is None or state is None:
            return None
        self._read_from = device.index
        return link.seen_device(
            self._name,
            state,
            public_key=device.public_key,
            listen_port=device.listen_port,
            peers=device.peers,
        )

    async def look(self) -> KernelState | None:
        """Read the WireGuard side of our device; None when the kernel has none of this name.

        There may be an interface nevertheless, of another kind.

        Raises:
            HostError: it is another's device, or we have no right to ask.
            DeviceError: it could not be read.
        """
        async with genetlink.connect(self._name, wgnetlink.FAMILY, self._dial) as channel:
            return None if channel is None else await self._read(channel)

    async def create(self) -> None:
        """See `Backend.create`.

        Raises:
            HostError: besides, when the kernel has no WireGuard.
        """
        self._read_from = None
        await self.require_kernel()
        device = await self._device()
        if device is not None:
            log.info("device.adopted", device=self._name, index=device.index)
            return
        self._claim.stake(None)
        try:
            await self._add_link(self._name)
        except (HostError, DeviceError):
            self._claim.drop()
            raise
        index = link.index(self._name)
        if index is None:
            raise self._gone()
        self._claim.stake(index)
        log.info("device.created", device=self._name, index=index)

    async def apply(self, change: DeviceChange) -> None:
        """See `Backend.apply`."""
        removals = [peer for peer in change.peers if isinstance(peer, RemovePeer)]
        others = [peer for peer in change.peers if not isinstance(peer, RemovePeer)]
        refused: list[str] = []
        async with self._reach() as channel:
            index = await self._ours(channel)
            for chunk in wgnetlink.chunks(removals):
                refused += await self._set_peers(channel, index, chunk)
            for warning in await link.alter(self._name, change):
                log.warning("device.hampered", device=self._name, reason=warning)
            await self._set_settings(channel, index, change)
            for chunk in wgnetlink.chunks(others):
                refused += await self._set_peers(channel, index, chunk)
        if refused:
            raise refused_peers(self._name, refused)

    async def destroy(self) -> None:
        """See `Backend.destroy`."""
        try:
            async with genetlink.connect(self._name, wgnetlink.FAMILY, self._dial) as channel:
                device = None if channel is None else await self._read(channel)
                if channel is not None and device is not None:
                    await self._empty(channel, device)
        except HostError as error:
            log.warning("device.not_ours", device=self._name, reason=str(error))
            return
        if device is not None:
            await link.delete(self._name)
            log.info("device.destroyed", device=self._name)
        self._claim.drop()

    async def _empty(self, channel: Channel, device: KernelState) -> None:
        """Take all peers off, before the interface is deleted.

        A kernel that deletes an interface waits some 12 ms for each peer that it has (measured on
        Linux 6.1: minutes for a large mesh), and not a tenth of one when told to remove a peer.
        """
        removals = [RemovePeer(key=key, reason="") for key in device.peers]
        for chunk in wgnetlink.chunks(removals):
            await self._set_peers(channel, device.index, chunk)

    async def require_kernel(self) -> None:
        """Make sure that the kernel has WireGuard; asking makes it load the module.

        Raises:
            HostError: it has none.
            DeviceError: that cannot be found out now.
        """
        async with self._reach():
            pass

    async def _device(self) -> KernelState | None:
        """Read our device; None when there is no interface of this name.

        Raises:
            HostError: the interface is somebody else's, or of another kind.
        """
        before = link.index(self._name)
        device = await self.look()
        if device is None and before is not None and before == link.index(self._name):
            # It was there all the time, and the kernel's WireGuard does not know it.
            raise HostError(
                f"interface {self._name} is taken by another program (it is no WireGuard of the "
                "kernel): set another WG_INTERFACE, or take it down"
            )
        return device

    @asynccontextmanager
    async def _reach(self) -> AsyncIterator[Channel]:
        async with genetlink.connect(self._name, wgnetlink.FAMILY, self._dial) as channel:
            if channel is None:
                raise HostError(
                    "the kernel of this machine has no WireGuard: load its module wireguard, or "
                    "set WIREGUARD_BACKEND to auto or userspace"
                )
            yield channel

    async def _ours(self, channel: Channel) -> int:
        """The number of our interface, which must be the one that was read."""
        index = link.index(self._name)
        if index is not None and index != self._claim.known:
            device = await self._read(channel)
            index = None if device is None else device.index
        if index is None:
            raise self._gone()
        if self._read_from not in {None, index}:
            raise DeviceError(f"{self._name} is not the device that was read: it was replaced")
        return index

    async def _read(self, channel: Channel) -> KernelState | None:
        """Read the device, which must be ours; None when the kernel has none of this name."""
        for _ in range(TRIES):
            reader = DumpReader()
            try:
                async for body in channel.ask(wgnetlink.get_device(self._name), dump=True):
                    reader.feed(body)
                device = reader.device()
            except InterruptedDumpError:
                continue
            except ValueError as error:
                raise DeviceError(f"{self._name}: {error}") from None
            except OSError as error:
                if error.errno in {errno.ENODEV, errno.EOPNOTSUPP}:  # none, or of another kind
                    return None
                raise DeviceError(f"{self._name} cannot be read: {error.strerror}") from None
            self._claim.require_ours(device)
            return device
        raise DeviceError(f"{self._name} cannot be read: it changes all the time")

    async def _set_peers(
        self, channel: Channel, index: int, changes: Sequence[PeerChange]
    ) -> list[str]:
        """Send changes of peers; return which peers were refused, as sentences.

        After a refusal the peers are sent one by one: what one of them has must not keep the
        others off the device. Sets may be repeated, so those before the refused one do no harm.
        """
        try:
            for body in wgnetlink.set_peers(index, changes):
                await channel.request(body)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENODEV:
                raise self._gone() from None
            if len(changes) == 1:
                reason = error.strerror if isinstance(error, OSError) else error
                return [f"{subject(changes[0])} ({reason})"]
        else:
            return []
        refused = []
        for change in changes:
            refused += await self._set_peers(channel, index, (change,))
        return refused

    async def _set_settings(self, channel: Channel, index: int, change: DeviceChange) -> None:
        # The key first and by itself: a message is refused as a whole, and a new device must not
        # be without its key for want of a port.
        key, port = replace(change, listen_port=None), replace(change, set_key=False)
        await self._set_setting(channel, index, key)
        if port.listen_port is not None:
            await self._require_free(channel, port.listen_port)
            await self._set_setting(channel, index, port)

    async def _require_free(self, channel: Channel, port: int) -> None:
        reason = self._why_taken(port)
        if reason is None:
            return
        device = await self._read(channel)
        if device is None or device.listen_port != port:  # else it is this very device that has it
            raise no_port(self._name, port, reason)

    async def _set_setting(self, channel: Channel, index: int, change: DeviceChange) -> None:
        body = wgnetlink.set_settings(index, change, self._private_key)
        if body is None:
            return
        try:
            await channel.request(body)
        except OSError as error:
            if error.errno == errno.ENODEV:
                raise self._gone() from None
            reason = str(error.strerror)
            if change.listen_port is not None:
                raise no_port(self._name, change.listen_port, reason) from None
            raise DeviceError(f"{self._name} refused its settings ({reason})") from None

    def _gone(self) -> DeviceError:
        return DeviceError(f"{self._name} is gone")
