"""Whose device is it, and what becomes of it when something dies: wireguard-go for real."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import pytest_asyncio

from dstack_vpn.errors import DeviceError, HostError
from dstack_vpn.mesh.device import DeviceChange
from dstack_vpn.mesh.diff import diff
from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.wireguard import channel, claim, link, process
from dstack_vpn.wireguard import marker as notes
from dstack_vpn.wireguard.channel import connect
from dstack_vpn.wireguard.claim import SOCKETS
from dstack_vpn.wireguard.conffile import write_private
from dstack_vpn.wireguard.marker import Marker
from dstack_vpn.wireguard.process import Process
from dstack_vpn.wireguard.userspace import UserspaceDevice
from lab.fixtures import need_lab
from lab.process import run
from lab.waiting import until
from wireguard.samples import adding, device, peer, unique_name
from wireguard.seeing import begin, look

PRIVATE_KEY = PrivateKey.generate()
OTHER_KEY = PrivateKey.generate()

Make = Callable[..., UserspaceDevice]


@pytest.fixture
def name() -> str:
    """A free interface name, in a lab."""
    need_lab()
    return unique_name()


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Where the agent keeps its marker."""
    return tmp_path / "state/marker"


@pytest_asyncio.fixture
async def make(name: str, marker: Path) -> AsyncIterator[Make]:
    """Make the agent's side of the device anew, as a restarted agent does; ends what is left."""

    def agent(private_key: PrivateKey = PRIVATE_KEY, *, at: Path = marker) -> UserspaceDevice:
        return UserspaceDevice(name, private_key, marker_path=at)

    yield agent
    owner = await owner_of(name)
    if owner is not None:
        owner.signal(signal.SIGCONT)
        owner.signal(signal.SIGKILL)
        await until(lambda: not owner.alive, "the device's process is gone")


def socket_of(name: str) -> Path:
    """The control socket."""
    return SOCKETS / f"{name}.sock"


async def owner_of(name: str) -> Process | None:
    """Who listens on the control socket, if anybody does."""
    async with connect(name, socket_of(name)) as found:
        return None if found is None else Process.of(found.pid)


async def must_own(name: str) -> Process:
    """Who listens on the control socket."""
    owner = await owner_of(name)
    assert owner is not None
    return owner


@contextmanager
def foreign(*argv: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program of somebody else."""
    started = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield started
    finally:
        started.kill()
        started.wait()


# -- the process


async def test_the_process_has_nothing_of_the_agent(
    name: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session of its own, /dev/null for its streams, no open file and no secret of ours."""
    monkeypatch.setenv("API_TOKEN", "secret")
    left_to_us = os.pipe()
    for file in left_to_us:
        os.set_inheritable(file, True)
    try:
        await make().create()
    finally:
        for file in left_to_us:
            os.set_inheritable(file, False)
    owner = await must_own(name)
    assert os.getsid(owner.pid) == owner.pid != os.getsid(0)
    theirs = files_of(owner.pid)
    assert [theirs[number] for number in range(3)] == ["/dev/null"] * 3
    shared = set(theirs.values()) & set(files_of(os.getpid()).values())
    assert not {file for file in shared if file.startswith(("socket:", "pipe:"))}
    for file in left_to_us:
        os.close(file)
    names = {line.partition("=")[0] for line in read(f"/proc/{owner.pid}/environ").split("\0")}
    assert names == {"PATH", "LC_ALL", "LOG_LEVEL", "WG_PROCESS_FOREGROUND", ""}


def files_of(pid: int) -> dict[int, str]:
    """What a process has open."""
    files = {}
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            files[int(path.name)] = str(path.readlink())
    return files


def read(path: str | Path) -> str:
    """The text of a file."""
    return Path(path).read_text()


def there(path: Path) -> bool:
    """Whether a file is there."""
    return path.exists()


async def test_destroy_leaves_nothing(name: str, make: Make, marker: Path) -> None:
    """No process, no interface, no socket, no marker."""
    made = make()
    await begin(made)
    owner = await must_own(name)
    await made.destroy()
    assert not owner.alive
    assert not link.exists(name)
    assert not there(socket_of(name))
    assert not there(marker)


async def test_destroy_works_after_adoption_without_a_marker(
    name: str, make: Make, marker: Path
) -> None:
    """The process is found by its socket, whoever started it."""
    await begin(make())
    owner = await must_own(name)
    notes.remove(marker)
    await make().destroy()
    assert not owner.alive
    assert not link.exists(name)


def stopped(pid: int) -> bool:
    """Whether no thread of a process runs any more (SIGSTOP)."""
    stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)


async def test_a_process_that_does_not_listen_to_reason_is_killed(
    name: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that is stopped in its tracks is ended all the same, by its marker."""
    monkeypatch.setattr(process, "PATIENCE", 0.2)
    monkeypatch.setattr(channel, "TIMEOUT", 0.2)
    made = make()
    await begin(made)
    owner = await must_own(name)
    owner.signal(signal.SIGSTOP)
    # The signal is there at once; each thread notices when it runs next.
    await until(lambda: stopped(owner.pid), "the device is stopped")
    with pytest.raises(DeviceError, match=f"{name} did not answer within"):
        await made.seen()
    await make().destroy()
    assert not owner.alive
    assert not link.exists(name)


# -- adoption


async def test_a_device_with_our_key_is_adopted(name: str, make: Make, marker: Path) -> None:
    """Its peers stay, its process goes on, and a lost marker is written again."""
    before = await begin(make())
    owner = await must_own(name)
    notes.remove(marker)
    again = make()
    await again.create()
    assert await again.seen() == before
    assert await must_own(name) == owner
    note = notes.read(marker)
    assert note is not None
    assert note.process == owner


async def test_a_device_without_a_key_is_adopted_by_its_marker(name: str, make: Make) -> None:
    """The agent was killed between starting the process and giving it the key."""
    await make().create()
    owner = await must_own(name)
    await make().create()
    assert await must_own(name) == owner
    assert (await look(make())).public_key is None


async def test_a_device_is_adopted_by_a_marker_that_was_not_completed(
    name: str, make: Make, marker: Path
) -> None:
    """The agent was killed between starting the process and writing down which it was."""
    notes.write(marker, Marker.now(name))
    note = read(marker)
    await make(at=marker.with_name("other")).create()
    assert read(marker) == note
    await make().create()
    completed = notes.read(marker)
    assert completed is not None
    assert completed.process == await must_own(name)


async def test_a_device_with_our_former_key_is_adopted_by_its_marker(name: str, make: Make) -> None:
    """A node that got a new key takes over its device and gives it the key."""
    await begin(make(OTHER_KEY))
    owner = await must_own(name)
    seen = await begin(make())
    assert seen.public_key == PRIVATE_KEY.public
    assert await must_own(name) == owner


async def test_a_marker_of_another_boot_or_process_proves_nothing(
    name: str, make: Make, marker: Path
) -> None:
    """A pid alone is no proof, nor is a note of before the process was started."""
    await begin(make(OTHER_KEY))
    owner = await must_own(name)
    good = Marker.now(name, owner)
    cases = [
        Marker(interface=name, boot="another", since=good.since, process=owner),
        Marker(interface="wg9", boot=good.boot, since=good.since, process=owner),
        Marker.now(name, Process(owner.pid, owner.started + 1)),
        Marker.now(name, Process.of(os.getpid())),
        Marker.now(name),  # it has a key, which we did not give it
    ]
    for case in cases:
        notes.write(marker, case)
        with pytest.raises(HostError, match=f"{name} is taken"):
            await make().seen()
    write_private(marker, '{"interface": "wg0"')
    with pytest.raises(HostError, match=f"{name} is taken"):
        await make().seen()
    assert owner.alive


# -- somebody else's


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for what will never come takes its whole time at each call: shorten it."""
    monkeypatch.setattr(claim, "SETTLE_TIMEOUT", 0.1)


async def untouched(name: str, made: UserspaceDevice, words: str) -> None:
    """Every method leaves the interface alone and says so, destroy in silence."""
    before = (await run("ip", "-o", "link", "show", "dev", name)).out
    wanted = diff(device(PRIVATE_KEY, peer(1), name=name, addresses=("10.9.0.1/24",)), None)
    for attempt in (made.seen, made.create, lambda: made.apply(wanted)):
        with pytest.raises(HostError, match=words) as refused:
            await attempt()
        assert refused.value.exit_code == 2
    await made.destroy()
    assert (await run("ip", "-o", "link", "show", "dev", name)).out == before


async def test_a_foreign_wireguard_device_is_left_alone(
    name: str, make: Make, tmp_path: Path
) -> None:
    """A device of the same name with another key has its owner."""
    theirs = UserspaceDevice(name, OTHER_KEY, marker_path=tmp_path / "theirs")
    before = await begin(theirs)
    await untouched(name, make(), f"interface {name} is taken by a WireGuard device with another")
    assert await theirs.seen() == before
    await theirs.destroy()


async def test_a_foreign_device_without_a_key_is_left_alone(
    name: str, make: Make, tmp_path: Path
) -> None:
    """Without our marker, no key is no proof."""
    theirs = UserspaceDevice(name, OTHER_KEY, marker_path=tmp_path / "theirs")
    await theirs.create()
    await untouched(name, make(), f"interface {name} is taken")
    await theirs.destroy()


@pytest.mark.usefixtures("soon")
async def test_an_interface_of_another_kind_is_left_alone(name: str, make: Make) -> None:
    """A name that a bridge, a VPN or the kernel's WireGuard has is taken."""
    await run("ip", "link", "add", name, "type", "bridge")
    try:
        await untouched(name, make(), f"interface {name} is taken by another program")
    finally:
        await run("ip", "link", "delete", name)


@pytest.mark.usefixtures("soon")
async def test_a_device_in_another_network_namespace_is_left_alone(name: str, make: Make) -> None:
    """Sockets are named alike in all namespaces that share /run; the process tells them apart."""
    with foreign("unshare", "--net", "wireguard-go", "-f", name):
        await until(socket_of(name).is_socket, "the foreign device listens")
        made = make()
        for attempt in (made.seen, made.create):
            with pytest.raises(HostError, match="in another network namespace"):
                await attempt()
        await made.destroy()
        assert await owner_of(name) is not None


# -- what may happen to it


async def test_a_device_whose_process_died_is_made_anew(name: str, make: Make) -> None:
    """SIGKILL leaves a stale socket and no interface: there is no device, and create makes one."""
    made = make()
    await begin(made)
    owner = await must_own(name)
    owner.signal(signal.SIGKILL)
    await until(lambda: not owner.alive, "the process is gone")
    assert there(socket_of(name))
    assert await made.seen() is None
    assert set((await begin(made)).peers) == {peer(1).key, peer(2).key}
    await made.destroy()


async def test_a_change_is_not_made_on_another_device_than_the_one_read(
    name: str, make: Make
) -> None:
    """A device that somebody restarted lacks most of what the change rests on: read it first."""
    made = make()
    port = (await begin(made)).listen_port
    await make().destroy()
    before = await begin(make(), listen_port=port)
    with pytest.raises(DeviceError, match="was replaced"):
        await made.apply(adding(name, peer(3)))
    assert await look(made) == before
    await made.apply(adding(name, peer(3)))
    assert len((await look(made)).peers) == 3


async def test_an_interface_deleted_by_hand_comes_back(name: str, make: Make) -> None:
    """Deleting the interface ends its process; create waits for that and makes another."""
    made = make()
    await begin(made)
    await run("ip", "link", "delete", name)
    assert await made.seen() is None
    assert len((await begin(made)).peers) == 2


async def test_a_device_without_its_socket_is_replaced(name: str, make: Make) -> None:
    """A device that cannot be told of a revocation may not go on; the marker says which it is."""
    made = make()
    await begin(made)
    owner = await must_own(name)
    socket_of(name).unlink()
    assert await made.seen() is None
    await made.create()
    assert not owner.alive
    assert dict((await look(made)).peers) == {}


async def test_a_link_taken_down_by_hand_comes_up_again(name: str, make: Make) -> None:
    """The next diff says so, and the device has its socket afterwards."""
    made = make()
    before = await begin(made)
    await run("ip", "link", "set", name, "down")
    seen = await look(made)
    assert not seen.up
    again = await begin(made)
    assert again == before
    assert (await must_own(name)).holds_udp_port(again.listen_port)


async def test_a_taken_port_is_said_and_tried_again(name: str, make: Make) -> None:
    """A port that another program has is an error; once it is free the same change succeeds."""
    made = make()
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as taken:
        taken.bind(("::", 0))
        port = taken.getsockname()[1]
        for _ in range(2):
            with pytest.raises(
                DeviceError, match=f"cannot listen on UDP port {port} .*Address already in use"
            ):
                await begin(made, listen_port=port)
    seen = await begin(made, listen_port=port)
    assert seen.listen_port == port
    assert (await must_own(name)).holds_udp_port(port)


async def test_a_taken_port_leaves_the_device_its_own(name: str, make: Make) -> None:
    """It goes on with the very socket that it has; its own port given again is no conflict."""
    made = make()
    old = (await begin(made)).listen_port
    owner = await must_own(name)
    before = sockets(owner, old)
    assert before
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("", 0))
        port = taken.getsockname()[1]
        with pytest.raises(DeviceError, match=f"cannot listen on UDP port {port} "):
            await made.apply(DeviceChange(name=name, listen_port=port))
        assert (await look(made)).listen_port == old
        assert sockets(owner, old) == before
    await made.apply(DeviceChange(name=name, listen_port=old))
    assert (await look(made)).listen_port == old
    assert owner.holds_udp_port(old)


def sockets(owner: Process, port: int) -> set[str]:
    """The UDP sockets of a process's network that are on a port, by their numbers."""
    lines = [
        line.split()
        for table in ("udp", "udp6")
        for line in Path(f"/proc/{owner.pid}/net/{table}").read_text().splitlines()[1:]
    ]
    return {fields[9] for fields in lines if int(fields[1].rpartition(":")[2], 16) == port}


async def test_a_removal_is_not_held_up_by_a_taken_port(make: Make) -> None:
    """Whatever else fails, the peers to be removed are gone."""
    made = make()
    await begin(made)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as taken:
        taken.bind(("::", 0))
        port = taken.getsockname()[1]
        wanted = device(PRIVATE_KEY, peer(3), name=made.name, listen_port=port)
        with pytest.raises(DeviceError, match="cannot listen"):
            await made.apply(diff(wanted, await made.seen()))
        assert dict((await look(made)).peers) == {}
    await made.apply(diff(wanted, await made.seen()))
    assert not diff(wanted, await made.seen())


async def test_a_tool_that_holds_the_lock_is_waited_for_in_vain(
    name: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who stops in the middle of a set blocks the device: an error in time, then over."""
    monkeypatch.setattr(channel, "TIMEOUT", 0.2)
    made = make()
    before = await begin(made)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stalled:
        stalled.connect(str(socket_of(name)))
        stalled.sendall(b"set=1\n")
        await asyncio.sleep(0.05)
        with pytest.raises(DeviceError, match="did not answer"):
            await made.seen()
    assert await made.seen() == before


async def test_a_full_disk_does_not_stop_the_device(name: str, make: Make) -> None:
    """Without a marker the key is the proof; destroy works as well."""
    made = make(at=Path("/proc/no-such-directory/marker"))
    await begin(made)
    owner = await must_own(name)
    again = make(at=Path("/proc/no-such-directory/marker"))
    assert len((await look(again)).peers) == 2
    await again.destroy()
    assert not owner.alive


async def test_many_devices_side_by_side(tmp_path: Path) -> None:
    """Devices of one agent do not get into each other's way."""
    need_lab()
    made = [
        UserspaceDevice(unique_name(), PrivateKey.generate(), marker_path=tmp_path / f"marker-{n}")
        for n in range(4)
    ]
    seen = await asyncio.gather(*map(begin, made))
    assert len({one.listen_port for one in seen}) == len({one.public_key for one in seen}) == 4
    await asyncio.gather(*(one.destroy() for one in made))


@pytest.mark.parametrize("bad", ["", ".", "..", "a/b", "sixteen-letters-", "a b", "a\nb", "-é"])
def test_a_bad_name_is_refused(bad: str, tmp_path: Path) -> None:
    """What Linux takes for no interface name is no name for a device either."""
    with pytest.raises(ValueError, match="no interface name"):
        UserspaceDevice(bad, PRIVATE_KEY, marker_path=tmp_path / "marker")


async def test_a_program_that_ends_at_once_is_said(name: str, marker: Path) -> None:
    """Where every step works when we try it, only the end itself can be reported."""
    false = shutil.which("false")
    assert false is not None
    made = UserspaceDevice(name, PRIVATE_KEY, marker_path=marker, program=false)
    with pytest.raises(DeviceError, match="ended while it started"):
        await made.create()
    assert not there(marker)
    assert not link.exists(name)
