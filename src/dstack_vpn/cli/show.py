"""Output: results on stdout, progress on stderr and only on a terminal."""

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec


def put(line: str) -> None:
    """Print a line of the result."""
    sys.stdout.write(line + "\n")


def put_json(value: Any) -> None:
    """Print the result for scripts."""
    put(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def note(line: str) -> None:
    """Tell something on the way, which is not the result."""
    sys.stderr.write(line + "\n")


def put_facts(facts: Mapping[str, object]) -> None:
    """Print names and values in two columns."""
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        put(f"{name:<{width}}  {'-' if value in (None, '') else plain(str(value))}")


def put_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; on a terminal it fits the terminal, in a pipe lines are never cut."""
    if not sys.stdout.isatty():
        lines = [list(head), *[[plain(cell) for cell in row] for row in rows]]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        for line in lines:
            put("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())
        return
    from rich.console import Console  # noqa: PLC0415 - late, for `--help` starts faster without
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(*head, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(plain(cell), overflow="fold") for cell in row))
    Console().print(table)


@contextlib.contextmanager
def progress(text: str) -> Iterator[None]:
    """Show on a terminal that something is under way."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.markup import escape  # noqa: PLC0415

    with Console(stderr=True).status(escape(text)):
        yield


def plain(text: str) -> str:
    """Text without what would steer a terminal; holders choose node ids and endpoints."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def moment(seconds: int) -> str:
    """A time on the chain for people."""
    if seconds == 0:
        return "never"
    try:
        return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"Unix time {seconds}"
