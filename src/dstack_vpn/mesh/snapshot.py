"""What readers get: one frozen `Snapshot` per cycle, and the view of the chain it rests on.

The health endpoints, the dashboard, the command line and the embedding API read snapshots and can
change nothing. The reconciler replaces the snapshot; it never alters one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from dstack_vpn.mesh.membership import Membership


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderStatus:
    """How one RPC provider does."""

    name: str
    """Host and number, such as ``rpc.example#1``; URLs may carry keys and are never shown."""
    healthy: bool
    """Its last answer was usable."""
    head: int | None
    """Newest block number that it reported and that was verified."""
    last_error: str | None
    requests: Mapping[str, int]
    """Requests sent so far, by JSON-RPC method."""
    failures: int
    """Requests without a usable answer so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainView:
    """What the follower knows at this moment."""

    membership: Membership | None
    """Newest membership; None before the first."""
    verified: bool
    """False while the membership only comes from the disk and no provider has confirmed it."""
    agreed_at: float | None
    """Monotonic seconds at which the providers last agreed on a head; None for never."""
    providers: tuple[ProviderStatus, ...]
    last_error: str | None
    """Why the last poll brought nothing, or None when it went well."""
    reorgs: int
    """Reorganisations undone so far."""
    resyncs: int
    """Full snapshots read so far, the first one included."""
