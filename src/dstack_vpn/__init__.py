"""dstack-vpn: a WireGuard mesh whose member list is an ERC-721 contract.

The embedding API is one name, :class:`WireGuardContractBridge`; everything else is internal.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dstack_vpn.bridge import WireGuardContractBridge

__version__ = "0.1.0"
__all__ = ["WireGuardContractBridge", "__version__"]


def __getattr__(name: str) -> Any:
    # Late, so that `dstack-vpn --version` or a pure import does not load the whole agent.
    if name == "WireGuardContractBridge":
        from dstack_vpn.bridge import WireGuardContractBridge  # noqa: PLC0415

        return WireGuardContractBridge
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
