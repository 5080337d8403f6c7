"""What the engine says of a container: taken over where it is right, refused where it is not."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.samples import PROBE_CHECK, container, ended, inspected, json_values
from dstack_vpn.deploy.containers import Container, in_order, parse, parse_time


def test_a_running_container() -> None:
    """All that is read of one, from the form that the engine documents."""
    assert parse(inspected()) == container(started_at=1_699_996_400.5)


@pytest.mark.parametrize(
    ("described", "field", "value"),
    [
        (inspected(state={"Status": "exited", "ExitCode": 137}), "exit_code", 137),
        (inspected(state={"Error": "cannot join network"}), "error", "cannot join network"),
        (inspected(state={"StartedAt": "0001-01-01T00:00:00Z"}), "started_at", 0),
        (inspected(state={"StartedAt": ""}), "started_at", 0),
        (inspected(), "finished_at", 0),
        (inspected(state={"FinishedAt": "2023-11-14T22:13:20Z"}), "finished_at", 1_700_000_000),
        (inspected(host={"NetworkMode": "container:0a1b"}), "network_of", "0a1b"),
        (inspected(host={"NetworkMode": "none"}), "network_of", ""),
        (inspected(host={"RestartPolicy": {"Name": "on-failure"}}), "policy", "on-failure"),
        (inspected(host={"RestartPolicy": {"Name": ""}}), "policy", "no"),
        (inspected(host={"RestartPolicy": None}), "policy", "no"),
        (inspected(RestartCount=3), "restarts", 3),
        (inspected(config={"Labels": None}), "project", ""),
        (inspected(config={"Labels": {"com.docker.compose.oneoff": "True"}}), "one_off", True),
        (inspected(config={"Healthcheck": {"Test": ["CMD", *PROBE_CHECK]}}), "check", PROBE_CHECK),
        (
            inspected(config={"Healthcheck": {"Test": ["CMD-SHELL", "curl -fsS http://a/ | cat"]}}),
            "check",
            ("/bin/sh", "-c", "curl -fsS http://a/ | cat"),
        ),
        (inspected(config={"Healthcheck": {"Test": ["NONE"]}}), "check", ()),
        (inspected(config={"Healthcheck": {"Interval": 5}}), "check", ()),
        (inspected(config={"Healthcheck": None}), "check", ()),
    ],
)
def test_facts(described: dict[str, Any], field: str, value: object) -> None:
    """Each fact is found where the engine puts it; what it leaves out is absent."""
    assert getattr(parse(described), field) == value


@pytest.mark.parametrize(
    ("one", "done"),
    [
        (ended("init", policy="on-failure"), True),
        (ended("init", policy="no"), True),
        (ended("init", 1, policy="on-failure"), False),
        (ended("init", policy="on-failure", error="cannot start"), False),
        (container("init", policy="on-failure"), False),
        # A web server that is stopped ends with success too.
        (ended("nginx-server", policy="unless-stopped"), False),
        (ended("keeper", policy="always"), False),
    ],
)
def test_only_what_may_end_can_be_done(one: Container, done: bool) -> None:
    """An end with success is one only where the container is not meant to run on."""
    assert one.done == done


def holes(described: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths to all values in it."""
    for name, value in described.items():
        yield (*path, name)
        if isinstance(value, dict):
            yield from holes(value, (*path, name))


@given(st.sampled_from(sorted(holes(inspected()))), json_values)
def test_garbage_in_one_place_is_refused(path: tuple[str, ...], value: Any) -> None:
    """Whatever stands in the place of one value: a container or a ValueError, and nothing else."""
    described: Any = inspected(config={"Healthcheck": {"Test": ["CMD", "true"]}})
    place = described
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    try:
        found = parse(described)
    except ValueError:
        return
    assert isinstance(found.exit_code, int)
    assert isinstance(found.started_at, float)
    assert all(isinstance(word, str) for word in found.check)


@given(json_values)
def test_garbage_as_a_whole_is_refused(value: Any) -> None:
    """What is no description of a container at all is a ValueError."""
    with pytest.raises(ValueError, match="in a form we do not know"):
        parse(value)


@pytest.mark.parametrize("text", ["Infinity", "-Infinity", "NaN", '"12a"', "[]", "1" * 4000])
def test_numbers_that_are_none(text: str) -> None:
    """JSON knows numbers that are no exit code."""
    described = inspected(state={"ExitCode": json.loads(text)})
    if text.isdigit():
        assert parse(described).exit_code == int(text)
        return
    with pytest.raises(ValueError, match="in a form we do not know"):
        parse(described)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 0),
        ("0001-01-01T00:00:00Z", 0),
        ("2023-11-14T22:13:20Z", 1_700_000_000),
        ("2023-11-14T22:13:20.25Z", 1_700_000_000.25),
        ("2023-11-14T22:13:20.123456789Z", 1_700_000_000.123456789),
        ("2023-11-15T00:13:20.5+02:00", 1_700_000_000.5),
        ("2023-11-14T16:43:20-05:30", 1_700_000_000),
        # Past what Python's own time in UTC can hold.
        ("9999-12-31T23:59:59-23:59", 253_402_387_139),
    ],
)
def test_times(text: str, seconds: float) -> None:
    """Times have nanoseconds or none, and any zone; never is 0."""
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "now",
        "2023-11-14",
        "2023-11-14 22:13:20Z",
        "2023-11-14T22:13:20",
        "2023-02-30T22:13:20Z",
        "2023-11-14T24:13:20Z",
        "2023-11-14T22:13:20+24:00",
        "2023-11-14T22:13:20.Z",
        "2023-11-14T22:13:20Z\n",
        "\u0662\u0660\u0662\u0663-11-14T22:13:20Z",
        "1700000000",
    ],
)
def test_times_that_are_none(text: str) -> None:
    """Anything else is a ValueError."""
    with pytest.raises(ValueError):  # noqa: PT011 - some of it is Python's own sentence
        parse_time(text)


zones = st.integers(-23 * 60, 23 * 60).map(lambda m: timezone(timedelta(minutes=m)))
moments = st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1))  # noqa: DTZ001


@given(moments, zones)
def test_a_time_is_the_same_in_every_zone(moment: datetime, zone: timezone) -> None:
    """A moment written down in any zone is read as that moment."""
    moment = moment.replace(tzinfo=UTC)
    text = moment.astimezone(zone).isoformat(timespec="microseconds")
    assert parse_time(text) == pytest.approx(moment.timestamp(), abs=1e-6)


def test_order() -> None:
    """Owners of networks come first, then all by service and name."""
    net_b = container("node-b-net")
    b = container("node-b", network_of=net_b.id)
    second = container("a", name="vpn-a-2")
    chain, first = container("chain"), container("a", name="vpn-a-1")
    assert in_order([b, second, chain, net_b, first]) == [net_b, first, second, chain, b]
