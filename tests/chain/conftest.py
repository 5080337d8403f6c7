"""Fixtures: a chain on the loopback interface with our contract on it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from chain.local import local_chain
from lab.nft import AccessNFT


@pytest_asyncio.fixture
async def contract(tmp_path: Path) -> AsyncIterator[AccessNFT]:
    """Our contract on a chain that makes a block for each transaction."""
    async with local_chain(tmp_path) as chain:
        yield await AccessNFT.deploy(chain)
