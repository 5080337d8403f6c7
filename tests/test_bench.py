"""The benchmark: that it measures, and writes what others read. The figures are not judged here."""

import json
from pathlib import Path

import pytest
from bench import __main__ as bench
from bench.entry import Entry, Result, Samples

from lab.fixtures import need_lab

ENTRIES = (
    "event_to_peer_ms",
    "revoke_to_last_packet_ms",
    "cold_ready_s",
    "warm_ready_s",
    "agent_rss_mb",
)


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
        assert set(line) == {"name", "value", "unit", "floor", "ratio", "n"}
        assert line["floor"] > 0
        assert line["value"] > 0
        assert line["ratio"] == line["value"] / line["floor"]
        assert line["unit"] == {"ms": "ms", "s": "s", "mb": "MB"}[line["name"].rpartition("_")[2]]
        assert line["n"] >= 2


def test_quick_entries(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real agents are measured against real floors; the file and the JSON printed are the same."""
    need_lab()
    names = ["event_to_peer_ms", "revoke_to_last_packet_ms", "warm_ready_s"]
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
    table = capsys.readouterr().out.splitlines()
    assert len(table) == len(bench.ENTRIES) + 1
    [memory] = [line for line in json.loads(results.read_text()) if line["name"] == "agent_rss_mb"]
    assert memory["value"] <= 60


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
