"""The keeper against an engine that fails in every way, and as a process."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.command import SCRIPT
from deploy.fake_engine import FakeEngine, Trouble, fake_engine
from deploy.samples import inspected
from dstack_vpn.deploy.keeper import Api, EngineError, GoneError, Keeper, own_container, run
from dstack_vpn.errors import UserError
from lab.lab import Lab
from lab.process import Process
from lab.waiting import until

WALL_NOW = 1_700_000_000.0

TROUBLES: list[Trouble] = ["refuses", "hangs up", "garbage", "no list", "half", "nested"]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    with fake_engine(tmp_path / "docker.sock") as running:
        yield running


def keeper_of(engine: FakeEngine) -> Keeper:
    """The keeper of the project ``vpn``."""
    return Keeper(Api(engine.path), "vpn")


def look(keeper: Keeper, now: float = 0.0) -> None:
    keeper.look(now=now, wall_now=WALL_NOW)


def told(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The lines that the keeper logged since this was asked last, without their times."""
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert all(line.pop("timestamp").endswith("Z") for line in lines)
    return lines


def test_what_is_down_is_started(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    """A killed container is started, one that is left in an old network is started anew."""
    net = engine.add(inspected("net", state={"StartedAt": "2023-11-14T22:00:00Z"}))
    killed = engine.add(inspected("killed"))
    engine.end(killed, 137)
    engine.add(inspected("stranded", host={"NetworkMode": f"container:{net}"}))
    stopped = engine.add(inspected("stopped"))
    engine.end(stopped, 143)
    look(keeper_of(engine))
    assert engine.started == ["start killed-id", "restart stranded-id"]
    assert told(capsys) == [
        {
            "event": "keeper.started",
            "level": "warning",
            "container": "vpn-killed-1",
            "reason": "it was killed",
        },
        {
            "event": "keeper.started",
            "level": "warning",
            "container": "vpn-stranded-1",
            "reason": "the network of vpn-net-1 was made anew",
        },
    ]


def test_other_projects_are_none_of_its_business(engine: FakeEngine) -> None:
    """Only containers of its own project are even looked at."""
    other = engine.add(inspected(config={"Labels": {"com.docker.compose.project": "other"}}))
    engine.end(other, 137)
    look(keeper_of(engine))
    assert engine.asked == ["GET /containers/json"]


def test_the_same_is_not_started_all_the_time(engine: FakeEngine) -> None:
    """What goes down again at once is due again after 1 s, then after 2 s."""
    one = engine.add(inspected())
    keeper = keeper_of(engine)
    for now, due in ((0.0, True), (0.5, False), (1.0, True), (2.5, False), (3.0, True)):
        engine.end(one, 1)
        look(keeper, now)
        assert bool(engine.started) == due, now


def test_what_cannot_be_started_holds_up_nothing(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reason is told, the next container is started all the same, and it is tried again."""
    for service in ("a", "b"):
        engine.end(engine.add(inspected(service)), 1)
    engine.unstartable["a-id"] = "no such device"
    keeper = keeper_of(engine)
    look(keeper)
    assert engine.started == ["start a-id", "start b-id"]
    first, second = told(capsys)
    assert (first["event"], first["container"]) == ("keeper.not_started", "vpn-a-1")
    assert first["reason"].endswith("/containers/a-id/start: no such device")
    assert (second["event"], second["container"]) == ("keeper.started", "vpn-b-1")
    engine.unstartable.clear()
    look(keeper, now=1)
    assert engine.started == ["start a-id"]
    assert told(capsys)[0]["reason"] == "the engine could not start it (no such device)"


@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_with_the_engine_is_survived(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str], trouble: Trouble
) -> None:
    """It is told once, nothing is started meanwhile, and then all goes on."""
    keeper = keeper_of(engine)
    one = engine.add(inspected())
    engine.end(one, 137)
    engine.trouble = trouble
    look(keeper)
    look(keeper)
    (away,) = told(capsys)
    assert (away["event"], away["level"]) == ("keeper.engine_away", "warning")
    assert away["reason"].startswith("the engine ")
    assert len(away["reason"]) < 300
    assert engine.started == []
    engine.trouble = ""
    look(keeper)
    assert engine.started == [f"start {one}"]
    assert [line["event"] for line in told(capsys)] == ["keeper.engine_back", "keeper.started"]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_an_error_is_no_absence(engine: FakeEngine, trouble: Trouble) -> None:
    """When one container cannot be looked at nothing is decided, and no pause is forgotten."""
    keeper = keeper_of(engine)
    one, other = engine.add(inspected("a")), engine.add(inspected("b"))
    engine.end(one, 1)
    look(keeper)
    assert engine.started == [f"start {one}"]
    engine.end(one, 1)
    engine.trouble, engine.trouble_with = trouble, other
    look(keeper, now=0.5)
    look(keeper, now=1.0)
    engine.trouble = ""
    look(keeper, now=0.9)
    assert engine.started == []
    look(keeper, now=1.0)
    assert engine.started == [f"start {one}"]


def test_an_engine_may_be_away(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a socket, or with one that nobody listens at, it waits; then it goes on."""
    away = FakeEngine(engine.path.with_name("other.sock"))
    keeper = keeper_of(away)
    look(keeper)
    with socket.socket(socket.AF_UNIX) as forsaken:
        forsaken.bind(str(away.path))
    look(keeper)
    away.path.unlink()
    reasons = [line["reason"] for line in told(capsys)]
    assert ["No such file" in reasons[0], "refused" in reasons[1]] == [True, True]
    away.end(away.add(inspected()), 137)
    with away.listening():
        look(keeper)
    assert away.started == ["start node-a-id"]


def test_a_container_may_go_meanwhile(engine: FakeEngine) -> None:
    """One that is removed between two questions is not there, and no trouble."""
    api = Api(engine.path)
    kept = engine.add(inspected("kept"))
    gone = inspected("gone")
    # Under another id it is listed, and not found.
    engine.containers["listed-id"] = gone
    with pytest.MonkeyPatch.context() as patch:
        answer = engine.answer
        patch.setattr(
            engine,
            "answer",
            lambda method, target: (
                (404, {"message": "No such container"})
                if "listed-id" in target
                else answer(method, target)
            ),
        )
        assert [c.id for c in api.project("vpn")] == [kept]
        with pytest.raises(GoneError, match="No such container"):
            api.inspect("listed-id")


def test_an_engine_that_says_nothing_is_given_up(engine: FakeEngine) -> None:
    """A question has an end, even if the engine hangs."""
    engine.trouble = "silent"
    with pytest.raises(EngineError, match=r"does not answer at .*timed out"):
        Api(engine.path, patience=0.05).project("vpn")


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("refuses", "the engine refused GET /containers/a/json: the disk is full"),
        ("garbage", "the engine answered with something else than JSON: "),
        ("no list", "the engine described a container in a form we do not know: "),
    ],
)
def test_errors_say_what_the_engine_said(
    engine: FakeEngine, trouble: Trouble, message: str
) -> None:
    """The reason of a refusal is the engine's own, and an answer that is none is shown in part."""
    engine.trouble = trouble
    with pytest.raises(EngineError) as caught:
        Api(engine.path).inspect("a")
    assert str(caught.value).startswith(message)


# Whose containers


def test_its_own_project(engine: FakeEngine) -> None:
    """Inside of a container the project is that of the container."""
    engine.containers[socket.gethostname()] = inspected("keeper")
    assert own_container(Api(engine.path)).project == "vpn"


def test_no_project_of_its_own(engine: FakeEngine) -> None:
    """On a host, or in a container that Compose did not make, it must be named."""
    with pytest.raises(UserError, match=r"No such container: .*; --project names it"):
        own_container(Api(engine.path))
    engine.containers[socket.gethostname()] = inspected(config={"Labels": {}})
    with pytest.raises(UserError, match="belongs to no Compose project; --project names"):
        own_container(Api(engine.path))


def test_mistakes(engine: FakeEngine, tmp_path: Path) -> None:
    """A path without an engine and a name that is none are mistakes of the user."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "nothing", tmp_path / "file", tmp_path, Path("/\0")):
        with pytest.raises(UserError, match=r"there is no engine at .*; accepted: the path"):
            run(path=path)
    for name in ("Upper", "-a", "a b", "a/../b", "\u0430", "a\n"):
        with pytest.raises(UserError, match=r"^--project is .*; accepted: a name of a Compose"):
            run(path=engine.path, project=name)
    with pytest.raises(UserError, match="--project names it"):
        run(path=engine.path)


# As a process


async def test_it_runs_until_it_is_asked_to_end(engine: FakeEngine, tmp_path: Path) -> None:
    """`deploy watch` starts what goes down, waits for its engine, and ends with 0 by SIGTERM."""
    one = engine.add(inspected())
    command = (SCRIPT, "deploy", "watch", "--project", "vpn", "--socket", engine.path)
    process = await Process.start(*command, name="keeper", log=tmp_path / "log")
    try:
        await process.line("keeper.watching")
        engine.trouble = "hangs up"
        await process.line("keeper.engine_away")
        engine.end(one, 137)
        engine.trouble = ""
        await until(lambda: engine.state(one) == "running", "it is started")
        await process.line("keeper.started")
        assert await process.stop() == 0
    finally:
        await process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_ends_at_once_while_the_engine_hangs(
    engine: FakeEngine, tmp_path: Path, number: signal.Signals
) -> None:
    """Nobody has to wait for an answer before it ends."""
    engine.trouble = "silent"
    command = (SCRIPT, "deploy", "watch", "--project", "vpn", "--socket", engine.path)
    process = await Process.start(*command, name="keeper", log=tmp_path / "log")
    try:
        await until(lambda: engine.asked, "it asks")
        process.signal(number)
        assert await process.wait(within=5) == 0
    finally:
        await process.kill()


async def test_the_service_finds_all_by_itself(lab: Lab) -> None:
    """As the service of the Compose file it needs no argument, and ends with 0 by SIGTERM."""
    host = await lab.host("a")
    with fake_engine(host.run_dir / "docker.sock") as engine:
        engine.containers[socket.gethostname()] = inspected("keeper")
        killed = engine.add(inspected())
        engine.end(killed, 137)
        command = (sys.executable, "-I", "-m", "dstack_vpn.deploy.keeper")
        process = await host.start(*command, name="keeper", env={"PATH": os.environ["PATH"]})
        await process.line('"keeper.watching"')
        await process.line('"container": "vpn-node-a-1", "reason": "it was killed"')
        assert engine.state(killed) == "running"
        assert await process.stop() == 0


async def test_the_service_tells_mistakes_in_a_sentence(lab: Lab) -> None:
    """Without an engine it ends with exit code 2 and says why, without a traceback."""
    host = await lab.host("a")
    done = await host.run(sys.executable, "-I", "-m", "dstack_vpn.deploy.keeper", check=False)
    told = "there is no engine at /var/run/docker.sock; accepted: the path of its socket"
    assert (done.code, done.out) == (2, f"dstack-vpn: {told}\n")


def test_the_keeper_is_light() -> None:
    """It runs all the time beside the nodes, so it loads nothing but the standard library."""
    program = (
        "import sys; known = set(sys.modules); import dstack_vpn.deploy.keeper;"
        "print(*{m.partition('.')[0] for m in set(sys.modules) - known}"
        " - sys.stdlib_module_names)"
    )
    command = [sys.executable, "-I", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["dstack_vpn"]
