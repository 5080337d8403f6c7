"""The files of the images and of Compose: what they may do, and that they hold together."""

import json
import re
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

import dstack_vpn
from cli.devnet import KEYS
from deploy.compose_files import COMPOSE_FILES, ROOT, compose_file, interpolated, services
from dstack_vpn.config import load_settings
from dstack_vpn.deploy.preflight import COMPOSE_DEFAULTS
from dstack_vpn.deploy.project import BUILD_CA, IMAGES, PROFILE_OF

MAIN, NODE, DSTACK = COMPOSE_FILES
SERVICES = [(path, name) for path in COMPOSE_FILES for name in services(path)]
DOCKERFILES = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docker/*/Dockerfile"))
LOCKS = ["contracts/package-lock.json", "docker/chain/package-lock.json"]
DEFAULTS = load_settings({"NODE_ID": "db", "NETWORK": "hardhat"})


def text_of(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


# Compose files

every_service = pytest.mark.parametrize(("path", "name"), SERVICES)


@every_service
def test_services_have_no_right_that_they_do_not_need(path: str, name: str) -> None:
    """Each has no capability and writes only where it must; nodes may set up devices."""
    service = services(path)[name]
    is_node = service.get("devices") is not None
    assert service["cap_drop"] == ["ALL"]
    assert service.get("cap_add") == (["NET_ADMIN"] if is_node else None)
    assert service.get("devices") in (None, ["/dev/net/tun:/dev/net/tun"])
    assert service["read_only"] is True
    # SELinux would keep a container from the engine's socket.
    label = ["label:disable"] if name == "keeper" else []
    assert service["security_opt"] == ["no-new-privileges:true", *label]
    for key in ("privileged", "pid", "ipc", "userns_mode", "cgroup_parent", "extra_hosts"):
        assert key not in service


@every_service
def test_logs_do_not_fill_the_disk(path: str, name: str) -> None:
    """The engine keeps three files of each container, of 10 MB each."""
    assert services(path)[name]["logging"] == {
        "driver": "json-file",
        "options": {"max-size": "10m", "max-file": "3"},
    }


@every_service
def test_services_come_back(path: str, name: str) -> None:
    """All that is meant to run is started again by the engine; what a user calls is not."""
    called = name in ("keys", "admin")
    policies = (None,) if called else ("unless-stopped", "on-failure:5")
    assert services(path)[name].get("restart") in policies


@every_service
def test_networks_belong_to_who_does_nothing(path: str, name: str) -> None:
    """Nobody uses the host's network, and who joins another's begins after that one."""
    service = services(path)[name]
    mode = service.get("network_mode", "")
    assert mode in ("", "none") or mode.startswith("service:")
    if mode.startswith("service:"):
        owner = services(path)[mode.removeprefix("service:")]
        assert (owner["entrypoint"], owner["command"]) == (["sleep"], ["infinity"])
        assert service["depends_on"] == [mode.removeprefix("service:")]


@every_service
def test_volumes(path: str, name: str) -> None:
    """State is in named volumes; of the host there is nothing but the engine's socket."""
    for volume in services(path)[name].get("volumes", ()):
        source = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).partition(":")[0]
        if source.startswith("/"):
            assert (path, name, source) == (MAIN, "keeper", "/var/run/docker.sock")
        else:
            assert source in compose_file(path)["volumes"]


def test_the_engine_is_in_the_keepers_hands_only() -> None:
    """Who has its socket can do whatever it can, so that one listens to nobody."""
    for path, name in SERVICES:
        with_socket = "docker.sock" in json.dumps(services(path)[name])
        assert with_socket == ((path, name) == (MAIN, "keeper"))
    keeper = services(MAIN)["keeper"]
    assert keeper["network_mode"] == "none"
    assert "ports" not in keeper
    assert keeper["entrypoint"][-1] == "dstack_vpn.deploy.keeper"


@every_service
def test_what_is_published(path: str, name: str) -> None:
    """To the world only WireGuard; all else to this machine unless HEALTH_BIND says otherwise."""
    for port in services(path)[name].get("ports", ()):
        plain = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", port)
        udp = re.fullmatch(rf"\d+:{DEFAULTS.listen_port}/udp", plain)
        tcp = re.fullmatch(rf"127\.0\.0\.1:\d+:({DEFAULTS.health_port}|8545)", plain)
        assert udp or tcp, plain


@every_service
def test_no_secret_stands_in_a_variable(path: str, name: str) -> None:
    """What inspects a container shows its variables: keys are files."""
    environment = services(path)[name].get("environment", {})
    plain = [n for n in environment if re.search("KEY|TOKEN|PASSWORD", n)]
    assert [n for n in plain if not n.endswith("_FILE")] == []
    for variable in plain:
        assert environment[variable].startswith("/run/secrets/")


@pytest.mark.parametrize("path", COMPOSE_FILES)
def test_words_that_stand_nowhere(path: str) -> None:
    """No Compose file asks for the kernel's modules or for everything."""
    for word in ("SYS_MODULE", "SYS_ADMIN", "privileged", "/lib/modules", "latest"):
        assert word not in text_of(path)


def test_services_with_a_profile() -> None:
    """The table of those that are there only with a profile is that of the Compose file."""
    found = {name: s["profiles"] for name, s in services(MAIN).items() if "profiles" in s}
    assert found == {name: [profile] for name, profile in PROFILE_OF.items()}


def test_both_nodes_are_alike() -> None:
    """They differ in name, network and volume, and in nothing else."""
    a, b = services(MAIN)["node-a"], services(MAIN)["node-b"]
    assert json.dumps(a).replace("node-a", "node-b").replace("NODE_A", "NODE_B") == json.dumps(b)
    nets = services(MAIN)["node-a-net"], services(MAIN)["node-b-net"]
    # Ports of one machine must differ.
    ports = [{**net, "ports": None} for net in nets]
    assert json.dumps(ports[0]).replace("node-a", "node-b").replace("NODE_A", "NODE_B") == (
        json.dumps(ports[1])
    )


def test_images_of_the_compose_file_are_built_from_their_files() -> None:
    """Compose would build what `dstack-vpn deploy build` builds."""
    wanted = {f"${{{image.variable}:-{image.default}}}": image.dockerfile for image in IMAGES}
    found = {}
    for service in services(MAIN).values():
        if build := service.get("build"):
            found[service["image"]] = build["dockerfile"]
            assert build["context"] == "."
            assert build["args"] == {"BASE": "${BASE_IMAGE:-debian:bookworm-slim}"}
    assert found == wanted


def test_the_page_that_the_client_looks_for() -> None:
    """It says what the health check looks for, at the address that the first token has."""
    check = services(MAIN)["test-client"]["healthcheck"]["test"]
    phrase = re.search(r"grep -q '([^']+)'", check[1])
    assert phrase
    assert phrase[1] in text_of("docker/nginx/index.html")
    address = dict(interpolated(MAIN))["NODE_A_MESH_ADDRESS"]
    assert IPv4Address(address) == DEFAULTS.ipv4_range[1]


def test_names_and_ports_of_the_network() -> None:
    """What settings say of other services is what those are called, and where they listen."""
    settings = compose_file(MAIN)["x-settings"]
    assert settings["ENDPOINT_TEMPLATE"] == f"{{node_id}}:{DEFAULTS.listen_port}"
    assert COMPOSE_DEFAULTS["RPC_URL"] == "http://chain:8545"
    assert services(MAIN)["init"]["environment"]["RPC_URL"] == COMPOSE_DEFAULTS["RPC_URL"]
    assert services(MAIN)["chain"]["networks"] == services(MAIN)["init"]["networks"]


def test_inside_of_a_dstack_instance() -> None:
    """Images that can be pulled: nothing is built, read from the host or published."""
    for service in services(DSTACK).values():
        assert service.keys() & {"build", "env_file", "ports", "secrets", "configs"} == set()
    parsed = compose_file(DSTACK)
    assert set(parsed) == {"services", "volumes"}
    assert parsed["volumes"] == {"state": {}}
    # An image of this machine would not be found there.
    assert services(DSTACK)["node"]["image"].startswith("${DSTACK_VPN_IMAGE:?")


def test_a_single_node_is_the_same_everywhere() -> None:
    """In a dstack instance it runs as in docker/node, but for its restarts and settings."""
    ours, theirs = dict(services(NODE)["node"]), dict(services(DSTACK)["node"])
    for different in ("image", "restart", "environment"):
        del ours[different], theirs[different]
    assert ours == theirs


def test_the_owner_of_the_local_chain_is_known_to_everybody() -> None:
    """The only key in the repository is that of every local chain's first account."""
    assert text_of("docker/chain/owner.key").strip() == KEYS[0]
    assert compose_file(MAIN)["secrets"] == {"owner_key": {"file": "./docker/chain/owner.key"}}


# Dockerfiles


def instructions(path: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, with continued lines joined."""
    lines = [line for line in text_of(path).splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    words = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [(word, " ".join(rest.split())) for word, rest in words]


def last(path: str, word: str) -> str:
    """What an instruction says the last time."""
    return [rest for found, rest in instructions(path) if found == word][-1]


every_dockerfile = pytest.mark.parametrize("path", DOCKERFILES)


def test_every_image_is_known() -> None:
    """Each Dockerfile is that of an image that the commands build."""
    assert sorted(image.dockerfile for image in IMAGES) == DOCKERFILES


@every_dockerfile
def test_any_engine_builds_it(path: str) -> None:
    """Nothing of BuildKit is needed, and no other image than the base."""
    text = text_of(path)
    assert "# syntax" not in text
    assert "--mount" not in text
    assert "<<" not in text
    found = instructions(path)
    assert found[0] == ("ARG", f"BASE={dict(interpolated(MAIN))['BASE_IMAGE']}")
    assert {rest.partition(" AS ")[0] for word, rest in found if word == "FROM"} == {"${BASE}"}
    assert "ADD" not in {word for word, _ in found}


def commands(path: str) -> list[str]:
    """What a Dockerfile runs."""
    ran = [rest for word, rest in instructions(path) if word == "RUN"]
    return [command for rest in ran for command in rest.split(" && ")]


@every_dockerfile
def test_all_that_is_installed_is_locked(path: str) -> None:
    """Python's packages by hashes, npm's by their lock, without scripts; nothing from elsewhere."""
    for command in commands(path):
        program, *words = command.split()
        assert program not in ("curl", "wget", "git", "sh")
        if program == "apt-get" and words[0] == "install":
            assert "--no-install-recommends" in words
        if program.endswith("pip") and "install" in words and "/tmp/wheel/*.whl" not in words:
            assert "--require-hashes --no-deps --only-binary :all:" in command
        if program == "npm":
            assert words[0] == "ci"
            assert "--ignore-scripts" in words


@every_dockerfile
def test_stages_that_build_leave_nothing(path: str) -> None:
    """What they trusted and used is not in the image, and they can be found and removed."""
    found = instructions(path)
    stages = [i for i, (word, _) in enumerate(found) if word == "FROM"]
    for first in stages[:-1]:
        assert found[first + 1] == ("LABEL", "org.dstack-vpn.stage=build")
    final = found[stages[-1] :]
    assert not [rest for word, rest in final if word == "COPY" and "docker/ca" in rest]
    installed = " ".join(rest for word, rest in final if word == "RUN")
    assert "rm -rf /var/lib/apt/lists/*" in installed
    assert "pip" not in installed


@every_dockerfile
def test_what_is_copied_is_there(path: str) -> None:
    """Each file goes to the engine, whatever .dockerignore leaves out."""
    allowed = re.findall(r"^!(\S+)$", text_of(".dockerignore"), re.MULTILINE)
    for word, rest in instructions(path):
        if word == "COPY" and not rest.startswith("--from="):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists()
                assert Path(source).parts[0] in allowed


@every_dockerfile
def test_how_it_runs(path: str) -> None:
    """A signal reaches the program by way of tini, and only a node is root."""
    assert json.loads(last(path, "ENTRYPOINT"))[:2] == ["/usr/bin/tini", "--"]
    users = [rest for word, rest in instructions(path) if word == "USER"]
    assert (
        users
        == {
            "docker/chain/Dockerfile": ["nobody"],
            "docker/nginx/Dockerfile": ["www-data"],
            "docker/wireguard/Dockerfile": [],
        }[path]
    )


def test_the_image_of_a_node() -> None:
    """Its version, ports and health check are those of the package."""
    path = "docker/wireguard/Dockerfile"
    arguments = dict(rest.split("=", 1) for word, rest in instructions(path) if word == "ARG")
    assert arguments["VERSION"] == dstack_vpn.__version__
    ports = f"{DEFAULTS.listen_port}/udp {DEFAULTS.health_port}/tcp"
    assert last(path, "EXPOSE") == ports
    assert last(path, "HEALTHCHECK").endswith('CMD ["python", "-I", "-m", "dstack_vpn.probe"]')
    assert json.loads(last(path, "CMD")) == ["up", "--exit-by-signal"]
    labels = last(path, "LABEL").replace('"', "")
    assert "org.opencontainers.image.title=dstack-vpn" in labels


def test_certificates_for_builds_stay_out_of_git() -> None:
    """Everything in docker/ca but what explains it is ignored."""
    assert BUILD_CA.parent == Path("docker/ca")
    assert BUILD_CA.suffix == ".crt"
    ignored = text_of("docker/ca/.gitignore").split()
    assert ignored == ["*", "!.gitignore", "!README.md"]


# Locks


def test_the_chain_is_the_one_of_the_tests() -> None:
    """The image has the anvil that everything is tested with, by the same lock."""
    image = json.loads(text_of("docker/chain/package.json"))["dependencies"]
    tests = json.loads(text_of("contracts/package.json"))["devDependencies"]
    assert image == {"@foundry-rs/anvil": tests["@foundry-rs/anvil"]}
    ours, theirs = (json.loads(text_of(lock))["packages"] for lock in reversed(LOCKS))
    for name, package in ours.items():
        # The lock of the tests has no hashes of packages for other platforms.
        if "integrity" in theirs[name]:
            assert package["integrity"] == theirs[name]["integrity"]


@pytest.mark.parametrize("path", LOCKS)
def test_npm_locks_name_no_registry(path: str) -> None:
    """Packages come from wherever npm is told to look; what they are says their hash."""
    packages: dict[str, Any] = json.loads(text_of(path))["packages"]
    del packages[""]
    for name, package in packages.items():
        assert "resolved" not in package, name
        if not (path == LOCKS[0] and package.get("optional")):
            assert package["integrity"].startswith("sha512-"), name


@pytest.mark.parametrize("path", sorted(p.name for p in ROOT.glob("requirements/*.txt")))
def test_python_locks_name_no_index(path: str) -> None:
    """So it is with Python's packages."""
    lines = text_of(f"requirements/{path}").splitlines()
    assert [line for line in lines if "://" in line or line.startswith("-")] == []
    packages = [line for line in lines if re.match(r"\w", line)]
    assert packages
    assert all(re.match(r"[\w.-]+==[\w.+]+ .*\\$", line) for line in packages)
