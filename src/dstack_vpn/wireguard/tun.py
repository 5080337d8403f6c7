"""Why a userspace device could not be started: found out after the fact, said as a sentence.

wireguard-go prints its reason to a stream that we do not keep (see `process.spawn`), so the steps
that it takes are tried once more here. Format of the request: Linux, Documentation/networking/
tuntap.rst.
"""

import errno
import fcntl
import os
import struct
from pathlib import Path

from dstack_vpn.errors import DeviceError, DstackVpnError, HostError

TUN = Path("/dev/net/tun")

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_IFREQ = struct.Struct("16sH22x")


def why_not(name: str, program: str, sockets: Path) -> DstackVpnError:
    """Find out why the program ended at its start; an error to be raised.

    Args:
        name: the interface that it should have made.
        program: wireguard-go, as it was called.
        sockets: the directory of its control sockets.
    """
    try:
        file = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return HostError(
            f"there is no {TUN}: load the module (modprobe tun), "
            f"or give the container the device (--device {TUN})"
        )
    except OSError as error:
        return HostError(
            f"{TUN} cannot be opened ({error.strerror}): run as root, "
            f"or give the container the device (--device {TUN})"
        )
    try:
        fcntl.ioctl(file, _TUNSETIFF, _IFREQ.pack(name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return HostError(
                f"interface {name} is taken by another program: set another WG_INTERFACE"
            )
        return HostError(
            f"no right to make the interface {name} ({error.strerror}): "
            "run as root or with the capability NET_ADMIN"
        )
    finally:
        os.close(file)
    try:
        sockets.mkdir(parents=True, exist_ok=True)
        writable = os.access(sockets, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        return HostError(
            f"{sockets} cannot be written, where {program} keeps its socket: "
            "make it writable (in a container, a tmpfs on /run)"
        )
    return DeviceError(f"{program} ended while it started")
