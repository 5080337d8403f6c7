"""`WireGuardContractBridge`: the running whole, and the API for programs that embed it.

Builds the parts (identity, store, follower, device, reconciler, health server), starts and stops
them in order, and hands out snapshots and events. It decides nothing itself.
"""

import asyncio
import contextlib
import os
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import structlog

from dstack_vpn.chain.providers import open_follower
from dstack_vpn.config import Settings, load_settings
from dstack_vpn.errors import DstackVpnError, SettingError, UserError
from dstack_vpn.identity import load_identity
from dstack_vpn.interface import open_interface
from dstack_vpn.mesh.access import Decision, find
from dstack_vpn.mesh.addresses import AddressPlan
from dstack_vpn.mesh.device import WantedDevice
from dstack_vpn.mesh.events import Event
from dstack_vpn.mesh.health import Health, assess
from dstack_vpn.mesh.membership import Membership
from dstack_vpn.mesh.snapshot import Snapshot
from dstack_vpn.reconcile import Reconciler
from dstack_vpn.store import STATE_FILE, Store, claim_directory
from dstack_vpn.variables import PLAIN_SECRETS, SETTING_NAMES
from dstack_vpn.web.app import make_app
from dstack_vpn.web.render import render_health, render_stats
from dstack_vpn.web.server import HealthServer
from dstack_vpn.wireguard.backend import Backend
from dstack_vpn.wireguard.backups import BACKUPS_DIRECTORY, Backups, ConfFile
from dstack_vpn.wireguard.choose import note_path, open_device
from dstack_vpn.wireguard.conf import About, conf_sections
from dstack_vpn.wireguard.guardian import Guardian
from dstack_vpn.wireguard.link import check_ranges, ipv6_enabled, ipv6_warning, on_link_networks
from dstack_vpn.wireguard.linkwatch import watch
from dstack_vpn.wireguard.policy import Policy

log = structlog.get_logger()

SETTLE_TIME = 5.0
"""Seconds that a stop waits for the cycle under way."""
EVENT_BACKLOG = 1000
"""Events kept for a subscriber who does not read; older ones are dropped."""


class WireGuardContractBridge:
    """One node of the mesh: follows the contract and keeps the WireGuard device to it.

    Keyword arguments are settings by their names in lower case, but for `private_key`; what is
    not given comes from the environment, as for ``dstack-vpn up``::

        bridge = WireGuardContractBridge(
            node_id="node-a", network="hardhat", contract_address="0x…", sync_interval=30.0
        )
        await bridge.start()
        async for event in bridge.events():
            print(event.kind, event.node_id)
    """

    def __init__(
        self,
        *,
        node_id: str | None = None,
        private_key: str | None = None,
        network: str | None = None,
        rpc_url: str | None = None,
        contract_address: str | None = None,
        sync_interval: float | None = None,
        settings: Settings | None = None,
        **others: str | float | Path,
    ) -> None:
        """Check the settings; nothing is opened yet.

        Args:
            node_id: name of this node, as its token has it.
            private_key: its WireGuard key, base64; a key is made and kept when there is none.
            network: base, baseSepolia or hardhat.
            rpc_url: one or several URLs, separated by commas.
            contract_address: of the DstackAccessNFT contract.
            sync_interval: seconds between full compares of device and plan.
            settings: complete settings instead of all the others.
            others: any other setting, by its variable's name in lower case.

        Raises:
            SettingError: a setting is missing or malformed, or there is none of that name.
        """
        given: dict[str, Any] = {
            "NODE_ID": node_id,
            "WIREGUARD_PRIVATE_KEY": private_key,
            "NETWORK": network,
            "RPC_URL": rpc_url,
            "CONTRACT_ADDRESS": contract_address,
            "SYNC_INTERVAL": None if sync_interval is None else round(sync_interval * 1000),
            **{name.upper(): value for name, value in others.items()},
        }
        overrides = {name: str(value) for name, value in given.items() if value is not None}
        # A keyword that is no setting would otherwise be dropped without a word.
        if unknown := sorted(overrides.keys() - SETTING_NAMES):
            accepted = "the variables of docs/settings.md in lower case"
            raise SettingError(unknown[0].lower(), "is no setting", accepted)
        if settings is not None and overrides:
            name = min(overrides).lower()
            raise SettingError("settings", f"and {name} are both given", "one of the two")
        self._settings = settings or load_settings(overrides=overrides)
        self._stack = contextlib.AsyncExitStack()
        self._reconciler: Reconciler | None = None
        self._parts: Parts | None = None
        self._server: HealthServer | None = None
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._subscribers: list[deque[Event]] = []

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._settings

    @property
    def health_port(self) -> int:
        """TCP port that the health endpoints are bound to; valid after `start`."""
        if self._server is None:
            raise RuntimeError("the bridge has not been started")
        return self._server.port

    async def start(self, *, reset_state: bool = False) -> None:
        """Start to follow the contract and to serve health; returns when both run.

        It does not wait for membership: a node that is not a member yet waits for its token. See
        `wait_ready`.

        Args:
            reset_state: forget the saved membership first, to accept a chain that began anew.

        Raises:
            UserError: a key file, a port, a directory or this host does not allow it.
        """
        if self._task is not None:
            raise RuntimeError("the bridge was started already")
        for name in self._settings.plain_secrets:
            log.warning("secrets.plain", variable=name, advice=PLAIN_SECRETS[name])
        try:
            parts = await build(
                self._settings, self._stack, publish=self._publish, reset_state=reset_state
            )
            self._reconciler = parts.reconciler
            app = make_app(self, self._settings)
            server = HealthServer(app, self._settings.health_host, self._settings.health_port)
            self._server = await self._stack.enter_async_context(server)
            # Until this node is a member, too, nothing for the mesh leaves in the clear.
            await parts.policy.hold(())
            # Last: a stop after a start that failed must not end the device of an earlier run.
            self._parts = parts
        except BaseException:
            await self._stack.aclose()
            raise
        log.info(
            "bridge.started",
            public_key=str(self.snapshot.public_key),
            health=f"{self._settings.health_host}:{self._server.port}",
            contract=self._settings.contract,
            network=self._settings.network.name,
        )
        # A loose task, since it must outlive this call. `wait_stopped` and `stop` hand on how it
        # ended, and readers see a snapshot that no longer moves.
        self._task = asyncio.get_running_loop().create_task(self._run(), name="bridge")

    async def _run(self) -> None:
        assert self._reconciler is not None
        try:
            await self._reconciler.run()
        except BaseExceptionGroup as group:
            # One failed part stops the others; what went wrong is its first error.
            told, _ = group.split(DstackVpnError)
            raise _first(told or group) from None
        finally:
            self._wake_waiters()

    async def stop(self, *, keep_device: bool = False) -> None:
        """Stop all parts, take the device down, and leave nothing behind but the state directory.

        Args:
            keep_device: leave the device and its sessions running, to be adopted by the next start.
        """
        task, self._task = self._task, None
        # Once: a device that was kept stays, whoever stops again.
        parts, self._parts = self._parts, None
        try:
            if task is not None:
                if self._reconciler is not None:
                    await self._reconciler.settle(within=SETTLE_TIME)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, DstackVpnError):
                    await task
            if parts is not None and not keep_device:
                await parts.device.destroy()
                # After it: a device that does not go away is still to lose its members in time.
                if warning := await parts.guardian.end():
                    log.warning("guard.failed", reason=warning)
                await parts.policy.release()
                _remove(parts.conf)
        finally:
            await self._stack.aclose()
        log.info("bridge.stopped", device="kept" if keep_device else "down")

    async def wait_stopped(self) -> None:
        """Return when the bridge has ended; raises what ended it, if that was no `stop`."""
        if (task := self._task) is not None:
            # Not `await task`: a stop would look like a cancellation of whoever waits here.
            await asyncio.wait({task})
            if not task.cancelled():
                task.result()

    async def wait_ready(self, *, timeout: float) -> None:  # noqa: ASYNC109 - part of the API
        """Return as soon as this node can pass traffic.

        Args:
            timeout: seconds to wait at most.

        Raises:
            TimeoutError: it is not ready by then; the message says why.
            DstackVpnError: the bridge ended meanwhile.
        """
        try:
            async with asyncio.timeout(timeout):
                while not self.assess().ready:
                    if self._task is None or self._task.done():
                        await self.wait_stopped()
                        raise UserError("the bridge does not run")
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(f"not ready after {timeout:g} s: {self.assess().reason}") from None

    def _publish(self, events: tuple[Event, ...]) -> None:
        for backlog in self._subscribers:
            backlog.extend(events)
        self._wake_waiters()

    def _wake_waiters(self) -> None:
        """Let everybody who waits for news look again, each by an event of his own turn."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    @property
    def snapshot(self) -> Snapshot:
        """The newest snapshot; frozen."""
        if self._reconciler is None:
            raise RuntimeError("the bridge has not been started")
        return self._reconciler.snapshot

    def wall_now(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def assess(self, fresh: float | None = None) -> Health:
        """Judge the newest snapshot now; `fresh` is the strict form of readiness, in seconds."""
        return assess(
            self.snapshot,
            now=asyncio.get_running_loop().time(),
            dark_after=self._settings.dark_after,
            fresh=fresh,
            trusts_one_provider=self._settings.trusts_one_provider,
            block_time=self._settings.network.block_time,
            wall_now=self.wall_now(),
        )

    def health(self) -> Mapping[str, Any]:
        """What /health answers."""
        return render_health(self.snapshot, self.assess(), wall_now=self.wall_now())

    def stats(self) -> Mapping[str, Any]:
        """What /stats answers."""
        return render_stats(self.snapshot, self.assess(), wall_now=self.wall_now())

    def access(self, node_id: str) -> Decision:
        """The verdict on a node id, with its reason."""
        return find(self.snapshot.decisions.values(), node_id)

    async def events(self) -> AsyncIterator[Event]:
        """Iterate over what happens from the first step on, until the bridge stops.

        A subscriber who does not read for long loses the oldest events.
        """
        backlog: deque[Event] = deque(maxlen=EVENT_BACKLOG)
        self._subscribers.append(backlog)
        try:
            while True:
                while backlog:
                    yield backlog.popleft()
                if self._task is None or self._task.done():
                    return
                await self._changed.wait()
        finally:
            # By identity: two empty backlogs are equal.
            self._subscribers = [s for s in self._subscribers if s is not backlog]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a bridge is made of."""

    device: Backend
    reconciler: Reconciler
    conf: ConfFile
    policy: Policy
    guardian: Guardian


async def build(
    settings: Settings,
    stack: contextlib.AsyncExitStack,
    *,
    publish: Callable[[tuple[Event, ...]], None] = lambda _: None,
    dry: bool = False,
    reset_state: bool = False,
) -> Parts:
    """Build the parts and check this host; nothing is started and no device is touched.

    Args:
        settings: of the node.
        stack: closes what is opened.
        publish: called after each cycle, with its events.
        dry: write nothing: a key that would be made is forgotten, and so is the state.
        reset_state: forget the saved membership first, to accept a chain that began anew.

    Raises:
        UserError: a key file, the state directory or this host does not allow it.
    """
    directory = settings.state_dir
    if dry:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    else:
        stack.callback(os.close, claim_directory(directory))
    key = load_identity(settings, create=not dry)
    network = settings.network
    addresses = AddressPlan.of(network.chain_id, settings.contract, settings.ipv4_range)
    await check_ranges(addresses.networks, settings.interface)
    # Raises when the interface belongs to somebody else.
    device = await open_device(
        settings.interface,
        key,
        marker_path=note_path(directory, settings.interface),
        backend=settings.backend,
        touch=not dry,
    )
    if not ipv6_enabled(settings.interface):
        log.warning("host.ipv6_off", reason=ipv6_warning(settings.interface))
    store = Store(directory / STATE_FILE)
    stack.callback(store.close)
    if reset_state:
        store.forget()
    interface = await open_interface(
        settings,
        key.public,
        on_link=await on_link_networks(ignoring=settings.interface),
        # A dry run leaves also what has ended.
        read_only=dry,
    )
    policy = Policy(settings.interface, interface.local.networks, forwarding=settings.forwarding)
    follower = open_follower(settings, contract_wait=0.0 if dry else settings.contract_wait)
    stack.push_async_callback(follower.aclose)

    conf = ConfFile(
        settings.wireguard_conf,
        Backups(directory / BACKUPS_DIRECTORY, most=settings.config_backups),
    )

    def write(wanted: WantedDevice, membership: Membership) -> None:
        block = membership.block
        about = About(
            block=block.number,
            block_hash=block.hash,
            block_time=block.timestamp,
            configured=interface.configured,
            in_force=interface.in_force,
        )
        conf.write(conf_sections(wanted, about, private_key=key))

    guardian = Guardian(settings.interface, directory)
    reconciler = Reconciler(
        settings=settings,
        local=interface.local,
        source=follower,
        device=device,
        store=store,
        write_conf=write,
        publish=publish,
        reconfigured=interface.refresh,
        policy=policy,
        guard=guardian,
        watch_link=partial(watch, settings.interface, addresses.networks),
    )
    return Parts(device=device, reconciler=reconciler, conf=conf, policy=policy, guardian=guardian)


async def dry_run(settings: Settings) -> str:
    """Say what a node with these settings would change now, and change nothing.

    Raises:
        UserError: a setting, the chain or this host is not as it must be.
        ChainError: the chain cannot be read.
    """
    async with contextlib.AsyncExitStack() as stack:
        parts = await build(settings, stack, dry=True)
        return await parts.reconciler.dry_run()


def _remove(conf: ConfFile) -> None:
    try:
        conf.remove()
    except OSError as error:
        log.error("disk.failed", error=f"{error.filename}: {error.strerror}")


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
