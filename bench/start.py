"""From the start of the process to readiness, in a network of 100 members."""

import shutil
import time

from bench.entry import Bench, Samples
from bench.latency import MEMBERS
from bench.network import AGENT, BARE_PROGRAM, PYTHON, RANGE, Network, config_path, has_all
from bench.ready import answers, start_and_time
from lab.agent import HTTP_PORT
from lab.waiting import until


async def cold_ready(bench: Bench) -> Samples:
    """The start of an agent without any state, to /ready answering 200, with 100 members.

    The clock starts before the process is made and stops when /ready, asked every 5 ms, answers
    200; by then the agent has read and verified the membership and put it on a device that it made.
    The floor is a script of the standard library that does the same outward acts and knows
    everything before: start Python, start wireguard-go, give it its address, its key and all peers
    in one request, ask the chain once, answer HTTP. The ratio is mostly imports: the agent loads
    HTTP server, JSON, logs and cryptography, and reads the membership instead of knowing it.
    """
    network = await bench.network(MEMBERS)
    samples = Samples()
    for _ in bench.rounds(9):
        await network.agent.stop()
        samples.floors.append(await _bare_start(network))
        await network.agent.host.run("ip", "link", "delete", "wg0")
        socket = network.agent.host.run_dir / "wireguard/wg0.sock"
        await until(lambda: not socket.exists(), "the bare device is gone")  # noqa: B023
        shutil.rmtree(network.agent.directory / "state")
        samples.values.append(await start_and_time(network.agent))
        await has_all(network)
        bench.told(samples)
    return samples


async def warm_ready(bench: Bench) -> Samples:
    """The start of an agent beside its running device and saved state, to /ready answering 200.

    The agent was killed (SIGKILL), as in a crash or an upgrade; its device goes on with all peers.
    The next agent checks the saved membership against the chain, compares it with the device, and
    is ready without a change. The floor is the script of the cold start, which finds the device
    there: start Python, read the device, ask the chain once, answer HTTP. The ratio is again mostly
    imports; the difference of the two entries is what a device and an empty disk cost.
    """
    network = await bench.network(MEMBERS)
    samples = Samples()
    for _ in bench.rounds(9):
        await network.settled()
        await network.agent.kill()
        samples.floors.append(await _bare_start(network))
        samples.values.append(await start_and_time(network.agent))
        await has_all(network)
        bench.told(samples)
    return samples


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
