"""The keeper: starts again what the engine leaves down. ``python -m dstack_vpn.deploy.keeper``.

The service `keeper` of docker-compose.yml, and ``dstack-vpn deploy watch`` on a host. It speaks
to the engine's API through its socket (which lets it do whatever the engine can), reads nothing
but that, and listens to nobody. `keep` decides; here is the I/O. Standard library only, for it
runs all the time.
"""

import http.client
import json
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dstack_vpn.deploy.containers import PROJECT_LABEL, Container, parse
from dstack_vpn.deploy.keep import Start, Tries, after, decide
from dstack_vpn.errors import DstackVpnError, UserError

SOCKET = Path("/var/run/docker.sock")
INTERVAL = 1.0
"""Seconds between two looks at the project."""
PATIENCE = 60.0
"""Seconds for one answer of the engine; a start may take some."""
LARGEST = 16 * 1024 * 1024
"""Bytes of an answer that are read at the most."""


class EngineError(DstackVpnError):
    """The engine did not answer, or refused."""


class Api:
    """The engine's API at a socket; one connection a request, as rare as they are."""

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = path

    def ask(self, method: str, target: str) -> Any:
        """Make one request; the JSON of the answer, or None where it has none.

        Raises:
            EngineError: no answer, or a refusal; the text says why.
        """
        connection = _Unix(self._path)
        try:
            connection.request(method, target, headers={"Host": "docker"})
            answer = connection.getresponse()
            body = answer.read(LARGEST)
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(f"the engine does not answer at {self._path}: {error}") from None
        finally:
            connection.close()
        if answer.status >= 400:
            raise EngineError(f"the engine refused {method} {target}: {_message(body)}")
        return json.loads(body) if body.strip() else None

    def project(self, name: str) -> list[Container]:
        """All containers of a Compose project.

        Raises:
            EngineError: the engine did not answer, or not in the form that it documents.
        """
        filters = quote(json.dumps({"label": [f"{PROJECT_LABEL}={name}"]}))
        found = []
        for listed in self.ask("GET", f"/containers/json?all=1&filters={filters}"):
            try:
                found.append(self.inspect(listed["Id"]))
            except EngineError:
                continue  # removed meanwhile
        return found

    def inspect(self, container: str) -> Container:
        """One container, by id or name."""
        try:
            return parse(self.ask("GET", f"/containers/{quote(container)}/json"))
        except (ValueError, TypeError) as error:
            raise EngineError(str(error)) from None

    def start(self, start: Start) -> None:
        """Start a container, or start it anew where it runs."""
        verb = "restart" if start.container.running else "start"
        self.ask("POST", f"/containers/{start.container.id}/{verb}")


class _Unix(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("docker", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, LookupError, TypeError):
        return body[:200].decode("utf-8", "replace")


def watch(api: Api, project: str, ended: threading.Event) -> None:
    """Keep a project up until the event is set; an engine that is away is waited for."""
    tries: Mapping[str, Tries] = {}
    said = ""
    while not ended.wait(INTERVAL):
        try:
            containers = api.project(project)
        except EngineError as error:
            # Told once: during a restart of the engine it would be all that the log holds.
            if str(error) != said:
                tell("warning", "keeper.engine_away", reason=str(error))
            said = str(error)
            continue
        said = ""
        now = time.monotonic()
        starts = decide(containers, tries, now=now)
        for start in starts:
            name = start.container.name
            try:
                api.start(start)
            except EngineError as error:
                tell("warning", "keeper.not_started", container=name, reason=str(error))
            else:
                tell("warning", "keeper.started", container=name, reason=start.why)
        tries = after(tries, starts, containers, now=now, wall_now=time.time())


def own_project(api: Api) -> str:
    """The project of the container that we run in.

    Raises:
        UserError: we run in none, or in one that Compose did not make.
    """
    # A container's host name is the beginning of its id, unless it was given another.
    try:
        mine = api.inspect(socket.gethostname())
    except EngineError as error:
        raise UserError(
            f"the project to keep cannot be found out ({error}); --project names it"
        ) from None
    if not mine.project:
        raise UserError(
            f"{mine.name} belongs to no Compose project; --project names the one to keep"
        )
    return mine.project


_PROJECT = re.compile(r"[a-z0-9][a-z0-9_-]*")


def run(*, path: Path = SOCKET, project: str = "") -> int:
    """Watch until SIGTERM or SIGINT; the exit code.

    Raises:
        UserError: the socket is not there, or the project cannot be found out.
    """
    if not path.is_socket():
        raise UserError(f"there is no engine at {path}; accepted: the path of its socket")
    if project and not _PROJECT.fullmatch(project):
        raise UserError(f"--project {project[:60]!a} is no name of a Compose project")
    api = Api(path)
    name = project or own_project(api)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    tell("info", "keeper.watching", project=name)
    watch(api, name, ended)
    return 0


def tell(level: str, event: str, **facts: str) -> None:
    """Write a line in the form of the agent's log."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "Z"
    line = {"event": event, "level": level, "timestamp": stamp, **facts}
    sys.stderr.write(json.dumps(line) + "\n")
    sys.stderr.flush()


def main() -> int:
    """Run as the service of the Compose file; the exit code."""
    try:
        return run()
    except DstackVpnError as error:
        sys.stderr.write(f"dstack-vpn: {error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
