"""Addresses inside the mesh: a function of chain, contract and token id, stable for life.

No allocator and no wrapping: two tokens never share an address, and every node computes the same
one without asking anybody.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from dstack_vpn.mesh.device import IpInterface, IpNetwork, shared
from dstack_vpn.mesh.membership import Address

DEFAULT_IPV4 = IPv4Network("10.213.0.0/16")
"""Clear of the ranges that Docker, Podman, Kubernetes, QEMU and dstack use by default."""

MAX_TOKEN_ID = 2**64 - 1
"""The host part of an IPv6 address has 64 bits."""


@dataclass(frozen=True, slots=True)
class AddressPlan:
    """The ranges of one mesh."""

    ipv6: IPv6Network
    """The mesh's own /48, from the unique local range of RFC 4193."""
    ipv4: IPv4Network

    @classmethod
    def of(
        cls, chain_id: int, contract: Address, ipv4: IPv4Network = DEFAULT_IPV4
    ) -> "AddressPlan":
        """Derive the ranges.

        The /48 is ``fd`` and the first 5 bytes of
        ``sha256("dstack-vpn" + chain id as 32 bytes big-endian + the 20 address bytes)``.
        """
        seed = b"dstack-vpn" + chain_id.to_bytes(32, "big") + bytes.fromhex(contract[2:])
        prefix = b"\xfd" + hashlib.sha256(seed).digest()[:5]
        return cls(IPv6Network((prefix + bytes(10), 48)), ipv4)

    @property
    def networks(self) -> tuple[IpNetwork, ...]:
        """All ranges, for overlap checks and routes."""
        return self.ipv4, self.ipv6

    def addressable(self, token_id: int) -> bool:
        """Whether the token has an address at all: ids from 1 to 2^64-1."""
        return 1 <= token_id <= MAX_TOKEN_ID

    def interfaces(self, token_id: int) -> tuple[IpInterface, ...]:
        """The addresses of a token with the prefix of the mesh, IPv4 first where it has one.

        Subnet 0 of the /48 holds the nodes; subnet 1 is kept for probe addresses. IPv4 is network
        base + token id for ids that fit, broadcast left out.

        Raises:
            ValueError: the token is not addressable.
        """
        if not self.addressable(token_id):
            raise ValueError(f"token id {token_id} has no address: accepted are 1 to 2^64-1")
        v6 = IPv6Address(int(self.ipv6.network_address) + token_id)
        addresses: list[IpInterface] = [IPv6Interface((v6, self.ipv6.prefixlen))]
        if token_id < self.ipv4.num_addresses - 1:
            v4 = self.ipv4.network_address + token_id
            addresses.insert(0, IPv4Interface((v4, self.ipv4.prefixlen)))
        return tuple(addresses)

    def hosts(self, token_id: int) -> tuple[IpNetwork, ...]:
        """The addresses of a token as single-host networks: its allowed IPs, IPv4 first.

        Raises:
            ValueError: the token is not addressable.
        """
        return _hosts(self, token_id)


@lru_cache(maxsize=2**17)
def _hosts(plan: AddressPlan, token_id: int) -> tuple[IpNetwork, ...]:
    # Asked for every member in every plan; making the objects anew was most of a plan's time.
    return shared(
        tuple(
            IPv4Network((int(i.ip), 32)) if i.version == 4 else IPv6Network((int(i.ip), 128))
            for i in plan.interfaces(token_id)
        )
    )
