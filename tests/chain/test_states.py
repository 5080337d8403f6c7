"""The state of tokens: read in batches at one block, all of it or nothing."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chain.local import new_key
from chain.published import Followed, followed
from dstack_vpn.chain import states
from dstack_vpn.chain.published import Access, key_of
from dstack_vpn.chain.rpc import MAX_BATCH
from dstack_vpn.chain.states import read_states
from dstack_vpn.chain.tokens import State
from dstack_vpn.errors import BadAnswerError, ProviderError
from dstack_vpn.mesh.membership import Address
from lab.published import Habit
from lab.rpcproxy import Alter, Call, Reply


@pytest.fixture(params=[Habit.NONE, Habit.NO_REASON, Habit.ZEROES])
async def one(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Followed]:
    """A contract, whichever way it says that a token does not exist."""
    async with followed(tmp_path, request.param) as found:
        yield found


async def read(one: Followed, *token_ids: int) -> dict[int, State | None]:
    block = (await one.head()).block
    return await read_states(one.provider, Address(one.contract.address), block, token_ids)


def refuse(token_id: int, code: int, message: str, times: int = 1000) -> Alter:
    """Refuse reads of one token, so many times."""
    left = [times]

    def alter(call: Call, reply: Reply) -> Reply | None:
        if call["method"] != "eth_call" or left[0] == 0:
            return None
        if not call["params"][0]["data"].endswith(f"{token_id:064x}"):
            return None
        left[0] -= 1
        return {"jsonrpc": "2.0", "id": reply["id"], "error": {"code": code, "message": message}}

    return alter


async def test_a_missing_token_is_none(one: Followed) -> None:
    """Whether the contract reverts with a reason, without one, or answers with zeroes."""
    key = new_key()
    mined = await one.contract.mint("a", key, to=1)
    created = (await one.contract.chain.block(mined.block)).timestamp
    holder = Address(await one.contract.chain.account(1))
    there = State(Access("a", key_of(key), created, active=True), holder)
    assert await read(one, 1, 2, 2**256 - 1) == {1: there, 2: None, 2**256 - 1: None}
    assert await read(one) == {}


async def test_many_tokens_are_read_in_batches(one: Followed) -> None:
    """Two calls a token, no more in a request than providers allow."""
    count = MAX_BATCH * 2 + 1
    one.proxy.forget()
    assert len(await read(one, *range(1, count + 1))) == count
    assert one.proxy.methods["eth_call"] == 2 * count
    # One is for the head.
    assert one.proxy.requests == 1 + -(-2 * count // MAX_BATCH)


@pytest.mark.parametrize("message", ["missing trie node", "header not found", "internal error"])
async def test_one_read_that_fails_fails_all(one: Followed, message: str) -> None:
    """Requirement 7: an error of the provider is no missing token."""
    one.proxy.alter = refuse(60, -32000, message)
    with pytest.raises(ProviderError, match=message):
        await read(one, *range(1, 101))
    assert one.provider.status.failures


async def test_later_is_asked_again(one: Followed) -> None:
    """Requirement 30: a rate limit does not end the reading of many tokens."""
    one.proxy.alter = refuse(60, -32005, "over rate limit", times=1)
    assert len(await read(one, *range(1, 101))) == 100


async def test_more_tokens_than_are_believed(
    one: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logs that name a million tokens are a lie, and nothing is asked for them."""
    monkeypatch.setattr(states, "MAX_TOKENS", 10)
    one.proxy.forget()
    with pytest.raises(BadAnswerError, match="11 tokens"):
        await read(one, *range(11))
    assert one.proxy.methods["eth_call"] == 0
