"""The values of a device: when a change is nothing, and how things are written."""

from dataclasses import replace
from ipaddress import IPv4Interface, ip_address

import pytest

from dstack_vpn.mesh.device import DeviceChange, FieldChange, RemovePeer, SocketAddress
from mesh.build import key_of

NOTHING = DeviceChange(name="wg0")
ADDRESS = IPv4Interface("10.213.0.1/16")


@pytest.mark.parametrize(
    "change",
    [
        replace(NOTHING, set_key=True),
        replace(NOTHING, listen_port=0),
        replace(NOTHING, mtu=1280),
        replace(NOTHING, up=True),
        replace(NOTHING, remove_addresses=(ADDRESS,)),
        replace(NOTHING, add_addresses=(ADDRESS,)),
        replace(NOTHING, peers=(RemovePeer(key=key_of(1), reason="x"),)),
    ],
)
def test_a_change_is_true_when_anything_must_happen(change: DeviceChange) -> None:
    """Each single thing makes a change true; none makes it false."""
    assert change
    assert not NOTHING


def test_socket_addresses_are_written_as_wireguard_does() -> None:
    """IPv6 stands in brackets."""
    written = [str(SocketAddress(ip_address(ip), 51820)) for ip in ("192.0.2.1", "2001:db8::1")]
    assert written == ["192.0.2.1:51820", "[2001:db8::1]:51820"]


def test_field_changes_name_what_was_not_there() -> None:
    """An empty value is called none."""
    assert str(FieldChange(field="endpoint", old="", new="a:1")) == "endpoint none -> a:1"
    assert str(FieldChange(field="keepalive", old="0", new="25")) == "keepalive 0 -> 25"
