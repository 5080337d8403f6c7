"""Structured logs: event name + fields, JSON lines on stderr or a readable form on a terminal.

Event names are ``component.what`` in dotted lower case. No secret is ever a field: keys are public
ones, providers are named by host and number.
"""

import contextlib
import logging
import select
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO, cast

import structlog

PATIENCE = 1.0
"""Seconds that a log's reader may stand still before lines are lost."""
PIECE = select.PIPE_BUF // 4
"""Characters, of 4 bytes at most, for which a pipe that has room has room enough."""

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

    On a full disk, or when the reader of a pipe has gone or stands still, logging must neither end
    nor halt the agent: it has members to remove.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._patience = PATIENCE
        self._room: select.poll | None = None
        with contextlib.suppress(OSError, ValueError):  # a stream in memory has no descriptor
            descriptor = stream.fileno()
            self._room = select.poll()
            self._room.register(descriptor, select.POLLOUT)

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # ValueError: it was closed
            for start in range(0, len(text), PIECE):
                if self._room is not None and not self._room.poll(self._patience * 1000):
                    # Waited for once: until there is room again, each line is lost at once.
                    self._patience = 0.0
                    return
                self._patience = PATIENCE
                self._stream.write(text[start : start + PIECE])
                self._stream.flush()

    def flush(self) -> None:
        """Nothing is left to be written."""


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
