"""The log history of a contract, read from one provider in ranges of blocks.

I/O. Ranges are named by numbers, and each answer comes together with the header of the range's last
block: a machine that does not have that block yet cannot pass its logs off as none. Nothing partial
comes out: a part that fails fails the whole, and is told as what it is. What was read is kept for
the next attempt, down to the newest block that the chain still has.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from dstack_vpn.chain import calls
from dstack_vpn.chain.calls import Call, Refusal
from dstack_vpn.chain.jsonrpc import RATE_LIMITS
from dstack_vpn.chain.published_calls import Log, logs_between
from dstack_vpn.chain.rpc import Provider
from dstack_vpn.chain.spans import START, Span, too_large
from dstack_vpn.errors import BadAnswerError, ChainError, ProviderError
from dstack_vpn.mesh.membership import Address, Block, Mark

log = structlog.get_logger()

PATIENCE = 60.0
"""Seconds for which one question is asked again while the provider only wants to be asked later."""

TELL_EVERY = 10.0
"""Seconds between two lines about the progress."""

RECENT = 256
"""Blocks whose hashes are kept for each part: no reorganisation of a real chain was deeper."""

_LOOK = 0.1
"""Seconds between two looks at whether a provider may be asked again; they are no requests."""

Progress = Callable[[int, int], None]
"""Gets the newest block that was read, and the last one to read."""


class BlockTooLargeError(ChainError):
    """A single block has more logs of the contract than the provider gives."""


@dataclass(slots=True)
class _Part:
    """Blocks that were read."""

    end: Mark
    logs: list[Log]


class LogHistory:
    """All logs of a contract from a block on, as one provider gives them."""

    def __init__(
        self,
        provider: Provider,
        contract: Address,
        first: int,
        *,
        chunk: int = START,
        patience: float = PATIENCE,
    ) -> None:
        """Prepare, without traffic.

        Args:
            provider: who is asked.
            contract: whose logs.
            first: number of the first block.
            chunk: blocks to ask for at once, at most.
            patience: seconds for which a provider is asked again while it says "later".
        """
        self.first = first
        self._provider = provider
        self._contract = contract
        self._span = Span(chunk)
        self._patience = patience
        self._parts: list[_Part] = []
        self._reading = asyncio.Lock()

    async def read(self, until: Block, progress: Progress | None = None) -> list[Log]:
        """All logs up to a block, which the provider must have in its place before and after.

        Raises:
            BlockTooLargeError: no smaller question is left.
            ChainError: something could not be read, or the chain changed meanwhile.
        """
        async with self._reading:
            return await self._read(until, progress)

    async def _read(self, until: Block, progress: Progress | None) -> list[Log]:
        await self._check_place(until)
        await self._drop_replaced()
        while (start := self._next) <= until.number:
            last = min(start + self._span.size - 1, until.number)
            part = await self._read_part(start, last)
            if part is not None:
                self._keep(part)
                self._span.grow()
                if progress is not None:
                    progress(part.end.number, until.number)
        if await self._drop_replaced():
            raise ChainError(f"the chain of {self._provider.name} changed while it was read")
        await self._check_place(until)
        return [log for part in self._parts for log in part.logs if log.block <= until.number]

    @property
    def _next(self) -> int:
        return self._parts[-1].end.number + 1 if self._parts else self.first

    async def _check_place(self, until: Block) -> None:
        (there,) = await self._ask([calls.header_at_or_none(until.number)])
        if there is None:
            raise ProviderError(self._provider.name, f"has no block {until.number} yet")
        if there.block.hash != until.hash:
            raise ChainError(
                f"{self._provider.name} has another block {until.number} than the one agreed on"
            )

    async def _read_part(self, first: int, last: int) -> _Part | None:
        """Read some blocks; None when they were too many, and fewer are to be tried."""
        count = last - first + 1
        question: list[Call[Any]] = [
            calls.optional(logs_between(self._contract, first, last)),
            calls.header_at(last),
        ]
        try:
            logs, end = await self._ask(question, count)
        except ProviderError as error:
            self._shrink(error, first, count)
            return None
        if isinstance(logs, Refusal):
            problem = f"eth_getLogs was refused: {logs.message} (code {logs.code})"
            refusal = ProviderError(self._provider.name, problem, code=logs.code)
            try:
                self._shrink(refusal, first, count)
            except ChainError as error:
                self._provider.blame(error)
                raise
            return None
        block = end.block
        if any(log.block_hash != block.hash for log in logs if log.block == block.number):
            raise BadAnswerError(
                "log-block", f"{self._provider.name} has logs of another block {block.number}"
            )
        return _Part(Mark(block.number, block.hash), list(logs))

    def _shrink(self, error: ProviderError, first: int, count: int) -> None:
        """Ask for less, when it was about that; otherwise raise it."""
        refused = too_large(_words(error), count)
        if refused is None or (count == 1 and not refused.certain):
            raise error
        if count == 1:
            raise BlockTooLargeError(
                f"the logs of block {first} alone are too many for {error}; another provider is"
                " needed, or another plan of this one"
            )
        self._span.shrink(refused, count)

    async def _ask(self, batch: Sequence[Call[Any]], count: int = 1) -> tuple[Any, ...]:
        def is_size(error: ProviderError) -> bool:
            refused = too_large(_words(error), count)
            return refused is not None and (count > 1 or refused.certain)

        return await ask_patiently(self._provider, batch, self._patience, unless=is_size)

    def _keep(self, part: _Part) -> None:
        """Add a part, and make one of those that are too old to be replaced piecemeal."""
        self._parts.append(part)
        old = part.end.number - RECENT
        while len(self._parts) > 1 and self._parts[1].end.number < old:
            absorbed = self._parts.pop(1)
            self._parts[0].logs.extend(absorbed.logs)
            self._parts[0].end = absorbed.end

    async def _drop_replaced(self) -> bool:
        """Forget the parts that the provider's chain does not have any more; whether there were."""
        if not self._parts:
            return False
        headers = await self._ask([calls.header_at_or_none(p.end.number) for p in self._parts])
        for i, (part, header) in enumerate(zip(self._parts, headers, strict=True)):
            if header is None or header.block.hash != part.end.hash:
                del self._parts[i:]
                return True
        return False


def _words(error: ProviderError) -> str:
    """What the provider wrote, without what was put around it."""
    text = str(error).removeprefix(f"{error.provider}: eth_getLogs was refused: ")
    return text.removeprefix(f"{error.provider}: ").removesuffix(f" (code {error.code})")


async def ask_patiently(
    provider: Provider,
    batch: Sequence[Call[Any]],
    patience: float = PATIENCE,
    *,
    unless: Callable[[ProviderError], bool] | None = None,
) -> tuple[Any, ...]:
    """Ask, and ask again for a while as long as the provider only wants to be asked later.

    A long reading must not begin anew whenever a provider says that it was too much at once.

    Args:
        provider: who is asked.
        batch: what.
        patience: seconds from now on.
        unless: whether a "later" in truth says that asking again is no use.

    Raises:
        ChainError: no usable answer, or none in time.
    """
    now = asyncio.get_running_loop().time
    deadline = now() + patience
    while True:
        generation = provider.generation
        try:
            return await provider.batch(batch)
        except ProviderError as error:
            # It was not asked at all: an earlier failure still holds.
            paused = error.code is None and provider.generation == generation
            refused = unless is not None and unless(error)
            later = paused or (error.code in RATE_LIMITS and not refused)
            if not later or now() >= deadline:
                raise
        await asyncio.sleep(_LOOK)


class BackfillLog:
    """Tells in the log how far a long reading is; of a short one there is nothing to tell."""

    def __init__(self, provider: Provider, *, every: float = TELL_EVERY) -> None:
        """Begin; the first line comes after so many seconds."""
        self._provider = provider
        self._every = every
        self._told_at = asyncio.get_running_loop().time()

    def __call__(self, done: int, last: int) -> None:
        """Note progress."""
        now = asyncio.get_running_loop().time()
        if now - self._told_at >= self._every:
            self._told_at = now
            log.info("chain.backfill", provider=self._provider.name, block=done, until=last)
