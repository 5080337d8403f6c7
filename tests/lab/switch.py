"""An Ethernet segment: a Linux bridge in the lab's own network namespace.

The bridge has addresses, so the test itself, and the chains that it starts, are one hop from every
host. Each switch takes a free number N and with it 10.99.N.0/24 and fd99:0:0:N::/64; so several
labs can live in one world.
"""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Self

from lab.process import run

MOST_ADDRESSES = 253


@dataclass(frozen=True, slots=True)
class Addresses:
    """What a machine is called on a switch."""

    ip4: IPv4Interface
    ip6: IPv6Interface


@dataclass(slots=True)
class Switch:
    """A segment that hosts are plugged into; made by `create`."""

    number: int
    name: str
    addresses: Addresses  #: of the lab itself
    _taken: int = field(default=1, init=False)

    @classmethod
    async def create(cls, number: int) -> Self:
        """Make the bridge and give the lab its addresses on it."""
        switch = cls(number, f"sw{number}", addresses_of(number, 1))
        # A bridge that snoops would wait for a multicast querier before it passes neighbour
        # discovery; duplicate address detection would hold each address back for a second.
        # A bridge without a fixed MAC takes the lowest of its ports': each host that is plugged in
        # could change it, and the others would send to the old one until they ask again.
        mac = f"02:00:00:00:00:{number:02x}"
        link = ("ip", "link", "add", switch.name, "address", mac)
        await run(*link, "type", "bridge", "mcast_snooping", "0")
        await run("ip", "addr", "add", str(switch.addresses.ip4), "dev", switch.name)
        await run("ip", "addr", "add", str(switch.addresses.ip6), "dev", switch.name, "nodad")
        await run("ip", "link", "set", switch.name, "up")
        return switch

    @property
    def ip4(self) -> IPv4Address:
        """The lab's IPv4 address on this switch."""
        return self.addresses.ip4.ip

    @property
    def ip6(self) -> IPv6Address:
        """The lab's IPv6 address on this switch."""
        return self.addresses.ip6.ip

    def take(self) -> Addresses:
        """The next free addresses, for a host."""
        self._taken += 1
        if self._taken > MOST_ADDRESSES:
            raise AssertionError(f"{self.name} is full")
        return addresses_of(self.number, self._taken)

    async def another_address(self) -> IPv4Address:
        """Give the lab one more address, as if another machine stood on the switch.

        An agent counts providers of one host as one vote, so each provider needs its own.
        """
        address = self.take().ip4
        await run("ip", "addr", "add", str(address), "dev", self.name)
        return address.ip

    async def remove_address(self, address: IPv4Address) -> None:
        """Take such an address away: that machine is gone, and nothing answers for it."""
        await run("ip", "addr", "del", f"{address}/24", "dev", self.name)

    async def close(self) -> None:
        """Remove the bridge."""
        await run("ip", "link", "del", self.name)


def addresses_of(switch: int, machine: int) -> Addresses:
    """The addresses of the n-th machine on a switch; the lab itself is machine 1."""
    return Addresses(
        IPv4Interface(f"10.99.{switch}.{machine}/24"),
        IPv6Interface(f"fd99:0:0:{switch:x}::{machine:x}/64"),
    )
