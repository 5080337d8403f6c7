"""A provider over HTTP or HTTPS.

I/O. httpcore with one pool a provider: connections are kept alive, answers are cut off at a size
and a time, compression is not asked for (a small answer could unfold into a huge one), redirects
are not followed.
"""

import base64
from collections.abc import Mapping, Sequence
from urllib.parse import unquote, urlsplit, urlunsplit

import httpcore

from dstack_vpn.chain.jsonrpc import Reply, Request, decode_batch, encode, is_fault
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
    (httpcore.NetworkError, "the connection broke"),
    (httpcore.ProtocolError, "the answer is not HTTP"),
)
"""Our words, because the library's may hold parts of the URL."""
_PROBLEM = "cannot connect"
_FAILURES: tuple[type[Exception], ...] = (*dict(_PROBLEMS), OSError, ValueError)
_STALE = (httpcore.ReadError, httpcore.WriteError, httpcore.RemoteProtocolError)


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
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=_CONNECTIONS, keepalive_expiry=_IDLE
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._pool.aclose()

    async def _exchange(self, requests: Sequence[Request]) -> Mapping[int, Reply]:
        body = encode(requests)
        try:
            try:
                answer = await self._post(body)
            except _STALE:
                # A server may close an idle connection just as we use it. Reading twice does no
                # harm.
                answer = await self._post(body)
        except _FAILURES as error:
            problem = next((p for kind, p in _PROBLEMS if isinstance(error, kind)), _PROBLEM)
            raise ProviderError(self.name, problem) from None
        return decode_batch(answer, [request.id for request in requests])

    async def _post(self, body: bytes) -> bytes:
        async with self._pool.stream(
            "POST", self._url, headers=self._headers, content=body
        ) as response:
            if response.status != 200:
                return await self._explained(response)
            return await self._body(response, MAX_ANSWER)

    async def _body(self, response: httpcore.Response, most: int) -> bytes:
        answer = bytearray()
        async for chunk in response.aiter_stream():
            answer += chunk
            if len(answer) > most:
                problem = f"an answer of more than {most // 2**20} MB"
                raise ProviderError(self.name, problem)
        return bytes(answer)

    async def _explained(self, response: httpcore.Response) -> bytes:
        """The JSON-RPC error that some providers send along with HTTP's 400 or 413.

        Raises:
            ProviderError: there is none.
        """
        refused = self._refused(response)
        if response.status not in _EXPLAINED:
            raise refused
        try:
            body = await self._body(response, MAX_EXPLANATION)
        except ProviderError:
            raise refused from None
        if not is_fault(body):
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
