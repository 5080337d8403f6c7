"""Netlink messages and attributes: what `rtnetlink`, `genetlink` and `wgnetlink` share.

Format: netlink(7), and "Introduction to Netlink" of the kernel's documentation
(https://docs.kernel.org/userspace-api/netlink/intro.html). A message is a header of 16 bytes and
a body; an attribute is a length, a type and a value. Both begin at multiples of four bytes, and
numbers are in the host's byte order.
"""

import os
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

# Fixed by the kernel: linux/netlink.h.
HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
ATTRIBUTE = struct.Struct("=HH")  # length, type
ERROR = struct.Struct("=i")  # negative errno
GENERIC = struct.Struct("=BBH")  # command, version, reserved: linux/genetlink.h
U8, U16, U32, U64 = (struct.Struct(f"={size}") for size in "BHIQ")
NLMSG_ERROR, NLMSG_DONE = 2, 3
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
DUMP_INTERRUPTED = 0x10
_CAPPED, _ACK_TLVS = 0x100, 0x200
_NLMSGERR_ATTR_MSG = 1
_NESTED = 0x8000
_ATTRIBUTE_TYPE = 0x3FFF

MALFORMED = (struct.error, ValueError, LookupError)
"""What the parsers here raise when an answer is not as documented."""


class Message(NamedTuple):
    """One message without its length and port."""

    kind: int
    flags: int
    sequence: int
    body: bytes


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Write a message."""
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    """Write an attribute, padded.

    Raises:
        struct.error: the value has more than 65531 bytes.
    """
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def nest(kind: int, attributes: Iterable[bytes]) -> bytes:
    """Write an attribute whose value is attributes."""
    return attribute(kind | _NESTED, b"".join(attributes))


def split(data: bytes) -> Iterator[Message]:
    """Split what one read of the socket brought into its messages.

    Raises:
        MALFORMED: not as documented.
    """
    offset = 0
    while offset < len(data):
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, offset)
        if not HEADER.size <= length <= len(data) - offset:
            raise ValueError("a netlink message is cut off")
        yield Message(kind, flags, sequence, data[offset + HEADER.size : offset + length])
        offset += aligned(length)


def pairs(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Read attributes in their order, as type and value.

    Raises:
        MALFORMED: not as documented.
    """
    offset, end = 0, len(data)
    while offset < end:
        length, kind = ATTRIBUTE.unpack_from(data, offset)
        if not ATTRIBUTE.size <= length <= end - offset:
            raise ValueError("a netlink attribute is cut off")
        yield kind & _ATTRIBUTE_TYPE, data[offset + ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


def attributes(data: bytes) -> dict[int, bytes]:
    """Read attributes by type; of a repeated one the last counts.

    Raises:
        MALFORMED: not as documented.
    """
    return dict(pairs(data))


def refusal(answer: Message) -> OSError | None:
    """Read the verdict in an NLMSG_ERROR or NLMSG_DONE; None when all is well.

    The kernel's own words, where it sent some (extended ACK), are in the error's text.

    Raises:
        MALFORMED: not as documented.
    """
    (code,) = ERROR.unpack_from(answer.body)
    if code == 0:
        return None
    if not 0 < -code < 4096:
        raise ValueError("a netlink error has no error number")
    words = os.strerror(-code)
    if answer.flags & _ACK_TLVS:
        told = attributes(answer.body[_end_of_verdict(answer) :]).get(_NLMSGERR_ATTR_MSG, b"")
        text = told.rstrip(b"\0").decode("ascii", "replace")
        words = f"{words}: {text}" if text.isprintable() and text else words
    return OSError(-code, words)


def _end_of_verdict(answer: Message) -> int:
    """Where the attributes begin: an error quotes the message that it is about, whole or not."""
    if answer.kind == NLMSG_DONE:
        return ERROR.size
    if answer.flags & _CAPPED:
        return ERROR.size + HEADER.size
    quoted, *_ = HEADER.unpack_from(answer.body, ERROR.size)
    return ERROR.size + aligned(int(quoted))


def aligned(length: int) -> int:
    """Round up to a multiple of four."""
    return (length + 3) & ~3
