"""Parsers of settings: from the text of a variable to a value that cannot be wrong.

Pure. The table in `variables` names the parser of each setting. They raise ValueError with what is
wrong, to be read after the variable's name, and never quote a secret.
"""

import re
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from dstack_vpn.mesh import access
from dstack_vpn.mesh.endpoint import Endpoint, parse_endpoint
from dstack_vpn.mesh.membership import Address, Confirmations, Tag

HOLD = "hold"
"""The policy never to remove peers, in place of the number of seconds after which they go."""

AUTO = "auto"
"""In place of a value: the one that fits is found out."""


def quoted(text: str) -> str:
    """The text for an error sentence: short, and nothing that a terminal would obey."""
    # Cut after it was escaped, which can make ten characters of one.
    shown = ascii(text[:61])
    if len(text) <= 60 and len(shown) <= 200:
        return shown
    return f"{shown[:61]}...{shown[0]}"


def optional(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """What takes an empty text for None."""
    return lambda text: parse(text) if text else None


def one_of(words: tuple[str, ...]) -> Callable[[str], str]:
    """One of some words, in lower case."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"is {quoted(text)}")
        return text.lower()

    return parse


_DECIMAL = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?")
_WHOLE = re.compile(r"[0-9]{1,18}")


def number(low: float, high: float) -> Callable[[str], float]:
    """A number with or without a fraction."""

    def parse(text: str) -> float:
        # float() alone would pass "nan", "1_000" and digits of other scripts.
        if not _DECIMAL.fullmatch(text):
            raise ValueError(f"is {quoted(text)}, not a number")
        if not low <= float(text) <= high:
            raise ValueError(f"is {text}")
        return float(text)

    return parse


def whole(low: int, high: int) -> Callable[[str], int]:
    """A number without a fraction."""

    def parse(text: str) -> int:
        # int() alone would pass "1_000" and digits of other scripts.
        if not _WHOLE.fullmatch(text):
            raise ValueError(f"is {quoted(text)}, not a whole number")
        if not low <= int(text) <= high:
            raise ValueError(f"is {text}")
        return int(text)

    return parse


def auto_or(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """What takes `AUTO` for None."""
    return lambda text: None if text.lower() == AUTO else parse(text)


def switch(text: str) -> bool:
    """On or off."""
    return one_of(("on", "off"))(text) == "on"


def seconds_or_hold(high: float) -> Callable[[str], float]:
    """Seconds after which peers are removed; 0 for never."""
    seconds = number(0, high)
    return lambda text: 0.0 if text.lower() == HOLD else seconds(text)


def confirmations(text: str) -> Confirmations:
    """A number of blocks, or the tag of a block."""
    if text.lower() in list(Tag):
        return Tag(text.lower())
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"is {quoted(text)}")
    return whole(0, 10_000)(text)


def node_id(text: str) -> str:
    """The name of a node."""
    if not access.is_node_id(text):
        raise ValueError("is not a DNS label")
    return text


def contract(text: str) -> Address | None:
    """The address of a contract; None for an empty text."""
    if not text:
        return None
    if not re.fullmatch(r"0x[0-9a-fA-F]{40}", text):
        raise ValueError("is not an address")
    return Address(text.lower())


def rpc_urls(text: str) -> tuple[str, ...]:
    """URLs of providers."""
    urls = tuple(u for u in (part.strip() for part in text.split(",")) if u)
    for place, url in enumerate(urls, 1):
        # The URL itself may carry a key, so it is named by its place only.
        try:
            parts = urlsplit(url)
            usable = parts.scheme in {"http", "https", "ws", "wss"} and parts.hostname
            _ = parts.port
        except ValueError:
            usable = None
        if not usable:
            raise ValueError(f"has no usable URL at place {place}")
    return urls


def plain_host(text: str) -> str:
    """A host as it is compared, however it was spelled."""
    return text.lower().rstrip(".")


_OPERATED = re.compile(r"\[?([A-Za-z0-9_.:%-]{1,253})\]?\s*=\s*([A-Za-z0-9][A-Za-z0-9_.-]{0,62})")


def rpc_operators(text: str) -> Mapping[str, str]:
    """The operators of hosts, by host."""
    found: dict[str, str] = {}
    for place, part in enumerate((p.strip() for p in text.split(",") if p.strip()), 1):
        # By its place only: it may be a URL with a key.
        if not (pair := _OPERATED.fullmatch(part)):
            raise ValueError(f"has no host=operator at place {place}")
        host, operator = plain_host(pair[1]), pair[2].lower()
        if found.setdefault(host, operator) != operator:
            raise ValueError(f"names two operators of {quoted(host)}")
    return MappingProxyType(found)


_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")


def interface(text: str) -> str:
    """The name of a network interface."""
    # Programs would take a leading hyphen for an option.
    if not _INTERFACE.fullmatch(text):
        raise ValueError(f"is {quoted(text)}")
    return text


def ipv4_range(text: str) -> IPv4Network:
    """An IPv4 network of a size that suits a mesh."""
    try:
        network = IPv4Network(text)
    except ValueError:
        raise ValueError(f"is {quoted(text)}, not an IPv4 network without host bits") from None
    if not 8 <= network.prefixlen <= 29:
        raise ValueError(f"is {network}")
    return network


def endpoints(text: str) -> Mapping[str, Endpoint]:
    """Endpoints of nodes, by node id."""
    found: dict[str, Endpoint] = {}
    for part in (p.strip() for p in text.split(",") if p.strip()):
        name, equals, endpoint = part.partition("=")
        if not equals or not access.is_node_id(name):
            raise ValueError(f"has {quoted(part)}, which is not node-id=host:port")
        found[name] = parse_endpoint(endpoint)
    return MappingProxyType(found)


def template(text: str) -> str:
    """An endpoint with a place for the node id."""
    if text and "{node_id}" not in text:
        raise ValueError("does not contain {node_id}")
    if text:
        parse_endpoint(text.replace("{node_id}", "a"))
    return text


def bind_host(text: str) -> str:
    """An address of this machine."""
    try:
        ip_address(text)
    except ValueError:
        raise ValueError(f"is {quoted(text)}") from None
    return text


def path(text: str) -> Path:
    """The path of a file or directory."""
    if "\0" in text:
        raise ValueError("is no path")
    return Path(text)
