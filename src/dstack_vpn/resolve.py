"""DNS names of endpoints, resolved beside the loop: a slow name server never delays a removal."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from types import MappingProxyType

import structlog

from dstack_vpn.mesh.device import IpAddress

log = structlog.get_logger()

TIMEOUT = 5.0
"""Seconds that one lookup may take."""
LIFETIME = 60.0
"""Seconds after which an answer, or its absence, is asked for again."""
RETRY, RETRY_MOST = 1.0, 60.0
"""Seconds from a failure to the next try: at first, doubled each time, and at most. A container's
name may begin to exist a moment after ours."""
WORKERS = 8
"""Lookups under way at once; names come from tokens, so there may be as many as members."""


def ask_system(name: str) -> tuple[IpAddress, ...]:
    """The addresses of a name, by the host's own resolver; blocks.

    Raises:
        OSError: no answer.
    """
    found = socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM)
    return tuple(sorted({ip_address(info[4][0]) for info in found}, key=str))


class Resolver:
    """Answers at once with what is known; `run` looks up the rest."""

    def __init__(
        self,
        on_news: Callable[[], None],
        ask: Callable[[str], tuple[IpAddress, ...]] = ask_system,
    ) -> None:
        """Take whom to tell when an answer changed, and how to ask; `ask` may block."""
        self._on_news = on_news
        self._ask = ask
        self._known: dict[str, tuple[IpAddress, ...]] = {}
        self._shown: Mapping[str, tuple[IpAddress, ...]] | None = None
        self._asked_at: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._queued: set[str] = set()
        """What is in the queue: once each, for while no name server answers it only grows."""

    @property
    def known(self) -> Mapping[str, tuple[IpAddress, ...]]:
        """What is known now, of whatever was asked for."""
        return self._known

    @property
    def shown(self) -> Mapping[str, tuple[IpAddress, ...]]:
        """The same for readers: a copy that stays as it is, made when something changed."""
        if self._shown is None:
            self._shown = MappingProxyType(dict(self._known))
        return self._shown

    def resolve(
        self, names: Iterable[str], *, keep: bool = False
    ) -> Mapping[str, tuple[IpAddress, ...]]:
        """What is known of these names now; unknown and aged ones are looked up meanwhile.

        Args:
            names: those that are needed.
            keep: whether others that were asked for are needed still; else they are forgotten.
        """
        now = asyncio.get_running_loop().time()
        wanted = set(names)
        for name in () if keep else self._asked_at.keys() - wanted:
            del self._asked_at[name]
            if self._known.pop(name, None) is not None:
                self._shown = None
            self._failures.pop(name, None)
        for name in sorted(wanted):
            if now - self._asked_at.get(name, -LIFETIME) >= LIFETIME:
                self._asked_at[name] = now
                self._enqueue(name)
        return {name: self._known[name] for name in wanted if name in self._known}

    def _enqueue(self, name: str) -> None:
        if name in self._asked_at and name not in self._queued:
            self._queued.add(name)
            self._queue.put_nowait(name)

    async def run(self) -> None:
        """Look up what was asked for, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(WORKERS):
                group.create_task(self._work(), name=f"resolve {number}")

    async def _work(self) -> None:
        while True:
            name = await self._queue.get()
            self._queued.discard(name)
            if name in self._asked_at:
                await self._look_up(name)

    async def _look_up(self, name: str) -> None:
        try:
            async with asyncio.timeout(TIMEOUT):
                addresses = await _beside(lambda: self._ask(name))
        except (OSError, TimeoutError, UnicodeError) as error:
            # What was known stays: an unreachable name server must not cut anybody off.
            log.info("resolve.failed", name=name, error=str(error) or "no answer in time")
            failures = self._failures[name] = self._failures.get(name, 0) + 1
            pause = min(RETRY * 2 ** min(failures - 1, 10), RETRY_MOST)
            asyncio.get_running_loop().call_later(pause, self._enqueue, name)
            return
        self._failures.pop(name, None)
        if name in self._asked_at and self._known.get(name) != addresses:
            self._known[name] = addresses
            self._shown = None
            self._on_news()


class Asked(Mapping[str, Sequence[IpAddress]]):
    """The names that are resolved; remembers for which of them it was asked."""

    def __init__(self, known: Mapping[str, Sequence[IpAddress]]) -> None:
        """Take what is known; nothing was asked for yet."""
        self._known = known
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> Sequence[IpAddress]:
        """The addresses of a name, which is remembered; KeyError while there are none."""
        self.asked.add(name)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        """The names that are resolved."""
        return iter(self._known)

    def __len__(self) -> int:
        """How many names are resolved."""
        return len(self._known)


async def _beside(ask: Callable[[], tuple[IpAddress, ...]]) -> tuple[IpAddress, ...]:
    """Call it in a thread of its own, for which nobody waits longer than he wants to.

    A name server that hangs would take all threads of the loop's pool, and with them the disk; and
    the threads of any pool are waited for when the process ends, which keeps a stop waiting too.
    The host's resolver gives up by itself after some seconds, so there are never many.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[tuple[IpAddress, ...]] = loop.create_future()

    def give(found: tuple[IpAddress, ...] | Exception) -> None:
        if answer.done():  # nobody waits any more
            return
        if isinstance(found, Exception):
            answer.set_exception(found)
        else:
            answer.set_result(found)

    def work() -> None:
        found: tuple[IpAddress, ...] | Exception
        try:
            found = ask()
        except Exception as error:  # noqa: BLE001 - raised again where it is waited for
            found = error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(give, found)

    try:
        threading.Thread(target=work, name="resolve", daemon=True).start()
    except RuntimeError as error:  # no thread is left
        raise OSError(str(error)) from None
    return await answer
