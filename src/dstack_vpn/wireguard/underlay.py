"""The MTU that fits the network underneath, for ``MTU=auto``.

WireGuard's packets are up to 80 bytes larger than what is in them (IPv6, UDP, and its own header),
so that the interface must be that much smaller than the links that lead to the peers. Measured: at
the link's MTU less 80 nothing is fragmented, by IPv4 and by IPv6.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from dstack_vpn.errors import DeviceError
from dstack_vpn.wireguard.command import run

OVERHEAD = 80
LEAST = 1280
"""What IPv6 asks of every link, RFC 8200 section 5."""
MOST = 1420
"""For links of 1500 bytes. Larger ones end somewhere on the way, which nobody says."""

_NET = Path("/sys/class/net")


async def best_mtu(*, ignoring: str) -> int:
    """The MTU for the interface by this host's routes, in bytes, from `LEAST` to `MOST`.

    What counts are the links of the default routes; where there is none, those of all routes to
    neighbours, since all peers are neighbours then.

    Args:
        ignoring: our own interface, whose routes do not count.

    Raises:
        HostError: iproute2 is not installed.
        DeviceError: it failed, or printed what we do not understand.
    """
    routes: list[tuple[bool, str, int | None]] = []
    for version in (4, 6):
        text = await run("ip", "-json", f"-{version}", "route", "show")
        try:
            routes += read_routes(text)
        except (ValueError, AttributeError, TypeError, KeyError):
            raise DeviceError("ip printed routes in a form that we do not know") from None
    others = [route for route in routes if route[1] != ignoring]
    chosen = [route for route in others if route[0]] or others
    return fitting(metric or _link_mtu(device) for _, device, metric in chosen)


def read_routes(text: str) -> list[tuple[bool, str, int | None]]:
    """Read ``ip -json route show``: whether it is a default route, its device, its own MTU.

    Raises:
        ValueError: it is not what iproute2 prints. Other shapes raise what they raise.
    """
    found: list[tuple[bool, str, int | None]] = []
    for entry in json.loads(text or "[]"):
        mtu = next((int(m["mtu"]) for m in entry.get("metrics", ()) if "mtu" in m), None)
        hops = entry.get("nexthops") or [entry]
        found += [(entry["dst"] == "default", str(hop.get("dev", "")), mtu) for hop in hops]
    return found


def fitting(mtus: Iterable[int | None]) -> int:
    """What fits links of these MTUs; those that are not known say nothing."""
    least = min((mtu for mtu in mtus if mtu), default=MOST + OVERHEAD)
    return max(LEAST, min(MOST, least - OVERHEAD))


def _link_mtu(device: str) -> int | None:
    if not device or "/" in device:
        return None
    try:
        return int((_NET / device / "mtu").read_text())
    except (OSError, ValueError):
        return None
