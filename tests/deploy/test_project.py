"""The steps of a deployment: what they tell Docker and Compose, and make of the answers."""

import json
import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy.fake_docker import End, FakeDocker
from deploy.samples import PROBE_CHECK, inspected
from dstack_vpn.deploy import preflight
from dstack_vpn.deploy import project as steps
from dstack_vpn.deploy.engine import DeployError
from dstack_vpn.deploy.project import Project, open_project
from dstack_vpn.errors import SettingError, SettingsError, UserError

PLUGIN = ("docker", "compose")
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n"
NODE = {"Healthcheck": {"Test": ["CMD", *PROBE_CHECK]}}
LABELS = {"com.docker.compose.project": "vpn"}


@pytest.fixture
def project(docker: FakeDocker, checkout: Path) -> Project:
    """A project with a local chain and the keeper, none of which is there yet."""
    opened = open_project(checkout, keeper=True)
    docker.forget()
    return opened


def node(service: str, **facts: Any) -> dict[str, Any]:
    """The container of a node, as the engine describes it."""
    described = inspected(service, **facts)
    described["Config"] |= NODE
    return described


def sentences(caught: pytest.ExceptionInfo[UserError]) -> list[str]:
    """What is wrong, without what is accepted."""
    found = [sentence.partition("; accepted: ") for sentence in caught.value.sentences]
    assert all(accepted for _, _, accepted in found)
    return [wrong for wrong, _, _ in found]


# Opening


def test_without_settings(docker: FakeDocker, checkout: Path) -> None:
    """There is a chain of its own, and the keeper only if it is wanted or there already."""
    assert open_project(checkout).profiles == {"local-chain"}
    assert open_project(checkout, keeper=True).profiles == {"local-chain", "keeper"}
    docker.has(inspected("keeper"))
    assert open_project(checkout).profiles == {"local-chain", "keeper"}
    assert open_project(checkout, keeper=False).profiles == {"local-chain"}


@pytest.mark.parametrize(
    ("text", "given", "profiles"),
    [
        ("NETWORK=base\n", [], set()),
        ("NETWORK=base\nCOMPOSE_PROFILES=local-chain\n", [], {"local-chain"}),
        ("RPC_URL=http://chain.example:8545\n", [], set()),
        ("RPC_URL=http://chain.example:8545\n", ["local-chain"], {"local-chain"}),
        ("RPC_URL=http://chain:8545\n", [], {"local-chain"}),
        ("COMPOSE_PROFILES= admin , keys,\n", [], {"admin", "keys", "local-chain"}),
        ("COMPOSE_PROFILES=keeper\n", [], {"local-chain"}),
    ],
)
def test_profiles(
    docker: FakeDocker, checkout: Path, text: str, given: list[str], profiles: set[str]
) -> None:
    """Those of .env and of the command line, and the local chain where no other one is named."""
    (checkout / ".env").write_text(text)
    opened = open_project(checkout, profiles=given)
    assert opened.profiles == profiles
    opened.engine.compose("ps")
    assert docker.calls[-1].variables["COMPOSE_PROFILES"] == ",".join(sorted(profiles))


def test_the_environment_comes_before_the_file(
    docker: FakeDocker, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Compose itself has it; what is empty counts as absent."""
    monkeypatch.setenv("MTU", "1300")
    (checkout / ".env").write_text("MTU=1400\nQUORUM=1\nKEEPALIVE=\n")
    opened = open_project(checkout)
    assert [opened.value(n, "x") for n in ("MTU", "QUORUM", "KEEPALIVE")] == ["1300", "1", "x"]


def test_everything_that_is_missing_is_told_at_once(docker: FakeDocker, tmp_path: Path) -> None:
    """No Compose file, no engine, no Compose, and a file of settings that is none."""
    docker.remove("docker")
    (tmp_path / ".env").write_text("MTU 1400\n")
    with pytest.raises(SettingsError) as caught:
        open_project(tmp_path)
    assert sentences(caught) == [
        f"--directory has no docker-compose.yml ({tmp_path})",
        f".env has no NAME=value on line 1 of {tmp_path}/.env",
        "docker is not installed",
        "Compose is not installed",
    ]


def test_the_compose_of_old(docker: FakeDocker, checkout: Path) -> None:
    """Where there is no plugin, the program of old does the same."""
    docker.answer(*PLUGIN, code=1)
    docker.install("docker-compose")
    docker.answer("docker-compose", "version", out="1.29.2\n")
    steps.up(open_project(checkout))
    assert docker.called("docker-compose", "up")
    docker.answer("docker-compose", "version", out="1.28.0\n")
    with pytest.raises(SettingsError) as caught:
        open_project(checkout)
    assert sentences(caught) == ["Compose is version 1.28.0"]


@pytest.mark.parametrize(
    ("host", "text", "socket"),
    [
        ("unix:///var/run/docker.sock", "", "/var/run/docker.sock"),
        ("unix:///run/user/1000/docker.sock", "", "/run/user/1000/docker.sock"),
        ("unix:///var/run/docker.sock", "DOCKER_SOCKET=/srv/s\n", "/srv/s"),
        # The socket of another machine is where that has it.
        ("ssh://me@host.example", "", None),
    ],
)
def test_the_socket_of_the_keeper(
    docker: FakeDocker, checkout: Path, host: str, text: str, socket: str | None
) -> None:
    """It is that of the engine in use, unless .env says otherwise."""
    docker.answer("docker", "context", "inspect", out=f"{host}\n")
    (checkout / ".env").write_text(text)
    opened = open_project(checkout)
    opened.engine.compose("ps")
    assert docker.calls[-1].variables.get("DOCKER_SOCKET") == socket
    assert opened.local_engine == host.startswith("unix")


def test_a_host_without_ipv6(
    docker: FakeDocker, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would switch it on inside is replaced, for there is nothing to switch."""
    for there, told in ((tmp_path, None), (tmp_path / "none", steps.NO_IPV6)):
        monkeypatch.setattr(steps, "IPV6", there)
        open_project(checkout).engine.compose("ps")
        assert docker.calls[-1].variables.get("IPV6_SYSCTL") == told


# Checks


def test_all_mistakes_are_told_at_once(docker: FakeDocker, checkout: Path) -> None:
    """Settings and ports, in one go."""
    docker.answer("docker", "context", "inspect", out="tcp://192.0.2.1:2376\n")
    (checkout / ".env").write_text("MTU=1\nLOG_LEVEL=loud\nCHAIN_PORT=x\nNODE_B_HEALTH_PORT=8080\n")
    with pytest.raises(SettingsError) as caught:
        steps.check(open_project(checkout))
    assert sentences(caught) == [
        "MTU is 1",
        "LOG_LEVEL is 'loud'",
        "NODE_A_HEALTH_PORT and NODE_B_HEALTH_PORT are both 8080",
        "CHAIN_PORT is 'x'",
    ]
    (checkout / ".env").unlink()
    steps.check(open_project(checkout))


@pytest.mark.parametrize(
    "case",
    [
        ("unix:///var/run/docker.sock", "exited", True),
        # Then it is our own containers that have the ports.
        ("unix:///var/run/docker.sock", "running", False),
        # Nobody knows the ports of another machine.
        ("tcp://192.0.2.1:2376", "exited", False),
    ],
)
def test_ports_are_tried_where_that_tells_something(
    docker: FakeDocker,
    checkout: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[str, str, bool],
) -> None:
    """Only on this machine, and only while the project is down."""
    host, state, tried = case
    docker.answer("docker", "context", "inspect", out=f"{host}\n")
    docker.has(inspected(state={"Status": state}))
    monkeypatch.setattr(preflight, "ports_in_use", lambda *_: [UserError("a; accepted: b")])
    monkeypatch.setattr(preflight, "tun_errors", lambda: [UserError("c; accepted: d")])
    wrong = (["a"] if tried else []) + (["c"] if host.startswith("unix") else [])
    opened = open_project(checkout)
    if not wrong:
        steps.check(opened)
        return
    with pytest.raises(SettingsError) as caught:
        steps.check(opened)
    assert sentences(caught) == wrong


def test_env_is_written_once(project: Project) -> None:
    """It is for its owner only, and one that is there stays as it is."""
    path = project.directory / ".env"
    old = os.umask(0)
    try:
        assert steps.write_env(project, "#MTU=1420\n") == path
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == "#MTU=1420\n"
    path.write_text("MTU=1300\n")
    assert steps.write_env(project, "#MTU=1420\n") is None
    assert path.read_text() == "MTU=1300\n"
    path.unlink()
    # A link to what is not there yet is somebody's wish, too.
    path.symlink_to("/nowhere/.env")
    assert steps.write_env(project, "x") is None
    path.unlink()
    shutil.rmtree(project.directory)
    with pytest.raises(DeployError, match=r"\.env cannot be written: No such file"):
        steps.write_env(project, "x")


# Images


def built(docker: FakeDocker) -> list[tuple[str, ...]]:
    """The rest of each `docker build`."""
    return docker.called("docker", "build")


def test_images_are_built(docker: FakeDocker, project: Project) -> None:
    """All that are made here, each from its Dockerfile, in the directory of the project."""
    said: list[str] = []
    tags = ["dstack-vpn:local", "dstack-vpn-nginx:local", "dstack-vpn-chain:local"]
    assert steps.build(project, build_ca=None, say=said.append) == tags
    files = ["docker/wireguard/Dockerfile", "docker/nginx/Dockerfile", "docker/chain/Dockerfile"]
    assert built(docker) == [("-f", f, "-t", t, ".") for f, t in zip(files, tags, strict=True)]
    assert {call.directory for call in docker.calls} == {project.directory}
    assert [line.partition(":local: ")[2].split()[0] for line in said] == ["building", "built"] * 3


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("NETWORK=base\n", ["dstack-vpn:local", "dstack-vpn-nginx:local"]),
        (
            "DSTACK_VPN_IMAGE=registry.example/dstack-vpn:1\nNETWORK=base\n",
            ["dstack-vpn-nginx:local"],
        ),
        (
            "DSTACK_VPN_IMAGE=dstack-vpn:next\nNGINX_IMAGE=nginx\n",
            ["dstack-vpn:next", "dstack-vpn-chain:local"],
        ),
        ("DSTACK_VPN_IMAGE=a\nNGINX_IMAGE=b\nCHAIN_IMAGE=c\n", []),
    ],
)
def test_images_of_others_are_not_built(
    docker: FakeDocker, checkout: Path, text: str, tags: list[str]
) -> None:
    """What a variable names is pulled, unless it is one of ours under another tag."""
    (checkout / ".env").write_text(text)
    assert steps.build(open_project(checkout), build_ca=None, say=print) == tags
    assert [words[3] for words in built(docker)] == tags


def test_the_base_is_handed_on(docker: FakeDocker, checkout: Path) -> None:
    """Every image is made of the same one."""
    (checkout / ".env").write_text("BASE_IMAGE=debian:trixie-slim\n")
    steps.build(open_project(checkout), build_ca=None, say=print)
    assert {words[4:] for words in built(docker)} == {
        ("--build-arg", "BASE=debian:trixie-slim", ".")
    }


def test_a_build_that_fails_is_the_last(docker: FakeDocker, project: Project) -> None:
    """It has told why, and the next one would only hide that."""
    docker.answer("docker", "build", code=1)
    with pytest.raises(DeployError, match=r"docker build failed \(exit code 1\); see above"):
        steps.build(project, build_ca=None, say=print)
    assert len(built(docker)) == 1


@pytest.mark.parametrize("code", [0, 1])
@pytest.mark.parametrize("by_variable", [False, True])
def test_certificates_are_there_for_the_build_only(
    docker: FakeDocker, checkout: Path, by_variable: bool, code: int
) -> None:
    """Builds find them, and they are taken away again, whether the build worked or not."""
    (checkout / "proxy.pem").write_text(CERTIFICATE)
    given: Path | None = checkout / "proxy.pem"
    if by_variable:
        # A path that is relative counts from where .env is.
        (checkout / ".env").write_text("BUILD_CA_FILE=proxy.pem\n")
        given = None
    docker.answer("docker", "build", code=code)
    project = open_project(checkout)
    if code:
        with pytest.raises(DeployError):
            steps.build(project, build_ca=given, say=print)
    else:
        steps.build(project, build_ca=given, say=print)
    builds = [call for call in docker.calls if call.words[1] == "build"]
    assert len(builds) == (1 if code else 3)
    assert all(call.certificates == ["this-build.crt"] for call in builds)
    assert list((checkout / "docker/ca").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (None, "--build-ca cannot be read ({}: No such file or directory)"),
        ("", "--build-ca does not hold certificates alone ({})"),
        ("\0DER", "--build-ca does not hold certificates alone ({})"),
        (
            CERTIFICATE + "-----BEGIN EC PRIVATE KEY-----\n",
            "--build-ca does not hold certificates alone ({})",
        ),
    ],
)
def test_files_that_hold_no_certificates(
    docker: FakeDocker, project: Project, tmp_path: Path, content: str | None, wrong: str
) -> None:
    """They are told before anything is built, above all where a key would get into an image."""
    path = tmp_path / "proxy.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingError) as caught:
        steps.build(project, build_ca=path, say=print)
    assert sentences(caught) == [wrong.format(path)]
    assert built(docker) == []
    assert list((project.directory / "docker/ca").iterdir()) == []


# Keys


def test_keys_are_made_where_they_stay(docker: FakeDocker, project: Project) -> None:
    """A container with the volumes of the nodes makes them, and tells the public halves."""
    docker.answer(*PLUGIN, "run", out='{"node-a": "K1", "node-b": "K2"}\n', err="Creating\n")
    assert steps.make_keys(project) == {"node-a": "K1", "node-b": "K2"}
    (call,) = docker.calls
    assert call.words == (*PLUGIN, "run", "--rm", "--no-deps", "-T", "keys")
    assert call.variables["COMPOSE_PROFILES"] == "keeper,keys,local-chain"


@pytest.mark.parametrize("out", ["", "done\n", "[]", "null", '"K1"', "7"])
def test_keys_that_are_not_told(docker: FakeDocker, project: Project, out: str) -> None:
    """Without the public halves nothing can be registered."""
    docker.answer(*PLUGIN, "run", out=out)
    with pytest.raises(DeployError, match="their public halves were not told"):
        steps.make_keys(project)


# Starting and waiting


def test_what_is_made_and_started(docker: FakeDocker, project: Project) -> None:
    """All of it, or single services without touching what they need."""
    steps.up(project)
    steps.up(project, "node-a", "node-b")
    steps.up(project, "node-a", recreate=True)
    steps.up(project, recreate=False)
    assert docker.called(*PLUGIN, "up", "--detach", "--no-build") == [
        (),
        ("--no-deps", "node-a", "node-b"),
        ("--force-recreate", "--no-deps", "node-a"),
        ("--no-recreate",),
    ]


def test_what_a_profile_that_is_off_left_goes(docker: FakeDocker, project: Project) -> None:
    """Compose would leave it where it is, such as a local chain that is no longer wanted."""
    docker.has(inspected("chain"), inspected("init"), inspected("keeper"), inspected("node-a"))
    steps.up(replace(project, profiles=frozenset()))
    assert docker.called(*PLUGIN, "rm") == [("--stop", "--force", "chain", "init", "keeper")]


def test_whoever_is_left_in_an_old_network_is_started_anew(
    docker: FakeDocker, project: Project
) -> None:
    """A holder that was made anew leaves its joiners alone in the old network."""
    net = inspected("node-a-net", state={"StartedAt": "2023-11-14T21:13:25Z"})
    joiner = inspected("node-a", host={"NetworkMode": "container:node-a-net-id"})
    docker.has(net, joiner, inspected("chain"))
    steps.up(project)
    assert docker.called("docker", "restart") == [("node-a-id",)]


def test_a_keeper_that_is_not_wanted_goes(docker: FakeDocker, project: Project) -> None:
    """Single services do not care."""
    docker.has(inspected("keeper"), inspected("node-a"))
    steps.up(project)
    assert docker.called(*PLUGIN, "rm") == []
    without = project.without("keeper")
    steps.up(without, "node-a")
    assert docker.called(*PLUGIN, "rm") == []
    steps.up(without)
    assert docker.called(*PLUGIN, "rm") == [("--stop", "--force", "keeper")]
    docker.forget()
    docker.has(inspected("node-a"))
    steps.up(without)
    assert docker.called(*PLUGIN, "rm") == []


@pytest.mark.parametrize(
    ("directory", "given", "told"),
    [
        ("My Checkout", "", None),
        ("\u90e8\u7f72", "", "is missing, and the directory's name makes none"),
        ("\u90e8\u7f72", "vpn", None),
        ("vpn", "My Project", "is 'My Project'"),
    ],
)
def test_a_project_has_a_name(
    docker: FakeDocker, checkout: Path, directory: str, given: str, told: str | None
) -> None:
    """Without one its containers could not be found; Compose makes it of the directory's name."""
    place = checkout.rename(checkout.with_name(directory))
    (place / ".env").write_text(f"COMPOSE_PROJECT_NAME={given}\n")
    docker.answer("docker", "context", "inspect", out="tcp://192.0.2.1:2376\n")
    if told is None:
        assert open_project(place).engine.project == (given or "mycheckout")
        return
    with pytest.raises(SettingsError, match=f"COMPOSE_PROJECT_NAME {told}; accepted: a-z"):
        open_project(place)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look again without a pause."""
    monkeypatch.setattr(steps, "POLL", 0)


READY, NOT_READY = '{"ready":true}\n', '{"ready":false,"reason":"no device"}\n'


@pytest.mark.usefixtures("at_once")
def test_waiting_until_all_is_ready(docker: FakeDocker, project: Project) -> None:
    """Each service is told of when it changes, and what did its work is ready too."""
    init = inspected("init", state={"Status": "exited"})
    init["HostConfig"]["RestartPolicy"]["Name"] = "on-failure"
    docker.has(node("node-a"), inspected("node-a-net"), init)
    docker.answers(
        "docker",
        "exec",
        "node-a-id",
        *PROBE_CHECK,
        ends=[End(NOT_READY, code=1), End(""), End(NOT_READY, code=1), End(""), End(READY)],
    )
    said: list[str] = []
    rows = steps.wait_ready(project, timeout=20, say=said.append)
    assert [(row.service, row.state, row.ok) for row in rows] == [
        ("init", "done", True),
        ("node-a", "running", True),
        ("node-a-net", "running", True),
    ]
    assert [line.split(" s  ")[1] for line in said] == [
        "init: ready",
        f"node-a: running, unhealthy, {NOT_READY.strip()}",
        "node-a-net: ready",
        "node-a: ready",
    ]


@pytest.mark.usefixtures("at_once")
def test_what_has_ended_is_not_waited_for(docker: FakeDocker, project: Project) -> None:
    """A service that failed for good is told at once, with the end of its log."""
    docker.has(node("node-a", state={"Status": "exited", "ExitCode": 2}), node("node-b"))
    docker.answer("docker", "exec", out=READY)
    log = '2023-11-14T22:13:20.5Z {"event": "agent.mistake", "level": "error", "x": "\\u001b[2J"}'
    docker.answer("docker", "logs", err=f"{log}\n")
    said: list[str] = []
    with pytest.raises(DeployError, match=r"^node-a: ended with exit code 2$"):
        steps.wait_ready(project, timeout=3600, say=said.append)
    assert said[-2:] == [
        "--- the last lines of node-a",
        r'22:13:20.5Z  node-a error agent.mistake x="\u001b[2J"',
    ]
    assert docker.called("docker", "logs") == [("--timestamps", "--tail", "20", "node-a-id")]


@pytest.mark.usefixtures("at_once")
def test_waiting_has_an_end(docker: FakeDocker, project: Project) -> None:
    """What is not ready in time is told, and a log that cannot be read hides nothing."""
    docker.has(node("node-a"))
    docker.answer("docker", "exec", err="the node does not answer\n", code=1)
    docker.answer("docker", "logs", err="no log\n", code=1)
    docker.answer(*PLUGIN, "config", out="node-a\nchain\n")
    said: list[str] = []
    with pytest.raises(DeployError) as caught:
        steps.wait_ready(project, timeout=0, say=said.append)
    assert str(caught.value) == (
        "not ready after 0 s: chain: there is no container; `dstack-vpn deploy` makes it;"
        " node-a: the node does not answer"
    )
    assert said[-1] == "docker logs failed: no log"


def test_only_some_services_are_waited_for(docker: FakeDocker, project: Project) -> None:
    """The others may be as they like."""
    docker.has(inspected("a"), inspected("b", state={"Status": "exited", "ExitCode": 1}))
    assert len(steps.wait_ready(project, timeout=0, say=print, services=["a"])) == 1


def test_status_asks_the_nodes(docker: FakeDocker, project: Project) -> None:
    """Of a node: its health check, its health, and its device; of others their health check."""
    docker.has(
        node("node-a"),
        inspected("web", config={"Labels": {**LABELS, "com.docker.compose.service": "web"}}
                  | {"Healthcheck": {"Test": ["CMD-SHELL", "curl -f x"]}}),
        node("down", state={"Status": "exited", "ExitCode": 143}),
    )  # fmt: skip
    docker.answer("docker", "exec", "node-a-id", *PROBE_CHECK, out=READY)
    health = {
        "chain": {"head": 7, "lag": 0},
        "peerRegistry": {"totalPeers": 1},
        "timestamp": "2023-11-14T22:13:20Z",
    }
    docker.answer("docker", "exec", "node-a-id", *PROBE_CHECK, "/health", out=json.dumps(health))
    docker.answer("docker", "exec", "node-a-id", "wg", out="KEY=\t1699999990\n")
    docker.answer("docker", "exec", "web-id", err="curl: (7) refused\n", code=7)
    down, node_a, web = steps.status(project)
    assert (down.state, down.ok, down.block) == ("exited", False, None)
    assert node_a.cells()[:7] == ("node-a", "running", "healthy", "1/1", "7", "0", "10 s ago")
    assert (web.ok, web.note) == (False, "curl: (7) refused")
    assert sorted(docker.called("docker", "exec")) == sorted(
        [
            ("node-a-id", *PROBE_CHECK),
            ("node-a-id", *PROBE_CHECK, "/health"),
            ("node-a-id", "wg", "show", "wg0", "latest-handshakes"),
            ("web-id", "/bin/sh", "-c", "curl -f x"),
        ]
    )


def test_services_of_other_profiles_are_not_missed(docker: FakeDocker, checkout: Path) -> None:
    """Compose 1.29 lists them with and without their profile; they are not there without it."""
    docker.answer(*PLUGIN, "config", out="node-a\nchain\ninit\nkeeper\nkeys\nadmin\n")
    names = ["chain", "init", "keeper", "node-a"]
    assert [r.service for r in steps.status(open_project(checkout, keeper=True))] == names
    (checkout / ".env").write_text("NETWORK=base\n")
    assert [r.service for r in steps.status(open_project(checkout))] == ["node-a"]


# Stopping, replacing, removing


def test_the_keeper_is_stopped_first(docker: FakeDocker, project: Project) -> None:
    """Or it would start again what has to be killed."""
    docker.has(inspected("keeper"), node("node-a"), inspected("init", state={"Status": "exited"}))
    assert steps.stop(project) == ["keeper", "node-a"]
    assert docker.called(*PLUGIN) == [("stop", "keeper"), ("stop",)]
    # Whatever profile it is of: a chain of before would go on otherwise.
    profiles = [c.variables["COMPOSE_PROFILES"] for c in docker.calls if c.words[:2] == PLUGIN]
    assert profiles == ["admin,keeper,keys,local-chain"] * 2
    docker.forget()
    docker.has(node("node-a"))
    assert steps.stop(project.without("keeper")) == ["node-a"]
    assert docker.called(*PLUGIN) == [("stop",)]


@pytest.mark.usefixtures("at_once")
def test_nodes_are_replaced_one_after_the_other(docker: FakeDocker, project: Project) -> None:
    """Each is ready before the next, and nothing else is touched."""
    once = node("node-c")
    once["Config"]["Labels"]["com.docker.compose.oneoff"] = "True"
    docker.has(node("node-b"), node("node-a"), inspected("node-a-net"), once)
    docker.answer("docker", "exec", out=READY)
    # The fake engine keeps all containers, so none was replaced.
    assert steps.update(project, timeout=9, recreate=False, say=print) == []
    assert docker.called(*PLUGIN, "up") == [
        ("--detach", "--no-build", "--no-deps", "node-a"),
        ("--detach", "--no-build", "--no-deps", "node-b"),
    ]
    docker.forget()
    steps.update(project, timeout=9, recreate=True, say=print)
    assert [words[2] for words in docker.called(*PLUGIN, "up")] == ["--force-recreate"] * 2


@pytest.mark.usefixtures("at_once")
def test_replacing_ends_at_the_first_that_fails(docker: FakeDocker, project: Project) -> None:
    """The others go on with what they have."""
    docker.has(node("node-a"), node("node-b"))
    docker.answer("docker", "exec", "node-b-id", out=READY)
    docker.answer("docker", "exec", "node-a-id", err="the node does not answer\n", code=1)
    with pytest.raises(DeployError, match="node-a: the node does not answer"):
        steps.update(project, timeout=0, recreate=False, say=print)
    assert [words[-1] for words in docker.called(*PLUGIN, "up")] == ["node-a"]


@pytest.mark.parametrize(
    ("given", "chosen"),
    [([], ["node-a", "node-b"]), (["node-b", "node-b"], ["node-b"])],
)
def test_nodes_forget(
    docker: FakeDocker, project: Project, given: list[str], chosen: list[str]
) -> None:
    """Each is stopped, forgets in its volume, and is started again; by default all nodes."""
    docker.has(node("node-a"), node("node-b"), inspected("chain"))
    assert steps.reset_state(project, given, say=print) == chosen
    told = [words for words in docker.called(*PLUGIN) if words[0] in ("stop", "run", "up")]
    assert told == [
        words
        for service in chosen
        for words in (
            ("stop", service),
            ("run", "--rm", "--no-deps", "-T", service, "state", "forget", "--if-any"),
            ("up", "--detach", "--no-build", "--no-deps", service),
        )
    ]


def test_a_node_that_cannot_forget_is_started_again(docker: FakeDocker, project: Project) -> None:
    """It is not left down; what went wrong is told."""
    docker.has(node("node-a"))
    docker.answer(*PLUGIN, "run", err="the disk is full\n", code=1)
    with pytest.raises(DeployError, match="the disk is full"):
        steps.reset_state(project, [], say=print)
    assert [words[-1] for words in docker.called(*PLUGIN, "up")] == ["node-a"]


def test_only_nodes_can_forget(docker: FakeDocker, project: Project) -> None:
    """Anything else is named, before any node is touched."""
    docker.has(node("node-a"), inspected("chain"))
    with pytest.raises(SettingError) as caught:
        steps.reset_state(project, ["node-a", "chain"], say=print)
    assert str(caught.value) == "NODE 'chain' is no node of this project; accepted: node-a"
    docker.has()
    with pytest.raises(SettingError, match="accepted: none: nothing is deployed"):
        steps.reset_state(project, ["node-a"], say=print)
    assert docker.called(*PLUGIN, "stop") == []


@pytest.mark.parametrize("keep_state", [False, True])
@pytest.mark.parametrize("keep_images", [False, True])
def test_what_is_removed(
    docker: FakeDocker, checkout: Path, keep_state: bool, keep_images: bool
) -> None:
    """Containers of all profiles; volumes and our own images unless they are to be kept."""
    (checkout / ".env").write_text("NETWORK=base\nNGINX_IMAGE=registry.example/nginx\n")
    project = open_project(checkout)
    docker.forget()
    said: list[str] = []
    docker.answer("docker", "image", "ls", "--quiet", "dstack-vpn:local", out="1d\n")
    steps.clean_up(project, keep_state=keep_state, keep_images=keep_images, say=said.append)
    first, *others = docker.calls
    volumes = () if keep_state else ("--volumes",)
    assert first.words == (*PLUGIN, "down", *volumes)
    assert first.variables["COMPOSE_PROFILES"] == "admin,keeper,keys,local-chain"
    images = [
        ("docker", "image", "ls", "--quiet", "dstack-vpn:local"),
        ("docker", "image", "rm", "dstack-vpn:local"),
        ("docker", "image", "ls", "--quiet", "dstack-vpn-chain:local"),  # never built
    ]
    assert [call.words for call in others] == ([] if keep_images else images)
    assert said == ([] if keep_images else ["dstack-vpn:local: removed"])


def test_the_file_of_a_lone_node_removes_no_image(docker: FakeDocker, checkout: Path) -> None:
    """It builds none, so those of the same name are somebody else's."""
    shutil.rmtree(checkout / "docker")
    steps.clean_up(open_project(checkout), keep_state=False, keep_images=False, say=print)
    assert docker.called("docker", "image") == []


def test_what_cannot_be_removed_is_told(docker: FakeDocker, project: Project) -> None:
    """Then nothing else is removed."""
    docker.answer(*PLUGIN, "down", code=1)
    with pytest.raises(DeployError, match="compose down failed"):
        steps.clean_up(project, keep_state=False, keep_images=False, say=print)
    assert docker.called("docker", "image") == []
