"""Programs in the place of ``docker`` and ``docker-compose``.

They answer what a test says, and tell how they were called.
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VARIABLES = (
    "BASE_IMAGE",
    "COMPOSE_PROFILES",
    "COMPOSE_PROJECT_NAME",
    "DOCKER_SOCKET",
    "IPV6_SYSCTL",
)
"""The variables of which it is told whether a program had them."""

# A shell, which starts ten times as fast as Python; there is no other program on its PATH.
PROGRAM = r"""#!/bin/sh
here=${0%/*}
words=$(printf '%s\037' "${0##*/}" "$@")
for name in VARIABLES; do
    eval "value=\${$name-unset}"
    [ "$value" = unset ] || variables="$variables$name=$value$(printf '\037')"
done
for file in docker/ca/*; do
    [ ! -e "$file" ] || certificates="$certificates${file##*/}$(printf '\037')"
done
printf '%s\036%s\036%s\036%s\n' "$words" "$PWD" "$variables" "$certificates" >>"$here/calls"
end() {
    step=1
    while [ -e "$here/$1-$step-used" ] && [ -e "$here/$1-$((step + 1))-out" ]; do
        step=$((step + 1))
    done
    : >"$here/$1-$step-used"
    /bin/cat "$here/$1-$step-out"
    /bin/cat "$here/$1-$step-err" >&2
    read -r code <"$here/$1-$step-code"
    exit "$code"
}
case $words in
""".replace("VARIABLES", " ".join(VARIABLES))
"""Its rest says which answer a call has."""


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
        self._calls = directory / "calls"
        self._cases: list[str] = []
        self._names = ["docker"]
        self.forget()
        self.answer("docker", "version", out="24.0.7\n")
        self.answer("docker", "compose", "version", out="2.24.5\n")
        self.answer("docker", "context", "inspect", out="unix:///var/run/docker.sock\n")
        self.answer("docker", "inspect", out="[]")

    def install(self, name: str) -> None:
        """Have a program of this name."""
        self._names.append(name)
        self._write()

    def remove(self, name: str) -> None:
        """Have no program of this name."""
        self._names.remove(name)
        (self.directory / name).unlink()

    def _write(self) -> None:
        # What was said last comes first.
        program = "\n".join([PROGRAM, *reversed(self._cases), "esac\n"])
        for name in self._names:
            (self.directory / name).write_text(program)
            (self.directory / name).chmod(0o755)

    def answer(self, *words: str, out: str = "", err: str = "", code: int = 0) -> None:
        """Say how a command ends that begins so; what was said last holds."""
        self.answers(*words, ends=[End(out, err, code)])

    def answers(self, *words: str, ends: Sequence[End]) -> None:
        """Say how it ends the first time and so on; the last holds from then on."""
        number = len(self._cases)
        for step, end in enumerate(ends, 1):
            for part, text in (("out", end.out), ("err", end.err), ("code", f"{end.code}\n")):
                (self.directory / f"{number}-{step}-{part}").write_text(text)
        begin = "".join(f"{word}\037" for word in words)
        self._cases.append(f"{shlex.quote(begin)}*) end {number} ;;")
        self._write()

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
        found = []
        for line in self._calls.read_text().split("\n")[:-1]:
            fields = [field.split("\037")[:-1] for field in line.split("\036")]
            words, _, variables, certificates = fields
            found.append(
                Call(
                    words=tuple(words),
                    directory=Path(line.split("\036")[1]),
                    variables=dict(v.split("=", 1) for v in variables),
                    certificates=certificates,
                )
            )
        return found

    def forget(self) -> None:
        """Forget how they were called so far."""
        self._calls.write_text("")

    def called(self, *words: str) -> list[tuple[str, ...]]:
        """The rest of each call that began so."""
        found = [call.words for call in self.calls]
        return [call[len(words) :] for call in found if call[: len(words)] == words]
