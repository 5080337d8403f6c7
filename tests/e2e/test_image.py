"""The image of the nodes: what is in it, what it runs with, what it does with a wrong setting."""

import io
import json
import re
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack_vpn import __version__
from e2e.engine import Ended, Engine, eventually

RIGHTS = (
    "--cap-drop", "ALL", "--cap-add", "NET_ADMIN", "--device", "/dev/net/tun", "--read-only",
    "--security-opt", "no-new-privileges:true", "--tmpfs", "/run", "--tmpfs", "/tmp",
    "--tmpfs", "/var/lib/dstack-vpn",
)  # fmt: skip
"""What the documented set-up gives a node, and nothing more."""
NET_ADMIN = 1 << 12
SETTINGS = {"NODE_ID": "node-x", "NETWORK": "hardhat", "RPC_URL": "http://192.0.2.1:8545"}
BUILD_TOOLS = ("gcc", "cc", "make", "pip", "pip3", "npm", "node", "git", "go", "cargo", "ld", "as")


@pytest.fixture
def container(engine: Engine) -> Iterator[str]:
    """A name for a container of the test; whatever has it at the end is removed."""
    name = f"dstack-e2e-{uuid.uuid4().hex[:12]}"
    yield name
    engine.docker("rm", "--force", "--volumes", name, check=False)


def variables(settings: dict[str, str]) -> list[str]:
    """Options that set variables."""
    return [word for name, value in settings.items() for word in ("--env", f"{name}={value}")]


def run_node(engine: Engine, image: str, *options: str) -> Ended:
    """Run a node that is expected to end by itself."""
    return engine.docker("run", "--rm", *RIGHTS, *options, image, check=False)


@pytest.fixture(scope="module")
def files(engine: Engine, image: str) -> list[tarfile.TarInfo]:
    """All that is in the image's file system."""
    return list(_tar(engine, image).getmembers())


def _tar(engine: Engine, image: str) -> tarfile.TarFile:
    made = engine.docker("create", image).out.strip()
    path = Path(engine.docker("info", "--format", "{{.DockerRootDir}}").out.strip())
    try:
        exported = path.parent / f"{uuid.uuid4().hex}.tar"
        engine.docker("export", "--output", str(exported), made, within=300)
        data = exported.read_bytes()
        exported.unlink()
    finally:
        engine.docker("rm", made)
    return tarfile.open(fileobj=io.BytesIO(data))


def test_no_build_tool_is_in_it(files: list[tarfile.TarInfo]) -> None:
    """Neither a compiler nor a package manager of a language, nor what such leave behind."""
    programs = {Path(f.name).name for f in files if Path(f.name).parent.name in ("bin", "sbin")}
    assert programs & set(BUILD_TOOLS) == set()
    assert {"wireguard-go", "wg", "ip", "tini", "dstack-vpn"} <= programs
    names = [f.name for f in files]
    assert [n for n in names if n.endswith((".whl", ".deb", ".o", ".a"))] == []
    assert [n for n in names if "/var/lib/apt/lists/" in f"/{n}" and n.endswith("_Packages")] == []


def test_no_secret_and_no_certificate_of_the_build_is_in_it(
    engine: Engine, image: str, build_ca: Path
) -> None:
    """What the build was made to trust, and what looks like a private key, is not there."""
    lines = {line for line in build_ca.read_bytes().splitlines() if len(line) == 64}
    assert lines
    with _tar(engine, image) as tar:
        found = []
        for member in tar:
            parts = Path(member.name).parts
            if not member.isfile() or member.size > 4 << 20:
                continue
            file = tar.extractfile(member)
            text = file.read() if file else b""
            if b"PRIVATE KEY-----\n" in text and parts[:1] == ("etc",):
                found.append(member.name)
            if member.name.startswith(("etc/ssl", "usr/local/share/ca", "opt", "root", "home")):
                found += [member.name for line in lines if line in text]
            if Path(member.name).name in (
                ".env",
                "wireguard.key",
                "owner.key",
                ".npmrc",
                "pip.conf",
            ):
                found.append(member.name)
    assert found == []
    history = engine.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image).out
    assert "PRIVATE" not in history
    assert "BEGIN CERTIFICATE" not in history


def test_it_says_what_it_is(engine: Engine, image: str) -> None:
    """Labels, health check, entry point and ports are as the docs have them."""
    (shown,) = json.loads(engine.docker("image", "inspect", image).out)
    config = shown["Config"]
    assert config["Labels"]["org.opencontainers.image.version"] == __version__
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert config["Healthcheck"]["Test"][-1] == "dstack_vpn.probe"
    assert config["Entrypoint"] == ["/usr/bin/tini", "--", "dstack-vpn"]
    assert set(config["ExposedPorts"]) == {"51820/udp", "8080/tcp"}
    assert not config.get("Volumes")
    version = engine.docker("run", "--rm", image, "--version").out
    assert version.split() == ["dstack-vpn", __version__]


def test_it_runs_with_net_admin_and_nothing_more(
    engine: Engine, image: str, container: str
) -> None:
    """With exactly the documented rights the device is made and process 1 is an init."""
    engine.docker("run", "--detach", "--name", container, *RIGHTS, *variables(SETTINGS), image)
    eventually(lambda: "bridge.started" in engine.docker("logs", container).text, "it has started")
    status = engine.docker("exec", container, "cat", "/proc/1/status").out
    sets = dict(re.findall(r"^(Cap\w+):\s+(\w+)$", status, re.MULTILINE))
    assert {int(sets[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {NET_ADMIN}
    assert engine.docker("exec", container, "cat", "/proc/1/comm").out.strip() == "tini"
    make = ("wireguard-go", "wgtest")
    engine.docker("exec", container, *make)
    engine.docker("exec", container, "ip", "link", "set", "wgtest", "up")
    assert engine.docker("exec", container, "touch", "/etc/x", check=False).code != 0


def test_it_stops_in_order_and_by_its_signal(engine: Engine, image: str, container: str) -> None:
    """`docker stop` reaches the agent, which ends at once; the exit code is that of the signal."""
    engine.docker("run", "--detach", "--name", container, *RIGHTS, *variables(SETTINGS), image)
    eventually(lambda: "bridge.started" in engine.docker("logs", container).text, "it has started")
    engine.docker("stop", "--time", "20", container)
    assert "bridge.stopped" in engine.docker("logs", container).text
    code = engine.docker("inspect", "--format", "{{.State.ExitCode}}", container).out
    assert code.strip() == "143"


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"NODE_ID": ""}, "NODE_ID is missing"),
        ({"NODE_ID": "Not A Label"}, "NODE_ID is not a DNS label"),
        ({"NETWORK": "mainnet"}, "NETWORK is 'mainnet'"),
        ({"NETWORK": "base"}, "CONTRACT_ADDRESS is missing"),
        ({"CONTRACT_ADDRESS": "0x12"}, "CONTRACT_ADDRESS is not an address"),
        ({"RPC_URL": "ftp://rpc.example"}, "RPC_URL has no usable URL at place 1"),
        ({"NETWORK": "base", "CONTRACT_ADDRESS": "0x" + "1" * 40, "RPC_URL": ""}, "RPC_URL is m"),
        ({"WIREGUARD_PRIVATE_KEY": "garbage"}, "WIREGUARD_PRIVATE_KEY holds no WireGuard private"),
        ({"WIREGUARD_PRIVATE_KEY_FILE": "/run/none"}, "WIREGUARD_PRIVATE_KEY_FILE names no file"),
        ({"MTU": "9"}, "MTU is 9"),
        ({"SYNC_INTERVAL": "soon"}, "SYNC_INTERVAL is 'soon'"),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL is 'loud'"),
    ],
)  # fmt: skip
def test_a_wrong_environment_is_named(
    engine: Engine, image: str, changed: dict[str, str], named: str
) -> None:
    """Exit code 2, and a sentence with the variable, what is wrong and what is accepted."""
    ended = run_node(engine, image, *variables(SETTINGS | changed))
    assert ended.code == 2
    lines = [line for line in ended.err.splitlines() if line.startswith("dstack-vpn: ")]
    assert any(named in line and "accepted" in line for line in lines), ended.err
    assert "Traceback" not in ended.text
    assert "garbage" not in ended.text


def test_all_that_is_wrong_is_named_at_once(engine: Engine, image: str) -> None:
    """Three mistakes are three sentences of one start."""
    wrong = {"NODE_ID": "", "RPC_URL": "nowhere", "MTU": "9"}
    ended = run_node(engine, image, *variables(SETTINGS | wrong))
    assert ended.code == 2
    for name in wrong:
        assert f"dstack-vpn: {name} " in ended.err


def test_a_mistake_is_tried_a_few_times_and_then_shown(
    engine: Engine, image: str, container: str
) -> None:
    """Under the documented restart policy it ends as exited with code 2, not in a loop."""
    policy = ("--restart", "on-failure:5")
    engine.docker("run", "--detach", "--name", container, *policy, *RIGHTS, image)
    form = "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}"
    look = ("inspect", "--format", form, container)
    eventually(lambda: engine.docker(*look).out.split() == ["exited", "2", "5"], "it is given up")


def test_without_the_device_it_says_what_to_give(engine: Engine, image: str) -> None:
    """Where the container has no /dev/net/tun, what makes the device says to give it one."""
    lacks = [w for w in RIGHTS if w not in ("--device", "/dev/net/tun")]
    tool = ["--entrypoint", "python", *variables(SETTINGS)]
    code = (
        "import asyncio; from pathlib import Path; from dstack_vpn.mesh.keys import PrivateKey;"
        "from dstack_vpn.wireguard.userspace import UserspaceDevice as D;"
        "asyncio.run(D('wg0', PrivateKey.generate(), marker_path=Path('/tmp/m')).create())"
    )
    ended = engine.docker("run", "--rm", *lacks, *tool, image, "-c", code, check=False)
    assert "HostError: there is no /dev/net/tun" in ended.err
    assert "--device /dev/net/tun" in ended.err


def test_a_mounted_secret_may_have_any_mode(engine: Engine, image: str, tmp_path: Path) -> None:
    """A key below /run/secrets is read though others could; elsewhere the same file is refused."""
    key = tmp_path / "node.key"
    key.write_text(engine.docker("run", "--rm", image, "keys", "generate").out.split()[1] + "\n")
    key.chmod(0o644)
    public = engine.docker(
        "run", "--rm", "-v", f"{key}:/run/secrets/key:ro", image,
        "keys", "public", "--file", "/run/secrets/key",
    ).out.strip()  # fmt: skip
    dry = ("dstack-vpn", "up", "--dry-run")
    for place, code in (("/run/secrets/key", 1), ("/etc/key", 2)):
        settings = SETTINGS | {"WIREGUARD_PRIVATE_KEY_FILE": place}
        ended = engine.docker(
            "run", "--rm", *RIGHTS, "-v", f"{key}:{place}:ro", *variables(settings), image,
            *dry[1:], check=False,
        )  # fmt: skip
        # With a readable key it goes on, to a chain that does not answer.
        assert ended.code == code, ended.text
        assert ("others can read" in ended.err) is (code == 2)
    assert len(public) == 44


def test_without_ipv6_it_goes_on_with_ipv4(engine: Engine, image: str, container: str) -> None:
    """Where IPv6 is switched off a node starts, and warns."""
    off = (
        "--sysctl",
        "net.ipv6.conf.all.disable_ipv6=1",
        "--sysctl",
        "net.ipv6.conf.default.disable_ipv6=1",
    )
    engine.docker(
        "run", "--detach", "--name", container, *off, *RIGHTS, *variables(SETTINGS), image
    )
    eventually(lambda: "bridge.started" in engine.docker("logs", container).text, "it has started")
    assert "host.ipv6_off" in engine.docker("logs", container).text
