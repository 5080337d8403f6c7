"""An engine as the keeper sees it: its API on a Unix socket, with containers that are only told of.

It can be made to refuse, to hang up, to say garbage or nothing, and to be away for a while.
"""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

Trouble = Literal["", "refuses", "hangs up", "garbage", "no list", "half", "nested", "silent"]

GARBAGE: dict[Trouble, bytes] = {
    "garbage": b"\xff\x00<html>",
    "no list": b'{"Id": 7}',
    "half": b'[{"Id": "node-a-id"}',
    "nested": b"[" * 5_000,
}


class FakeEngine:
    """Containers by id, as ``docker inspect`` would describe them, and what was asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.containers: dict[str, Any] = {}
        self.asked: list[str] = []
        """Every request, without its query."""
        self.trouble: Trouble = ""
        self.trouble_with = ""
        """Part of the paths that trouble is about; empty for all."""
        self.unstartable: dict[str, str] = {}
        """Why a container cannot be started, by id."""
        self.heal = threading.Event()
        """Ends the silence."""

    def add(self, described: dict[str, Any]) -> str:
        """Have a container; its id."""
        self.containers[described["Id"]] = described
        return str(described["Id"])

    def end(self, one: str, code: int, error: str = "") -> None:
        """Have a container end."""
        self.containers[one]["State"] |= {"Status": "exited", "ExitCode": code, "Error": error}

    def state(self, one: str) -> str:
        """What a container does."""
        return str(self.containers[one]["State"]["Status"])

    @property
    def started(self) -> list[str]:
        """What it was told to do, such as ``start node-a-id``; its memory of it is emptied."""
        posts = [ask.split("/") for ask in self.asked if ask.startswith("POST ")]
        self.asked.clear()
        return [f"{verb} {one}" for _, _, one, verb in posts]

    def answer(self, method: str, target: str) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        url = urlsplit(target)
        self.asked.append(f"{method} {url.path}")
        words = url.path.strip("/").split("/")
        if (method, words) == ("GET", ["containers", "json"]):
            return 200, self._list(parse_qs(url.query))
        one = self.containers.get(words[1])
        if one is None:
            return 404, {"message": f"No such container: {words[1]}"}
        if (method, words[2]) == ("GET", "json"):
            return 200, one
        assert (method, words[2]) in (("POST", "start"), ("POST", "restart")), (method, target)
        if reason := self.unstartable.get(words[1]):
            self.end(words[1], 128, reason)
            return 500, {"message": reason}
        now = datetime.fromtimestamp(time.time(), tz=UTC).isoformat()
        one["State"] |= {"Status": "running", "ExitCode": 0, "Error": "", "StartedAt": now}
        return 204, None

    def _list(self, query: dict[str, list[str]]) -> list[dict[str, str]]:
        assert query["all"] == ["1"]
        (wanted,) = json.loads(query["filters"][0])["label"]
        name, _, value = wanted.partition("=")
        return [
            {"Id": key}
            for key, one in self.containers.items()
            if one["Config"]["Labels"].get(name) == value
        ]

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Be there; afterwards the socket is gone, as while the engine is down."""
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, answer = engine.answer(self.command, self.path)
                trouble = engine.trouble if engine.trouble_with in self.path else ""
                if trouble == "silent":
                    engine.heal.wait(20)
                if trouble in ("silent", "hangs up"):
                    return
                if trouble == "refuses":
                    status, answer = 500, {"message": "the disk is full"}
                body = b"" if answer is None else json.dumps(answer).encode()
                if trouble in GARBAGE:
                    status, body = 200, GARBAGE[trouble]
                self.send_response(status)
                self.send_header("Content-Length", str(len(body) + (trouble == "half")))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815 - the library's name

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        class Server(ThreadingUnixStreamServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Print nothing of those who have gone before they were answered."""

        with Server(str(self.path), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            try:
                yield
            finally:
                self.heal.set()
                server.shutdown()
                thread.join()
                self.path.unlink()


@contextlib.contextmanager
def fake_engine(path: Path) -> Iterator[FakeEngine]:
    """An engine that is there until the end."""
    engine = FakeEngine(path)
    with engine.listening():
        yield engine
