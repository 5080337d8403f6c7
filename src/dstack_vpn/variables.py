"""The table of variables: name, meaning, default and parser of every setting.

`config` reads the environment by this table; docs/settings.md is tested against it. What a text
must be to be accepted is the matter of `parsers`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dstack_vpn import parsers
from dstack_vpn.mesh.access import NODE_ID_RULE
from dstack_vpn.mesh.addresses import DEFAULT_IPV4
from dstack_vpn.mesh.membership import ContractKind, Tag

LEVELS = ("debug", "info", "warn", "error")
FORMATS = ("auto", "json", "console")
KINDS = tuple(kind.value for kind in ContractKind)
BACKENDS = (parsers.AUTO, "kernel", "userspace")


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


def _network(text: str) -> Network:
    if text not in NETWORKS:
        raise ValueError(f"is {parsers.quoted(text)}")
    return NETWORKS[text]


HOLD_OR_SECONDS = f"seconds from 0 (never) to 31536000, or {parsers.HOLD} (never)"

VARIABLES: tuple[Variable, ...] = (
    Variable(
        name="NODE_ID",
        field="node_id",
        parse=parsers.node_id,
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
        parse=parsers.contract,
        default_note="on hardhat the first contract of the first development account",
        accepted="0x and 40 hex digits",
        meaning="Address of the DstackAccessNFT contract; needed on base and baseSepolia.",
    ),
    Variable(
        name="CONTRACT_KIND",
        field="contract_kind",
        parse=lambda text: ContractKind(parsers.one_of(KINDS)(text)),
        default=ContractKind.CHECKPOINT.value,
        accepted=", ".join(KINDS),
        meaning=(
            "What the contract offers: checkpoint is ours, which proves its history; published is"
            " one with the published interface alone, whose log is read from START_BLOCK on."
        ),
    ),
    Variable(
        name="START_BLOCK",
        field="start_block",
        parse=parsers.optional(parsers.whole(0, 2**53)),
        default_note="on hardhat 0",
        accepted="a whole number from 0 to 2^53",
        meaning=(
            "Block in which the contract was made, or one before it, for CONTRACT_KIND=published"
            " alone; needed then on base and baseSepolia."
        ),
    ),
    Variable(
        name="RPC_URL",
        field="rpc_urls",
        parse=parsers.rpc_urls,
        default_note="on hardhat http://127.0.0.1:8545",
        accepted="one or several http, https, ws or wss URLs, separated by commas",
        meaning=(
            "The providers to read the chain from; more than half of them must agree (see QUORUM)."
            " A ws or wss URL also wakes the node at each new block. Needed on base and"
            " baseSepolia."
        ),
        secret=True,
    ),
    Variable(
        name="RPC_OPERATORS",
        field="rpc_operators",
        parse=parsers.rpc_operators,
        default_note="each host is an operator of its own",
        accepted="host=operator, separated by commas, with hosts of RPC_URL",
        meaning=(
            "Who runs which host of RPC_URL, by a name of your choice: all hosts of one operator"
            " are one vote."
        ),
    ),
    Variable(
        name="QUORUM",
        field="quorum",
        parse=parsers.optional(parsers.whole(1, 99)),
        default_note="the least that is more than half (2 of 2, 2 of 3, 3 of 4, 3 of 5)",
        accepted="more than half of the votes in RPC_URL, up to all of them",
        meaning=(
            "How many votes must agree; each host or operator of RPC_URL has one. On base and"
            " baseSepolia a single one must be chosen knowingly, by QUORUM=1: whoever runs it can"
            " then admit nodes."
        ),
    ),
    Variable(
        name="CONFIRMATIONS",
        field="confirmations",
        parse=parsers.optional(parsers.confirmations),
        default_note="0 on hardhat, else 5",
        accepted=f"a whole number from 0 to 10000, {' or '.join(Tag)}",
        meaning=(
            "Blocks on top of an admission before the node is let in, or the tag that its block"
            " must have reached; removals never wait."
        ),
    ),
    Variable(
        name="POLL_INTERVAL",
        field="poll_interval",
        parse=parsers.optional(parsers.number(0.02, 3600)),
        default_note="0.25 on hardhat, else 2",
        accepted="seconds from 0.02 to 3600",
        meaning="Time between two looks at the head of the chain.",
    ),
    Variable(
        name="SYNC_INTERVAL",
        field="sync_interval",
        parse=parsers.whole(100, 86_400_000),
        default="30000",
        accepted="milliseconds from 100 to 86400000",
        meaning="Time between two full compares of the device with the plan.",
    ),
    Variable(
        name="DARK_AFTER",
        field="dark_after",
        parse=parsers.number(1, 86_400),
        default="60",
        accepted="seconds from 1 to 86400",
        meaning="Time without an agreed head after which the chain counts as dark (a warning).",
    ),
    Variable(
        name="DARK_CLOSE_AFTER",
        field="dark_close_after",
        parse=parsers.seconds_or_hold(31_536_000),
        default="86400",
        accepted=HOLD_OR_SECONDS,
        meaning="Time in the dark after which all peers are removed.",
    ),
    Variable(
        name="HALT_CLOSE_AFTER",
        field="halt_close_after",
        parse=parsers.seconds_or_hold(31_536_000),
        default="0",
        accepted=HOLD_OR_SECONDS,
        meaning=(
            "Time after which all peers are removed while the providers agree, but on a head that"
            " does not move. Without effect on hardhat, where blocks come only when somebody"
            " writes."
        ),
    ),
    Variable(
        name="CONTRACT_WAIT",
        field="contract_wait",
        parse=parsers.number(0, 86_400),
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
        parse=parsers.optional(str),
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
        parse=parsers.interface,
        default="wg0",
        accepted=(
            "1 to 15 letters, digits, hyphens, dots or underscores, no hyphen or dot at the front"
        ),
        meaning="Name of the WireGuard interface.",
    ),
    Variable(
        name="WIREGUARD_BACKEND",
        field="backend",
        parse=parsers.one_of(BACKENDS),
        default=parsers.AUTO,
        accepted=", ".join(BACKENDS),
        meaning=(
            "What carries the packets: the WireGuard of the Linux kernel, or wireguard-go, a"
            " process of its own. auto keeps a device that is there, else takes the kernel's where"
            " it has one."
        ),
    ),
    Variable(
        name="LISTEN_PORT",
        field="listen_port",
        parse=parsers.whole(1, 65_535),
        default="51820",
        accepted="a port from 1 to 65535",
        meaning="UDP port of WireGuard.",
    ),
    Variable(
        name="MTU",
        field="mtu",
        parse=parsers.auto_or(parsers.whole(1280, 65_535)),
        default=parsers.AUTO,
        accepted=f"bytes from 1280 to 65535, or {parsers.AUTO}",
        meaning=(
            "MTU of the interface. auto is that of the links that lead out of this host, less the"
            " 80 bytes that WireGuard needs: 1420 at most, 1280 at least."
        ),
    ),
    Variable(
        name="KEEPALIVE",
        field="keepalive",
        parse=parsers.whole(0, 65_535),
        default="25",
        accepted="seconds from 0 (off) to 65535",
        meaning="Persistent keepalive to peers that can be spoken to first; holds NATs open.",
    ),
    Variable(
        name="FORWARDING",
        field="forwarding",
        parse=parsers.switch,
        default="off",
        accepted="on, off",
        meaning=(
            "Whether packets of members may go on through this node to other hosts and networks."
            " off stops what comes in by the interface and is for another host, and nothing else."
        ),
    ),
    Variable(
        name="IPV4_RANGE",
        field="ipv4_range",
        parse=parsers.ipv4_range,
        default=str(DEFAULT_IPV4),
        accepted="an IPv4 network with a prefix from /8 to /29",
        meaning="IPv4 range of the mesh, the same on every node; IPv6 follows from the contract.",
    ),
    Variable(
        name="ENDPOINTS",
        field="endpoints",
        parse=parsers.endpoints,
        accepted="node-id=host:port, separated by commas",
        meaning="Endpoints of peers by node id; they come before what the tokens say.",
    ),
    Variable(
        name="ENDPOINT_TEMPLATE",
        field="endpoint_template",
        parse=parsers.template,
        accepted="host:port with {node_id} in it, such as {node_id}:51820",
        meaning="Endpoint for peers that have no other, such as compose service names.",
    ),
    Variable(
        name="WG_CONFIG_FILE",
        field="wireguard_conf",
        parse=parsers.optional(parsers.path),
        default_note="STATE_DIR/WG_INTERFACE.conf",
        accepted="a path",
        meaning="Where the wg-quick text of the device is written after each change, mode 0600.",
    ),
    Variable(
        name="CONFIG_BACKUPS",
        field="config_backups",
        parse=parsers.whole(0, 1000),
        default="10",
        accepted="a whole number from 0 to 1000",
        meaning="How many earlier states of that text are kept, in STATE_DIR/backups.",
    ),
    Variable(
        name="STATE_DIR",
        field="state_dir",
        parse=parsers.path,
        default="/var/lib/dstack-vpn",
        accepted="a path",
        meaning="Directory for the key, the last verified membership and the journal, mode 0700.",
    ),
    Variable(
        name="HEALTH_CHECK_HOST",
        field="health_host",
        parse=parsers.bind_host,
        default="127.0.0.1",
        accepted="an IPv4 or IPv6 address",
        meaning="Address that the health endpoints bind.",
    ),
    Variable(
        name="HEALTH_CHECK_PORT",
        field="health_port",
        parse=parsers.whole(0, 65_535),
        default="8080",
        accepted="a port from 1 to 65535, or 0 for any free one",
        meaning="TCP port of the health endpoints.",
    ),
    Variable(
        name="API_TOKEN",
        field="api_token",
        parse=parsers.optional(str),
        accepted="any text",
        meaning="Bearer token that /api/* asks for; without one /api/* is open.",
        secret=True,
    ),
    Variable(
        name="LOG_LEVEL",
        field="log_level",
        parse=parsers.one_of(LEVELS),
        default="info",
        accepted=", ".join(LEVELS),
        meaning="Least severe line that is logged.",
    ),
    Variable(
        name="LOG_FORMAT",
        field="log_format",
        parse=parsers.one_of(FORMATS),
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
