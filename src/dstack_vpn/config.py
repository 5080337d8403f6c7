"""Settings: read once from the environment and an optional file, checked, then frozen.

This is the only reader of the environment; the table of what there is stands in `variables`.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from ipaddress import IPv4Network
from operator import attrgetter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dstack_vpn.errors import SettingError, SettingsError
from dstack_vpn.mesh.endpoint import Endpoint
from dstack_vpn.mesh.membership import Address, Confirmations, ContractKind
from dstack_vpn.parsers import plain_host, quoted
from dstack_vpn.variables import (
    KEY_FILE_VARIABLE,
    NETWORKS,
    PLAIN_SECRETS,
    VARIABLES,
    Network,
    Variable,
)

__all__ = [
    "NETWORKS",
    "Network",
    "Settings",
    "load_settings",
    "provider_name",
    "public_settings",
    "voter_of",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of a node, parsed; see `VARIABLES` for names, meanings and defaults."""

    node_id: str
    network: Network
    contract: Address
    contract_kind: ContractKind
    start_block: int | None
    """First block whose log is read; None where the kind of the contract needs none."""
    rpc_urls: tuple[str, ...] = field(repr=False)
    rpc_operators: Mapping[str, str]
    """Host to operator, for the hosts of `rpc_urls` whose operator was declared."""
    quorum: int
    """Votes that must agree: more than half of those there are, and never fewer later on."""
    confirmations: Confirmations
    poll_interval: float
    sync_interval: float
    dark_after: float
    dark_close_after: float
    """0 is never."""
    halt_close_after: float
    """0 is never; always 0 where blocks come only when somebody writes, whatever was set."""
    contract_wait: float
    """0 on public networks, whatever was set."""
    wireguard_key: str | None = field(repr=False)
    wireguard_key_file: Path
    interface: str
    backend: str
    """One of `variables.BACKENDS`."""
    listen_port: int
    mtu: int | None
    """None for what fits the paths to the peers."""
    keepalive: int
    forwarding: bool
    ipv4_range: IPv4Network
    endpoints: Mapping[str, Endpoint]
    endpoint_template: str
    wireguard_conf: Path
    config_backups: int
    state_dir: Path
    health_host: str
    health_port: int
    api_token: str | None = field(repr=False)
    log_level: str
    log_format: str
    plain_secrets: tuple[str, ...]
    """The variables of `PLAIN_SECRETS` that hold a value."""

    @property
    def default_key_file(self) -> Path:
        """Where a key is made at the first start when none is configured."""
        return _default_key_file(self.state_dir)

    @property
    def voters(self) -> tuple[str, ...]:
        """Whose vote each of `rpc_urls` is a part of, in their order."""
        return tuple(voter_of(url, self.rpc_operators) for url in self.rpc_urls)

    @property
    def trusts_one_provider(self) -> bool:
        """Whether one stranger's word decides who is a member."""
        return self.network.public and self.quorum == 1


def load_settings(
    environ: Mapping[str, str] | None = None,
    env_file: Path | None = None,
    *,
    overrides: Mapping[str, str] | None = None,
    need_node_id: bool = True,
) -> Settings:
    """Read and check all settings.

    Args:
        environ: variables; the process's own by default. They come before those of the file.
        env_file: a file of ``NAME=value`` lines.
        overrides: values that come before both.
        need_node_id: False for commands that only read the chain.

    Raises:
        SettingError: names the setting, what is wrong and what is accepted.
        SettingsError: several are wrong; it has a SettingError for each.
    """
    found = read_variables(environ, env_file)
    values = found | dict(overrides or {})
    draft = _Draft()
    draft.put("plain_secrets", lambda: _plain_secrets(found, overrides or {}))
    for variable in VARIABLES:
        draft.put(variable.field, partial(_parse, variable, values, need_node_id=need_node_id))
    _complete(draft, values)
    return Settings(**draft.finished())


def read_setting(name: str, env_file: Path | None = None) -> Any:
    """One setting by itself, whatever may be wrong with the others.

    Raises:
        SettingError: names the setting, what is wrong and what is accepted.
    """
    (variable,) = (v for v in VARIABLES if v.name == name)
    return _parse(variable, read_variables(env_file=env_file))


def read_variables(
    environ: Mapping[str, str] | None = None, env_file: Path | None = None
) -> dict[str, str]:
    """All variables as they stand: the process's own, or those given, before those of the file.

    Raises:
        SettingError: the file cannot be read.
    """
    given = dict(os.environ if environ is None else environ)
    return given if env_file is None else read_env_file(env_file) | given


def _plain_secrets(found: Mapping[str, str], overrides: Mapping[str, str]) -> tuple[str, ...]:
    # What a program that embeds a node hands over stands in no variable.
    return tuple(n for n in PLAIN_SECRETS if found.get(n, "").strip() and n not in overrides)


class _Draft:
    """Settings in the making: the fields that are right so far, and what is wrong with others."""

    def __init__(self) -> None:
        self._fields: dict[str, Any] = {}
        self._errors: list[SettingError] = []

    def put(self, name: str, make: Callable[..., Any], *needs: str) -> None:
        """Set a field to what is made of others; where one of those is wrong, that was told."""
        if not self._fields.keys() >= set(needs):
            return
        arguments = [self._fields[need] for need in needs]
        self._fields.pop(name, None)
        try:
            self._fields[name] = make(*arguments)
        except SettingError as error:
            self._errors.append(error)

    def finished(self) -> dict[str, Any]:
        """All fields; raises what is wrong, be it one setting or several."""
        if len(self._errors) > 1:
            raise SettingsError(self._errors)
        if self._errors:
            raise self._errors[0]
        assert self._fields.keys() == {f.name for f in fields(Settings)}
        return self._fields


def _parse(variable: Variable, values: Mapping[str, str], *, need_node_id: bool = True) -> Any:
    text = values.get(variable.name, "").strip()
    # The key's own file is read by `identity`, which also checks its mode.
    if variable.secret and variable.field != "wireguard_key":
        from_file = _secret_file(variable, values)
        if text and from_file:
            name = f"{variable.name}_FILE"
            raise SettingError(name, f"and {variable.name} are both set", "one of the two")
        text = text or from_file
    if not text:
        if variable.name == "NODE_ID" and not need_node_id:
            return ""
        if variable.default is None:
            raise SettingError(variable.name, "is missing", variable.accepted)
        text = variable.default
    try:
        return variable.parse(text)
    except ValueError as error:
        raise SettingError(variable.name, str(error), variable.accepted) from None


def _secret_file(variable: Variable, values: Mapping[str, str]) -> str:
    name = f"{variable.name}_FILE"
    if not (path := values.get(name, "").strip()):
        return ""
    # A secret that was put where its path belongs must not end up in an error.
    where = f"{path}: " if path.startswith("/") else ""
    accepted = "the path of a readable text file"
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        problem = f"cannot be read ({where}{why_unreadable(error)})"
        raise SettingError(name, problem, accepted) from None
    if not text:
        # Otherwise an empty API_TOKEN_FILE would leave /api/* open.
        raise SettingError(name, f"names an empty file ({path})", accepted)
    return text


def why_unreadable(error: OSError | ValueError, otherwise: str = "not UTF-8 text") -> str:
    """Why a file could not be read, for an error sentence."""
    if isinstance(error, PermissionError):
        hint = (
            "in a container without extra capabilities even root cannot read another owner's file"
        )
        return f"{error.strerror}; {hint}"
    return getattr(error, "strerror", None) or otherwise


def _complete(draft: _Draft, values: Mapping[str, str]) -> None:
    """Fill the defaults that depend on other settings, and check what concerns several."""
    draft.put("contract", _contract, "network", "contract")
    draft.put("rpc_urls", _rpc_urls, "network", "rpc_urls")
    draft.put("rpc_operators", _rpc_operators, "rpc_urls", "rpc_operators")
    draft.put("quorum", _quorum, "network", "rpc_urls", "rpc_operators", "quorum")
    draft.put("start_block", _start_block, "network", "contract_kind", "start_block")
    for name in ("confirmations", "poll_interval"):
        draft.put(name, _or(attrgetter(name)), name, "network")
    draft.put("dark_after", _dark_after, "network", "poll_interval", "dark_after")
    draft.put("halt_close_after", _halt_close_after, "network", "halt_close_after")
    draft.put("contract_wait", _contract_wait, "network", "contract_wait")
    draft.put("sync_interval", lambda milliseconds: milliseconds / 1000, "sync_interval")
    key_file = values.get(KEY_FILE_VARIABLE, "").strip()
    draft.put("wireguard_key_file", partial(_key_file, key_file), "wireguard_key", "state_dir")
    in_state_dir = _or(lambda state_dir, interface: state_dir / f"{interface}.conf")
    draft.put("wireguard_conf", in_state_dir, "wireguard_conf", "state_dir", "interface")


def _or(default: Callable[..., Any]) -> Callable[..., Any]:
    """What keeps a value that is set, and else makes one of the other arguments."""
    return lambda value, *others: default(*others) if value is None else value


def _contract(network: Network, contract: Address | None) -> Address:
    if contract is not None:
        return contract
    if not network.contract:
        accepted = f"0x and 40 hex digits (there is no default on {network.name})"
        raise SettingError("CONTRACT_ADDRESS", "is missing", accepted)
    return Address(network.contract.lower())


def _start_block(network: Network, kind: ContractKind, block: int | None) -> int | None:
    if kind is not ContractKind.PUBLISHED:
        if block is not None:
            problem = f"is set, but CONTRACT_KIND is {kind}, which needs none"
            accepted = f"none, or CONTRACT_KIND={ContractKind.PUBLISHED}"
            raise SettingError("START_BLOCK", problem, accepted)
        return None
    if block is None and network.public:
        raise SettingError(
            "START_BLOCK",
            f"is missing, and CONTRACT_KIND is {kind}, whose log is read from there on",
            f"the number of the block in which the contract was made on {network.name}",
        )
    return block or 0


def _dark_after(_network: Network, poll_interval: float, seconds: float) -> float:
    # Otherwise one poll that fails, or none at all, would make it dark again and again.
    if 2 * poll_interval > seconds:
        raise SettingError(
            "POLL_INTERVAL",
            f"is {poll_interval:g}, but DARK_AFTER is {seconds:g}, so that the chain would count as"
            " dark between two polls",
            f"at most half of DARK_AFTER, which is {seconds / 2:g}, or a longer DARK_AFTER",
        )
    return seconds


def _halt_close_after(network: Network, seconds: float) -> float:
    # Where blocks come only when somebody writes, a head that stands still is nothing special.
    return seconds if network.block_time else 0.0


def _contract_wait(network: Network, seconds: float) -> float:
    # Only a chain of one's own begins without its contract.
    return 0.0 if network.public else seconds


def _rpc_urls(network: Network, urls: tuple[str, ...]) -> tuple[str, ...]:
    if urls:
        return urls
    if not network.rpc_url:
        accepted = f"one or several URLs (there is no default on {network.name})"
        raise SettingError("RPC_URL", "is missing", accepted)
    return (network.rpc_url,)


def _key_file(path: str, key: str | None, state_dir: Path) -> Path:
    if path and key:
        raise SettingError(
            KEY_FILE_VARIABLE, "and WIREGUARD_PRIVATE_KEY are both set", "one of the two"
        )
    return Path(path) if path else _default_key_file(state_dir)


def _default_key_file(state_dir: Path) -> Path:
    return state_dir / "wireguard.key"


def _rpc_operators(urls: tuple[str, ...], operators: Mapping[str, str]) -> Mapping[str, str]:
    hosts = {_host(url) for url in urls}
    # A name that was mistyped would leave one operator two votes.
    if strange := [host for host in operators if host not in hosts]:
        raise SettingError(
            "RPC_OPERATORS",
            f"names {quoted(strange[0])}, which is no host of RPC_URL",
            "hosts as RPC_URL has them, without a port",
        )
    return operators


def _quorum(
    network: Network,
    urls: tuple[str, ...],
    operators: Mapping[str, str],
    quorum: int | None,
) -> int:
    votes = len({voter_of(url, operators) for url in urls})
    # With half of them or less, two camps could each decide something else.
    least = votes // 2 + 1
    if quorum is None and votes == 1 and network.public:
        raise SettingError(
            "RPC_URL",
            f"names one provider on {network.name}, who could then admit anybody",
            "URLs of two or more hosts and operators, or QUORUM=1 to trust this one",
        )
    if quorum is not None and not least <= quorum <= votes:
        raise SettingError(
            "QUORUM",
            f"is {quorum}, but RPC_URL has {votes} vote(s), one for each host or operator, and"
            " more than half of them must agree",
            f"{least} to {votes}" if least < votes else f"{votes}",
        )
    return least if quorum is None else quorum


def voter_of(url: str, operators: Mapping[str, str]) -> str:
    """Whose vote a provider is a part of: its operator's if one was declared, else its host's.

    Args:
        url: the provider's.
        operators: by host, as `Settings.rpc_operators` has them.
    """
    host = _host(url)
    return operators.get(host, host)


def _host(url: str) -> str:
    return plain_host(urlsplit(url).hostname or "")


def read_env_file(path: Path) -> dict[str, str]:
    """Read ``NAME=value`` lines; blank lines and lines that start with ``#`` are skipped.

    Raises:
        SettingError: the file cannot be read, or a line is not ``NAME=value``.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        problem = f"cannot be read ({path}: {why_unreadable(error)})"
        raise SettingError("--env-file", problem, "a file of NAME=value lines") from None
    values: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.removeprefix("export ").partition("=")
        if not equals or not name.strip().isidentifier():
            raise SettingError(
                "--env-file", f"has no NAME=value on line {number} of {path}", "NAME=value lines"
            )
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        values[name.strip()] = value
    return values


def public_settings(settings: Settings) -> dict[str, Any]:
    """The settings as /config shows them: by variable name, secrets replaced."""
    shown: dict[str, Any] = {}
    for variable in VARIABLES:
        value = getattr(settings, variable.field)
        if variable.field == "rpc_urls":
            shown[variable.name] = [provider_name(u, i) for i, u in enumerate(value, 1)]
        elif variable.secret:
            shown[variable.name] = "[set]" if value else None
        elif isinstance(value, Network):
            shown[variable.name] = value.name
        elif isinstance(value, Mapping):
            shown[variable.name] = {k: str(v) for k, v in value.items()}
        elif variable.field == "sync_interval":
            shown[variable.name] = round(value * 1000)
        elif value is None:
            shown[variable.name] = variable.default or None
        elif isinstance(value, int | float):
            shown[variable.name] = value
        else:
            shown[variable.name] = str(value)
    shown[KEY_FILE_VARIABLE] = str(settings.wireguard_key_file)
    return shown


def provider_name(url: str, number: int) -> str:
    """How a provider is called everywhere: host and number, for its URL may carry a key."""
    return f"{urlsplit(url).hostname}#{number}"
