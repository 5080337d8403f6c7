"""What must be so before containers are made, with everything that is wrong said at once.

`project` calls it. The engine is asked for its version, settings are read by the same table as the
agent's, and ports of this machine are tried.
"""

import errno
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from dstack_vpn.config import load_settings, read_env_file
from dstack_vpn.deploy.engine import DeployError, parse_version, run
from dstack_vpn.errors import SettingError, SettingsError, UserError
from dstack_vpn.variables import VARIABLES

OLDEST_ENGINE, OLDEST_COMPOSE = (20, 10), (1, 29)

NODE_IDS = {"NODE_A_ID": "node-a", "NODE_B_ID": "node-b"}
"""Variables for the names of the nodes, and what they are without them."""

COMPOSE_DEFAULTS = {
    "NETWORK": "hardhat",
    "RPC_URL": "http://chain:8545",
    "CONTRACT_WAIT": "300",
    "WIREGUARD_BACKEND": "userspace",
}
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
    host: str = "127.0.0.1"
    """Address of this machine that it is published on."""
    host_variable: str = ""
    """What may name another one."""


EVERYWHERE = "0.0.0.0"  # noqa: S104 - as the Compose file has it: peers come from anywhere

PORTS = (
    Port(
        "NODE_A_WIREGUARD_PORT",
        51820,
        socket.SOCK_DGRAM,
        "node-a's WireGuard (UDP)",
        host=EVERYWHERE,
    ),
    Port(
        "NODE_B_WIREGUARD_PORT",
        51821,
        socket.SOCK_DGRAM,
        "node-b's WireGuard (UDP)",
        host=EVERYWHERE,
    ),
    Port(
        "NODE_A_HEALTH_PORT",
        8080,
        socket.SOCK_STREAM,
        "node-a's health endpoints",
        host_variable="HEALTH_BIND",
    ),
    Port(
        "NODE_B_HEALTH_PORT",
        8081,
        socket.SOCK_STREAM,
        "node-b's health endpoints",
        host_variable="HEALTH_BIND",
    ),
    Port("CHAIN_PORT", 8545, socket.SOCK_STREAM, "the local chain", "local-chain"),
)


def _bind_address(text: str) -> bool:
    # Without the zone of a link-local address, which the engine does not know.
    return "%" not in text and _address(text) is not None


def _host_of_url(text: str) -> bool:
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else ""
    if inner:
        return "%" not in inner and isinstance(_address(inner), IPv6Address)
    return isinstance(_address(text), IPv4Address)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _profiles(text: str) -> bool:
    names = (part.strip(" ") for part in text.split(","))
    return all(re.fullmatch("[A-Za-z0-9_.-]+", name) for name in names if name)


def _like(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern)
    return lambda text: compiled.fullmatch(text) is not None


_NAME = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_IMAGE = _like(
    rf"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]+)?/)?{_NAME}(?:/{_NAME})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
    r"(?:@[A-Za-z0-9]+(?:[+._-][A-Za-z0-9]+)*:[0-9a-fA-F]{32,})?"
)
_IMAGE_RULE = (
    "the name of an image, such as debian:bookworm-slim or registry.example/name@sha256:DIGEST"
)

COMPOSE_RULES: Mapping[str, tuple[Callable[[str], bool], str]] = {
    "COMPOSE_PROJECT_NAME": (
        _like("[a-z0-9][a-z0-9_-]*"),
        "a-z, 0-9, hyphen and underscore, with a letter or digit at the front",
    ),
    "COMPOSE_PROFILES": (_profiles, "names separated by commas"),
    "BASE_IMAGE": (_IMAGE, _IMAGE_RULE),
    "DSTACK_VPN_IMAGE": (_IMAGE, _IMAGE_RULE),
    "NGINX_IMAGE": (_IMAGE, _IMAGE_RULE),
    "CHAIN_IMAGE": (_IMAGE, _IMAGE_RULE),
    "HEALTH_BIND": (_bind_address, "an IPv4 or IPv6 address"),
    "NODE_A_MESH_ADDRESS": (_host_of_url, "an IPv4 address, or an IPv6 address in brackets"),
    "IPV6_SYSCTL": (
        _like(r"net(\.[A-Za-z0-9_-]+)+=-?[0-9]+"),
        "a switch of the network with its number, such as net.ipv6.conf.all.disable_ipv6=0",
    ),
}
"""What the agent's table does not judge: by variable, whether a text will do, and what will."""

SOCKET_VARIABLE, DEFAULT_SOCKET = "DOCKER_SOCKET", "/var/run/docker.sock"
KEEPER = "keeper"
"""The profile that needs the engine's socket."""


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


def env_file_errors(path: Path) -> list[UserError]:
    """Which lines of .env Compose (1.29 or any 2) would read in another way than we do.

    Args:
        path: of the file; where there is none, nothing is wrong with it.
    """
    if not os.path.lexists(path):
        return []
    try:
        read_env_file(path)
        text = path.read_text(encoding="utf-8")
    except SettingError as error:
        return [UserError(str(error).replace(error.setting, path.name, 1))]
    wrong: list[UserError] = []
    for number, line in enumerate(text.splitlines(), 1):
        name, _, value = line.strip().removeprefix("export ").partition("=")
        if line.strip().startswith("#") or not (found := _ambiguity(value.strip())):
            continue
        problem, accepted = found
        # Not the value, which may hold a key.
        where = f"on line {number}, in {name.strip()[:60]}"
        wrong.append(SettingError(path.name, f"has {problem} {where}", accepted))
    return wrong


def _ambiguity(value: str) -> tuple[str, str] | None:
    """What programs read differently in a value, and what they all read alike."""
    quote = value[0] if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'" else ""
    inner = value[1:-1] if quote else value
    if "$" in value:
        return "a $, which Compose replaces", "values without it"
    if (quote and quote in inner) or (not quote and ("'" in value or '"' in value)):
        accepted = "quotes around the whole value, or none"
        return "a quote that does not go around the whole value", accepted
    if quote and "\\" in inner:
        return "a backslash between quotes", "values without it, or without quotes"
    if not quote and "#" in value:
        accepted = "a comment on a line of its own, or quotes around a value with #"
        return "a # without quotes, where Compose may end the value", accepted
    return None


def compose_variable_errors(
    values: Mapping[str, str], profiles: frozenset[str], *, local: bool
) -> list[UserError]:
    """What is wrong with the variables that only the Compose file reads; ports are `port_errors`'.

    Args:
        values: the variables that Compose reads, with those that are put in for it.
        profiles: that are on.
        local: whether the engine runs on this machine.
    """
    # As they stand: Compose takes spaces around a value for a part of it.
    wrong: list[UserError] = [
        SettingError(name, f"is {values[name][:60]!a}", accepted)
        for name, (good, accepted) in COMPOSE_RULES.items()
        if values.get(name) and not good(values[name])
    ]
    path = values.get(SOCKET_VARIABLE) or DEFAULT_SOCKET
    if local and KEEPER in profiles and (problem := _no_socket(path)):
        accepted = "the absolute path of the engine's socket, for the keeper"
        wrong.append(SettingError(SOCKET_VARIABLE, f"is {path[:60]!a}, {problem}", accepted))
    return wrong


def _no_socket(path: str) -> str:
    """Why the keeper cannot be given that as the engine's socket; empty if it can."""
    if not path.startswith("/") or ":" in path:
        return "which a container cannot be given"
    try:
        return "" if Path(path).is_socket() else "which is no socket"
    except OSError as error:
        return f"which cannot be looked at ({error.strerror})"


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
        if _in_use(values.get(port.host_variable) or port.host, int(text), port.kind):
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


def _in_use(host: str, port: int, kind: socket.SocketKind) -> bool:
    address = _address(host)
    if address is None:
        return False  # which `compose_variable_errors` tells
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, kind) as probe:
            if kind == socket.SOCK_STREAM:
                # A connection that was closed a moment ago is none that holds the port.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))
