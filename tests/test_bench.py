"""The benchmark: that it measures, and writes what others read. The figures are not judged here."""

import json
from pathlib import Path

import pytest
from bench import __main__ as bench
from bench.entry import Entry, Result, Samples, table
from bench.watch import applied

from lab.fixtures import need_lab

ENTRIES = (
    "event_to_peer_ms",
    "event_to_peer_10000_ms",
    "poll_event_to_peer_ms",
    "revoke_to_last_packet_ms",
    "cold_ready_s",
    "warm_ready_s",
    "cold_ready_10000_s",
    "warm_ready_10000_s",
    "agent_rss_mb",
    "agent_rss_10000_mb",
    "apply_10000_peers_s",
    "one_change_at_10000_ms",
    "plan_and_diff_10000_ms",
    "packets_lost_per_1000_changes",
    "health_p99_ms",
    "agent_cpu_percent",
    "agent_cpu_busy_percent",
)
UNITS = {"ms": "ms", "s": "s", "mb": "MB", "percent": "%", "changes": "packets"}
WITH_PARTS = ("cold_", "apply_", "plan_", "packets_", "health_")


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the benchmark writes in this test, instead of over somebody's results."""
    path = tmp_path / "results.json"
    monkeypatch.setattr(bench, "RESULTS", path)
    return path


def check(path: Path, names: list[str]) -> None:
    """A results file has one complete line for each entry."""
    lines = json.loads(path.read_text())
    assert [line["name"] for line in lines] == names
    for line in lines:
        assert set(line) - {"parts", "ratio"} == {"name", "value", "unit", "floor", "n"}
        assert ("parts" in line) == line["name"].startswith(WITH_PARTS)
        # In few rounds on a busy machine the chain may tell a bystander last: about 0, or below.
        # Packets are lost by chance, and hopefully not at all.
        assert line["unit"] == UNITS[line["name"].rpartition("_")[2]]
        if line["unit"] != "packets":
            assert line["floor"] != 0
            assert line["value"] != 0
        if line["floor"]:
            assert line["ratio"] == line["value"] / line["floor"]
        else:
            assert "ratio" not in line
        assert line["n"] >= 2


def test_quick_entries(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real agents are measured against real floors; the file and the JSON printed are the same."""
    need_lab()
    names = [
        "event_to_peer_ms",
        "poll_event_to_peer_ms",
        "revoke_to_last_packet_ms",
        "plan_and_diff_10000_ms",
        "one_change_at_10000_ms",
        "apply_10000_peers_s",
        "cold_ready_s",
        "warm_ready_s",
    ]
    assert bench.main(["--quick", "--json", *reversed(names)]) == 0
    check(results, names)
    told = capsys.readouterr()
    assert told.out == results.read_text()
    assert "warm_ready_s: round 2" in told.err


@pytest.mark.slow
def test_all_entries(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All of it, with a table for people; the agent keeps its budget of memory."""
    need_lab()
    assert bench.main(["--quick"]) == 0
    check(results, [entry.name for entry in bench.ENTRIES])
    shown = capsys.readouterr().out.splitlines()
    told = [line.split()[0] for line in shown[1:] if not line.startswith(" ")]
    assert told == [entry.name for entry in bench.ENTRIES]
    values = {line["name"]: line["value"] for line in json.loads(results.read_text())}
    assert values["agent_rss_mb"] <= 60
    assert values["agent_rss_10000_mb"] <= 100


def test_entries_explain_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    """`--list` names every promised entry and says how to read it; nothing is measured."""
    assert bench.main(["--list"]) == 0
    listed = capsys.readouterr().out
    names = [line for line in listed.splitlines() if line and not line.startswith(" ")]
    assert set(ENTRIES) <= set(names)
    for entry in bench.ENTRIES:
        assert "floor" in (entry.measure.__doc__ or "")


def test_an_unknown_entry_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A name that does not exist is a mistake of the user's, said in a sentence."""
    with pytest.raises(SystemExit) as ended:
        bench.main(["no_such_entry"])
    assert ended.value.code == 2
    assert "no entry is called no_such_entry" in capsys.readouterr().err


def test_medians() -> None:
    """A result is the medians of both sides, and their ratio."""

    async def measure(_: object) -> Samples:
        raise AssertionError("not called")

    samples = Samples(values=[9.0, 3.0, 4.0], floors=[1.0, 100.0, 2.0])
    result = Result.of(Entry("x_ms", "ms", measure, 1), samples)
    assert result == Result("x_ms", 4.0, "ms", 2.0, 2.0, 3)
    assert set(result.json()) == {"name", "value", "unit", "floor", "ratio", "n"}


def test_the_worst_of_a_hundred() -> None:
    """Of a hundred samples p99 is what one of them exceeds; parts are medians, like the value."""

    async def measure(_: object) -> Samples:
        raise AssertionError("not called")

    values = [float(n) for n in range(100, 0, -1)]
    samples = Samples(values=values, floors=[1.0] * 100, parts={"chain": [3.0, 1.0, 2.0]})
    result = Result.of(Entry("x_ms", "ms", measure, 1), samples)
    assert (result.value, result.p99, result.floor_p99) == (50.5, 99.0, 1.0)
    assert result.parts == {"chain": 2.0}
    shown = table([result]).splitlines()
    assert [line.split() for line in shown[1:]] == [
        ["x_ms", "50.5", "1", "ms", "50.5", "100"],
        ["p99", "99", "1", "ms"],
        ["chain", "2", "ms"],
    ]


def test_a_floor_of_nothing_has_no_ratio() -> None:
    """What is measured against nothing is shown without a ratio; parts may have their own unit."""

    async def measure(_: object) -> Samples:
        raise AssertionError("not called")

    samples = Samples(values=[3.0], floors=[0.0], parts={"rate (Mbit/s)": [200.0]})
    result = Result.of(Entry("lost", "packets", measure, 0), samples)
    assert result.ratio is None
    assert "ratio" not in result.json()
    assert result.json()["floor"] == 0
    shown = table([result]).splitlines()
    assert shown[1].split() == ["lost", "3", "0", "packets", "-", "1"]
    assert shown[2].split() == ["rate", "(Mbit/s)", "200"]


def test_what_is_printed_is_waited_for_by_its_meaning() -> None:
    """A line of an agent's log tells of one peer; others, and words of others, do not."""
    key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE="
    line = '{"event": "cycle.applied", "sentence": "block 7: added node-3; peers: 9"}'
    assert applied("node-3", key, there=True)(line)
    assert not applied("node-3", key, there=False)(line)
    assert not applied("node-4", key, there=True)(line)
    assert not applied("node-3", key, there=True)("added node-3")
    gone = '{"event": "cycle.applied", "sentence": "block 8: removed AAAAAAAA (REVOKED: x)"}'
    assert applied("node-3", key, there=False)(gone)
