"""What a running agent costs and how it answers, while nothing or little happens."""

import asyncio
import statistics
import time

from bench.device import to_hex
from bench.entry import Bench, Samples, p99
from bench.network import BARE_PROGRAM, GUEST, POLL_INTERVAL, PYTHON, RANGE, Network, peer
from lab.agent import HTTP_PORT
from lab.host import Host
from lab.process import Process

MEMBERS = 1000
RATE = 100  #: questions a second
PACE = 1.0  #: seconds from one block to the next


async def health_p99(bench: Bench) -> Samples:
    """GET /health of an agent with 1,000 members, 100 times a second: what one in 100 exceeds.

    Questions are sent at fixed times, each on a connection of its own, whether or not the last one
    was answered; each is timed from when it was due to the end of its answer, so that a stall
    counts for all that were due in it. A sample is p99 of 1,000 questions, the value the median of
    such samples; the medians of single questions are among the parts. The floor is a bare
    asyncio server on another host that answers the same bytes to everybody; the agent is
    stopped meanwhile.
    """
    network = await bench.network(MEMBERS)
    count = 100 if bench.quick else 1000
    samples = Samples(parts={"median": [], "median of the floor": []})
    response = await _fetch(network.agent.host)
    assert response.startswith(b"HTTP/1.1 200 "), response[:200]
    (network.bare.run_dir / "health").write_bytes(response)
    for _ in bench.rounds(5):
        took = await _asked(network.agent.host, count)
        samples.values.append(p99(took))
        samples.parts["median"].append(statistics.median(took))
        await network.agent.running.pause()
        server = await network.bare.start(
            *PYTHON, BARE_PROGRAM, "answer", f"{network.bare.ip4}:{HTTP_PORT}", "/run/health",
            name="answer",
        )  # fmt: skip
        try:
            await server.line("answering")
            took = await _asked(network.bare, count)
        finally:
            await server.kill()
            network.agent.running.resume()
        samples.floors.append(p99(took))
        samples.parts["median of the floor"].append(statistics.median(took))
        bench.told(samples)
    return samples


async def _asked(host: Host, count: int) -> list[float]:
    """Ask so many times; milliseconds from when each question was due to its answer."""
    began = time.monotonic() + 0.1

    async def ask(number: int) -> float:
        due = began + number / RATE
        await asyncio.sleep(due - time.monotonic())
        assert b" 200 " in (await _fetch(host))[:20]
        return (time.monotonic() - due) * 1000

    return list(await asyncio.gather(*map(ask, range(count))))


async def _fetch(host: Host) -> bytes:
    """The whole response to GET /health."""
    reader, writer = await asyncio.open_connection(str(host.ip4), HTTP_PORT)
    try:
        writer.write(
            f"GET /health HTTP/1.1\r\nHost: {host.ip4}\r\nConnection: close\r\n\r\n".encode()
        )
        return await reader.read()
    finally:
        writer.close()


async def agent_cpu(bench: Bench) -> Samples:
    """Processor time of an agent with 1,000 members while blocks come and nothing changes.

    User and system time of the process, all threads, in percent of one processor, over stretches of
    20 s; wireguard-go is a process of its own and does not count. An empty block is made
    every second, and the agent asks over HTTP every 0.25 s. The floor is a bare client that
    asks as often for the contract's state, and does nothing else.
    """
    return await _cpu(bench, changes=False)


async def agent_cpu_busy(bench: Bench) -> Samples:
    """The same with a revocation or a grant in each of the blocks, one a second.

    Measured as without changes. The floor, the bare client, removes the peer from a device with as
    many others and adds it again, as the contract's state changes.
    """
    return await _cpu(bench, changes=True)


async def _cpu(bench: Bench, *, changes: bool) -> Samples:
    network = await bench.network(MEMBERS)
    samples = Samples()
    blocks = 4 if bench.quick else 20
    key = network.key_of(GUEST)
    remove, add = (
        b"public_key=" + to_hex(key) + b"\nremove=true",
        b"\n".join(peer(key, RANGE + GUEST)),
    )
    how = "poll", f"{POLL_INTERVAL:g}"
    async with network.over("http"):
        await network.settled()
        for _ in bench.rounds(3):
            samples.values.append(await _share(network, network.agent.running, blocks, changes))
            await network.settled()
            async with network.following(remove, add, how=how) as follower:
                samples.floors.append(await _share(network, follower, blocks, changes))
            bench.told(samples)
    return samples


async def _share(network: Network, process: Process, blocks: int, changes: bool) -> float:
    """Percent of a processor that a process takes while so many blocks are made."""
    began, before = time.monotonic(), _processor_time(process)
    for number in range(blocks):
        if not changes:
            await network.chain.mine()
        elif number % 2:
            await network.restore(GUEST)
        else:
            await network.revoke(GUEST)
        await asyncio.sleep(began + (number + 1) * PACE - time.monotonic())
    return (_processor_time(process) - before) / (time.monotonic() - began) * 100


def _processor_time(process: Process) -> float:
    """Seconds for which a process has run, with all its threads, to the nanosecond.

    The kernel's clock of the process (clock_getcpuclockid(3) says how it is named): /proc/PID/stat
    has the same in hundredths of a second, which is more than the floor takes.
    """
    return time.clock_gettime(~process.pid << 3 | 2)
