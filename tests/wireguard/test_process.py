"""Processes by exact identity: known again, ended, and never confused with another."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dstack_vpn.errors import HostError
from dstack_vpn.wireguard import process
from dstack_vpn.wireguard.process import Process, end, spawn
from lab.waiting import PATIENCE, until

ENVIRONMENT = {"PATH": os.environ["PATH"]}


@contextmanager
def running(*argv: str | Path) -> Iterator[Process]:
    """A program of ours, killed at the end."""
    started = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    found = Process.of(started.pid)
    assert found is not None
    try:
        # The kernel tells of the new program before it has laid out its arguments.
        deadline = time.monotonic() + PATIENCE
        while not found.command and time.monotonic() < deadline:
            time.sleep(0.001)
        yield found
    finally:
        started.kill()
        started.wait()


def test_a_process_is_its_pid_and_its_start() -> None:
    """The same pid with another start time is another process, as after a reuse of the pid."""
    with running("sleep", "600") as found:
        assert found.alive
        assert found == Process.of(found.pid)
        other = Process(found.pid, found.started + 1)
        assert not other.alive
        other.signal(signal.SIGKILL)
        assert found.command == ("sleep", "600")
    found.signal(signal.SIGKILL)  # nobody by now, and no error
    assert found != Process.of(found.pid)


def test_the_dead_have_no_command() -> None:
    """Whatever is asked about a process that has ended, there is an answer."""
    with running("sleep", "600") as found:
        pass
    assert found.command == ()
    assert not found.alive


def test_a_name_may_hold_anything(tmp_path: Path) -> None:
    """The fields of /proc/PID/stat are found behind whatever the program is called."""
    sleep = shutil.which("sleep")
    assert sleep is not None
    odd = tmp_path / "a) Z 1 (b"
    shutil.copy(sleep, odd)
    with running(odd, "600") as found:
        with running("sleep", "600") as later:
            assert 0 < found.started <= later.started
        assert found.alive


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1])
def test_nobody(pid: int) -> None:
    """No process has such a pid."""
    assert Process.of(pid) is None


async def test_a_spawned_process_ends_when_asked() -> None:
    """SIGTERM is enough for most, and a dead child of ours does not stay as a zombie."""
    started = spawn(("sleep", "600"), ENVIRONMENT)
    assert started is not None
    assert os.getsid(started.pid) == started.pid
    await end(started)
    assert not started.alive
    assert not Path(f"/proc/{started.pid}").exists()  # noqa: ASYNC240
    await end(started)


async def test_a_deaf_process_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL follows when patience is over."""
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf'); time.sleep(600)"
    monkeypatch.setattr(process, "PATIENCE", 0.2)
    started = spawn((sys.executable, "-c", code), ENVIRONMENT)
    assert started is not None
    await until(lambda: ignores_sigterm(started.pid), "it has become deaf")
    await end(started)
    assert not started.alive


def ignores_sigterm(pid: int) -> bool:
    """Whether a process ignores SIGTERM by now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigIgn:"):
            return bool(int(line.split()[1], 16) & 1 << signal.SIGTERM - 1)
    return False


def test_where_the_kernel_has_no_handles_pids_have_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Old kernels and container filters refuse pidfd_open; the start time is still checked."""

    def refuse(_: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with running("sleep", "600") as found:
        Process(found.pid, found.started + 1).signal(signal.SIGKILL)
        assert found.alive
        found.signal(signal.SIGKILL)
        assert os.waitpid(found.pid, 0)[1] == signal.SIGKILL


def test_a_program_that_is_not_there() -> None:
    """The sentence names the program."""
    with pytest.raises(HostError, match="no-such-program is not installed"):
        spawn(("no-such-program",), ENVIRONMENT)


def test_a_program_that_cannot_be_run(tmp_path: Path) -> None:
    """A file for another machine is said to be one."""
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF nonsense")
    program.chmod(0o755)
    with pytest.raises(HostError, match=r"cannot be run: Exec format error"):
        spawn((str(program),), ENVIRONMENT)


def test_a_udp_port_is_found_with_its_holder() -> None:
    """Only the process that has the socket holds the port, in IPv4 or IPv6."""
    with running("sleep", "600") as other:
        for family in (socket.AF_INET, socket.AF_INET6):
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.bind(("", 0))
                port = sock.getsockname()[1]
                ours = Process.of(os.getpid())
                assert ours is not None
                assert ours.holds_udp_port(port)
                assert not other.holds_udp_port(port)
            assert not ours.holds_udp_port(port)
