"""``dstack-vpn status``: this node and its peers in a table, as its agent sees them."""

import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any

import typer

from dstack_vpn.cli.agent import AgentAddress, AgentAwayError
from dstack_vpn.cli.observe import read_device
from dstack_vpn.cli.options import AsJson, EnvFile, examples
from dstack_vpn.cli.show import note, plain, put, put_json
from dstack_vpn.config import load_settings
from dstack_vpn.errors import DstackVpnError, UserError
from dstack_vpn.log import configure_logs

EVERY = 2.0
"""Seconds between two looks of --watch."""
HEAD = ("NODE", "TOKEN", "ADDRESS", "ENDPOINT", "FROM", "STATE", "RX/TX")
_NET = Path("/sys/class/net")
_CLEAR = "\x1b[H\x1b[J"
_ORDER = {"live": 0, "silent": 1, "trying": 2, "never": 3}

EXAMPLES = examples(
    "dstack-vpn status --env-file node-a.env",
    "dstack-vpn status --all           # those too who are out, or wait",
    "dstack-vpn status --watch",
    "dstack-vpn status --json",
)

Json = Mapping[str, Any]


def status(
    everybody: Annotated[
        bool, typer.Option("--all", help="Show also nodes that are out, or not in yet.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again every two seconds, until interrupted.")
    ] = False,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> int:
    """Show this node and its peers, by its running agent.

    Exit code 0, or 1 when no agent answers; then the device itself is shown, if there is one.
    """
    if watch and as_json:
        raise UserError("--watch and --json are both given; accepted: one of the two")
    configure_logs(level="error", form="console")
    agent = AgentAddress.find(env_file)
    while True:
        try:
            answers = _ask(agent, everybody=everybody)
        except AgentAwayError as error:
            if not watch:
                _show_device(env_file)
                raise
            text = f"{error}\n"
        else:
            if as_json:
                put_json(answers)
                return 0
            text = "\n".join(_lines(answers)) + "\n"
        if watch and sys.stdout.isatty():
            lines = text.splitlines()[: shutil.get_terminal_size().lines - 1]
            text = _CLEAR + "\n".join(lines) + "\n"
        sys.stdout.write(text)
        if not watch:
            return 0
        sys.stdout.flush()
        time.sleep(EVERY)


def _ask(agent: AgentAddress, *, everybody: bool) -> Mapping[str, Json]:
    answers = {"health": agent.ask("/health"), "wireguard": agent.ask("/wireguard")}
    if everybody:
        answers["access"] = agent.ask("/api/access")
    name = answers["wireguard"].get("interface")
    answers["device"] = {"interface": name, "backend": name and _backend(str(name))}
    return answers


def _lines(answers: Mapping[str, Json]) -> Iterator[str]:
    try:
        yield from _head(answers["health"], answers["wireguard"], answers["device"])
        rows = sorted(map(_row, answers["wireguard"]["peers"]))
        known = {peer["publicKey"] for peer in answers["wireguard"]["peers"]}
        others = answers.get("access", {}).get("access", ())
        own = answers["wireguard"]["publicKey"]
        rows += [
            (
                9,
                _number(d["tokenId"]),
                (d["nodeId"], str(d["tokenId"]), "", "", "", d["verdict"], ""),
            )
            for d in others
            if not d["granted"] or d["publicKey"] not in known | {own}
        ]
        if rows:
            yield ""
            yield from columns(HEAD, [cells for _, _, cells in rows])
    except (KeyError, TypeError, ValueError, AttributeError, LookupError):
        raise AgentAwayError(
            "the agent is of another version: its answer has other names"
        ) from None


def _head(health: Json, device: Json, carrier: Json) -> Iterator[str]:
    chain, registry = health["chain"], health["peerRegistry"]
    facts = [health["nodeId"], health["access"]["verdict"] or "unknown verdict"]
    yield plain("  ".join([*facts, f"{health['bridge']['status']}, {health['status']}"]))
    lag = "" if chain["lag"] is None else f", lag {chain['lag']}"
    votes = f", {chain['needed']} of {chain['voters']} votes needed"
    yield plain(f"chain   {chain['state']}, block {chain['head']}{lag}{votes}")
    if device["interface"] is None:
        yield "device  none"
    else:
        name = device["interface"]
        up = "up" if device["up"] else "DOWN"
        port, mtu = device["listenPort"], device["mtu"]
        backend = f" ({kind})" if (kind := carrier["backend"]) else ""
        yield plain(f"device  {name}{backend}, {up}, UDP port {port}, MTU {mtu}")
        yield plain(f"        {' '.join(device['addresses']) or 'no addresses'}")
    yield f"peers   {registry['activePeers']} of {registry['totalPeers']} live, direct UDP"
    for reason in health["reasons"]:
        yield plain(f"! {reason['text']}")
    for alarm in health["alarms"]:
        yield plain(f"! {alarm['code']}: {alarm['text']}")


def _backend(name: str) -> str | None:
    """What carries the device, as far as this machine shows it; the name is what somebody said."""
    link = _NET / Path(name).name
    if not link.is_dir():
        return None
    return "userspace" if (link / "tun_flags").exists() else "kernel"


def _row(peer: Json) -> tuple[int, int, tuple[str, ...]]:
    """How a peer is sorted: by its state, then by its token; and its cells."""
    age, state = peer["handshakeAgeSeconds"], peer["state"]
    shown = state if age is None else f"{state} {duration(age)}"
    if peer["verdict"] != "ACCESS_GRANTED":
        shown = peer["verdict"] or "stranger"
    cells = (
        peer["nodeId"] or f"{peer['publicKey'][:8]}…",
        "-" if peer["tokenId"] is None else str(peer["tokenId"]),
        _address(peer["allowedIps"]),
        peer["endpoint"] or "-",
        peer["endpointSource"] or "-",
        shown,
        f"{size(peer['rxBytes'])}/{size(peer['txBytes'])}",
    )
    return _ORDER.get(state, 8), _number(peer["tokenId"]), cells


def _number(token_id: int | str | None) -> int:
    return 0 if token_id is None else int(token_id)


def _address(allowed_ips: Sequence[str]) -> str:
    return str(ip_network(allowed_ips[0]).network_address) if allowed_ips else "-"


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table whose columns are as wide as they must be; of ten thousand rows, too, at once."""
    lines = [tuple(head), *(tuple(map(plain, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(map(str.ljust, line, widths)).rstrip()


def duration(seconds: float) -> str:
    """A time in one unit, such as ``12s`` or ``3h``."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return f"{int(seconds)}s"


def size(count: int) -> str:
    """A number of bytes in at most four letters, such as ``512`` or ``3.4M``."""
    value, unit = float(count), ""
    for unit in ("", "K", "M", "G", "T", "P"):
        if value < 999.5 or unit == "P":
            break
        value /= 1024
    return f"{value:.1f}{unit}" if unit and value < 9.95 else f"{value:.0f}{unit}"


def _show_device(env_file: Path | None) -> None:
    """What the device itself shows, where there is no agent to be asked."""
    try:
        device, kind = read_device(load_settings(env_file=env_file))
    except DstackVpnError as error:
        note(f"of the device nothing can be said either: {'; '.join(error.sentences)}")
        return
    if device is None:
        put("there is no device")
        return
    up = "up" if device.up else "down"
    put(
        f"{device.name} ({kind}) is there, {up}: UDP port {device.listen_port}, MTU {device.mtu},"
        f" {len(device.peers)} peers; nobody keeps it to the chain now"
    )
