"""Programs in the place of ``docker`` and ``docker-compose``.

They answer what a test says, and tell how they were called.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = f"""#!{sys.executable} -IS
import json, os, sys
here = os.path.dirname(os.path.abspath(__file__))
words = [os.path.basename(__file__), *sys.argv[1:]]
names = ("BASE_IMAGE", "COMPOSE_PROFILES", "COMPOSE_PROJECT_NAME", "DOCKER_SOCKET", "IPV6_SYSCTL")
certificates = os.listdir("docker/ca") if os.path.isdir("docker/ca") else []
call = {{"words": words, "directory": os.getcwd(), "certificates": sorted(certificates)}}
call["variables"] = {{n: os.environ[n] for n in names if n in os.environ}}
with open(here + "/calls", "a") as file:
    file.write(json.dumps(call) + "\\n")
with open(here + "/answers") as file:
    answers = [a for a in json.load(file) if words[: len(a["words"])] == a["words"]]
if answers:
    with open(here + "/used-" + str(answers[-1]["number"]), "a") as file:
        file.write(".")
        times = file.tell()
    out, err, code = answers[-1]["ends"][:times][-1]
    sys.stdout.write(out)
    sys.stderr.write(err)
    sys.exit(code)
"""


@dataclass(frozen=True, slots=True)
class End:
    """What a program prints, and how it ends."""

    out: str = ""
    err: str = ""
    code: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """How a program was called."""

    words: tuple[str, ...]
    directory: Path
    variables: dict[str, str]
    certificates: list[str]
    """What lay in docker/ca."""


class FakeDocker:
    """The two programs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._answers: list[dict[str, Any]] = []
        self.answer("docker", "version", out="24.0.7\n")
        self.answer("docker", "compose", "version", out="2.24.5\n")
        self.answer("docker", "context", "inspect", out="unix:///var/run/docker.sock\n")
        self.answer("docker", "inspect", out="[]")
        self._calls.touch()
        self.install("docker")

    @property
    def _calls(self) -> Path:
        return self.directory / "calls"

    def install(self, name: str) -> None:
        """Have a program of this name."""
        path = self.directory / name
        path.write_text(PROGRAM)
        path.chmod(0o755)

    def remove(self, name: str) -> None:
        """Have no program of this name."""
        (self.directory / name).unlink()

    def answer(self, *words: str, out: str = "", err: str = "", code: int = 0) -> None:
        """Say how a command ends that begins so; what was said last holds."""
        self.answers(*words, ends=[End(out, err, code)])

    def answers(self, *words: str, ends: Sequence[End]) -> None:
        """Say how it ends the first time and so on; the last holds from then on."""
        told = [[end.out, end.err, end.code] for end in ends]
        self._answers.append({"words": words, "ends": told, "number": len(self._answers)})
        (self.directory / "answers").write_text(json.dumps(self._answers))

    def has(
        self, *described: dict[str, Any], compose: Sequence[str] = ("docker", "compose")
    ) -> None:
        """Have these containers, as ``docker inspect`` describes them, and their services."""
        ids = "".join(f"{one['Id']}\n" for one in described)
        names = {one["Config"]["Labels"]["com.docker.compose.service"] for one in described}
        self.answer("docker", "ps", out=ids)
        self.answer(*compose, "config", out="".join(f"{name}\n" for name in names))
        self.answer("docker", "inspect", out=json.dumps(described))

    @property
    def calls(self) -> list[Call]:
        """How they were called so far."""
        parsed = [json.loads(line) for line in self._calls.read_text().splitlines()]
        return [
            Call(
                tuple(call["words"]),
                Path(call["directory"]),
                call["variables"],
                call["certificates"],
            )
            for call in parsed
        ]

    def called(self, *words: str) -> list[tuple[str, ...]]:
        """The rest of each call that began so."""
        found = [call.words for call in self.calls]
        return [call[len(words) :] for call in found if call[: len(words)] == words]
