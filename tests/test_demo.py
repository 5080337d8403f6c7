"""The demo as a user runs it: what it prints and writes, how it can end, and what it leaves."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab.chain import REPOSITORY
from lab.fixtures import need
from lab.waiting import until

PROMISED = (
    "members",
    "event_to_peer_ms",
    "revoke_to_last_packet_ms",
    "packets_lost_unaffected",
    "cold_ready_s",
    "warm_ready_s",
    "agent_rss_mb",
)
DEADLINE = 180.0  # seconds; it takes about 20 on an idle machine


class Demo:
    """A running demo: a fresh process on a terminal or with a file for its output."""

    def __init__(self, directory: Path, **environment: str) -> None:
        self.directory = directory
        self.namespaces: set[str] = set()
        self._path = directory / "output"
        # A session and a terminal of its own: Ctrl-C reaches all of its processes, and not us.
        terminal, inner = os.openpty()
        self._terminal = terminal
        with self._path.open("wb") as output:
            self.process = subprocess.Popen(
                ["setsid", "--ctty", sys.executable, str(REPOSITORY / "scripts/demo.py")],
                cwd=directory,
                stdin=inner,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={k: v for k, v in os.environ.items() if k != "KEEP"} | environment,
            )
        os.close(inner)

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._path.read_text()

    def until(self, text: str) -> None:
        """Wait for a text in the output, and note where its processes live."""
        deadline = time.monotonic() + DEADLINE
        while text not in self.output:
            self.namespaces |= namespaces_below(self.process.pid)
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.02)
        self.namespaces |= namespaces_below(self.process.pid)

    def press_ctrl_c(self) -> None:
        """What the terminal does when somebody presses it."""
        os.write(self._terminal, b"\x03")

    def wait(self) -> int:
        """Wait for its end; the exit code."""
        return self.process.wait(DEADLINE)

    def report(self) -> dict[str, Any]:
        """What it wrote into its directory."""
        parsed: dict[str, Any] = json.loads((self.directory / "demo-report.json").read_text())
        return parsed

    def close(self) -> None:
        """End it, if a test failed before its end."""
        self.process.kill()
        self.process.wait(DEADLINE)
        os.close(self._terminal)


@contextmanager
def demo(directory: Path, **environment: str) -> Iterator[Demo]:
    """Start the demo in an empty directory; skip where the machine allows no lab."""
    tried = subprocess.run(
        [str(REPOSITORY / "scripts/lab"), "true"], capture_output=True, text=True, check=False
    )
    need(tried.returncode == 0, tried.stderr.strip())
    running = Demo(directory, **environment)
    try:
        yield running
    finally:
        running.close()


def namespace_of(pid: int) -> str:
    """The PID namespace of a process; empty when it is gone or not ours to ask."""
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""


def namespaces_below(pid: int) -> set[str]:
    """The PID namespaces, other than ours, of all descendants of a process."""
    found, left = set(), [pid]
    while left:
        parent = left.pop()
        found.add(namespace_of(parent))
        try:
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        left += map(int, children.split())
    return found - {"", namespace_of(os.getpid())}


def left_in(namespaces: set[str]) -> list[str]:
    """What still runs in some PID namespaces."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [
        Path(f"/proc/{pid}/cmdline").read_text() for pid in pids if namespace_of(pid) in namespaces
    ]


def nothing_is_left_in(namespaces: set[str]) -> None:
    """Fail unless PID namespaces empty by themselves.

    The kernel kills what is in one when its first process ends, and each process takes its moment.
    """
    what = "nothing of the demo is left"
    asyncio.run(until(lambda: not left_in(namespaces), what, retry_on=(OSError,)))


def get(url: str) -> tuple[int, Any]:
    """GET as a browser would; the status and the parsed body."""
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, json.load(refused)


def check_report(report: dict[str, Any]) -> None:
    """Everything in it is a number, and the numbers are those of a network that works."""
    assert set(PROMISED) <= set(report)
    assert all(type(value) in (int, float) for value in report.values()), report
    assert report["members"] == 3
    assert report["packets_lost_unaffected"] == 0
    assert report["packets_sent_unaffected"] > 1000
    assert report["event_to_peer_ms_n"] >= 10
    for name in ("cold_ready_s", "warm_ready_s", "event_to_peer_ms", "agent_rss_mb"):
        assert report[name] > 0, name


def test_it_runs_stays_and_leaves_nothing(tmp_path: Path) -> None:
    """KEEP=1: the whole story, a report, nodes that a browser reaches, and a clean end."""
    with demo(tmp_path, KEEP="1") as running:
        running.until("CONTRACT_ADDRESS=")
        check_report(running.report())
        nodes = dict(re.findall(r"^  (\w+) +(http://\S+)/health ", running.output, re.MULTILINE))
        assert sorted(nodes) == ["alice", "bob", "carol", "dave"]
        for name in ("alice", "bob", "carol"):
            assert get(f"{nodes[name]}/ready") == (200, {"ready": True})
            assert get(f"{nodes[name]}/health")[1]["status"] == "healthy"
        status, answer = get(f"{nodes['dave']}/ready")
        assert status == 503
        assert "PUBLIC_KEY_MISMATCH" in answer["reason"]
        assert len(running.namespaces) >= 5  # the world's, and one for each host
        assert left_in(running.namespaces)
        running.press_ctrl_c()
        assert running.wait() == 0
        nothing_is_left_in(running.namespaces)


@pytest.mark.slow
def test_it_ends_by_itself(tmp_path: Path) -> None:
    """Without KEEP it ends with 0 when the story does, and every step is told."""
    with demo(tmp_path) as running:
        assert running.wait() == 0, running.output
        check_report(running.report())
        steps = re.findall(r"^\d+ ", running.output, re.MULTILINE)
        assert steps == [f"{number} " for number in range(1, len(steps) + 1)]
        assert len(steps) >= 10
        assert [path.name for path in tmp_path.iterdir() if path.name != "output"] == [
            "demo-report.json"
        ]


@pytest.mark.parametrize(("how", "code"), [("Ctrl-C", 130), ("SIGTERM", 143)])
def test_interrupted_it_leaves_nothing(tmp_path: Path, how: str, code: int) -> None:
    """In the middle of the story, with agents and streams running, it ends at once and whole."""
    with demo(tmp_path) as running:
        running.until("numbered packets a second")
        if how == "Ctrl-C":
            running.press_ctrl_c()
        else:
            running.process.send_signal(signal.SIGTERM)
        assert running.wait() == code
        nothing_is_left_in(running.namespaces)
        assert "Stopped" in running.output
        assert not (tmp_path / "demo-report.json").exists()


def test_a_failed_step_is_named(tmp_path: Path) -> None:
    """With a `wg` that fails it says which step failed and why, and ends with 1."""
    bin_directory = tmp_path / "bin"
    bin_directory.mkdir()
    (bin_directory / "wg").write_text("#!/bin/sh\necho wg is out of order; exit 5\n")
    (bin_directory / "wg").chmod(0o755)
    with demo(tmp_path, PATH=f"{bin_directory}:{os.environ['PATH']}") as running:
        assert running.wait() == 1
        failure = running.output.partition("FAILED: ")[2]
        assert failure.startswith("step 2, “Four nodes start")
        assert "wg is out of order" in failure


def test_what_is_missing_is_said_in_a_sentence(tmp_path: Path) -> None:
    """Without its programs it says which, and ends with 2; so it does when given arguments."""
    (tmp_path / "sh").symlink_to(shutil.which("sh") or "/bin/sh")
    script = [sys.executable, str(REPOSITORY / "scripts/demo.py")]
    bare = subprocess.run(
        script, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert bare.returncode == 2
    assert re.fullmatch(r"demo: not installed: .*\bwg\b.*\n", bare.stderr)
    argued = subprocess.run([*script, "--fast"], capture_output=True, text=True, check=False)
    assert argued.returncode == 2
    assert argued.stderr.startswith("usage: ")
