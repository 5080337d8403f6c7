"""An agent that does nothing but keep its device's lease; to be killed, stopped and run twice.

python guard_driver.py KIND NAME PRIVATE_KEY DIRECTORY PERIOD brings the device to two peers unless
it has any, and then lets them stay for PERIOD seconds, again and again. Each renewal prints
`renewed PID-OF-THE-GUARD RAN-OUT`, a warning goes to a line of its own.
"""

import asyncio
import sys
from ipaddress import ip_interface
from pathlib import Path

from dstack_vpn.mesh.device import WantedDevice
from dstack_vpn.mesh.diff import diff
from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.wireguard import lease as leases
from dstack_vpn.wireguard.guardian import Guardian
from wireguard.driver import make, other


async def main(kind: str, name: str, key: str, directory: str, period: str) -> None:
    """Bring the device there, and keep its lease until killed."""
    private_key = PrivateKey.parse(key)
    device = make(kind, name, private_key, Path(directory, "marker"))
    await device.create()
    peers = [other(1), other(2)]
    wanted = WantedDevice(
        name=name,
        public_key=private_key.public,
        listen_port=0,
        mtu=1420,
        addresses=(ip_interface("10.98.0.1/16"),),
        peers={peer.key: peer for peer in peers},
    )
    seen = await device.seen()
    if seen is None or not seen.peers:
        await device.apply(diff(wanted, seen))
    guardian = Guardian(name, Path(directory))
    until = None
    while True:
        closes_at = asyncio.get_running_loop().time() + float(period)
        watched = await guardian.watch(device.target, closes_at)
        if watched.warning:
            print("warning", watched.warning, flush=True)
        held = leases.peek(str(guardian.path))
        if held is not None and held.until != until:
            until = held.until
            print("renewed", held.guard.pid, watched.ran_out, flush=True)
        await asyncio.sleep(0.02)


asyncio.run(main(*sys.argv[1:]))
