"""Nodes that join, are replaced and go on: Compose 1.29 and 2, lone nodes, the file for dstack.

Two nodes of docker-compose.yml, deployed with Compose 1.29, and two that joined by the other files,
one with each Compose; a stream between these two shows what the others notice. The tests share this
network and run in their order.
"""

import json
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from e2e.engine import Engine, eventually, free_port, run, say
from e2e.mesh import V1, V2, Mesh, compose_words

OWNER = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
"""The account of the owner's key, which holds the tokens of the tests."""
PER_SECOND = 500
SENDER = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
number, due = 0, time.monotonic()
while True:
    s.sendto(number.to_bytes(8, "big"), (sys.argv[1], 9999))
    number, due = number + 1, due + 1 / float(sys.argv[2])
    time.sleep(max(0.0, due - time.monotonic()))
"""
RECEIVER = """
import os, socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
s.bind(("0.0.0.0", 9999))
s.settimeout(0.2)
numbers = set()
while not os.path.exists("/tmp/enough"):
    try:
        numbers.add(int.from_bytes(s.recv(64), "big"))
    except TimeoutError:
        continue
    if len(numbers) == 1:
        open("/tmp/begun", "w").close()
with open("/tmp/result.new", "w") as file:
    print(max(numbers) - min(numbers) + 1, len(numbers), file=file)
os.rename("/tmp/result.new", "/tmp/result")
"""


class Lone:
    """A node of docker/node or docker/dstack, in a project of its own."""

    def __init__(self, mesh: Mesh, name: str, *, file: str, flavour: str, where: Path) -> None:
        self.name, self.engine = name, mesh.engine
        self.project = f"{mesh.project}-{name}"
        words, config = compose_words(flavour, mesh.engine, where)
        self._words = (
            *words,
            "-f",
            str(mesh.directory / file / "docker-compose.yml"),
            "-p",
            self.project,
        )
        self._environ = mesh.environ | {
            "DOCKER_CONFIG": str(config),
            "NODE_ID": name,
            "NETWORK": "hardhat",
            "RPC_URL": "http://chain:8545",
            "DSTACK_VPN_IMAGE": mesh.settings["DSTACK_VPN_IMAGE"],
            "BASE_IMAGE": mesh.settings["BASE_IMAGE"],
            "ENDPOINT_TEMPLATE": "{node_id}:51820",
            "WIREGUARD_PORT": str(free_port(socket.SOCK_DGRAM)),
            "HEALTH_PORT": str(free_port()),
        }

    def compose(self, *words: str) -> str:
        """Run Compose on it."""
        return run(*self._words, *words, env=self._environ, within=300).out

    def join(self, mesh: Mesh) -> None:
        """Start it on the network of the others, and register its key."""
        self.compose("up", "--detach", "--no-build")
        net = self.compose("ps", "-q", "net").strip()
        network = f"{mesh.project}_underlay"
        self.engine.docker("network", "connect", "--alias", self.name, network, net)
        key = eventually(lambda: self.facts("/wireguard"), f"{self.name} answers")["publicKey"]
        mesh.owner("node", "register", self.name, "--key", key, "--to", OWNER)
        eventually(lambda: self.facts("/ready").get("ready"), f"{self.name} is ready")

    @property
    def container(self) -> str:
        """Id of the node's container."""
        return self.compose("ps", "-q", "node").strip()

    def facts(self, path: str) -> dict[str, Any]:
        """What it answers at a path; empty while it does not answer."""
        words = ("python", "-I", "-m", "dstack_vpn.probe", path)
        shown = self.engine.docker("exec", self.container, *words, check=False).out
        return dict(json.loads(shown or "{}"))

    def background(self, code: str, *words: str) -> None:
        """Run a program in its container and leave it running."""
        command = ("python", "-I", "-c", code, *words)
        self.engine.docker("exec", "--detach", self.container, *command)

    def has(self, path: str) -> bool:
        """Whether there is a file in its container."""
        look = ("exec", self.container, "test", "-e", path)
        return self.engine.docker(*look, check=False).code == 0

    def has_peers(self, count: int) -> bool:
        """Whether so many peers are on its device."""
        return len(self.facts("/wireguard").get("peers", ())) == count

    def file(self, path: str) -> str:
        """A file in its container, empty while there is none."""
        return self.engine.docker("exec", self.container, "cat", path, check=False).out


@pytest.fixture(scope="module")
def old(
    engine: Engine, image: str, build_ca: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mesh]:
    """A network deployed with Compose 1.29."""
    made = Mesh.check_out(engine, tmp_path_factory.mktemp("old"), flavour=V1, build_ca=build_ca)
    say(f"{made.project}: deploying with Compose 1.29")
    try:
        made.deployed = made.deploy("deploy")
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def lone(old: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lone, Lone]]:
    """Two nodes that joined it."""
    directory = tmp_path_factory.mktemp("lone")
    pair = (
        Lone(old, "node-c", file="docker/node", flavour=V2, where=directory),
        Lone(old, "node-d", file="docker/dstack", flavour=V1, where=directory),
    )
    try:
        for node in pair:
            node.join(old)
        yield pair
    finally:
        for node in pair:
            node.compose("down", "--volumes")


def test_compose_1_deploys(old: Mesh) -> None:
    """The old Compose makes the same network."""
    assert old.deployed is not None
    assert old.words == ("docker-compose",)
    assert old.fetches()
    assert old.deploy("status").code == 0


def test_lone_nodes_join_by_their_own_files(old: Mesh, lone: tuple[Lone, Lone]) -> None:
    """A node of docker/node and one of docker/dstack are members, with all others as peers."""
    for node in lone:
        eventually(partial(node.has_peers, 3), f"{node.name} has three peers")
    names = {p["nodeId"] for p in lone[0].facts("/wireguard")["peers"]}
    assert names == {"node-a", "node-b", "node-d"}
    eventually(lambda: old.facts("node-a", "/health")["peerRegistry"]["totalPeers"] == 3, "seen")


def test_a_rolling_update_loses_no_packet_between_others(
    old: Mesh, lone: tuple[Lone, Lone]
) -> None:
    """A new image replaces node after node; the tunnel between the others carries every packet."""
    sender, receiver = lone
    before = {node: (old.container(node), old.identity(node)) for node in ("node-a", "node-b")}
    addresses = receiver.facts("/wireguard")["addresses"]
    target = next(a.partition("/")[0] for a in addresses if ":" not in a)
    receiver.background(RECEIVER)
    sender.background(SENDER, target, str(PER_SECOND))
    eventually(lambda: receiver.has("/tmp/begun"), "packets arrive")
    module = old.directory / "src/dstack_vpn/__init__.py"
    module.write_text(module.read_text() + "\n# another version\n")
    updated = old.deploy("update", "--json")
    receiver.engine.docker("exec", receiver.container, "touch", "/tmp/enough")
    sent, received = map(int, eventually(lambda: receiver.file("/tmp/result"), "a result").split())
    assert json.loads(updated.out) == {"replaced": ["node-a", "node-b"]}
    assert sent > PER_SECOND
    assert sent - received == 0
    for node, (container, identity) in before.items():
        assert old.container(node) != container
        assert old.identity(node) == identity
    assert old.fetches()


def test_an_update_without_news_replaces_nothing(old: Mesh) -> None:
    """The containers stay; --force replaces them all the same."""
    before = old.container("node-a")
    old.deploy("update", "--no-build")
    assert old.container("node-a") == before
    old.deploy("update", "--no-build", "--force")
    assert old.container("node-a") != before
    old.fetches_again()


def test_an_update_is_refused_before_anything_is_touched(old: Mesh) -> None:
    """Every mistake in .env is named, the exit code is 2, and the nodes run on as they are."""
    before = old.container("node-a")
    good = dict(old.settings)
    old.settings |= {"MTU": "9", "CHAIN_PORT": "none", "NODE_B_ID": "node-a"}
    old.write_env()
    refused = old.deploy("update", check=False)
    old.settings = good
    old.write_env()
    assert refused.code == 2
    told = [line for line in refused.err.splitlines() if line.startswith("dstack-vpn: ")]
    assert len(told) == 3
    for name in ("MTU", "CHAIN_PORT", "NODE_A_ID and NODE_B_ID"):
        assert any(line.startswith(f"dstack-vpn: {name} ") for line in told)
    assert old.container("node-a") == before
    assert old.fetches()


def test_a_key_of_ones_own_comes_as_a_secret(old: Mesh, tmp_path: Path) -> None:
    """With an override file a node has the key of a Docker secret, which the engine never shows."""
    key = tmp_path / "node-b.key"
    public = old.owner("keys", "generate", "--out", str(key)).out.strip()
    (old.directory / "docker-compose.override.yml").write_text(
        "services:\n"
        "  node-b:\n"
        "    environment: {WIREGUARD_PRIVATE_KEY_FILE: /run/secrets/node_b_key}\n"
        "    secrets: [node_b_key]\n"
        "secrets:\n"
        f"  node_b_key: {{file: {key}}}\n"
    )
    old.compose("up", "--detach", "--no-build", "--no-deps", "node-b")
    eventually(lambda: old.inside("node-b", "true", check=False).code == 0, "node-b runs")
    eventually(
        lambda: (
            old.inside(
                "node-b", "python", "-I", "-m", "dstack_vpn.probe", "/wireguard", check=False
            ).code
            == 0
        ),
        "node-b answers",
    )
    assert old.facts("node-b", "/wireguard")["publicKey"] == public
    assert "PUBLIC_KEY_MISMATCH" in json.dumps(old.facts("node-b", "/health"))
    old.owner("node", "set-key", "node-b", public)
    old.fetches_again()
    assert key.read_text().strip() not in json.dumps(old.inspect("node-b"))
    # What made the local network finds another key than that of the volume, and leaves it.
    again = old.compose("--profile", "local-chain", "run", "--rm", "-T", "--no-deps", "init")
    assert "keeps the key that its token has" in again.text
    assert old.facts("node-b", "/wireguard")["publicKey"] == public


def test_compose_1_cleans_up(old: Mesh, lone: tuple[Lone, Lone]) -> None:
    """Nothing of the project is left."""
    for node in lone:
        node.compose("down", "--volumes")
    old.deploy("cleanup", "--yes")
    assert old.left() == []
