"""Asking an agent that is none: whatever answers there, it is one sentence, in time."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.command import refused, run_here

OK = b"HTTP/1.1 200 OK\r\nContent-Length: "


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A server that gives every client these bytes and then waits for him to go; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    client.recv(2**16)
                    client.sendall(answer)
                    if answer.startswith(OK):
                        client.recv(1)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "no agent answers at 127.0.0.1 port"),
        (b"SSH-2.0-OpenSSH\r\n", "no agent answers at 127.0.0.1 port"),
        (OK + b"4\r\n\r\nnope", "is no agent of dstack-vpn"),
        (OK + b"2\r\n\r\n[]", "is no agent of dstack-vpn"),
        (OK + b"2\r\n\r\n{}", "the agent is of another version"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}", "is no agent of dstack-vpn"),
    ],
)
def test_whoever_answers(
    answer: bytes, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1, no traceback."""
    monkeypatch.chdir(tmp_path)
    with answering(answer) as port:
        env_file = tmp_path / "node.env"
        env_file.write_text(f"HEALTH_CHECK_PORT={port}\nNODE_ID=Upper\n")
        ended = run_here("status", "--env-file", str(env_file))
    assert ended.code == 1
    assert ended.out == ""
    assert words in ended.err.splitlines()[-1]
    assert "Traceback" not in ended.err


def test_watch_is_for_people() -> None:
    """A table that is drawn again and again is no JSON."""
    refused(run_here("status", "--watch", "--json"), "--watch and --json are both given")
