"""Logs: one line an event, levels kept, and nothing that a terminal would obey."""

import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from dstack_vpn import log as log_module
from dstack_vpn.log import configure_logs
from dstack_vpn.mesh.keys import PrivateKey

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """The process's logs as they were, afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(captured: Captured) -> list[str]:
    """What was logged."""
    return captured.readouterr().err.splitlines()


def test_json(capsys: Captured) -> None:
    """Where no terminal is, each event is one JSON line with its fields, level, time and node."""
    configure_logs(form="auto", node_id="db")
    structlog.get_logger(component="store").warning("store.damaged", moved_to="/x")
    (line,) = lines(capsys)
    event = json.loads(line)
    assert event.pop("timestamp").endswith("Z")
    assert event == {
        "event": "store.damaged",
        "level": "warning",
        "component": "store",
        "moved_to": "/x",
        "node": "db",
    }


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warn", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_levels(capsys: Captured, level: str, shown: list[str]) -> None:
    """LOG_LEVEL is the least severe line that is logged."""
    configure_logs(level=level, form="json")
    log = structlog.get_logger()
    for method in (log.debug, log.info, log.warning, log.error):
        method("test.event")
    assert [json.loads(line)["level"] for line in lines(capsys)] == shown


def test_libraries_speak_the_same_form(capsys: Captured) -> None:
    """What a library warns of comes out in our form, under its name; its chatter does not."""
    configure_logs(form="json")
    logging.getLogger("websockets").warning("lost %s", "it")
    logging.getLogger("websockets").info("chatter")
    (line,) = lines(capsys)
    event = json.loads(line)
    assert (event["event"], event["component"], event["message"], event["level"]) == (
        "library.log",
        "websockets",
        "lost it",
        "warning",
    )


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("text", ["a\nb", "\x1b[2J", "\u202egnp", "\0", "\x9b2J", "\u2028"])
def test_stranger_words_stay_on_their_line(capsys: Captured, form: str, text: str) -> None:
    """A hostile name neither begins a line of its own nor tells the terminal what to do."""
    configure_logs(form=form)
    structlog.get_logger().info("access.own", reason=f"<{text}>")
    shown = capsys.readouterr().err
    assert text not in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize("form", ["json", "console"])
def test_tracebacks_show_no_local_variables(capsys: Captured, form: str) -> None:
    """A traceback names lines and the error, never what the variables held."""
    configure_logs(form=form)
    secret = PrivateKey.generate().reveal()
    try:
        _fail(secret)
    except RuntimeError:
        structlog.get_logger().exception("test.failed")
    shown = capsys.readouterr().err
    assert "RuntimeError: on purpose" in shown
    assert secret[:20] not in shown


def _fail(text: str) -> None:
    raise RuntimeError("on purpose" if text else "")


def test_a_line_that_cannot_be_written_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk under the log, or a pipe that nobody reads any more, ends nothing."""
    null = os.open(os.devnull, os.O_WRONLY)
    with Path("/dev/full").open("w", encoding="utf-8", buffering=1) as full:
        monkeypatch.setattr(sys, "stderr", full)
        configure_logs(form="json")
        for _ in range(1000):
            structlog.get_logger().error("disk.failed", error="no space left")
        os.dup2(null, full.fileno())  # so that what is left in its buffer does no harm
    os.close(null)


def test_a_reader_that_stands_still_halts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that a full pipe does not take are lost; the log goes on when it is read again."""
    monkeypatch.setattr(log_module, "PATIENCE", 0.1)
    read, write = os.pipe()
    with os.fdopen(write, "w", encoding="utf-8", buffering=1) as pipe:
        monkeypatch.setattr(sys, "stderr", pipe)
        configure_logs(form="json")
        log = structlog.get_logger()
        for number in range(100):
            log.error("cycle.applied", number=number, sentence="é" * 5000)
        assert b"cycle.applied" in os.read(read, 2**20)
        log.error("cycle.later")
        assert b"cycle.later" in os.read(read, 2**20)
    os.close(read)
