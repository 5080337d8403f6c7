"""Back to the settings of an earlier state, on running nodes: the interface alone goes back."""

import os
import sys
from pathlib import Path

from agent.mesh import Mesh
from dstack_vpn.wireguard.backups import Backups
from dstack_vpn.wireguard.conftext import read_conf
from lab.agent import INSIDE, PASSED_ON, Agent
from lab.process import CommandError, Finished
from lab.waiting import until

COMMAND = Path(sys.executable).with_name("dstack-vpn")


async def config(agent: Agent, *words: str) -> Finished:
    """Run ``dstack-vpn config`` where the node runs, for its state directory."""
    environ = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    environ["STATE_DIR"] = str(INSIDE / "state")
    return await agent.host.run(COMMAND, "config", *words, env=environ, check=False)


async def link(agent: Agent) -> tuple[int, int]:
    """Listen port and MTU, by the device itself."""
    port = await agent.host.run("wg", "show", agent.interface, "listen-port")
    mtu = await agent.host.run("cat", f"/sys/class/net/{agent.interface}/mtu")
    return int(port.out), int(mtu.out)


async def has_link(agent: Agent, listen_port: int, mtu: int) -> None:
    """Wait until the device has these."""

    async def look() -> bool:
        return await link(agent) == (listen_port, mtu)

    what = f"{agent.node_id} has port {listen_port} and MTU {mtu}"
    await until(look, what, retry_on=(CommandError,))


async def file_has(agent: Agent, *others: Agent) -> None:
    """Wait until the configuration file has exactly these peers."""
    wanted = {other.keys.public for other in others}
    conf = agent.directory / "state/wg0.conf"
    await until(
        lambda: read_conf(conf.read_text()).peers.keys() == wanted,
        f"the file of {agent.node_id} has {len(wanted)} peers",
        retry_on=(FileNotFoundError,),
    )


async def restart(agent: Agent, **settings: str) -> None:
    """Start it with other settings, on the device that it had."""
    await agent.kill()
    agent.environment |= settings
    await agent.start()
    await agent.wait_ready()


async def test_who_was_revoked_stays_out(mesh: Mesh) -> None:
    """State k had a peer who was revoked later: back at k's port and MTU, he is not back.

    The sessions of the others go on, and a running agent takes it without a restart.
    """
    one, two, three = await mesh.join(3)
    await file_has(one, two, three)
    await restart(one, LISTEN_PORT="51999", MTU="1300")
    await has_link(one, 51999, 1300)
    await mesh.nft.revoke(3)
    await file_has(one, two)
    process = one.running

    states = Backups(one.directory / "state/backups").states()
    texts = {state.number: state.path.read_text() for state in states}
    number = max(n for n, text in texts.items() if "ListenPort = 51820\n" in text)
    assert three.keys.public in texts[number], "otherwise there is nobody to bring back"
    told = await config(one, "rollback", str(number))

    assert told.code == 0, told.out
    assert told.out.rstrip().endswith("; in force")
    assert await link(one) == (51820, 1420)
    assert set(await one.wg_peers()) == {two.keys.public}
    assert one.running is process
    await mesh.has_sessions(one, two)
    stream = await mesh.lab.stream(two.host, one.host, "10.213.0.1")
    await stream.flows()
    await restart(one)
    assert await link(one) == (51820, 1420)
    assert set(await one.wg_peers()) == {two.keys.public}


async def test_it_lasts_until_the_setting_is_set_anew_or_it_is_undone(mesh: Mesh) -> None:
    """A restart ends it only with another value of what it replaced."""
    (one,) = await mesh.join(1)
    await restart(one, LISTEN_PORT="51999")
    await has_link(one, 51999, 1420)
    assert (await config(one, "rollback")).code == 0
    await has_link(one, 51820, 1420)

    undone = await config(one, "rollback", "--undo")
    assert undone.code == 0, undone.out
    assert await link(one) == (51999, 1420)

    assert (await config(one, "rollback")).code == 0
    await restart(one, LISTEN_PORT="52000")
    await has_link(one, 52000, 1420)
    assert not (one.directory / "state/rollback.json").exists()
    assert one.log("rollback.ended")


async def test_peers_learn_of_another_port_at_once(mesh: Mesh) -> None:
    """After a restart with another one, and after a rollback; no keepalive is due for an hour."""
    one, two = await mesh.join(2, settings={"KEEPALIVE": "3600"})

    async def sends_to(port: int) -> None:
        async def knows() -> bool:
            peer = (await two.wg_peers())[one.keys.public]
            return peer.endpoint == f"{one.host.ip4}:{port}"

        await until(knows, f"the other sends to port {port}")

    await sends_to(51820)
    await restart(one, LISTEN_PORT="51999")
    await sends_to(51999)
    assert (await config(one, "rollback")).code == 0
    await sends_to(51820)
    (peer,) = (await one.wg_peers()).values()
    assert peer.keepalive == 3600
    assert not one.log("device.repaired")
    assert "keepalive" not in one.log("cycle.applied")[-1]["sentence"]


async def test_a_wish_that_the_device_refuses(mesh: Mesh) -> None:
    """Somebody else has the port by now: the node goes on with what worked, and says so."""
    one, two = await mesh.join(2)
    await restart(one, LISTEN_PORT="51999")
    await has_link(one, 51999, 1420)
    held = "import socket, time; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)"
    held += "; s.bind(('::', 51820)); print('held', flush=True); time.sleep(600)"
    other = await one.host.start(sys.executable, "-c", held, name="other")
    await other.line("held")

    stream = await mesh.lab.stream(two.host, one.host, "10.213.0.1", rate=250)
    await stream.flows()

    refused = await config(one, "rollback", "--timeout", "3")

    assert refused.code == 1
    assert "has not taken it within 3 s" in refused.out
    assert await link(one) == (51999, 1420)
    await mesh.has_sessions(one, two)
    assert (await stream.stop()).lost == 0, "its socket was never given up"
    await mesh.nft.revoke(2)
    await mesh.has_peers(one)
    await other.kill()
    await has_link(one, 51820, 1420)


async def test_garbage_in_its_place(mesh: Mesh) -> None:
    """The node warns, and goes by its settings."""
    (one,) = await mesh.join(1)
    (one.directory / "state/rollback.json").write_text('{"listen_port": 1')
    await until(lambda: one.log("rollback.unreadable"), "it warns")
    assert await link(one) == (51820, 1420)
    await restart(one)
    assert await link(one) == (51820, 1420)
