"""A wg-quick file read back, to show it and to compare it. Pure.

The files are our own as a rule (`conf`), and one that an operator had in that place before: so
nothing here raises, what is not understood is left out, and no secret is in what is to be shown.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dstack_vpn.mesh.rollback import InterfaceSettings

HIDDEN = "(hidden)"
"""What stands in place of a key."""

_BLOCK = re.compile(r"# written by dstack-vpn for block (\d{1,16})(?: ([\w?]+))?\b")
_SETTINGS = re.compile(r"# settings: LISTEN_PORT=(\d{1,5}) MTU=(\d{1,5}|auto)")
_ROLLED_BACK = re.compile(r"# rolled back to state (\d{1,16})\b")
_NOTE = re.compile(r"# note: (.*)")
_SECRET = re.compile(r"(.*(?:private|preshared)-?key\s*=?\s*)\S.*", re.IGNORECASE)
_PUBLIC = re.compile(r"\s*PublicKey\s*=\s*[A-Za-z0-9+/]{43}=\s*", re.IGNORECASE)
_ANY_KEY = re.compile(r"[A-Za-z0-9+/]{43}=")


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What stands before the first peer."""

    block: int | None = None
    """The block that it belongs to; None where it says none."""
    block_hash: str = ""
    configured: InterfaceSettings | None = None
    """The settings that were configured; None where it does not say."""
    rolled_back_to: int | None = None
    """The state whose settings are in force instead, if any."""
    note: str = ""
    """What was said about it when it was kept by hand."""
    address: str = ""
    listen_port: int | None = None
    mtu: int | None = None
    section: str = field(default="", repr=False)
    """The lines of the interface section, without comments. It may hold the private key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conf:
    """A whole file."""

    head: Head
    peers: Mapping[str, str]
    """By public key: what is said of the peer, comments first."""


def read_conf(text: str) -> Conf:
    """Read a whole file."""
    head, *others = _sections(text)
    peers = {}
    for name, comments, lines in others:
        if name == "interface":
            head = name, head[1] + comments, lines
        elif name == "peer" and (key := _fields(lines).get("publickey")):
            peers[key] = "\n".join([*comments, *lines])
    return Conf(head=_head(head[1], head[2]), peers=peers)


def read_head(text: str) -> Head:
    """Read what stands before the first peer; the text may end anywhere after that."""
    return read_conf(text).head


def without_secrets(text: str) -> Iterator[str]:
    """The lines of a file, with `HIDDEN` for whatever is or may be a key that others must not see.

    A public key is shown in its own place alone.
    """
    for line in text.splitlines():
        if _PUBLIC.fullmatch(line):
            yield line
        else:
            yield _ANY_KEY.sub(HIDDEN, _SECRET.sub(rf"\1{HIDDEN}", line))


def interface_changes(old: Head, new: Head) -> tuple[str, ...]:
    """What differs between two interface sections, in words; a key is never told."""
    before, after = _fields(old.section.splitlines()), _fields(new.section.splitlines())
    told = []
    for name, shown in (("listenport", "ListenPort"), ("mtu", "MTU"), ("address", "Address")):
        a, b = before.pop(name, "none"), after.pop(name, "none")
        if a != b:
            told.append(f"{shown} {a} -> {b}")
    if before.pop("privatekey", None) != after.pop("privatekey", None):
        told.append("another private key")
    told += [
        f"another {name}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    return tuple(told)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerChanges:
    """How the peers of two files differ, by public key, sorted."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    altered: tuple[str, ...]

    def __str__(self) -> str:
        counts = {"added": self.added, "removed": self.removed, "altered": self.altered}
        told = ", ".join(f"{len(keys)} {what}" for what, keys in counts.items() if keys)
        return f"peers: {told}" if told else ""


def peer_changes(old: Mapping[str, str], new: Mapping[str, str]) -> PeerChanges:
    """Compare the peers of two files."""
    return PeerChanges(
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        altered=tuple(sorted(key for key in old.keys() & new.keys() if old[key] != new[key])),
    )


def peer_fields(text: str) -> dict[str, Any]:
    """What `Conf.peers` has of a peer, by the names of JSON, without its key."""
    lines = text.splitlines()
    values = _fields(line for line in lines if not line.startswith("#"))
    return {
        "comment": " ".join(line.lstrip("# ") for line in lines if line.startswith("#")),
        "allowedIps": [ip.strip() for ip in values.get("allowedips", "").split(",") if ip.strip()],
        "endpoint": values.get("endpoint", ""),
        "persistentKeepalive": _number(values.get("persistentkeepalive", "")) or 0,
    }


_Section = tuple[str, list[str], list[str]]
"""Its name in lower case, the comments before it, and its lines."""


def _sections(text: str) -> Iterator[_Section]:
    """The sections of a file; the first one has no name, and is what stands before all others."""
    name = ""
    comments: list[str] = []
    lines: list[str] = []
    following: list[str] = []
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            yield name, comments, lines
            name, comments, lines, following = line.strip("[] ").lower(), following, [], []
        elif line.startswith("#"):
            following.append(line)
        elif line:
            lines.append(line)
    yield name, comments, lines


def _fields(lines: Iterable[str]) -> dict[str, str]:
    pairs = (line.partition("=") for line in lines)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _head(comments: list[str], lines: list[str]) -> Head:
    values = _fields(lines)
    block, settings = _first(_BLOCK, comments), _first(_SETTINGS, comments)
    back, note = _first(_ROLLED_BACK, comments), _first(_NOTE, comments)
    return Head(
        block=int(block[1]) if block else None,
        block_hash=(block[2] or "") if block else "",
        configured=_settings(settings[1], settings[2]) if settings else None,
        rolled_back_to=int(back[1]) if back else None,
        note=note[1] if note else "",
        address=values.get("address", ""),
        listen_port=_number(values.get("listenport", "")),
        mtu=_number(values.get("mtu", "")),
        section="\n".join(lines),
    )


def _first(pattern: re.Pattern[str], lines: Iterable[str]) -> re.Match[str] | None:
    return next((found for line in lines if (found := pattern.match(line))), None)


def _settings(port: str, mtu: str) -> InterfaceSettings:
    return InterfaceSettings(listen_port=int(port), mtu=None if mtu == "auto" else int(mtu))


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,5}", text) else None
