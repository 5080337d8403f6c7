"""The local node as it is in force: by its settings, unless a rollback replaces some of them.

Built by the bridge and asked by the reconciler once a cycle, so that a rollback that an operator
wishes for is in force without a restart. What a rollback means is `mesh.rollback`.
"""

from dataclasses import replace

from dstack_vpn.mesh.plan import LocalNode
from dstack_vpn.mesh.rollback import InterfaceSettings
from dstack_vpn.wireguard.rollbackfile import RollbackFile


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
