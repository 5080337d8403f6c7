"""The probe against a real server: what it prints, and what its exit code says."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.probe import main

READY = b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"ready":true}'
NOT_READY = b'HTTP/1.1 503 Unavailable\r\nContent-Length: 15\r\n\r\n{"ready":false}'


class Server:
    """Gives the same answer to everybody, or none."""

    def __init__(self, listener: socket.socket, answer: bytes | None) -> None:
        self.environ = {"HEALTH_CHECK_PORT": str(listener.getsockname()[1])}
        self.asked: list[str] = []
        self._listener = listener
        self._answer = answer
        self._open: list[socket.socket] = []

    def serve(self) -> None:
        """Answer until the listener is closed."""
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.asked.append(client.recv(4096).decode().split("\r\n")[0])
            if self._answer is None:
                self._open.append(client)
                continue
            client.sendall(self._answer)
            client.close()

    def close(self) -> None:
        """Hang up on everybody."""
        self._listener.shutdown(socket.SHUT_RDWR)
        for client in self._open:
            client.close()


@contextmanager
def serving(answer: bytes | None, host: str = "127.0.0.1") -> Iterator[Server]:
    """A server on a free port; without an answer it keeps silent."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        server = Server(listener, answer)
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            yield server
        finally:
            server.close()
            thread.join()


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def probe(capsys: pytest.CaptureFixture[str]) -> Run:
    """The exit code and what is printed."""

    def run(*arguments: str, environ: dict[str, str], timeout: float = 5) -> tuple[int, str, str]:
        code = main(arguments, environ, timeout=timeout)
        return (code, *capsys.readouterr())

    return run


def test_a_node_that_is_ready(probe: Run) -> None:
    """Success, with the node's own words; /ready is asked unless another path is named."""
    with serving(READY) as server:
        assert probe(environ=server.environ) == (0, '{"ready":true}\n', "")
        assert probe("/health", environ=server.environ)[0] == 0
    assert server.asked == ["GET /ready HTTP/1.1", "GET /health HTTP/1.1"]


@pytest.mark.parametrize(
    ("answer", "out"),
    [
        (NOT_READY, '{"ready":false}\n'),
        (b"HTTP/1.1 404 Not Found\r\n\r\nno", "no\n"),
        # That is no node.
        (b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n", "\n"),
        (b"HTTP/1.1 503 \r\n\r\n\xff", "\N{REPLACEMENT CHARACTER}\n"),
    ],
)
def test_a_node_that_is_not_ready(probe: Run, answer: bytes, out: str) -> None:
    """Failure, and what it said is printed all the same."""
    with serving(answer) as server:
        assert probe(environ=server.environ) == (1, out, "")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    ],
)
def test_garbage_is_no_answer(probe: Run, answer: bytes) -> None:
    """Whatever else listens there: failure, told in a line."""
    with serving(answer) as server:
        code, out, err = probe(environ=server.environ)
    assert (code, out) == (1, "")
    assert err.startswith(f"the node does not answer at port {server.environ['HEALTH_CHECK_PORT']}")
    assert len(err.splitlines()) == 1


def test_nobody_there(probe: Run) -> None:
    """A node that does not run yet is not ready."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        environ = {"HEALTH_CHECK_PORT": str(listener.getsockname()[1])}
    code, out, err = probe(environ=environ)
    assert (code, out) == (1, "")
    assert "refused" in err


def test_a_node_that_hangs(probe: Run) -> None:
    """It is given up before the engine loses its patience, so that the reason is told."""
    with serving(None) as server:
        code, out, err = probe(environ=server.environ, timeout=0.05)
    assert (code, out) == (1, "")
    assert err.endswith("timed out\n")


@pytest.mark.parametrize(
    ("bound", "configured"),
    [
        ("127.0.0.1", ""),
        ("127.0.0.1", " 127.0.0.1 "),
        ("127.0.0.2", "127.0.0.2"),
        ("0.0.0.0", "0.0.0.0"),
        ("::1", "::1"),
        ("::", "::"),
    ],
)
def test_where_a_node_is_found(probe: Run, bound: str, configured: str) -> None:
    """Where HEALTH_CHECK_HOST says; one that binds all addresses is found on the loopback."""
    with serving(READY, bound) as server:
        environ = server.environ | {"HEALTH_CHECK_HOST": configured}
        assert probe(environ=environ)[0] == 0


@pytest.mark.parametrize(
    "port", ["http", "-1", "65536", "8080x", "\u0668\u0660", "9" * 5000, "1e3"]
)
def test_a_port_that_is_none(probe: Run, port: str) -> None:
    """A malformed setting is told in a line, as by the node itself."""
    code, out, err = probe(environ={"HEALTH_CHECK_PORT": port})
    assert (code, out) == (1, "")
    assert err == f"HEALTH_CHECK_PORT is {port[:20]!a}; accepted: a port up to 65535\n"


@given(st.text(max_size=100), st.text(max_size=100))
def test_malformed_settings_are_failures(host: str, path: str) -> None:
    """Whatever stands in the settings, it is no traceback."""
    with pytest.MonkeyPatch.context() as patch:
        # No name of the text is looked up on a network.
        patch.setattr(socket, "getaddrinfo", lambda host, *_: host.encode("idna") and [])
        assert main([path], {"HEALTH_CHECK_HOST": host, "HEALTH_CHECK_PORT": "1"}) == 1


def test_as_a_process() -> None:
    """As the image runs it, with the environment of the container."""
    command = [sys.executable, "-I", "-m", "dstack_vpn.probe"]
    with serving(READY) as server:
        environ = os.environ | server.environ
        ready = subprocess.run(command, env=environ, capture_output=True, check=False)
    assert (ready.returncode, ready.stdout, ready.stderr) == (0, b'{"ready":true}\n', b"")
    gone = subprocess.run([*command, "/health"], env=environ, capture_output=True, check=False)
    assert (gone.returncode, gone.stdout) == (1, b"")


def test_it_is_light() -> None:
    """It runs every few seconds, so it loads nothing but the standard library."""
    program = (
        "import sys; known = set(sys.modules); import dstack_vpn.probe;"
        "print(*{m.partition('.')[0] for m in set(sys.modules) - known}"
        " - sys.stdlib_module_names)"
    )
    command = [sys.executable, "-I", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["dstack_vpn"]
