"""What must be so before containers are made, with everything that is wrong said at once.

`project` calls it. The engine is asked for its version, settings are read by the same table as the
agent's, and ports of this machine are tried.
"""

import errno
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dstack_vpn.config import load_settings
from dstack_vpn.deploy.engine import DeployError, parse_version, run
from dstack_vpn.errors import SettingError, SettingsError, UserError
from dstack_vpn.variables import VARIABLES

OLDEST_ENGINE, OLDEST_COMPOSE = (20, 10), (1, 29)

NODE_IDS = {"NODE_A_ID": "node-a", "NODE_B_ID": "node-b"}
"""Variables for the names of the nodes, and what they are without them."""

COMPOSE_DEFAULTS = {"NETWORK": "hardhat", "RPC_URL": "http://chain:8545", "CONTRACT_WAIT": "300"}
"""What docker-compose.yml has in the place of the agent's own defaults."""

FIXED = {
    "ENDPOINT_TEMPLATE": "by the Compose file: nodes of one file find each other by name",
    "WIREGUARD_PRIVATE_KEY": "a key is made in the node's volume, or comes as a secret",
    "API_TOKEN": "comes as a secret",
    "STATE_DIR": "by the image",
    "WG_CONFIG_FILE": "by the image",
    "WG_INTERFACE": "by the image",
    "LISTEN_PORT": "by the image; the Compose file maps it",
    "HEALTH_CHECK_HOST": "by the image",
    "HEALTH_CHECK_PORT": "by the image; the Compose file maps it",
}
"""Settings that are not handed to the nodes of docker-compose.yml, with the reason."""


@dataclass(frozen=True, slots=True)
class Port:
    """A port of this machine that the Compose file publishes."""

    variable: str
    default: int
    kind: socket.SocketKind
    purpose: str
    profile: str = ""


PORTS = (
    Port("NODE_A_WIREGUARD_PORT", 51820, socket.SOCK_DGRAM, "node-a's WireGuard (UDP)"),
    Port("NODE_B_WIREGUARD_PORT", 51821, socket.SOCK_DGRAM, "node-b's WireGuard (UDP)"),
    Port("NODE_A_HEALTH_PORT", 8080, socket.SOCK_STREAM, "node-a's health endpoints"),
    Port("NODE_B_HEALTH_PORT", 8081, socket.SOCK_STREAM, "node-b's health endpoints"),
    Port("CHAIN_PORT", 8545, socket.SOCK_STREAM, "the local chain", "local-chain"),
)


def engine_errors() -> list[UserError]:
    """What is wrong with the engine, if anything."""
    accepted = f"Docker {_dotted(OLDEST_ENGINE)} or newer that runs, and the right to use it"
    try:
        said = run(("docker", "version", "--format", "{{.Server.Version}}"))
    except UserError as error:
        return [error]
    except DeployError as error:
        return [UserError(f"{error}; accepted: {accepted}")]
    version = parse_version(said.out)
    if said.code != 0 or not version:
        return [UserError(f"the engine does not answer ({said.complaint}); accepted: {accepted}")]
    if version < OLDEST_ENGINE:
        return [UserError(f"the engine is Docker {said.out.strip()}; accepted: {accepted}")]
    return []


def compose_errors(version: Sequence[int] | None) -> list[UserError]:
    """What is wrong with Compose, if anything; None for a version where it was not found."""
    accepted = f"docker compose 2, or docker-compose {_dotted(OLDEST_COMPOSE)}"
    if version is None:
        return [UserError(f"Compose is not installed; accepted: {accepted}")]
    if tuple(version) < OLDEST_COMPOSE:
        return [UserError(f"Compose is version {_dotted(version)}; accepted: {accepted}")]
    return []


def setting_errors(values: Mapping[str, str]) -> list[UserError]:
    """What is wrong with the settings that the Compose file hands to the nodes.

    Args:
        values: the variables that Compose reads.
    """
    handed = {v.name: values.get(v.name, "").strip() for v in VARIABLES if v.name not in FIXED}
    handed["NETWORK"] = handed["NETWORK"] or COMPOSE_DEFAULTS["NETWORK"]
    if handed["NETWORK"] == COMPOSE_DEFAULTS["NETWORK"]:
        # Only there: on a public network a chain of one's own is a mistake.
        handed["RPC_URL"] = handed["RPC_URL"] or COMPOSE_DEFAULTS["RPC_URL"]
    wrong: dict[str, UserError] = {}
    names = {v: values.get(v, "").strip() or default for v, default in NODE_IDS.items()}
    for variable, node_id in names.items():
        for error in _errors_of(handed | {"NODE_ID": node_id}):
            text = str(error)
            if error.setting == "NODE_ID":
                text = text.replace("NODE_ID", variable, 1)
            wrong[text] = UserError(text)
    found = list(wrong.values())
    if len(set(names.values())) < len(names):
        found.append(SettingError(" and ".join(names), "are the same", "a name for each node"))
    return found


def _errors_of(environ: Mapping[str, str]) -> list[SettingError]:
    try:
        load_settings(environ)
    except SettingsError as several:
        return [error for error in several.errors if isinstance(error, SettingError)]
    except SettingError as error:
        return [error]
    return []


def wants_local_chain(values: Mapping[str, str]) -> bool:
    """Whether nothing names another chain than the one that docker-compose.yml can bring along.

    Args:
        values: the variables that Compose reads.
    """
    return all(
        values.get(name, "").strip() in ("", COMPOSE_DEFAULTS[name])
        for name in ("NETWORK", "RPC_URL")
    )


def port_errors(values: Mapping[str, str], profiles: frozenset[str]) -> list[UserError]:
    """Which ports to be published are none, or the same.

    Args:
        values: the variables that Compose reads.
        profiles: that are on.
    """
    wrong: list[UserError] = []
    taken: dict[tuple[str, socket.SocketKind], str] = {}
    for port, text in _published(values, profiles):
        if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536):
            wrong.append(SettingError(port.variable, f"is {text[:20]!a}", "a port from 1 to 65535"))
            continue
        key = (str(int(text)), port.kind)
        if key in taken:
            both = f"{taken[key]} and {port.variable}"
            wrong.append(SettingError(both, f"are both {text}", "different ports"))
        taken.setdefault(key, port.variable)
    return wrong


def ports_in_use(values: Mapping[str, str], profiles: frozenset[str]) -> list[UserError]:
    """Which ports to be published, that `port_errors` approves of, are another program's.

    Args:
        values: the variables that Compose reads.
        profiles: that are on.
    """
    wrong: list[UserError] = []
    for port, text in _published(values, profiles):
        if _in_use(int(text), port.kind):
            kind = "UDP" if port.kind == socket.SOCK_DGRAM else "TCP"
            problem = f"is {text}, and that {kind} port is in use"
            wrong.append(SettingError(port.variable, problem, "a free port"))
    return wrong


def _published(values: Mapping[str, str], profiles: frozenset[str]) -> Iterator[tuple[Port, str]]:
    for port in PORTS:
        if not port.profile or port.profile in profiles:
            yield port, values.get(port.variable, "").strip() or str(port.default)


def tun_errors(tun: Path = Path("/dev/net/tun")) -> list[UserError]:
    """Whether this machine lacks what userspace WireGuard needs."""
    if tun.exists():
        return []
    return [UserError(f"there is no {tun} on this machine; accepted: one (modprobe tun makes it)")]


def _in_use(port: int, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind == socket.SOCK_STREAM:
            # A connection that was closed a moment ago is none that holds the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))
