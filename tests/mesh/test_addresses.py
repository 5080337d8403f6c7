"""Addresses: a function of chain, contract and token id, stable for life, never shared."""

from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.mesh.addresses import MAX_TOKEN_ID, AddressPlan
from dstack_vpn.mesh.membership import Address
from mesh.build import ADDRESSES

token_ids = st.integers(1, MAX_TOKEN_ID) | st.integers(1, 70_000)
ranges = st.tuples(st.integers(0, 2**32 - 1), st.integers(8, 29)).map(
    lambda drawn: IPv4Network(drawn, strict=False)
)


def test_vector() -> None:
    """The first contract of the first development account has the /48 that the design states."""
    plan = AddressPlan.of(31337, Address("0x5FbDB2315678afecb367f032d93F642f64180aa3"))
    assert IPv6Network("fd59:11ea:eff5::/48") == plan.ipv6
    assert IPv4Network("10.213.0.0/16") == plan.ipv4
    assert (
        IPv4Interface("10.213.0.1/16"),
        IPv6Interface("fd59:11ea:eff5::1/48"),
    ) == plan.interfaces(1)
    assert (
        IPv4Network("10.213.0.1/32"),
        IPv6Network("fd59:11ea:eff5::1/128"),
    ) == plan.hosts(1)


def test_case_of_the_contract_address_is_nothing() -> None:
    """The checksum spelling of a contract gives the same mesh as the lower-case one."""
    mixed = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
    assert AddressPlan.of(1, mixed) == AddressPlan.of(1, Address(mixed.lower()))


def test_mesh_depends_on_chain_and_contract() -> None:
    """Another chain or another contract is another /48."""
    contracts = [Address("0x" + digit * 40) for digit in "12"]
    plans = {AddressPlan.of(chain, c).ipv6 for chain in (1, 8453) for c in contracts}
    assert len(plans) == 4
    assert all(p.subnet_of(IPv6Network("fd00::/8")) and p.prefixlen == 48 for p in plans)


@pytest.mark.parametrize(
    ("token_id", "expected"),
    [
        (1, ["10.213.0.1", "fd59:11ea:eff5::1"]),
        (254, ["10.213.0.254", "fd59:11ea:eff5::fe"]),
        (255, ["10.213.0.255", "fd59:11ea:eff5::ff"]),
        (256, ["10.213.1.0", "fd59:11ea:eff5::100"]),
        (65534, ["10.213.255.254", "fd59:11ea:eff5::fffe"]),
        (65535, ["fd59:11ea:eff5::ffff"]),
        (65536, ["fd59:11ea:eff5::1:0"]),
        (2**64 - 1, ["fd59:11ea:eff5:0:ffff:ffff:ffff:ffff"]),
    ],
)
def test_addresses_of_a_token(token_id: int, expected: list[str]) -> None:
    """Ids that fit have IPv4 as well; nothing wraps at 254, at 65534 or anywhere."""
    assert [str(i.ip) for i in ADDRESSES.interfaces(token_id)] == expected


@pytest.mark.parametrize("token_id", [0, -1, 2**64, 2**64 + 1, 2**256 - 1])
def test_unaddressable(token_id: int) -> None:
    """Ids outside 1 to 2^64-1 have no address and do not get somebody else's."""
    assert not ADDRESSES.addressable(token_id)
    with pytest.raises(ValueError, match="has no address"):
        ADDRESSES.interfaces(token_id)


@given(ranges, st.sets(token_ids, min_size=2, max_size=20))
def test_no_two_tokens_share_an_address(ipv4: IPv4Network, ids: set[int]) -> None:
    """Whatever the IPv4 range, different tokens have different addresses."""
    plan = AddressPlan(ADDRESSES.ipv6, ipv4)
    hosts = [host for token_id in ids for host in plan.hosts(token_id)]
    assert len(hosts) == len(set(hosts))


@given(ranges, token_ids)
def test_addresses_lie_in_the_mesh(ipv4: IPv4Network, token_id: int) -> None:
    """An address is a host of its range: never its network address, never its broadcast."""
    plan = AddressPlan(ADDRESSES.ipv6, ipv4)
    *v4, v6 = plan.interfaces(token_id)
    assert (v6.network, int(v6.ip) - int(plan.ipv6.network_address)) == (plan.ipv6, token_id)
    assert v6.ip in IPv6Network("fd59:11ea:eff5::/64"), "subnet 1 is kept for probe addresses"
    fits = token_id < ipv4.num_addresses - 1
    assert [i.network for i in v4] == [ipv4] * fits
    for interface in v4:
        assert int(interface.ip) - int(ipv4.network_address) == token_id
        assert interface.ip not in {ipv4.network_address, ipv4.broadcast_address}
