"""The state of tokens at a block, read from one provider by the published views.

I/O. Two calls a token, pinned to the hash of the block, in batches. All or nothing: that a token is
gone is told only by a refusal of the contract itself, never by an error of the provider.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from dstack_vpn.chain.calls import Call, Refusal
from dstack_vpn.chain.pages import MAX_TOKENS
from dstack_vpn.chain.published_calls import access_of, is_revert, owner_of
from dstack_vpn.chain.ranges import ask_patiently
from dstack_vpn.chain.rpc import MAX_BATCH, Provider
from dstack_vpn.chain.tokens import State, state_of
from dstack_vpn.errors import BadAnswerError, ProviderError
from dstack_vpn.mesh.membership import Address, Block

T = TypeVar("T")

_AT_ONCE = 3
"""Batches that a provider is asked at the same time."""


async def read_states(
    provider: Provider, contract: Address, block: Block, token_ids: Iterable[int]
) -> dict[int, State | None]:
    """The state of tokens at a block; None where one is gone.

    Raises:
        ChainError: one of them could not be read.
    """
    ordered = sorted(token_ids)
    if len(ordered) > MAX_TOKENS:
        raise BadAnswerError("logs", f"{len(ordered)} tokens; at most {MAX_TOKENS} are believed")
    size = MAX_BATCH // 2
    parts = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    states: dict[int, State | None] = {}
    limit = asyncio.Semaphore(_AT_ONCE)

    async def read(part: Sequence[int]) -> None:
        async with limit:
            states.update(await _read_part(provider, contract, block, part))

    if len(parts) == 1:
        await read(ordered)
        return states
    try:
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(read(part), name=f"tokens of {provider.name}")
    except ExceptionGroup as failed:
        # One sentence is enough: the parts fail for one reason.
        raise failed.exceptions[0] from None
    return states


async def _read_part(
    provider: Provider, contract: Address, block: Block, token_ids: Sequence[int]
) -> dict[int, State | None]:
    batch: list[Call[Any]] = []
    for i in token_ids:
        batch += [access_of(contract, i, block), owner_of(contract, i, block)]
    answers = await ask_patiently(provider, batch)
    return {
        i: state_of(_unless_refused(provider, access), _unless_refused(provider, holder))
        for i, access, holder in zip(token_ids, answers[::2], answers[1::2], strict=True)
    }


def _unless_refused(provider: Provider, answer: T | Refusal) -> T | None:
    """What the contract answered; None when it refused.

    Raises:
        ProviderError: it was not the contract that refused.
    """
    if not isinstance(answer, Refusal):
        return answer
    if is_revert(answer):
        return None
    problem = f"eth_call was refused: {answer.message} (code {answer.code})"
    error = ProviderError(provider.name, problem, code=answer.code)
    provider.blame(error)
    raise error
