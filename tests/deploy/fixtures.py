"""Programs in the place of Docker's, and a directory that looks like a checkout; a plugin."""

from pathlib import Path

import pytest

from deploy.fake_docker import FakeDocker
from dstack_vpn.deploy.envfile import COMPOSE_VARIABLES
from dstack_vpn.variables import VARIABLES


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDocker:
    """Docker with the plugin for Compose; nothing else is on PATH, and no setting is made."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    for name in [*(v.name for v in COMPOSE_VARIABLES), *(v.name for v in VARIABLES)]:
        monkeypatch.delenv(name, raising=False)
    return FakeDocker(directory)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory with what `dstack-vpn deploy` asks for."""
    directory = tmp_path / "checkout"
    (directory / "docker/ca").mkdir(parents=True)
    for image in ("wireguard", "nginx", "chain"):
        (directory / "docker" / image).mkdir()
        (directory / "docker" / image / "Dockerfile").touch()
    (directory / "docker-compose.yml").touch()
    return directory
