"""No packet for a member leaves a node but by the tunnel, whatever happens to the device."""

import json

from agent.mesh import Mesh
from agent.test_policy import FAST, V4, ip6, routes_out
from dstack_vpn.mesh.addresses import AddressPlan
from dstack_vpn.mesh.membership import Address
from lab.host import Host
from lab.traffic import Stream
from lab.waiting import until

WATCH = """
table inet watch {{
  counter leaked {{ }}
  chain output {{
    type filter hook output priority 0;
    oifname eth0 ip daddr {v4} counter name leaked
    oifname eth0 ip6 daddr {v6} counter name leaked
  }}
}}
"""


async def test_no_packet_for_a_member_leaves_but_by_the_tunnel(mesh: Mesh) -> None:
    """Counted where they would leave, while all that may go wrong does; IPv4 and IPv6.

    After a wanted stop the host is like any other, which shows that the counter counts.
    """
    one, two = await mesh.join(2, settings=FAST)
    await routes_out(one.host)
    v6 = AddressPlan.of(31337, Address(mesh.nft.address.lower())).networks[1]
    await one.host.run("nft", "-f", "-", text=WATCH.format(v4=V4, v6=v6))
    targets = ("10.213.0.2", ip6(mesh, 2))
    streams = [await Stream.start(one.host, two.host, target) for target in targets]

    async def go_on() -> None:
        for stream in streams:
            await stream.flows()

    await go_on()
    for deed in ("ip link set wg0 down", "ip link del wg0", "pkill -9 -x wireguard-go"):
        repairs = len(one.log("device.repaired"))
        await one.host.run(*deed.split())
        # Packets alone do not tell: a new session begins with all that waited for it.
        await until(lambda known=repairs: len(one.log("device.repaired")) > known, deed)
        await go_on()
    await one.kill()
    await one.host.run("ip", "link", "del", "wg0")
    await one.start()
    await one.wait_ready()
    await go_on()
    # A member no more: its device stays, without addresses.
    await mesh.nft.revoke(1)
    for stream in streams:
        await stream.quiet()
    for stream in streams:
        assert (await stream.stop()).refused > 0
    assert await leaked(one.host) == 0

    assert await one.stop() == 0
    await one.host.ping("10.213.0.2", within=0.1)
    assert await leaked(one.host) > 0


async def leaked(host: Host) -> int:
    """Packets for the mesh that left in the clear."""
    text = (await host.run("nft", "-j", "list", "counter", "inet", "watch", "leaked")).out
    return int(json.loads(text)["nftables"][1]["counter"]["packets"])
