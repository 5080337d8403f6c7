"""The agent's side of a device as a process of its own, to be run in a host and to be killed.

python driver.py BACKEND NAME PRIVATE_KEY MARKER, then one JSON object a line on standard input:
{"address": ..., "listen_port": ..., "peers": [[key, ip, endpoint], ...], "others": N} brings the
device there, {"churn": N} makes N changes to it one by one: another peer comes, and goes again.
Each prints `brought INDEX PACKETS`, the interface's index and how many packets it had let in when
the last change had been applied, or `failed CLASS: SENTENCE`. Ends with standard input.
"""

import asyncio
import json
import socket
import sys
import time
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

from dstack_vpn.errors import DstackVpnError
from dstack_vpn.mesh.clock import WallClock
from dstack_vpn.mesh.device import (
    AddPeer,
    DeviceChange,
    RemovePeer,
    SocketAddress,
    WantedDevice,
    WantedPeer,
)
from dstack_vpn.mesh.diff import diff
from dstack_vpn.mesh.greet import greeted
from dstack_vpn.mesh.keys import PrivateKey, PublicKey
from dstack_vpn.mesh.plan import REJECT_AFTER
from dstack_vpn.wireguard.backend import Backend
from dstack_vpn.wireguard.kernel import KernelDevice
from dstack_vpn.wireguard.userspace import UserspaceDevice


def other(number: int, keepalive: int = 0) -> WantedPeer:
    """A peer that exists nowhere."""
    return WantedPeer(
        key=PublicKey((1000 + number).to_bytes(32, "big")),
        token_id=1000 + number,
        node_id=f"other-{number}",
        allowed_ips=(ip_network((int(ip_address("10.98.64.0")) + number, 32)),),
        endpoint=None,
        keepalive=keepalive,
    )


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
    peers += [other(number, order.get("keepalive", 0)) for number in range(order["others"])]
    return WantedDevice(
        name=name,
        public_key=private_key.public,
        listen_port=order["listen_port"],
        mtu=1420,
        addresses=(ip_interface(order["address"]),),
        peers={peer.key: peer for peer in peers},
    )


async def bring(device: Backend, wanted: WantedDevice) -> None:
    """Do what the reconciler does in a turn."""
    await device.create()
    seen = await device.seen()
    assert seen is not None
    now = time.monotonic()
    clock = WallClock().see(now=now, wall_now=time.time(), memory=REJECT_AFTER)
    await device.apply(greeted(diff(wanted, seen), wanted, seen, clock=clock, now=now))


async def churn(device: Backend, changes: int) -> None:
    """Add and remove peers in turn, each in a change of its own."""
    for number in range(changes):
        peer = other(number // 2)
        removal = RemovePeer(key=peer.key, reason="")
        change = removal if number % 2 else AddPeer(peer=peer)
        await device.apply(DeviceChange(name=device.name, peers=(change,)))


async def follow(device: Backend, private_key: PrivateKey, order: dict[str, Any]) -> str:
    """Carry out one order."""
    try:
        if "churn" in order:
            await churn(device, order["churn"])
        else:
            await bring(device, read(device.name, private_key, order))
    except DstackVpnError as error:
        return f"failed {type(error).__name__}: {error}"
    return f"brought {socket.if_nametoindex(device.name)} {let_in(device.name)}"


def let_in(name: str) -> int:
    """Read how many packets an interface has let in so far."""
    return int(Path(f"/sys/class/net/{name}/statistics/rx_packets").read_text())


def make(backend: str, name: str, private_key: PrivateKey, marker: Path) -> Backend:
    """The agent's device, without the agent's choice between the two."""
    if backend == "kernel":
        return KernelDevice(name, private_key, marker_path=marker)
    return UserspaceDevice(name, private_key, marker_path=marker)


async def main(backend: str, name: str, key: str, marker: str) -> None:
    """Follow orders until there are no more."""
    private_key = PrivateKey.parse(key)
    device = make(backend, name, private_key, Path(marker))
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(await follow(device, private_key, json.loads(line)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
