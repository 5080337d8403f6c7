"""Sizes that pass on a real path: a healthy one, and one that swallows what is large in silence."""

import sys

import pytest

from dstack_vpn.wireguard.pathprobe import checksum
from lab.host import Host
from lab.lab import Lab
from lab.process import run

PROBE = """
import asyncio, sys, time
from ipaddress import ip_address
from dstack_vpn.errors import HostError
from dstack_vpn.wireguard.pathprobe import largest_packet
begin = time.monotonic()
try:
    print(asyncio.run(largest_packet(ip_address(sys.argv[1]), mtu=int(sys.argv[2]))))
except HostError as error:
    sys.exit(str(error))
assert time.monotonic() - begin < 2.5
"""


async def probe(host: Host, address: object, mtu: int = 1500, *prefix: str) -> str:
    """What a probe on a host finds."""
    ended = await host.run(
        *prefix, sys.executable, "-c", PROBE, str(address), str(mtu), check=False
    )
    return ended.out.strip()


def test_checksum() -> None:
    """The example of RFC 1071, section 3; with it in its place the sum is 0, odd lengths too."""
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2
    assert checksum(bytes.fromhex("0001f203f4f5f6f7220d")) == 0
    assert checksum(b"\x01") == checksum(b"\x01\x00")


@pytest.mark.parametrize("ping", [True, False], ids=["ping socket", "raw socket"])
async def test_sizes(lab: Lab, ping: bool) -> None:
    """Full size on a healthy path; the very limit of a narrow one; None where nobody answers."""
    one, two = await lab.host("one"), await lab.host("two")
    span = "0 2147483647" if ping else "1 0"
    await one.run("sh", "-c", f"echo {span} > /proc/sys/net/ipv4/ping_group_range")
    ip4, ip6 = two.addresses.ip4.ip, two.addresses.ip6.ip
    assert await probe(one, ip4) == "1500"
    assert await probe(one, ip6) == "1500"
    # The switch forwards no frame that is too large for the port, and tells nobody.
    await run("ip", "link", "set", two.port, "mtu", "1391")
    assert await probe(one, ip4) == "1391"
    assert await probe(one, ip6) == "1391"
    assert await probe(one, two.addresses.ip4.network[250]) == "None"


async def test_no_right(lab: Lab) -> None:
    """Whoever may not send echo requests is told so."""
    one = await lab.host("one")
    await one.run("sh", "-c", "echo 1 0 > /proc/sys/net/ipv4/ping_group_range")
    told = await probe(
        one, one.ip4, 1500, "setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw"
    )
    assert told.startswith("no right to send echo requests")
