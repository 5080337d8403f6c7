"""How long a node takes until it says that it passes traffic."""

import asyncio
import time

from lab.agent import Agent
from lab.http import HttpError

#: Seconds between two questions.
PAUSE = 0.005
PATIENCE = 30.0


async def start_and_time(agent: Agent) -> float:
    """Start an agent; seconds from before its process is made to its /ready answering 200."""
    began = time.monotonic()
    await agent.start()
    async with asyncio.timeout(PATIENCE):
        while True:
            if await _is_ready(agent):
                return time.monotonic() - began
            await asyncio.sleep(PAUSE)


async def _is_ready(agent: Agent) -> bool:
    assert agent.running.running, f"{agent.node_id} ended:\n{agent.running.tail()}"
    try:
        return await agent.is_ready()
    except HttpError:
        return False
