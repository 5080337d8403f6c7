"""The Docker engine of the end-to-end tests: the user's own, or in CI one that is started here.

Runs outside of the lab, in the network of the machine, because an engine is of the whole machine.
What is started here has its data in .stamps/engine, so that a second run builds from its cache.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lab.fixtures import need
from lab.world import LAB_DIR

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
STAMPS = ROOT / ".stamps"
BASE = "dstack-vpn-test-base"
"""A base image that is made here where none can be pulled."""
PULLED_BASE = "debian:bookworm-slim"
COMPOSE_PLUGIN = STAMPS / "compose-v2/docker-compose"
"""Compose 2, where `make setup` built it."""
PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """All that it printed."""
        return f"{self.out}{self.err}"


def run(
    *words: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    check: bool = True,
    within: float = PATIENCE,
) -> Ended:
    """Run a command to its end; one that fails is a failure of the test unless `check` is off."""
    argv = [str(word) for word in words]
    done = subprocess.run(
        argv, env=dict(env or os.environ), cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, errors="replace", timeout=within, check=False,
    )  # fmt: skip
    ended = Ended(done.returncode, done.stdout, done.stderr)
    assert not check or ended.code == 0, f"{' '.join(argv)} ended with {ended.code}:\n{ended.text}"
    return ended


def eventually(look: Callable[[], T | None], what: str, *, within: float = PATIENCE) -> T:
    """Look until there is something to see, and return it."""
    deadline = time.monotonic() + within
    while True:
        if seen := look():
            return seen
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(0.1)


@dataclass(slots=True)
class Engine:
    """An engine, and how to call it."""

    environ: dict[str, str]
    own: bool
    """Whether it was started here, and so may be restarted."""
    base: str = ""
    _process: "subprocess.Popen[bytes] | None" = None
    _words: list[str] = field(default_factory=list)
    _log: Path | None = None

    def docker(self, *words: str, check: bool = True, within: float = PATIENCE) -> Ended:
        """Run ``docker``."""
        return run("docker", *words, env=self.environ, check=check, within=within)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert self._log is not None
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        eventually(self._answers, f"the engine answers; see {self._log}")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the engine ended; see {self._log}"
        return self.docker("version", check=False).code == 0

    def stop(self) -> None:
        """Stop it in order, as a reboot would, and wait for its end."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(PATIENCE)

    @classmethod
    def start_own(cls, directory: Path) -> "Engine":
        """Start an engine with its socket in a directory, and its data in .stamps/engine."""
        sock, data = directory / "docker.sock", STAMPS / "engine"
        data.mkdir(parents=True, exist_ok=True)
        words = [
            "dockerd", "--host", f"unix://{sock}", "--data-root", str(data),
            "--exec-root", str(directory / "exec"), "--pidfile", str(directory / "pid"),
        ]  # fmt: skip
        engine = cls(
            environ={**os.environ, "DOCKER_HOST": f"unix://{sock}"},
            own=True,
            _words=words,
            _log=directory / "dockerd.log",
        )
        engine.start()
        return engine


@contextlib.contextmanager
def open_engine() -> Iterator[Engine]:
    """The engine that runs; where CI may, one of its own is started and ended again."""
    need(not LAB_DIR.is_dir(), "an engine is of the whole machine: run it outside of the lab")
    need(shutil.which("docker"), "docker is not installed")
    if run("docker", "version", check=False).code == 0:
        engine = Engine(environ=dict(os.environ), own=False)
        engine.base = base_image(engine)
        yield engine
        return
    may = os.environ.get("CI") and os.geteuid() == 0 and shutil.which("dockerd")
    need(may, "no Docker engine answers (and only in CI, as root, one is started)")
    with tempfile.TemporaryDirectory(prefix="dstack-vpn-engine-") as directory:
        engine = Engine.start_own(Path(directory))
        try:
            engine.base = base_image(engine)
            yield engine
        finally:
            engine.stop()


def base_image(engine: Engine) -> str:
    """A base image: the public one where it can be pulled, else one that is made here."""
    for name in (BASE, PULLED_BASE):
        if engine.docker("image", "inspect", name, check=False).code == 0:
            return name
    if engine.docker("pull", "--quiet", PULLED_BASE, check=False, within=300).code == 0:
        return PULLED_BASE
    need(
        os.geteuid() == 0 and shutil.which("debootstrap"),
        f"{PULLED_BASE} cannot be pulled, and to make a base takes root and debootstrap",
    )
    say(f"{PULLED_BASE} cannot be pulled: making a base")
    with tempfile.TemporaryDirectory(prefix="dstack-vpn-base-") as directory:
        tree = Path(directory) / "tree"
        run("debootstrap", "--variant=minbase", "bookworm", tree, within=600)
        for left in (
            *tree.glob("var/cache/apt/archives/*.deb"),
            *tree.glob("var/lib/apt/lists/*_*"),
        ):
            left.unlink()
        with subprocess.Popen(["tar", "-C", tree, "-c", "."], stdout=subprocess.PIPE) as tar:
            subprocess.run(
                ["docker", "import", "-", BASE],
                stdin=tar.stdout,
                env=engine.environ,
                stdout=subprocess.DEVNULL,
                check=True,
            )
        assert tar.returncode == 0
    return BASE


def certificates(directory: Path) -> Path:
    """What this machine trusts beside the usual certificates; builds have to trust it too.

    And one that nobody has, so that there always is one of which nothing may be left.
    """
    found = sorted(Path("/usr/local/share/ca-certificates").glob("**/*.crt"))
    path = directory / "build-ca.crt"
    texts = [one.read_text() for one in found]
    path.write_text("\n".join([*texts, _certificate()]), encoding="utf-8")
    return path


def _certificate() -> str:
    """A certificate of an authority that was made for this, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dstack-vpn tests")])
    now = datetime.now(tz=UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port that is free now."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def say(text: str) -> None:
    """Tell the user what takes long."""
    print(f"[e2e] {text}", file=sys.__stderr__, flush=True)
