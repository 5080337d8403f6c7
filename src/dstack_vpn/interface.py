"""The local node as it is in force: by its settings, unless a rollback replaces some of them.

Built by the bridge and asked by the reconciler once a cycle, so that a rollback that an operator
wishes for is in force without a restart. What a rollback means is `mesh.rollback`.
"""

from collections.abc import Sequence
from dataclasses import replace

from dstack_vpn.config import Settings
from dstack_vpn.mesh.addresses import AddressPlan
from dstack_vpn.mesh.device import IpNetwork
from dstack_vpn.mesh.keys import PublicKey
from dstack_vpn.mesh.plan import LocalNode
from dstack_vpn.mesh.rollback import InterfaceSettings
from dstack_vpn.wireguard.link import ipv6_enabled
from dstack_vpn.wireguard.rollbackfile import ROLLBACK_FILE, RollbackFile
from dstack_vpn.wireguard.underlay import best_mtu


class Interface:
    """What this node brings to the plan, now."""

    def __init__(
        self, local: LocalNode, configured: InterfaceSettings, wish: RollbackFile, *, auto_mtu: int
    ) -> None:
        """Read the wish, if there is one.

        Args:
            local: with any listen port and MTU.
            configured: what the settings say of those two.
            wish: where a rollback is left.
            auto_mtu: bytes, where the settings leave the MTU open.
        """
        self.configured = configured
        self._wish = wish
        self._auto_mtu = auto_mtu
        self.in_force = wish.in_force(configured)
        self.local = self._made(local)

    def refresh(self) -> LocalNode | None:
        """Look for another wish, at the cost of one stat(2); None while nothing else is in force.

        Returns:
            The node as it is from now on.
        """
        if not self._wish.changed():
            return None
        self.in_force = self._wish.in_force(self.configured)
        before, self.local = self.local, self._made(self.local)
        return None if self.local == before else self.local

    def _made(self, local: LocalNode) -> LocalNode:
        settings = self.in_force.settings
        mtu = self._auto_mtu if settings.mtu is None else settings.mtu
        return replace(local, listen_port=settings.listen_port, mtu=mtu)


async def open_interface(
    settings: Settings,
    public_key: PublicKey,
    *,
    on_link: Sequence[IpNetwork] = (),
    read_only: bool = False,
) -> Interface:
    """What a node with these settings brings to its plans, on this host.

    Args:
        settings: of the node.
        public_key: its own.
        on_link: see `LocalNode.on_link`; whoever sends nothing needs none.
        read_only: leave also a rollback that has ended where it is.

    Raises:
        HostError: iproute2 is not installed.
        DeviceError: the routes of this host could not be read.
    """
    configured = InterfaceSettings(listen_port=settings.listen_port, mtu=settings.mtu)
    mtu = settings.mtu
    if mtu is None:
        mtu = await best_mtu(ignoring=settings.interface)
    network = settings.network
    local = LocalNode(
        node_id=settings.node_id,
        public_key=public_key,
        interface=settings.interface,
        listen_port=settings.listen_port,
        mtu=mtu,
        keepalive=settings.keepalive,
        addresses=AddressPlan.of(network.chain_id, settings.contract, settings.ipv4_range),
        static_endpoints=settings.endpoints,
        endpoint_template=settings.endpoint_template,
        ipv6=ipv6_enabled(settings.interface),
        on_link=tuple(on_link),
    )
    wish = RollbackFile(settings.state_dir / ROLLBACK_FILE, read_only=read_only)
    return Interface(local, configured, wish, auto_mtu=mtu)
