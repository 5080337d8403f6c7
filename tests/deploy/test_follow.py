"""Logs as they are written: one stream of several containers, which outlives each of them."""

from itertools import islice
from pathlib import Path

import pytest

from deploy.fake_docker import End, FakeDocker
from deploy.samples import container, inspected
from dstack_vpn.deploy import follow as following
from dstack_vpn.deploy.engine import Engine
from dstack_vpn.deploy.follow import followed

PLUGIN = ("docker", "compose")


def stamp(second: int, text: str) -> str:
    """A line as the engine prints it."""
    return f"2026-01-31T12:00:{second:02}.000000000Z {text}\n"


@pytest.fixture
def engine(docker: FakeDocker, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine whose logs end at once, and are taken up again without a pause."""
    monkeypatch.setattr(following, "AGAIN", 0.01)
    return Engine(checkout, PLUGIN, project="vpn")


def test_lines_of_several_containers_come_in_order(docker: FakeDocker, engine: Engine) -> None:
    """Whoever's thread is faster, what was written first comes first."""
    docker.answer("docker", "ps", out="")
    a, b = container("node-a"), container("node-b")
    quiet = [End("", "", 0)]
    one = ("docker", "logs", "--follow", "--timestamps", a.id)
    two = ("docker", "logs", "--follow", "--timestamps", b.id)
    docker.answers(*one, ends=[End(stamp(1, "first") + stamp(4, "fourth"), "", 0), *quiet])
    docker.answers(*two, ends=[End(stamp(2, "second") + stamp(3, "third"), "", 0), *quiet])
    with followed(engine, [a, b], ["--timestamps"]) as lines:
        told = [line.text for line in islice(lines, 4)]
    assert told == ["first", "second", "third", "fourth"]


def test_the_successor_of_a_container_continues_it(docker: FakeDocker, engine: Engine) -> None:
    """A container that is replaced is followed on, and no line comes twice."""
    docker.has(inspected("node-a", Id="new-id"))
    old = container("node-a", id="old-id")
    docker.answer("docker", "logs", "--follow", "--timestamps", "old-id", out=stamp(1, "one"))
    since = ("--timestamps", "--since", "2026-01-31T12:00:01.000000000Z")
    again = stamp(1, "one") + stamp(2, "two")
    docker.answer("docker", "logs", "--follow", *since, "new-id", out=again)
    with followed(engine, [old], ["--timestamps"]) as lines:
        told = [line.text for line in islice(lines, 2)]
    assert told == ["one", "two"]


def test_an_engine_that_is_away_is_waited_for(docker: FakeDocker, engine: Engine) -> None:
    """A question that fails ends nothing: the same container is read again."""
    docker.answer("docker", "ps", err="cannot connect\n", code=1)
    docker.answers(
        "docker", "logs", ends=[End("", "", 1), End("", "", 1), End(stamp(1, "back"), "", 0)]
    )
    with followed(engine, [container("node-a")], ["--timestamps"]) as lines:
        (line,) = islice(lines, 1)
    assert line.text == "back"


def test_lines_of_one_moment_are_all_told(docker: FakeDocker, engine: Engine) -> None:
    """Two writers share a stream: their stamps may be equal, or a little out of order."""
    out = stamp(2, "one") + stamp(2, "two") + stamp(1, "before")
    docker.answer("docker", "logs", out=out)
    with followed(engine, [container("node-a")], ["--timestamps"]) as lines:
        told = {line.text for line in islice(lines, 3)}
    assert told == {"one", "two", "before"}
