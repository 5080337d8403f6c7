"""``dstack-vpn status``: the table, by an agent that runs, hangs or is away."""

import os
import re
import signal

from agent.commands import answer, command
from agent.mesh import Mesh
from dstack_vpn.cli.status import columns, duration, size
from lab.waiting import until


async def test_the_table(mesh: Mesh) -> None:
    """Who is live and where its endpoint came from, in 80 columns; the others by --all."""
    one, two = await mesh.join(2)
    await mesh.nft.mint("ghost", (await mesh.node()).keys.public)
    await mesh.nft.revoke(3)

    async def sees_the_ghost() -> bool:
        return bool((await one.stats())["verdicts"]["REVOKED"] == 1)

    await until(sees_the_ghost, "it sees the revoked one")
    await mesh.says(one, "it is live", lambda h: h["peerRegistry"]["activePeers"] == 1)

    ended = await command(one, "status")
    assert ended.code == 0, ended.out
    lines = ended.out.splitlines()
    assert max(map(len, lines)) <= 80, ended.out
    assert lines[0] == "n1  ACCESS_GRANTED  running, healthy"
    assert re.fullmatch(r"chain   following, block \d+, lag 0, 1 of 1 votes needed", lines[1])
    assert lines[2] == "device  wg0 (userspace), up, UDP port 51820, MTU 1420"
    assert lines[4] == "peers   1 of 1 live, direct UDP"
    head, row = lines[-2:]
    assert head.split() == ["NODE", "TOKEN", "ADDRESS", "ENDPOINT", "FROM", "STATE", "RX/TX"]
    # The one learned the endpoint of the two from its settings, by the order of their making.
    node, token, address, endpoint, source, state, age, traffic = row.split()
    assert (node, token, address) == ("n2", "2", "10.213.0.2")
    assert (endpoint, source) == (f"{two.host.ip4}:51820", "settings")
    assert (state, age[-1]) == ("live", "s")
    assert re.fullmatch(r"\S+/\S+", traffic)

    everybody = (await command(one, "status", "--all")).out
    assert re.search(r"^ghost +3 .* REVOKED$", everybody, re.MULTILINE), everybody
    code, told = await answer(one, "status", "--all")
    assert code == 0
    (peer,) = told["wireguard"]["peers"]
    assert (peer["state"], peer["verdict"]) == ("live", "ACCESS_GRANTED")
    assert told["health"]["nodeId"] == "n1"
    assert told["device"] == {"interface": "wg0", "backend": "userspace"}


async def test_agent_that_is_away_or_hangs(mesh: Mesh) -> None:
    """One sentence and exit code 1; of a device that is left it is said what it is."""
    (one,) = await mesh.join(1, settings={"API_TOKEN": "t" * 20})
    assert (await command(one, "status", "--all", API_TOKEN="u" * 20)).code == 2
    assert (await command(one, "status", "--all")).code == 0
    os.kill(one.running.pid, signal.SIGSTOP)
    hung = await command(one, "status")
    os.kill(one.running.pid, signal.SIGCONT)
    assert hung.code == 1
    assert "did not answer within 5 s" in hung.out
    await one.kill()
    away = await command(one, "status")
    assert away.code == 1
    assert "wg0 (userspace) is there, up: UDP port 51820, MTU 1420, 0 peers" in away.out
    assert "dstack-vpn: no agent runs here: nobody answers at" in away.out
    assert "Traceback" not in hung.out + away.out


def test_units() -> None:
    """Times in one unit, sizes in four letters at most."""
    assert [duration(s) for s in (0, 59.9, 60, 3599, 7200, 200_000)] == [
        "0s", "59s", "1m", "59m", "2h", "2d",
    ]  # fmt: skip
    assert [size(n) for n in (0, 999, 1000, 1024, 10_239, 10**6, 5 * 10**9)] == [
        "0", "999", "1.0K", "1.0K", "10K", "977K", "4.7G",
    ]  # fmt: skip
    assert all(len(size(7**power)) <= 4 for power in range(18))


def test_hostile_names_stay_in_their_cell() -> None:
    """Nothing that steers a terminal gets through, and each row is one line."""
    lines = list(columns(("NODE", "X"), [("\x1b[2J\r\n", "a"), ("b", "c")]))
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
