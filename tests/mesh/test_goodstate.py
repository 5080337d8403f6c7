"""The way back after a change that failed half-way, on a device that refuses ports and peers."""

from dataclasses import replace

import pytest

from dstack_vpn.errors import DeviceError
from dstack_vpn.mesh.device import DeviceChange, WantedDevice
from dstack_vpn.mesh.diff import diff
from dstack_vpn.mesh.goodstate import back_to, good_state
from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.wireguard.memory import MemoryDevice
from wireguard.samples import device, key, peer

PRIVATE_KEY = PrivateKey(bytes(range(1, 33)))
GOOD = device(PRIVATE_KEY, peer(1), peer(2), listen_port=51820, addresses=("10.213.0.9/16",))


class PortTaken(MemoryDevice):
    """Somebody else has port 51900; the link is altered when that is found, peers not yet."""

    def alter(self, change: DeviceChange) -> None:
        """As a real device does: what stands before the refused line is in force."""
        if change.listen_port != 51900:
            super().alter(change)
            return
        removals = tuple(p for p in change.peers if hasattr(p, "reason"))
        super().alter(replace(change, listen_port=None, peers=removals))
        raise DeviceError(f"{self.name} refused listen_port=51900: address already in use")


async def at_work(wanted: WantedDevice = GOOD) -> MemoryDevice:
    """A device on which a plan is in force."""
    made = PortTaken("wg0", PRIVATE_KEY)
    await made.create()
    await made.apply(diff(wanted, made.look()))
    assert not diff(wanted, made.look())
    return made


async def fails(made: MemoryDevice, plan: WantedDevice) -> None:
    """Apply a plan, which the device refuses."""
    with pytest.raises(DeviceError):
        await made.apply(diff(plan, made.look()))


async def test_a_refused_port_leaves_the_interface_as_it_was() -> None:
    """Port, MTU and addresses are back; the peers are those of the plan, who is out stays out."""
    made = await at_work()
    good = good_state(GOOD)
    assert good is not None
    plan = device(
        PRIVATE_KEY, peer(1), peer(3), listen_port=51900, mtu=1300, addresses=("10.213.0.10/16",)
    )
    await fails(made, plan)
    half = made.look()
    assert half is not None
    assert (half.listen_port, half.mtu, set(half.peers)) == (51820, 1300, {key(1)})

    await made.apply(back_to(good, half, plan, reasons={}))

    assert not diff(replace(GOOD, peers=plan.peers), made.look())


async def test_a_removal_is_never_undone() -> None:
    """Also where it had not been carried out yet, and the good state had the peer."""
    made = await at_work()
    good, seen = good_state(GOOD), made.look()
    assert good is not None
    assert seen is not None
    plan = device(PRIVATE_KEY, peer(1), listen_port=51900, addresses=("10.213.0.9/16",))
    change = back_to(good, seen, plan, reasons={key(2): "revoked in block 3"})
    assert "revoked in block 3" in repr(change.peers)
    await made.apply(change)
    assert set(made.peers) == {key(1)}


async def test_no_addresses_for_one_who_is_out() -> None:
    """A plan without addresses is that of no member; the good state gives none back."""
    made = await at_work()
    good, seen = good_state(GOOD), made.look()
    assert good is not None
    assert seen is not None
    await made.apply(back_to(good, seen, device(PRIVATE_KEY, listen_port=51900), reasons={}))
    assert not diff(device(PRIVATE_KEY, listen_port=51820), made.look())


async def test_a_refused_peer_changes_nothing_of_the_interface() -> None:
    """The way back then asks for that peer alone: all else is in force."""
    made = await at_work()
    made.refused.add(key(3))
    plan = replace(GOOD, peers={**GOOD.peers, key(3): peer(3)})
    await fails(made, plan)
    good, seen = good_state(GOOD), made.look()
    assert good is not None
    assert seen is not None
    change = back_to(good, seen, plan, reasons={})
    assert not replace(change, peers=())
    assert len(change.peers) == 1


async def test_the_key_is_put_back_with_the_rest() -> None:
    """The identity is the plan's: a device that lost its key gets it."""
    made = await at_work()
    good, seen = good_state(GOOD), made.look()
    assert good is not None
    assert seen is not None
    assert back_to(good, replace(seen, public_key=None), GOOD, reasons={}).set_key


async def test_what_is_adopted_is_good_while_it_works() -> None:
    """A device that is down or has no key is nothing to go back to."""
    made = await at_work()
    seen = made.look()
    assert seen is not None
    assert good_state(seen) == good_state(GOOD)
    assert good_state(replace(seen, up=False)) is None
    assert good_state(replace(seen, public_key=None)) is None
