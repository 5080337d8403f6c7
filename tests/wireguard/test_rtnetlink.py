"""Reading an interface: the kernel's answers, taken apart, and held against what `ip` says."""

import json
import socket
import struct
from contextlib import suppress
from ipaddress import ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.wireguard.netlink import MALFORMED
from dstack_vpn.wireguard.rtnetlink import messages, parse_link, read_link
from lab.fixtures import need_lab
from lab.process import run
from wireguard.samples import unique_name

NEWLINK, NEWADDR, ERROR, DONE = 16, 20, 2, 3


def message(kind: int, body: bytes, flags: int = 0) -> bytes:
    """A netlink message, padded as netlink(7) has it."""
    whole = struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body
    return whole + bytes(-len(whole) % 4)


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute, padded."""
    whole = struct.pack("=HH", 4 + len(value), kind) + value
    return whole + bytes(-len(whole) % 4)


def address(text: str, index: int) -> bytes:
    """An RTM_NEWADDR of an interface."""
    parsed = ip_interface(text)
    family = socket.AF_INET if parsed.version == 4 else socket.AF_INET6
    head = struct.pack("=BBBBI", family, parsed.network.prefixlen, 0, 0, index)
    return message(NEWADDR, head + attribute(1, parsed.ip.packed))


LINK = message(
    NEWLINK,
    struct.pack("=BxHiII", 0, 1, 7, 0x1, 0)
    + attribute(3, b"wg0\0")
    + attribute(4, struct.pack("=I", 1420)),
)


def test_state_and_addresses_are_put_together() -> None:
    """MTU, state and addresses; link-local ones and those of other interfaces are left out."""
    told = (
        address("fd00::7/48", 7)
        + address("10.213.0.7/16", 7)
        + address("fe80::1/64", 7)
        + address("192.0.2.1/24", 8)
        + message(DONE, bytes(4))
    )
    state = parse_link(LINK, told, 7)
    assert state is not None
    assert (state.mtu, state.up) == (1420, True)
    assert state.addresses == (ip_interface("10.213.0.7/16"), ip_interface("fd00::7/48"))


def test_of_two_ends_the_own_one_counts() -> None:
    """A point-to-point address has the other end in IFA_ADDRESS and ours in IFA_LOCAL."""
    head = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, 7)
    body = head + attribute(1, bytes([10, 0, 0, 2])) + attribute(2, bytes([10, 0, 0, 1]))
    state = parse_link(LINK, message(NEWADDR, body), 7)
    assert state is not None
    assert state.addresses == (ip_interface("10.0.0.1/32"),)


def test_the_kernels_refusal_is_its_error() -> None:
    """An error message becomes the OSError that it stands for."""
    refusal = message(ERROR, struct.pack("=i", -19) + bytes(16))
    with pytest.raises(OSError, match="No such device"):
        parse_link(refusal, b"", 7)


@pytest.mark.parametrize("data", [b"\1", LINK[:-1], LINK[:20], message(NEWLINK, b"")[:15]])
def test_what_is_cut_off_is_refused(data: bytes) -> None:
    """Half an answer is not taken for a link without addresses."""
    with pytest.raises(MALFORMED):
        parse_link(data, b"", 7)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_garbage_raises_only_what_is_announced(link: bytes, addresses: bytes) -> None:
    """Whatever the bytes, the parsers end, and with the errors that they name."""
    with suppress(OSError, *MALFORMED):
        parse_link(link, addresses, 7)
    with suppress(OSError, *MALFORMED):
        list(messages(message(NEWLINK, link)))


async def test_a_real_interface_reads_as_ip_says() -> None:
    """Two hundred addresses need several reads of the socket, and all of them are found."""
    need_lab()
    name = unique_name()
    await run("ip", "link", "add", name, "mtu", "1380", "type", "bridge")
    lines = [f"address add 10.77.{i // 250}.{i % 250 + 1}/16 dev {name}" for i in range(200)]
    lines += [f"address add fd77::{i:x}/64 dev {name} nodad" for i in range(1, 200)]
    lines += [f"link set dev {name} up"]
    await run("ip", "-batch", "-", text="\n".join(lines) + "\n")
    try:
        told = json.loads((await run("ip", "-json", "address", "show", "dev", name)).out)[0]
        state = read_link(socket.if_nametoindex(name))
    finally:
        await run("ip", "link", "del", name)
    assert state is not None
    expected = {ip_interface(f"{a['local']}/{a['prefixlen']}") for a in told["addr_info"]}
    assert set(state.addresses) == {a for a in expected if not a.is_link_local}
    assert len(state.addresses) == 399
    assert (state.mtu, state.up) == (1380, True)


def test_a_missing_interface_is_none() -> None:
    """An index that nobody has is no error."""
    assert read_link(2**30) is None
