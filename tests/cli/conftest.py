"""One chain for all tests of the command line; each test that changes something deploys its own."""

from collections.abc import Iterator

import pytest

from cli.devnet import Devnet, devnet


@pytest.fixture(scope="session")
def net() -> Iterator[Devnet]:
    with devnet() as running:
        yield running


@pytest.fixture
def contract(net: Devnet) -> str:
    return net.deploy()
