"""The way back after a change that failed half-way: to what was good of the interface. Pure.

A set of changes is not a transaction: when a device refuses one part, such as a port that somebody
else has, any part may be in force. What was good of the interface is then put back. Peers are no
part of that: who is a peer follows from the membership alone, and a removal is never undone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dstack_vpn.mesh.device import DeviceChange, IpInterface, SeenDevice, WantedDevice
from dstack_vpn.mesh.diff import diff
from dstack_vpn.mesh.keys import PublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Good:
    """What an interface was when all that was wanted of it was in force."""

    listen_port: int
    """0 leaves alone what the device has."""
    mtu: int
    addresses: tuple[IpInterface, ...]


def good_state(device: WantedDevice | SeenDevice) -> Good | None:
    """What is good of a device: a plan that was applied in full, or one that was adopted.

    Returns:
        None for a device that is not at work: it is down, or has no key.
    """
    if isinstance(device, SeenDevice) and (not device.up or device.public_key is None):
        return None
    return Good(listen_port=device.listen_port, mtu=device.mtu, addresses=device.addresses)


def back_to(
    good: Good, seen: SeenDevice, plan: WantedDevice, *, reasons: Mapping[PublicKey, str]
) -> DeviceChange:
    """The change that puts back what was good, and brings the peers to the plan.

    Where the plan wants no addresses, none are given back: the node is no member.

    Args:
        good: what was in force before.
        seen: the device as the failed change left it.
        plan: what was to be in force.
        reasons: why a key is not wanted, as for `diff`.
    """
    wanted = replace(
        plan,
        listen_port=good.listen_port,
        mtu=good.mtu,
        addresses=good.addresses if plan.addresses else (),
    )
    return diff(wanted, seen, reasons=reasons)
