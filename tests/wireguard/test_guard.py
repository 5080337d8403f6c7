"""The guard: when the agent is dead, stopped or gone for too long, all peers go, and only they."""

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.wireguard import cutoff, guard, process
from dstack_vpn.wireguard import lease as leases
from dstack_vpn.wireguard.command import clean_environment
from dstack_vpn.wireguard.guard import LONGEST_PAUSE, TRIES, pause
from dstack_vpn.wireguard.guardian import Guardian
from dstack_vpn.wireguard.lease import NOBODY, Guard, KernelTarget, Lease, Target, UserspaceTarget
from dstack_vpn.wireguard.process import Process
from lab.fixtures import need_kernel_wireguard, need_lab
from lab.process import Process as Program
from lab.waiting import until
from wireguard.guarded import Guarded, guarded, write
from wireguard.samples import patient

PERIOD = 2.0
"""Seconds that a lease lasts in these tests; it is written again once a second."""
MOST_MEMORY = 12 * 2**20


@pytest_asyncio.fixture(params=["userspace", "kernel"])
async def device(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Guarded]:
    """A device to be, with each backend that this machine has."""
    need_lab()
    if request.param == "kernel":
        need_kernel_wireguard()
    async with guarded(request.param, tmp_path / "state") as found:
        found.directory.mkdir()
        yield found


mostly_userspace = pytest.mark.parametrize(
    "device", ["userspace", pytest.param("kernel", marks=pytest.mark.slow)], indirect=True
)
only_userspace = pytest.mark.parametrize("device", ["userspace"], indirect=True)


async def keeping(agent: Program) -> list[str]:
    """Wait until an agent has renewed its lease; the words that it said then."""
    return (await agent.line("renewed ")).split()


# -- a real agent, a real device


async def test_a_killed_agent_keeps_nobody_in(device: Guarded) -> None:
    """After its time all peers are gone; interface, address, key and port are as they were."""
    agent = await device.agent(PERIOD)
    await keeping(agent)
    before = await device.seen()
    assert len(before.peers) == 2
    await device.only_guard()
    ends = device.lease.until
    await agent.kill()
    assert await device.peers() == 2
    assert leases.boottime() < ends
    await device.emptied()
    assert leases.boottime() >= ends
    after = await device.seen()
    assert (after.up, after.addresses, after.public_key, after.listen_port) == (
        before.up,
        before.addresses,
        before.public_key,
        before.listen_port,
    )
    await device.no_guard()
    assert device.lease.guard == NOBODY


@mostly_userspace
async def test_a_stopped_agent_counts_as_dead(device: Guarded) -> None:
    """SIGSTOP: the peers go; once it goes on it learns that they may be gone, and once only."""
    agent = await device.agent(PERIOD)
    assert (await keeping(agent))[2] == "True"  # there was no lease yet
    await agent.pause()
    await device.emptied()
    await device.no_guard()
    agent.resume()

    def told() -> list[str]:
        return [line for line in agent.output.splitlines() if line.startswith("renewed ")]

    await until(lambda: len(told()) >= 4, "it has renewed the lease again")
    assert [line.split()[2] for line in told()].count("True") == 2
    await device.only_guard()
    await agent.kill()


@mostly_userspace
async def test_a_living_agent_keeps_its_peers(device: Guarded) -> None:
    """Over several leases nobody is cut off, and the same guard guards."""
    agent = await device.agent(PERIOD)
    first = (await keeping(agent))[1]
    count = await until(
        lambda: (found := agent.output.count("renewed ")) >= 4 and found, "four renewals"
    )
    assert agent.output.count(f"renewed {first} False") == int(count) - 1
    assert await device.peers() == 2
    await agent.kill()


@mostly_userspace
async def test_the_next_agent_takes_over_guard_and_lease(device: Guarded) -> None:
    """A lease that did not run out says so, the peers stay, and there is one guard."""
    agent = await device.agent(3600)
    first = (await keeping(agent))[1]
    await agent.kill()
    successor = await device.agent(7200)
    assert await keeping(successor) == ["renewed", first, "False"]
    assert await device.peers() == 2
    assert str((await device.only_guard()).pid) == first
    assert device.lease.until > leases.boottime() + 3600
    await successor.kill()


@only_userspace
async def test_another_device_of_the_name_is_not_touched(device: Guarded) -> None:
    """Its guard ends with the device that it was for; whoever has the name now keeps its peers."""
    await device.bring()
    guardian = Guardian(device.backend.name, device.directory)
    await guardian.watch(device.target, asyncio.get_running_loop().time() + PERIOD)
    old = device.target
    assert isinstance(old, UserspaceTarget)
    owner = Process(old.pid, old.started)
    owner.signal(signal.SIGKILL)
    await until(lambda: not owner.alive, "the first device is dead")
    await device.bring()
    assert device.target != old
    await device.no_guard()
    assert device.lease == Lease(old, device.lease.until, NOBODY)
    assert await device.peers() == 2


# -- the process


@only_userspace
async def test_what_the_guard_has(device: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Little memory, a session of its own, no file, secret or directory of the agent."""
    monkeypatch.setenv("API_TOKEN", "secret")
    await device.bring()
    guardian = Guardian(device.backend.name, device.directory)
    await guardian.watch(device.target, asyncio.get_running_loop().time() + 3600)
    found = await device.only_guard()
    base = Path(f"/proc/{found.pid}")
    await until(lambda: (base / "cwd").readlink() == Path("/"), "the guard guards")
    (memory,) = [
        int(line.split()[1]) * 1024
        for line in (base / "status").read_text().splitlines()
        if line.startswith("VmRSS:")
    ]
    assert memory < MOST_MEMORY
    assert os.getsid(found.pid) == found.pid != os.getsid(0)
    names = {line.partition("=")[0] for line in (base / "environ").read_text().split("\0")}
    assert names == {"PATH", "LC_ALL", ""}
    assert device.private_key.reveal() not in " ".join(found.command)

    def files() -> list[str]:
        return sorted(str(file.readlink()) for file in (base / "fd").iterdir())

    await until(lambda: files() == ["/dev/null"] * 3, "it has nothing open while it sleeps")


@only_userspace
async def test_the_package_may_be_taken_away(device: Guarded, tmp_path: Path) -> None:
    """An upgrade under a guard that sleeps does not keep it from acting."""
    copy = tmp_path / "copy"
    source = Path(guard.__file__).parents[1]
    shutil.copytree(source, copy / "dstack_vpn", ignore=shutil.ignore_patterns("__pycache__"))
    await device.bring()
    code = f"import sys; sys.path.append({str(copy)!r}); from dstack_vpn.wireguard.guard import *"
    with leases.opened(device.path, create=True) as file:
        started = process.spawn(
            (sys.executable, "-I", "-S", "-c", f"{code}; main(sys.argv[1])", device.path),
            clean_environment(),
        )
        assert started is not None
        name = Guard(started.pid, started.started)
        leases.write(file, Lease(device.target, leases.boottime() + PERIOD, name))
    await until(lambda: Path(f"/proc/{name.pid}/cwd").readlink() == Path("/"), "it is loaded")
    shutil.rmtree(copy)
    await device.emptied()


@only_userspace
async def test_a_guard_that_the_lease_does_not_name_ends(device: Guarded) -> None:
    """Of two guards one is left: the one that the agent wrote down last."""
    await device.bring()
    write(device.path, device.target, leases.boottime() - 1, NOBODY)
    await asyncio.to_thread(guard.watch, device.path, me())
    assert await device.peers() == 2


@only_userspace
async def test_an_agent_stopped_with_the_file_in_its_hands(
    device: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who holds the lock for ever keeps nobody in."""
    monkeypatch.setattr(leases, "PATIENCE", 0.05)
    await device.bring()
    write(device.path, device.target, leases.boottime() - 1, me())
    with leases.opened(device.path):
        await asyncio.to_thread(guard.watch, device.path, me())
    assert await device.peers() == 0


@only_userspace
async def test_a_mute_device_is_ended_as_the_last_resort(
    device: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Peers that cannot be taken off go with their process."""
    monkeypatch.setattr(cutoff, "TIMEOUT", 0.05)
    monkeypatch.setattr(guard, "LONGEST_PAUSE", 0.05)
    await device.bring()
    target = device.target
    assert isinstance(target, UserspaceTarget)
    owner = Process(target.pid, target.started)
    owner.signal(signal.SIGSTOP)
    write(device.path, target, leases.boottime() - 1, me())
    await asyncio.to_thread(guard.watch, device.path, me())
    await until(lambda: not owner.alive, "wireguard-go is gone")


def me() -> Guard:
    """This very process, as a guard."""
    found = Process.of(os.getpid())
    assert found is not None
    return Guard(found.pid, found.started)


# -- time, of a machine that is made of numbers


@dataclass
class Machine:
    """A clock and a device; `script` says what happens when the guard has slept so often."""

    path: str
    now: float = 100.0
    answers: list[bool] = field(default_factory=lambda: [True])
    script: dict[int, float | Lease | bytes | str] = field(default_factory=dict)
    asked: list[float] = field(default_factory=list)
    killed: list[float] = field(default_factory=list)
    sleeps: list[float] = field(default_factory=list)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the guard live on it."""
        monkeypatch.setattr(leases, "boottime", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)
        monkeypatch.setattr(cutoff, "is_there", lambda _: not self.killed)
        monkeypatch.setattr(cutoff, "remove_all_peers", self.ask)
        monkeypatch.setattr(cutoff, "end", lambda _: self.killed.append(self.now))

    def sleep(self, seconds: float) -> None:
        """Sleep, and have happen what happens then."""
        self.now += seconds
        self.sleeps.append(seconds)
        match self.script.get(len(self.sleeps)):
            case float() as suspended:
                self.now += suspended
            case Lease() as lease:
                write(self.path, lease.target, lease.until, lease.guard)
            case bytes() as garbage:
                Path(self.path).write_bytes(garbage)
            case str():
                Path(self.path).unlink()

    def ask(self, _: Target) -> bool:
        """Take the peers off, or do not answer."""
        self.asked.append(self.now)
        return self.answers.pop(0) if self.answers else False


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine at 100 s after its boot."""
    made = Machine(str(tmp_path / "wg0.lease"))
    made.install(monkeypatch)
    return made


GONE = "gone"
GO = UserspaceTarget("wg0", "/run/wg0.sock", 7, 99)
KERNEL = KernelTarget("wg0", 3)


def run(machine: Machine, ends: float, target: Target = GO) -> None:
    """Guard a lease that ends at an instant."""
    write(machine.path, target, ends, Guard(1, 2))
    guard.watch(machine.path, Guard(1, 2))


def test_it_acts_at_the_end_and_not_before(machine: Machine) -> None:
    """To the moment, and it looks at the lease on the way."""
    run(machine, 125.0)
    assert machine.asked == [125.0]
    assert machine.sleeps == [10.0, 10.0, 5.0]
    lease = leases.peek(machine.path)
    assert lease is not None
    assert lease.guard == NOBODY


def test_the_time_of_suspension_counts(machine: Machine) -> None:
    """It acts when it wakes in a machine that slept for longer than the lease."""
    machine.script[1] = 86400.0
    run(machine, 125.0)
    assert machine.asked == [100.0 + 10 + 86400]


def test_what_is_renewed_is_waited_for(machine: Machine) -> None:
    """Also at the last moment."""
    machine.script[3] = Lease(GO, 140.0, Guard(1, 2))
    run(machine, 125.0)
    assert machine.asked == [140.0]


def test_an_earlier_end_is_heeded(machine: Machine) -> None:
    """A lease that was cut short ends as it says, as soon as the guard looks."""
    machine.script[1] = Lease(GO, 111.0, Guard(1, 2))
    run(machine, 86400.0)
    assert machine.asked == [111.0]


@pytest.mark.parametrize("garbage", [b"", b"\0" * leases.SIZE, b"boot=\nuntil=9e9"])
def test_what_makes_no_sense_renews_nothing(machine: Machine, garbage: bytes) -> None:
    """Otherwise whoever damages the file would have all peers stay: the last lease counts."""
    machine.script[1] = garbage
    run(machine, 125.0)
    assert machine.asked == [125.0]


def test_a_lease_that_is_gone_renews_nothing(machine: Machine) -> None:
    """A state directory that was emptied under a dead agent keeps nobody in."""
    machine.script[1] = GONE
    run(machine, 125.0)
    assert machine.asked == [125.0]
    assert not Path(machine.path).exists()


def test_without_a_lease_there_is_nothing_to_guard(machine: Machine) -> None:
    """It was told of no device, so it ends."""
    guard.watch(machine.path, Guard(1, 2))
    Path(machine.path).write_bytes(b"\0" * leases.SIZE)
    guard.watch(machine.path, Guard(1, 2))
    assert (machine.asked, machine.sleeps) == ([], [])


def test_a_device_that_is_slow_to_answer(machine: Machine) -> None:
    """It is asked again, with growing pauses, and left alone when it has done it."""
    machine.answers = [False, False, True]
    run(machine, 100.0)
    assert machine.asked == [100.0, 101.0, 103.0]
    assert machine.killed == []


def test_a_device_that_never_answers(machine: Machine) -> None:
    """After the last try its process is killed."""
    machine.answers = []
    run(machine, 100.0)
    assert len(machine.asked) == TRIES
    assert machine.killed == [machine.asked[-1]]


def test_a_kernel_that_refuses_is_asked_for_ever(machine: Machine) -> None:
    """There is no process to be killed; the pauses stay bounded."""
    machine.answers = [False] * 50 + [True]
    run(machine, 100.0, KERNEL)
    assert len(machine.asked) == 51
    assert max(machine.sleeps) == LONGEST_PAUSE


def test_an_agent_that_comes_back_ends_the_tries(machine: Machine) -> None:
    """A mute device whose lease was renewed is not killed; the tries begin anew."""
    machine.answers = [False] * (TRIES - 1)
    machine.script[TRIES - 1] = Lease(GO, 1000.0, Guard(1, 2))
    run(machine, 100.0)
    assert machine.killed == [machine.asked[-1]]
    assert len(machine.asked) == 2 * TRIES - 1
    assert machine.asked[TRIES - 1] == 1000.0


@patient
@given(st.floats(-1e6, 1e9), st.integers(0, 10**6))
def test_pauses(left: float, tries: int) -> None:
    """Never negative, never long, and never beyond the end of the lease."""
    seconds = pause(left, tries)
    assert 0 <= seconds <= LONGEST_PAUSE
    if tries == 0:
        assert seconds <= max(left, 0)
