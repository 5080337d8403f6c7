"""The interface: what iproute2 is told, what became of it, and which ranges the host has."""

import resource
from ipaddress import IPv4Network, ip_interface, ip_network
from pathlib import Path

import pytest

from dstack_vpn.errors import DeviceError, HostError
from dstack_vpn.mesh.device import DeviceChange
from dstack_vpn.wireguard import link
from dstack_vpn.wireguard.channel import connect
from lab.fixtures import need_lab
from lab.process import run
from wireguard.samples import unique_name


def test_a_change_in_the_words_of_ip() -> None:
    """Removals before additions, MTU before up, IPv6 usable at once."""
    change = DeviceChange(
        name="wg0",
        mtu=1380,
        up=True,
        remove_addresses=(ip_interface("10.1.0.1/16"),),
        add_addresses=(ip_interface("10.213.0.7/16"), ip_interface("fd00::7/48")),
        listen_port=1,
    )
    assert link.render_link("wg0", change, change.add_addresses) == (
        "address delete 10.1.0.1/16 dev wg0",
        "link set dev wg0 mtu 1380",
        "link set dev wg0 up",
        "address replace 10.213.0.7/16 dev wg0",
        "address replace fd00::7/48 dev wg0 nodad",
    )
    assert link.render_link("wg0", DeviceChange(name="wg0", listen_port=1), ()) == ()


@pytest.fixture
async def interface() -> str:
    """An interface to work on, which goes with the lab; a bridge, since no kernel lacks that."""
    need_lab()
    name = unique_name()
    await run("ip", "link", "add", name, "type", "bridge")
    return name


async def test_a_link_is_altered(interface: str) -> None:
    """What was asked for is there when alter returns, IPv6 included, and may be asked for twice."""
    change = DeviceChange(
        name=interface,
        mtu=1380,
        up=True,
        add_addresses=(ip_interface("10.77.0.7/16"), ip_interface("fd77::7/48")),
    )
    for _ in range(2):
        assert await link.alter(interface, change) == ()
        state = link.read(interface)
        assert state is not None
        assert (state.mtu, state.up, state.addresses) == (1380, True, change.add_addresses)
    tentative = await run("ip", "-6", "address", "show", "dev", interface, "scope", "global")
    assert "fd77::7" in tentative.out
    assert "tentative" not in tentative.out
    assert IPv4Network("10.77.0.0/16") in await link.on_link_networks(ignoring="")
    assert IPv4Network("10.77.0.0/16") not in await link.on_link_networks(ignoring=interface)


async def test_one_refused_line_does_not_stop_the_others(interface: str) -> None:
    """An address that is gone already is an error, and the rest of the change is made."""
    change = DeviceChange(
        name=interface,
        up=True,
        remove_addresses=(ip_interface("10.78.0.1/16"),),
        add_addresses=(ip_interface("10.79.0.1/16"),),
    )
    with pytest.raises(DeviceError, match="ip -force -batch - failed: "):
        await link.alter(interface, change)
    state = link.read(interface)
    assert state is not None
    assert (state.up, state.addresses) == (True, change.add_addresses)


async def test_without_ipv6_the_rest_works(interface: str) -> None:
    """Where IPv6 is switched off the IPv4 address is set, and a sentence says what is missing."""
    await run("sysctl", "-qw", f"net.ipv6.conf.{interface}.disable_ipv6=1")
    assert not link.ipv6_enabled(interface)
    change = DeviceChange(
        name=interface,
        up=True,
        add_addresses=(ip_interface("10.80.0.7/16"), ip_interface("fd80::7/48")),
    )
    (warning,) = await link.alter(interface, change)
    assert "IPv6 is switched off" in warning
    state = link.read(interface)
    assert state is not None
    assert state.addresses == change.add_addresses[:1]


async def test_ranges_are_checked_against_the_real_routes(interface: str) -> None:
    """A range on an interface of the host is refused with both names; our own does not count."""
    taken = ip_network("10.81.0.0/16")
    await run("ip", "address", "add", "10.81.3.1/24", "dev", interface)
    await run("ip", "link", "set", interface, "up")
    with pytest.raises(
        HostError, match=f"10.81.0.0/16 overlaps the route 10.81.3.* dev {interface}"
    ):
        await link.check_ranges([taken], "wg0")
    await link.check_ranges([taken], interface)
    await link.check_ranges([ip_network("10.82.0.0/16"), ip_network("fd82::/48")], "wg0")


async def test_an_address_without_a_route_counts_too(interface: str) -> None:
    """An address of the host that no connected route shows is found in the local table."""
    await run("ip", "address", "add", "10.83.3.1/24", "dev", interface, "noprefixroute")
    await run("ip", "link", "set", interface, "up")
    with pytest.raises(HostError, match="overlaps"):
        await link.check_ranges([ip_network("10.83.0.0/16")], "wg0")


async def test_a_missing_interface_is_none() -> None:
    """No interface is no error."""
    need_lab()
    assert link.read("no-such-link") is None
    assert not link.exists("no-such-link")


async def test_without_files_left_nothing_is_taken_for_gone() -> None:
    """A device that cannot be looked at is not one that vanished: that would be ended."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(DeviceError, match="Too many open files"):
            link.exists("lo")
        with pytest.raises(DeviceError, match="Too many open files"):
            link.read("lo")
        with pytest.raises(DeviceError, match="Too many open files"):
            async with connect("wg0", Path("/nowhere/wg0.sock")):
                pass
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert link.exists("lo")
