"""The keeper: starts again what the engine leaves down. ``python -m dstack_vpn.deploy.keeper``.

The service `keeper` of docker-compose.yml, and ``dstack-vpn deploy watch`` on a host. It speaks
to the engine's API through its socket (which lets it do whatever the engine can), reads nothing
but that, and listens to nobody. `keep` decides; here is the I/O. Standard library only, for it
runs all the time.
"""

import contextlib
import http.client
import json
import re
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

from dstack_vpn.deploy.containers import PROJECT_LABEL, Container, parse
from dstack_vpn.deploy.keep import Start, Tries, after, decide
from dstack_vpn.errors import DstackVpnError, SettingError, UserError

SOCKET = Path("/var/run/docker.sock")
INTERVAL = 1.0
"""Seconds between two looks at the project."""
PATIENCE = 60.0
"""Seconds for one answer of the engine; a start may take some."""
LARGEST = 16 * 1024 * 1024
"""Bytes of an answer that are read at the most."""


class EngineError(DstackVpnError):
    """The engine did not answer, or refused."""


class GoneError(EngineError):
    """The engine knows no such container."""


class Api:
    """The engine's API at a socket; one connection a request, as rare as they are."""

    def __init__(self, path: Path = SOCKET, *, patience: float = PATIENCE) -> None:
        self._path = path
        self._patience = patience

    def ask(self, method: str, target: str) -> Any:
        """Make one request; the JSON of the answer, or None where it has none.

        Raises:
            EngineError: no answer, or a refusal; the text says why.
        """
        connection = _Unix(self._path, self._patience)
        try:
            connection.request(method, target)
            answer = connection.getresponse()
            body = answer.read(LARGEST)
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(f"the engine does not answer at {self._path}: {error}") from None
        finally:
            connection.close()
        if answer.status >= 400:
            kind = GoneError if answer.status == 404 else EngineError
            raise kind(f"the engine refused {method} {target}: {_message(body)}")
        return _json(body) if body.strip() else None

    def project(self, name: str) -> list[Container]:
        """All containers of a Compose project.

        Raises:
            EngineError: the engine did not answer, or not in the form that it documents.
        """
        filters = quote(json.dumps({"label": [f"{PROJECT_LABEL}={name}"]}))
        listed = self.ask("GET", f"/containers/json?all=1&filters={filters}")
        try:
            ids = [str(one["Id"]) for one in listed]
        except (TypeError, LookupError):
            raise EngineError("the engine listed containers in a form we do not know") from None
        found = []
        for one in ids:
            with contextlib.suppress(GoneError):  # removed meanwhile
                found.append(self.inspect(one))
        return found

    def inspect(self, container: str) -> Container:
        """One container, by id or name.

        Raises:
            GoneError: there is none.
            EngineError: the engine did not answer, or not in the form that it documents.
        """
        try:
            return parse(self.ask("GET", f"/containers/{quote(container, safe='')}/json"))
        except ValueError as error:
            raise EngineError(str(error)) from None

    def start(self, start: Start) -> None:
        """Start a container, or start it anew where it runs.

        Raises:
            EngineError: the engine did not answer, or refused.
        """
        verb = "restart" if start.container.running else "start"
        self.ask("POST", f"/containers/{quote(start.container.id, safe='')}/{verb}")


class _Unix(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, patience: float) -> None:
        super().__init__("docker", timeout=patience)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        shown = body[:60].decode("utf-8", "replace")
        raise EngineError(f"the engine answered with something else than JSON: {shown}") from None


def _message(body: bytes) -> str:
    try:
        return str(_json(body)["message"])
    except (EngineError, LookupError, TypeError):
        return body[:200].decode("utf-8", "replace")


class Keeper:
    """Keeps one project up, a look at a time."""

    def __init__(self, api: Api, project: str, own: str = "") -> None:
        """Take the API, the project, and the id of the container that we run in, if in any."""
        self._api = api
        self.project = project
        self._own = own
        self._tries: Mapping[str, Tries] = {}
        self._away = ""
        """Why the engine could not be asked the last time; empty where it could."""

    def look(self, *, now: float, wall_now: float) -> None:
        """Start what must be started now; an engine that is away changes nothing.

        Args:
            now: monotonic seconds.
            wall_now: seconds since 1970.
        """
        try:
            containers = self._api.project(self.project)
        except EngineError as error:
            # Told once: during a restart of the engine it would be all that the log holds.
            if str(error) != self._away:
                tell("warning", "keeper.engine_away", reason=str(error))
            self._away = str(error)
            return
        if self._away:
            tell("info", "keeper.engine_back")
        self._away = ""
        starts = decide(containers, self._tries, now=now, own=self._own)
        for start in starts:
            name = start.container.name
            try:
                self._api.start(start)
            except EngineError as error:
                tell("warning", "keeper.not_started", container=name, reason=str(error))
            else:
                tell("warning", "keeper.started", container=name, reason=start.why)
        self._tries = after(self._tries, starts, containers, now=now, wall_now=wall_now)


def own_container(api: Api) -> Container:
    """The container that we run in, which says which project to keep.

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
    return mine


_PROJECT = re.compile(r"[a-z0-9][a-z0-9_-]*")


def run(*, path: Path = SOCKET, project: str = "") -> NoReturn:
    """Watch until SIGTERM or SIGINT, which end the process with success.

    Raises:
        UserError: the socket is not there, or the project cannot be found out.
    """
    if not _is_socket(path):
        raise UserError(f"there is no engine at {path}; accepted: the path of its socket")
    if project and not _PROJECT.fullmatch(project):
        accepted = "a name of a Compose project: a-z, 0-9, _ and -"
        raise SettingError("--project", f"is {project[:60]!a}", accepted)
    api = Api(path)
    keeper = Keeper(api, project) if project else _of_own_project(api)
    # At once, also while the engine keeps us waiting.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    tell("info", "keeper.watching", project=keeper.project)
    while True:
        keeper.look(now=time.monotonic(), wall_now=time.time())
        time.sleep(INTERVAL)


def _of_own_project(api: Api) -> Keeper:
    mine = own_container(api)
    return Keeper(api, mine.project, mine.id)


def _is_socket(path: Path) -> bool:
    try:
        return path.is_socket()
    except OSError:  # in a directory that we may not look into
        return False


def tell(level: str, event: str, **facts: str) -> None:
    """Write a line in the form of the agent's log."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "Z"
    line = {"event": event, "level": level, "timestamp": stamp, **facts}
    sys.stderr.write(json.dumps(line) + "\n")
    sys.stderr.flush()


def main() -> int:
    """Run as the service of the Compose file; the exit code."""
    try:
        run()
    except DstackVpnError as error:
        sys.stderr.writelines(f"dstack-vpn: {sentence}\n" for sentence in error.sentences)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
