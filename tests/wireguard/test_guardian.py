"""The agent's side of the guard: one guard, a lease that is renewed, and warnings but no errors."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from dstack_vpn.wireguard import guardian as guardians
from dstack_vpn.wireguard import lease as leases
from dstack_vpn.wireguard import process
from dstack_vpn.wireguard.guardian import Guardian, Watched
from dstack_vpn.wireguard.lease import NOBODY, SIZE, SLACK
from dstack_vpn.wireguard.process import Process
from lab.fixtures import need_lab
from lab.process import run
from lab.waiting import until
from wireguard.guarded import Guarded, guarded, write

LONG = 3600.0
KEEPS = "import time; time.sleep(600)"
"""A guard that has read its lease, and goes on with that whatever becomes of the file."""


@pytest_asyncio.fixture
async def device(tmp_path: Path) -> AsyncIterator[Guarded]:
    """A device with two peers."""
    need_lab()
    async with guarded("userspace", tmp_path / "state") as found:
        found.directory.mkdir()
        await found.bring()
        yield found


@pytest.fixture
def guardian(device: Guarded) -> Guardian:
    """The agent's side, as after a start."""
    return Guardian(device.backend.name, device.directory)


def soon(seconds: float = LONG) -> float:
    """A loop time from now."""
    return asyncio.get_running_loop().time() + seconds


async def killed(device: Guarded) -> None:
    """Kill the guard that there is."""
    found = await device.only_guard()
    found.signal(signal.SIGKILL)
    await until(lambda: not found.alive, "the guard is dead")


async def test_the_first_call_starts_a_guard(device: Guarded, guardian: Guardian) -> None:
    """The lease ends when the loop's time says so, and names the guard and the device."""
    before = leases.boottime()
    assert await guardian.watch(device.target, soon()) == Watched(ran_out=True)
    lease = device.lease
    assert before + LONG - SLACK < lease.until < leases.boottime() + LONG + SLACK
    await device.only_guard()
    assert lease.target == device.target


async def test_where_nothing_is_due_nothing_is_done(
    device: Guarded, guardian: Guardian, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same end, or a slightly later one: no thread, no file, no process."""
    closes_at = soon()
    await guardian.watch(device.target, closes_at)
    monkeypatch.setattr(guardian, "_renew", None)
    for later in (0.0, SLACK / 2, 20.0):
        assert await guardian.watch(device.target, closes_at + later) == Watched()


async def test_an_earlier_end_is_written_at_once(device: Guarded, guardian: Guardian) -> None:
    """And a later one when some time has gone by; neither is told as one that ran out."""
    await guardian.watch(device.target, soon())
    assert await guardian.watch(device.target, soon(60.0)) == Watched()
    assert device.lease.until < leases.boottime() + 60.0 + SLACK
    guardian._written -= LONG
    assert await guardian.watch(device.target, soon()) == Watched()
    assert device.lease.until > leases.boottime() + 60.0 + SLACK


async def test_a_lease_that_ran_out_is_told_once(device: Guarded, guardian: Guardian) -> None:
    """Whoever comes back after it compares the device; the next call has nothing to say."""
    await guardian.watch(device.target, soon(0.3))
    await device.emptied()
    await device.no_guard()
    successor = Guardian(device.backend.name, device.directory)
    assert await successor.watch(device.target, soon()) == Watched(ran_out=True)
    assert await successor.watch(device.target, soon()) == Watched()
    await device.only_guard()


async def test_a_dead_guard_is_replaced(
    device: Guarded, guardian: Guardian, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a warning, once; the lease names the new one."""
    monkeypatch.setattr(guardians, "RESTART", 0.0)
    await guardian.watch(device.target, soon())
    await killed(device)
    watched = await guardian.watch(device.target, soon())
    assert watched.warning == (
        f"the guard of {device.backend.name} had died; another one was started"
    )
    assert not watched.ran_out
    assert await guardian.watch(device.target, soon()) == Watched()
    await device.only_guard()


async def test_a_guard_that_dies_at_once_is_not_started_all_the_time(
    device: Guarded, guardian: Guardian, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken Python is a warning that stays, not a process in each cycle."""
    monkeypatch.setattr(guardians, "_START", "raise SystemExit(1)")
    await guardian.watch(device.target, soon())
    name = device.lease.guard
    await until(lambda: not Process(*name).alive, "it has ended")
    for _ in range(3):
        watched = await guardian.watch(device.target, soon())
        assert watched.warning == (
            f"{device.backend.name} has no guard: it died soon after its start"
        )
    assert device.lease.guard == name


async def test_no_program_no_guard(
    device: Guarded, guardian: Guardian, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be started is said in a sentence, and tried again."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/no/python")
        watched = await guardian.watch(device.target, soon())
        assert watched.warning is not None
        assert "has no guard: /no/python is not installed" in watched.warning
        assert device.lease.guard == NOBODY
    assert await guardian.watch(device.target, soon()) == Watched()
    await device.only_guard()


async def test_two_agents_at_the_same_moment_start_one_guard(device: Guarded) -> None:
    """The second finds the guard of the first."""
    agents = [Guardian(device.backend.name, device.directory) for _ in range(4)]
    watched = await asyncio.gather(*(one.watch(device.target, soon()) for one in agents))
    assert [found.warning for found in watched] == [None] * 4
    assert [found.ran_out for found in watched].count(True) == 1
    await device.only_guard()


async def test_the_guard_follows_to_the_next_device(device: Guarded, guardian: Guardian) -> None:
    """A device that was made anew is guarded by a lease of its own."""
    await guardian.watch(device.target, soon())
    old = device.target
    await device.backend.destroy()
    await device.bring()
    await guardian.watch(device.target, soon())
    assert device.lease.target == device.target != old
    await device.only_guard()


# -- the end


async def test_nothing_to_guard(device: Guarded, guardian: Guardian) -> None:
    """No device, a rule that is off, or peers that are out already: no lease and no guard."""
    assert await guardian.watch(None, soon()) == Watched()
    assert await guardian.watch(device.target, None) == Watched()
    assert await guardian.watch(device.target, soon(-1.0)) == Watched()
    assert not guardian.path.exists()
    assert device.guards() == []


async def test_a_rule_that_is_turned_off(device: Guarded, guardian: Guardian) -> None:
    """The guard of an earlier run ends, its lease goes, and the peers stay."""
    await Guardian(device.backend.name, device.directory).watch(device.target, soon())
    assert await guardian.watch(device.target, None) == Watched()
    assert device.guards() == []
    assert not guardian.path.exists()
    assert await device.peers() == 2
    assert await guardian.watch(device.target, soon()) == Watched(ran_out=True)


async def test_a_wanted_stop(device: Guarded, guardian: Guardian) -> None:
    """No guard and no lease is left behind; to end twice does no harm."""
    await guardian.watch(device.target, soon())
    await device.backend.destroy()
    assert await guardian.end() is None
    assert await guardian.end() is None
    await device.no_guard()
    assert not guardian.path.exists()


async def test_a_process_that_is_no_guard_any_more(device: Guarded, guardian: Guardian) -> None:
    """A pid that was used again is ended by no lease."""
    us = Process.of(os.getpid())
    assert us is not None
    name = NOBODY._replace(pid=us.pid, started=us.started + 1)
    write(device.path, device.target, leases.boottime() + LONG, name)
    assert await guardian.end() is None


# -- what the disk does


@contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    """A disk of two pages for the state."""
    mounted = os.system(f"mount -t tmpfs -o size=8k none {directory}")
    assert mounted == 0
    try:
        yield
    finally:
        os.system(f"umount -l {directory}")


def fill(directory: Path) -> None:
    """Leave no room on a disk."""
    with pytest.raises(OSError, match="No space"):
        (directory / "filler").write_bytes(bytes(2**16))


async def test_a_disk_that_is_full_from_the_start(
    device: Guarded, guardian: Guardian, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No lease, no guard, and a warning that names the file; with room there are both."""
    with small_disk(device.directory):
        fill(device.directory)
        with monkeypatch.context() as patch:
            # A process in each cycle, to end at once, would be too much.
            patch.setattr(process, "spawn", None)
            watched = await guardian.watch(device.target, soon())
        assert watched == Watched(
            warning=f"the lease {guardian.path} cannot be written (No space left on device)"
        )
        await device.no_guard()
        (device.directory / "filler").unlink()
        assert (await guardian.watch(device.target, soon())).ran_out
        await device.only_guard()


async def test_a_disk_that_fills_up_stops_no_renewal(device: Guarded, guardian: Guardian) -> None:
    """The lease is written into the room that it has."""
    with small_disk(device.directory):
        await guardian.watch(device.target, soon())
        fill(device.directory)
        assert await guardian.watch(device.target, soon(60.0)) == Watched()
        assert device.lease.until < leases.boottime() + 60.0 + SLACK


async def test_a_living_agent_is_not_cut_off_by_its_disk(
    device: Guarded, guardian: Guardian
) -> None:
    """A lease that cannot be renewed: the guard is ended when half of the time has gone by."""
    with small_disk(device.directory):
        await guardian.watch(device.target, soon())
        await run("mount", "-o", "remount,ro", device.directory)
        warning = f"the lease {guardian.path} cannot be written (Read-only file system)"
        later = await guardian.watch(device.target, soon(1.9 * LONG))
        assert later == Watched()  # nothing was due yet
        guardian._written -= LONG

        assert await guardian.watch(device.target, soon(1.9 * LONG)) == Watched(warning=warning)
        await device.only_guard()
        assert await guardian.watch(device.target, soon(2.1 * LONG)) == Watched(warning=warning)
        await device.no_guard()
    assert await device.peers() == 2


async def test_a_lease_that_is_lost_and_cannot_be_written(
    device: Guarded, guardian: Guardian, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its guard would keep to what it read last, so it is ended by what we know of it."""
    monkeypatch.setattr(guardians, "_START", KEEPS)
    with small_disk(device.directory):
        await guardian.watch(device.target, soon())
        guardian.path.unlink()
        fill(device.directory)
        guardian._written -= LONG
        watched = await guardian.watch(device.target, soon(2.1 * LONG))
        assert watched.warning is not None
        assert "cannot be written" in watched.warning
        await device.no_guard()
    assert await device.peers() == 2


async def test_a_wanted_stop_without_its_lease(
    device: Guarded, guardian: Guardian, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard is ended at once, though nothing names it any more."""
    monkeypatch.setattr(guardians, "_START", KEEPS)
    await guardian.watch(device.target, soon())
    found = await device.only_guard()
    guardian.path.unlink()
    assert await guardian.end() is None
    assert not found.alive


async def test_a_guard_that_is_at_work(
    device: Guarded, guardian: Guardian, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent waits for a moment only, and renews the lease the next time."""
    monkeypatch.setattr(leases, "PATIENCE", 0.05)
    with leases.opened(device.path, create=True):
        watched = await guardian.watch(device.target, soon())
        assert watched.warning == f"the guard of {device.backend.name} is at work, or was stopped"
    assert await guardian.watch(device.target, soon()) == Watched(ran_out=True)


@pytest.mark.parametrize("garbage", [b"", bytes(SIZE), b"x" * SIZE])
async def test_garbage_counts_as_a_lease_that_ran_out(
    device: Guarded, guardian: Guardian, garbage: bytes
) -> None:
    """The agent cannot know what a guard did, so it compares; the file is made good."""
    guardian.path.write_bytes(garbage)
    assert await guardian.watch(device.target, soon()) == Watched(ran_out=True)
    assert device.lease.target == device.target
