"""What a node does when something breaks under it: the agent, its device, its chain, its disk."""

import asyncio
import random
import signal
import sqlite3
import sys

import pytest

from agent.mesh import Mesh
from dstack_vpn.variables import NETWORKS
from lab.agent import Agent
from lab.chain import Chain
from lab.http import HttpError
from lab.lab import Lab
from lab.nft import AccessNFT
from lab.process import CommandError
from lab.tunnel import new_keys
from lab.waiting import until


async def wireguard_pid(agent: Agent) -> int:
    """The process id of wireguard-go in the node's host, as the host counts."""
    found = await agent.host.run("pgrep", "-x", "wireguard-go")
    return int(found.out.split()[0])


async def interfaces(agent: Agent) -> set[str]:
    """The names of the interfaces of the node's host."""
    lines = (await agent.host.run("ip", "-brief", "link")).out.splitlines()
    return {line.split()[0].partition("@")[0] for line in lines}


async def test_a_killed_agent_leaves_its_device_and_adopts_it_again(mesh: Mesh) -> None:
    """SIGKILL and a new start cost no packet, not even on the node's own tunnel."""
    one, two = await mesh.join(2)
    device = await wireguard_pid(one)
    stream = await mesh.lab.stream(two.host, one.host, "10.213.0.1")
    await stream.flows()

    await one.kill()
    await stream.flows()
    await one.start()
    await one.wait_ready()

    assert await wireguard_pid(one) == device
    assert (await stream.stop()).lost == 0
    await mesh.has_peers(one, two)


async def test_what_was_revoked_while_the_agent_was_dead_is_removed_at_its_start(
    mesh: Mesh,
) -> None:
    """The adopted device is brought to what the chain says now, not to what it said."""
    one, two, three = await mesh.join(3)
    await one.kill()
    await mesh.nft.revoke(2)
    assert two.keys.public in await one.wg_peers()

    await one.start()

    await mesh.has_peers(one, three)


async def test_killed_at_any_moment_it_comes_back_with_the_right_peers(mesh: Mesh) -> None:
    """Killed at random moments of its start and of its changes, the next start is right."""
    (one,) = await mesh.join(1)
    others = [await mesh.node() for _ in range(4)]
    chance = random.Random(7)
    minted: list[Agent] = []
    for round_number in range(10):
        if round_number % 5 < 3 and others:
            minted.append(others.pop())
            await mesh.mint(minted[-1])
        elif minted:
            victim = minted.pop(0)
            await mesh.nft.burn(await token_of(mesh, victim))
        # Any moment: the wait is the point here, its length is chance.
        await asyncio.sleep(chance.uniform(0, 0.9))
        await one.kill()
        await one.start()
    await one.wait_ready()
    await mesh.has_peers(one, *minted)


async def test_a_start_that_fails_leaves_the_device_of_an_earlier_run(mesh: Mesh) -> None:
    """An agent that is refused its health port ends with a sentence, and cuts nobody off."""
    one, two = await mesh.join(2)
    await one.kill()
    one.environment["HEALTH_CHECK_HOST"] = "192.0.2.1"
    await one.start()
    assert await one.wait() == 2
    assert "HEALTH_CHECK_HOST" in one.running.output
    assert list(await one.wg_peers()) == [two.keys.public]


async def token_of(mesh: Mesh, agent: Agent) -> int:
    """The token id of a node."""
    token: int = await mesh.nft.call("getTokenIdByNodeId(string)", agent.node_id, returns="uint256")
    return token


async def test_an_agent_that_fails_leaves_its_device(mesh: Mesh) -> None:
    """Only a wanted stop ends the device: after a failure the sessions go on without the agent."""
    one, two = await mesh.join(2)
    stream = await mesh.lab.stream(two.host, one.host, "10.213.0.1")
    await stream.flows()
    await one.kill()
    await mesh.chain.kill()
    await one.start()
    await mesh.says(one, "unverified", lambda h: h["reasons"][0]["code"] == "chain-unverified")

    await mesh.chain.restart()  # without its state: the chain began anew, which no agent accepts

    assert await one.wait() == 2
    assert "--reset-state" in one.running.output
    assert set(await one.wg_peers()) == {two.keys.public}
    assert (await stream.stop()).lost == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_wanted_stop_leaves_nothing_behind(mesh: Mesh, number: signal.Signals) -> None:
    """After SIGTERM or SIGINT there is no interface, no process, no socket and no wg0.conf."""
    one, _ = await mesh.join(2)
    assert "wg0" in await interfaces(one)
    conf = one.directory / "state/wg0.conf"
    assert conf.stat().st_mode & 0o777 == 0o600

    one.running.signal(number)
    code = await one.wait()

    assert code == 0
    assert "wg0" not in await interfaces(one)
    assert (await one.host.run("pgrep", "-x", "wireguard-go", check=False)).code == 1
    assert list((one.host.run_dir / "wireguard").glob("*")) == []
    assert not conf.exists()
    kept = sorted(p.name for p in (one.directory / "state").iterdir())
    assert kept == ["backups", "state.db"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_wanted_stop_may_end_by_its_signal(mesh: Mesh, number: signal.Signals) -> None:
    """With --exit-by-signal all is taken down as ever; then the process dies of that signal."""
    one = await mesh.node()
    await mesh.mint(one)
    await one.start("--exit-by-signal")
    await one.wait_ready()

    one.running.signal(number)

    assert await one.wait() == -number
    assert [line["device"] for line in one.log("bridge.stopped")] == ["down"]
    assert "wg0" not in await interfaces(one)


async def test_a_wanted_stop_may_keep_the_device(mesh: Mesh) -> None:
    """With --keep-device one agent follows the other, and no packet is lost in between."""
    one, two = await mesh.join(2)
    await one.kill()
    await one.start("--keep-device")
    await one.wait_ready()
    stream = await mesh.lab.stream(two.host, one.host, "10.213.0.1")
    await stream.flows()

    assert await one.stop() == 0
    assert [line["device"] for line in one.log("bridge.stopped")] == ["kept"]
    assert list(await one.wg_peers()) == [two.keys.public]
    await stream.flows()
    await one.start()
    await one.wait_ready()

    assert (await stream.stop()).lost == 0


async def test_process_1_cannot_die_of_its_own_signal(mesh: Mesh) -> None:
    """In a container without an init, the exit code is the one that a shell would show."""
    one = await mesh.node()
    program = (
        "import os, signal, sys; from dstack_vpn.__main__ import _end_by;"
        "assert os.getpid() == 1; sys.exit(_end_by(signal.SIGTERM))"
    )
    alone = ("unshare", "--pid", "--fork", sys.executable, "-c", program)
    assert (await one.host.run(*alone, check=False)).code == 128 + signal.SIGTERM


async def test_an_agent_that_fails_does_not_end_by_a_signal(mesh: Mesh) -> None:
    """--exit-by-signal is about wanted stops: a mistake still has its exit code."""
    one = await mesh.node(settings={"CONTRACT_ADDRESS": "0x" + "12" * 20})
    await one.start("--exit-by-signal")
    assert await one.wait() == 2


async def test_a_stop_while_the_device_is_being_made_leaves_nothing_behind(mesh: Mesh) -> None:
    """SIGTERM at any moment of the start ends cleanly."""
    one = await mesh.node()
    await mesh.mint(one)
    for pause in (0.0, 0.2, 0.5, 0.7, 0.9):
        await one.start()
        await asyncio.sleep(pause)
        code = await one.stop()
        assert code in {0, -signal.SIGTERM, 128 + signal.SIGTERM}, one.running.tail()
        assert "wg0" not in await interfaces(one)


async def test_a_dead_wireguard_process_is_replaced(mesh: Mesh) -> None:
    """When wireguard-go dies, the device is made anew with its peers."""
    one, two = await mesh.join(2)
    old = await wireguard_pid(one)
    await one.host.run("kill", "-9", str(old))

    async def replaced() -> bool:
        found = await one.host.run("pgrep", "-x", "wireguard-go", check=False)
        return found.code == 0 and int(found.out.split()[0]) != old

    await until(replaced, "a new wireguard-go")
    await mesh.has_peers(one, two)
    await one.host.reaches("10.213.0.2")


async def test_an_interface_deleted_by_hand_comes_back(mesh: Mesh) -> None:
    """`ip link del wg0` is repaired by the periodic compare."""
    one, two = await mesh.join(2)
    await one.host.run("ip", "link", "del", "wg0")

    async def is_back() -> bool:
        return "wg0" in await interfaces(one) and len(await one.wg_peers()) == 1

    await until(is_back, "the interface is back", retry_on=(OSError, CommandError))
    await mesh.has_peers(one, two)
    await one.host.reaches("10.213.0.2")


async def test_drift_is_put_right(mesh: Mesh) -> None:
    """A foreign peer, a stolen address and a missing address are repaired, and said."""
    one, two = await mesh.join(2)
    foreign = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE="
    await one.host.run("wg", "set", "wg0", "peer", foreign, "allowed-ips", "10.213.0.2/32")
    await one.host.run("ip", "addr", "del", "10.213.0.1/16", "dev", "wg0")

    def repaired() -> bool:
        told = " ".join(line["sentence"] for line in one.log("cycle.applied")[1:])
        return "removed AAAAAAAA" in told and "address 10.213.0.1/16 added" in told

    await until(repaired, "the repairs are told")
    await mesh.has_peers(one, two)
    await one.host.reaches("10.213.0.2")


async def test_members_are_held_while_the_chain_is_away(mesh: Mesh) -> None:
    """RPC down: tunnels go on, health is degraded, readiness stays, /health still answers."""
    one, two = await mesh.join(2, settings={"DARK_AFTER": "1"})
    stream = await mesh.lab.stream(one.host, two.host, "10.213.0.2")
    await stream.flows()

    await mesh.chain.pause()

    health = await mesh.says(one, "degraded", lambda h: h["status"] == "degraded")
    assert health["ready"] is True
    assert [reason["code"] for reason in health["reasons"]] == ["chain-dark"]
    strict = await one.get("/ready?fresh=1")
    assert strict.status == 503
    mesh.chain.resume()
    await mesh.says(one, "healthy", lambda h: h["status"] == "healthy")
    assert (await stream.stop()).lost == 0


async def test_a_start_without_a_chain_holds_the_saved_members(mesh: Mesh) -> None:
    """Killed and started while the RPC is down: held, but not ready, until a provider confirms."""
    one, two = await mesh.join(2)
    await one.kill()
    await mesh.chain.pause()
    await one.start()

    health = await mesh.says(
        one, "unverified", lambda h: any(r["code"] == "chain-unverified" for r in h["reasons"])
    )
    assert health["ready"] is False
    assert set(await one.wg_peers()) == {two.keys.public}

    mesh.chain.resume()
    await one.wait_ready()


async def test_without_a_saved_membership_and_without_a_chain_there_are_no_peers(
    mesh: Mesh,
) -> None:
    """Fail closed: an adopted device of which nobody knows the members is stripped."""
    one, two = await mesh.join(2, settings={"SYNC_INTERVAL": "200"})
    await one.kill()
    await mesh.chain.pause()
    (one.directory / "state/state.db").unlink()
    await one.start()

    await mesh.has_peers(one)

    mesh.chain.resume()
    await mesh.has_peers(one, two)


async def test_after_too_long_in_the_dark_all_peers_are_removed(mesh: Mesh) -> None:
    """DARK_CLOSE_AFTER: no head agreed on for so long closes the node; a head opens it again."""
    one, two = await mesh.join(2, settings={"DARK_AFTER": "1", "DARK_CLOSE_AFTER": "2"})
    await mesh.chain.pause()

    await mesh.has_peers(one)
    health = await mesh.says(one, "closed", lambda h: h["bridge"]["status"] == "closed")
    assert health["status"] == "unhealthy"
    assert "DARK_CLOSE_AFTER" in health["reasons"][0]["text"]

    mesh.chain.resume()
    await mesh.has_peers(one, two)
    await one.wait_ready()


async def test_a_full_disk_stops_nothing(mesh: Mesh) -> None:
    """With no space left, changes still reach the device, and the error is told."""
    one, two = await mesh.join(2)
    state = one.directory / "state"
    inside = "/run/dstack-vpn/state"
    # The database is open already; its directory is covered by a file system without room.
    await one.kill()
    await one.host.run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", inside)
    await one.host.run("sh", "-c", f"umask 077; head -c 65536 /dev/zero > {inside}/full || true")
    await one.start()
    code = await one.wait()
    assert code == 2
    assert "STATE_DIR" in one.running.output

    await one.host.run("sh", "-c", f"rm {inside}/full")
    await one.start()
    await one.wait_ready()
    await one.host.run("sh", "-c", f"head -c 65536 /dev/zero > {inside}/full || true")
    await mesh.nft.revoke(2)

    await mesh.has_peers(one)
    await mesh.says(one, "a disk error", lambda h: h["bridge"]["errors"] > 0)
    assert state.exists()
    assert two.node_id


async def test_the_journal_tells_what_happened(mesh: Mesh) -> None:
    """Every grant, removal and change of the device is in the audit journal, in order."""
    one, _ = await mesh.join(2)
    await mesh.nft.revoke(2)
    await mesh.has_peers(one)
    await one.stop()

    with sqlite3.connect(one.directory / "state/state.db") as db:
        rows = db.execute("SELECT kind, node_id, verdict FROM journal ORDER BY id").fetchall()

    assert ("granted", "n2", "ACCESS_GRANTED") in rows
    assert ("revoked", "n2", "REVOKED") in rows
    assert rows.index(("granted", "n2", "ACCESS_GRANTED")) < rows.index(
        ("revoked", "n2", "REVOKED")
    )
    assert any(kind == "applied" for kind, _, _ in rows)


async def test_an_agent_may_be_started_before_its_contract(lab: Lab, chain: Chain) -> None:
    """With CONTRACT_WAIT it says what is missing, and becomes ready when that is there."""
    host = await lab.host("n1")
    one = lab.agent(
        host,
        "n1",
        keys=await new_keys(),
        contract=NETWORKS["hardhat"].contract,
        rpc_url=chain.url,
        settings={"CONTRACT_WAIT": "600"},
    )
    await one.start()

    async def refusal() -> str:
        answer = await one.get("/ready")
        return str(answer.json()["reason"]) if answer.status == 503 else ""

    async def says_so() -> bool:
        return "there is no contract at" in await refusal()

    await until(says_so, "/ready names the contract", retry_on=(HttpError,))
    nft = await AccessNFT.deploy(chain)
    await nft.mint("n1", one.keys.public)
    await one.wait_ready()


async def test_an_agent_does_not_wait_for_a_contract_for_ever(mesh: Mesh) -> None:
    """When CONTRACT_WAIT is over it ends as it does without it; a dry run waits for nothing."""
    nobody = "0x00000000000000000000000000000000000dead1"
    one = await mesh.node(settings={"CONTRACT_ADDRESS": nobody, "CONTRACT_WAIT": "0.5"})
    await one.start()
    assert await one.wait() == 2
    assert one.log("chain.no_progress"), "it did not wait"
    told = [line for line in one.running.output.splitlines() if line.startswith("dstack-vpn: ")]
    assert [line[:45] for line in told] == ["dstack-vpn: there is no contract at 0x0000000"]
    assert "wg0" not in await interfaces(one)

    await one.start("--dry-run")
    assert await one.wait() == 2
    assert "waited" not in one.running.output


async def test_health_answers_before_the_first_membership(mesh: Mesh) -> None:
    """A node that has never reached its chain says so instead of not answering."""
    await mesh.chain.pause()
    one = await mesh.node()
    await one.start()

    async def asks() -> bool:
        return (await one.get("/health")).status == 503

    await until(asks, "an answer of /health", retry_on=(HttpError,))
    refusal = (await one.get("/ready")).json()
    assert refusal["ready"] is False
    assert "has not been read yet" in refusal["reason"]
    mesh.chain.resume()
