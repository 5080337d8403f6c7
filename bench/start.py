"""From the start of the process to readiness, in networks of 100 and of 10,000 members."""

import itertools
import shutil
import time
from datetime import datetime

from bench.entry import Bench, Samples
from bench.latency import MANY, MEMBERS
from bench.network import AGENT, BARE_PROGRAM, PYTHON, RANGE, Network, config_path, has_all
from bench.ready import answers, start_and_time
from lab.agent import HTTP_PORT
from lab.waiting import until

PARTS = {"interpreter": "bridge.started", "chain": "chain.snapshot", "device": "cycle.applied"}
"""What a start consists of, and the line of the log that ends each part."""


async def cold_ready(bench: Bench) -> Samples:
    """The start of an agent without any state, to /ready answering 200, with 100 members.

    The clock starts before the process is made and stops when /ready, asked every 5 ms, answers
    200; by then the agent has read and verified the membership and put it on a device that it made.
    The floor is a script of the standard library that does the same outward acts and knows
    everything before: start Python, start wireguard-go, give it its address, its key and all peers
    in one request, ask the chain once, answer HTTP. The ratio is mostly imports: the agent loads
    HTTP server, JSON, logs and cryptography, and reads the membership instead of knowing it. The
    parts end with lines of the agent's log: the interpreter with the first one (imports and
    settings), the chain with the verified membership, the device with the plan being applied.
    """
    return await _cold(bench, MEMBERS, rounds=9)


async def cold_ready_10000(bench: Bench) -> Samples:
    """The same with 10,000 members; the budget is 5 s.

    Measured as with 100 members, against the same floor, which writes as many peers. Where the
    agent tells how long it waited for its providers, that is `rpc` and the rest of `chain` is
    `verification`.
    """
    return await _cold(bench, MANY, rounds=3)


async def warm_ready(bench: Bench) -> Samples:
    """The start of an agent beside its running device and saved state, to /ready answering 200.

    The agent was killed (SIGKILL), as in a crash or an upgrade; its device goes on with all peers.
    The next agent checks the saved membership against the chain, compares it with the device, and
    is ready without a change. The floor is the script of the cold start, which finds the device
    there: start Python, read the device, ask the chain once, answer HTTP. The ratio is again mostly
    imports; the difference of the two entries is what a device and an empty disk cost.
    """
    return await _warm(bench, MEMBERS, rounds=9)


async def warm_ready_10000(bench: Bench) -> Samples:
    """The same with 10,000 members: reading the state, and a device as large.

    Measured as with 100 members, against the same floor.
    """
    return await _warm(bench, MANY, rounds=3)


async def _cold(bench: Bench, members: int, *, rounds: int) -> Samples:
    network = await bench.network(members)
    samples = Samples()
    for _ in bench.rounds(rounds):
        await network.agent.stop()
        samples.floors.append(await _bare_start(network))
        await network.agent.host.run("ip", "link", "delete", "wg0")
        socket = network.agent.host.run_dir / "wireguard/wg0.sock"
        await until(lambda: not socket.exists(), "the bare device is gone")  # noqa: B023
        shutil.rmtree(network.agent.directory / "state")
        asked = time.time()
        samples.values.append(await start_and_time(network.agent))
        await has_all(network)
        _note_parts(network, samples, asked)
        bench.told(samples)
    return samples


async def _warm(bench: Bench, members: int, *, rounds: int) -> Samples:
    network = await bench.network(members)
    samples = Samples()
    for _ in bench.rounds(rounds):
        await network.settled()
        await network.agent.kill()
        samples.floors.append(await _bare_start(network))
        samples.values.append(await start_and_time(network.agent))
        await has_all(network)
        bench.told(samples)
    return samples


def _note_parts(network: Network, samples: Samples, asked: float) -> None:
    """Note what the start was made of, from the agent's own stamps; what it does not log is left.

    Args:
        network: whose agent was started.
        samples: where to note it.
        asked: when the start was ordered, seconds since 1970.
    """
    lines = {line["event"]: line for line in reversed(network.agent.log())}
    told = {part: lines[event] for part, event in PARTS.items() if event in lines}
    ends = [datetime.fromisoformat(line["timestamp"]).timestamp() for line in told.values()]
    steps = itertools.pairwise((asked, *ends))
    parts = {part: after - before for part, (before, after) in zip(told, steps, strict=True)}
    waited = told.get("chain", {}).get("waited_ms")
    if waited is not None:
        parts = {
            "interpreter": parts["interpreter"],
            "rpc": waited / 1000,
            "verification": parts["chain"] - waited / 1000,
            "device": parts["device"],
        }
    for part, took in parts.items():
        samples.parts.setdefault(part, []).append(took)


async def _bare_start(network: Network) -> float:
    """Start the script in the agent's place; seconds until it answers."""
    host = network.agent.host
    http = f"{host.ip4}:{HTTP_PORT}"
    config = config_path(network, network.agent.keys)
    began = time.monotonic()
    process = await host.start(
        *PYTHON, BARE_PROGRAM, "boot", "wg0", f"{RANGE + AGENT}/16",
        network.chain.url.removeprefix("http://"), http, config, name="boot",
    )  # fmt: skip
    took = await answers(f"http://{http}/ready", process) - began
    await process.kill()
    return took
