"""Runs the HTTP application inside the agent's event loop; the only web file with a socket."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from types import TracebackType
from typing import Self

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from dstack_vpn.errors import HostError

# We chose. Answers take milliseconds; a client that reads slowly must not hold up the stop.
STOP_TIMEOUT = 1
# Far more than dashboards and probes need, and far fewer than the files that a process may have
# open: what a flood of clients takes would be missing when a peer must be removed.
MAX_CONNECTIONS = 256
# Accepted in one turn of the loop, so that those past the limit are closed before more are taken.
BACKLOG = 64
# Seconds for which a client may hold a connection without a request that is complete.
PATIENCE = 30.0


class HealthServer:
    """An HTTP server for the time of an ``async with`` block."""

    def __init__(self, app: Starlette, host: str, port: int) -> None:
        """Say what to serve and where; port 0 takes any free one."""
        self._host = host
        self._port = port
        config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            loop="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            backlog=BACKLOG,
            timeout_graceful_shutdown=STOP_TIMEOUT,
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port that it listens on, known once it is started."""
        return self._port

    async def __aenter__(self) -> Self:
        """Bind and start; connections are accepted when this returns.

        Raises:
            HostError: the address or the port cannot be bound.
        """
        with contextlib.ExitStack() as undo:
            listener = undo.enter_context(_listen(self._host, self._port))
            # Not a task group: whoever embeds the agent may leave in another task than it entered.
            self._task = asyncio.get_running_loop().create_task(
                self._server.serve(sockets=[listener]), name="health-server"
            )
            undo.callback(self._task.cancel)
            await self._server.listening.wait()
            if self._task.done():
                await self._task
            self._port = listener.getsockname()[1]
            undo.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish the requests under way, then close the port."""
        assert self._task is not None
        self._server.should_exit = True
        await self._task


class _Protocol(H11Protocol):
    """A connection that is closed when there are too many, and when its client is too slow."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, or end at once."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
            return
        self.loop.call_later(PATIENCE, self._end)

    def _end(self) -> None:
        if getattr(self.cycle, "response_complete", False):
            self.transport.close()
        else:
            self.transport.abort()


class _Server(uvicorn.Server):
    """Leaves the process's signal handlers alone, and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing: signals are the agent's."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept."""
        await super().startup(sockets)
        self.listening.set()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop; whoever waits for the start learns of an early end too."""
        try:
            await super().serve(sockets)
        finally:
            self.listening.set()


def _listen(host: str, port: int) -> socket.socket:
    version = ip_address(host).version
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    # `::` means all addresses, and people count IPv4 among them.
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((host, port), family=family, dualstack_ipv6=both)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            problem = f"HEALTH_CHECK_PORT {port} is in use on {host}"
        elif error.errno == errno.EACCES:
            problem = f"HEALTH_CHECK_PORT {port} needs a privilege that this process lacks"
        else:
            problem = f"HEALTH_CHECK_HOST {host} cannot be bound ({error.strerror})"
        accepted = "an address of this machine with a free port, or port 0 for any free one"
        raise HostError(f"{problem}; accepted: {accepted}") from None
