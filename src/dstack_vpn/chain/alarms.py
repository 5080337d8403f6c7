"""The alarms about the chain that are raised at present.

Each is raised once and told once, and cleared when its cause is gone; what it says may change
meanwhile without being told again.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

import structlog

from dstack_vpn.mesh.snapshot import Alarm, AlarmCode

log = structlog.get_logger()


class Alarms:
    """Alarms by code and provider."""

    def __init__(self, now: Callable[[], float]) -> None:
        """Begin with none; `now` gives monotonic seconds."""
        self._now = now
        self._raised: dict[tuple[AlarmCode, str], Alarm] = {}

    @property
    def all(self) -> tuple[Alarm, ...]:
        """Those that are raised, oldest first."""
        return tuple(self._raised.values())

    def has(self, code: AlarmCode) -> bool:
        """Whether one of this code is raised."""
        return any(raised is code for raised, _ in self._raised)

    def sound(self, code: AlarmCode, text: str, *, provider: str = "") -> None:
        """Raise one, or renew what it says."""
        known = self._raised.get((code, provider))
        if known is not None:
            self._raised[code, provider] = replace(known, text=text)
            return
        alarm = Alarm(code=code, text=text, provider=provider, since=self._now())
        self._raised[code, provider] = alarm
        log.error("chain.alarm", code=str(code), provider=provider or None, reason=text)

    def clear(self, code: AlarmCode, *, provider: str = "") -> None:
        """Its cause is gone."""
        if self._raised.pop((code, provider), None) is not None:
            log.info("chain.alarm_over", code=str(code), provider=provider or None)

    def keep(self, code: AlarmCode, providers: Iterable[str]) -> None:
        """Clear those of a code whose provider is none of these."""
        kept = set(providers)
        for raised, provider in list(self._raised):
            if raised is code and provider not in kept:
                self.clear(code, provider=provider)
