"""Whose device of the kernel is it: on Linux itself where it has WireGuard, and with its double."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from dstack_vpn.errors import DeviceError, HostError
from dstack_vpn.mesh.diff import diff
from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.wireguard import genetlink, link
from dstack_vpn.wireguard.kernel import AddLink, KernelDevice
from lab.fixtures import need_kernel_wireguard, need_lab
from lab.process import run
from wireguard.kernel_double import KernelDouble
from wireguard.samples import adding, device, peer, unique_name
from wireguard.seeing import begin, look

PRIVATE_KEY = PrivateKey.generate()
OTHER_KEY = PrivateKey.generate()

SOURCE = Path(__file__).parents[2] / "src"

Make = Callable[..., KernelDevice]


@pytest_asyncio.fixture
async def name() -> AsyncIterator[str]:
    """A free interface name, in a lab; the interface is taken down afterwards."""
    need_lab()
    free = unique_name()
    yield free
    if link.exists(free):
        await link.delete(free)


@pytest.fixture
def note(tmp_path: Path) -> Path:
    """Where the agent keeps its note."""
    return tmp_path / "state/marker.kernel"


@pytest.fixture(params=["kernel", "kernel-double"])
def double(request: pytest.FixtureRequest) -> KernelDouble | None:
    """What stands for the kernel; None where it is there itself."""
    if request.param == "kernel-double":
        return KernelDouble()
    need_lab()
    need_kernel_wireguard()
    return None


@pytest.fixture
def add_link(double: KernelDouble | None) -> AddLink:
    """How somebody makes an interface of the kernel's WireGuard."""
    return link.add_wireguard if double is None else double.add_link


@pytest.fixture
def make(name: str, note: Path, double: KernelDouble | None, add_link: AddLink) -> Make:
    """Make the agent's side of the device anew, as a restarted agent does."""
    dial = genetlink.dial if double is None else double.dial

    def agent(
        private_key: PrivateKey = PRIVATE_KEY, *, add_link: AddLink = add_link
    ) -> KernelDevice:
        return KernelDevice(name, private_key, marker_path=note, dial=dial, add_link=add_link)

    return agent


def noted(note: Path) -> Any:
    """What the note says; None when there is none."""
    return json.loads(note.read_text()) if note.exists() else None


def forge(note: Path, text: str) -> None:
    """Put something else in the note's place."""
    note.write_text(text)


async def test_our_key_is_proof(make: Make, note: Path) -> None:
    """A device with our public key is adopted, its peers stay, and it is noted again."""
    before = await begin(make())
    forge(note, "{}")
    again = make()
    await again.create()
    assert await again.seen() == before
    assert noted(note)["index"] == link.index(again.name)


async def test_our_note_is_proof(make: Make) -> None:
    """After the node's key was changed the device is still ours, by its interface's number."""
    await begin(make(OTHER_KEY))
    again = make()
    seen = await look(again)
    assert seen.public_key == OTHER_KEY.public
    wanted = device(PRIVATE_KEY, peer(1), name=again.name)
    await again.apply(diff(wanted, seen))
    assert (await look(make())).public_key == PRIVATE_KEY.public


async def test_a_device_without_key_is_ours_if_we_were_about_to_make_it(
    make: Make, add_link: AddLink, note: Path
) -> None:
    """An agent that ends right after it made the interface has not yet noted its number."""

    async def end(name: str) -> None:
        await add_link(name)
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await make(add_link=end).create()
    assert noted(note)["index"] is None
    again = make()
    await again.create()
    assert (await look(again)).public_key is None
    assert noted(note)["index"] == link.index(again.name)


async def test_a_device_that_somebody_gave_a_key_is_not_what_we_were_about_to_make(
    make: Make, note: Path
) -> None:
    """Another program may have been faster."""
    await begin(make(OTHER_KEY))
    forge(note, json.dumps(noted(note) | {"index": None}))
    with pytest.raises(HostError, match="another key"):
        await make().create()


async def test_a_note_says_where_its_numbers_hold(make: Make, note: Path) -> None:
    """This boot, and this network namespace, which has a number of its own."""
    await make().create()
    here = noted(note)
    boot = (await run("cat", "/proc/sys/kernel/random/boot_id")).out.strip()
    assert (here["boot"], here["interface"]) == (boot, make().name)
    ask = "from dstack_vpn.wireguard import kernelclaim as k; print(k._network_namespace())"
    numbers = [
        int((await run(*before, sys.executable, "-c", ask, env={"PYTHONPATH": str(SOURCE)})).out)
        for before in ((), ("unshare", "--net"))
    ]
    assert numbers[0] == here["network"]
    assert len({0, *numbers}) == 3


async def test_a_device_without_key_or_note_is_not_ours(
    make: Make, add_link: AddLink, name: str
) -> None:
    """Somebody may be about to give it theirs."""
    await add_link(name)
    with pytest.raises(HostError, match="taken by a WireGuard device with another key"):
        await make().create()


FORGED = {
    "another boot": {"boot": "8a1f0c6e-0000-0000-0000-000000000000"},
    "another network": {"network": 1},
    "another interface": {"interface": "wg9"},
    "another number": {"index": 1},
}


@pytest.mark.parametrize("what", FORGED)
async def test_a_note_of_elsewhere_proves_nothing(make: Make, note: Path, what: str) -> None:
    """Numbers of interfaces are given again after a boot, and in each network namespace."""
    await begin(make(OTHER_KEY))
    forge(note, json.dumps(noted(note) | FORGED[what]))
    with pytest.raises(HostError, match="another key"):
        await make().seen()


@pytest.mark.parametrize("text", ["", "[]", "7", '{"interface": "wg0"}', "\0", '{"a": 1}'])
async def test_a_damaged_note_proves_nothing(make: Make, note: Path, text: str) -> None:
    """It is reported, and the key decides."""
    await begin(make())
    forge(note, text)
    with capture_logs() as logs:
        await make().seen()
        forge(note, text)
        with pytest.raises(HostError, match="another key"):
            await make(OTHER_KEY).seen()
    assert {"marker.unreadable"} == {entry["event"] for entry in logs}


async def test_a_note_that_cannot_be_written_is_reported(make: Make, note: Path) -> None:
    """The key is proof enough; the device works."""
    note.parent.write_text("a file where a directory should be")
    with capture_logs() as logs:
        await begin(make())
    assert "marker.not_written" in {entry["event"] for entry in logs}
    assert len((await look(make())).peers) == 2


async def test_somebody_elses_device_is_left_alone(make: Make, note: Path) -> None:
    """No method changes it, and each but destroy says so."""
    before = await begin(make(OTHER_KEY))
    forge(note, "{}")
    ours = make()
    change = adding(ours.name, peer(3))
    for attempt in (ours.seen(), ours.create(), ours.apply(change)):
        with pytest.raises(HostError, match="set another WG_INTERFACE"):
            await attempt
    with capture_logs() as logs:
        await ours.destroy()
    assert "device.not_ours" in {entry["event"] for entry in logs}
    assert await make(OTHER_KEY).seen() == before


async def test_an_interface_of_another_kind_is_left_alone(make: Make, name: str) -> None:
    """A bridge, or the TUN device of a userspace WireGuard."""
    await run("ip", "link", "add", "dev", name, "type", "bridge")
    ours = make()
    for attempt in (ours.seen(), ours.create()):
        with pytest.raises(HostError, match="no WireGuard of the kernel"):
            await attempt
    with pytest.raises(DeviceError, match="is gone"):
        await ours.apply(adding(name, peer(1)))
    await ours.destroy()
    assert link.exists(name)
