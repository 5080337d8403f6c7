"""The mesh as a fixture."""

import pytest_asyncio

from agent.mesh import Mesh
from lab.chain import Chain
from lab.lab import Lab
from lab.nft import AccessNFT


@pytest_asyncio.fixture
async def mesh(lab: Lab, chain: Chain, nft: AccessNFT) -> Mesh:
    """An empty mesh on a chain that makes a block for each transaction."""
    return Mesh(lab, chain, nft)
