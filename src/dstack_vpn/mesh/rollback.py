"""What is in force of an interface's settings while a rollback replaces them. Pure.

A rollback brings back what settings decide: the listen port and the MTU. It names no peers, no
addresses and no key, so that no file can bring a removed member back: peers come from the plan,
addresses follow from the token, and the key is the node's identity.

It lasts while the settings are those that it replaced. Whoever then sets another value has decided
anew, and that ends it. `wireguard/rollbackfile.py` keeps it on disk.
"""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

Port = Annotated[int, Meta(ge=1, le=65_535)]
Mtu = Annotated[int, Meta(ge=1280, le=65_535)]
Whole = Annotated[int, Meta(ge=0, le=2**53)]


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceSettings:
    """What settings decide of an interface, and a rollback can replace."""

    listen_port: Port
    mtu: Mtu | None
    """Bytes; None for what fits by itself."""

    def __str__(self) -> str:
        return f"LISTEN_PORT={self.listen_port} MTU={mtu_text(self.mtu)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback:
    """The wish to have the settings of an earlier state; fields are bounded as msgspec reads it."""

    state: Whole
    """Number of the backup that they are from."""
    block: Whole | None
    """The block that state belonged to."""
    made_at: Whole
    """Wall-clock seconds since 1970."""
    listen_port: Port | None
    """What is to be in force; None where the setting stays."""
    mtu: Mtu | None
    """Bytes, likewise."""
    replaced: InterfaceSettings
    """The settings at that time; others end the rollback."""

    def in_force(self, configured: InterfaceSettings) -> "InForce":
        """What is in force where these settings are configured."""
        if (ended := self._ended(configured)) is not None:
            return InForce(settings=configured, rollback=None, sentence=ended)
        port, mtu = self.listen_port, self.mtu
        settings = InterfaceSettings(
            listen_port=configured.listen_port if port is None else port,
            mtu=configured.mtu if mtu is None else mtu,
        )
        return InForce(
            settings=settings, rollback=self, sentence=f"rolled back to {self}: {self.wanted}"
        )

    def __str__(self) -> str:
        at = "" if self.block is None else f" of block {self.block}"
        return f"state {self.state}{at}"

    @property
    def wanted(self) -> str:
        """What is to be in force, in words."""
        parts, was = [], self.replaced
        if self.listen_port is not None:
            parts.append(f"LISTEN_PORT is {self.listen_port} instead of {was.listen_port}")
        if self.mtu is not None:
            parts.append(f"MTU is {self.mtu} instead of {mtu_text(was.mtu)}")
        return ", ".join(parts)

    def _ended(self, configured: InterfaceSettings) -> str | None:
        now, then = configured, self.replaced
        if self.listen_port is not None and now.listen_port != then.listen_port:
            changed = f"LISTEN_PORT was set to {now.listen_port}, from {then.listen_port}"
        elif self.mtu is not None and now.mtu != then.mtu:
            changed = f"MTU was set to {mtu_text(now.mtu)}, from {mtu_text(then.mtu)}"
        else:
            return None
        return f"the rollback to {self} has ended: {changed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """What a node is to use instead of its settings, and why."""

    settings: InterfaceSettings
    rollback: Rollback | None
    """The rollback that made them so; None where they are as configured."""
    sentence: str
    """For the log; empty where there is nothing to tell."""


def replacements(
    target: InterfaceSettings,
    *,
    now: InterfaceSettings,
    configured: InterfaceSettings,
    before: Rollback | None,
) -> tuple[int | None, int | None]:
    """Which listen port and which MTU a rollback must put in place of the configured ones.

    Args:
        target: what is to be in force.
        now: what is in force.
        configured: what the settings say.
        before: the rollback that is in force, if any.

    Returns:
        None for each that the settings give by themselves; a rollback of neither is none.
    """
    port = None if target.listen_port == configured.listen_port else target.listen_port
    # What `auto` comes to is known only while it is in force.
    automatic = configured.mtu is None and (before is None or before.mtu is None)
    given = now.mtu if automatic else configured.mtu
    return port, None if target.mtu == given else target.mtu


def mtu_text(mtu: int | None) -> str:
    """An MTU as its setting is written."""
    return "auto" if mtu is None else str(mtu)
