"""A device change as one sentence, for the log, the journal and the dry run."""

from dstack_vpn.mesh.device import AddPeer, DeviceChange, RemovePeer, WantedDevice

MOST = 8
"""Parts that are told one by one; the rest is counted."""


def describe(change: DeviceChange, wanted: WantedDevice, block: int) -> str:
    """Say what a change does; empty when it does nothing."""
    if not change:
        return ""
    return f"block {block}: {in_words(change)}; peers: {len(wanted.peers)}"


def in_words(change: DeviceChange) -> str:
    """The parts of a change, one after the other."""
    parts: list[str] = []
    for peer in change.peers:
        if isinstance(peer, RemovePeer):
            parts.append(f"removed {peer.key.text[:8]} ({peer.reason})")
        elif isinstance(peer, AddPeer):
            parts.append(f"added {peer.peer.node_id}")
        else:
            parts.append(f"{peer.node_id}: {', '.join(map(str, peer.changes))}")
    parts += [f"address {a} added" for a in change.add_addresses]
    parts += [f"address {a} removed" for a in change.remove_addresses]
    parts += [f"link {change.name} brought up"] if change.up else []
    parts += _moved("MTU", change.old_mtu, change.mtu)
    parts += _moved("port", change.old_port, change.listen_port)
    parts += ["key set"] if change.set_key else []
    shown = "; ".join(parts[:MOST])
    if len(parts) > MOST:
        shown += f"; and {len(parts) - MOST} more"
    return shown


def _moved(what: str, old: int, new: int | None) -> list[str]:
    if new is None:
        return []
    return [f"{what} {old} -> {new}" if old else f"{what} {new}"]
