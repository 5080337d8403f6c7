"""`WireGuardContractBridge`: the running whole, and the API for programs that embed it.

Builds the parts (identity, store, follower, device, reconciler, health server), starts and stops
them in order, and hands out snapshots and events. It decides nothing itself.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Self

import structlog

from dstack_vpn.chain.follow import Follower
from dstack_vpn.chain.rpc import connect
from dstack_vpn.config import Settings, load_settings
from dstack_vpn.errors import DstackVpnError, UserError
from dstack_vpn.identity import load_identity
from dstack_vpn.mesh.access import Decision, find
from dstack_vpn.mesh.addresses import AddressPlan
from dstack_vpn.mesh.device import WantedDevice
from dstack_vpn.mesh.events import Event
from dstack_vpn.mesh.health import Health, assess
from dstack_vpn.mesh.membership import Membership
from dstack_vpn.mesh.plan import LocalNode
from dstack_vpn.mesh.snapshot import Snapshot
from dstack_vpn.reconcile import Reconciler
from dstack_vpn.store import Store
from dstack_vpn.web.app import make_app
from dstack_vpn.web.render import render_health, render_stats
from dstack_vpn.web.server import HealthServer
from dstack_vpn.wireguard.conf import render_conf
from dstack_vpn.wireguard.conffile import write_conf
from dstack_vpn.wireguard.link import check_free, on_link_networks
from dstack_vpn.wireguard.userspace import UserspaceDevice

log = structlog.get_logger(component="bridge")

EVENT_BACKLOG = 1000
"""Events kept for a subscriber who does not read; older ones are dropped."""


class WireGuardContractBridge:
    """One node of the mesh: follows the contract and keeps the WireGuard device to it.

    Every keyword argument is a setting of the same name in lower case; what is not given comes
    from the environment, as for ``dstack-vpn up``::

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
            SettingError: a setting is missing or malformed.
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
        self._settings = settings or load_settings(
            overrides={name: str(value) for name, value in given.items() if value is not None}
        )
        self._stack = contextlib.AsyncExitStack()
        self._reconciler: Reconciler | None = None
        self._device: UserspaceDevice | None = None
        self._server: HealthServer | None = None
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._subscribers: set[deque[Event]] = set()
        self._news = asyncio.Condition()

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

    async def start(self) -> None:
        """Start to follow the contract and to serve health; returns when both run.

        It does not wait for membership: a node that is not a member yet waits for its token. See
        `wait_ready`.

        Raises:
            UserError: a key file, a port, a directory or this host does not allow it.
        """
        if self._task is not None:
            raise RuntimeError("the bridge was started already")
        try:
            reconciler = self._reconciler = await self._build()
            app = make_app(self, self._settings)
            server = HealthServer(app, self._settings.health_host, self._settings.health_port)
            self._server = await self._stack.enter_async_context(server)
        except BaseException:
            await self._stack.aclose()
            raise
        log.info(
            "bridge.started",
            public_key=str(reconciler.snapshot.public_key),
            health=f"{self._settings.health_host}:{self._server.port}",
            contract=self._settings.contract,
            network=self._settings.network.name,
        )
        # The one loose task of the project: it must outlive this call. `wait_stopped` and `stop`
        # hand on how it ended, and readers see a snapshot that no longer moves.
        self._task = asyncio.get_running_loop().create_task(self._run(), name="bridge")

    async def _build(self) -> Reconciler:
        settings = self._settings
        key = load_identity(settings)
        store = Store(settings.state_dir / "state.db")
        self._stack.callback(store.close)
        device = UserspaceDevice(
            settings.interface,
            key,
            mtu=settings.mtu,
            marker=settings.state_dir / f"{settings.interface}.device.json",
        )
        addresses = AddressPlan.of(
            settings.network.chain_id, settings.contract, settings.ipv4_range
        )
        await check_free(addresses.networks, interface=settings.interface)
        await device.check()
        local = LocalNode(
            node_id=settings.node_id,
            public_key=key.public,
            interface=settings.interface,
            listen_port=settings.listen_port,
            mtu=settings.mtu,
            keepalive=settings.keepalive,
            addresses=addresses,
            static_endpoints=settings.endpoints,
            endpoint_template=settings.endpoint_template,
            on_link=await on_link_networks(ignoring=settings.interface),
        )
        follower = make_follower(settings)
        self._stack.push_async_callback(follower.aclose)
        self._device = device

        def write(wanted: WantedDevice, membership: Membership) -> None:
            text = render_conf(wanted, block=membership.block, private_key=key.reveal())
            write_conf(settings.wireguard_conf, text)

        return Reconciler(
            settings=settings,
            local=local,
            source=follower,
            device=device,
            store=store,
            write_conf=write,
            publish=self._publish,
        )

    async def _run(self) -> None:
        assert self._reconciler is not None
        try:
            await self._reconciler.run()
        except BaseExceptionGroup as group:
            # One failed part stops the others; what went wrong is its first error.
            users, _ = group.split(DstackVpnError)
            raise _first(users or group) from None
        finally:
            self._changed.set()
            async with self._news:
                self._news.notify_all()

    async def stop(self, *, keep_device: bool = False) -> None:
        """Stop all parts, take the device down, and leave nothing behind but the state directory.

        Args:
            keep_device: leave the device and its sessions running, to be adopted by the next start.
        """
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, DstackVpnError):
                await task
        try:
            if self._device is not None and not keep_device:
                await self._device.destroy()
                self._settings.wireguard_conf.unlink(missing_ok=True)
        finally:
            await self._stack.aclose()
        log.info("bridge.stopped", device="kept" if keep_device else "down")

    async def wait_stopped(self) -> None:
        """Return when the bridge ends by itself; raises what ended it."""
        if self._task is not None:
            await asyncio.shield(self._task)

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
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise TimeoutError(f"not ready after {timeout:g} s: {self.assess().reason}") from None

    @property
    def snapshot(self) -> Snapshot:
        """The newest snapshot; frozen."""
        if self._reconciler is None:
            raise RuntimeError("the bridge has not been started")
        return self._reconciler.snapshot

    def assess(self, fresh: float | None = None) -> Health:
        """Judge the newest snapshot now; `fresh` is the strict form of readiness, in seconds."""
        # The view may be newer than the last cycle, which only runs when something changed.
        return assess(
            self.snapshot,
            now=asyncio.get_running_loop().time(),
            dark_after=self._settings.dark_after,
            fresh=fresh,
            trusts_one_provider=self._settings.trusts_one_provider,
        )

    def health(self) -> Mapping[str, Any]:
        """What /health answers."""
        return render_health(self.snapshot, self.assess(), wall_now=time.time())

    def stats(self) -> Mapping[str, Any]:
        """What /stats answers."""
        return render_stats(self.snapshot, self.assess(), wall_now=time.time())

    def access(self, node_id: str) -> Decision:
        """The verdict on a node id, with its reason."""
        return find(self.snapshot.decisions, node_id)

    async def events(self) -> AsyncIterator[Event]:
        """Iterate over what happens from now on, until the bridge stops.

        A subscriber who does not read for long loses the oldest events.
        """
        backlog: deque[Event] = deque(maxlen=EVENT_BACKLOG)
        self._subscribers.add(backlog)
        try:
            while True:
                while backlog:
                    yield backlog.popleft()
                if self._task is None or self._task.done():
                    return
                async with self._news:
                    await self._news.wait()
        finally:
            self._subscribers.discard(backlog)

    async def dry_run(self) -> str:
        """Say what `start` would change, and change nothing.

        Raises:
            UserError: a setting, the chain or this host is not as it must be.
            ChainError: the chain cannot be read.
        """
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
