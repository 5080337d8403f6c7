"""The table of variables: name, meaning, default and parser of every setting.

`config` reads the environment by this table; docs/settings.md is tested against it. Parsers raise
ValueError with what is wrong and never quote a secret.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from dstack_vpn.mesh.access import NODE_ID_RULE, is_node_id
from dstack_vpn.mesh.addresses import DEFAULT_IPV4
from dstack_vpn.mesh.endpoint import Endpoint, parse_endpoint
from dstack_vpn.mesh.membership import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """An EVM chain that the contract can live on."""

    name: str
    chain_id: int
    poll_interval: float
    """Default seconds between two looks at the head."""
    confirmations: int
    """Default blocks on top of an admission."""
    public: bool
    """Whether strangers run the providers, so that a single one must be chosen knowingly."""
    block_time: float | None = None
    """Seconds between two blocks; None where blocks come only when somebody writes."""
    rpc_url: str = ""
    contract: str = ""


NETWORKS = {
    "hardhat": Network(
        name="hardhat",
        chain_id=31337,
        poll_interval=0.25,
        confirmations=0,
        public=False,
        rpc_url="http://127.0.0.1:8545",
        # The first contract that the first development account deploys.
        contract="0x5FbDB2315678afecb367f032d93F642f64180aa3",
    ),
    "base": Network(
        name="base",
        chain_id=8453,
        poll_interval=2.0,
        confirmations=5,
        public=True,
        block_time=2.0,
    ),
    "baseSepolia": Network(
        name="baseSepolia",
        chain_id=84532,
        poll_interval=2.0,
        confirmations=5,
        public=True,
        block_time=2.0,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One setting: how it is called outside and what it becomes inside."""

    name: str
    field: str
    """Name in `Settings`."""
    parse: Callable[[str], Any]
    """Raises ValueError with what is wrong, without quoting a secret."""
    accepted: str
    """What is accepted, for the error sentence and the docs."""
    meaning: str
    default: str | None = ""
    """Text that is parsed when the variable is absent; None makes it mandatory."""
    default_note: str = ""
    """What the docs say of a default that depends on other settings."""
    secret: bool = False
    """Never shown; also read from the file that NAME_FILE points to."""


def _node_id(text: str) -> str:
    if not is_node_id(text):
        raise ValueError("is not a DNS label")
    return text


def _quoted(text: str) -> str:
    """The text for an error sentence: short, and nothing that a terminal would obey."""
    return ascii(text if len(text) <= 60 else text[:60] + "...")


def _network(text: str) -> Network:
    if text not in NETWORKS:
        raise ValueError(f"is {_quoted(text)}")
    return NETWORKS[text]


def _contract(text: str) -> Address | None:
    if not text:
        return None
    digits = text.removeprefix("0x")
    if digits == text or len(digits) != 40 or not _is_hex(digits):
        raise ValueError("is not an address")
    return Address(text.lower())


def _is_hex(text: str) -> bool:
    return all(c in "0123456789abcdefABCDEF" for c in text)


def _rpc_urls(text: str) -> tuple[str, ...]:
    urls = tuple(u for u in (part.strip() for part in text.split(",")) if u)
    for number, url in enumerate(urls, 1):
        # The URL itself may carry a key, so it is named by its place only.
        try:
            parts = urlsplit(url)
            usable = parts.scheme in {"http", "https", "ws", "wss"} and parts.hostname
            _ = parts.port
        except ValueError:
            usable = None
        if not usable:
            raise ValueError(f"has no usable URL at place {number}")
    return urls


_DECIMAL = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?")
_WHOLE = re.compile(r"[0-9]{1,18}")


def _number(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        # float() alone would pass "nan", "1_000" and digits of other scripts.
        if not _DECIMAL.fullmatch(text):
            raise ValueError(f"is {_quoted(text)}, not a number")
        if not low <= float(text) <= high:
            raise ValueError(f"is {text}")
        return float(text)

    return parse


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        # int() alone would pass "1_000" and digits of other scripts.
        if not _WHOLE.fullmatch(text):
            raise ValueError(f"is {_quoted(text)}, not a whole number")
        if not low <= int(text) <= high:
            raise ValueError(f"is {text}")
        return int(text)

    return parse


def _optional(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: parse(text) if text else None


_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")


def _interface(text: str) -> str:
    # Programs would take a leading hyphen for an option.
    if not _INTERFACE.fullmatch(text):
        raise ValueError(f"is {_quoted(text)}")
    return text


def _ipv4_range(text: str) -> IPv4Network:
    try:
        network = IPv4Network(text)
    except ValueError:
        raise ValueError(f"is {_quoted(text)}, not an IPv4 network without host bits") from None
    if not 8 <= network.prefixlen <= 29:
        raise ValueError(f"is {network}")
    return network


def _endpoints(text: str) -> Mapping[str, Endpoint]:
    found: dict[str, Endpoint] = {}
    for part in (p.strip() for p in text.split(",") if p.strip()):
        node_id, equals, endpoint = part.partition("=")
        if not equals or not is_node_id(node_id):
            raise ValueError(f"has {_quoted(part)}, which is not node-id=host:port")
        found[node_id] = parse_endpoint(endpoint)
    return MappingProxyType(found)


def _template(text: str) -> str:
    if text and "{node_id}" not in text:
        raise ValueError("does not contain {node_id}")
    if text:
        parse_endpoint(text.replace("{node_id}", "a"))
    return text


def _bind_host(text: str) -> str:
    try:
        ip_address(text)
    except ValueError:
        raise ValueError(f"is {_quoted(text)}") from None
    return text


def _path(text: str) -> Path:
    if "\0" in text:
        raise ValueError("is no path")
    return Path(text)


LEVELS = ("debug", "info", "warn", "error")
FORMATS = ("auto", "json", "console")


def _one_of(words: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"is {_quoted(text)}")
        return text.lower()

    return parse


VARIABLES: tuple[Variable, ...] = (
    Variable(
        name="NODE_ID",
        field="node_id",
        parse=_node_id,
        default=None,
        accepted=NODE_ID_RULE,
        meaning="Name of this node, as its token has it.",
    ),
    Variable(
        name="NETWORK",
        field="network",
        parse=_network,
        default="base",
        accepted=", ".join(NETWORKS),
        meaning="The chain that the contract lives on.",
    ),
    Variable(
        name="CONTRACT_ADDRESS",
        field="contract",
        parse=_contract,
        default_note="on hardhat the first contract of the first development account",
        accepted="0x and 40 hex digits",
        meaning="Address of the DstackAccessNFT contract; needed on base and baseSepolia.",
    ),
    Variable(
        name="RPC_URL",
        field="rpc_urls",
        parse=_rpc_urls,
        default_note="on hardhat http://127.0.0.1:8545",
        accepted="one or several http, https, ws or wss URLs, separated by commas",
        meaning=(
            "The providers to read the chain from; all of them must agree. A ws or wss URL also"
            " wakes the node at each new block. Needed on base and baseSepolia."
        ),
        secret=True,
    ),
    Variable(
        name="QUORUM",
        field="quorum",
        parse=_optional(_whole(1, 99)),
        default_note="all providers",
        accepted="the number of providers given (all must agree)",
        meaning=(
            "How many providers must agree. On base and baseSepolia a single provider must be"
            " chosen knowingly, by QUORUM=1: whoever runs it can then admit nodes."
        ),
    ),
    Variable(
        name="CONFIRMATIONS",
        field="confirmations",
        parse=_optional(_whole(0, 10_000)),
        default_note="0 on hardhat, else 5",
        accepted="a whole number from 0 to 10000",
        meaning="Blocks on top of an admission before the node is let in; removals never wait.",
    ),
    Variable(
        name="POLL_INTERVAL",
        field="poll_interval",
        parse=_optional(_number(0.02, 3600)),
        default_note="0.25 on hardhat, else 2",
        accepted="seconds from 0.02 to 3600",
        meaning="Time between two looks at the head of the chain.",
    ),
    Variable(
        name="SYNC_INTERVAL",
        field="sync_interval",
        parse=_whole(100, 86_400_000),
        default="30000",
        accepted="milliseconds from 100 to 86400000",
        meaning="Time between two full compares of the device with the plan.",
    ),
    Variable(
        name="DARK_AFTER",
        field="dark_after",
        parse=_number(1, 86_400),
        default="60",
        accepted="seconds from 1 to 86400",
        meaning="Time without an agreed head after which the chain counts as dark (a warning).",
    ),
    Variable(
        name="DARK_CLOSE_AFTER",
        field="dark_close_after",
        parse=_number(0, 31_536_000),
        default="86400",
        accepted="seconds from 0 (never) to 31536000",
        meaning="Time in the dark after which all peers are removed.",
    ),
    Variable(
        name="CONTRACT_WAIT",
        field="contract_wait",
        parse=_number(0, 86_400),
        default="0",
        accepted="seconds from 0 to 86400",
        meaning=(
            "How long a start on a local chain (hardhat) waits for a contract that is not there"
            " yet, as when chain, contract and nodes are started together. On public networks a"
            " contract that is missing is a mistake at once."
        ),
    ),
    Variable(
        name="WIREGUARD_PRIVATE_KEY",
        field="wireguard_key",
        parse=_optional(str),
        accepted="44 characters of base64, as `wg genkey` prints them",
        meaning=(
            "This node's WireGuard key. Better is WIREGUARD_PRIVATE_KEY_FILE, a file of mode 0600;"
            " with neither, a key is made at the first start and kept in STATE_DIR."
        ),
        secret=True,
    ),
    Variable(
        name="WG_INTERFACE",
        field="interface",
        parse=_interface,
        default="wg0",
        accepted=(
            "1 to 15 letters, digits, hyphens, dots or underscores, no hyphen or dot at the front"
        ),
        meaning="Name of the WireGuard interface.",
    ),
    Variable(
        name="LISTEN_PORT",
        field="listen_port",
        parse=_whole(1, 65_535),
        default="51820",
        accepted="a port from 1 to 65535",
        meaning="UDP port of WireGuard.",
    ),
    Variable(
        name="MTU",
        field="mtu",
        parse=_whole(1280, 65_535),
        default="1420",
        accepted="bytes from 1280 to 65535",
        meaning="MTU of the interface; the underlay's less 80 always fits.",
    ),
    Variable(
        name="KEEPALIVE",
        field="keepalive",
        parse=_whole(0, 65_535),
        default="25",
        accepted="seconds from 0 (off) to 65535",
        meaning="Persistent keepalive to peers that can be spoken to first; holds NATs open.",
    ),
    Variable(
        name="IPV4_RANGE",
        field="ipv4_range",
        parse=_ipv4_range,
        default=str(DEFAULT_IPV4),
        accepted="an IPv4 network with a prefix from /8 to /29",
        meaning="IPv4 range of the mesh, the same on every node; IPv6 follows from the contract.",
    ),
    Variable(
        name="ENDPOINTS",
        field="endpoints",
        parse=_endpoints,
        accepted="node-id=host:port, separated by commas",
        meaning="Endpoints of peers by node id; they come before what the tokens say.",
    ),
    Variable(
        name="ENDPOINT_TEMPLATE",
        field="endpoint_template",
        parse=_template,
        accepted="host:port with {node_id} in it, such as {node_id}:51820",
        meaning="Endpoint for peers that have no other, such as compose service names.",
    ),
    Variable(
        name="WG_CONFIG_FILE",
        field="wireguard_conf",
        parse=_optional(_path),
        default_note="STATE_DIR/WG_INTERFACE.conf",
        accepted="a path",
        meaning="Where the wg-quick text of the device is written after each change, mode 0600.",
    ),
    Variable(
        name="STATE_DIR",
        field="state_dir",
        parse=_path,
        default="/var/lib/dstack-vpn",
        accepted="a path",
        meaning="Directory for the key, the last verified membership and the journal, mode 0700.",
    ),
    Variable(
        name="HEALTH_CHECK_HOST",
        field="health_host",
        parse=_bind_host,
        default="127.0.0.1",
        accepted="an IPv4 or IPv6 address",
        meaning="Address that the health endpoints bind.",
    ),
    Variable(
        name="HEALTH_CHECK_PORT",
        field="health_port",
        parse=_whole(0, 65_535),
        default="8080",
        accepted="a port from 1 to 65535, or 0 for any free one",
        meaning="TCP port of the health endpoints.",
    ),
    Variable(
        name="API_TOKEN",
        field="api_token",
        parse=_optional(str),
        accepted="any text",
        meaning="Bearer token that /api/* asks for; without one /api/* is open.",
        secret=True,
    ),
    Variable(
        name="LOG_LEVEL",
        field="log_level",
        parse=_one_of(LEVELS),
        default="info",
        accepted=", ".join(LEVELS),
        meaning="Least severe line that is logged.",
    ),
    Variable(
        name="LOG_FORMAT",
        field="log_format",
        parse=_one_of(FORMATS),
        default="auto",
        accepted=", ".join(FORMATS),
        meaning="auto is console on a terminal and JSON elsewhere.",
    ),
)

KEY_FILE_VARIABLE = "WIREGUARD_PRIVATE_KEY_FILE"
"""Path of the key; `identity` reads it, and refuses a file that others can read."""

PLAIN_SECRETS = {
    "WIREGUARD_PRIVATE_KEY": "put the key into a file and name that by WIREGUARD_PRIVATE_KEY_FILE",
    "API_TOKEN": "put the token into a file and name that by API_TOKEN_FILE",
    "CONTRACT_PRIVATE_KEY": "take it out: a node reads the chain and needs no Ethereum key",
}
"""Secrets that should not stand in a variable, which more people see than one thinks (in /proc, in
what inspects containers, in crash reports), with what a node's operator should do instead."""

SETTING_NAMES = frozenset(v.name for v in VARIABLES) | {
    f"{v.name}_FILE" for v in VARIABLES if v.secret
}
"""Every name that `config` looks up."""
