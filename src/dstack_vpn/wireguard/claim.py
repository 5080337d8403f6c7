"""Whose device is it? Nothing is changed before this is answered.

A userspace device is ours when its public key is ours, or when the process at the other end of its
socket (SO_PEERCRED, unix(7)) is the one in our marker. Everything else is somebody else's interface
and is left alone with a sentence. `userspace.py` asks at each step, because the answer may change
while the agent runs.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from dstack_vpn.errors import HostError
from dstack_vpn.mesh.keys import PublicKey
from dstack_vpn.wireguard import link, marker, process
from dstack_vpn.wireguard.channel import Channel, connect
from dstack_vpn.wireguard.lease import UserspaceTarget
from dstack_vpn.wireguard.marker import Marker
from dstack_vpn.wireguard.process import Process

SOCKETS = Path("/var/run/wireguard")
"""Where wireguard-go puts its socket; fixed in its source."""
SETTLE_TIMEOUT = 1.0
"""Seconds until an interface without a socket, or a socket without one, is taken to stay so."""


class Claim:
    """Our claim to a device of this name."""

    def __init__(self, name: str, public_key: PublicKey, marker_path: Path) -> None:
        self.name = name
        self.socket = SOCKETS / f"{name}.sock"
        self._public_key = public_key
        self._marker_path = marker_path
        self._known: Process | None = None

    @property
    def target(self) -> UserspaceTarget | None:
        """The device that was found to be ours."""
        if self._known is None:
            return None
        return UserspaceTarget(self.name, str(self.socket), self._known.pid, self._known.started)

    @asynccontextmanager
    async def reach(self) -> AsyncIterator[Channel | None]:
        """Connect to the device if it is ours; None when there is none that could be spoken to.

        Raises:
            HostError: the interface or its socket belongs to somebody else.
            DeviceError: it is there but does not answer.
        """
        async with self._settled() as (channel, owner, exists):
            if channel is None:
                if exists and self.left_over() is None:
                    raise HostError(
                        f"interface {self.name} is taken by another program (it has no socket "
                        f"{self.socket}): set another WG_INTERFACE, or take it down"
                    )
                yield None
            else:
                await self._require_ours(channel, owner, exists=exists)
                yield channel if exists else None

    def left_over(self) -> Process | None:
        """The process of our marker if it still runs, whether it can be spoken to or not."""
        note = marker.read(self._marker_path)
        if note is None or note.process is None or not note.process.alive:
            return None
        return note.process if note.names(self.name, note.process, keyless=False) else None

    async def gone(self) -> bool:
        """Wait until neither interface nor listener is left; False when they stay.

        The kernel takes both away some time after the process has ended.
        """
        deadline = time.monotonic() + process.PATIENCE
        while time.monotonic() < deadline:
            async with connect(self.name, self.socket) as channel:
                if channel is None and not link.exists(self.name):
                    return True
            await asyncio.sleep(process.POLL)
        return False

    def stake(self, owner: Process | None) -> None:
        """Note that the device of this process is ours; None: of one that is about to start."""
        self._known = owner
        marker.write(self._marker_path, Marker.now(self.name, owner))

    def drop(self) -> None:
        """Forget the device."""
        self._known = None
        marker.remove(self._marker_path)

    @asynccontextmanager
    async def _settled(self) -> AsyncIterator[tuple[Channel | None, Process | None, bool]]:
        """Connect when interface and socket agree, or when they had the time to.

        Given are the connection, who is at its other end, and whether there is an interface.
        While a process starts or ends one of them is there without the other for some
        milliseconds. Taken for somebody else's, our own device would then end the agent.
        """
        deadline = time.monotonic() + SETTLE_TIMEOUT
        while True:
            async with connect(self.name, self.socket) as channel:
                exists, owner = link.exists(self.name), None
                if channel is None:
                    settled = not exists or self.left_over() is not None
                else:
                    owner = Process.of(channel.pid)
                    settled = exists and (owner is not None or channel.pid == 0)
                if settled or time.monotonic() > deadline:
                    yield channel, owner, exists
                    return
            await asyncio.sleep(process.POLL)

    async def _require_ours(self, channel: Channel, owner: Process | None, *, exists: bool) -> None:
        if owner is not None and owner == self._known:
            return
        if owner is not None and not owner.shares_our_network:
            raise HostError(
                f"the name {self.name} is taken by process {owner.pid} in another network "
                f"namespace, which shares {SOCKETS} with this one: set another WG_INTERFACE"
            )
        note = marker.read(self._marker_path)
        if note is not None and owner is not None and note.names(self.name, owner, keyless=False):
            self._known = owner
            return
        # Only now the device is asked: a marked one stays ours even when it cannot answer.
        public_key = (await channel.get()).public_key
        ours = public_key == self._public_key or (
            note is not None
            and owner is not None
            and note.names(self.name, owner, keyless=public_key is None)
        )
        if not ours:
            raise HostError(
                f"interface {self.name} is taken by a WireGuard device with another key: "
                "set another WG_INTERFACE, or take it down"
            )
        if owner is not None and exists:
            self.stake(owner)
