"""What tokens do to devices: real chain, real agents, real tunnels."""

from typing import Any

import pytest

from agent.mesh import Mesh
from lab.tunnel import new_keys
from lab.waiting import until


async def test_minted_nodes_reach_each_other_by_both_protocols(mesh: Mesh) -> None:
    """A token admits a node: IPv4 and IPv6 pass between any two members."""
    one, two, three = await mesh.join(3)

    for host, target in ((one.host, 2), (two.host, 3), (three.host, 1)):
        await host.reaches(f"10.213.0.{target}")
        addresses = (await one.get("/wireguard")).json()["addresses"]
        prefix = addresses[1].split("::")[0]
        await host.reaches(f"{prefix}::{target}")


async def test_a_node_waits_for_its_token_and_joins_when_it_is_minted(mesh: Mesh) -> None:
    """Started before its token exists, a node says so, has no peers, and joins by itself."""
    (one,) = await mesh.join(1)
    two = await mesh.node()
    await two.start()

    waiting = await mesh.says(two, "waiting", lambda h: h["access"]["verdict"] == "NODE_NOT_FOUND")
    refusal = await two.get("/ready")

    assert waiting["bridge"]["status"] == "waiting"
    assert refusal.status == 503
    assert "NODE_NOT_FOUND" in refusal.json()["reason"]
    assert await two.wg_peers() == {}

    await mesh.mint(two)
    await two.wait_ready()
    await mesh.has_peers(one, two)
    await two.host.reaches("10.213.0.1")


async def test_revocation_cuts_the_node_off_and_nobody_else_notices(mesh: Mesh) -> None:
    """After a revocation no packet of the node is accepted, and no other packet is lost."""
    one, two, three = await mesh.join(3)
    await three.host.reaches("10.213.0.1")
    others = await mesh.lab.stream(one.host, two.host, "10.213.0.2")
    victim = await mesh.lab.stream(three.host, one.host, "10.213.0.1")
    await others.flows()
    await victim.flows()

    await mesh.nft.revoke(3)

    await mesh.has_peers(one, two)
    await mesh.has_peers(two, one)
    await mesh.has_peers(three)
    await victim.quiet()
    health = await mesh.says(three, "revoked", lambda h: h["access"]["verdict"] == "REVOKED")
    assert health["ready"] is False
    assert (await others.stop()).lost == 0
    report = await victim.stop()
    assert report.lost > 0


async def test_restoring_lets_the_same_key_in_again(mesh: Mesh) -> None:
    """`restoreNodeAccess` undoes a revocation."""
    one, two = await mesh.join(2)
    await mesh.nft.revoke(2)
    await mesh.has_peers(one)

    await mesh.nft.restore(2)

    await mesh.has_peers(one, two)
    await two.wait_ready()
    await two.host.reaches("10.213.0.1")


async def test_a_transferred_node_is_out_until_its_new_holder_sets_a_key(mesh: Mesh) -> None:
    """The seller's key dies with the transfer; the buyer's key is admitted."""
    one, two = await mesh.join(2)

    await mesh.nft.transfer(2, to=5)
    await mesh.has_peers(one)
    await mesh.says(two, "suspended", lambda h: h["access"]["verdict"] == "SUSPENDED_BY_TRANSFER")

    buyer = await new_keys()
    await mesh.nft.set_key(2, buyer.public, account=5)

    async def admitted() -> bool:
        return set(await one.wg_peers()) == {buyer.public}

    await until(admitted, "the buyer's key is a peer")
    # The seller still runs with the old key: it must see that the token is no longer its own.
    await mesh.says(two, "mismatch", lambda h: h["access"]["verdict"] == "PUBLIC_KEY_MISMATCH")
    assert await two.wg_peers() == {}


async def test_a_key_that_does_not_match_the_token_stays_out(mesh: Mesh) -> None:
    """Who runs with a key that is not on the token gets no peers and says why."""
    (one,) = await mesh.join(1)
    imposter = await mesh.node()
    await mesh.mint(imposter, key=(await new_keys()).public)
    await imposter.start()

    health = await mesh.says(
        imposter, "mismatch", lambda h: h["access"]["verdict"] == "PUBLIC_KEY_MISMATCH"
    )

    assert health["ready"] is False
    assert await imposter.wg_peers() == {}
    assert imposter.keys.public not in await one.wg_peers()
    assert await imposter.host.ping("10.213.0.1") is None


async def test_burning_removes_the_node(mesh: Mesh) -> None:
    """A burned token is gone, and its node with it."""
    one, two = await mesh.join(2)
    await mesh.nft.burn(2)
    await mesh.has_peers(one)
    await mesh.says(two, "not found", lambda h: h["access"]["verdict"] == "NODE_NOT_FOUND")


async def test_expiry_needs_no_transaction_and_no_block(mesh: Mesh) -> None:
    """A node whose time is up is removed on time though the chain stands still."""
    one, two = await mesh.join(2)
    now = (await mesh.chain.block()).timestamp
    await mesh.nft.renew(2, now + 4)
    assert set(await one.wg_peers()) == {two.keys.public}
    head = (await mesh.chain.block()).number

    await mesh.has_peers(one)

    assert (await mesh.chain.block()).number == head
    await mesh.says(two, "expired", lambda h: h["access"]["verdict"] == "EXPIRED")


async def test_admission_waits_for_confirmations_and_removal_does_not(mesh: Mesh) -> None:
    """With CONFIRMATIONS=3 a mint waits for three more blocks; a revocation waits for none."""
    one = await mesh.node(settings={"CONFIRMATIONS": "3"})
    await mesh.mint(one)
    await mesh.chain.mine(5)
    await one.start()
    await one.wait_ready()
    two = await mesh.node()
    mined = await mesh.mint(two)
    await mesh.says(one, "the mint", lambda h: h["chain"]["head"] == mined.block)

    access = (await one.get("/api/access/n2")).json()
    assert access["verdict"] == "NOT_YET_CONFIRMED"
    assert await one.wg_peers() == {}

    await mesh.chain.mine(3)
    await mesh.has_peers(one, two)
    await mesh.nft.revoke(2)
    await mesh.has_peers(one)


@pytest.mark.parametrize("undo", ["reorg", "revert", "rollback"])
async def test_a_reorganisation_takes_back_what_it_drops(mesh: Mesh, undo: str) -> None:
    """A grant that the chain forgets is removed; a revocation that it forgets is undone."""
    one, two = await mesh.join(2)
    three = await mesh.node()
    snapshot = await mesh.chain.snapshot()
    await mesh.mint(three)
    await mesh.has_peers(one, two, three)
    await mesh.nft.revoke(2)
    await mesh.has_peers(one, three)

    if undo == "reorg":
        await mesh.chain.reorg(2)
    elif undo == "revert":
        await mesh.chain.revert(snapshot)
    else:
        await mesh.chain.rollback(2)
    await mesh.chain.mine(1)

    await mesh.has_peers(one, two)


def all_at(block: int, stats: list[dict[str, Any]]) -> bool:
    """Whether all nodes have applied a block."""
    return all(s["appliedBlock"] == block for s in stats)


async def test_members_at_one_block_show_one_peerset(mesh: Mesh) -> None:
    """`peersetHash` is the same on all members that applied the same block."""
    agents = await mesh.join(3)
    head = (await mesh.chain.block()).number

    async def hashes() -> list[str] | None:
        stats = [await agent.stats() for agent in agents]
        return [s["peersetHash"] for s in stats] if all_at(head, stats) else None

    first, *others = await until(hashes, "the newest block is applied on all members")
    assert others == [first, first]


async def test_a_garbage_endpoint_costs_only_the_endpoint(mesh: Mesh) -> None:
    """Hostile endpoint text leaves the member in, without an address to send to, with a note."""
    (one,) = await mesh.join(1)
    hostile = await mesh.node()
    await mesh.mint(hostile)
    await mesh.has_peers(one, hostile)

    for text in ("127.0.0.1:51820", "\nendpoint=1.2.3.4:5\n", "x" * 255, "10.213.0.1:51820"):
        await mesh.nft.set_endpoint(2, text)
        revision, _, _ = await mesh.nft.checkpoint()
        assert revision

        async def noted() -> list[str]:
            peers = (await one.get("/wireguard")).json()["peers"]
            return [note for peer in peers for note in peer["notes"]]

        notes = await until(noted, "a note on the endpoint")
        assert "endpoint from the token left out" in notes[0]
        (peer,) = (await one.wg_peers()).values()
        assert peer.endpoint is None

    await mesh.nft.set_endpoint(2, f"{hostile.host.ip4}:51820")
    await hostile.start()
    await hostile.wait_ready()
    await one.host.reaches("10.213.0.2")
