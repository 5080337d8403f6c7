"""The log history of a contract, read in ranges from a real chain behind a proxy with faults."""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from chain.local import local_chain
from dstack_vpn.chain import calls
from dstack_vpn.chain.header import Header
from dstack_vpn.chain.providers import open_providers
from dstack_vpn.chain.published import Granted
from dstack_vpn.chain.published_calls import Log, events_of
from dstack_vpn.chain.ranges import BackfillLog, BlockTooLargeError, LogHistory
from dstack_vpn.chain.rpc import Provider
from dstack_vpn.errors import BadAnswerError, ChainError, ProviderError
from dstack_vpn.mesh.membership import Address
from lab.published import PublishedAccess
from lab.rpcproxy import Alter, Call, Proxy, Reply

BLOCKS = 40


@dataclass
class Case:
    """A contract with tokens in some of its blocks, and a provider of its chain."""

    contract: PublishedAccess
    proxy: Proxy
    provider: Provider

    def history(self, **more: Any) -> LogHistory:
        """Nothing read yet."""
        address = Address(self.contract.address)
        return LogHistory(self.provider, address, self.contract.start_block, **more)

    async def head(self) -> Header:
        """The newest block."""
        (head,) = await self.provider.batch([calls.latest()])
        assert isinstance(head, Header)
        return head

    async def read(self, history: LogHistory, **more: Any) -> list[Log]:
        """All logs up to the newest block."""
        return await history.read((await self.head()).block, **more)


@pytest.fixture
async def case(tmp_path: Path) -> AsyncIterator[Case]:
    async with local_chain(tmp_path) as chain, Proxy.open(chain.url) as proxy:
        contract = await PublishedAccess.deploy(chain)
        for i in range(4):
            await contract.mint(f"n{i}", "key")
            await chain.mine(BLOCKS // 4)
        (provider,) = open_providers([proxy.url], timeout=5.0)
        async with contextlib.aclosing(provider):
            yield Case(contract, proxy, provider)


def span(call: Call) -> tuple[int, int]:
    query = call["params"][0]
    return int(query["fromBlock"], 16), int(query["toBlock"], 16)


def refuse_above(limit: int, text: str, code: int = -32000) -> tuple[Alter, list[int]]:
    """Refuse ranges of more blocks than that; also, the sizes that were asked for."""
    sizes: list[int] = []

    def alter(call: Call, reply: Reply) -> Reply | None:
        if call["method"] != "eth_getLogs":
            return None
        first, last = span(call)
        sizes.append(last - first + 1)
        if last - first + 1 <= limit:
            return None
        said = text.format(first=hex(first), last=hex(first + limit - 1))
        return {"jsonrpc": "2.0", "id": reply["id"], "error": {"code": code, "message": said}}

    return alter, sizes


def on_logs(change: Callable[[list[dict[str, Any]]], Any]) -> Alter:
    """Alter what ranges of logs give."""

    def alter(call: Call, reply: Reply) -> Reply | None:
        if call["method"] != "eth_getLogs":
            return None
        return {"jsonrpc": "2.0", "id": reply["id"], "result": change(reply["result"])}

    return alter


def names(logs: list[Log]) -> list[str]:
    events = [placed.event for placed in events_of(logs)]
    return [event.node_id for event in events if isinstance(event, Granted)]


ALL = ["n0", "n1", "n2", "n3"]


@pytest.mark.parametrize("chunk", [1, 7, 2000])
async def test_all_logs_come_whatever_the_size_of_the_ranges(case: Case, chunk: int) -> None:
    """Requirement 29: numbers name the ranges, which follow each other without gap or overlap."""
    asked: list[tuple[int, int]] = []

    def note(call: Call, reply: Reply) -> None:
        if call["method"] == "eth_getLogs":
            asked.append(span(call))

    case.proxy.alter = note
    assert names(await case.read(case.history(chunk=chunk))) == ALL
    head = (await case.head()).block.number
    assert [first for first, _ in asked] == [
        case.contract.start_block,
        *(b + 1 for _, b in asked[:-1]),
    ]
    assert asked[-1][1] == head


@pytest.mark.parametrize(
    ("limit", "text", "code"),
    [
        (5, "eth_getLogs is limited to a 5 range", -32614),
        (5, "this block range should work: [{first}, {last}]", -32602),
        (6, "block range too large", -32000),
        (1, "query returned more than 10000 results", -32000),
    ],
)
async def test_ranges_shrink_until_they_fit(case: Case, limit: int, text: str, code: int) -> None:
    """Requirement 29: by what the error suggests, or by halves, down to a single block."""
    case.proxy.alter, sizes = refuse_above(limit, text, code)
    assert names(await case.read(case.history())) == ALL
    assert min(sizes[:-1]) >= 1
    if "{first}" in text or "limited" in text:
        # Obeyed at once, with no step in between.
        assert sizes[1] == limit
    assert case.provider.status.failures == 0


async def test_too_large_by_a_code_that_also_means_later(case: Case) -> None:
    """-32005 with "more than 10000 results" is about size: waiting alone would never help."""
    case.proxy.alter, sizes = refuse_above(30, "query returned more than 10000 results", -32005)
    assert names(await case.read(case.history())) == ALL
    assert max(sizes[1:]) < sizes[0]


async def test_later_is_asked_again(case: Case) -> None:
    """Requirement 30: a rate limit neither ends a long reading nor shrinks its ranges."""
    sizes: list[int] = []

    def alter(call: Call, reply: Reply) -> Reply | None:
        if call["method"] != "eth_getLogs":
            return None
        first, last = span(call)
        sizes.append(last - first + 1)
        if len(sizes) > 1:
            return None
        error = {"code": -32016, "message": "over rate limit"}
        return {"jsonrpc": "2.0", "id": reply["id"], "error": error}

    case.proxy.alter = alter
    assert names(await case.read(case.history(chunk=1000))) == ALL
    assert len(sizes) == 2
    assert sizes[0] == sizes[1]


async def test_a_block_that_is_too_large_is_a_loud_stop(case: Case) -> None:
    """Requirement 29: one block cannot be split: the error says which, and who refused."""
    case.proxy.alter, _ = refuse_above(0, "query exceeds max results 20000")
    with pytest.raises(BlockTooLargeError) as stopped:
        await case.read(case.history())
    assert f"block {case.contract.start_block} alone" in str(stopped.value)
    assert case.provider.name in str(stopped.value)


@pytest.mark.parametrize("text", ["internal error", "unknown block", "the method is not available"])
async def test_an_error_about_something_else_is_raised(case: Case, text: str) -> None:
    """Requirement 7: nothing is retried with less, and nothing is taken for "no logs"."""
    case.proxy.alter, sizes = refuse_above(0, text)
    with pytest.raises(ProviderError, match=text):
        await case.read(case.history())
    assert len(sizes) == 1
    assert case.provider.status.failures == 1


async def test_a_part_that_fails_fails_the_whole_and_is_not_read_twice(case: Case) -> None:
    """Requirement 29: no partial history; the next attempt goes on where the last one stopped."""
    fails_from = (await case.head()).block.number // 2

    def alter(call: Call, reply: Reply) -> Reply | None:
        if call["method"] != "eth_getLogs" or span(call)[1] < fails_from:
            return None
        return {"jsonrpc": "2.0", "id": reply["id"], "error": {"code": -32603, "message": "no"}}

    case.proxy.alter = alter
    history = case.history(chunk=5)
    with pytest.raises(ProviderError):
        await case.read(history)
    case.proxy.alter, sizes = refuse_above(1000, "")
    assert names(await case.read(history)) == ALL
    assert 1 < len(sizes) < BLOCKS / 5
    sizes.clear()
    assert names(await case.read(history)) == ALL
    assert sizes == []


def elsewhere(logs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**log, "blockNumber": hex(int(log["blockNumber"], 16) + 1000)} for log in logs]


WRONG: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "null": lambda logs: None,
    "outside": elsewhere,
    "backwards": lambda logs: logs[::-1],
    "two hashes": lambda logs: [logs[0] | {"blockHash": "0x" + "55" * 32}, *logs[1:]],
    "another contract": lambda logs: [log | {"address": "0x" + "55" * 20} for log in logs],
    "removed": lambda logs: [log | {"removed": True} for log in logs],
}


@pytest.mark.parametrize("name", WRONG)
async def test_logs_that_cannot_be_of_one_chain_are_refused(case: Case, name: str) -> None:
    """Whatever does not fit together is an error of the provider."""
    case.proxy.alter = on_logs(WRONG[name])
    with pytest.raises(BadAnswerError):
        await case.read(case.history())


async def test_logs_of_another_newest_block_are_refused(case: Case) -> None:
    """The header of a range's last block comes with its logs, and they must be of that block."""
    await case.contract.mint("last", "key")
    other = "0x" + "55" * 32
    newest = hex((await case.head()).block.number)

    def swap(logs: list[dict[str, Any]]) -> Any:
        return [
            log | ({"blockHash": other} if log["blockNumber"] == newest else {}) for log in logs
        ]

    case.proxy.alter = on_logs(swap)
    with pytest.raises(BadAnswerError, match="logs of another block"):
        await case.read(case.history())


async def test_a_machine_that_is_behind_does_not_pass_its_logs_off_as_all(case: Case) -> None:
    """Where the range's last block is not known, there is an error, not an empty list."""
    head = (await case.head()).block
    asked = []

    def alter(call: Call, reply: Reply) -> Reply | None:
        if call["method"] == "eth_getLogs":
            return {"jsonrpc": "2.0", "id": reply["id"], "result": []}
        asked.append(call["method"])
        # The first look at the block is answered by another machine.
        return {"jsonrpc": "2.0", "id": reply["id"], "result": None} if len(asked) > 1 else None

    case.proxy.alter = alter
    with pytest.raises(ChainError):
        await case.history().read(head)
    case.proxy.alter = lambda call, reply: None
    await case.contract.chain.rollback(1)
    with pytest.raises(ChainError, match=f"no block {head.number} yet"):
        await case.history().read(head)


@pytest.mark.parametrize("chunk", [3, 2000])
async def test_a_reorganisation_brings_the_new_logs(case: Case, chunk: int) -> None:
    """What was read of blocks that were replaced is forgotten, the older rest is kept."""
    history = case.history(chunk=chunk)
    await case.contract.mint("lost", "key")
    assert names(await case.read(history)) == [*ALL, "lost"]
    await case.contract.chain.reorg(3)
    old_head = (await case.head()).block
    assert names(await history.read(old_head)) == ALL
    await case.contract.mint("new", "key")
    with pytest.raises(ChainError, match="another block"):
        await history.read(replace(old_head, hash=old_head.parent_hash))
    assert names(await case.read(history)) == [*ALL, "new"]


async def test_an_older_block_gets_the_logs_up_to_it(case: Case) -> None:
    """A history that was read further is cut there."""
    history = case.history()
    await case.read(history)
    (older,) = await case.provider.batch([calls.header_at(case.contract.start_block + 1)])
    assert names(await history.read(older.block)) == ["n0"]


async def test_a_long_reading_tells_how_far_it_is(case: Case) -> None:
    """A line at most every so many seconds, with the block that is done and the last one."""
    head = (await case.head()).block.number
    with capture_logs() as told:
        await case.read(case.history(chunk=10), progress=BackfillLog(case.provider, every=0.0))
        await case.read(case.history(chunk=10), progress=BackfillLog(case.provider, every=1000.0))
    lines = [line for line in told if line["event"] == "chain.backfill"]
    assert len(lines) > 1
    assert lines[-1] == {
        "event": "chain.backfill",
        "log_level": "info",
        "provider": case.provider.name,
        "block": head,
        "until": head,
    }
