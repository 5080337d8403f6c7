"""From a block to the device: grants and revocations, in networks of 100 and of 10,000 members."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from bench.clock import BlockClock
from bench.device import Device, to_hex
from bench.entry import Bench, Samples
from bench.network import (
    AGENT,
    BARE,
    CALLER,
    GUEST,
    POLL_INTERVAL,
    RANGE,
    Network,
    caller_lines,
    peer,
)
from bench.watch import applied, confirm, done, printed
from lab.host import Host
from lab.process import Process

MEMBERS = 100
MANY = 10_000
PACE = 0.05, 0.15  #: seconds from one event to the next block; chains are slower, floods no aim
RATE = 1000  #: packets a second; the last packet is exact to 1 / RATE

See = Callable[[bool], Coroutine[Any, Any, float]]
"""Waits until the guest is a peer (true) or is none any more; the time (time.monotonic)."""


async def event_to_peer(bench: Bench) -> Samples:
    """A block with a grant or a revocation, to the peer on the device of an agent with 100 members.

    Grants and revocations of one member take turns. The clock starts when the chain's node tells of
    the block (the kernel's own stamp on that message), so that the making of blocks is no part of
    it, and stops when the peer is seen on the device, or is seen to be gone; the device is read
    through its UAPI socket every 2 ms. The agent hears of the block over a WebSocket.
    The floor takes the same way on the same chain and host with 100 lines of plain Python that
    know everything before: a bare client is told of the contract's log, asks the chain once for
    the contract's checkpoint at that block, and writes the one peer to a device with as many
    others; the agent is stopped meanwhile. The ratio says what is added by verifying headers and
    history, judging, planning and comparing.
    """
    network = await bench.network(MEMBERS)
    with _devices(network) as (ours, bare):
        return await _events(
            bench, network, _looking(network, ours), lambda _: _looking(network, bare)
        )


async def event_to_peer_10000(bench: Bench) -> Samples:
    """The same with 10,000 members: it must cost what changes, not what there is.

    Looking at such a device takes longer than what is measured. So the clock stops when the agent
    logs what it applied, which it does after the device has answered, and when the floor's client
    prints that its device has answered; each time the device is read afterwards, and must be as
    they said. The floor is the same as with 100 members, beside a device with as many peers.
    """
    network = await bench.network(MANY)
    key, process = network.key_of(GUEST), network.agent.running
    with _devices(network) as (ours, bare):

        async def agent_tells(there: bool) -> float:
            told = await printed(process, applied(f"node-{GUEST}", key, there=there))
            await confirm(ours, key, there=there)
            return told

        def telling(follower: Process) -> See:
            async def follower_tells(there: bool) -> float:
                told = await printed(follower, done)
                await confirm(bare, key, there=there)
                return told

            return follower_tells

        return await _events(bench, network, agent_tells, telling)


async def poll_event_to_peer(bench: Bench) -> Samples:
    """A block with a revocation, to the peer gone from the device of an agent that only polls.

    100 members, no WebSocket: the agent asks over HTTP every 0.25 s whether there is a new block,
    as where subscriptions are silent or refused. Blocks are made at any time between two questions.
    The budget is that 99 of 100 take no longer than one interval and 0.1 s. The floor is a bare
    client that asks as often for the contract's state, and removes the peer when it is another one.
    """
    network = await bench.network(MEMBERS)
    samples = Samples()
    how = "poll", f"{POLL_INTERVAL:g}"
    async with network.over("http"):
        with _devices(network) as (ours, bare), BlockClock.of(network.chain) as clock:
            for group in bench.groups(100):
                for _ in group:
                    samples.values.append(await _polled(network, clock, ours))
                async with network.following(*_guest(network), how=how):
                    for _ in group:
                        samples.floors.append(await _polled(network, clock, bare))
                bench.told(samples)
    return samples


async def _polled(network: Network, clock: BlockClock, device: Device) -> float:
    """One revocation of the guest at any time between two questions; then it is restored."""
    see = _looking(network, device)
    await asyncio.sleep(random.uniform(0, POLL_INTERVAL))
    took = await _event(network, clock, see, there=False)
    await network.restore(GUEST)
    await see(True)
    return took


async def _events(
    bench: Bench, network: Network, ours: See, floor: Callable[[Process], See]
) -> Samples:
    """Revocations and grants in turn, of us and of the floor."""
    samples = Samples()
    with BlockClock.of(network.chain) as clock:
        for group in bench.groups(100):
            for number in group:
                there = number % 2 == 1
                samples.values.append(await _event(network, clock, ours, there=there))
            async with network.following(*_guest(network)) as follower:
                for number in group:
                    there = number % 2 == 1
                    see = floor(follower)
                    samples.floors.append(await _event(network, clock, see, there=there))
            bench.told(samples)
    return samples


async def _event(network: Network, clock: BlockClock, see: See, *, there: bool) -> float:
    """One grant or revocation of the guest; milliseconds from the block to what is seen."""
    await asyncio.sleep(random.uniform(*PACE))
    async with asyncio.TaskGroup() as group:
        seen = group.create_task(see(there))
        made = await (network.restore if there else network.revoke)(GUEST)
    return (seen.result() - clock.told(made.number)) * 1000


def _looking(network: Network, device: Device) -> See:
    """Look at a device every 2 ms, which is fine with a hundred peers."""
    return lambda there: device.sees(network.key_of(GUEST), there=there)


def _guest(network: Network) -> tuple[bytes, bytes]:
    """The requests that remove the guest from a device, and add it."""
    key = network.key_of(GUEST)
    return b"public_key=" + to_hex(key) + b"\nremove=true", b"\n".join(peer(key, RANGE + GUEST))


@contextmanager
def _devices(network: Network) -> Iterator[tuple[Device, Device]]:
    """The device of the agent, and the bare one."""
    with Device.at(network.agent.host.run_dir) as ours, Device.at(network.bare.run_dir) as bare:
        yield ours, bare


async def revoke_to_last_packet(bench: Bench) -> Samples:
    """A block with a revocation, to the last packet that a member accepts from the revoked node.

    The revoked node has no agent and sends 1000 packets a second, whatever happens. The clock
    starts when the block is asked for (the transaction waits in the pool, so what the chain then
    does is to make one block), for packets tell nothing shorter; it stops when the last packet is
    read from a socket behind the tunnel of an agent with 100 members. Packets that are on their way
    count, and a receiver that gets no processor reads them late, never early. The floor is the same
    stream to the bare device, whose bare client sends `remove=true` when it is told of the log and
    has asked the chain once. The ratio says what the agent adds before it cuts a node off.
    """
    network = await bench.network(MEMBERS)
    samples = Samples()
    remove = b"public_key=" + to_hex(network.key_of(CALLER)) + b"\nremove=true"
    add = b"\n".join(caller_lines(network))
    for _ in bench.rounds(100):
        agents = network.agent.host, str(RANGE + AGENT)
        samples.values.append(await _revocation(network, *agents))
        async with network.following(remove, add):
            samples.floors.append(await _revocation(network, network.bare, str(BARE)))
        bench.told(samples)
    return samples


async def _revocation(network: Network, host: Host, address: str) -> float:
    stream = await network.lab.stream(network.caller, host, address, rate=RATE)
    await stream.flows()
    made = await network.revoke(CALLER)
    last = (await stream.quiet()).last
    assert stream.sender.running, "the sender ended by itself"
    await network.restore(CALLER)
    await stream.flows()
    await stream.close()
    return (last - made.asked) * 1000
