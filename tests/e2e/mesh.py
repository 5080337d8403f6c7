"""A network of containers in a checkout of its own, driven as a user would drive it."""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e.engine import (
    COMPOSE_PLUGIN,
    PATIENCE,
    ROOT,
    Ended,
    Engine,
    eventually,
    free_port,
    run,
    say,
)
from lab.fixtures import need

OWNER_KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
"""The first development account of every local chain; known to everybody."""
PAGE = "Behind the mesh"
V1, V2 = "compose-1", "compose-2"


def compose_words(flavour: str, engine: Engine, directory: Path) -> tuple[tuple[str, ...], Path]:
    """The words that call a version of Compose, and a configuration of docker that finds it."""
    config = directory / f"docker-config-{flavour}"
    (config / "cli-plugins").mkdir(parents=True, exist_ok=True)
    environ = {**engine.environ, "DOCKER_CONFIG": str(config)}
    if flavour == V2:
        for built in (COMPOSE_PLUGIN, Path.home() / ".docker/cli-plugins/docker-compose"):
            if built.exists():
                shutil.copy(built, config / "cli-plugins/docker-compose")
                break
        version = run("docker", "compose", "version", env=environ, check=False)
        need(version.code == 0, "Compose 2 is not installed")
        return ("docker", "compose"), config
    need(shutil.which("docker-compose"), "docker-compose 1.29 is not installed")
    version = run("docker-compose", "version", "--short", env=environ)
    need(version.out.startswith("1."), "docker-compose is not version 1")
    plugin = run("docker", "compose", "version", env=environ, check=False)
    need(
        plugin.code != 0, "docker-compose 1 cannot be chosen where the plugin is installed for all"
    )
    return ("docker-compose",), config


@dataclass(slots=True)
class Mesh:
    """One Compose project, its checkout, and the commands on it."""

    engine: Engine
    directory: Path
    project: str
    flavour: str
    build_ca: Path | None
    settings: dict[str, str] = field(default_factory=dict)
    """What its .env says."""
    words: tuple[str, ...] = ()
    environ: dict[str, str] = field(default_factory=dict)
    deployed: Ended | None = None
    """How its first deployment ended."""

    @classmethod
    def check_out(
        cls,
        engine: Engine,
        directory: Path,
        *,
        flavour: str,
        build_ca: Path | None,
        settings: Mapping[str, str] | None = None,
    ) -> "Mesh":
        """Copy what git knows of this tree, as a clone has it, with ports and names of its own."""
        project = f"dstack-e2e-{os.getpid()}-{directory.name}".lower().replace("_", "-")
        checkout = directory / "dstack-vpn"
        listed = run("git", "ls-files", "-z", "-co", "--exclude-standard", cwd=ROOT).out
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (checkout / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, checkout / name)
        mesh = cls(engine, checkout, project, flavour, build_ca)
        mesh.words, config = compose_words(flavour, engine, directory)
        mesh.settings = {
            "COMPOSE_PROJECT_NAME": project,
            "BASE_IMAGE": engine.base,
            "DSTACK_VPN_IMAGE": f"dstack-vpn:{project}",
            "NGINX_IMAGE": f"dstack-vpn-nginx:{project}",
            "CHAIN_IMAGE": f"dstack-vpn-chain:{project}",
            "NODE_A_WIREGUARD_PORT": str(free_port(socket.SOCK_DGRAM)),
            "NODE_B_WIREGUARD_PORT": str(free_port(socket.SOCK_DGRAM)),
            "NODE_A_HEALTH_PORT": str(free_port()),
            "NODE_B_HEALTH_PORT": str(free_port()),
            "CHAIN_PORT": str(free_port()),
            # The default is half a minute, for which nobody has to wait here.
            "SYNC_INTERVAL": "1000",
            **(settings or {}),
        }
        mesh.write_env()
        passed = ("PATH", "HOME", "LANG", "DOCKER_HOST", "SSL_CERT_FILE", "PIP_CERT")
        mesh.environ = {n: engine.environ[n] for n in passed if n in engine.environ}
        mesh.environ |= {"DOCKER_CONFIG": str(config)}
        if build_ca is not None:
            mesh.environ["BUILD_CA_FILE"] = str(build_ca)
        return mesh

    def write_env(self) -> None:
        """Write its settings down."""
        text = "".join(f"{name}={value}\n" for name, value in self.settings.items())
        (self.directory / ".env").write_text(text, encoding="utf-8")

    # What users call

    def script(self, *words: str, check: bool = True, within: float = 600) -> Ended:
        """Run scripts/deploy-docker.sh."""
        return run(
            self.directory / "scripts/deploy-docker.sh", *words, env=self.environ,
            cwd=self.directory, check=check, within=within,
        )  # fmt: skip

    def deploy(self, *words: str, check: bool = True, within: float = 600) -> Ended:
        """Run ``dstack-vpn deploy``."""
        command = ROOT / ".venv/bin/dstack-vpn"
        return run(
            command,
            "deploy",
            *words,
            env=self.environ,
            cwd=self.directory,
            check=check,
            within=within,
        )

    def compose(self, *words: str, check: bool = True, within: float = 300) -> Ended:
        """Run Compose itself."""
        return run(
            *self.words, *words, env=self.environ, cwd=self.directory, check=check, within=within
        )

    def owner(self, *words: str, check: bool = True) -> Ended:
        """Run ``dstack-vpn`` as the contract's owner, on this machine."""
        environ = self.environ | {
            "NETWORK": "hardhat",
            "RPC_URL": self.chain_url,
            "CONTRACT_PRIVATE_KEY": OWNER_KEY,
        }
        return run(ROOT / ".venv/bin/dstack-vpn", *words, env=environ, check=check)

    @property
    def chain_url(self) -> str:
        """Where its chain is found on this machine."""
        return f"http://127.0.0.1:{self.settings['CHAIN_PORT']}"

    # What there is to see

    def container(self, service: str) -> str:
        """Id of a service's container."""
        label = f"label=com.docker.compose.service={service}"
        project = f"label=com.docker.compose.project={self.project}"
        oneoff = "label=com.docker.compose.oneoff=False"
        words = ("ps", "-aq", "--filter", project, "--filter", label, "--filter", oneoff)
        found = self.engine.docker(*words).out.split()
        assert len(found) == 1, f"{service} has the containers {found}"
        return found[0]

    def inspect(self, service: str) -> dict[str, Any]:
        """What the engine says of a service's container."""
        (found,) = json.loads(self.engine.docker("inspect", self.container(service)).out)
        assert isinstance(found, dict)
        return found

    def inside(self, service: str, *words: str, check: bool = True) -> Ended:
        """Run a command in a service's container."""
        return self.engine.docker("exec", self.container(service), *words, check=check)

    def fetches(self) -> bool:
        """Whether the test client gets the page of the web server now."""
        address = self.settings.get("NODE_A_MESH_ADDRESS", "10.213.0.1")
        curl = ("curl", "-sS", "--max-time", "1", f"http://{address}/")
        try:
            return PAGE in self.inside("test-client", *curl, check=False).out
        except AssertionError:  # being replaced
            return False

    def fetches_again(self, *, within: float = PATIENCE) -> None:
        """Wait until it does."""
        eventually(self.fetches, "the page comes through the tunnel", within=within)

    def ready(self, service: str) -> bool:
        """Whether a node says that it can pass traffic."""
        probe = ("python", "-I", "-m", "dstack_vpn.probe")
        try:
            return self.inside(service, *probe, check=False).code == 0
        except AssertionError:
            return False

    def facts(self, service: str, path: str) -> Any:
        """What a node answers at a path."""
        return json.loads(self.inside(service, "python", "-I", "-m", "dstack_vpn.probe", path).out)

    def reaches_block(self, node: str, block: int) -> None:
        """Wait until a node has followed the chain to a block."""
        eventually(
            lambda: self.facts(node, "/health")["chain"]["head"] >= block, f"{node} is at {block}"
        )

    def saves_block(self, block: int) -> None:
        """Wait until the chain has a block on disk."""
        code = "import json; print(json.load(open('/data/state.json'))['best_block_number'])"
        eventually(
            lambda: int(self.inside("chain", "python3", "-c", code).out) >= block,
            f"block {block} is saved",
        )

    def identity(self, service: str) -> tuple[str, list[str]]:
        """A node's public key and addresses."""
        shown = self.facts(service, "/wireguard")
        return shown["publicKey"], sorted(shown["addresses"])

    def rows(self) -> dict[str, dict[str, Any]]:
        """What `deploy status --json` says, by service."""
        shown = json.loads(self.deploy("status", "--json", check=False).out)
        return {row["service"]: row for row in shown["services"]}

    def left(self) -> list[str]:
        """What the engine still has of the project."""
        project = f"label=com.docker.compose.project={self.project}"
        kinds = (("ps", "-aq"), ("volume", "ls", "-q"), ("network", "ls", "-q"))
        found = [self.engine.docker(*kind, "--filter", project).out.split() for kind in kinds]
        images = self.engine.docker("images", "--format", "{{.Repository}}:{{.Tag}}").out.split()
        return [*(x for part in found for x in part), *(i for i in images if self.project in i)]

    def remove(self) -> None:
        """Remove whatever is left of it."""
        say(f"{self.project}: removing")
        self.deploy("cleanup", "--yes", check=False)

    def follow_log(self, *words: str) -> "subprocess.Popen[str]":
        """Begin `deploy logs --follow`."""
        return subprocess.Popen(
            [ROOT / ".venv/bin/dstack-vpn", "deploy", "logs", "--follow", *words],
            env=self.environ, cwd=self.directory, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
