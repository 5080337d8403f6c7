"""Settings: read once from the environment and an optional file, checked, then frozen.

This is the only reader of the environment; the table of what there is stands in `variables`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dstack_vpn.errors import SettingError
from dstack_vpn.mesh.endpoint import Endpoint
from dstack_vpn.mesh.membership import Address
from dstack_vpn.variables import KEY_FILE_VARIABLE, NETWORKS, VARIABLES, Network, Variable

__all__ = ["NETWORKS", "Network", "Settings", "load_settings", "provider_name", "public_settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of a node, parsed; see `VARIABLES` for names, meanings and defaults."""

    node_id: str
    network: Network
    contract: Address
    rpc_urls: tuple[str, ...] = field(repr=False)
    quorum: int | None
    confirmations: int
    poll_interval: float
    sync_interval: float
    dark_after: float
    dark_close_after: float
    wireguard_key: str | None = field(repr=False)
    wireguard_key_file: Path
    interface: str
    listen_port: int
    mtu: int
    keepalive: int
    ipv4_range: IPv4Network
    endpoints: Mapping[str, Endpoint]
    endpoint_template: str
    wireguard_conf: Path
    state_dir: Path
    health_host: str
    health_port: int
    api_token: str | None = field(repr=False)
    log_level: str
    log_format: str

    @property
    def default_key_file(self) -> Path:
        """Where a key is made at the first start when none is configured."""
        return _default_key_file(self.state_dir)

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
    """
    values = dict(os.environ if environ is None else environ)
    if env_file is not None:
        values = read_env_file(env_file) | values
    values.update(overrides or {})
    parsed: dict[str, Any] = {}
    for variable in VARIABLES:
        if variable.name == "NODE_ID" and not need_node_id and not values.get("NODE_ID"):
            parsed["node_id"] = ""
            continue
        parsed[variable.field] = _parse(variable, values)
    return _complete(parsed, values)


def _parse(variable: Variable, values: Mapping[str, str]) -> Any:
    text = values.get(variable.name, "").strip()
    # The key's own file is read by `identity`, which also checks its mode.
    if variable.secret and variable.field != "wireguard_key":
        from_file = _secret_file(variable, values)
        if text and from_file:
            name = f"{variable.name}_FILE"
            raise SettingError(name, f"and {variable.name} are both set", "one of the two")
        text = text or from_file
    if not text:
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
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise SettingError(name, f"cannot be read ({where}{reason})", accepted) from None
    if not text:
        # Otherwise an empty API_TOKEN_FILE would leave /api/* open.
        raise SettingError(name, f"names an empty file ({path})", accepted)
    return text


def _complete(parsed: dict[str, Any], values: Mapping[str, str]) -> Settings:
    """Fill the defaults that depend on other settings, and check what concerns several."""
    network: Network = parsed["network"]
    if parsed["contract"] is None:
        if not network.contract:
            accepted = f"0x and 40 hex digits (there is no default on {network.name})"
            raise SettingError("CONTRACT_ADDRESS", "is missing", accepted)
        parsed["contract"] = Address(network.contract.lower())
    urls = parsed["rpc_urls"] or ((network.rpc_url,) if network.rpc_url else ())
    if not urls:
        accepted = f"one or several URLs (there is no default on {network.name})"
        raise SettingError("RPC_URL", "is missing", accepted)
    parsed["rpc_urls"] = urls
    _check_quorum(parsed["quorum"], urls, network)
    for name in ("confirmations", "poll_interval"):
        if parsed[name] is None:
            parsed[name] = getattr(network, name)
    parsed["sync_interval"] = parsed["sync_interval"] / 1000
    state_dir: Path = parsed["state_dir"]
    key_file = values.get(KEY_FILE_VARIABLE, "").strip()
    if key_file and parsed["wireguard_key"]:
        raise SettingError(
            KEY_FILE_VARIABLE, "and WIREGUARD_PRIVATE_KEY are both set", "one of the two"
        )
    parsed["wireguard_key_file"] = Path(key_file) if key_file else _default_key_file(state_dir)
    if parsed["wireguard_conf"] is None:
        parsed["wireguard_conf"] = state_dir / f"{parsed['interface']}.conf"
    assert parsed.keys() == {f.name for f in fields(Settings)}
    return Settings(**parsed)


def _default_key_file(state_dir: Path) -> Path:
    return state_dir / "wireguard.key"


def _check_quorum(quorum: int | None, urls: tuple[str, ...], network: Network) -> None:
    votes = len({(urlsplit(u).hostname or "").rstrip(".") for u in urls})
    if quorum is None and votes == 1 and network.public:
        raise SettingError(
            "RPC_URL",
            f"names one provider on {network.name}, who could then admit anybody",
            "URLs of two or more hosts, or QUORUM=1 to trust this one",
        )
    if quorum is not None and quorum != votes:
        raise SettingError(
            "QUORUM",
            f"is {quorum}, but RPC_URL names {votes} host(s) and all of them must agree",
            f"{votes}, or leave it unset",
        )


def read_env_file(path: Path) -> dict[str, str]:
    """Read ``NAME=value`` lines; blank lines and lines that start with ``#`` are skipped.

    Raises:
        SettingError: the file cannot be read, or a line is not ``NAME=value``.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise SettingError(
            "--env-file", f"cannot be read ({path}: {reason})", "a file of NAME=value lines"
        ) from None
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
        elif value is None or isinstance(value, int | float):
            shown[variable.name] = value
        else:
            shown[variable.name] = str(value)
    shown[KEY_FILE_VARIABLE] = str(settings.wireguard_key_file)
    return shown


def provider_name(url: str, number: int) -> str:
    """How a provider is called everywhere: host and number, for its URL may carry a key."""
    return f"{urlsplit(url).hostname}#{number}"
