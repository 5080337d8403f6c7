"""Who gets in: the first half of the story."""

import asyncio
from itertools import permutations

from demo.screen import Screen
from demo.stage import PORT, Stage
from lab.lab import Lab
from lab.tunnel import new_keys
from lab.waiting import until

RATE = 500  #: packets a second in each direction between the two members nobody touches


async def chain(lab: Lab, screen: Screen) -> Stage:
    """A chain, and the contract on it."""
    with screen.step("A chain, and the contract that holds the member list"):
        screen.doing("anvil starts")
        stage = await Stage.set_up(lab, screen)
        _, _, members = await stage.nft.checkpoint()
        assert members == 0, f"a new contract has {members} members"
        screen.fact(f"anvil answers at {stage.chain.url}")
        screen.fact(f"the contract is {stage.nft.address} and has no member yet")
    return stage


async def start(stage: Stage) -> None:
    """Four agents, none of which is a member."""
    with stage.screen.step("Four nodes start, each in a network of its own"):
        stage.screen.doing("agents start")
        await stage.add_nodes()
        for node in stage.nodes.values():
            await stage.verdict(node, "NODE_NOT_FOUND")
            assert not await node.agent.wg_peers(), f"{node.name} has a peer before it is a member"
        names = ", ".join(stage.nodes)
        stage.screen.fact(f"{names}: an agent runs on each and reads the chain for itself")
        stage.screen.fact("none has a token, so each /ready says NODE_NOT_FOUND and has no peer")


async def admit(stage: Stage) -> None:
    """A token each for three, and pings between all of them."""
    members = stage.of("alice", "bob", "carol")
    with stage.screen.step("Three are admitted: one token each, and nothing else is configured"):
        for node in members:
            stage.screen.doing(f"a token is minted for {node.name}")
            others = [other for other in members if other.token]
            watch = [(other, node.keys.public) for other in others]
            watch += [(node, other.keys.public) for other in others]
            mint = stage.nft.mint(node.name, node.keys.public)
            mined, times = await stage.write_and_see(mint, watch)
            node.token = mined.token_id
            await node.agent.wait_ready()
            text = f"{node.name} holds token {node.token} and is {node.address}"
            if times:
                text += f"; {max(times):.0f} ms after the receipt it is on every device"
            stage.screen.fact(text)
        pairs = list(permutations(members, 2))
        trips = await stage.pings(*pairs)
        for (a, b), trip in zip(pairs, trips, strict=True):
            stage.screen.fact(f"{a.name} pings {b.name} through the tunnel: {trip:.1f} ms")
        stage.figures.add("members", [len(members)])
    with stage.screen.step("Alice and bob begin to talk, and go on until the end"):
        alice, bob = members[:2]
        for a, b in ((alice, bob), (bob, alice)):
            stage.streams.append(await stage.lab.stream(a.host, b.host, b.address, rate=RATE))
        await asyncio.gather(*(stream.flows() for stream in stage.streams))
        stage.screen.fact(f"{RATE} numbered packets a second flow each way")


async def impostor(stage: Stage) -> None:
    """A node that has not the key of its token: kept out by itself and by the members."""
    members = stage.of("alice", "bob", "carol")
    [dave] = stage.of("dave")
    with stage.screen.step("A fourth node runs under a name that is not its own"):
        true_key = (await new_keys()).public
        watch = [(member, true_key) for member in members]
        mined, _ = await stage.write_and_see(stage.nft.mint("dave", true_key), watch)
        dave.token = mined.token_id
        stage.screen.fact(f"token {dave.token} is dave's, but names a key that this node has not")
        reason = await stage.verdict(dave, "PUBLIC_KEY_MISMATCH")
        assert not await dave.agent.wg_peers(), "dave has a peer"
        stage.screen.fact(f"its own /ready: 503, {reason}")
        # An attacker would not run our agent: stop it, and configure the device by hand.
        await dave.agent.running.pause()
        await dave.host.run("ip", "addr", "replace", f"{dave.address}/16", "dev", "wg0")
        await dave.host.run("ip", "link", "set", "wg0", "up")
        for member in members:
            await dave.host.run(
                "wg", "set", "wg0", "peer", member.keys.public, "persistent-keepalive", "1",
                "allowed-ips", f"{member.address}/32", "endpoint", f"{member.host.ip4}:{PORT}",
            )  # fmt: skip
        await stage.silence(*((dave, member) for member in members))
        tried = (await dave.agent.wg_peers()).values()
        assert all(peer.sent > 0 for peer in tried), "dave's device sent nothing"
        assert not any(peer.latest_handshake for peer in tried), "a member shook hands with dave"
        for member in members:
            assert dave.keys.public not in await member.agent.wg_peers(), f"{member.name} has dave"
        stage.screen.fact(
            "with its agent stopped and its device configured by hand it calls all three; none "
            "of them shakes hands, no ping is answered"
        )
        for key in [member.keys.public for member in members]:
            await dave.host.run("wg", "set", "wg0", "peer", key, "remove")
        dave.agent.running.resume()
        await until(dave.agent.health, "dave's agent answers again")
