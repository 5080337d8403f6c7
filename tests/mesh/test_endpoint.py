"""Endpoints: hostile text either becomes a place that packets may go to, or a short refusal."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dstack_vpn.mesh.endpoint import Endpoint, check_address, parse_endpoint

MESH = (IPv4Network("10.213.0.0/16"), IPv6Network("fd59:11ea:eff5::/48"))

GOOD = {
    "192.0.2.7:51820": Endpoint(IPv4Address("192.0.2.7"), 51820),
    "10.0.0.1:1": Endpoint(IPv4Address("10.0.0.1"), 1),
    "10.212.255.255:65535": Endpoint(IPv4Address("10.212.255.255"), 65535),
    "[2001:db8::1]:51820": Endpoint(IPv6Address("2001:db8::1"), 51820),
    "[2001:DB8:0::0:1]:51820": Endpoint(IPv6Address("2001:db8::1"), 51820),
    "[fd00::1]:443": Endpoint(IPv6Address("fd00::1"), 443),
    "vpn.example.org:51820": Endpoint("vpn.example.org", 51820),
    "VPN.Example.ORG:51820": Endpoint("vpn.example.org", 51820),
    "vpn.example.org.:51820": Endpoint("vpn.example.org", 51820),
    "node-7:51820": Endpoint("node-7", 51820),
    "0xcafe.example:1": Endpoint("0xcafe.example", 1),
    "xn--bcher-kva.example:51820": Endpoint("xn--bcher-kva.example", 51820),
    "a" * 63 + ".example:51820": Endpoint("a" * 63 + ".example", 51820),
}

BAD = {
    "empty": "",
    "no port": "192.0.2.7",
    "no host": ":51820",
    "only a port": "51820",
    "loopback": "127.0.0.1:51820",
    "loopback, high": "127.255.255.254:51820",
    "loopback v6": "[::1]:51820",
    "unspecified": "0.0.0.0:51820",
    "this network": "0.1.2.3:51820",
    "unspecified v6": "[::]:51820",
    "multicast": "224.0.0.1:51820",
    "multicast v6": "[ff02::1]:51820",
    "link-local": "169.254.169.254:80",
    "link-local v6": "[fe80::1]:51820",
    "link-local v6 with a zone": "[fe80::1%eth0]:51820",
    "zone": "[2001:db8::1%eth0]:51820",
    "empty zone": "[2001:db8::1%]:51820",
    "broadcast": "255.255.255.255:51820",
    "inside the mesh": "10.213.0.9:51820",
    "inside the mesh v6": "[fd59:11ea:eff5::9]:51820",
    "probe range of the mesh": "[fd59:11ea:eff5:1::9]:51820",
    "mapped v4": "[::ffff:192.0.2.7]:51820",
    "mapped loopback": "[::ffff:127.0.0.1]:51820",
    "brackets around v4": "[192.0.2.7]:51820",
    "v6 without brackets": "2001:db8::1:51820",
    "half a bracket": "[2001:db8::1:51820",
    "nothing in brackets": "[]:51820",
    "octal-like": "010.0.0.1:51820",
    "one number": "2130706433:51820",
    "one number, small": "1:51820",
    "two numbers": "127.1:51820",
    "five numbers": "1.2.3.4.5:51820",
    "number too great": "192.0.2.256:51820",
    "hexadecimal": "0x7f000001:51820",
    "hexadecimal numbers": "0x7f.0.0.0x1:51820",
    "hexadecimal without digits": "127.0.0.0x:51820",
    "numbers and a final dot": "127.0.0.1.:51820",
    "name that ends in a number": "example.1:51820",
    "port 0": "192.0.2.7:0",
    "port 65536": "192.0.2.7:65536",
    "port with a sign": "192.0.2.7:+1",
    "negative port": "192.0.2.7:-1",
    "port with a leading zero": "192.0.2.7:051820",
    "port with a space": "192.0.2.7: 51820",
    "port in underscores": "192.0.2.7:5_1",
    "fullwidth port": "192.0.2.7:\uff11",
    "arabic port": "192.0.2.7:\u0661",
    "fullwidth host": "\uff11\uff19\uff12.0.2.7:51820",
    "empty port": "192.0.2.7:",
    "NUL": "vpn.example\0.org:51820",
    "right-to-left": "vpn\u202e.example.org:51820",
    "newline": "vpn.example.org:51820\n",
    "newline inside": "192.0.2.7\n[Peer]:51820",
    "escape": "\x1b[31mvpn.example:51820",
    "space": "vpn example:51820",
    "1 MB": "a" * 1_000_000,
    "1 MB of labels": "a." * 500_000 + "b:51820",
    "256 letters": "a" * 250 + ":51820",
    "userinfo": "user:password@vpn.example.org:51820",
    "path": "vpn.example.org:51820/path",
    "URL": "udp://vpn.example.org:51820",
    "label too long": "a" * 64 + ".example:51820",
    "empty label": "vpn..example:51820",
    "two final dots": "vpn.example..:51820",
    "leading dot": ".example:51820",
    "only a dot": ".:51820",
    "leading hyphen": "-o.example:51820",
    "trailing hyphen": "o-.example:51820",
    "underscore": "_wg.example:51820",
    "emoji": "\N{PILE OF POO}.example:51820",
    "localhost": "localhost:51820",
    "LOCALHOST with a dot": "LocalHost.:51820",
    "under localhost": "x.localhost:51820",
    "comma": "192.0.2.7:1,192.0.2.8:1",
}


@pytest.mark.parametrize(("text", "expected"), GOOD.items())
def test_good(text: str, expected: Endpoint) -> None:
    """An address or a DNS name with a port is read, in one canonical form."""
    assert parse_endpoint(text, MESH) == expected


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_bad(text: str) -> None:
    """Whatever would aim packets at the host itself, at the mesh or at nobody is refused."""
    with pytest.raises(ValueError, match=r"."):
        parse_endpoint(text, MESH)


def test_mesh_is_what_the_caller_says() -> None:
    """Without the ranges of the mesh, an address in them is one like any other."""
    assert parse_endpoint("10.213.0.9:1") == Endpoint(IPv4Address("10.213.0.9"), 1)


hosts = st.one_of(
    st.text(max_size=300),
    st.from_regex(r"[0-9a-fx.:\[\]%]{1,40}", fullmatch=True),
    st.ip_addresses().map(str),
    st.ip_addresses(v=6).map(lambda ip: f"[{ip}]"),
    st.from_regex(r"([a-zA-Z0-9-]{1,20}\.){0,3}[a-zA-Z0-9-]{1,20}\.?", fullmatch=True),
)
texts = st.one_of(
    st.text(max_size=300),
    st.builds("{}:{}".format, hosts, st.integers(-1, 70_000)),
)


@given(texts)
@example("[" + "1" * 240 + "]:1")
@example("1" * 240 + ":1")
@example(("a" * 60 + ".") * 4 + "-:1")
@example(chr(0x85) * 200)
def test_any_text_is_an_endpoint_or_a_short_refusal(text: str) -> None:
    """What parses reads back as itself; what does not is a ValueError that is safe to show."""
    refusal, endpoint = "", None
    try:
        endpoint = parse_endpoint(text, MESH)
    except ValueError as error:
        refusal = str(error)
    assert len(refusal) <= 160
    assert refusal.isascii()
    assert refusal.isprintable()
    if endpoint is None:
        assert refusal
        return
    assert parse_endpoint(str(endpoint), MESH) == endpoint
    assert 1 <= endpoint.port <= 65535
    if not isinstance(endpoint.host, str):
        assert check_address(endpoint.host, MESH) == endpoint.host


@given(st.ip_addresses())
def test_addresses_that_pass_can_be_sent_to(address: IPv4Address | IPv6Address) -> None:
    """No address that passes is one of the kinds that turn packets against members."""
    try:
        check_address(address, MESH)
    except ValueError:
        return
    assert not address.is_loopback
    assert not address.is_multicast
    assert not address.is_unspecified
    assert not address.is_link_local
    assert not any(address in network for network in MESH)
