"""The Compose files of the repository, read as YAML and as text."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE_FILES = (
    "docker-compose.yml",
    "docker/node/docker-compose.yml",
    "docker/dstack/docker-compose.yml",
)


@cache
def compose_file(path: str) -> dict[str, Any]:
    """What a Compose file says, with its anchors resolved."""
    parsed: dict[str, Any] = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))
    return parsed


def services(path: str) -> dict[str, dict[str, Any]]:
    """The services of a Compose file."""
    found: dict[str, dict[str, Any]] = compose_file(path)["services"]
    return found


def interpolated(path: str) -> list[tuple[str, str]]:
    """Each variable that a Compose file reads, with its default; empty where it has none."""
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    return re.findall(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}", text)
