"""Messages and attributes of netlink, byte for byte and with what no kernel would send."""

import errno
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.wireguard import netlink
from dstack_vpn.wireguard.netlink import MALFORMED, Message

LITTLE = struct.pack("=H", 1) == b"\1\0"
pytestmark = pytest.mark.skipif(not LITTLE, reason="the bytes are those of a little-endian host")


def test_a_message_is_written_as_documented() -> None:
    """Length, type, flags, sequence and port, then the body: netlink(7)."""
    written = netlink.message(0x12, netlink.REQUEST | netlink.ACK, 7, b"\xaa\xbb\xcc\xdd")
    assert written.hex(" ", 4) == "14000000 12000500 07000000 00000000 aabbccdd"


def test_attributes_are_padded_and_nested_ones_marked() -> None:
    """The length leaves out the padding; NLA_F_NESTED is the highest bit of the type."""
    written = netlink.nest(8, [netlink.attribute(1, b"\x05"), netlink.attribute(2, b"abcd")])
    assert written.hex(" ", 4) == "14000880 05000100 05000000 08000200 61626364"
    ((kind, value),) = netlink.pairs(written)
    assert (kind, netlink.attributes(value)) == (8, {1: b"\x05", 2: b"abcd"})


def test_a_value_too_long_for_its_length_is_no_attribute() -> None:
    """An attribute's length has 16 bits; nothing is cut off silently."""
    assert len(netlink.attribute(1, bytes(65531))) == 65536
    with pytest.raises(struct.error):
        netlink.attribute(1, bytes(65532))


def test_messages_are_split() -> None:
    """One read may bring several; each begins at a multiple of four bytes."""
    first = netlink.message(20, 0, 1, b"x") + bytes(3)
    parts = list(netlink.split(first + netlink.message(3, 2, 1, bytes(4))))
    assert parts == [Message(20, 0, 1, b"x"), Message(3, 2, 1, bytes(4))]


def verdict(kind: int, code: int, flags: int, *, quoted: bytes = b"", told: bytes = b"") -> Message:
    """An NLMSG_ERROR or NLMSG_DONE."""
    return Message(kind, flags, 1, struct.pack("=i", code) + quoted + told)


TOLD = netlink.attribute(1, b"NLA_F_NESTED is missing\0")


@pytest.mark.parametrize(
    "answer",
    [
        # The header of what it is about, alone (NLM_F_CAPPED)
        verdict(2, -22, 0x300, quoted=netlink.message(0x1C, 5, 1, bytes(32))[:16], told=TOLD),
        # or with its body
        verdict(2, -22, 0x200, quoted=netlink.message(0x1C, 5, 1, bytes(32)), told=TOLD),
        # or nothing, at the end of a dump.
        verdict(3, -22, 0x200, told=TOLD),
    ],
)
def test_the_kernels_own_words_are_read(answer: Message) -> None:
    """Extended ACK: the attributes come after what is quoted of the request."""
    error = netlink.refusal(answer)
    assert error is not None
    assert (error.errno, error.strerror) == (
        errno.EINVAL,
        "Invalid argument: NLA_F_NESTED is missing",
    )


def test_a_verdict_without_words_has_the_errors_own() -> None:
    """Older kernels send a number only; zero is no error."""
    error = netlink.refusal(verdict(2, -errno.EADDRINUSE, 0x100, quoted=bytes(16)))
    assert error is not None
    assert (error.errno, error.strerror) == (errno.EADDRINUSE, "Address already in use")
    assert netlink.refusal(verdict(2, 0, 0x100, quoted=bytes(16))) is None
    assert netlink.refusal(verdict(3, 0, 0)) is None


@pytest.mark.parametrize("code", [22, -4096, -(2**31)])
def test_an_error_that_is_no_error_number_is_malformed(code: int) -> None:
    """Errors are negative and small."""
    with pytest.raises(ValueError, match="no error number"):
        netlink.refusal(verdict(2, code, 0))


@given(st.binary(max_size=200), st.integers(0, 0xFFFF), st.sampled_from([2, 3]))
def test_garbage_raises_only_what_is_announced(data: bytes, flags: int, kind: int) -> None:
    """Whatever the bytes, the parsers end, and with the errors that they name."""
    with suppress(*MALFORMED):
        list(netlink.split(data))
    with suppress(*MALFORMED):
        netlink.attributes(data)
    with suppress(*MALFORMED):
        netlink.refusal(Message(kind, flags, 1, data))
