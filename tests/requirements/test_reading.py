"""Requirements 29 to 32: logs in ranges, refusals, what is read a second time, full compares."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from chain.local import assert_same, local_chain, seen_by
from dstack_vpn.chain import calls
from dstack_vpn.chain.providers import open_providers
from dstack_vpn.chain.published_calls import Log
from dstack_vpn.chain.ranges import BlockTooLargeError, LogHistory
from dstack_vpn.chain.rpc import LONGEST_PAUSE, LONGEST_RATE_LIMIT_PAUSE, Provider
from dstack_vpn.chain.upkeep import COMPARE_EVERY, FINAL_EVERY
from dstack_vpn.errors import ProviderError
from dstack_vpn.mesh.chaintime import ChainState, chain_state
from dstack_vpn.mesh.membership import Address
from dstack_vpn.mesh.snapshot import AlarmCode
from lab.published import PublishedAccess
from lab.rpcfault import Ask, Call, Fault, OnCalls, Reply, error
from lab.rpcfaults import Omit, RateLimit
from lab.rpcproxy import Proxy
from lab.waiting import until
from requirements.scene import Scene, scene

DARK_AFTER = 60.0


def in_range(call: Call) -> bool:
    """Whether logs are asked for by a range of heights."""
    return call["method"] == "eth_getLogs" and "blockHash" not in call["params"][0]


@dataclass(frozen=True)
class Limit(OnCalls):
    """Refuse ranges of more blocks than a plan allows."""

    method: str = "eth_getLogs"
    most: int = 1_000_000
    text: str = "response is too large"
    code: int = -32000
    asked: list[tuple[int, int]] = field(default_factory=list)

    async def answer(self, call: Call, ask: Ask) -> Reply:
        """Note the range; it must be named by numbers."""
        query = call["params"][0]
        first, last = (int(query[end], 16) for end in ("fromBlock", "toBlock"))
        self.asked.append((first, last))
        return error(call, self.code, self.text) if last - first >= self.most else await ask(call)

    @property
    def sizes(self) -> list[int]:
        """Blocks that each range had."""
        return [last - first + 1 for first, last in self.asked]


@dataclass
class Reading:
    """A contract with a token every few blocks, and the history of its logs through a proxy."""

    proxy: Proxy
    provider: Provider
    contract: PublishedAccess

    async def read(self, fault: Fault, history: LogHistory | None = None) -> Sequence[Log]:
        """All of it, with a provider that fails so."""
        self.proxy.fault = fault
        (head,) = await self.provider.batch([calls.latest()])
        return await (history or self.history()).read(head.block)

    def history(self) -> LogHistory:
        """Nothing read yet."""
        return LogHistory(self.provider, Address(self.contract.address), self.contract.start_block)


@contextlib.asynccontextmanager
async def reading(directory: Path) -> AsyncIterator[Reading]:
    """Forty blocks, four of them with logs."""
    async with local_chain(directory) as chain, Proxy.open(chain.url) as proxy:
        contract = await PublishedAccess.deploy(chain)
        for number in range(4):
            await contract.mint(f"n{number}", "key")
            await chain.mine(9)
        (provider,) = open_providers([proxy.url])
        async with contextlib.aclosing(provider):
            yield Reading(proxy, provider, contract)


async def test_requirement_29_ranges_shrink_grow_back_and_are_whole_or_nothing(
    tmp_path: Path,
) -> None:
    """Requirement 29: a history of logs is read in ranges that fit, or it is an error.

    Ranges are named by numbers and leave no gap. What an error suggests is obeyed, otherwise they
    are halved, down to one block; they grow back by an eighth. A part that fails fails the whole.
    """
    async with reading(tmp_path) as r:
        honest = Limit()
        everything = await r.read(honest)
        assert len(everything) >= 4
        assert len(honest.asked) == 1

        obeyed = Limit(most=5, text="eth_getLogs is limited to a 5 range")
        assert await r.read(obeyed) == everything
        assert set(obeyed.sizes[1:-1]) == {5}

        single = Limit(most=1)
        assert await r.read(single) == everything
        halves = single.sizes[: single.sizes.index(1) + 1]
        assert all(b == max(1, a // 2) for a, b in pairwise(halves))
        read = [part for part in single.asked if part[0] == part[1]]
        assert [first for first, _ in read] == list(
            range(r.contract.start_block, (await r.contract.chain.block()).number + 1)
        )

        eight = Limit(most=8)
        history = r.history()
        assert await r.read(eight, history) == everything
        grown = [b - a for a, b in pairwise(eight.sizes[:-1]) if b > a]
        assert grown
        assert set(grown) == {1}

        failing = RateLimit(
            "eth_getLogs", code=-32603, where=lambda c: int(c["params"][0]["toBlock"], 16) > 20
        )
        with pytest.raises(ProviderError):
            await r.read(failing)


async def test_requirement_29_a_block_that_is_too_large_is_a_loud_stop(tmp_path: Path) -> None:
    """Requirement 29: of a single block that is refused for its size nothing is made up."""
    async with reading(tmp_path) as r:
        with pytest.raises(BlockTooLargeError, match=f"block {r.contract.start_block} alone"):
            await r.read(Limit(most=0))


LIMITS = (429, 503, -32005, -32016, -32011)


def pause(provider: Provider) -> float:
    """Seconds for which it is left alone from now on."""
    return provider._not_before - asyncio.get_running_loop().time()


@pytest.mark.parametrize("code", LIMITS)
async def test_requirement_30_who_says_later_is_left_alone_and_is_dark_not_empty(
    tmp_path: Path, code: int
) -> None:
    """Requirement 30: a provider that limits us is asked ever more seldom, and tells nothing.

    Its refusals are no empty answers: members stay, and in time it is dark. The others are asked
    as before, and a pause that it asks for is kept.
    """
    async with scene(tmp_path, count=2) as s:
        await s.mint("a")
        await s.follower.start(None)
        limited, other = s.follower._panel.providers
        s.proxies[0].fault = RateLimit(code=code)
        for proxy in s.proxies:
            proxy.forget()
        before = s.membership
        await s.nft.mint("b")
        for _ in range(50):
            s.clock.now += 2
            await s.follower.poll()
        assert s.proxies[0].requests <= 2
        assert s.proxies[1].requests >= 50
        assert pause(limited) > 0 >= pause(other)
        assert s.membership == before
        dark = chain_state(s.view, now=s.clock(), dark_after=DARK_AFTER, block_time=2.0)
        assert dark is ChainState.DARK
        assert s.view.last_error is not None
        assert limited.name in s.view.last_error

        pauses = []
        for _ in range(10):
            limited._not_before = 0.0
            await s.follower.poll()
            pauses.append(pause(limited))
        longest = LONGEST_PAUSE if code == 503 else LONGEST_RATE_LIMIT_PAUSE
        assert longest * 0.99 <= pauses[-1] <= longest * 1.25
        assert all(b > a * 1.2 for a, b in pairwise(pauses[:4]))
        assert len(set(pauses[-3:])) == 3, "there is jitter"

        if code > 0:
            limited._failed_in_row, limited._not_before = 0, 0.0
            s.proxies[0].fault = RateLimit(code=code, retry_after=17)
            await s.follower.poll()
            assert 16.9 <= pause(limited) <= 17 * 1.25

        s.proxies[0].honest()
        await s.arrive()
        await assert_same(s.follower, s.nft)


async def test_requirement_30_following_never_becomes_a_busy_loop(tmp_path: Path) -> None:
    """Requirement 30: with everybody refusing, looks without a pause cost no requests."""
    async with scene(tmp_path) as s:
        await s.mint("a")
        looks = 0

        def changed() -> None:
            nonlocal looks
            looks += 1

        async with asyncio.TaskGroup() as group:
            following = group.create_task(s.follower.run(None, interval=0.0, changed=changed))
            await until(lambda: s.view.verified, "it follows")
            for proxy in s.proxies:
                proxy.fault = RateLimit("*", -32005)
                proxy.forget()
            looks = 0
            await until(lambda: looks >= 300, "it has looked many times")
            assert sum(proxy.requests for proxy in s.proxies) <= 2 * len(s.proxies)
            assert len(seen_by(s.follower)) == 1
            following.cancel()


FINAL_IN_TIME = ("--slots-in-an-epoch", "1")
"""Blocks are final when there are two more."""


@contextlib.asynccontextmanager
async def finals(directory: Path) -> AsyncIterator[Scene]:
    """A follower of a chain whose blocks become final, with a first final block."""
    async with scene(directory, options=FINAL_IN_TIME, finality=True) as s:
        await s.mint("a")
        await s.chain.mine(3)
        await s.follower.start(None)
        await s.poll()
        assert s.membership.finalized is not None
        for proxy in s.proxies:
            proxy.forget()
        yield s


async def a_minute(s: Scene, node_id: str) -> None:
    """A mint, three more blocks, and the time after which what is final is asked for."""
    await s.mint(node_id)
    await s.chain.mine(3)
    await s.poll()
    s.clock.now += FINAL_EVERY
    await s.poll()


def read_again(s: Scene) -> list[int]:
    """The blocks whose logs were asked for by range, from any provider, in their order."""
    asked = [call["params"][0] for p in s.proxies for call in p.calls if in_range(call)]
    ends = sorted((int(q["fromBlock"], 16), int(q["toBlock"], 16)) for q in asked)
    return [number for first, last in ends for number in range(first, last + 1)]


async def test_requirement_31_final_blocks_are_read_a_second_time_once(tmp_path: Path) -> None:
    """Requirement 31: the logs of each block are read once more when it is final, by turns."""
    async with finals(tmp_path) as s:
        start = s.membership.block.number
        for number in range(6):
            await a_minute(s, f"n{number}")
        assert s.membership.finalized is not None
        assert read_again(s) == list(range(start + 1, s.membership.finalized.number + 1))
        assert all(any(map(in_range, proxy.calls)) for proxy in s.proxies)
        assert (s.view.alarms, s.view.compares) == ((), 0)


async def test_requirement_31_a_difference_is_an_alarm_and_all_is_compared(tmp_path: Path) -> None:
    """Requirement 31: other logs than the first time name the provider, and lead to a compare."""
    async with finals(tmp_path) as s:
        for proxy in s.proxies:
            proxy.fault = Omit("eth_getLogs", where=in_range)
        await a_minute(s, "b")
        (alarm,) = s.alarms(AlarmCode.LOGS_DIFFERED)
        assert alarm.provider in {p.name for p in s.follower._panel.providers}
        assert s.view.compares == 1
        assert not s.alarms(AlarmCode.MEMBERS_DIFFERED)
        await assert_same(s.follower, s.nft)


async def test_requirement_31_a_second_reading_that_fails_is_made_up_for(tmp_path: Path) -> None:
    """Requirement 31: what could not be read a second time is read when somebody can again."""
    async with finals(tmp_path) as s:
        start = s.membership.block.number
        for proxy in s.proxies:
            proxy.fault = RateLimit("eth_getLogs", code=-32000, where=in_range)
        await a_minute(s, "b")
        await a_minute(s, "c")
        for proxy in s.proxies:
            proxy.honest()
            proxy.forget()
        await a_minute(s, "d")
        assert s.membership.finalized is not None
        assert read_again(s) == list(range(start + 1, s.membership.finalized.number + 1))


def tamper(s: Scene, change: Callable[[dict[int, Any]], None]) -> None:
    """Change what the follower holds in memory, behind its back."""
    agreed = s.follower._agreed
    assert agreed is not None
    nodes = dict(agreed.journal.nodes)
    change(nodes)
    agreed.journal._nodes = nodes


async def test_requirement_32_an_hourly_compare_repairs_with_an_alarm(tmp_path: Path) -> None:
    """Requirement 32: once an hour all members are compared with the contract, at one agreed block.

    Whoever should be out is out at once; whoever should be in comes in by the rule for admissions.
    """
    # Hours pass in one step here, which must not be taken for the dark.
    async with scene(tmp_path, confirmations=2, dark_after=2 * COMPARE_EVERY) as s:
        lost, gone = await s.mint("lost"), await s.mint("gone")
        await s.chain.mine(3)
        await s.follower.start(None)
        await s.nft.revoke(gone)
        await s.arrive()
        member = s.membership.nodes[lost]

        def change(nodes: dict[int, Any]) -> None:
            del nodes[lost]
            nodes[gone] = replace(nodes[gone], revoked=False, since_block=member.since_block)
            nodes[99] = replace(member, token_id=99, node_id="nobody", key=b"\x66" * 32)

        await s.poll()
        tamper(s, change)
        await s.chain.mine()
        await s.arrive()
        assert s.members() == {gone, 99}
        s.clock.now += COMPARE_EVERY - 1
        await s.poll()
        assert (s.view.compares, s.members()) == (0, {gone, 99})
        for proxy in s.proxies:
            proxy.forget()
        s.clock.now += 1
        await s.poll()
        asked = [c["params"][1] for p in s.proxies for c in p.calls if c["method"] == "eth_call"]
        assert {at["blockHash"] for at in asked} == {s.membership.block.hash}
        (alarm,) = s.alarms(AlarmCode.MEMBERS_DIFFERED)
        assert all(str(token) in alarm.text for token in (lost, gone, 99))
        assert s.members() == set()
        assert s.verdict(lost) == "NOT_YET_CONFIRMED"
        await assert_same(s.follower, s.nft)
        await s.chain.mine(2)
        await s.arrive()
        assert s.members() == {lost}
        s.clock.now += COMPARE_EVERY
        await s.poll()
        assert s.view.compares == 2
        assert not s.alarms(AlarmCode.MEMBERS_DIFFERED)
