"""Requirements 25 to 28: dark and halted chains, a wrong clock, and access that ends meanwhile."""

import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from chain.local import local_chain
from dstack_vpn.chain import contract as abi
from dstack_vpn.mesh.chaintime import ChainState, Closing, chain_state, closing, turns_at
from dstack_vpn.mesh.health import Code
from dstack_vpn.mesh.snapshot import ChainView
from lab.rpcfaults import Drop, RateLimit, Upstream
from lab.rpclag import PinnedHead
from mesh.build import NOW, chain_view, membership
from requirements.node import BLOCK_TIME, DARK_AFTER, Node, node
from requirements.scene import Scene, scene

CLOSE_AFTER = 900.0
HOUR = 3600.0

NEXT_TOKEN = "0x" + abi.CALL_NEXT_TOKEN_ID.hex()
"""Asked by every full compare, and by nothing else that a running follower asks."""


@pytest.mark.parametrize("close", [True, False])
async def test_requirement_25_in_the_dark_nobody_comes_in_and_in_time_all_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, close: bool
) -> None:
    """Requirement 25: without a quorum nobody is admitted, and after a time all peers go or stay.

    Which of the two is the operator's choice. All of it runs on monotonic time.
    """
    settings = {"DARK_CLOSE_AFTER": str(int(CLOSE_AFTER)) if close else "0"}
    async with node(tmp_path, monkeypatch, settings=settings) as n:
        two = await n.scene.mint("two")
        await n.look()
        assert await n.peers() == {two}
        n.proxies[1].fault = Drop()
        three = await n.scene.mint("three")
        await n.pass_time(DARK_AFTER)
        assert Code.CHAIN_DARK not in n.codes()
        assert three not in n.scene.membership.nodes
        await n.pass_time(CLOSE_AFTER - DARK_AFTER - 1, every=60)
        assert Code.CHAIN_DARK in n.codes()
        assert await n.peers() == {two}
        await n.pass_time(1)
        assert await n.peers() == (set() if close else {two})
        assert bool(n.snapshot.closed) == close
        await n.pass_time(HOUR, every=300)
        assert await n.peers() == (set() if close else {two})


async def test_requirement_25_after_the_dark_a_full_compare_comes_before_any_grant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requirement 25: when the providers are back, nobody new is in before all was compared.

    Whoever is out by what they tell is out at once.
    """
    async with node(tmp_path, monkeypatch) as n:
        two, gone = await n.scene.mint("two"), await n.scene.mint("gone")
        await n.look()
        for proxy in n.proxies:
            proxy.fault = Drop()
        await n.pass_time(DARK_AFTER + 30)
        three = await n.scene.mint("three")
        await n.scene.nft.revoke(gone)
        assert await n.peers() == {two, gone}
        for proxy in n.proxies:
            proxy.fault = RateLimit("eth_call", code=-32000, to=NEXT_TOKEN)
        for _ in range(5):
            await n.pass_time(60)
            assert n.follower.view.compares == 0
            assert n.scene.membership.nodes[three].active
            assert await n.peers() == {two}
            assert n.scene.verdict(three) == "NOT_YET_CONFIRMED"
        for proxy in n.proxies:
            proxy.honest()
        await n.pass_time(60)
        assert n.follower.view.compares == 1
        assert await n.peers() == {two, three}


def state_of(view: ChainView, now: float) -> ChainState:
    """How it stands with a chain that should have a block every 2 s."""
    return chain_state(view, now=now, dark_after=DARK_AFTER, block_time=BLOCK_TIME)


def first_closing(view: ChainView, *, dark: float, halt: float) -> Closing | None:
    """What closes first with these limits."""
    return closing(view, dark_close_after=dark, halt_close_after=halt, saved_age=None, now=NOW)


def test_requirement_26_dark_and_halted_are_told_apart_by_two_times() -> None:
    """Requirement 26: agreed on lately, but long the same head, is halted; not agreed is dark.

    Each has a limit of its own, and the one does not set off the other.
    """
    halted = chain_view(membership(), agreed_at=NOW - 1, advanced_at=NOW - 1000)
    dark = chain_view(membership(), agreed_at=NOW - 1000, advanced_at=NOW - 1000)
    assert state_of(halted, NOW) is ChainState.HALTED
    assert state_of(dark, NOW) is ChainState.DARK
    # Long halted and then dark: what the chain does now nobody knows.
    assert state_of(replace(halted, agreed_at=NOW - 61), NOW) is ChainState.DARK
    for view, closes in ((halted, "HALT_CLOSE_AFTER"), (dark, "DARK_CLOSE_AFTER")):
        closed = first_closing(view, dark=900.0, halt=900.0)
        assert closed is not None
        assert closed.at <= NOW
        assert closes in closed.reason
    assert first_closing(halted, dark=0.0, halt=0.0) is None
    held = first_closing(halted, dark=900.0, halt=0.0)
    assert held is not None
    assert held.at == NOW - 1 + 900
    assert turns_at(
        chain_view(membership()), now=NOW, dark_after=DARK_AFTER, block_time=BLOCK_TIME
    ) == (NOW + DARK_AFTER)


async def test_requirement_26_a_quorum_on_an_old_head_is_a_halt(tmp_path: Path) -> None:
    """Requirement 26: while enough providers confirm one and the same head, it is a halt."""
    async with scene(tmp_path) as s:
        await s.follower.start(None)
        for _ in range(30):
            s.clock.now += 10
            await s.poll()
        assert s.view.agreed_at == s.clock()
        assert state_of(s.view, s.clock()) is ChainState.HALTED
        await s.chain.mine()
        await s.poll()
        assert state_of(s.view, s.clock()) is ChainState.FOLLOWING


@contextlib.asynccontextmanager
async def two_branches(s: Scene, directory: Path) -> AsyncIterator[None]:
    """From the newest block on the second provider shows a branch of its own."""
    number = (await s.chain.block()).number
    fork = ["--fork-url", s.chain.url, "--fork-block-number", str(number)]
    async with local_chain(directory, "fork", options=fork) as other:
        s.proxies[1].fault = Upstream(other.url)
        await other.mine(1)
        await other.increase_time(1000)
        yield
        await other.mine(1)


@pytest.mark.parametrize("how", ["silent", "behind", "elsewhere"])
async def test_requirement_26_a_rising_head_without_a_quorum_is_dark(
    tmp_path: Path, how: str
) -> None:
    """Requirement 26: where one provider's head rises and the other does not follow, it is dark.

    Whether the other says nothing, stays behind, or goes on along a branch of its own.
    """
    async with contextlib.AsyncExitStack() as stack:
        s = await stack.enter_async_context(scene(tmp_path, count=2))
        await s.follower.start(None)
        agreed = s.membership.block
        if how == "silent":
            s.proxies[1].fault = Drop()
        elif how == "behind":
            s.proxies[1].fault = PinnedHead(agreed.number)
        else:
            await stack.enter_async_context(two_branches(s, tmp_path))
        for _ in range(12):
            s.clock.now += 10
            await s.chain.mine()
            await s.poll()
        assert s.membership.block == agreed
        assert s.view.providers[0].head == agreed.number + 12
        assert state_of(s.view, s.clock()) is ChainState.DARK
        s.proxies[1].honest()
        await s.arrive()
        assert state_of(s.view, s.clock()) is ChainState.FOLLOWING
        assert s.view.compares == 1


@pytest.mark.parametrize("off", [HOUR, -HOUR])
async def test_requirement_27_a_wrong_clock_decides_nothing_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: float
) -> None:
    """Requirement 27: with the clock off by an hour ages and ends are right, and the error shows.

    Ages are monotonic, ends are in chain time, and what the clock is off by is a warning.
    """
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + off)
    async with node(tmp_path, monkeypatch) as n:
        two, three = await n.scene.mint("two"), await n.scene.mint("three")
        await n.scene.nft.renew(three, (await n.scene.chain.block()).timestamp + 1800)
        await n.look()
        assert await n.peers() == {two, three}
        health = n.health(wall_now=time.time())
        (skew,) = [w.text for w in health.warnings if w.code is Code.CLOCK_SKEW]
        assert ("ahead of" if off > 0 else "behind") in skew
        assert abs(int(skew.split(" is ")[1].split()[0]) - HOUR) < 60
        assert health.state is ChainState.FOLLOWING
        assert health.ready
        for proxy in n.proxies:
            proxy.fault = Drop()
        await n.pass_time(DARK_AFTER)
        assert Code.CHAIN_DARK not in n.codes()
        await n.pass_time(1)
        assert Code.CHAIN_DARK in n.codes()
        for proxy in n.proxies:
            proxy.honest()
        await n.pass_time(1790 - DARK_AFTER - 1, every=100)
        assert await n.peers() == {two, three}
        await n.pass_time(10)
        assert await n.peers() == {two}


@pytest.mark.parametrize("how", ["dark", "halted"])
async def test_requirement_28_access_ends_on_time_without_the_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Requirement 28: whose time ends is out on time in the dark and in a halt.

    The loop wakes for it by itself, though nothing tells it to.
    """
    ends = 600
    async with node(tmp_path, monkeypatch, settings={"DARK_CLOSE_AFTER": "0"}) as n:
        two, three = await n.scene.mint("two"), await n.scene.mint("three")
        head = await n.scene.chain.block()
        await n.scene.nft.renew(three, head.timestamp + ends)
        await n.look()
        await settle(n)
        passed = n.scene.membership.block.timestamp - head.timestamp
        if how == "dark":
            for proxy in n.proxies:
                proxy.fault = Drop()
        await n.pass_time(ends - passed - 1, every=50)
        assert state_of(n.follower.view, n.clock()) is ChainState(how)
        assert await n.peers() == {two, three}
        assert 0 < n.loop._pause() <= 1
        n.clock.now += n.loop._pause()
        await n.loop.cycle()
        assert await n.peers() == {two}
        assert n.snapshot.closed is None


async def settle(n: Node) -> None:
    """Look until the newest block is the one that is judged."""
    await n.scene.arrive()
    await n.loop.cycle()
