"""A provider over HTTP or HTTPS.

I/O. httpcore with one pool a provider: connections are kept alive, answers are cut off at a size
and a time, compression is not asked for (a small answer could unfold into a huge one), redirects
are not followed.

Whoever asks may be cancelled at any step, and often is: when others have answered already. httpcore
is not told of that, because where the answer comes at the same step its connection stays taken for
ever, with nobody who uses it. So each exchange is a task that goes on to its end. Only its own time
limit can cancel it, and that pool is then used no more.
"""

import asyncio
import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from urllib.parse import unquote, urlsplit, urlunsplit

import httpcore

from dstack_vpn.chain.jsonrpc import (
    MessageError,
    Reply,
    Request,
    bound_of,
    decode_batch,
    encode,
    is_fault,
    too_large,
)
from dstack_vpn.chain.rpc import MAX_ANSWER, Provider
from dstack_vpn.errors import ProviderError, SettingError

_CONNECTIONS = 4
MAX_EXPLANATION = 1024 * 1024
"""Bytes of an answer whose HTTP status says already that it is none."""
_EXPLAINED = frozenset((400, 413))
_IDLE = 60.0
"""Seconds to keep an idle connection."""

_PROBLEMS: tuple[tuple[type[Exception], str], ...] = (
    (httpcore.ConnectTimeout, "cannot connect in time"),
    (httpcore.ConnectError, "cannot connect"),
    (httpcore.TimeoutException, "no answer in time"),
    (TimeoutError, "no answer in time"),
    (httpcore.NetworkError, "the connection broke"),
    (httpcore.ProtocolError, "the answer is not HTTP"),
)
"""Our words, because the library's may hold parts of the URL."""
_PROBLEM = "cannot connect"
_FAILURES: tuple[type[Exception], ...] = (*dict(_PROBLEMS), OSError, ValueError)
_STALE = (httpcore.ReadError, httpcore.WriteError, httpcore.RemoteProtocolError)


def _new_pool() -> httpcore.AsyncConnectionPool:
    return httpcore.AsyncConnectionPool(max_connections=_CONNECTIONS, keepalive_expiry=_IDLE)


class HttpProvider(Provider):
    """A JSON-RPC endpoint at an ``http`` or ``https`` URL."""

    def __init__(self, url: str, number: int, *, timeout: float = 10.0) -> None:
        super().__init__(url, number, timeout=timeout)
        parts = urlsplit(url)
        headers: dict[bytes | str, bytes | str] = {
            "Content-Type": "application/json",
            "Accept": "application/json",
        }
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
        self._headers = headers
        try:
            plain = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="")
            self._url = httpcore.URL(urlunsplit(plain))
        except (ValueError, TypeError):  # TypeError: not ASCII
            accepted = "an http, https, ws or wss URL in ASCII"
            raise SettingError("RPC_URL", f"number {number} is no URL", accepted) from None
        self._pool = _new_pool()
        self._free = asyncio.Semaphore(_CONNECTIONS)
        self._exchanges: set[asyncio.Task[bytes]] = set()
        self._uses: Counter[httpcore.AsyncConnectionPool] = Counter()

    async def aclose(self) -> None:
        """End the exchanges and close the connections."""
        for task in self._exchanges:
            task.cancel()
        await asyncio.gather(*self._exchanges, return_exceptions=True)
        await self._pool.aclose()

    async def _exchange(self, requests: Sequence[Request]) -> Mapping[int, Reply]:
        # Waiting for a connection happens here, where it can be cancelled without harm.
        await self._free.acquire()
        # Owned here: kept, has a time limit, seen by `_ended`, ended by `aclose`.
        pool = self._pool
        task = asyncio.create_task(self._exchanged(pool, requests), name=self.name)  # noqa: TID251
        self._exchanges.add(task)
        task.add_done_callback(self._ended)
        try:
            answer = await asyncio.shield(task)
        except MessageError:
            raise
        except _FAILURES as error:
            problem = next((p for kind, p in _PROBLEMS if isinstance(error, kind)), _PROBLEM)
            raise ProviderError(self.name, problem) from None
        return decode_batch(answer, requests)

    def _ended(self, task: asyncio.Task[bytes]) -> None:
        self._exchanges.discard(task)
        self._free.release()
        if not task.cancelled():
            task.exception()  # seen, so that the loop does not complain

    async def _exchanged(
        self, pool: httpcore.AsyncConnectionPool, requests: Sequence[Request]
    ) -> bytes:
        """Bring the bytes of an answer, no more than may be; never to be cancelled but to end."""
        body = encode(requests)
        self._uses[pool] += 1
        try:
            async with asyncio.timeout(self._timeout):
                try:
                    return await self._post(pool, body, requests)
                except _STALE:
                    # A server may close an idle connection just as we use it. Reading twice does
                    # no harm.
                    return await self._post(pool, body, requests)
        except TimeoutError:
            # Cancelled, and by that perhaps spoiled; whoever still uses it may go on.
            if self._pool is pool:
                self._pool = _new_pool()
            raise
        finally:
            self._uses[pool] -= 1
            if pool is not self._pool and not self._uses[pool]:
                del self._uses[pool]
                await pool.aclose()

    async def _post(
        self, pool: httpcore.AsyncConnectionPool, body: bytes, requests: Sequence[Request]
    ) -> bytes:
        async with pool.stream("POST", self._url, headers=self._headers, content=body) as response:
            if response.status != 200:
                return await self._explained(response)
            size = min(MAX_ANSWER, bound_of(requests).size)
            answer = await self._body(response, size)
        if answer is None:
            raise too_large(size, requests)
        return answer

    async def _body(self, response: httpcore.Response, size: int) -> bytes | None:
        """The body of a response; None when it has more bytes."""
        answer = bytearray()
        async for chunk in response.aiter_stream():
            answer += chunk
            if len(answer) > size:
                return None
        return bytes(answer)

    async def _explained(self, response: httpcore.Response) -> bytes:
        """The JSON-RPC error that some providers send along with HTTP's 400 or 413.

        Raises:
            ProviderError: there is none.
        """
        refused = self._refused(response)
        if response.status not in _EXPLAINED:
            raise refused
        body = await self._body(response, MAX_EXPLANATION)
        if body is None or not is_fault(body):
            raise refused
        return body

    def _refused(self, response: httpcore.Response) -> ProviderError:
        headers = {name.lower(): value for name, value in response.headers}
        wait = headers.get(b"retry-after", b"").strip()
        # The other form, a date, would need a clock that we trust.
        seconds = float(wait) if wait.isdigit() and len(wait) < 10 else None
        return ProviderError(
            self.name,
            f"HTTP status {response.status}",
            retry_after=seconds,
            code=429 if response.status == 429 else None,
        )
