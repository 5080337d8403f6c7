"""A WireGuard device made by wireguard-go, which outlives the agent.

The reconciler speaks to it through `backend.Backend`. wireguard-go is a process of its own in a
session of its own: when the agent is killed or replaced, packets go on, and the next agent adopts
the device as it finds it. Only `destroy` ends it.

Whether a device of the name is ours at all is answered by `claim.py`, at each step anew.
"""

import asyncio
import os
import re
import time
from collections.abc import Iterable
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path

import structlog

from dstack_vpn.errors import DeviceError, HostError
from dstack_vpn.mesh.device import DeviceChange, SeenDevice
from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.wireguard import link, process, tun
from dstack_vpn.wireguard.backend import no_port, refused_peers, subject
from dstack_vpn.wireguard.channel import Channel, connect
from dstack_vpn.wireguard.claim import SOCKETS, Claim
from dstack_vpn.wireguard.command import clean_environment
from dstack_vpn.wireguard.lease import UserspaceTarget
from dstack_vpn.wireguard.process import Process
from dstack_vpn.wireguard.uapi import Request, render, render_peers, render_settings
from dstack_vpn.wireguard.udpport import why_taken

log = structlog.get_logger()

START_TIMEOUT = 10.0
"""Seconds until a new device must answer."""
BIND_TIMEOUT = 2.0
"""Seconds until a device that was brought up must have its UDP socket."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_=+.-]{0,14}")


class UserspaceDevice:
    """One wireguard-go device; keeps the promises of `backend.Backend`."""

    def __init__(
        self,
        name: str,
        private_key: PrivateKey,
        *,
        marker_path: Path,
        program: str = "wireguard-go",
    ) -> None:
        """Nothing happens until a method is called.

        Args:
            name: interface name, at most 15 letters as Linux has it.
            private_key: what the device is given when a change says so.
            marker_path: where to note that a device is ours; a file of the state directory.
            program: wireguard-go, by name or path.

        Raises:
            ValueError: the name is no interface name.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no interface name")
        self._name = name
        self._private_key = private_key
        self._program = program
        self._claim = Claim(name, private_key.public, marker_path)
        self._read_from: int | None = None
        """The process that was last read; a change that rests on it is not for another one."""

    @property
    def name(self) -> str:
        """The interface name."""
        return self._name

    @property
    def kind(self) -> str:
        """See `Backend.kind`."""
        return "userspace"

    @property
    def target(self) -> UserspaceTarget | None:
        """See `Backend.target`."""
        return self._claim.target

    async def seen(self) -> SeenDevice | None:
        """See `Backend.seen`."""
        state = link.read(self._name)
        async with self._claim.reach() as channel:
            if channel is None or state is None:
                return None
            device = await channel.get()
            self._read_from = channel.pid
        return link.seen_device(
            self._name,
            state,
            public_key=device.public_key,
            listen_port=device.listen_port,
            peers=device.peers,
        )

    async def create(self) -> None:
        """See `Backend.create`."""
        self._read_from = None
        async with self._claim.reach() as channel:
            if channel is not None:
                log.info("device.adopted", device=self._name, pid=channel.pid)
                return
        await self._clear()
        await self._start()

    async def apply(self, change: DeviceChange) -> None:
        """See `Backend.apply`."""
        # The listen port is told by itself, once it is found to be free.
        requests = render(replace(change, listen_port=None), self._private_key)
        async with self._claim.reach() as channel:
            if channel is None:
                raise DeviceError(f"{self._name} is gone")
            if self._read_from not in {None, channel.pid}:
                raise DeviceError(f"{self._name} is not the device that was read: it was replaced")
            refused = await self._set_peers(channel, requests.removals)
            for warning in await link.alter(self._name, change):
                log.warning("device.hampered", device=self._name, reason=warning)
            if change.up:
                await self._await_bound(channel)
            if requests.settings is not None:
                await self._set_settings(channel, requests.settings)
            if change.listen_port is not None:
                await self._set_port(channel, change.listen_port)
            refused += await self._set_peers(channel, requests.peers)
        if refused:
            raise refused_peers(self._name, refused)

    async def destroy(self) -> None:
        """See `Backend.destroy`."""
        try:
            async with self._claim.reach() as channel:
                owner = None if channel is None else Process.of(channel.pid)
                if channel is not None and owner is None:
                    # It listens outside of our PID namespace: it goes with its interface.
                    await link.delete(self._name)
        except HostError as error:
            log.warning("device.not_ours", device=self._name, reason=str(error))
            return
        if owner is not None:
            await process.end(owner)
        await self._clear()
        self._claim.drop()
        log.info("device.destroyed", device=self._name)

    async def _clear(self) -> None:
        """End what is left of a device of ours that cannot be spoken to, and wait until it is gone.

        A device whose socket is gone could not be told of a revocation, so it may not go on.
        """
        left = self._claim.left_over()
        if left is not None:
            log.warning("device.mute_ended", device=self._name, pid=left.pid)
            await process.end(left)
        if not await self._claim.gone():
            raise DeviceError(f"{self._name} does not go away")
        with suppress(OSError):  # not there, or a read-only directory
            self._claim.socket.unlink()

    async def _start(self) -> None:
        self._claim.stake(None)
        # Foreground for wireguard-go means that the process we start is the one that listens, so
        # that its socket and our marker name the same pid. Its log would never stop growing.
        environment = clean_environment() | {
            "WG_PROCESS_FOREGROUND": "1",
            "LOG_LEVEL": "silent",
        }
        try:
            owner = process.spawn((self._program, "-f", self._name), environment)
        except HostError:
            self._claim.drop()
            raise
        if owner is not None:
            self._claim.stake(owner)
        deadline = time.monotonic() + START_TIMEOUT
        while owner is not None and owner.alive:
            async with connect(self._name, self._claim.socket) as channel:
                if channel is not None and channel.pid == owner.pid:
                    await channel.get()
                    log.info("device.created", device=self._name, pid=owner.pid)
                    return
            if time.monotonic() > deadline:
                await process.end(owner)
                raise DeviceError(f"{self._program} did not answer within {START_TIMEOUT:g} s")
            await asyncio.sleep(process.POLL)
        self._claim.drop()
        await self._claim.gone()
        raise tun.why_not(self._name, self._program, SOCKETS)

    async def _set_peers(self, channel: Channel, requests: Iterable[Request]) -> list[str]:
        """Send changes of peers; return which peers were refused, as sentences.

        After a refusal the peers are sent one by one: what one of them has must not keep the
        others off the device. Sets may be repeated, so those before the refused one do no harm.
        """
        refused: list[str] = []
        async with aclosing(channel.set_all(requests)) as answers:
            async for request, errno in answers:
                if errno == 0:
                    continue
                if len(request.peers) == 1:
                    refused.append(f"{subject(request.peers[0])} ({os.strerror(-errno)})")
                else:
                    alone = (render_peers((peer,)) for peer in request.peers)
                    refused += await self._set_peers(channel, alone)
        return refused

    async def _set_settings(self, channel: Channel, request: Request) -> None:
        errno = await channel.set(request)
        if errno != 0:
            raise DeviceError(f"{self._name} refused its settings ({os.strerror(-errno)})")

    async def _set_port(self, channel: Channel, port: int) -> None:
        """Give the device another listen port.

        Raises:
            DeviceError: somebody else has it; the device goes on with its own.
        """
        reason = why_taken(port)
        if reason is not None and (await channel.get()).listen_port != port:
            raise no_port(self._name, port, reason)
        request = render_settings(
            DeviceChange(name=self._name, listen_port=port), self._private_key
        )
        assert request is not None
        errno = await channel.set(request)
        if errno != 0:
            raise no_port(self._name, port, os.strerror(-errno))
        await self._await_bound(channel)

    async def _await_bound(self, channel: Channel) -> None:
        """Wait until the device has the UDP socket of which it reports the port.

        wireguard-go binds it when it hears from the kernel that the link is up, some time after
        we set it, and when that fails it says so only in its log. Such a device looks well and
        hears nothing. With its link down again the next attempt starts afresh.
        """
        owner = Process.of(channel.pid)
        deadline = time.monotonic() + BIND_TIMEOUT
        while True:
            port = (await channel.get()).listen_port
            if port != 0 and (owner is None or owner.holds_udp_port(port)):
                return
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(process.POLL)
        await link.set_down(self._name)
        raise DeviceError(f"{self._name} has no UDP socket: another program may have its port")
