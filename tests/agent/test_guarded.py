"""A dead agent: its device goes on without it, until DARK_CLOSE_AFTER is over."""

from agent.mesh import Mesh
from dstack_vpn.wireguard import lease as leases
from dstack_vpn.wireguard.lease import Lease
from lab.agent import Agent
from lab.waiting import until

SHORT = {"DARK_AFTER": "1", "DARK_CLOSE_AFTER": "3"}
LONG = {"DARK_CLOSE_AFTER": "3600"}


def lease(agent: Agent) -> Lease | None:
    """The lease on the peers of a node's device."""
    return leases.peek(str(agent.directory / "state" / f"{agent.interface}.lease"))


async def guards(agent: Agent) -> list[str]:
    """The pids of the guards in a node's host."""
    found = await agent.host.run("pgrep", "-f", "wireguard.guard import main", check=False)
    return found.out.split()


async def unguarded(agent: Agent) -> None:
    """Wait until a node has no guard."""

    async def look() -> bool:
        return not await guards(agent)

    await until(look, f"{agent.node_id} has no guard")


async def leased(agent: Agent) -> Lease:
    """Wait until a node has a lease."""

    async def look() -> Lease | None:
        return lease(agent)

    return await until(look, f"{agent.node_id} has a lease")


async def test_nobody_stays_in_beside_a_dead_agent(mesh: Mesh) -> None:
    """Killed for longer than the chain may be dark, its members are out; they return with it."""
    one, two = await mesh.join(2, settings=SHORT)
    await leased(one)
    await one.kill()
    await mesh.has_peers(one)
    # Who lives renews its own, and keeps the dead one's peer.
    await mesh.has_peers(two, one)
    await unguarded(one)

    await one.start()
    await one.wait_ready()
    await mesh.has_sessions(one, two)
    assert len(await guards(one)) == 1


async def test_a_successor_goes_on_with_lease_and_guard(mesh: Mesh) -> None:
    """A crash and a new start change neither; a wanted stop ends both."""
    one, two = await mesh.join(2, settings=LONG)
    before = await leased(one)
    (guard,) = await guards(one)
    await one.kill()
    await mesh.has_peers(one, two)
    await one.start()
    await one.wait_ready()
    await mesh.has_sessions(one, two)
    now = await leased(one)
    assert (now.target, now.guard) == (before.target, before.guard)
    assert await guards(one) == [guard]

    assert await one.stop() == 0
    assert await guards(one) == []
    assert lease(one) is None


async def test_a_device_that_is_kept_keeps_its_guard(mesh: Mesh) -> None:
    """Whoever stops the agent alone is in the same position as one whose agent died."""
    one, two = await mesh.join(2, settings=SHORT)
    await one.stop()
    await one.start("--keep-device")
    await one.wait_ready()
    await leased(one)
    assert await one.stop() == 0
    await mesh.has_peers(one)
    await mesh.has_peers(two, one)


async def test_a_rule_that_is_off_needs_no_guard(mesh: Mesh) -> None:
    """DARK_CLOSE_AFTER=hold: neither lease nor guard, and those of an earlier run are ended."""
    (one,) = await mesh.join(1, settings=LONG)
    await leased(one)
    await one.kill()
    assert len(await guards(one)) == 1
    one.environment["DARK_CLOSE_AFTER"] = "hold"
    await one.start()
    await one.wait_ready()
    await unguarded(one)
    assert lease(one) is None


async def test_a_guard_that_is_killed_is_told_and_replaced(mesh: Mesh) -> None:
    """In the log; the node stays ready all the time."""
    (one,) = await mesh.join(1, settings=LONG)
    await leased(one)
    (guard,) = await guards(one)
    await one.host.run("kill", "-9", guard)

    async def another() -> bool:
        found = await guards(one)
        return len(found) == 1 and found != [guard]

    await until(another, "another guard")
    assert "had died; another one was started" in str(one.log())
    assert (await one.get("/ready")).status == 200
