"""Who gets out, and comes back: revocation and transfer."""

import asyncio
import shutil

from demo.stage import Node, Stage
from lab.traffic import Stream
from lab.tunnel import new_keys

ROUNDS = 3
RATE = 1000  #: packets a second from the revoked node: what is measured is exact to 1 / RATE
BUYER = 1  #: anvil's dev account that buys a token


async def revoke(stage: Stage) -> None:
    """Revoke a node that does not cooperate, and restore it, some times over."""
    alice, bob, carol = stage.of("alice", "bob", "carol")
    with stage.screen.step("Carol is revoked, and does not cooperate"):
        stage.screen.fact(
            f"carol sends alice and bob {RATE} packets a second; her agent is stopped (SIGSTOP) at "
            "each revocation, so that only the others can end it"
        )
        streams = [
            await stage.lab.stream(carol.host, to.host, to.address, rate=RATE)
            for to in (alice, bob)
        ]
        for _ in range(ROUNDS):
            stage.screen.doing("packets are to flow")
            await asyncio.gather(*(stream.flows() for stream in streams))
            await _cut_off(stage, carol, streams)
            await _let_in_again(stage, carol, [alice, bob])
            stage.screen.doing("carol's packets are to arrive again")
            await asyncio.gather(*(stream.flows() for stream in streams))
        stage.screen.fact("restored each time, and her packets arrive again")
        for stream in streams:
            await stream.close()


async def _cut_off(stage: Stage, node: Node, streams: list[Stream]) -> None:
    """Revoke once: the streams stop at their receivers while the sender goes on."""
    await node.agent.running.pause()
    mined = await stage.nft.revoke(node.token)
    stage.screen.doing("the streams are to end")
    ends = await asyncio.gather(*(stream.quiet() for stream in streams))
    assert all(stream.sender.running for stream in streams), "the sender ended by itself"
    peers = await node.agent.wg_peers()
    assert peers, f"{node.name}'s own device was changed: nobody else was tested"
    since_sent = [(end.last - mined.sent) * 1000 for end in ends]
    since_receipt = [(end.last - mined.seen) * 1000 for end in ends]
    stage.figures.add("revoke_sent_to_last_packet_ms", since_sent)
    stage.figures.add("revoke_to_last_packet_ms", since_receipt)
    node.agent.running.resume()
    await stage.verdict(node, "REVOKED")
    times = " and ".join(f"{time:.0f}" for time in since_sent)
    stage.screen.fact(f"{times} ms after the transaction was sent the last packet was accepted")


async def _let_in_again(stage: Stage, node: Node, others: list[Node]) -> None:
    watch = [(other, node.keys.public) for other in others]
    watch += [(node, other.keys.public) for other in others]
    await stage.write_and_see(stage.nft.restore(node.token), watch)
    await node.agent.wait_ready()


async def transfer(stage: Stage) -> None:
    """Sell a token: out until the buyer has set a key of his own, then in again."""
    alice, bob, carol = stage.of("alice", "bob", "carol")
    with stage.screen.step("Carol's token is sold"):
        await stage.nft.transfer(carol.token, to=BUYER)
        await stage.verdict(carol, "SUSPENDED_BY_TRANSFER")
        await stage.gone(carol, alice, bob)
        await stage.silence((alice, carol), (carol, alice), (carol, bob))
        stage.screen.fact("transferred: /ready says SUSPENDED_BY_TRANSFER, and nobody has the peer")
        await carol.agent.stop()
        shutil.rmtree(carol.agent.directory)
        carol.agent = stage.new_agent(carol.host, carol.name, await new_keys())
        await carol.agent.start()
        await stage.verdict(carol, "SUSPENDED_BY_TRANSFER")
        stage.screen.fact("the buyer runs the node with a key of his own: not yet in the contract")
        watch = [(other, carol.keys.public) for other in (alice, bob)]
        watch += [(carol, other.keys.public) for other in (alice, bob)]
        set_key = stage.nft.set_key(carol.token, carol.keys.public, account=BUYER)
        _, times = await stage.write_and_see(set_key, watch)
        await carol.agent.wait_ready()
        await stage.pings((carol, alice), (carol, bob), (alice, carol), (bob, carol))
        stage.screen.fact(
            f"he sets it: {max(times):.0f} ms after the receipt it is on every device, and pings "
            "come back"
        )
