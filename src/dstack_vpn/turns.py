"""Long work in turns: pauses for the others on the loop, and an end when there is news.

Used where a large device is read and planned for. Whoever does such work can do it again later, and
a change of a few tokens that comes meanwhile must not wait for it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager
from typing import TypeVar

LOOK_UP = 0.005
"""Seconds between two looks for news while something is awaited."""

T = TypeVar("T")


class PutOffError(Exception):
    """There is news, and what was under way can be done again later."""


async def in_turns(steps: Generator[None, None, T], has_news: Callable[[], bool]) -> T:
    """Do a long work step by step, with the others on the loop in between.

    Raises:
        PutOffError: there is news.
    """
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        await asyncio.sleep(0)
        if has_news():
            raise PutOffError


@asynccontextmanager
async def until_news(has_news: Callable[[], bool]) -> AsyncIterator[None]:
    """Break off what is done inside as soon as there is news.

    Raises:
        PutOffError: there is news.
    """
    loop = asyncio.get_running_loop()
    limit = asyncio.timeout(None)

    def look() -> None:
        if not under_way:
            return
        if has_news():
            limit.reschedule(loop.time())
        else:
            loop.call_later(LOOK_UP, look)

    under_way = True
    loop.call_later(LOOK_UP, look)
    try:
        async with limit:
            try:
                yield
            finally:
                under_way = False
    except TimeoutError:
        if limit.expired():
            raise PutOffError from None
        raise
