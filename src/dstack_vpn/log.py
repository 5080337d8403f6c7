"""Structured logs: event name + fields, JSON lines on stderr or a readable form on a terminal.

Event names are ``component.what`` in dotted lower case. No secret is ever a field: keys are public
ones, providers are named by host and number.
"""

import contextlib
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO, cast

import structlog

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}


def configure_logs(*, level: str = "info", form: str = "auto", node_id: str = "") -> None:
    """Set up the process's logs once, at its start.

    Args:
        level: debug, info, warn or error.
        form: json, console, or auto (console on a terminal).
        node_id: stands in every line as ``node``.
    """

    def name_node(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Any:
        if node_id:
            event["node"] = node_id
        return event

    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    render: Any = (
        # Tracebacks without local variables: those hold keys.
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            name_node,
            *([_without_controls] if console else [structlog.processors.format_exc_info]),
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Unfailing(sys.stderr))),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_LibraryHandler()]
    root.setLevel(logging.WARNING)


class _Unfailing:
    """A stream to which nothing is owed: a line that cannot be written is lost.

    On a full disk, or when the reader of a pipe has gone, logging must not end the agent.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # ValueError: it was closed
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def _without_controls(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Any:
    """Names and reasons may be a stranger's words; a terminal must not obey them."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = ascii(value)
    return event


class _LibraryHandler(logging.Handler):
    """Lets what libraries log with the standard module come out in the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger(component=record.name)
        log.log(record.levelno, "library.log", message=record.getMessage())
