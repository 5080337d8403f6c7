"""How the story is told: steps with their facts, one line each, as they become true.

On a terminal a line at the bottom moves and says what is being waited for; elsewhere the same
sentences come as plain text.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status
from rich.text import Text

WIDEST = 100
INDENT = 2


class Screen:
    """Standard output, for people."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, markup=False, emoji=False)
        self._width = min(self._console.width, WIDEST) if self._console.is_terminal else WIDEST
        self._status: Status | None = None
        self._steps = 0
        self.now = ""  #: the step that is being played

    def title(self, text: str, *sentences: str) -> None:
        """The first lines."""
        self._console.print(Text(text, style="bold"))
        for sentence in sentences:
            self._console.print(Text(sentence, style="dim"), soft_wrap=True)

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Tell a step; a failure in it can be named by `now`."""
        self._steps += 1
        self.now = f"step {self._steps}, “{text}”"
        self._console.print()
        self._console.print(Text.assemble((f"{self._steps} ", "bold cyan"), (text, "bold")))
        with self._moving():
            yield
        self.now = ""

    @contextmanager
    def _moving(self) -> Iterator[None]:
        if not self._console.is_terminal:
            yield
            return
        with self._console.status("", spinner="dots", spinner_style="cyan") as status:
            self._status = status
            try:
                yield
            finally:
                self._status = None

    def doing(self, text: str) -> None:
        """Say what is being waited for; on a terminal only, where the next line replaces it."""
        if self._status is not None:
            self._status.update(Text(text, style="dim"))

    def fact(self, text: str) -> None:
        """Tell what has been seen to be true."""
        first, *others = textwrap.wrap(text, self._width - INDENT - 2)
        self._console.print(Text.assemble(" " * INDENT, ("✓ ", "green"), first), soft_wrap=True)
        for line in others:
            self._console.print(Text(" " * (INDENT + 2) + line), soft_wrap=True)

    def table(self, rows: Sequence[tuple[str, str, str]]) -> None:
        """Show rows of what, how much, and how that is known."""
        first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
        for what, value, known in rows:
            line = Text.assemble(
                f"  {what:{first}}  ", (f"{value:>{second}}", "bold"), (f"  {known}", "dim")
            )
            line.rstrip()
            self._console.print(line, soft_wrap=True)

    def note(self, text: str) -> None:
        """Print a paragraph that explains."""
        for line in textwrap.wrap(text, self._width - INDENT):
            self._console.print(Text(" " * INDENT + line, style="dim"), soft_wrap=True)

    def say(self, text: str = "", *, style: str = "") -> None:
        """Print a line."""
        self._console.print(Text(text, style=style), soft_wrap=True)

    def failed(self, why: str, logs: Mapping[str, str]) -> None:
        """Say which step failed and why, below the last lines of the logs concerned."""
        for name, tail in logs.items():
            self.say()
            self.say(f"--- the end of {name}", style="dim")
            self.say(tail, style="dim")
        self.say()
        self.say(f"FAILED: {self.now or 'the demo'}: {why}", style="bold red")

    def close(self) -> None:
        """Give the terminal back as it was, from wherever we are."""
        if self._status is not None:
            self._status.stop()
