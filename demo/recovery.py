"""What restarts and a plain HTTP provider change: nothing that others would notice."""

import asyncio
import shutil

from bench.device import sees
from bench.ready import start_and_time

from demo.stage import POLL_INTERVAL, Stage
from lab.waiting import until

RESTARTS = 3
POLLS = 5


async def kill(stage: Stage) -> None:
    """SIGKILL: the device outlives the agent, so not even its own tunnel notices."""
    _, bob = stage.of("alice", "bob")
    with stage.screen.step("Bob's agent is killed while alice and bob talk"):
        for _ in range(RESTARTS):
            before = await bob.agent.wg_peers()
            await bob.agent.kill()
            stage.screen.doing("packets are to pass without an agent")
            await asyncio.gather(*(stream.flows() for stream in stage.streams))
            stage.screen.doing("bob's agent starts again")
            stage.figures.add("warm_ready_s", [await start_and_time(bob.agent)])
            after = await bob.agent.wg_peers()
            assert set(before) == set(after), "the peers are not those from before"
            for key, peer in before.items():
                assert after[key].received >= peer.received, "the session began anew"
        times = stage.figures.samples["warm_ready_s"]
        stage.screen.fact(
            f"SIGKILL {RESTARTS} times: packets pass without the agent, the next one adopts the "
            f"device as it is: ready in {' and '.join(f'{time:.2f}' for time in times)} s"
        )


async def stop(stage: Stage) -> None:
    """SIGTERM takes the device down; a start without any state reads everything anew."""
    alice, _, carol = stage.of("alice", "bob", "carol")
    with stage.screen.step("Carol's agent is stopped, forgets everything, and starts"):
        for _ in range(RESTARTS):
            stage.screen.doing("carol's agent is to end, and its device with it")
            code = await carol.agent.stop()
            assert code == 0, f"SIGTERM: exit code {code}\n{carol.agent.running.tail()}"
            links = (await carol.host.run("ip", "-o", "link")).out
            assert "wg0" not in links, f"the device is still there:\n{links}"
            shutil.rmtree(carol.agent.directory / "state")
            stage.screen.doing("carol's agent starts")
            stage.figures.add("cold_ready_s", [await start_and_time(carol.agent)])
        await stage.pings((carol, alice))
        times = stage.figures.samples["cold_ready_s"]
        stage.screen.fact(
            f"SIGTERM {RESTARTS} times: exit code 0, device gone; without any state ready in "
            f"{' and '.join(f'{time:.2f}' for time in times)} s"
        )


async def poll(stage: Stage) -> None:
    """The same grant seen over a WebSocket, and by polling."""
    alice, bob, carol = stage.of("alice", "bob", "carol")
    [dave] = stage.of("dave")
    with stage.screen.step("Carol goes on without a WebSocket: plain HTTP, polled"):
        stage.screen.doing("carol's agent starts anew")
        await carol.agent.stop()
        carol.agent.environment["RPC_URL"] = stage.chain.url
        await start_and_time(carol.agent)
        # Dave's token names a key, if not dave's: a peer that can come and go.
        [key] = {
            key
            for key, peer in (await alice.agent.wg_peers()).items()
            if f"{dave.address}/32" in peer.allowed_ips
        }
        for turn in range(POLLS):
            stage.screen.doing("a member comes and goes")
            gone = [(node, key) for node in (alice, bob, carol)]
            await stage.write_and_see(stage.nft.revoke(dave.token), gone, there=False)
            # She has just polled: spread what comes evenly over the time between two looks.
            await asyncio.sleep(POLL_INTERVAL * turn / POLLS)
            async with asyncio.TaskGroup() as group:
                polled = group.create_task(sees(carol.host.run_dir, key))
                restored, _ = await stage.write_and_see(
                    stage.nft.restore(dave.token), [(alice, key), (bob, key)]
                )
            time = (polled.result() - restored.seen) * 1000
            stage.figures.add("event_to_peer_polling_ms", [time])
        median = stage.figures.median("event_to_peer_polling_ms")
        stage.screen.fact(f"she hears of a grant too, if later: after {median:.0f} ms")
        await carol.agent.stop()
        carol.agent.environment["RPC_URL"] = stage.websocket
        await start_and_time(carol.agent)
        await stage.pings((carol, alice), (carol, bob))


async def count(stage: Stage) -> None:
    """What alice and bob noticed of all that: nothing."""
    with stage.screen.step("What alice and bob noticed of all that"):
        stage.screen.doing("the last packets are to arrive")
        reports = [await stream.stop() for stream in stage.streams]
        for report in reports:
            told = (
                f"{report.sent} packets in {report.ended - report.began:.0f} s: {report.lost} "
                f"lost, longest gap {report.arrivals.longest_gap * 1000:.0f} ms"
            )
            assert report.lost == 0, told
            stage.screen.fact(told)
        stage.figures.add("packets_sent_unaffected", [sum(report.sent for report in reports)])
        stage.figures.add("packets_lost_unaffected", [sum(report.lost for report in reports)])
        for node in stage.nodes.values():
            stage.figures.add("agent_rss_mb", [node.agent.rss() / 1e6])
        members = stage.of("alice", "bob", "carol")
        for node in members:
            await until(node.agent.is_ready, f"{node.name} is ready at the end")
