"""Reading a device, and bringing it to life, for the tests of every backend."""

from dstack_vpn.mesh.device import SeenDevice
from dstack_vpn.mesh.diff import diff
from dstack_vpn.wireguard.backend import Backend
from dstack_vpn.wireguard.kernel import KernelDevice
from dstack_vpn.wireguard.userspace import UserspaceDevice
from wireguard.samples import device, peer


async def look(backend: Backend) -> SeenDevice:
    """Read a device that must be there."""
    seen = await backend.seen()
    assert seen is not None
    return seen


async def begin(made: KernelDevice | UserspaceDevice, *, listen_port: int = 0) -> SeenDevice:
    """Create the device and give it our key and two peers."""
    await made.create()
    wanted = device(made._private_key, peer(1), peer(2), name=made.name, listen_port=listen_port)
    await made.apply(diff(wanted, await made.seen()))
    return await look(made)
