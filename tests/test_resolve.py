"""Names of endpoints: answered at once with what is known, looked up beside the loop."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from ipaddress import ip_address

import pytest

from dstack_vpn.mesh.device import IpAddress
from dstack_vpn.resolve import WORKERS, Resolver, ask_system
from lab.waiting import until

ONE, TWO = ip_address("192.0.2.1"), ip_address("2001:db8::1")


class NameServer:
    """A resolver that answers from a table, once `go` is set; it keeps who asked."""

    def __init__(self, table: Mapping[str, tuple[IpAddress, ...]]) -> None:
        self.table = table
        self.go = threading.Event()
        self.go.set()
        self.asked: list[str] = []

    def ask(self, name: str) -> tuple[IpAddress, ...]:
        """What the table says of a name; OSError when it says nothing."""
        self.asked.append(name)
        self.go.wait(30)
        if name not in self.table:
            raise OSError(f"no such name: {name}")
        return self.table[name]


class News:
    """Counts what the resolver tells, and waits for it."""

    def __init__(self) -> None:
        self.count = 0
        self._event = asyncio.Event()

    def __call__(self) -> None:
        """Take one piece of news."""
        self.count += 1
        self._event.set()

    async def wait(self) -> None:
        """Return once there was news since the last wait."""
        async with asyncio.timeout(10):
            await self._event.wait()
        self._event.clear()


@asynccontextmanager
async def running(server: NameServer, news: News) -> AsyncIterator[Resolver]:
    """A resolver at work; its name server lets go at the end."""
    resolver = Resolver(news, server.ask)
    task = asyncio.get_running_loop().create_task(resolver.run())
    try:
        yield resolver
    finally:
        server.go.set()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_answers_arrive_later() -> None:
    """The first answer is "not known yet"; the addresses come with news, and then at once."""
    server, news = NameServer({"db.example": (ONE, TWO)}), News()
    async with running(server, news) as resolver:
        assert resolver.resolve(["db.example"]) == {}
        await news.wait()
        assert resolver.resolve(["db.example"]) == {"db.example": (ONE, TWO)}
        assert server.asked == ["db.example"]
        assert news.count == 1


async def test_name_that_is_no_longer_wanted_is_forgotten() -> None:
    """What no endpoint names any more takes no room, and is asked for anew if it returns."""
    server, news = NameServer({"a.example": (ONE,), "b.example": (TWO,)}), News()
    async with running(server, news) as resolver:
        resolver.resolve(["a.example"])
        await news.wait()
        assert resolver.resolve(["b.example"]) == {}
        await news.wait()
        assert resolver.resolve(["a.example", "b.example"]) == {"b.example": (TWO,)}
        await news.wait()
        assert server.asked == ["a.example", "b.example", "a.example"]


async def test_names_may_be_asked_for_beside_others() -> None:
    """Asking for a few more forgets none; `known` has what was found, without asking."""
    server, news = NameServer({"a.example": (ONE,), "b.example": (TWO,)}), News()
    async with running(server, news) as resolver:
        resolver.resolve(["a.example"])
        await news.wait()
        assert resolver.resolve(["b.example"], keep=True) == {}
        await news.wait()
        assert resolver.known == {"a.example": (ONE,), "b.example": (TWO,)}
        assert resolver.resolve(["b.example"], keep=True) == {"b.example": (TWO,)}
        assert server.asked == ["a.example", "b.example"]


async def test_failure_ends_nothing() -> None:
    """A name that does not exist is no news, and the names behind it are looked up."""
    server, news = NameServer({"z.example": (ONE,)}), News()
    async with running(server, news) as resolver:
        names = [f"no-{i}.example" for i in range(3 * WORKERS)] + ["z.example"]
        resolver.resolve(names)
        await news.wait()
        assert resolver.resolve(names) == {"z.example": (ONE,)}


async def test_a_name_that_begins_to_exist_is_found_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asks again, and the failure is followed by another try all the same."""
    monkeypatch.setattr("dstack_vpn.resolve.RETRY", 0.01)
    table: dict[str, tuple[IpAddress, ...]] = {}
    server, news = NameServer(table), News()
    async with running(server, news) as resolver:
        resolver.resolve(["late.example"])
        await until(lambda: len(server.asked) > 2, "it is tried again")
        table["late.example"] = (ONE,)
        await news.wait()
        assert resolver.resolve(["late.example"]) == table


async def test_silent_name_server_delays_nothing_else() -> None:
    """However many lookups hang, the loop and its threads for the disk are free."""
    server, news = NameServer({}), News()
    server.go.clear()
    async with running(server, news) as resolver:
        names = [f"{i}.example" for i in range(100)]
        assert resolver.resolve(names) == {}
        async with asyncio.timeout(10):
            while len(server.asked) < WORKERS:
                await asyncio.to_thread(lambda: None)
            ends = await asyncio.gather(*(asyncio.to_thread(threading.get_ident) for _ in names))
        assert len(ends) == len(names)
        assert resolver.resolve(names) == {}
        assert len(server.asked) == WORKERS


async def test_what_the_system_says() -> None:
    """The host's own resolver is asked, for both families, each address once."""
    assert ask_system("localhost")
    assert set(ask_system("localhost")) <= {ip_address("127.0.0.1"), ip_address("::1")}
    with pytest.raises(OSError, match=r"."):
        ask_system("no-such-name.invalid")


async def test_names_that_wait_are_not_queued_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """While no name server answers, each name waits once, however often it is asked for."""
    monkeypatch.setattr("dstack_vpn.resolve.LIFETIME", 0.0)
    server = NameServer({})
    resolver = Resolver(News(), server.ask)
    for _ in range(50):
        resolver.resolve(["a.example", "b.example"])
    task = asyncio.get_running_loop().create_task(resolver.run())
    await asyncio.sleep(0.2)
    task.cancel()
    assert sorted(server.asked) == ["a.example", "b.example"]


def test_a_name_server_that_hangs_does_not_hold_up_the_end() -> None:
    """A process that ends waits for no lookup under way."""
    program = """
import asyncio, time
from dstack_vpn.resolve import Resolver

async def main():
    resolver = Resolver(lambda: None, lambda name: time.sleep(60))
    resolver.resolve(["a.example"])
    task = asyncio.create_task(resolver.run())
    await asyncio.sleep(0.2)
    task.cancel()

asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=20)
