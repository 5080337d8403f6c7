"""Runs ``docker`` and Compose, whichever of its versions is there. The only file that does.

Through the commands and not the engine's API, so that contexts, remote engines and credentials work
as they do for the user himself.
"""

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dstack_vpn.deploy.containers import PROJECT_LABEL, Container, in_order, parse
from dstack_vpn.errors import DstackVpnError, UserError

PATIENCE = 60.0
"""Seconds for a command that only asks; those that build or start have none."""


class DeployError(DstackVpnError):
    """A step of the deployment failed."""


@dataclass(frozen=True, slots=True)
class Output:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """Why it failed, in a line: the last thing that it said."""
        lines = [line.strip() for line in (self.err or self.out).splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {self.code}"


def run(
    words: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    directory: Path | None = None,
    patience: float | None = PATIENCE,
) -> Output:
    """Run a command to its end.

    Raises:
        UserError: it is not installed.
        DeployError: it took longer than it may.
    """
    try:
        done = subprocess.run(
            list(words),
            env=None if env is None else dict(env),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=patience,
            check=False,
        )
    except FileNotFoundError:
        raise UserError(f"{words[0]} is not installed; accepted: Docker 20.10 or newer") from None
    except OSError as error:
        raise DeployError(f"{words[0]} cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise DeployError(f"{' '.join(words[:4])} … took longer than {patience:g} s") from None
    return Output(done.returncode, done.stdout, done.stderr)


def find_compose() -> tuple[tuple[str, ...], tuple[int, ...]] | None:
    """The words that call Compose, and its version; the plugin before the program of old."""
    for words in (("docker", "compose"), ("docker-compose",)):
        try:
            done = run((*words, "version", "--short"))
        except (UserError, DeployError):
            continue
        if done.code == 0 and (version := parse_version(done.out)):
            return words, version
    return None


def parse_version(text: str) -> tuple[int, ...]:
    """The numbers of ``v2.40.3-desktop.1`` or ``20.10.24+dfsg1``; empty where there are none."""
    numbers = []
    for part in text.strip().removeprefix("v").split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers)


PROJECT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
"""What Compose takes for the name of a project."""


def project_name(given: str, directory: Path) -> str:
    """The name of a project, as Compose makes it where none is given: that of the directory."""
    return given or re.sub(r"[^-_a-z0-9]", "", directory.resolve().name.lower()).lstrip("-_")


class Engine:
    """The engine, and Compose for one project directory."""

    def __init__(
        self,
        directory: Path,
        compose: Sequence[str],
        *,
        project: str,
        profiles: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing is run yet.

        Args:
            directory: with the Compose file and its .env.
            compose: the words that call Compose.
            project: its name; see `project_name`.
            profiles: of the Compose file, to be on.
            variables: for the Compose file, beside those of the environment and .env.
        """
        self.directory = directory
        self._compose = tuple(compose)
        self._env = dict(os.environ) | dict(variables or {})
        self._env["COMPOSE_PROFILES"] = ",".join(profiles)
        self._env["COMPOSE_PROJECT_NAME"] = self.project = project

    def with_profiles(self, *profiles: str) -> "Engine":
        """The same with other profiles on."""
        return Engine(
            self.directory,
            self._compose,
            project=self.project,
            profiles=profiles,
            variables=self._env,
        )

    def docker(self, *words: str, patience: float | None = PATIENCE) -> str:
        """Run ``docker``; what it printed.

        Raises:
            DeployError: it failed; its complaint is in the text.
        """
        done = run(("docker", *words), env=self._env, patience=patience)
        if done.code != 0:
            raise DeployError(f"docker {words[0]} failed: {done.complaint}")
        return done.out

    def compose(self, *words: str, patience: float | None = PATIENCE) -> str:
        """Run Compose and keep what it prints.

        Raises:
            DeployError: it failed; its complaint is in the text.
        """
        done = run(
            (*self._compose, *words), env=self._env, directory=self.directory, patience=patience
        )
        if done.code != 0:
            raise DeployError(f"compose {words[0]} failed: {done.complaint}")
        return done.out

    def show(self, *words: str) -> None:
        """Run a long command of Docker or Compose whose progress the user sees, on stderr.

        The first word says which: ``docker`` or ``compose``.

        Raises:
            DeployError: it failed; it has told why itself.
        """
        kind, *rest = words
        command = ["docker", *rest] if kind == "docker" else [*self._compose, *rest]
        try:
            done = subprocess.run(
                command, env=self._env, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=2,
                check=False,
            )  # fmt: skip
        except OSError as error:
            raise DeployError(f"{command[0]} cannot be run: {error.strerror}") from None
        if done.returncode != 0:
            raise DeployError(f"{kind} {rest[0]} failed (exit code {done.returncode}); see above")

    def services(self) -> list[str]:
        """The services of the Compose file, with the profiles that are on."""
        return sorted(self.compose("config", "--services").split())

    def containers(self) -> list[Container]:
        """All containers of the project, stopped ones too.

        The engine is asked, not Compose, which stumbles over mistakes in .env that are told later.
        """
        label = f"label={PROJECT_LABEL}={self.project}"
        ids = self.docker("ps", "--all", "--quiet", "--no-trunc", "--filter", label).split()
        if not ids:
            return []
        done = run(("docker", "inspect", "--type", "container", *ids), env=self._env)
        # Where one has gone meanwhile it fails, and prints the others all the same.
        gone = all("no such" in line.lower() for line in done.err.splitlines() if line.strip())
        if done.code != 0 and not gone:
            raise DeployError(f"docker inspect failed: {done.complaint}")
        try:
            found = [parse(one) for one in json.loads(done.out)]
        except (ValueError, TypeError, RecursionError) as error:
            raise DeployError(f"docker inspect printed no containers: {error}") from None
        return in_order(found)

    def has_image(self, tag: str) -> bool:
        """Whether the engine has an image of this name.

        Raises:
            DeployError: it cannot be asked.
        """
        return bool(self.docker("image", "ls", "--quiet", tag).strip())

    def inside(self, container: Container, *words: str, patience: float = 15.0) -> Output:
        """Run a command in a container; it may fail."""
        try:
            return run(("docker", "exec", container.id, *words), env=self._env, patience=patience)
        except DeployError as error:
            return Output(1, "", str(error))

    def logs(self, container: Container, *options: str) -> str:
        """What a container told its log.

        Raises:
            DeployError: it cannot be read.
        """
        done = run(("docker", "logs", *options, container.id), env=self._env)
        if done.code != 0:
            raise DeployError(f"docker logs failed: {done.complaint}")
        return f"{done.out}\n{done.err}"

    def follow(self, container: Container, *options: str) -> "subprocess.Popen[str]":
        """Begin to read a container's log; the caller ends it."""
        return subprocess.Popen(
            ["docker", "logs", "--follow", *options, container.id],
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def json_inside(self, container: Container, *words: str) -> Any:
        """The JSON that a command in a container prints, or None."""
        try:
            return json.loads(self.inside(container, *words).out)
        except (ValueError, RecursionError):
            return None
