"""News of an interface: noticed at once, each thing that can be taken away; and nobody else's."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.wireguard import linkwatch
from dstack_vpn.wireguard.linkwatch import News, watch
from dstack_vpn.wireguard.netlink import MALFORMED, Message, attribute
from lab.fixtures import need_lab
from lab.process import run
from lab.waiting import until
from wireguard.samples import unique_name

QUIET = 0.1
"""Seconds after which nothing more is expected of what was done before."""
V4, V6 = ip_network("10.77.0.0/16"), ip_network("fd77::/48")


@asynccontextmanager
async def watched(name: str) -> AsyncIterator[Callable[[], int]]:
    """Watch an interface; how often something was told."""
    calls = 0

    def changed() -> None:
        nonlocal calls
        calls += 1

    async with asyncio.TaskGroup() as group:
        task = group.create_task(watch(name, [V4, V6], changed))
        await asyncio.sleep(0)
        yield lambda: calls
        task.cancel()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between two calls."""
    monkeypatch.setattr(linkwatch, "PAUSE", 0.0)


@pytest.mark.usefixtures("impatient")
async def test_whatever_is_taken_away_is_noticed() -> None:
    """Each in turn: rules, routes, addresses, MTU, state, and the interface itself."""
    need_lab()
    name = unique_name()
    for line in (
        f"link add {name} type veth peer name {name}p",
        f"link set {name} up",
        f"link set {name}p up",
        f"addr add 10.77.0.1/16 dev {name}",
        f"addr add fd77::1/48 dev {name} nodad",
        f"-4 rule add pref 51 iif {name} blackhole",
        f"-6 rule add pref 51 iif {name} blackhole",
        "-4 route add unreachable 10.77.0.0/16 metric 4278198272",
        "-6 route add unreachable fd77::/48 metric 2147483647",
    ):
        await run("ip", *line.split())
    deeds = (
        f"-4 rule del pref 51 iif {name} blackhole",
        f"-6 rule del pref 51 iif {name} blackhole",
        "-4 route del unreachable 10.77.0.0/16 metric 4278198272",
        "-6 route del unreachable fd77::/48 metric 2147483647",
        f"-4 route del 10.77.0.0/16 dev {name}",
        f"-6 route del fd77::/48 dev {name}",
        f"link set {name} mtu 1300",
        f"addr del 10.77.0.1/16 dev {name}",
        f"link set {name} down",
        f"link del {name}",
        f"link add {name} type veth peer name {name}p",
        f"link del {name}",
    )
    async with watched(name) as calls:
        await run("ip", "addr", "add", "10.77.0.2/16", "dev", name)
        await until(lambda: calls() > 0, "it watches")
        for deed in deeds:
            await quiet(calls)
            before = calls()
            await run("ip", *deed.split())
            await until(lambda before=before: calls() > before, deed)  # type: ignore[misc]


async def quiet(calls: Callable[[], int]) -> None:
    """Wait until nothing more is told of what was done before."""
    known, since = calls(), time.monotonic()

    def still() -> bool:
        nonlocal known, since
        if known != calls():
            known, since = calls(), time.monotonic()
        return time.monotonic() - since > QUIET

    await until(still, "no news")


@pytest.mark.usefixtures("impatient")
async def test_the_news_of_others_is_none_of_ours() -> None:
    """Interfaces, addresses and routes that come and go beside ours are not told."""
    need_lab()
    name = unique_name()
    async with watched(name) as calls:
        other = unique_name()
        for line in (
            f"link add {other} type veth peer name {other}p",
            f"link set {other} up",
            f"addr add 10.78.0.1/16 dev {other}",
            f"link del {other}",
        ):
            await run("ip", *line.split())
        await quiet(calls)
        assert calls() == 0


@pytest.mark.usefixtures("impatient")
async def test_a_router_may_have_many_routes() -> None:
    """Thousands that come and go, faster than could be read, tell nothing; one of ours does."""
    need_lab()
    name = unique_name()
    other = unique_name()
    for line in (
        f"link add {other} type veth peer name {other}p",
        f"link set {other} up",
        f"link set {other}p up",
        f"addr add 10.78.0.1/16 dev {other}",
        "route add unreachable 10.77.0.0/16 metric 4278198272",
    ):
        await run("ip", *line.split())
    async with watched(name) as calls:
        for verb in ("add", "del"):
            routes = [
                f"route {verb} 20.0.{i >> 8}.{i & 255} via 10.78.0.2\n" for i in range(20_000)
            ]
            # Nobody reads meanwhile, so that what the kernel does not sort out is lost, and told.
            subprocess.run(("ip", "-batch", "-"), input="".join(routes), text=True, check=True)  # noqa: ASYNC221
        await quiet(calls)
        assert calls() == 0
        await run("ip", "route", "del", "unreachable", "10.77.0.0/16")
        await until(lambda: calls() > 0, "the one route is missed")
    await run("ip", "link", "del", other)


async def test_a_fight_is_fought_slowly() -> None:
    """Whoever undoes what is done again and again is answered once in a while."""
    need_lab()
    name = unique_name()
    await run("ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p")
    async with watched(name) as calls:
        for mtu in range(1300, 1330):
            await run("ip", "link", "set", name, "mtu", str(mtu))
        await until(lambda: calls() > 0, "it is told")
        assert calls() <= 2
    await run("ip", "link", "del", name)


@given(st.integers(0, 65_535), st.binary(max_size=80))
def test_hostile_messages(kind: int, body: bytes) -> None:
    """Whatever comes is an answer or malformed, and nothing else."""
    try:
        said = News("wg0", 7, [V4, V6]).concerns(Message(kind, 0, 0, body))
    except MALFORMED:
        return
    assert said in {True, False}


def test_an_interface_is_known_by_its_newest_number() -> None:
    """After it was made anew, addresses are told of by another index."""
    news = News("wg0", 7, [])

    def link(kind: int, index: int, name: bytes) -> Message:
        head = bytes(4) + index.to_bytes(4, "little") + bytes(8)
        return Message(kind, 0, 0, head + attribute(3, name + b"\0"))

    def address(index: int) -> Message:
        return Message(20, 0, 0, bytes(4) + index.to_bytes(4, "little"))

    assert news.concerns(address(7))
    assert news.concerns(link(17, 7, b"wg0"))
    assert not news.concerns(address(7))
    assert not news.concerns(link(16, 9, b"wg1"))
    assert news.concerns(link(16, 8, b"wg0"))
    assert news.concerns(address(8))
    assert not news.concerns(address(9))
    assert news.concerns(link(16, 8, b"other")), "it was given another name"
    assert not news.concerns(address(8))
