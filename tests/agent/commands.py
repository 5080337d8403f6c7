"""Commands that an operator types on a node, for the settings of the agent that runs there."""

import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from lab.agent import PASSED_ON, Agent
from lab.process import Finished

COMMAND = Path(sys.executable).with_name("dstack-vpn")


async def command(agent: Agent, *words: str, **settings: str) -> Finished:
    """Run ``dstack-vpn`` on the node, whatever its exit code."""
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    environment = passed_on | agent.environment | settings
    return await agent.host.run(*agent.prefix, COMMAND, *words, env=environment, check=False)


async def answer(agent: Agent, *words: str, **settings: str) -> tuple[int, Any]:
    """Run it with ``--json``; its exit code and what it printed, parsed."""
    ended = await command(agent, *words, "--json", **settings)
    assert ended.out.startswith("{"), ended.out
    return ended.code, msgspec.json.decode(ended.out)
