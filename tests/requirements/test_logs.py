"""Requirements 6 to 8: which logs are asked for, and which answers are none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chain.local import assert_same
from dstack_vpn.chain import contract as abi
from dstack_vpn.errors import ChainError
from lab.published import Habit
from lab.rpcfault import Fault
from lab.rpcfaults import (
    DEEP,
    Drop,
    Forge,
    Garbage,
    Give,
    Omit,
    RateLimit,
    Stall,
    Truncate,
)
from requirements.scene import scene

CHANGED = "0x" + abi.NODE_CHANGED.hex()


def log_with(**parts: Any) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda logs: [{**log, **parts} for log in logs]


def add_topic(logs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**log, "topics": ["0x" + "11" * 32, *log["topics"][1:]]} for log in logs]


LOGS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "another block": (log_with(blockHash="0x" + "11" * 32), "log-block"),
    "another contract": (log_with(address="0x" + "11" * 20), "log-address"),
    "an unknown topic": (add_topic, "abi"),
    "no topics": (log_with(topics=[]), "abi"),
    "removed": (log_with(removed=True), "log-removed"),
    "one index twice": (log_with(logIndex="0x0"), "log-index"),
    "falling indices": (lambda logs: logs[::-1], "log-index"),
    "one log twice": (lambda logs: [logs[0], *logs], "log-index"),
}


async def test_requirement_06_logs_are_asked_for_by_the_hash_of_the_block(tmp_path: Path) -> None:
    """Requirement 6: near the head no logs are asked for by a number or by a tag."""
    async with scene(tmp_path, count=1) as s:
        await s.follower.start(None)
        (proxy,) = s.proxies
        for _ in range(3):
            await s.two_grants()
            await s.chain.mine(2)
        await s.poll()
        await assert_same(s.follower, s.nft)
        queries = [c["params"][0] for c in proxy.calls if c["method"] == "eth_getLogs"]
        assert len(queries) == 3
        for query in queries:
            assert query.keys() == {"blockHash", "address", "topics"}
            assert (query["address"], query["topics"]) == (s.nft.address.lower(), [CHANGED])


@pytest.mark.parametrize("name", LOGS)
async def test_requirement_06_a_log_out_of_its_place_is_refused(tmp_path: Path, name: str) -> None:
    """Requirement 6: a log of another block, contract or event, a removed one, a false order."""
    change, check = LOGS[name]
    async with scene(tmp_path) as s:
        await s.mint("a")
        await s.follower.start(None)
        s.proxies[0].fault = Forge("eth_getLogs", change)
        await s.two_grants()
        await s.poll()
        liar, *others = s.view.providers
        assert liar.refused == {check: 1}, liar
        assert not liar.agrees
        assert [p.agrees for p in others] == [True, True]
        await assert_same(s.follower, s.nft)
        s.proxies[0].honest()
        await s.arrive()
        assert s.view.providers[0].agrees


BROKEN: dict[str, Callable[[str], Fault]] = {
    "an error": lambda method: RateLimit(method, -32000),
    "too many requests": lambda method: RateLimit(method, 429),
    "unavailable": lambda method: RateLimit(method, 503),
    "over the limit": lambda method: RateLimit(method, -32005),
    "null": lambda method: Give(method, None),
    "an empty text": lambda method: Give(method, ""),
    "an object": lambda method: Give(method, {}),
    "a list of null": lambda method: Give(method, [None]),
    "half an answer": lambda method: Truncate(method, breaks=False),
    "a broken connection": Truncate,
    "no connection": Drop,
    "no JSON": Garbage,
    "a depth of brackets": lambda method: Garbage(method, DEEP),
    "no answer in time": Stall,
}


@pytest.mark.parametrize("name", BROKEN)
async def test_requirement_07_an_error_is_never_an_empty_answer(tmp_path: Path, name: str) -> None:
    """Requirement 7: whatever comes in place of logs, state or a block, the members stay."""
    async with scene(tmp_path, count=1, answer_within=0.5) as s:
        member = await s.mint("a")
        before = await s.follower.start(None)
        (proxy,) = s.proxies
        for method in ("eth_getLogs", "eth_call", "eth_getBlockByNumber"):
            await s.two_grants()
            proxy.fault = BROKEN[name](method)
            view = await s.poll()
            assert view.membership == before, method
            assert view.last_error is not None
            assert member in s.members()
            proxy.honest()
            await s.arrive()
            await assert_same(s.follower, s.nft)
            before = s.membership


@pytest.mark.parametrize("name", BROKEN)
async def test_requirement_07_an_error_is_never_an_empty_network(tmp_path: Path, name: str) -> None:
    """Requirement 7: a start from such answers is none; then there is no membership at all."""
    async with scene(tmp_path, count=1, answer_within=0.5) as s:
        await s.mint("a")
        (proxy,) = s.proxies
        for method in ("eth_call", "eth_getBlockByNumber", "*"):
            proxy.fault = BROKEN[name](method)
            with pytest.raises(ChainError):
                await s.follower.start(None)
            assert s.view.membership is None
            s.follower._panel.providers[0]._not_before = 0.0
        proxy.honest()
        await s.arrive()
        await assert_same(s.follower, s.nft)


@pytest.mark.parametrize(("habits", "check"), [(None, "proof"), (Habit.NONE, "bloom-empty")])
async def test_requirement_08_no_logs_where_the_bloom_says_some_is_refused(
    tmp_path: Path, habits: Habit | None, check: str
) -> None:
    """Requirement 8: an empty answer that cannot be is refused and counted; the others go on."""
    async with scene(tmp_path, habits=habits) as s:
        await s.mint("a")
        await s.follower.start(None)
        liar = s.proxies[0]
        liar.fault = Omit("eth_getLogs")
        for times in (1, 2):
            liar.forget()
            await s.two_grants()
            await s.poll()
            assert liar.methods["eth_getLogs"]
            told, *others = s.view.providers
            assert told.refused.keys() == {check}
            assert told.refused[check] >= times
            assert all(p.agrees and p.failures == 0 for p in others)
            await (assert_same(s.follower, s.nft) if habits is None else s.assert_published())
