"""Logs of several containers as one: what a line says, in which order, and how it is shown."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.deploy.loglines import (
    LEVELS,
    Held,
    Line,
    as_json,
    merge,
    parse_line,
    parse_lines,
    show,
)

STAMP = "2023-11-14T22:13:20.123456789Z"


def at(seconds: int, text: str = "x", service: str = "node-a") -> Line:
    """A line of a moment."""
    return Line(
        time=f"2023-11-14T22:13:{seconds:02}.000000000Z", service=service, level="info", text=text
    )


def parsed(text: str) -> Line:
    """A line with this text."""
    line = parse_line("node-a", f"{STAMP} {text}")
    assert line is not None
    return line


def event(**fields: Any) -> str:
    """A line as the agent logs it."""
    return json.dumps({"event": "plan.applied", "level": "info", **fields})


CASES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "of the agent": (
        event(node="node-a", timestamp="2023-11-14T22:13:20Z", block=7, peers=["node-b"]),
        "info",
        "plan.applied",
        {"block": 7, "peers": ["node-b"]},
    ),
    "a warning": (event(level="warning"), "warn", "plan.applied", {}),
    "in capitals": (event(level="ERROR"), "error", "plan.applied", {}),
    "of another program": (event(level="fatal"), "error", "plan.applied", {}),
    "no level": ('{"event": "a.b"}', "info", "a.b", {}),
    "a level that is none": (event(level="loud"), "info", "plan.applied", {}),
    "a number for a level": (event(level=7), "info", "plan.applied", {}),
    "an object for a level": (event(level={"error": 1}), "info", "plan.applied", {}),
    "nothing for a level": (event(level=None), "info", "plan.applied", {}),
    "no event": ('{"level": "error"}', "info", '{"level": "error"}', {}),
    "an event that is no text": ('{"event": 7}', "info", '{"event": 7}', {}),
    "an empty event": ('{"event": ""}', "info", "", {}),
    "plain text": ("127.0.0.1 - GET /", "info", "127.0.0.1 - GET /", {}),
    "nothing": ("", "info", "", {}),
    "a list": ("[1]", "info", "[1]", {}),
    "a number": ("7", "info", "7", {}),
    "half an object": ('{"event": "a', "info", '{"event": "a', {}),
    "not a number": ('{"event": "a", "x": NaN}', "info", '{"event": "a", "x": NaN}', {}),
    "past any number": ('{"event": "a", "x": 1e999}', "info", '{"event": "a", "x": 1e999}', {}),
    "half a character": (r'{"event": "\ud800"}', "info", r'{"event": "\ud800"}', {}),
    "a large number": (event(x=10**30), "info", "plan.applied", {"x": 10**30}),
    "nested": ("[" * 9999, "info", "[" * 9999, {}),
    "huge": ("x" * 10**6, "info", "x" * 10**6, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_lines(case: str) -> None:
    """An object with an event is taken apart; everything else is a text of level info."""
    text, level, said, facts = CASES[case]
    assert parsed(text) == Line(time=STAMP, service="node-a", level=level, text=said, facts=facts)


@pytest.mark.parametrize(
    "stamped", ["", " ", "x", " x", "soon x", '{"event": "a"}', "0001-01-01T00:00:00Z x"]
)
def test_a_line_without_a_time_is_none(stamped: str) -> None:
    """Without the engine's time a line has no place among the others."""
    assert parse_line("node-a", stamped) is None


def test_ends_of_lines() -> None:
    """Only the engine ends a line; what else a program prints stays in it."""
    text = f"{STAMP} a\u2028b\x0bc\x85d\r\n{STAMP} e\n"
    assert [line.text for line in parse_lines("node-a", text)] == ["a\u2028b\x0bc\x85d", "e"]


def test_order() -> None:
    """Two streams of one container are one, and so are the containers."""
    out = "".join(f"{at(s).time} out{s}\n" for s in (1, 4))
    err = "".join(f"{at(s).time} err{s}\n" for s in (2, 3))
    lines = parse_lines("node-a", f"{out}cut off\n{err}")
    assert [line.text for line in lines] == ["out1", "err2", "err3", "out4"]
    other = parse_lines("node-b", f"{at(3).time} other3\n")
    assert [line.text for line in merge([lines, other, []])] == [
        "out1",
        "err2",
        "err3",
        "other3",
        "out4",
    ]


@given(st.lists(st.lists(st.integers(0, 59)), max_size=4))
def test_merging_loses_nothing(streams: list[list[int]]) -> None:
    """Whatever the streams are, all lines come, by time."""
    merged = list(merge([[at(s) for s in sorted(stream)] for stream in streams]))
    assert merged == [at(s) for s in sorted(s for stream in streams for s in stream)]


def test_followed_lines_come_in_order() -> None:
    """A line waits for those that are older and arrive later, but only for a moment."""
    held = Held(0.3)
    held.add(at(5), now=0.0)
    held.add(at(9), now=0.1)
    held.add(at(4), now=0.2)
    assert held.due(now=0.29) == []
    assert held.due(now=0.3) == [at(4), at(5)]
    assert held.due(now=0.3) == []
    held.add(at(1), now=0.35)
    assert held.due(now=0.4) == [at(1), at(9)]
    assert held.due(now=9) == []


@given(st.lists(st.integers(0, 59), max_size=20))
def test_lines_that_keep_coming_are_let_go(moments: list[int]) -> None:
    """However fast they come, each is told exactly once, and no later than it has to be."""
    held, told, now = Held(0.3), [], 0.0
    for moment in moments:
        held.add(at(moment), now=now)
        now += 0.1
        told += held.due(now=now)
    assert len(told) >= len(moments) - 4
    told += held.due(now=now + 1)
    assert sorted(line.time for line in told) == sorted(at(m).time for m in moments)


def test_levels() -> None:
    """A line is as severe as itself and all that is less."""
    warn = parsed(event(level="warning"))
    assert [level for level in LEVELS if warn.at_least(level)] == ["debug", "info", "warn"]


def test_shown_for_people() -> None:
    """Time, service, level, event and facts; texts with blanks are in quotes."""
    facts = {"block": 7, "why": "so it is", "peer": "node-b", "none": "", "list": [1, "a"]}
    assert show(parsed(event(**facts)), width=8) == (
        '22:13:20.123 node-a   info  plan.applied block=7 why="so it is" peer=node-b none=""'
        ' list=[1, "a"]'
    )
    assert show(at(3, "hello"), width=6) == "22:13:03.000 node-a info  hello"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("a\tb", r"a\tb"),
        ("\u202egnp", r"\u202egnp"),
        ("a\u2028b", r"a\u2028b"),
        (event(why="a\nb"), r'plan.applied why="a\nb"'),
        (event(**{"\x1b[2J": "\x07"}), r'plan.applied \x1b[2J="\u0007"'),
        ("äöü 漢", "äöü 漢"),
    ],
)
def test_nothing_steers_the_terminal(text: str, shown: str) -> None:
    """What a program prints is shown, and not obeyed."""
    assert show(parsed(text), width=6).partition("info  ")[2] == shown


def test_for_scripts() -> None:
    """One object a line, with the facts apart."""
    assert as_json(parsed(event(level="warning", block=7))) == {
        "time": STAMP,
        "service": "node-a",
        "level": "warn",
        "event": "plan.applied",
        "facts": {"block": 7},
    }
    assert "facts" not in as_json(at(3))


texts = st.text(st.characters(exclude_categories=["Cs"]))
objects = st.dictionaries(
    st.sampled_from(["event", "level", "timestamp", "node", "x"]) | texts,
    st.none() | st.integers() | st.floats() | texts | st.lists(st.integers() | texts),
).map(json.dumps)


@given(texts, objects | texts | st.binary().map(lambda raw: raw.decode(errors="replace")))
def test_whatever_a_program_prints(stamp: str, text: str) -> None:
    """A line never fails: it is shown as one printable line, and told to scripts as JSON."""
    for stamped in (f"{STAMP} {text}", f"{stamp} {text}", text):
        line = parse_line("node-a", stamped)
        if line is not None:
            assert line.level in LEVELS
            assert show(line, width=6).isprintable()
            assert msgspec.json.decode(msgspec.json.encode(as_json(line)))["service"] == "node-a"
