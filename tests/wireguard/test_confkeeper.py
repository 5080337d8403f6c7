"""The file beside the loop: the newest plan is written, in the end, and nobody waits for it."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from dstack_vpn.mesh.device import WantedDevice
from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.mesh.membership import Membership
from dstack_vpn.wireguard import confkeeper
from dstack_vpn.wireguard.confkeeper import ConfKeeper
from lab.waiting import until
from mesh.build import membership
from wireguard.samples import device

PRIVATE_KEY = PrivateKey(bytes(range(1, 33)))


def plan(number: int) -> WantedDevice:
    """One of many plans."""
    return device(PRIVATE_KEY, mtu=1280 + number)


class Disk:
    """Keeps what is written; may be slow, or full."""

    def __init__(self) -> None:
        self.written: list[int] = []
        self.begun = 0
        self.at_once = 0
        self.most_at_once = 0
        self.full = False
        self.go = threading.Event()
        self.go.set()

    def write(self, wanted: WantedDevice, _: Membership) -> None:
        """Write one plan."""
        self.begun += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.go.wait(10)
        self.at_once -= 1
        if self.full:
            raise OSError(28, "No space left on device", "wg0.conf")
        self.written.append(wanted.mtu - 1280)


@pytest.fixture
def disk() -> Disk:
    """An empty disk."""
    return Disk()


@asynccontextmanager
async def running(keeper: ConfKeeper) -> AsyncIterator[None]:
    """The keeper at work."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(keeper.run())
        yield
        task.cancel()


async def test_what_is_left_is_written(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """One plan after the other, each when it comes."""
    monkeypatch.setattr(confkeeper, "SHARE", 1.0)
    keeper = ConfKeeper(disk.write, pytest.fail)
    async with running(keeper):
        for number in range(3):
            keeper.put(plan(number), membership())
            await until(lambda: number in disk.written, "it is written")  # noqa: B023
    assert disk.written == [0, 1, 2]


async def test_of_plans_that_come_meanwhile_the_newest_is_written(disk: Disk) -> None:
    """While the disk is slow nobody waits, and what is old by then is never written."""
    keeper = ConfKeeper(disk.write, pytest.fail)
    disk.go.clear()
    async with running(keeper):
        keeper.put(plan(0), membership())
        await until(lambda: disk.begun > 0, "the first is being written")
        for number in range(1, 9):
            keeper.put(plan(number), membership())
        disk.go.set()
        await keeper.flush()
    assert disk.written == [0, 8]
    assert disk.most_at_once == 1


async def test_flush_writes_what_is_left_at_the_end(disk: Disk) -> None:
    """Whoever stops the keeper may have the newest plan on disk before; twice does no harm."""
    keeper = ConfKeeper(disk.write, pytest.fail)
    keeper.put(plan(3), membership())
    await keeper.flush()
    await keeper.flush()
    assert disk.written == [3]


async def test_a_cancelled_writing_meets_no_other(disk: Disk) -> None:
    """The thread of a keeper that was stopped ends before the last plan is written."""
    keeper = ConfKeeper(disk.write, pytest.fail)
    disk.go.clear()
    async with running(keeper):
        keeper.put(plan(1), membership())
        await until(lambda: disk.begun > 0, "it is being written")
    last = asyncio.get_running_loop().create_task(keeper.flush())
    await asyncio.sleep(0)
    disk.go.set()
    await last
    assert disk.written == [1, 1]
    assert disk.most_at_once == 1


async def test_a_full_disk_is_told_and_stops_nothing(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next plan is written when there is room again."""
    monkeypatch.setattr(confkeeper, "SHARE", 1.0)
    told: list[str] = []
    keeper = ConfKeeper(disk.write, told.append)
    disk.full = True
    async with running(keeper):
        keeper.put(plan(1), membership())
        await until(lambda: bool(told), "the error is told")
        disk.full = False
        keeper.put(plan(2), membership())
        await until(lambda: disk.written == [2], "the next one is written")
    assert told == ["wg0.conf: No space left on device"]
