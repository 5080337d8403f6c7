"""A device as a wg-quick file, for the eyes of an operator and for the day without an agent. Pure.

The running agent never reads it back: peers always come from the plan, so that no file can bring a
removed member back. Format: wg-quick(8) and wg(8), "CONFIGURATION FILE FORMAT". `conffile.py`
writes it.
"""

import re
from collections.abc import Iterator

from dstack_vpn.mesh.device import WantedDevice, WantedPeer
from dstack_vpn.mesh.diff import sorted_interfaces, sorted_keys, sorted_networks
from dstack_vpn.mesh.keys import PrivateKey

_UNSAFE = re.compile(r"[^A-Za-z0-9._:-]")
_LONGEST = 80


def render_conf(
    device: WantedDevice,
    *,
    block: int | None,
    block_hash: str | None,
    private_key: PrivateKey | None = None,
) -> str:
    """Write the device as a wg-quick file; the same device always gives the same text.

    Args:
        device: the plan that was applied.
        block: the block whose membership it shows, None before the first.
        block_hash: its hash.
        private_key: given to have it in the file, which must then be private.
    """
    return "".join(
        conf_sections(device, block=block, block_hash=block_hash, private_key=private_key)
    )


def conf_sections(
    device: WantedDevice,
    *,
    block: int | None,
    block_hash: str | None,
    private_key: PrivateKey | None = None,
) -> Iterator[str]:
    """The text of `render_conf` section by section: that of a large device is never held whole."""
    yield _section(_interface(device, block, block_hash, private_key))
    for key in sorted_keys(device.peers):
        yield "\n" + _section(_peer(device.peers[key]))


def _section(lines: Iterator[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _interface(
    device: WantedDevice, block: int | None, block_hash: str | None, private_key: PrivateKey | None
) -> Iterator[str]:
    if block is None:
        yield "# written by dstack-vpn before any block was verified; changes are overwritten"
    else:
        at = f"block {block} {_plain(block_hash or '')}".rstrip()
        yield f"# written by dstack-vpn for {at}; changes are overwritten"
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
