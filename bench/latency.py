"""From a block to the device: grants and revocations, in a network of 100 members."""

from bench.device import Device, to_hex
from bench.entry import Bench, Samples
from bench.network import (
    AGENT,
    BARE,
    CALLER,
    GUEST,
    RANGE,
    Network,
    caller_lines,
    peer,
)
from lab.host import Host

MEMBERS = 100
RATE = 1000  #: packets a second; the last packet is exact to 1 / RATE


async def event_to_peer(bench: Bench) -> Samples:
    """A block with a grant, to the peer on the device of an agent with 100 members.

    The clock starts when the block is asked for (the transaction waits in the pool, so what the
    chain then does is to make one block) and stops when the new peer is seen on the device, read
    through its UAPI socket every 2 ms. The agent hears of the block over a WebSocket.
    The floor takes the same way on the same chain and host with 100 lines of plain Python that
    know everything before: a bare client is told of the contract's log, asks the chain once for
    the contract's checkpoint at that block, and writes the one peer to a device with as many
    others; the agent is stopped meanwhile. The ratio says what is added by verifying headers and
    history, judging, planning, reading the device back and comparing it.
    """
    network = await bench.network(MEMBERS)
    samples = Samples()
    key = network.key_of(GUEST)
    remove = b"public_key=" + to_hex(key) + b"\nremove=true"
    add = b"\n".join(peer(key, RANGE + GUEST))
    for _ in bench.rounds(15):
        samples.values.append(await _grant(network, network.agent.host, key))
        async with network.following(remove, add):
            samples.floors.append(await _grant(network, network.bare, key))
        bench.told(samples)
    return samples


async def _grant(network: Network, host: Host, key: str) -> float:
    with Device.at(host.run_dir) as device:
        await network.revoke(GUEST)
        await device.sees(key, there=False)
        began = await network.restore(GUEST)
        return (await device.sees(key) - began) * 1000


async def revoke_to_last_packet(bench: Bench) -> Samples:
    """A block with a revocation, to the last packet that a member accepts from the revoked node.

    The revoked node has no agent and sends 1000 packets a second, whatever happens. The clock
    starts when the block is asked for, as above, and stops when the last packet is read from a
    socket behind the tunnel of an agent with 100 members. Packets that are on their way count, and
    a receiver that gets no processor reads them late, never early. The floor is the same stream to
    the bare device, whose bare client sends `remove=true` when it is told of the log and has asked
    the chain once. The ratio says what the agent adds before it cuts a node off.
    """
    network = await bench.network(MEMBERS)
    samples = Samples()
    remove = b"public_key=" + to_hex(network.key_of(CALLER)) + b"\nremove=true"
    add = b"\n".join(caller_lines(network))
    for _ in bench.rounds(15):
        agents = network.agent.host, str(RANGE + AGENT)
        samples.values.append(await _revocation(network, *agents))
        async with network.following(remove, add):
            samples.floors.append(await _revocation(network, network.bare, str(BARE)))
        bench.told(samples)
    return samples


async def _revocation(network: Network, host: Host, address: str) -> float:
    stream = await network.lab.stream(network.caller, host, address, rate=RATE)
    await stream.flows()
    began = await network.revoke(CALLER)
    last = (await stream.quiet()).last
    assert stream.sender.running, "the sender ended by itself"
    await network.restore(CALLER)
    await stream.flows()
    await stream.close()
    return (last - began) * 1000
