"""The real command, in a process whose environment holds only what a test says, or in this one."""

import io
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import structlog

from dstack_vpn import cli

SCRIPT = Path(sys.executable).with_name("dstack-vpn")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """What it printed, parsed."""
        assert self.code in (0, 1), self.err
        return msgspec.json.decode(self.out)


def run(*arguments: str, env: Mapping[str, str] | None = None, stdin: str = "") -> Ended:
    """Run ``dstack-vpn`` with these arguments."""
    ended = subprocess.run(
        [SCRIPT, *arguments],
        env={"PATH": os.environ["PATH"], **(env or {})},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def run_here(*arguments: str) -> Ended:
    """Run it in this process, with this environment, which is ten times as fast."""
    # Commands set up logs, which is the process's concern.
    root, logs = logging.getLogger(), structlog.get_config()
    handlers, level = list(root.handlers), root.level
    try:
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            code = cli.main(list(arguments))
    finally:
        structlog.configure(**logs)
        root.handlers[:] = handlers
        root.setLevel(level)
    return Ended(code, out.getvalue(), err.getvalue())


def refused(ended: Ended, *words: str, code: int = 2) -> str:
    """Assert that it said in one line of stderr what was wrong; the line."""
    assert ended.code == code, ended
    assert ended.out == ""
    lines = ended.err.splitlines()
    assert len(lines) == 1, ended.err
    assert lines[0].startswith("dstack-vpn: ")
    assert "Traceback" not in ended.err
    for word in words:
        assert word in lines[0]
    return lines[0]
