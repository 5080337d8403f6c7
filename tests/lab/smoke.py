"""A small experiment with everything in it; the first thing to run where the lab does not work.

PYTHONPATH=tests scripts/lab python -m lab.smoke
"""

import asyncio

from lab.lab import Lab
from lab.nft import AccessNFT


async def main() -> None:
    """Print how many packets a tunnel between two hosts lost, while a chain made blocks."""
    async with Lab.open() as lab:
        a, b = await lab.host("a"), await lab.host("b")
        nft = await AccessNFT.deploy(await lab.chain())
        tunnel = await lab.tunnel(a, b)
        stream = await lab.stream(a, b, tunnel.b.address)
        await nft.mint("smoke")
        await stream.flows(100)
        print((await stream.stop()).lost, "lost")


if __name__ == "__main__":
    asyncio.run(main())
