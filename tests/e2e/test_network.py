"""A network of containers, made by the documented commands: it works, and comes back by itself.

The tests of this file share one network and run in their order; each leaves it as it found it.
"""

import json
import re

from e2e.engine import Engine, eventually
from e2e.mesh import OWNER_KEY, Mesh
from lab.fixtures import need

SERVICES = {
    "chain", "init", "keeper", "nginx-server", "node-a", "node-a-net", "node-b", "node-b-net",
    "test-client",
}  # fmt: skip


def test_a_clean_checkout_becomes_a_network(mesh: Mesh) -> None:
    """`scripts/deploy-docker.sh deploy` ends with every node ready and the page fetched."""
    assert mesh.deployed is not None
    assert mesh.deployed.code == 0
    assert "node-a: ready" in mesh.deployed.err
    assert "test-client: ready" in mesh.deployed.err
    assert mesh.ready("node-a")
    assert mesh.ready("node-b")
    assert mesh.fetches()


def test_status_says_that_all_is_well(mesh: Mesh) -> None:
    """A row for each service, with what the nodes know; exit code 0, for people and for scripts."""
    shown = mesh.deploy("status")
    assert shown.out.split()[:3] == ["SERVICE", "STATE", "HEALTH"]
    rows = mesh.rows()
    assert set(rows) == SERVICES
    assert all(row["ok"] for row in rows.values())
    assert rows["init"]["state"] == "done"
    for node in ("node-a", "node-b"):
        assert rows[node]["activePeers"] == rows[node]["totalPeers"] == 1
        assert rows[node]["block"] >= 3
        assert rows[node]["lag"] == 0
        assert rows[node]["handshakeAgeSeconds"] < 180


def test_a_revoked_node_is_cut_off_until_it_is_restored(mesh: Mesh) -> None:
    """By the owner's command line on this machine; `status` says why, and what it exits with."""
    mesh.owner("node", "revoke", "node-b")
    eventually(lambda: not mesh.fetches(), "the page does not come through any more")
    eventually(lambda: mesh.rows()["node-b"]["health"] == "unhealthy", "node-b is out")
    assert "REVOKED" in mesh.rows()["node-b"]["note"]
    assert mesh.deploy("status", check=False).code == 1
    assert not mesh.fetches()
    mesh.owner("node", "restore", "node-b")
    mesh.fetches_again()
    eventually(lambda: mesh.deploy("status", check=False).code == 0, "all is well again")


def test_the_owner_needs_nothing_but_docker(mesh: Mesh) -> None:
    """`compose run admin` is the owner's command line where no Python is."""
    listed = mesh.compose("run", "--rm", "-T", "admin", "node", "list", "--json").out
    verdicts = {n["nodeId"]: n["verdict"] for n in json.loads(listed)["nodes"]}
    assert verdicts == {"node-a": "ACCESS_GRANTED", "node-b": "ACCESS_GRANTED"}


def test_no_secret_can_be_seen_from_outside(mesh: Mesh) -> None:
    """Neither in what the engine tells of any container and image, nor in any log."""
    keys = [
        mesh.inside(node, "cat", "/var/lib/dstack-vpn/wireguard.key").out.strip()
        for node in ("node-a", "node-b")
    ]
    assert all(len(key) == 44 for key in keys)
    told = [json.dumps(mesh.inspect(service)) for service in SERVICES]
    told += [mesh.deploy("logs", "--tail", "1000").text]
    told += [mesh.engine.docker("image", "inspect", mesh.settings["DSTACK_VPN_IMAGE"]).out]
    told += [mesh.inside("node-a", "cat", "/proc/1/environ").out]
    told += [json.dumps(mesh.facts("node-a", path)) for path in ("/config", "/stats", "/health")]
    for secret in (*keys, OWNER_KEY, OWNER_KEY.removeprefix("0x")):
        assert not any(secret in text for text in told)


def test_a_killed_node_comes_back(mesh: Mesh) -> None:
    """After `docker kill` the web server beside it is reachable again, and was not touched."""
    before = mesh.inspect("nginx-server")["State"]["StartedAt"]
    identity = mesh.identity("node-a")
    killed = mesh.inspect("node-a")["State"]["Pid"]
    mesh.engine.docker("kill", mesh.container("node-a"))
    eventually(lambda: mesh.inspect("node-a")["State"]["Pid"] not in (0, killed), "it runs again")
    mesh.fetches_again()
    eventually(lambda: mesh.ready("node-a"), "node-a is ready")
    assert mesh.identity("node-a") == identity
    assert mesh.inspect("nginx-server")["State"]["StartedAt"] == before


def test_a_crashed_agent_is_started_again_by_the_engine(mesh: Mesh) -> None:
    """Killed from inside, as for want of memory: by Docker's own policy, with the same identity."""
    identity = mesh.identity("node-b")
    restarts = mesh.inspect("node-b")["RestartCount"]
    killer = "import os,signal;os.kill(int(open('/proc/1/task/1/children').read().split()[0]),9)"
    mesh.inside("node-b", "python", "-c", killer)
    eventually(lambda: mesh.inspect("node-b")["RestartCount"] > restarts, "it was started again")
    mesh.fetches_again()
    assert mesh.identity("node-b") == identity


def test_a_restarted_node_is_the_same_node(mesh: Mesh) -> None:
    """After `docker restart` it has the key and the addresses that it had."""
    identity = mesh.identity("node-b")
    mesh.engine.docker("restart", mesh.container("node-b"))
    mesh.fetches_again()
    eventually(lambda: mesh.ready("node-b"), "node-b is ready")
    assert mesh.identity("node-b") == identity


def test_a_removed_interface_comes_back(mesh: Mesh) -> None:
    """`ip link delete wg0` inside a node is put right at the next compare."""
    mesh.inside("node-a", "ip", "link", "delete", "wg0")
    eventually(
        lambda: mesh.inside("node-a", "ip", "link", "show", "wg0", check=False).code == 0,
        "wg0 is there again",
    )
    mesh.fetches_again()


def test_a_dead_userspace_device_comes_back(mesh: Mesh) -> None:
    """wireguard-go killed inside a node is started anew."""
    killer = (
        "import glob,os\n"
        "for p in glob.glob('/proc/[0-9]*/comm'):\n"
        "    if open(p).read().strip() == 'wireguard-go': os.kill(int(p.split('/')[2]), 9)"
    )
    mesh.inside("node-a", "python", "-c", killer)
    mesh.fetches_again()


def test_a_killed_chain_comes_back_with_all_that_it_had(mesh: Mesh) -> None:
    """Blocks, tokens and its beginning outlive `docker kill`, and the nodes go on with it."""
    for turn in range(2):  # the second time it starts from what it saved after the first
        endpoint = f"192.0.2.{turn}:51820"
        sent = json.loads(mesh.owner("node", "set-endpoint", "node-a", endpoint, "--json").out)
        mesh.saves_block(sent["block"])
        mesh.engine.docker("kill", mesh.container("chain"))
        eventually(lambda: mesh.owner("node", "list", check=False).code == 0, "it answers again")
        shown = json.loads(mesh.owner("node", "info", "node-a", "--json").out)
        assert shown["endpoint"] == endpoint
        assert shown["block"] >= sent["block"]
    sent = json.loads(mesh.owner("node", "set-endpoint", "node-a", "", "--json").out)
    for node in ("node-a", "node-b"):
        mesh.reaches_block(node, sent["block"])
        assert mesh.inspect(node)["RestartCount"] <= 1  # that of the crash above
    mesh.fetches_again()


def test_a_killed_network_of_a_node_is_made_anew(mesh: Mesh) -> None:
    """Whoever was in it is started again, so that nobody stays in a network that is gone."""
    mesh.engine.docker("kill", mesh.container("node-b-net"))
    mesh.fetches_again(within=90)
    eventually(lambda: mesh.deploy("status", check=False).code == 0, "all is well again")


def test_an_engine_that_is_restarted_brings_all_back(mesh: Mesh) -> None:
    """As after a reboot: every container runs, nodes are who they were, the page comes through."""
    need(mesh.engine.own, "the engine is not one that the tests may restart")
    identities = {node: mesh.identity(node) for node in ("node-a", "node-b")}
    for _ in range(2):
        mesh.engine.stop()
        mesh.engine.start()
        mesh.fetches_again(within=90)
        eventually(lambda: mesh.deploy("status", check=False).code == 0, "all is well again")
        assert {node: mesh.identity(node) for node in identities} == identities


def test_logs_are_one_in_the_order_of_time(mesh: Mesh) -> None:
    """All services, by level, as text and as JSON."""
    lines = [json.loads(line) for line in mesh.deploy("logs", "--json").out.splitlines()]
    assert {"node-a", "node-b", "chain", "init"} <= {line["service"] for line in lines}
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    assert {"bridge.started", "membership.granted"} & {line["event"] for line in lines}
    warned = mesh.deploy("logs", "--json", "--level", "warn").out.splitlines()
    assert {json.loads(line)["level"] for line in warned} <= {"warn", "error"}
    only = mesh.deploy("logs", "node-a", "--tail", "3").out.splitlines()
    assert 0 < len(only) <= 3
    assert all(re.match(r"\d\d:\d\d:\d\d\.\d{3} node-a (debug|info |warn |error)", x) for x in only)


def test_logs_are_followed(mesh: Mesh) -> None:
    """What is written while `logs --follow` runs is shown."""
    with mesh.follow_log("--tail", "1", "--json", "node-a") as following:
        assert following.stdout is not None
        assert following.stdout.readline()  # the last line of before: from now on it follows
        mesh.owner("node", "revoke", "node-b")
        seen = any(json.loads(line)["event"] == "membership.revoked" for line in following.stdout)
        following.terminate()
    mesh.owner("node", "restore", "node-b")
    assert seen
    mesh.fetches_again()


def test_stopped_and_started(mesh: Mesh) -> None:
    """`stop` stops all and nothing comes back by itself; `start` waits until all is ready."""
    identity = mesh.identity("node-a")
    mesh.deploy("stop")
    assert all(not row["ok"] or row["state"] == "done" for row in mesh.rows().values())
    mesh.deploy("start")
    assert mesh.fetches()
    assert mesh.identity("node-a") == identity


def test_restarted(mesh: Mesh) -> None:
    """`restart` ends with all ready."""
    mesh.deploy("restart")
    assert mesh.fetches()


def test_a_chain_that_began_anew_is_accepted_when_told(mesh: Mesh) -> None:
    """Nodes refuse it and stay down; `deploy reset-state` has them accept it, keys unchanged."""
    keys = {node: mesh.identity(node)[0] for node in ("node-a", "node-b")}
    mesh.deploy("stop")
    mesh.compose("--profile", "local-chain", "rm", "-f", "chain", "init")
    mesh.engine.docker("volume", "rm", f"{mesh.project}_chain-state")
    refused = mesh.deploy("start", check=False)
    assert refused.code == 1
    assert "ended with exit code 2" in refused.err
    assert "--reset-state" in refused.err
    mesh.deploy("reset-state")
    mesh.fetches_again()
    assert {node: mesh.identity(node)[0] for node in keys} == keys
    assert mesh.deploy("status").code == 0


def test_keys_are_never_overwritten(mesh: Mesh) -> None:
    """`setup` on a network that runs tells the keys that are there."""
    shown = json.loads(mesh.deploy("setup", "--json").out)
    assert shown["wroteEnv"] is False
    assert shown["publicKeys"] == {n: mesh.identity(n)[0] for n in ("node-a", "node-b")}


def test_cleanup_asks_first_and_leaves_nothing(mesh: Mesh) -> None:
    """Without a terminal it refuses; with --yes no container, volume, network or image is left."""
    refused = mesh.script("cleanup", check=False)
    assert refused.code == 2
    assert "--yes" in refused.err
    assert mesh.fetches()
    mesh.script("cleanup", "--yes")
    assert mesh.left() == []


def test_the_engine_is_used_as_it_is(engine: Engine) -> None:
    """Nothing but our own projects was made: no volume without a name is left behind."""
    need(engine.own, "on a user's engine there may be anything")
    names = engine.docker("volume", "ls", "-q").out.split()
    assert [n for n in names if re.fullmatch(r"[0-9a-f]{64}", n)] == []
