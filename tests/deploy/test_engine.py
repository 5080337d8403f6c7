"""Docker and Compose as programs: which are used, what they are told, and how they fail."""

import json
from pathlib import Path

import pytest

from deploy.fake_docker import End, FakeDocker
from deploy.samples import container, inspected
from dstack_vpn.deploy.engine import (
    DeployError,
    Engine,
    Output,
    find_compose,
    parse_version,
    run,
)
from dstack_vpn.errors import UserError

PLUGIN = ("docker", "compose")


@pytest.fixture
def engine(docker: FakeDocker, checkout: Path) -> Engine:
    """The engine with the plugin."""
    return Engine(checkout, PLUGIN, project="mesh", profiles=["keeper"])


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("2.24.5\n", (2, 24, 5)),
        ("v2.40.3-desktop.1", (2, 40, 3)),
        ("20.10.24+dfsg1", (20, 10, 24)),
        ("1.29.2", (1, 29, 2)),
        ("28", (28,)),
        ("28.", (28,)),
        ("2.x.1", (2,)),
        ("", ()),
        ("v", ()),
        ("dev", ()),
        ("\u0662.1", ()),
        ("docker-compose version 1.29.2, build 5becea4c", ()),
    ],
)
def test_versions(text: str, version: tuple[int, ...]) -> None:
    """The numbers at the front count; what distributors add does not."""
    assert parse_version(text) == version


# Which Compose


def test_the_plugin_comes_first(docker: FakeDocker) -> None:
    """With both installed it is the plugin."""
    docker.install("docker-compose")
    docker.answer("docker-compose", "version", out="1.29.2\n")
    assert find_compose() == (PLUGIN, (2, 24, 5))


def test_the_program_of_old_will_do(docker: FakeDocker) -> None:
    """Without the plugin, docker-compose is used."""
    docker.answer(*PLUGIN, code=1, err="docker: 'compose' is not a docker command.\n")
    docker.install("docker-compose")
    docker.answer("docker-compose", "version", out="1.29.2\n")
    assert find_compose() == (("docker-compose",), (1, 29, 2))


def test_no_compose(docker: FakeDocker) -> None:
    """Where there is neither, or none that says its version, there is no Compose."""
    docker.answer(*PLUGIN, out="Usage: docker [OPTIONS] COMMAND\n")
    assert find_compose() is None
    docker.install("docker-compose")
    docker.answer("docker-compose", code=1)
    assert find_compose() is None
    docker.remove("docker")
    assert find_compose() is None


# How commands end


def test_output_of_a_command(docker: FakeDocker) -> None:
    """Its two streams and its exit code are told apart; bytes that are no text do no harm."""
    docker.answer("docker", "x", out="a\n", err="b\n", code=3)
    assert run(("docker", "x")) == Output(3, "a\n", "b\n")
    (docker.directory / "docker").write_text("#!/bin/sh\nprintf '\\377'\n")
    assert run(("docker", "x")).out == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        (Output(1, "", "first\n  last\n\n"), "last"),
        (Output(1, "only this\n", ""), "only this"),
        (Output(7, "", "\n"), "exit code 7"),
    ],
)
def test_complaints(output: Output, complaint: str) -> None:
    """Of a failed command the last thing that it said is told."""
    assert output.complaint == complaint


def test_what_cannot_be_run(docker: FakeDocker) -> None:
    """A program that is not there is the user's mistake; one that is broken or hangs is not."""
    with pytest.raises(UserError, match=r"podman is not installed; accepted: Docker 20\.10 or"):
        run(("podman", "version"))
    (docker.directory / "broken").write_text("")
    (docker.directory / "broken").chmod(0o644)
    with pytest.raises(DeployError, match="broken cannot be run: Permission denied"):
        run(("broken",))
    (docker.directory / "docker").write_text("#!/bin/sh\nkill -STOP $$\n")
    with pytest.raises(DeployError, match=r"docker run a b … took longer than 0\.1 s"):
        run(("docker", "run", "a", "b", "secret"), patience=0.1)


def test_failing_commands_say_why(docker: FakeDocker, engine: Engine) -> None:
    """The complaint of the program is the reason, and no argument of it is repeated."""
    docker.answer("docker", "image", "rm", err="Error: No such image: x\n", code=1)
    with pytest.raises(DeployError) as caught:
        engine.docker("image", "rm", "x")
    assert str(caught.value) == "docker image failed: Error: No such image: x"
    docker.answer(*PLUGIN, "run", err="no space left on device\n", code=18)
    with pytest.raises(DeployError) as caught:
        engine.compose("run", "--rm", "keys")
    assert str(caught.value) == "compose run failed: no space left on device"


def test_shown_commands_say_why_themselves(
    docker: FakeDocker, engine: Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    """Their progress is on stderr, for stdout holds results; a failure points to it."""
    docker.answer(*PLUGIN, "up", out="created\n", err="started\n")
    docker.answer("docker", "build", out="step 1\n", code=1)
    engine.show("compose", "up", "--detach")
    with pytest.raises(DeployError, match=r"^docker build failed \(exit code 1\); see above$"):
        engine.show("docker", "build", ".")
    out, err = capfd.readouterr()
    assert (out, sorted(err.split("\n"))) == ("", ["", "created", "started", "step 1"])
    docker.remove("docker")
    with pytest.raises(DeployError, match="docker cannot be run: No such file"):
        engine.show("compose", "stop")


def test_what_compose_is_told(docker: FakeDocker, checkout: Path) -> None:
    """Profiles and variables go by the environment, and it runs where the Compose file is."""
    engine = Engine(
        checkout, PLUGIN, project="p", profiles=["a", "b"], variables={"DOCKER_SOCKET": "/s"}
    )
    engine.compose("ps")
    engine.with_profiles("c").show("compose", "ps")
    one, other = docker.calls
    assert (one.words, one.directory) == (("docker", "compose", "ps"), checkout)
    common = {"COMPOSE_PROJECT_NAME": "p", "DOCKER_SOCKET": "/s"}
    assert one.variables == common | {"COMPOSE_PROFILES": "a,b"}
    assert other.variables == common | {"COMPOSE_PROFILES": "c"}


def test_profiles_are_only_ours(
    docker: FakeDocker, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands in COMPOSE_PROFILES was judged before, so it does not come through by itself."""
    monkeypatch.setenv("COMPOSE_PROFILES", "local-chain")
    Engine(checkout, PLUGIN, project="p").compose("ps")
    assert docker.calls[0].variables["COMPOSE_PROFILES"] == ""


# What it asks


def test_services(docker: FakeDocker, engine: Engine) -> None:
    """The services of the Compose file, in order."""
    docker.answer(*PLUGIN, "config", out="node-b\nnode-a\n")
    assert engine.services() == ["node-a", "node-b"]
    assert docker.called(*PLUGIN) == [("config", "--services")]


def test_containers(docker: FakeDocker, engine: Engine) -> None:
    """All of the project, stopped ones too, owners of networks first."""
    node = inspected("node-a", host={"NetworkMode": "container:node-a-net-id"})
    docker.has(node, inspected("node-a-net"))
    assert [c.service for c in engine.containers()] == ["node-a-net", "node-a"]
    label = "label=com.docker.compose.project=mesh"
    assert docker.called("docker", "ps") == [("--all", "--quiet", "--no-trunc", "--filter", label)]
    assert docker.called(*PLUGIN) == []
    assert docker.called("docker", "inspect") == [
        ("--type", "container", "node-a-id", "node-a-net-id")
    ]


def test_no_containers(docker: FakeDocker, engine: Engine) -> None:
    """Where there are none, none is asked about."""
    assert engine.containers() == []
    assert docker.called("docker", "inspect") == []


@pytest.mark.parametrize(
    "err",
    [
        "Error: No such container: gone-id\n",
        "Error response from daemon: no such object: gone-id\n",
    ],
)
def test_a_container_that_has_gone_meanwhile(docker: FakeDocker, engine: Engine, err: str) -> None:
    """One that was removed between two questions is not there; the others are."""
    docker.has(inspected())
    docker.answer("docker", "inspect", out=json.dumps([inspected()]), err=err, code=1)
    assert [c.id for c in engine.containers()] == ["node-a-id"]


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (End("[]", "Cannot connect to the Docker daemon.\n", 1), "inspect failed: Cannot connect"),
        (End("", "x: no such container\npermission denied\n", 1), "failed: permission denied"),
        (End("garbage"), "docker inspect printed no containers"),
        (End(""), "docker inspect printed no containers"),
        (End("7"), "docker inspect printed no containers"),
        (End("[" * 9999), "docker inspect printed no containers"),
        (End('[{"Id": "a"}]'), "in a form we do not know"),
        (End('{"Id": "a"}'), "in a form we do not know"),
    ],
)
def test_an_error_is_no_absence(docker: FakeDocker, engine: Engine, end: End, told: str) -> None:
    """Where the engine fails, or says what is no container, nobody is told that there is none."""
    docker.has(inspected())
    docker.answers("docker", "inspect", ends=[end])
    with pytest.raises(DeployError, match=told):
        engine.containers()


def test_inside_of_a_container(docker: FakeDocker, engine: Engine) -> None:
    """A command there may fail, which is an answer too."""
    docker.answer("docker", "exec", out='{"ready":false}\n', code=1)
    node = container()
    assert engine.inside(node, "probe", "/ready") == Output(1, '{"ready":false}\n', "")
    assert engine.json_inside(node, "probe") == {"ready": False}
    assert docker.called("docker", "exec")[0] == ("node-a-id", "probe", "/ready")
    for garbage in ("", "{", "[" * 9999):
        docker.answer("docker", "exec", out=garbage)
        assert engine.json_inside(node, "probe") is None


def test_a_command_in_a_container_that_hangs(docker: FakeDocker, engine: Engine) -> None:
    """It has failed, and says so."""
    (docker.directory / "docker").write_text("#!/bin/sh\nkill -STOP $$\n")
    ended = engine.inside(container(), "probe", patience=0.1)
    assert (ended.code, ended.complaint) == (
        1,
        "docker exec node-a-id probe … took longer than 0.1 s",
    )


def test_logs(docker: FakeDocker, engine: Engine) -> None:
    """Both streams of a container are its log, each on lines of its own."""
    docker.answer("docker", "logs", out="a\nb", err="c\n")
    assert engine.logs(container(), "--tail", "2").split() == ["a", "b", "c"]
    assert docker.called("docker", "logs") == [("--tail", "2", "node-a-id")]
    docker.answer("docker", "logs", err="Error: configured logging driver\n", code=1)
    with pytest.raises(DeployError, match="docker logs failed: Error: configured logging driver"):
        engine.logs(container())


def test_a_log_is_followed(docker: FakeDocker, engine: Engine) -> None:
    """Its streams come as one, as long as the reader wants."""
    docker.answer("docker", "logs", out="a\n", err="b\n")
    with engine.follow(container(), "--timestamps") as process:
        assert sorted(process.stdout or ()) == ["a\n", "b\n"]
    assert docker.called("docker", "logs") == [("--follow", "--timestamps", "node-a-id")]
