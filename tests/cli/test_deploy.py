"""`dstack-vpn deploy` as a user types it, with programs in the place of Docker's."""

import json
import os
import pty
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cli.command import SCRIPT, Ended, refused, run_here
from deploy.fake_docker import FakeDocker
from deploy.samples import PROBE_CHECK, inspected
from lab.process import Process
from lab.waiting import until

PLUGIN = ("docker", "compose")
READY = '{"ready":true}\n'


class Deploy:
    """The command in a checkout."""

    def __init__(self, docker: FakeDocker, directory: Path) -> None:
        self.docker = docker
        self.directory = directory

    def __call__(self, *words: str) -> Ended:
        """Run `dstack-vpn deploy` with these words."""
        return run_here("deploy", *words, "--directory", str(self.directory))

    async def start(self, log: Path, *words: str, entry: Sequence[str] = ()) -> Process:
        """Run it as a process, by way of another program if one is named."""
        command = (*entry, str(SCRIPT), "deploy", *words, "--directory", str(self.directory))
        environ = {"PATH": str(self.docker.directory)}
        return await Process.start(*command, name="deploy", log=log, env=environ)


@pytest.fixture
def deploy(docker: FakeDocker, checkout: Path) -> Deploy:
    """A checkout on another machine's engine, with two nodes that are ready."""
    # Ports of this machine, and its device for tunnels, are none of these tests' business.
    docker.answer("docker", "context", "inspect", out="tcp://192.0.2.1:2376\n")
    docker.answer("docker", "exec", out=READY)
    docker.answer("docker", "image", "ls", out="1d\n")
    nodes = [inspected(name) for name in ("node-a", "node-b")]
    for node in nodes:
        node["Config"]["Healthcheck"] = {"Test": ["CMD", *PROBE_CHECK]}
    docker.has(*nodes)
    return Deploy(docker, checkout)


# Mistakes


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("logs", "--level", "loud"), "--level is 'loud'; accepted: debug, info, warn, error"),
        (("logs", "--since", "yesterday"), "--since is 'yesterday'; accepted: 10m or"),
        (("logs", "--tail", "-1"), "--tail"),
        (("logs", "node-x"), "SERVICE 'node-x' has no container; accepted: node-a, node-b"),
        (("deploy", "--timeout", "0"), "--timeout"),
        (("deploy", "--frobnicate"), "--frobnicate"),
        (("build", "--build-ca", "/nowhere"), "--build-ca cannot be read (/nowhere: No such"),
        (("reset-state", "chain"), "NODE 'chain' is no node of this project; accepted: node-a,"),
        (("cleanup",), "there is no terminal to ask whether keys may be deleted; accepted: --yes"),
        (("frobnicate",), "no such command"),
    ],
)
def test_a_mistake_is_one_sentence(deploy: Deploy, words: tuple[str, ...], told: str) -> None:
    """It names what is wrong and what is accepted, and nothing was done."""
    refused(deploy(*words), told)
    done = {call[0] for call in deploy.docker.called(*PLUGIN)} - {"version", "config", "ps"}
    assert done == set()
    assert deploy.docker.called("docker", "build") == []


def test_without_an_engine(deploy: Deploy) -> None:
    """What is missing is told at once, a line each."""
    deploy.docker.remove("docker")
    for words in (("deploy",), ("status",), ("cleanup", "--yes")):
        ended = deploy(*words)
        assert (ended.code, ended.out) == (2, "")
        assert [line.partition(";")[0] for line in ended.err.splitlines()] == [
            "dstack-vpn: docker is not installed",
            "dstack-vpn: Compose is not installed",
        ]


def test_without_a_compose_file(deploy: Deploy, tmp_path: Path) -> None:
    """A directory that is no checkout is named."""
    refused(
        run_here("deploy", "status", "--directory", str(tmp_path)),
        f"--directory has no docker-compose.yml ({tmp_path}); accepted: a checkout",
    )


@pytest.mark.parametrize("command", ["start", "stop", "restart", "update", "reset-state", "logs"])
def test_nothing_is_deployed(deploy: Deploy, command: str) -> None:
    """What needs containers says how to get some."""
    deploy.docker.has()
    refused(deploy(command), "nothing is deployed here; `dstack-vpn deploy` does it")


def test_wrong_settings_are_a_line_each(deploy: Deploy) -> None:
    """All at once, before anything is built."""
    (deploy.directory / ".env").write_text("MTU=1\nNODE_B_ID=node-a\nCHAIN_PORT=x\n")
    ended = deploy("deploy")
    assert (ended.code, ended.out) == (2, "")
    assert [line.split()[1] for line in ended.err.splitlines()] == [
        "MTU",
        "NODE_A_ID",
        "CHAIN_PORT",
    ]
    assert deploy.docker.called("docker", "build") == []


def test_a_failing_engine_is_no_mistake(deploy: Deploy) -> None:
    """Exit code 1, with the words of the engine."""
    deploy.docker.answer("docker", "inspect", err="Cannot connect to the daemon.\n", code=1)
    refused(deploy("status"), "docker inspect failed: Cannot connect to the daemon.", code=1)


# What commands do


def test_deploy_is_the_default(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a command, here: checks, builds, starts and waits; the table is on stdout."""
    monkeypatch.chdir(deploy.directory)
    ended = run_here("deploy")
    assert ended.code == 0, ended.err
    assert steps_of(deploy.docker) == [*BUILT, "up"]
    assert [line.split()[:3] for line in ended.out.splitlines()] == [
        ["SERVICE", "STATE", "HEALTH"],
        ["node-a", "running", "healthy"],
        ["node-b", "running", "healthy"],
    ]
    assert "node-a: ready" in ended.err


def test_the_default_takes_the_options_too(deploy: Deploy) -> None:
    """`deploy --no-build --json` is `deploy deploy --no-build --json`."""
    ended = deploy("--no-build", "--json")
    assert ended.json()["ok"] is True
    assert steps_of(deploy.docker) == ["up"]


def steps_of(docker: FakeDocker) -> list[str]:
    """What was done, in order, without the questions."""
    words = [call.words[1:] for call in docker.calls]
    found = []
    for kind, *rest in words:
        if kind == "build":
            found.append(f"build {rest[3]}")
        elif kind == "compose" and rest[0] in ("up", "stop", "run", "down"):
            plain = [word for word in rest if not word.startswith("-")]
            found.append(" ".join(plain))
        elif (kind, rest[0]) == ("image", "rm"):
            found.append(f"remove {rest[1]}")
    return found


BUILT = ["build dstack-vpn:local", "build dstack-vpn-nginx:local", "build dstack-vpn-chain:local"]
REMOVED = [line.replace("build", "remove") for line in BUILT]


@pytest.mark.parametrize(
    ("words", "done"),
    [
        (("deploy",), [*BUILT, "up"]),
        (("deploy", "--no-build"), ["up"]),
        (("build",), BUILT),
        (("status",), []),
        (("start",), ["up"]),
        (("stop",), ["stop"]),
        (("restart",), ["stop", "up"]),
        (("update", "--no-build"), ["up node-a", "up node-b"]),
        (("update",), [*BUILT, "up node-a", "up node-b"]),
        (("reset-state", "node-b"), ["stop node-b", "run node-b state forget", "up node-b"]),
        (("cleanup", "--yes"), ["down", *REMOVED]),
        (("cleanup", "--keep-state"), ["down", *REMOVED]),
        (("cleanup", "--yes", "--keep-images"), ["down"]),
    ],
)
def test_what_a_command_does(deploy: Deploy, words: Sequence[str], done: list[str]) -> None:
    """In this order, and nothing else."""
    ended = deploy(*words)
    assert ended.code == 0, ended.err
    assert steps_of(deploy.docker) == done


JSON: dict[str, tuple[tuple[str, ...], Any]] = {
    "setup": (("setup",), {"wroteEnv": True, "publicKeys": {"node-a": "K1"}}),
    "build": (("build",), {"built": [line.removeprefix("build ") for line in BUILT]}),
    "stop": (("stop",), {"stopped": ["node-a", "node-b"]}),
    "update": (("update", "--no-build"), {"replaced": []}),
    "cleanup": (("cleanup", "--keep-state"), {"keptState": True, "keptImages": False}),
}


@pytest.mark.parametrize("case", JSON)
def test_results_for_scripts(deploy: Deploy, case: str) -> None:
    """With --json there is one value on stdout, and nothing else."""
    words, expected = JSON[case]
    deploy.docker.answer(*PLUGIN, "run", out='{"node-a": "K1"}\n')
    assert deploy(*words, "--json").json() == expected


@pytest.mark.parametrize(
    "words",
    [("status",), ("deploy", "--no-build"), ("start",), ("restart",), ("reset-state", "node-a")],
)
def test_states_for_scripts(deploy: Deploy, words: tuple[str, ...]) -> None:
    """What ends with the state of the services tells it in one form."""
    told = deploy(*words, "--json").json()
    assert told["ok"]
    assert {row["service"] for row in told["services"]} <= {"node-a", "node-b"}
    assert all(row["health"] == "healthy" for row in told["services"])


def test_status_says_by_its_exit_code_whether_all_is_well(deploy: Deploy) -> None:
    """Something that is not as it should be makes it 1, and the reason stands in the table."""
    deploy.docker.answer("docker", "exec", "node-b-id", err="the node does not answer\n", code=1)
    ended = deploy("status")
    assert (ended.code, ended.err) == (1, "")
    assert "the node does not answer" in ended.out.splitlines()[-1]
    assert not deploy("status", "--json").json()["ok"]


def test_setup(deploy: Deploy) -> None:
    """It writes .env, builds, makes the keys and tells their public halves."""
    deploy.docker.answer(*PLUGIN, "run", out='{"node-a": "K1", "node-b": "K2"}\n')
    ended = deploy("setup")
    assert (ended.code, ended.out) == (0, "node-a K1\nnode-b K2\n")
    written = (deploy.directory / ".env").read_text()
    assert written == run_here("deploy", "env-example").out
    assert f"wrote {deploy.directory}/.env" in ended.err
    assert "register each" not in ended.err
    (deploy.directory / ".env").write_text("NETWORK=hardhat\nRPC_URL=http://chain.example:8545\n")
    again = deploy("setup", "--json")
    assert again.json()["wroteEnv"] is False
    assert "NETWORK=hardhat" in (deploy.directory / ".env").read_text()
    assert "register each" in deploy("setup").err


@pytest.mark.parametrize(
    ("answer", "code", "told"),
    [("y\n", 0, ""), ("n\n", 2, "nothing was removed"), ("", 130, "interrupted")],
)
async def test_cleanup_asks(
    deploy: Deploy, tmp_path: Path, answer: str, code: int, told: str
) -> None:
    """On a terminal, before keys are deleted."""
    terminal, theirs = pty.openpty()
    entry = ("/bin/sh", "-c", f'exec "$@" <{os.ttyname(theirs)}', "sh")
    process = await deploy.start(tmp_path / "log", "cleanup", "--keep-images", entry=entry)
    try:
        await until(lambda: "go on?" in process.output, "it asks")
        if answer:
            os.write(terminal, answer.encode())
        else:
            process.signal(signal.SIGINT)
        assert await process.wait() == code
        assert told in process.output
        assert steps_of(deploy.docker) == ([] if code else ["down"])
    finally:
        await process.kill()
        os.close(terminal)
        os.close(theirs)


# Logs


def log(second: int, event: str, **fields: Any) -> str:
    """A line of `docker logs --timestamps`."""
    text = json.dumps({"event": event, "level": "info", **fields})
    return f"2023-11-14T22:13:{second:02}.000000000Z {text}\n"


@pytest.fixture
def logging(deploy: Deploy) -> Deploy:
    """Two nodes with logs; the containers write to both streams."""
    first, fourth = log(1, "a.first", block=7), log(4, "a.fourth", level="error", why="so it is")
    other = log(2, "b.second", level="warning") + log(3, "b.third")
    for words in (("--tail", "100"), ("--tail", "7", "--since", "10m")):
        command = ("docker", "logs", "--timestamps", *words)
        deploy.docker.answer(*command, "node-a-id", out=first, err=fourth)
        deploy.docker.answer(*command, "node-b-id", err=other)
    return deploy


def test_logs_are_one(logging: Deploy) -> None:
    """Those of all containers, by time."""
    assert logging("logs").out.splitlines() == [
        "22:13:01.000 node-a info  a.first block=7",
        "22:13:02.000 node-b warn  b.second",
        "22:13:03.000 node-b info  b.third",
        '22:13:04.000 node-a error a.fourth why="so it is"',
    ]


def test_logs_of_some(logging: Deploy) -> None:
    """By service, severity, time and number."""
    assert len(logging("logs", "node-b").out.splitlines()) == 2
    severe = logging("logs", "--level", "warn").out
    assert [line.split()[2] for line in severe.splitlines()] == ["warn", "error"]
    assert len(logging("logs", "--tail", "7", "--since", "10m").out.splitlines()) == 4


def test_logs_for_scripts(logging: Deploy) -> None:
    """An object a line."""
    first, *_ = [json.loads(line) for line in logging("logs", "--json").out.splitlines()]
    assert first == {
        "time": "2023-11-14T22:13:01.000000000Z",
        "service": "node-a",
        "level": "info",
        "event": "a.first",
        "facts": {"block": 7},
    }


async def test_logs_are_followed(deploy: Deploy, tmp_path: Path) -> None:
    """Lines come as they are logged, those of a successor too, each once, until Ctrl-C."""
    follow = ("docker", "logs", "--follow", "--timestamps")
    first, second, third = log(1, "a.first"), log(2, "a.second"), log(3, "a.third")
    # The stream of a container ends with it, and that of the next begins with what is known.
    deploy.docker.answer(*follow, "--tail", "100", "node-a-id", out=first + second)
    since = ("--since", "2023-11-14T22:13:02.000000000Z")
    deploy.docker.answer(*follow, *since, "node-a-id", out=second + third)
    process = await deploy.start(tmp_path / "log", "logs", "--follow")
    try:
        await process.line("a.first")
        await process.line("a.third")
        process.signal(signal.SIGINT)
        assert await process.wait() == 0
        assert [line.split()[3] for line in process.output.splitlines()] == [
            "a.first",
            "a.second",
            "a.third",
        ]
    finally:
        await process.kill()
