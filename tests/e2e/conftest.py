"""Fixtures of the end-to-end tests: one engine for all, one deployed network for a module."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.engine import Engine, certificates, open_engine, say
from e2e.mesh import V2, Mesh


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """The engine."""
    with open_engine() as opened:
        yield opened


@pytest.fixture(scope="session")
def build_ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates that builds have to trust on this machine."""
    return certificates(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def images(
    engine: Engine, build_ca: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """The images by variable, built once; the networks of the tests find their layers built."""
    directory = tmp_path_factory.mktemp("image")
    mesh = Mesh.check_out(engine, directory, flavour=V2, build_ca=build_ca)
    say("building the images")
    mesh.deploy("build", "--profile", "local-chain")
    yield {name: tag for name, tag in mesh.settings.items() if name.endswith("_IMAGE")}
    mesh.remove()


@pytest.fixture(scope="session")
def image(images: dict[str, str]) -> str:
    """The image of the nodes."""
    return images["DSTACK_VPN_IMAGE"]


@pytest.fixture(scope="module")
def mesh(
    engine: Engine, image: str, build_ca: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mesh]:
    """A network with a chain of its own, deployed by the script from a clean checkout."""
    made = Mesh.check_out(engine, tmp_path_factory.mktemp("mesh"), flavour=V2, build_ca=build_ca)
    say(f"{made.project}: deploying from a clean checkout")
    try:
        made.deployed = made.script("deploy")
        yield made
    finally:
        made.remove()
