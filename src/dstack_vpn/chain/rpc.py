"""A provider of chain data: one JSON-RPC endpoint that is asked in batches and believed in nothing.

I/O. This is what HTTP (`rpc_http`) and WebSocket (`rpc_socket`) have in common: time limits,
counting, waiting after failures, and the rule that no text which leaves here holds any part of the
URL, whose path, query or user part may be a key. A provider is called by its host and number only.
"""

import asyncio
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from dstack_vpn.chain.calls import Call, Refusal
from dstack_vpn.chain.header import Header
from dstack_vpn.chain.jsonrpc import RATE_LIMITS, MessageError, Reply, Request, RpcFault
from dstack_vpn.config import provider_name
from dstack_vpn.errors import BadAnswerError, ChainError, ProviderError
from dstack_vpn.mesh.snapshot import ProviderStatus, Subscription

MAX_ANSWER = 32 * 1024 * 1024
"""Bytes of one message, whatever was asked; most calls have a lower bound of their own."""

MAX_BATCH = 50
"""Calls in one HTTP request; some providers refuse more than 100."""

FIRST_PAUSE = 0.25
LONGEST_PAUSE = 10.0
"""Seconds to leave a failing provider alone: doubled each time, with jitter."""

RATE_LIMIT_PAUSE = 2.0
LONGEST_RATE_LIMIT_PAUSE = 60.0
"""The same after "too many requests"; also the most that a Retry-After can make us wait."""


class Provider(ABC):
    """One endpoint."""

    def __init__(self, url: str, number: int, *, timeout: float = 10.0) -> None:
        """Prepare, without any traffic.

        Args:
            url: where it is; from here on a secret.
            number: its place among the configured URLs, from 1.
            timeout: seconds until an answer must be complete.
        """
        self.name = provider_name(url, number)
        self.host = (urlsplit(url).hostname or "").rstrip(".")
        self.generation = 0
        """Goes up whenever the endpoint may have become another one behind our back; whoever relies
        on chain id, genesis or code checks them again then."""
        self.on_wake: Callable[[], None] = lambda: None
        """Called when the endpoint shows that there may be something new."""
        self.head: int | None = None
        """Newest verified block number that it reported."""
        self._timeout = timeout
        self._secrets = _secrets_of(url)
        self._last_id = 0
        self._requests: Counter[str] = Counter()
        self._refuted: Counter[str] = Counter()
        self._failures = 0
        self._failed_in_row = 0
        self._last_error: str | None = None
        self._not_before = 0.0
        self._paused_for = ""

    def __repr__(self) -> str:
        return f"<Provider {self.name}>"

    @property
    def status(self) -> ProviderStatus:
        """How it does."""
        return ProviderStatus(
            name=self.name,
            healthy=self._last_error is None,
            head=self.head,
            last_error=self._last_error,
            requests=dict(self._requests),
            failures=self._failures,
            refused=dict(self._refuted),
            subscription=self.subscription,
        )

    @property
    def subscription(self) -> Subscription:
        """How it stands with being told of new heads unasked."""
        return Subscription.NONE

    def found_head(self, number: int) -> None:
        """Note the number of the newest verified block that it reported."""
        self.head = number

    async def batch(self, calls: Sequence[Call[Any]]) -> tuple[Any, ...]:
        """Ask several things at once: all parsed results in order, or an exception.

        Raises:
            ProviderError: no usable answer to at least one call, or it is too early to ask again.
            BadAnswerError: an answer that its parser refuses.
        """
        self._check_pause()
        results: list[Any] = []
        try:
            async with asyncio.timeout(self._timeout):
                for start in range(0, len(calls), MAX_BATCH):
                    part = calls[start : start + MAX_BATCH]
                    results += self._results(part, await self._send(part))
        except TimeoutError:
            asked = ", ".join(dict.fromkeys(call.method for call in calls))
            error = ProviderError(self.name, f"no answer within {self._timeout:g} s to {asked}")
            self._note_failure(error, away=True)
            raise error from None
        except MessageError as problem:
            error = ProviderError(self.name, str(problem))
            self._note_failure(error, away=True)
            raise error from None
        except ProviderError as error:
            away = error.code is None or error.code in RATE_LIMITS
            self._note_failure(error, away=away)
            raise
        except BadAnswerError as error:
            self._note_failure(error, away=False)
            raise
        self._last_error = None
        self._failed_in_row = 0
        return tuple(results)

    async def _send(self, calls: Sequence[Call[Any]]) -> list[Reply]:
        requests = []
        for call in calls:
            self._last_id += 1
            self._requests[call.method] += 1
            requests.append(
                Request(id=self._last_id, method=call.method, params=call.params, bound=call.bound)
            )
        replies = await self._exchange(requests)
        return [replies[request.id] for request in requests]

    def _results(self, calls: Sequence[Call[Any]], replies: Sequence[Reply]) -> list[Any]:
        results: list[Any] = []
        for call, reply in zip(calls, replies, strict=True):
            if isinstance(reply, RpcFault):
                text = self._without_secrets(reply.message)
                if reply.code in RATE_LIMITS or not call.may_fail:
                    problem = f"{call.method} was refused: {text} (code {reply.code})"
                    raise ProviderError(self.name, problem, code=reply.code)
                results.append(Refusal(reply.code, text))
                continue
            try:
                results.append(call.parse(reply))
            except BadAnswerError as error:
                problem = str(error).removeprefix(f"{error.check}: ")
                raise BadAnswerError(
                    error.check, f"{self.name} answered {call.method} with {problem}"
                ) from None
        return results

    @abstractmethod
    async def _exchange(self, requests: Sequence[Request]) -> Mapping[int, Reply]:
        """Send requests and bring the reply to each.

        Raises:
            ProviderError: there is none.
            MessageError: it is malformed, or larger than any answer to that can be.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close connections and end what runs."""

    def take_head(self) -> Header | None:
        """The newest head that the endpoint told unasked since the last call, if it did."""
        return None

    def blame(self, error: ChainError) -> None:
        """Count an answer that was well-formed but is of no use, or was refuted later."""
        self._failures += 1
        self._last_error = str(error)
        if isinstance(error, BadAnswerError):
            self._refuted[error.check] += 1

    def _check_pause(self) -> None:
        if asyncio.get_running_loop().time() < self._not_before:
            # The same words as at first: to whoever reads them nothing new has happened.
            raise ProviderError(self.name, self._paused_for)

    def _note_failure(self, error: ProviderError | BadAnswerError, *, away: bool) -> None:
        """Count a failure; one of the connection also earns a pause."""
        self.blame(error)
        if not away:
            return
        self._paused_for = str(error).removeprefix(f"{self.name}: ")
        # What answers after this may be another server, or the same one after a new start.
        self.generation += 1
        first, longest, asked = FIRST_PAUSE, LONGEST_PAUSE, 0.0
        if isinstance(error, ProviderError):
            asked = error.retry_after or 0.0
            if asked or error.code in RATE_LIMITS:
                first, longest = RATE_LIMIT_PAUSE, LONGEST_RATE_LIMIT_PAUSE
        pause = min(longest, max(asked, first * 2 ** min(self._failed_in_row, 16)))
        self._failed_in_row += 1
        # Jitter upwards only: never earlier than was asked for.
        jitter = 1 + random.random() / 4  # noqa: S311 - spreads load, guards nothing
        self._not_before = asyncio.get_running_loop().time() + pause * jitter

    def _end_pause(self) -> None:
        self._not_before = 0.0

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return text


def _secrets_of(url: str) -> tuple[str, ...]:
    """The parts of a URL that a provider might echo in its error texts, longest first."""
    parts = urlsplit(url)
    words = [parts.username, parts.password, parts.path, parts.query, *parts.path.split("/")]
    words += [value for _, value in parse_qsl(parts.query)]
    found = {word for raw in words if raw for word in (raw, unquote(raw)) if len(word) >= 4}
    return tuple(sorted(found, key=len, reverse=True))
