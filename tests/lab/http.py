"""HTTP as the lab needs it: one request, one answer, a deadline, no connection kept."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpcore


@dataclass(frozen=True, slots=True)
class Answer:
    """What an HTTP server said."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


class HttpError(Exception):
    """No answer: refused, reset, or not in time."""


async def request(
    method: str,
    url: str,
    *,
    headers: Mapping[bytes | str, bytes | str] | None = None,
    body: bytes | None = None,
    within: float = 5.0,
) -> Answer:
    """Ask once."""
    try:
        async with asyncio.timeout(within), httpcore.AsyncConnectionPool() as pool:
            answer = await pool.request(method, url, headers=headers, content=body)
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
        raise HttpError(f"{method} {url}: {type(error).__name__} {error}") from error
    except TimeoutError as error:
        raise HttpError(f"{method} {url}: no answer within {within:g} s") from error
    names = {name.decode().lower(): value.decode() for name, value in answer.headers}
    return Answer(answer.status, names, answer.content)


async def get(
    url: str, *, headers: Mapping[bytes | str, bytes | str] | None = None, within: float = 5.0
) -> Answer:
    """GET a URL."""
    return await request("GET", url, headers=headers, within=within)
