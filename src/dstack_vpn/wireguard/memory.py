"""A WireGuard device in memory: the test double for all that speaks to a `Backend`.

It does what a real device does, surprises included: an allowed IP moves silently to the peer that
got it last, removing that peer does not give it back, an update of an unknown peer is ignored, and
a set that fails half-way stays half done. The suite in tests/wireguard/test_backend.py runs against
this and against wireguard-go.
"""

from dataclasses import dataclass, field, replace

from dstack_vpn.errors import DeviceError
from dstack_vpn.mesh.device import (
    AddPeer,
    DeviceChange,
    IpInterface,
    IpNetwork,
    PeerChange,
    RemovePeer,
    SeenDevice,
    SeenPeer,
    SocketAddress,
    UpdatePeer,
)
from dstack_vpn.mesh.diff import sorted_interfaces, sorted_networks
from dstack_vpn.mesh.keys import PrivateKey, PublicKey

FIRST_PORT = 40000
"""The port that a device without a wanted one listens on."""


@dataclass(slots=True)
class MemoryDevice:
    """Keeps the promises of `backend.Backend` without a kernel."""

    name: str
    private_key: PrivateKey = field(repr=False)
    applied: list[DeviceChange] = field(default_factory=list)
    """Every change that was handed over, oldest first."""
    stalled: bool = False
    """Set it to have every exchange time out."""
    refused: set[PublicKey] = field(default_factory=set)
    """Keys that the device refuses to add or update."""
    device: SeenDevice | None = None
    """The device without its peers; None when there is none."""
    peers: dict[PublicKey, SeenPeer] = field(default_factory=dict)
    """Its peers without their allowed IPs."""
    owners: dict[IpNetwork, PublicKey] = field(default_factory=dict)
    """Which peer has an allowed IP: one at most."""
    allowed: dict[PublicKey, set[IpNetwork]] = field(default_factory=dict)
    """The same, the other way round."""

    @property
    def kind(self) -> str:
        """See `Backend.kind`."""
        return "memory"

    @property
    def target(self) -> None:
        """See `Backend.target`; it ends with the agent."""
        return

    async def seen(self) -> SeenDevice | None:
        """See `Backend.seen`."""
        self._answer()
        return self.look()

    async def create(self) -> None:
        """See `Backend.create`."""
        self._answer()
        if self.device is None:
            self.device = SeenDevice(
                name=self.name,
                public_key=None,
                listen_port=FIRST_PORT,
                mtu=1420,
                up=False,
                addresses=(),
                peers={},
            )

    async def apply(self, change: DeviceChange) -> None:
        """See `Backend.apply`."""
        self._answer()
        self.alter(change)

    async def destroy(self) -> None:
        """See `Backend.destroy`."""
        self.vanish()

    def vanish(self) -> None:
        """Delete the interface behind the agent's back."""
        self.device = None
        self.peers.clear()
        self.owners.clear()
        self.allowed.clear()

    def look(self) -> SeenDevice | None:
        """Read the device at once; for tests without a loop."""
        if self.device is None:
            return None
        peers = {
            key: replace(peer, allowed_ips=sorted_networks(self.allowed[key]))
            for key, peer in self.peers.items()
        }
        return replace(self.device, peers=peers)

    def alter(self, change: DeviceChange) -> None:
        """Carry out a change at once; for tests without a loop.

        Raises:
            DeviceError: there is no device, or it refused a peer; the rest was done.
        """
        if self.device is None:
            raise DeviceError(f"{self.name} is gone")
        self.applied.append(change)
        for peer in change.peers:
            if isinstance(peer, RemovePeer):
                self._remove(peer.key)
        self._alter_device(self.device, change)
        refused = [str(peer) for peer in change.peers if not self._alter_peer(peer)]
        if refused:
            raise DeviceError(f"{self.name} refused {len(refused)} peers: {refused[0]}")

    def hear(
        self, key: PublicKey, *, at: float, endpoint: SocketAddress, rx_bytes: int = 148
    ) -> None:
        """Let a peer make a handshake from an address (it roams there), at a wall-clock time."""
        peer = self.peers[key]
        self.peers[key] = replace(
            peer, endpoint=endpoint, last_handshake=at, rx_bytes=peer.rx_bytes + rx_bytes
        )

    def _answer(self) -> None:
        if self.stalled:
            raise DeviceError(f"{self.name} did not answer within 5 s")

    def _alter_device(self, device: SeenDevice, change: DeviceChange) -> None:
        addresses: set[IpInterface] = set(device.addresses)
        addresses -= set(change.remove_addresses)
        addresses |= set(change.add_addresses)
        self.device = replace(
            device,
            public_key=self.private_key.public if change.set_key else device.public_key,
            listen_port=device.listen_port if change.listen_port is None else change.listen_port,
            mtu=device.mtu if change.mtu is None else change.mtu,
            up=device.up or change.up,
            addresses=sorted_interfaces(addresses),
        )
        if change.set_key:  # a device that is given the key of one of its peers drops that peer
            self._remove(self.private_key.public)

    def _alter_peer(self, change: PeerChange) -> bool:
        """Add or update a peer; False when the device refuses it."""
        match change:
            case RemovePeer():
                return True  # done before
            case AddPeer(peer=peer):
                if self.device is not None and peer.key == self.device.public_key:
                    return _valid(peer.keepalive)  # its own key is ignored without a word
                self.peers.setdefault(peer.key, _fresh(peer.key))
                self.allowed.setdefault(peer.key, set())
                return self._set(peer.key, peer.allowed_ips, peer.endpoint, peer.keepalive)
            case UpdatePeer(key=key):
                if key not in self.peers:
                    return _valid(change.keepalive)
                return self._set(key, change.allowed_ips, change.endpoint, change.keepalive)

    def _set(
        self,
        key: PublicKey,
        allowed_ips: tuple[IpNetwork, ...] | None,
        endpoint: SocketAddress | None,
        keepalive: int | None,
    ) -> bool:
        if key in self.refused:
            return False  # the peer is there by now, as on a real device
        # In the order of the lines of a request: what stands before the refused line is in force.
        if endpoint is not None:
            self.peers[key] = replace(self.peers[key], endpoint=endpoint)
        if keepalive is not None:
            if not _valid(keepalive):
                return False
            self.peers[key] = replace(self.peers[key], keepalive=keepalive)
        if allowed_ips is not None:
            self._disown(key)
            for network in allowed_ips:
                robbed = self.owners.get(network, key)
                self.allowed[robbed].discard(network)
                self.owners[network] = key
                self.allowed[key].add(network)
        return True

    def _remove(self, key: PublicKey) -> None:
        if self.peers.pop(key, None) is not None:
            self._disown(key)
            del self.allowed[key]

    def _disown(self, key: PublicKey) -> None:
        for network in self.allowed[key]:
            del self.owners[network]
        self.allowed[key].clear()


def _valid(keepalive: int | None) -> bool:
    return keepalive is None or 0 <= keepalive <= 65535


def _fresh(key: PublicKey) -> SeenPeer:
    return SeenPeer(
        key=key,
        allowed_ips=(),
        endpoint=None,
        keepalive=0,
        last_handshake=0.0,
        rx_bytes=0,
        tx_bytes=0,
    )
