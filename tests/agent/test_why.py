"""``dstack-vpn why`` on running nodes: the cause first, for each way in which a peer is away."""

from agent.commands import answer, command
from agent.mesh import Mesh
from lab.process import run


async def test_a_peer_that_is_well(mesh: Mesh) -> None:
    """By its node id, token id, addresses and key: reachable, exit code 0."""
    one, two = await mesh.join(2)
    for name in ("n2", "2", "#2", "10.213.0.2", "fd59:11ea:eff5::2", two.keys.public):
        ended = await command(one, "why", name)
        assert ended.code == 0, ended.out
        assert ended.out.startswith("n2 is reachable\nok       the peer is a member: token 2")
    code, told = await answer(one, "why", "n2")
    assert (code, told["reachable"], told["tokenId"]) == (0, True, 2)
    sizes = [f["text"] for f in told["findings"] if f["subject"] == "path"]
    assert sizes == [f"packets of full size (1420 bytes) pass by IPv{v}" for v in (4, 6)]
    endpoint = next(f for f in told["findings"] if f["subject"] == "endpoint")
    assert endpoint["text"] == f"it is spoken to at {two.host.ip4}:51820, from ENDPOINTS"


async def test_causes(mesh: Mesh) -> None:
    """Unknown, unreachable and revoked peers, and an agent that does not run."""
    one, two = await mesh.join(2)
    nobody = await command(one, "why", "n9")
    assert nobody.code == 1
    assert nobody.out.startswith("n9 cannot be reached: the peer is NODE_NOT_FOUND")

    silent = await mesh.node()
    await mesh.mint(silent)
    await mesh.has_peers(one, two, silent)
    code, told = await answer(one, "why", "n3")
    assert code == 1
    last = told["findings"][-1]
    assert (last["subject"], last["grade"]) == ("handshake", "problem")
    assert "nobody says where it is" in told["conclusion"]

    await mesh.nft.revoke(2)
    await mesh.has_peers(one, silent)
    revoked = await command(one, "why", "n2")
    assert revoked.code == 1
    assert revoked.out.startswith("n2 cannot be reached: the peer is REVOKED")
    assert "-> the contract's owner can give it back: dstack-vpn node restore" in revoked.out
    own = await command(two, "why", "n1")
    assert own.code == 1
    assert own.out.startswith("n1 cannot be reached: this node is REVOKED")

    await one.kill()
    await one.host.run("wg", "set", "wg0", "peer", silent.keys.public, "remove")
    code, told = await answer(one, "why", "n3")
    assert code == 1
    subjects = [f["subject"] for f in told["findings"]]
    assert subjects[:3] == ["peer", "own", "agent"]
    assert told["findings"][2]["grade"] == "warning"


async def test_a_route_that_is_gone(mesh: Mesh) -> None:
    """The session is well, and nothing for the peer gets to it."""
    one, _ = await mesh.join(2)
    await one.kill()
    await one.host.run("ip", "route", "del", "10.213.0.0/16", "dev", "wg0")

    ended = await command(one, "why", "n2")
    assert ended.code == 1
    assert ended.out.startswith("n2 cannot be reached: there is no route to 10.213.0.0/16 by wg0")


async def test_a_path_that_swallows_large_packets(mesh: Mesh) -> None:
    """Nobody tells of frames that are too large; what fits is found, and advised."""
    one, two = await mesh.join(2)
    # The switch forwards nothing larger to that port: 60 bytes of it are WireGuard's.
    await run("ip", "link", "set", two.host.port, "mtu", "1400")

    code, told = await answer(one, "why", "n2")
    assert code == 1
    found = next(f for f in told["findings"] if f["subject"] == "path")
    size = int(found["advice"].removeprefix("set MTU=").removesuffix(" on both nodes"))
    # WireGuard pads to 16 bytes, as far as the MTU of its interface lets it.
    assert 1400 - 60 - 16 < size <= 1400 - 60
    assert f"only packets up to {size} of 1420 bytes pass" in told["conclusion"]

    for agent in (one, two):
        await agent.kill()
        agent.environment["MTU"] = str(size)
        await agent.start()
    for agent in (one, two):
        await agent.wait_ready()
    assert (await answer(one, "why", "n2"))[0] == 0


async def test_mistakes(mesh: Mesh) -> None:
    """What names no peer is said in one sentence with exit code 2."""
    (one,) = await mesh.join(1)
    for name, words in {
        "n1": "PEER is this node itself",
        "NO!": "PEER names no node; accepted: a node id",
        "192.0.2.1": "PEER 192.0.2.1 is no address of this mesh; accepted: 10.213.0.0/16",
    }.items():
        ended = await command(one, "why", name)
        assert ended.code == 2, ended.out
        assert ended.out.startswith(f"dstack-vpn: {words}")
        assert len(ended.out.splitlines()) == 1
