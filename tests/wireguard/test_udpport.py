"""Whether a UDP port is free, as a device would find: for each family, beside whoever has it."""

import socket

import pytest

from dstack_vpn.wireguard.udpport import why_taken

IN_USE = "Address already in use"


@pytest.mark.parametrize(
    ("family", "address", "only_v6"),
    [
        (socket.AF_INET, "", False),
        (socket.AF_INET, "127.0.0.1", False),
        (socket.AF_INET6, "::", False),
        (socket.AF_INET6, "::", True),
        (socket.AF_INET6, "::1", True),
    ],
    ids=["IPv4", "one IPv4 address", "both", "IPv6", "one IPv6 address"],
)
def test_taken_and_free_again(family: int, address: str, *, only_v6: bool) -> None:
    """Whichever part of it somebody has, and whether or not he would share it."""
    with socket.socket(family, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only_v6))
        other.bind((address, 0))
        port = other.getsockname()[1]
        assert why_taken(port) == IN_USE
    assert why_taken(port) is None
    assert why_taken(port) is None, "it was left to nobody"


def test_where_it_cannot_be_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without IPv6, no rights, no files left: the device is to say."""

    def refuse(*_: object) -> None:
        raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", refuse)
    assert why_taken(51820) is None
