"""Requirements 39 and 40: what it costs to read the chain, and what a reader is told of it.

Counted per provider and hour where a block comes each two seconds and finality is asked for, with
three providers (they take turns in what is asked of only one):

| how | requests | eth_getBlockByNumber | eth_call | eth_getLogs | calls |
| --- | --- | --- | --- | --- | --- |
| https, 2 s | 3,680 | 1,860 | 1,800 | 120 | 3,780 |
| https, 2 s, full blooms | 3,680 | 1,860 | 1,800 | 1,920 | 5,580 |
| https, 6 s | 1,280 | 1,860 | 600 | 120 | 2,580 |
| https, 12 s | 680 | 1,860 | 300 | 120 | 2,280 |
| wss, all heads told | 1,880 | 60 | 1,800 | 120 | 1,980 |

A full compare each hour, a change and a start are a handful more. docs/settings.md rests on these.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chain.local import at, following, local_chain, new_key
from dstack_vpn.chain import checkpoint_kind
from dstack_vpn.chain.upkeep import COMPARE_EVERY
from dstack_vpn.web.render import render_health, render_stats
from lab.chain import REPOSITORY
from lab.nft import AccessNFT
from lab.rpcfaults import Omit
from lab.rpcproxy import Proxy
from lab.waiting import until
from requirements.node import BLOCK_TIME, node
from requirements.scene import FIRST_HOST, Clock, Scene, providers, scene

HOUR = 3600.0
MINUTES = 3
"""Of each hour are lived through; all is the same in each minute."""
FINAL = ("--slots-in-an-epoch", "1")


@dataclass(frozen=True)
class Budget:
    """The most that one provider is asked in an hour."""

    requests: int
    headers: int
    calls: int
    logs: int
    """Of all providers together, divided by three."""

    @property
    def total(self) -> int:
        """Calls, which is what most providers bill."""
        return self.headers + self.calls + self.logs


BUDGETS = {
    "2": Budget(3680, 1860, 1800, 120),
    "6": Budget(1280, 1860, 600, 120),
    "12": Budget(680, 1860, 300, 120),
    "full": Budget(3680, 1860, 1800, 1920),
    "wss": Budget(1880, 60, 1800, 120),
}
METHODS = {"eth_getBlockByNumber", "eth_call", "eth_getLogs"}


def hold(proxies: Sequence[Proxy], budget: Budget) -> None:
    """Hold what was counted in some minutes against the budget of an hour."""
    per_hour = 60 / MINUTES
    for proxy in proxies:
        assert set(proxy.methods) <= METHODS
        assert proxy.methods["eth_getBlockByNumber"] * per_hour <= budget.headers
        assert proxy.methods["eth_call"] * per_hour <= budget.calls
    logs = sum(proxy.methods["eth_getLogs"] for proxy in proxies)
    assert logs * per_hour / len(proxies) <= budget.logs
    requests = sum(proxy.requests for proxy in proxies)
    assert 0.9 * budget.requests <= requests * per_hour / len(proxies) <= budget.requests


@pytest.mark.parametrize("how", ["2", "6", "12", "full"])
async def test_requirement_39_polling_stays_in_its_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Requirement 39: requests and calls an hour are what the manual states, by HTTP.

    With full blooms too, as on a busy chain: then they excuse no block from being asked for logs.
    """
    interval = 2 if how == "full" else int(how)
    async with scene(tmp_path, options=FINAL, finality=True, confirmations=5) as s:
        await steady(s)
        if how == "full":
            always: Callable[..., bool] = lambda *_: True  # noqa: E731
            monkeypatch.setattr(checkpoint_kind, "may_have_changes", always)
        for _ in range(MINUTES * 60 // interval):
            await s.chain.mine(interval // int(BLOCK_TIME))
            s.clock.now += interval
            await s.follower.poll()
        hold(s.proxies, BUDGETS[how])
        assert s.view.last_error is None
        assert (await s.chain.block()).number == s.membership.block.number


async def steady(s: Scene) -> None:
    """Some members, blocks that are final already, and a start that is over."""
    for number in range(20):
        await s.mint(f"n{number}")
    await s.chain.mine(20)
    await s.follower.start(None)
    await s.poll()
    for proxy in s.proxies:
        proxy.forget()


async def test_requirement_39_a_socket_stays_in_its_budget(tmp_path: Path) -> None:
    """Requirement 39: heads that are told over a WebSocket spare the question for them."""
    async with over_sockets(tmp_path) as s:
        await steady(s)
        async with asyncio.TaskGroup() as group:
            following_ = group.create_task(
                s.follower.run(None, interval=HOUR, changed=lambda: None)
            )
            await a_block(s)
            for proxy in s.proxies:
                proxy.forget()
            for _ in range(MINUTES * 30):
                await a_block(s)
                await s.follower._do_what_is_due()
            following_.cancel()
        hold(s.proxies, BUDGETS["wss"])


async def a_block(s: Scene) -> None:
    """One more, which everybody tells of."""
    s.clock.now += BLOCK_TIME
    head = await s.chain.mine()
    seen = lambda: all(p.head_hash == head.hash for p in s.view.providers)  # noqa: E731
    await until(seen, "the block is followed")


@asynccontextmanager
async def over_sockets(directory: Path) -> AsyncIterator[Scene]:
    """Three providers over WebSockets."""
    clock = Clock()
    async with local_chain(directory, options=FINAL) as chain:
        nft = await AccessNFT.deploy(chain)
        async with providers(chain.url, 3) as proxies:
            urls = [at(proxy.ws_url, FIRST_HOST + i) for i, proxy in enumerate(proxies)]
            async with following(
                nft.address, *urls, quorum=2, now=clock, finality=True, confirmations=5
            ) as follower:
                yield Scene(nft, proxies, follower, clock)


async def test_requirement_39_what_comes_now_and_then_is_a_handful(tmp_path: Path) -> None:
    """Requirement 39: a start, a change, and the hourly compare cost each provider a few calls."""
    async with scene(tmp_path, confirmations=5, dark_after=2 * COMPARE_EVERY) as s:
        for number in range(20):
            await s.mint(f"n{number}")
        await s.follower.start(None)
        assert all(spent(proxy).total() <= 22 and proxy.requests <= 7 for proxy in s.proxies)
        await s.poll()
        spent_on = {}
        for what in ("change", "compare"):
            for proxy in s.proxies:
                proxy.forget()
            if what == "change":
                await s.nft.mint("more", new_key())
            s.clock.now += COMPARE_EVERY if what == "compare" else BLOCK_TIME
            await s.poll()
            spent_on[what] = [spent(proxy) for proxy in s.proxies]
        change = Counter(eth_getBlockByNumber=1, eth_call=1, eth_getLogs=1)
        assert spent_on["change"] == [change] * 3
        assert all(one.total() <= 4 for one in spent_on["compare"])
        assert s.view.compares == 1


def spent(proxy: Proxy) -> Counter[str]:
    """The calls that a provider was asked."""
    return proxy.methods.copy()


def test_requirement_39_the_manual_states_what_was_counted() -> None:
    """Requirement 39: the table of the manual has the figures of this budget."""
    text = (REPOSITORY / "docs/settings.md").read_text()
    section = text.split("## What it costs to read the chain")[1].split("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("|")]
    stated = {row[2].strip(): [cell.strip() for cell in row[3:6]] for row in rows}
    for name, row in (("2", "2 (default)"), ("6", "6"), ("12", "12"), ("wss", "by wss")):
        budget = BUDGETS[name]
        counted = (budget.requests, budget.total, budget.total * 720)
        assert stated[row] == [f"{number:,}" for number in counted]


async def test_requirement_40_a_reader_is_told_how_it_stands_with_the_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requirement 40: /stats has the head, its age, finality, votes, reorganisations and refusals.

    And who waits to be admitted, and why. All of it is JSON.
    """
    async with node(
        tmp_path,
        monkeypatch,
        count=3,
        options=FINAL,
        confirmations=2,
        finality=True,
        settings={"CONFIRMATIONS": "2"},
    ) as n:
        s = n.scene
        two = await s.mint("two")
        await s.chain.mine(4)
        for _ in range(2):
            await n.look()
        mark = s.membership.finalized
        assert mark is not None
        await s.chain.mine(3)
        await s.arrive()
        await s.chain.reorg(2)
        await s.chain.mine()
        await s.arrive()
        s.proxies[2].fault = Omit("eth_getLogs")
        three = await s.mint("three")
        await n.look()
        n.clock.now += 7
        view = s.view
        stats = plain(render_stats(n.snapshot, n.health(), wall_now=1e9))
        head = await s.chain.block()
        chain = stats["chain"]
        assert (chain["head"], chain["hash"]) == (head.number, head.hash)
        assert chain["state"] == "following"
        assert chain["ageSeconds"] == chain["agreedAgeSeconds"] == chain["advancedAgeSeconds"] == 7
        assert chain["finalized"] == {
            "number": mark.number,
            "hash": mark.hash,
            "lag": head.number - mark.number,
        }
        assert (chain["needed"], chain["voters"], chain["lag"]) == (2, 3, 0)
        assert (chain["reorgs"], chain["deepestReorg"], stats["reorgs"]) == (1, 2, 1)
        assert (stats["resyncs"], stats["compares"]) == (view.resyncs, view.compares)
        one, _, bad = stats["providers"]
        assert (one["agrees"], one["head"], one["headHash"]) == (True, head.number, head.hash)
        assert (one["voter"], one["lagBlocks"], one["seenAgeSeconds"]) == ("127.0.0.11", 0, 7)
        assert (one["subscription"], one["healthy"], one["refused"]) == ("none", True, {})
        assert (bad["agrees"], bad["healthy"]) == (False, False)
        assert sum(bad["refused"].values()) >= 1
        assert bad["lastError"]
        assert bad["requests"]["eth_getLogs"] >= 1
        waiting = stats["waiting"]
        assert waiting["count"] == 1
        assert waiting["tokens"][0]["tokenId"] == three
        assert waiting["tokens"][0]["nodeId"] == "three"
        assert f"admitted at block {head.number}" in waiting["tokens"][0]["reason"]
        assert stats["verdicts"]["ACCESS_GRANTED"] == 2
        assert await n.peers() == {two}
        health = plain(render_health(n.snapshot, n.health(), wall_now=1e9))
        assert (health["chain"], health["waiting"]) == (chain, waiting)
        assert health["alarms"] == stats["alarms"]


def plain(shown: dict[str, Any]) -> dict[str, Any]:
    """As a reader of the JSON gets it."""
    read: dict[str, Any] = json.loads(json.dumps(shown))
    return read
