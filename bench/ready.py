"""How long a node takes until it says that it passes traffic."""

import asyncio
import time

from lab.agent import Agent
from lab.http import HttpError, get
from lab.process import Process

#: Seconds between two questions, which take a share of what the node can do.
PAUSE = 0.005
PATIENCE = 60.0


async def start_and_time(agent: Agent) -> float:
    """Start an agent; seconds from before its process is made to its /ready answering 200."""
    began = time.monotonic()
    await agent.start()
    return await answers(f"{agent.url}/ready", agent.running) - began


async def answers(url: str, process: Process) -> float:
    """Wait until a process answers 200 at a URL; the time (time.monotonic)."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                if (await get(url)).status == 200:
                    return time.monotonic()
            except HttpError:
                assert process.running, f"{process.name} ended:\n{process.tail()}"
            await asyncio.sleep(PAUSE)
