"""The agent's side of a device as a process of its own, to be run in a host and to be killed.

python driver.py NAME PRIVATE_KEY MARKER, then one JSON object a line on standard input:
{"address": ..., "listen_port": ..., "peers": [[key, ip, endpoint], ...], "others": N}. Each brings
the device there and prints `brought PID`, or `failed CLASS: SENTENCE`. Ends with standard input.
"""

import asyncio
import json
import sys
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

from dstack_vpn.errors import DstackVpnError
from dstack_vpn.mesh.device import SocketAddress, WantedDevice, WantedPeer
from dstack_vpn.mesh.diff import diff
from dstack_vpn.mesh.keys import PrivateKey, PublicKey
from dstack_vpn.wireguard.process import Process
from dstack_vpn.wireguard.userspace import UserspaceDevice


def read(name: str, private_key: PrivateKey, order: dict[str, Any]) -> WantedDevice:
    """Turn a line into what is wanted; the others are peers that exist nowhere."""
    peers = [
        WantedPeer(
            key=PublicKey.parse(key),
            token_id=1,
            node_id="peer",
            allowed_ips=(ip_network(ip),),
            endpoint=SocketAddress(ip_address(endpoint), 51820) if endpoint else None,
            keepalive=0,
        )
        for key, ip, endpoint in order["peers"]
    ]
    peers += [
        WantedPeer(
            key=PublicKey((1000 + number).to_bytes(32, "big")),
            token_id=1000 + number,
            node_id=f"other-{number}",
            allowed_ips=(ip_network((int(ip_address("10.98.64.0")) + number, 32)),),
            endpoint=None,
            keepalive=order.get("keepalive", 0),
        )
        for number in range(order["others"])
    ]
    return WantedDevice(
        name=name,
        public_key=private_key.public,
        listen_port=order["listen_port"],
        mtu=1420,
        addresses=(ip_interface(order["address"]),),
        peers={peer.key: peer for peer in peers},
    )


async def bring(device: UserspaceDevice, wanted: WantedDevice) -> str:
    """Do what the reconciler does in a turn."""
    try:
        await device.create()
        await device.apply(diff(wanted, await device.seen()))
    except DstackVpnError as error:
        return f"failed {type(error).__name__}: {error}"
    return f"brought {pid_of(wanted.name)}"


def pid_of(name: str) -> int:
    """Find the device's process by what it was started as."""
    entries = (entry.name for entry in Path("/proc").iterdir())
    processes = (Process.of(int(entry)) for entry in entries if entry.isdigit())
    (pid,) = [p.pid for p in processes if p is not None and p.command[1:] == ("-f", name)]
    return pid


async def main(name: str, key: str, marker: str) -> None:
    """Follow orders until there are no more."""
    private_key = PrivateKey.parse(key)
    device = UserspaceDevice(name, private_key, marker_path=Path(marker))
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(await bring(device, read(name, private_key, json.loads(line))), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
