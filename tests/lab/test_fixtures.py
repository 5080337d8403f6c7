"""`need` and the deadlines: what stands between a missing tool and a test that proves nothing."""

import asyncio
import time

import pytest

from lab.fixtures import need
from lab.waiting import NotInTimeError, until


def test_need_skips_at_home_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing skips a test with the reason, but where CI=true it fails the test."""
    monkeypatch.delenv("CI", raising=False)
    need(True, "nothing")
    with pytest.raises(pytest.skip.Exception, match="no such tool"):
        need(False, "no such tool")
    monkeypatch.setenv("CI", "true")
    need(True, "nothing")
    with pytest.raises(pytest.fail.Exception, match="no such tool"):
        need(False, "no such tool")


async def test_until_returns_what_was_seen() -> None:
    """`until` looks until there is something, past expected errors."""
    looks = iter([None, 0, "seen"])
    assert await until(lambda: next(looks), "something") == "seen"

    tries = iter([ConnectionError("not yet"), None])

    async def look() -> int:
        if problem := next(tries):
            raise problem
        return 7

    assert await until(look, "something", retry_on=(ConnectionError,)) == 7


async def test_until_ends_at_its_deadline_and_says_why() -> None:
    """A fact that does not come true fails by name, with the last error, even in mid look."""

    async def hangs() -> None:
        await asyncio.sleep(3600)

    async def refuses() -> None:
        raise ConnectionError("refused by b")

    began = time.monotonic()
    with pytest.raises(NotInTimeError, match="the moon is full"):
        await until(hangs, "the moon is full", within=0.05)
    with pytest.raises(NotInTimeError, match="refused by b"):
        await until(refuses, "b answers", within=0.05, retry_on=(ConnectionError,))
    with pytest.raises(ConnectionError):
        await until(refuses, "b answers", within=0.05)
    assert time.monotonic() - began < 5
