"""Waiting for facts with a deadline, the only kind of waiting in the lab."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast, overload

T = TypeVar("T")

#: For things that take milliseconds here but much longer on a busy machine.
PATIENCE = 20.0

# From first look to first look: soon at first, since most facts are true within milliseconds.
FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.02


class NotInTimeError(AssertionError):
    """A fact did not come true before its deadline."""


@overload
async def until(
    look: Callable[[], Awaitable[T | None]],
    what: str,
    *,
    within: float = ...,
    retry_on: tuple[type[Exception], ...] = ...,
) -> T: ...


@overload
async def until(
    look: Callable[[], T | None],
    what: str,
    *,
    within: float = ...,
    retry_on: tuple[type[Exception], ...] = ...,
) -> T: ...


async def until(
    look: Callable[[], object],
    what: str,
    *,
    within: float = PATIENCE,
    retry_on: tuple[type[Exception], ...] = (),
) -> object:
    """Look again and again until there is something to see, and return it.

    Args:
        look: a plain or async function; anything false means "not yet".
        what: the fact that is waited for, for the message of the failure.
        within: seconds until `NotInTimeError`.
        retry_on: exceptions of `look` that mean "not yet" as well; the last one is reported.
    """
    deadline = time.monotonic() + within
    pause = FIRST_PAUSE
    last: Exception | None = None
    while True:
        try:
            seen = look()
            if inspect.isawaitable(seen):
                async with asyncio.timeout(max(deadline - time.monotonic(), 0.001)):
                    seen = await cast("Awaitable[object]", seen)
            if seen:
                return seen
            last = None
        except TimeoutError as error:
            last = error
        except retry_on as error:
            last = error
        if time.monotonic() >= deadline:
            because = f"; last: {type(last).__name__}: {last}" if last else ""
            raise NotInTimeError(f"not within {within:g} s: {what}{because}") from last
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)
