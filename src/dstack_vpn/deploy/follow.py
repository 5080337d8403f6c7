"""The logs of containers as they are written, in one stream: ``deploy logs --follow``.

A thread for each container reads what ``docker logs --follow`` prints; lines are held back for a
moment (`loglines.Held`), so that those of several containers come in the order of time.
"""

import contextlib
import queue
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence

from dstack_vpn.deploy.containers import Container
from dstack_vpn.deploy.engine import DeployError, Engine
from dstack_vpn.deploy.loglines import Held, Line, parse_line
from dstack_vpn.errors import UserError

REORDER = 0.3
"""Seconds for which lines are held back."""
AGAIN = 1.0
"""Seconds after the end of a stream until the container, or its successor, is read again."""
UNREAD = 10_000
"""Lines that may wait for a slow reader; then reading waits."""


@contextlib.contextmanager
def followed(
    engine: Engine, containers: Sequence[Container], options: Sequence[str]
) -> Iterator[Iterator[Line]]:
    """The lines of these containers, and of those that replace them, without end.

    Whatever reads them is ended with the ``with`` block.

    Args:
        engine: where they run.
        containers: one a service.
        options: of the first ``docker logs``, timestamps among them.
    """
    arrived: queue.Queue[Line] = queue.Queue(maxsize=UNREAD)
    readers = [_Reader(engine, container, options, arrived) for container in containers]
    for reader in readers:
        threading.Thread(target=reader.run, daemon=True).start()
    try:
        yield _in_order(arrived)
    finally:
        for reader in readers:
            reader.end()


def _in_order(arrived: "queue.Queue[Line]") -> Iterator[Line]:
    held = Held(REORDER)
    while True:
        with contextlib.suppress(queue.Empty):
            held.add(arrived.get(timeout=REORDER / 3), now=time.monotonic())
            for _ in range(arrived.qsize()):
                held.add(arrived.get_nowait(), now=time.monotonic())
        yield from held.due(now=time.monotonic())


class _Reader:
    """Reads one service for ever: a stream that ends with its container is taken up again."""

    def __init__(
        self,
        engine: Engine,
        container: Container,
        options: Sequence[str],
        arrived: "queue.Queue[Line]",
    ) -> None:
        self._engine = engine
        self._container = container
        self._options = options
        self._arrived = arrived
        self._process: subprocess.Popen[str] | None = None
        self._ended = threading.Event()

    def run(self) -> None:
        """Read until `end`."""
        known = last = ""
        while not self._ended.is_set():
            with self._engine.follow(self._container, *self._options) as self._process:
                for text in self._process.stdout or ():
                    line = parse_line(self._container.service, text)
                    # What the stream before has told is told once more; times need not rise.
                    if line is not None and line.time > known:
                        last = max(last, line.time)
                        self._arrived.put(line)
            known = last
            self._ended.wait(AGAIN)
            self._options = ("--timestamps", *(("--since", known) if known else ()))
            with contextlib.suppress(DeployError, UserError):  # the engine is away; it may be back
                service = self._container.service
                same = [c for c in self._engine.containers() if c.service == service]
                self._container = same[0] if same else self._container

    def end(self) -> None:
        """End the program that reads, which would wait for the next line for ever."""
        self._ended.set()
        if self._process is not None:
            self._process.terminate()
