"""Endpoints: hostile text until this parser has passed it.

An endpoint comes from a token (its holder's words), from static settings, or from a template. The
address it names receives packets from every member, so addresses that would turn members against
their own host or their own mesh are refused.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address

from dstack_vpn.mesh.device import IpAddress, IpNetwork

MAX_LENGTH = 255
"""Longest endpoint that the contract stores."""

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE)
_PORT = re.compile(r"[1-9][0-9]{0,4}")
# A last label that resolvers take for a number, so that the whole would be read as an address.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)
_BROADCAST = IPv4Address("255.255.255.255")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a peer can be reached: an address, or a DNS name that is still to be resolved."""

    host: IpAddress | str
    """A checked address, or a lower-case DNS name."""
    port: int
    """UDP port, 1 to 65535."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if isinstance(self.host, IPv6Address) else str(self.host)
        return f"{host}:{self.port}"


class Source(StrEnum):
    """Who named an endpoint; in the order in which they come."""

    SETTINGS = "settings"
    """ENDPOINTS of this node."""
    TOKEN = "token"  # noqa: S105 - a word
    """The holder of the peer's token."""
    TEMPLATE = "template"
    """ENDPOINT_TEMPLATE of this node."""
    ROAMED = "roamed"
    """Nobody: the peer spoke from there."""


def endpoint_texts(
    node_id: str, token: str, *, static: Mapping[str, Endpoint], template: str
) -> dict[Source, str]:
    """What is written about where a node is, by who wrote it.

    Args:
        node_id: of the node.
        token: the endpoint on its token, hostile.
        static: ENDPOINTS.
        template: ENDPOINT_TEMPLATE; empty for none.
    """
    texts = {
        Source.SETTINGS: str(static[node_id]) if node_id in static else "",
        Source.TOKEN: token,
        Source.TEMPLATE: template.replace("{node_id}", node_id),
    }
    return {source: text for source, text in texts.items() if text}


def parse_endpoint(text: str, mesh: Sequence[IpNetwork] = ()) -> Endpoint:
    """Read ``host:port``, ``1.2.3.4:port`` or ``[v6]:port``.

    Args:
        text: the endpoint as somebody wrote it, hostile.
        mesh: ranges of the mesh itself, in which no endpoint may lie.

    Raises:
        ValueError: a sentence that says what is wrong; it never quotes more than a short,
            printable part of the text.
    """
    if len(text) > MAX_LENGTH or not text.isascii() or not text.isprintable():
        raise ValueError(f"the endpoint is not host:port in at most {MAX_LENGTH} printable letters")
    host, colon, port_text = text.rpartition(":")
    if not colon or not host or not _PORT.fullmatch(port_text) or int(port_text) > 65535:
        raise ValueError(f"the endpoint {text[:60]!r} is not host:port with a port of 1 to 65535")
    port = int(port_text)
    if host.startswith("[") and host.endswith("]"):
        return Endpoint(check_address(_ipv6(host[1:-1]), mesh), port)
    if ":" in host:
        raise ValueError(f"the endpoint {text[:60]!r} needs brackets around its IPv6 address")
    if _NUMBER.fullmatch(host.removesuffix(".").rpartition(".")[2]):
        return Endpoint(check_address(_ipv4(host), mesh), port)
    return Endpoint(_dns_name(host), port)


def check_address(address: IpAddress, mesh: Sequence[IpNetwork] = ()) -> IpAddress:
    """Pass an address that packets may be sent to; also used on what a DNS name resolved to.

    Raises:
        ValueError: loopback, unspecified, multicast, broadcast, link-local, or inside the mesh.
    """
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        raise ValueError(f"{address} is an IPv4 address in disguise")
    kinds = {
        "loopback": address.is_loopback,
        "unspecified": address.is_unspecified or (address.version == 4 and int(address) < 1 << 24),
        "multicast": address.is_multicast,
        "broadcast": address == _BROADCAST,
        "link-local": address.is_link_local,
    }
    for kind, hit in kinds.items():
        if hit:
            raise ValueError(f"{address} is a {kind} address")
    if any(address in network for network in mesh):
        raise ValueError(f"{address} lies inside the mesh itself")
    return address


def _ipv4(text: str) -> IPv4Address:
    try:
        # Four plain numbers: "010.0.0.1" and "2130706433" mean different things to different eyes.
        return IPv4Address(text)
    except ValueError:
        raise ValueError(f"{text[:60]!r} is not an IPv4 address of four plain numbers") from None


def _ipv6(text: str) -> IPv6Address:
    try:
        # A zone names an interface of the writer's machine, which says nothing on ours.
        if "%" not in text:
            return IPv6Address(text)
    except ValueError:
        pass
    raise ValueError(f"{text[:60]!r} is not an IPv6 address without a zone")


def _dns_name(text: str) -> str:
    name = text.removesuffix(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(f"the endpoint's host {text[:60]!r} is not a DNS name")
    if name.lower() == "localhost" or name.lower().endswith(".localhost"):
        raise ValueError("the endpoint's host is localhost")
    return name.lower()
