"""A device as a wg-quick file, for the eyes of an operator and for the day without an agent. Pure.

The running agent never reads it back: peers always come from the plan, so that no file can bring a
removed member back. Format: wg-quick(8) and wg(8), "CONFIGURATION FILE FORMAT". What the file is
about stands in comments on top, which `conftext` reads. `backups.ConfFile` writes it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from dstack_vpn.mesh.device import WantedDevice, WantedPeer
from dstack_vpn.mesh.diff import sorted_interfaces, sorted_keys, sorted_networks
from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.mesh.rollback import InForce, InterfaceSettings

_UNSAFE = re.compile(r"[^A-Za-z0-9._:-]")
_LONGEST = 80
_UTC = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a file is about: the membership that it shows, and the settings that made it so."""

    block: int | None
    """The block whose membership it shows, None before the first."""
    block_hash: str = ""
    block_time: int | None = None
    """Seconds since 1970 by the chain."""
    configured: InterfaceSettings | None = None
    in_force: InForce | None = None
    """What is used instead of the configured settings, and the rollback that made it so."""


def render_conf(
    device: WantedDevice, about: About, *, private_key: PrivateKey | None = None
) -> str:
    """Write the device as a wg-quick file; the same device always gives the same text.

    Args:
        device: the plan that was applied.
        about: for the comments on top.
        private_key: given to have it in the file, which must then be private.
    """
    return "".join(conf_sections(device, about, private_key=private_key))


def conf_sections(
    device: WantedDevice, about: About, *, private_key: PrivateKey | None = None
) -> Iterator[str]:
    """The text of `render_conf` section by section: that of a large device is never held whole."""
    yield _section(_heading(about))
    yield _section(_interface(device, private_key))
    for key in sorted_keys(device.peers):
        yield "\n" + _section(_peer(device.peers[key]))


def _section(lines: Iterator[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _heading(about: About) -> Iterator[str]:
    if about.block is None:
        yield "# written by dstack-vpn before any block was verified; changes are overwritten"
    else:
        at = f"block {about.block} {_plain(about.block_hash)}".rstrip()
        yield f"# written by dstack-vpn for {at}{_time(about.block_time)}; changes are overwritten"
    if about.configured is not None:
        yield f"# settings: {about.configured}"
    if about.in_force is not None and about.in_force.rollback is not None:
        yield f"# {about.in_force.sentence}"


def _time(seconds: int | None) -> str:
    try:
        return "" if seconds is None else f" of {datetime.fromtimestamp(seconds, UTC):{_UTC}}"
    except (ValueError, OverflowError, OSError):
        return ""  # the chain may say anything


def _interface(device: WantedDevice, private_key: PrivateKey | None) -> Iterator[str]:
    yield "[Interface]"
    if private_key is not None:
        yield f"PrivateKey = {private_key.reveal()}"
    if device.addresses:
        yield f"Address = {', '.join(map(str, sorted_interfaces(device.addresses)))}"
    if device.listen_port:
        yield f"ListenPort = {device.listen_port}"
    yield f"MTU = {device.mtu}"
    # The addresses carry the prefix of the mesh; a route per peer takes wg-quick minutes.
    yield "Table = off"


def _peer(peer: WantedPeer) -> Iterator[str]:
    yield f"# {_plain(peer.node_id)}, token {peer.token_id}"
    yield "[Peer]"
    yield f"PublicKey = {peer.key.text}"
    if peer.allowed_ips:
        yield f"AllowedIPs = {', '.join(map(str, sorted_networks(peer.allowed_ips)))}"
    if peer.endpoint is not None:
        yield f"Endpoint = {peer.endpoint}"
    if peer.keepalive:
        yield f"PersistentKeepalive = {peer.keepalive}"


def _plain(text: str) -> str:
    """Only what cannot end a comment or fool a terminal, whatever it was."""
    return _UNSAFE.sub("?", text[:_LONGEST])
