"""A node by what its own machine and the chain show, for commands that look and change nothing.

They work while the agent runs, so nothing is claimed; the notes by which a device is known to be
the node's are read as copies, for the reading of a device may renew them.
"""

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from dstack_vpn.chain.follow import Follower
from dstack_vpn.chain.providers import open_follower
from dstack_vpn.config import Settings
from dstack_vpn.errors import ChainError, SettingError
from dstack_vpn.identity import ACCEPTED, load_identity
from dstack_vpn.interface import open_interface
from dstack_vpn.mesh.access import Decision, judge, judge_self
from dstack_vpn.mesh.audit import Difference
from dstack_vpn.mesh.chaintime import ChainClock
from dstack_vpn.mesh.clock import WallClock
from dstack_vpn.mesh.device import SeenDevice
from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.mesh.membership import Membership
from dstack_vpn.mesh.plan import LocalNode, Plan, make_plan
from dstack_vpn.mesh.snapshot import ChainView
from dstack_vpn.variables import KEY_FILE_VARIABLE
from dstack_vpn.wireguard.backend import Backend
from dstack_vpn.wireguard.choose import kernel_note_path, note_path, open_device
from dstack_vpn.wireguard.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The chain, the device and the routing around it, as they were at nearly one moment."""

    membership: Membership
    view: ChainView
    chain_now: float
    """Chain time, seconds since 1970."""
    decisions: tuple[Decision, ...]
    own: Decision
    local: LocalNode
    plan: Plan
    """What the device should be; its endpoints are of no account."""
    device: SeenDevice | None
    backend: str
    """What carries the device, such as ``kernel``."""
    routing: tuple[Difference, ...]
    """What of the host's routing is not as it should be."""


class Observer:
    """Looks again and again, by one follower and one device."""

    def __init__(
        self, follower: Follower, device: Backend, policy: Policy, local: LocalNode
    ) -> None:
        """Take the parts; see `observer`."""
        self._follower = follower
        self._device = device
        self._policy = policy
        self._local = local
        self._clock = ChainClock()

    async def look(self) -> Observed:
        """Look at the chain, then at the device, then at the routing.

        Raises:
            ChainError: too few providers answer, or agree.
            HostError: we may not read the device, or it is another program's.
            DeviceError: the device does not answer, or routes cannot be read.
        """
        view = await self._follower.poll()
        membership = view.membership
        if membership is None:
            raise ChainError(view.last_error)
        now = time.monotonic()
        self._clock = self._clock.see(membership, branch=view.reorgs, now=now)
        chain_now = self._clock.at(now)
        decisions = judge(
            membership, confirmed=view.confirmed, chain_now=chain_now, suspects=view.suspects
        )
        own = judge_self(decisions, self._local.node_id, self._local.public_key)
        seen = await self._device.seen()
        found = await self._policy.look(seen.addresses if seen and seen.up else ())
        plan = make_plan(
            nodes=membership.nodes,
            decisions=decisions,
            own=own,
            local=self._local,
            seen=seen,
            resolved={},
            since={},
            now=now,
            clock=WallClock(),
        )
        return Observed(
            membership=membership,
            view=view,
            chain_now=chain_now,
            decisions=decisions,
            own=own,
            local=self._local,
            plan=plan,
            device=seen,
            backend=self._device.kind,
            routing=tuple(deviation.difference for deviation in found),
        )


@contextlib.asynccontextmanager
async def observer(settings: Settings) -> AsyncIterator[Observer]:
    """Open what is looked at, a fresh follower included, which knows nothing from the disk.

    Raises:
        SettingError: there is no key.
        WrongChainError: the chain is not the configured one.
        ChainError: too few providers answer, or agree.
        HostError: the device is another program's.
    """
    key = known_key(settings)
    async with _device(settings, key) as device:
        follower = open_follower(settings)
        try:
            local = (await open_interface(settings, key.public, read_only=True)).local
            policy = Policy(local.interface, local.networks, forwarding=settings.forwarding)
            await follower.start(None)
            yield Observer(follower, device, policy, local)
        finally:
            await follower.aclose()


def read_device(settings: Settings) -> tuple[SeenDevice | None, str]:
    """The device of a node by itself, whatever the chain says, and what carries it.

    Raises:
        SettingError: there is no key.
        HostError: we may not read it, or it is another program's.
        DeviceError: it does not answer.
    """

    async def read() -> tuple[SeenDevice | None, str]:
        async with _device(settings, known_key(settings)) as device:
            return await device.seen(), device.kind

    return asyncio.run(read())


def known_key(settings: Settings) -> PrivateKey:
    """The node's key, which must be there.

    Raises:
        SettingError: there is none, or it is malformed.
    """
    path = settings.wireguard_key_file
    with contextlib.suppress(PermissionError):  # told by `load_identity`
        if settings.wireguard_key is None and not path.exists():
            problem = f"names no file ({path}: not found), so this node has no key yet"
            raise SettingError(KEY_FILE_VARIABLE, problem, ACCEPTED)
    return load_identity(settings, create=False)


@contextlib.asynccontextmanager
async def _device(settings: Settings, key: PrivateKey) -> AsyncIterator[Backend]:
    """The device of a node, only to be read, by copies of the notes about it."""
    with tempfile.TemporaryDirectory(prefix="dstack-vpn-") as directory:
        copy = note_path(Path(directory), settings.interface)
        for note in (copy, kernel_note_path(copy)):
            with contextlib.suppress(OSError):  # where there is none, the device's key is the proof
                shutil.copyfile(settings.state_dir / note.name, note)
        yield await open_device(
            settings.interface,
            key,
            marker_path=copy,
            backend=settings.backend,
            touch=False,
        )
