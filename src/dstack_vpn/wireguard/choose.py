"""Which WireGuard carries the packets: the kernel's, or wireguard-go.

Asked once, by the bridge at its start. A device of ours that is there already is kept with what
carries it, for its sessions and counters live there; only an explicit wish ends it.
"""

from pathlib import Path

import structlog

from dstack_vpn.errors import DeviceError, HostError
from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.wireguard import genetlink, link
from dstack_vpn.wireguard.backend import Backend
from dstack_vpn.wireguard.genetlink import Dial
from dstack_vpn.wireguard.kernel import AddLink, KernelDevice
from dstack_vpn.wireguard.userspace import UserspaceDevice

log = structlog.get_logger()


def note_path(directory: Path, name: str) -> Path:
    """Where in a state directory it is noted that wireguard-go's device of this name is ours."""
    return directory / f"{name}.device.json"


def kernel_note_path(note: Path) -> Path:
    """The same for the kernel's device, beside the other."""
    return note.with_name(f"{note.name}.kernel")


async def open_device(
    name: str,
    private_key: PrivateKey,
    *,
    marker_path: Path,
    backend: str,
    touch: bool = True,
    dial: Dial = genetlink.dial,
    add_link: AddLink = link.add_wireguard,
) -> Backend:
    """Choose what carries the device, and say so in the log.

    With ``auto`` and no device of ours, the kernel's is made at once if it can be: nothing else
    proves that it can.

    Args:
        name: interface name.
        private_key: of the node.
        marker_path: where to note that a device is ours; the kernel's note lies beside it.
        backend: ``auto``, ``kernel`` or ``userspace``, as WIREGUARD_BACKEND has it.
        touch: False to make and end nothing; what would be made is then a guess.
        dial: how a socket to the kernel is opened.
        add_link: how an interface of the kernel's is made.

    Raises:
        HostError: the interface belongs to somebody else, or the kernel that was asked for has no
            WireGuard.
        DeviceError: what is there cannot be found out now.
    """
    kernel = KernelDevice(
        name,
        private_key,
        marker_path=kernel_note_path(marker_path),
        dial=dial,
        add_link=add_link,
    )
    userspace = UserspaceDevice(name, private_key, marker_path=marker_path)
    chosen, reason = await _choose(backend, kernel, userspace, touch=touch)
    log.info("device.backend", device=name, backend=chosen.kind, reason=reason)
    return chosen


async def _choose(
    wish: str, kernel: KernelDevice, userspace: UserspaceDevice, *, touch: bool
) -> tuple[Backend, str]:
    running = await _running(kernel, userspace)
    if wish == "auto":
        if running is not None:
            return running, "our device is there already"
        return await _best(kernel, userspace) if touch else (userspace, "nothing is made")
    wanted: Backend = kernel if wish == "kernel" else userspace
    if wanted is kernel:
        await kernel.require_kernel()
    if running is not None and running is not wanted:
        if not touch:
            return (
                running,
                f"our device is there; WIREGUARD_BACKEND is {wish}, so it would be ended",
            )
        log.warning("device.replaced", device=running.name, old=running.kind, new=wanted.kind)
        await running.destroy()
    return wanted, f"WIREGUARD_BACKEND is {wish}"


async def _running(kernel: KernelDevice, userspace: UserspaceDevice) -> Backend | None:
    """The device of ours that is there; somebody else's is a HostError."""
    if await kernel.look() is not None:
        return kernel
    if not link.exists(kernel.name):
        return None
    # A TUN device: ours, or another program's, which `seen` says in a sentence.
    await userspace.seen()
    return userspace


async def _best(kernel: KernelDevice, userspace: UserspaceDevice) -> tuple[Backend, str]:
    try:
        await kernel.create()
    except (HostError, DeviceError) as error:
        return userspace, str(error)
    return kernel, "the kernel has WireGuard"
