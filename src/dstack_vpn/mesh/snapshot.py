"""What readers get: one frozen `Snapshot` per cycle, and the view of the chain it rests on.

The health endpoints, the dashboard, the command line and the embedding API read snapshots and can
change nothing. The reconciler replaces the snapshot; it never alters one.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from dstack_vpn.mesh.access import Decision
from dstack_vpn.mesh.device import IpAddress, SeenDevice, WantedPeer
from dstack_vpn.mesh.keys import PublicKey
from dstack_vpn.mesh.membership import BlockHash, Membership, Suspects


class Subscription(StrEnum):
    """How it stands with being told of new heads unasked."""

    NONE = "none"
    """It is asked over HTTP, or is not connected."""
    LIVE = "live"
    SILENT = "silent"
    """Of the heads that are found by asking, it tells none."""


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
    voter: str = ""
    """Whose vote it is part of: its host, or the operator declared for that."""
    head_hash: BlockHash | None = None
    agrees: bool = False
    """Its chain has the agreed block, with the same members in it."""
    seen_at: float | None = None
    """Monotonic seconds of its last usable answer about the head."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """Answers that a check refuted, by check."""
    quarantined_until: float | None = None
    """Monotonic seconds until which removals on its word alone are ignored."""
    subscription: Subscription = Subscription.NONE


class AlarmCode(StrEnum):
    """What about the chain needs a person; stable words for scripts."""

    SUSPENDED = "suspended-by-one-source"
    """Members are out on the word of one provider; the others have not confirmed it yet."""
    QUARANTINED = "source-quarantined"
    """A provider told of a removal that enough others refuted; its word alone removes nobody."""
    DISAGREEMENT = "providers-disagree"
    """Providers have had different blocks, or different members, for longer than a moment."""
    PROVIDER_REFUSED = "provider-refused"
    """A provider is of another chain, or shows other code; nothing that it says is used."""
    FINALITY = "finality-violated"
    """A block that was final is gone; nobody is admitted until a person decides."""
    MEMBERS_DIFFERED = "members-differed"
    """A full compare found what following had not told; it was put right."""
    LOGS_DIFFERED = "logs-differed"
    """Final blocks, read a second time, had other logs than the first time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """One thing about the chain that needs a person."""

    code: AlarmCode
    text: str
    """One sentence; names providers by host and number."""
    provider: str = ""
    """Who caused it, where it is one."""
    since: float
    """Monotonic seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainView:
    """What the follower knows at this moment."""

    membership: Membership | None
    """Newest membership on which enough providers agree; None before the first."""
    verified: bool
    """False while the membership only comes from the disk and no provider has confirmed it."""
    agreed_at: float | None
    """Monotonic seconds at which enough providers last confirmed a head; None for never."""
    providers: tuple[ProviderStatus, ...]
    last_error: str | None
    """Why the last look brought nothing, or None when it went well."""
    reorgs: int
    """Reorganisations undone so far."""
    resyncs: int
    """Full snapshots read so far, the first one included."""
    confirmed: int | None = None
    """Admissions count whose `Node.since_block` is at most this; it stands still while nobody may
    be admitted. None: no admission counts."""
    suspects: Suspects = field(default_factory=dict)
    """By token id: tokens that a single provider has otherwise than `membership`, at a block that
    descends from the member's admission."""
    alarms: tuple[Alarm, ...] = ()
    advanced_at: float | None = None
    """Monotonic seconds at which the agreed head last became another one; None for never."""
    needed: int = 1
    """Votes that must agree."""
    voters: int = 1
    """Votes that there are."""
    deepest_reorg: int = 0
    """Blocks of the deepest reorganisation undone so far."""
    compares: int = 0
    """Full compares of the members with the contract so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything that a reader may know, as of the end of one cycle."""

    node_id: str
    public_key: PublicKey
    started_at: float
    """Wall-clock seconds since 1970 at which the bridge started."""
    cycle: int
    """Number of cycles so far."""
    chain: ChainView
    decisions: Mapping[int, Decision]
    """The verdict on each token, by token id; in no order."""
    own: Decision | None
    """The verdict on this node; None before the first membership."""
    device: SeenDevice | None
    """The device after the cycle; None when there is none."""
    peer_names: Mapping[PublicKey, WantedPeer]
    """Who is behind each key that is wanted on the device."""
    notes: Mapping[int, tuple[str, ...]]
    """By token id: what was left out of a granted node, and why."""
    resolved: Mapping[str, tuple[IpAddress, ...]] = field(default_factory=dict)
    """DNS name to addresses, as the plan had them."""
    applied_block: int | None
    """Newest block whose plan is on the device; None before the first."""
    pending: str | None
    """Why the device is not as planned, or None when it is."""
    fell_back: bool = False
    """The peers are as planned, the interface is as it was before what is pending was tried."""
    repairs: int = 0
    """Times that the device was found altered by somebody else, and put right."""
    last_repair: str | None = None
    closed: str | None
    """Why all peers were removed although they are members, or None."""
    unguarded: str | None = None
    """Why nobody would remove the members in time if this process died; None when all is well."""
    error_count: int
    last_error: str | None
    last_sentence: str
    """What the last cycle that changed something said that it did."""

    @property
    def lag_blocks(self) -> int | None:
        """Blocks between the newest head that any provider showed and the one on the device."""
        heads = [p.head for p in self.chain.providers if p.head is not None]
        if self.applied_block is None or not heads:
            return None
        return max(0, max(heads) - self.applied_block)

    @property
    def peerset_hash(self) -> str:
        """SHA-256 over the sorted keys and addresses on the device, this node's own included.

        Two members that applied one block show the same value; two that differ disagree.
        """
        lines: list[str] = []
        if self.device is not None:
            peers = self.device.peers.values()
            lines = [_member_line(p.key, [str(ip) for ip in p.allowed_ips]) for p in peers]
            own = [f"{a.ip}/{a.max_prefixlen}" for a in self.device.addresses]
            if own:
                lines.append(_member_line(self.public_key, own))
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _member_line(key: PublicKey, networks: list[str]) -> str:
    return f"{key.hex} {' '.join(sorted(networks))}"
