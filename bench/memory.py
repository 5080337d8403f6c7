"""Resident memory of the agent, wireguard-go apart."""

import sys

from bench.entry import Bench, Samples
from bench.network import BARE_PROGRAM, has_all


async def agent_rss(bench: Bench) -> Samples:
    """Resident memory of an agent at rest with 1,000 members; the budget is 60 MB.

    Read from the kernel (VmRSS) for a fresh process with saved state, after it is ready, has all
    members on its device and has applied the newest block. wireguard-go is a process of its own and
    does not count. The floor is the same Python with an asyncio loop that waits. The ratio is
    imports, and the membership as this agent keeps it.
    """
    return await _rss(bench, 1000)


async def agent_rss_100(bench: Bench) -> Samples:
    """The same with 100 members: what a small network pays.

    Measured as with 1,000 members, against the same floor. The difference of the two entries,
    divided by 900, is what a member costs.
    """
    return await _rss(bench, 100)


async def agent_rss_10000(bench: Bench) -> Samples:
    """The same with 10,000 members; the budget is 100 MB.

    Measured as with 1,000 members, against the same floor.
    """
    return await _rss(bench, 10_000, rounds=3)


async def _rss(bench: Bench, members: int, *, rounds: int = 5) -> Samples:
    network = await bench.network(members)
    samples = Samples()
    for _ in bench.rounds(rounds):
        await network.agent.stop()
        await network.agent.start()
        await network.agent.wait_ready(60)
        await has_all(network)
        await network.settled()
        samples.values.append(network.agent.rss() / 1e6)
        idle = await network.bare.start(sys.executable, BARE_PROGRAM, "idle", name="idle")
        await idle.line("waiting")
        samples.floors.append(idle.rss() / 1e6)
        await idle.kill()
        bench.told(samples)
    return samples
