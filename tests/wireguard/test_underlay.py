"""MTU=auto: what fits the network underneath."""

import sys

import pytest

from dstack_vpn.wireguard.underlay import fitting, read_routes
from lab.lab import Lab


@pytest.mark.parametrize(
    ("links", "mtu"),
    [
        ((), 1420),
        ((1500,), 1420),
        ((1450, 1500), 1370),
        ((None, 1400), 1320),
        ((None,), 1420),
        ((9001,), 1420),
        ((1280,), 1280),
        ((68,), 1280),
    ],
)
def test_what_fits(links: tuple[int | None, ...], mtu: int) -> None:
    """The smallest link less 80, within what IPv6 asks for and what the world passes."""
    assert fitting(links) == mtu


def test_routes_as_iproute2_prints_them() -> None:
    """With a metric of their own, with several next hops, and without a device."""
    text = """[
        {"dst":"default","gateway":"10.0.0.1","dev":"eth0","flags":[],"metrics":[{"mtu":1400}]},
        {"dst":"default","nexthops":[{"dev":"a"},{"dev":"b"}]},
        {"type":"unreachable","dst":"10.9.0.0/16","flags":[]},
        {"dst":"10.0.0.0/24","dev":"eth0","scope":"link"}]"""
    assert read_routes(text) == [
        (True, "eth0", 1400),
        (True, "a", None),
        (True, "b", None),
        (False, "", None),
        (False, "eth0", None),
    ]
    assert read_routes("") == []


async def test_a_host_with_a_smaller_link(lab: Lab) -> None:
    """Neighbours alone count where there is no default route, else only what leads out."""
    host = await lab.host("a")
    program = (
        "import asyncio; from dstack_vpn.wireguard.underlay import best_mtu;"
        "print(asyncio.run(best_mtu(ignoring='wg0')))"
    )

    async def found() -> int:
        return int((await host.run(sys.executable, "-c", program)).out)

    assert await found() == 1420
    await host.run("ip", "link", "set", "eth0", "mtu", "1450")
    assert await found() == 1370
    await host.run("ip", "link", "add", "out", "type", "veth", "peer", "in")
    await host.run("ip", "link", "set", "out", "mtu", "1400", "up")
    await host.run("ip", "addr", "add", "192.0.2.1/24", "dev", "out")
    assert await found() == 1320
    await host.run("ip", "route", "add", "default", "dev", "eth0")
    assert await found() == 1370
    await host.run("ip", "route", "add", "default", "dev", "out", "metric", "9", "mtu", "1380")
    assert await found() == 1300
