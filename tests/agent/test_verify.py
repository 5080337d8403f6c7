"""``dstack-vpn verify`` on running nodes: equal is 0, and whatever is altered by hand is told."""

import re
from collections.abc import Sequence

import pytest

from agent.commands import answer, command
from agent.mesh import Mesh
from lab.tunnel import new_keys

RANGE6 = "fd59:11ea:eff5::/48"


async def test_equal_and_nothing_is_written(mesh: Mesh) -> None:
    """A node in order: exit code 0, the block is named, and its notes are left alone."""
    one, two = await mesh.join(2)
    state = one.directory / "state"
    # The agent itself goes on writing other files.
    before = {path: path.stat().st_mtime_ns for path in state.glob("*.device.json*")}
    assert before

    ended = await command(one, "verify")
    assert ended.code == 0, ended.out
    block = (await one.health())["chain"]["head"]
    assert ended.out == f"wg0 is as the chain says at block {block}: 1 peer\n"

    code, told = await answer(two, "verify")
    assert (code, told["equal"], told["peers"], told["block"]) == (0, True, 1, block)
    assert told["backend"] == "userspace"
    assert {path: path.stat().st_mtime_ns for path in before} == before


async def test_a_change_on_its_way_is_no_alarm(mesh: Mesh) -> None:
    """The agent sees the block two seconds late; verify looks again, and finds all in order."""
    one, two = await mesh.join(2, poll_interval=2)
    await mesh.nft.revoke(2)

    code, told = await answer(one, "verify")
    assert (code, told["peers"]) == (0, 0)
    assert told["looks"] > 1
    await mesh.has_peers(one)
    # Of the revoked one nothing may be left on its own device.
    assert (await answer(two, "verify"))[0] == 0


async def test_without_an_agent_a_change_is_a_difference(mesh: Mesh) -> None:
    """The chain alone counts: the agent is dead, and its device still has the revoked peer."""
    one, two = await mesh.join(2)
    await one.kill()
    await mesh.nft.revoke(2)

    code, told = await answer(one, "verify", "--within", "0")
    assert code == 1
    (difference,) = told["differences"]
    assert difference["kind"] == "peer-foreign"
    assert (difference["tokenId"], difference["nodeId"]) == (2, "n2")
    assert difference["publicKey"] == two.keys.public
    assert "REVOKED" in difference["text"]
    text = await command(one, "verify", "--within", "0.6")
    assert text.code == 1
    assert re.search(r"1 difference, after [23] looks\n- peer ", text.out), text.out


@pytest.mark.parametrize(
    ("deeds", "kinds"),
    [
        ([("ip", "link", "set", "wg0", "mtu", "1300")], {"mtu"}),
        ([("wg", "set", "wg0", "listen-port", "51999")], {"listen-port"}),
        ([("ip", "addr", "add", "10.9.9.9/24", "dev", "wg0")], {"address-foreign"}),
        ([("ip", "addr", "del", "10.213.0.1/16", "dev", "wg0")], {"address-missing"}),
        ([("wg", "set", "wg0", "peer", "{stranger}")], {"peer-foreign"}),
        ([("wg", "set", "wg0", "peer", "{two}", "remove")], {"peer-missing"}),
        ([("wg", "set", "wg0", "peer", "{two}", "allowed-ips", "10.5.5.5/32")], {"allowed-ips"}),
        (
            [("wg", "set", "wg0", "peer", "{stranger}", "allowed-ips", "10.213.0.2/32")],
            {"peer-foreign", "allowed-ips"},
        ),
        (
            [
                ("ip", "route", "del", "unreachable", "10.213.0.0/16"),
                ("ip", "-6", "route", "del", "unreachable", RANGE6, "metric", "2147483647"),
            ],
            {"unreachable-missing"},
        ),
        ([("ip", "route", "del", "10.213.0.0/16", "dev", "wg0")], {"route-missing"}),
        ([("ip", "-6", "rule", "del", "pref", "51")], {"rule-missing"}),
    ],
    ids=lambda value: " ".join(sorted(value)) if isinstance(value, set) else "",
)
async def test_altered_by_hand(
    mesh: Mesh, deeds: Sequence[tuple[str, ...]], kinds: set[str]
) -> None:
    """Each is told, with nothing beside it, while no agent is there to repair it."""
    one, two = await mesh.join(2)
    await one.kill()
    names = {"two": two.keys.public, "stranger": (await new_keys()).public}
    for deed in deeds:
        await one.host.run(*(word.format(**names) for word in deed))

    code, told = await answer(one, "verify", "--within", "0")
    assert code == 1
    assert {d["kind"] for d in told["differences"]} == kinds


async def test_who_waits_for_confirmations_is_not_missing(mesh: Mesh) -> None:
    """A grant that does not count yet is "not yet", not a difference."""
    nodes = [await mesh.node(settings={"CONFIRMATIONS": "1"}) for _ in range(3)]
    for node in nodes:
        await mesh.mint(node)
    one, two, _ = nodes
    for node in (one, two):
        await node.start()
        await node.wait_ready()

    code, told = await answer(one, "verify")
    assert (code, told["peers"]) == (0, 1)
    assert [w["nodeId"] for w in told["waiting"]] == ["n3"]
    assert "not yet: n3 (token 3), admitted at block" in (await command(two, "verify")).out


async def test_mistakes(mesh: Mesh) -> None:
    """One sentence each, and exit code 2: not root, no key, no settings; a dead chain is 1."""
    (one,) = await mesh.join(1)
    one.prefix = ("setpriv", "--reuid", "65534", "--clear-groups")
    user = await command(
        one, "verify", WIREGUARD_PRIVATE_KEY=one.keys.private, WIREGUARD_PRIVATE_KEY_FILE=""
    )
    assert user.code == 2, user.out
    assert "run as root" in user.out
    one.prefix = ()
    no_key = await command(one, "verify", WIREGUARD_PRIVATE_KEY_FILE="", STATE_DIR="/run/nothing")
    assert no_key.code == 2, no_key.out
    assert "has no key yet" in no_key.out
    assert (await command(one, "verify", NODE_ID="Upper")).code == 2
    dark = await command(one, "verify", RPC_URL="http://127.0.0.1:9")
    assert dark.code == 1, dark.out
    for ended in (user, no_key, dark):
        assert len(ended.out.splitlines()) == 1, ended.out
        assert one.keys.private not in ended.out


async def test_after_a_change_of_forwarding_the_rules_are_left(mesh: Mesh) -> None:
    """What the settings say now counts, also of the routing; and nothing of it is altered."""
    (one,) = await mesh.join(1)
    await one.kill()
    text = await command(one, "verify", "--within", "0", FORWARDING="on")
    assert text.code == 1
    assert text.out.count("- the rule 'pref 5") == 4, text.out
    assert text.out.count("stands although FORWARDING is on") == 4
    assert (await command(one, "verify", "--within", "0")).code == 0
