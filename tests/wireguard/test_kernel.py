"""A device of the kernel, and what becomes of it when something refuses or changes it."""

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from dstack_vpn.errors import DeviceError, HostError
from dstack_vpn.mesh.device import DeviceChange
from dstack_vpn.mesh.diff import diff
from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.wireguard import genetlink, link
from dstack_vpn.wireguard.kernel import TRIES, KernelDevice
from lab.fixtures import need_lab
from lab.waiting import until
from wireguard.kernel_double import KernelDouble
from wireguard.samples import adding, device, key, peer, unique_name
from wireguard.seeing import begin, look

PRIVATE_KEY = PrivateKey.generate()
OTHER_KEY = PrivateKey.generate()

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
def kernel() -> KernelDouble:
    """The kernel's side."""
    return KernelDouble()


@pytest.fixture
def note(tmp_path: Path) -> Path:
    """Where the agent keeps its note."""
    return tmp_path / "state/marker.kernel"


@pytest.fixture
def make(name: str, kernel: KernelDouble, note: Path) -> Make:
    """Make the agent's side of the device anew, as a restarted agent does."""

    def agent(private_key: PrivateKey = PRIVATE_KEY) -> KernelDevice:
        return KernelDevice(
            name,
            private_key,
            marker_path=note,
            dial=kernel.dial,
            add_link=kernel.add_link,
            why_taken=kernel.why_taken,
        )

    return agent


async def test_what_the_kernel_has_not_is_said(make: Make, kernel: KernelDouble) -> None:
    """A sentence that names the setting; where nothing is, nothing is seen."""
    kernel.has_wireguard = False
    ours = make()
    assert await ours.seen() is None
    await ours.destroy()
    with pytest.raises(HostError, match="set WIREGUARD_BACKEND to auto or userspace"):
        await ours.create()


async def test_an_interface_that_cannot_be_made_leaves_no_note(
    name: str, kernel: KernelDouble, note: Path
) -> None:
    """A keyless device of that name that comes later is not ours."""

    async def refuse(_: str) -> None:
        raise DeviceError("ip link add failed: Error: Unknown device type.")

    ours = KernelDevice(name, PRIVATE_KEY, marker_path=note, dial=kernel.dial, add_link=refuse)
    with pytest.raises(DeviceError, match="Unknown device type"):
        await ours.create()
    assert list(note.parent.glob("*")) == []


async def test_a_missing_right_is_said(make: Make, kernel: KernelDouble) -> None:
    """And nothing else is tried."""
    ours = make()
    await begin(ours)
    kernel.may = False
    for attempt in (ours.seen(), ours.create(), ours.apply(adding(ours.name, peer(3)))):
        with pytest.raises(HostError, match="capability NET_ADMIN"):
            await attempt
    with capture_logs() as logs:
        await ours.destroy()
    assert [entry["event"] for entry in logs] == ["device.not_ours"]
    assert link.exists(ours.name)


async def test_a_device_that_took_the_place_of_ours_gets_no_change(
    make: Make, kernel: KernelDouble
) -> None:
    """A change rests on what was read; the new device is ours, but not that one."""
    ours = make()
    await begin(ours)
    await link.delete(ours.name)
    await begin(make())
    with pytest.raises(DeviceError, match="it was replaced"):
        await ours.apply(adding(ours.name, peer(3)))
    assert key(3) not in (await look(ours)).peers
    await ours.apply(adding(ours.name, peer(3)))
    assert key(3) in (await look(ours)).peers


@pytest.mark.parametrize("change", [adding("", peer(3)), DeviceChange(name="", set_key=True)])
async def test_a_device_that_goes_in_the_middle_is_gone(
    make: Make, kernel: KernelDouble, change: DeviceChange
) -> None:
    """Between two messages of one change somebody may delete the interface."""
    ours = make()
    await begin(ours)
    kernel.refusal = errno.ENODEV, ""
    with pytest.raises(DeviceError, match=f"{ours.name} is gone"):
        await ours.apply(replace(change, name=ours.name))


async def test_a_taken_port_is_said(make: Make, kernel: KernelDouble) -> None:
    """Like wireguard-go's: the port and the reason. The key is set all the same."""
    ours = make()
    await ours.create()
    before = await look(ours)
    kernel.taken_ports.add(51820)
    with pytest.raises(DeviceError, match=r"listen on UDP port 51820 \(Address already in use\)"):
        await ours.apply(DeviceChange(name=ours.name, set_key=True, listen_port=51820))
    seen = await look(ours)
    assert (seen.public_key, seen.listen_port) == (PRIVATE_KEY.public, before.listen_port)


async def test_a_port_that_is_known_to_be_taken_is_not_asked_for(
    make: Make, kernel: KernelDouble
) -> None:
    """It is said like the kernel's own refusal; the key is there already. Ours is not another's."""
    ours = make()
    await ours.create()
    kernel.taken = True
    with pytest.raises(DeviceError, match=r"listen on UDP port 51820 \(Address already in use\)"):
        await ours.apply(DeviceChange(name=ours.name, set_key=True, listen_port=51820))
    assert len(kernel.received) == 1
    assert (await look(ours)).public_key == PRIVATE_KEY.public
    kernel.taken = False
    await ours.apply(DeviceChange(name=ours.name, listen_port=51820))
    kernel.taken = True
    await ours.apply(DeviceChange(name=ours.name, listen_port=51820))
    assert (await look(ours)).listen_port == 51820


async def test_what_the_kernel_refuses_keeps_no_other_peer_off(
    make: Make, kernel: KernelDouble
) -> None:
    """The peers of a refused request are sent one by one; the sentence names the refused."""
    ours = make()
    await ours.create()
    kernel.no_memory_for |= {key(2), key(150)}
    many = adding(ours.name, *map(peer, range(1, 201)))
    with pytest.raises(DeviceError) as refused:
        await ours.apply(many)
    assert str(refused.value) == (
        f"{ours.name} refused 2 peers: "
        "node-2 (Cannot allocate memory); node-150 (Cannot allocate memory)"
    )
    assert len((await look(ours)).peers) == 198


async def test_a_key_that_is_refused_is_said(make: Make, kernel: KernelDouble) -> None:
    """Without the key in it."""
    ours = make()
    await ours.create()
    kernel.refusal = errno.EINVAL, "no key"
    with pytest.raises(DeviceError, match=r"refused its settings \(Invalid argument: no key\)"):
        await ours.apply(DeviceChange(name=ours.name, set_key=True))


async def test_a_dump_that_was_interrupted_is_read_again(make: Make, kernel: KernelDouble) -> None:
    """As long as that may help."""
    ours = make()
    before = await begin(ours)
    kernel.interrupted = TRIES - 1
    assert await ours.seen() == before
    kernel.interrupted = TRIES
    with pytest.raises(DeviceError, match="it changes all the time"):
        await ours.seen()


async def test_reading_may_be_given_up(
    make: Make, kernel: KernelDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes after a reading that was cancelled is not disturbed by it."""
    ours = make()
    before = await begin(ours)
    monkeypatch.setattr(genetlink, "TIMEOUT", 0.3)
    with kernel.lock:  # it cannot answer
        async with asyncio.TaskGroup() as tasks:
            asked = kernel.requests
            reading = tasks.create_task(ours.seen())
            await until(lambda: kernel.requests > asked, "it is being asked")
            reading.cancel()
    assert await ours.seen() == before
    with kernel.lock, pytest.raises(DeviceError, match="did not answer within"):
        await ours.seen()
    await ours.apply(adding(ours.name, peer(3)))
    assert key(3) in (await look(ours)).peers


async def test_removals_are_sent_first_and_alone(make: Make, kernel: KernelDouble) -> None:
    """No failure of anything else can delay them."""
    ours = make()
    await begin(ours)
    kernel.received.clear()
    wanted = device(PRIVATE_KEY, peer(2), peer(3), name=ours.name, listen_port=42017)
    await ours.apply(diff(wanted, await ours.seen()))
    first, settings, additions = kernel.received
    assert key(1).raw in first
    assert key(3).raw not in first
    assert PRIVATE_KEY.raw not in b"".join(kernel.received)
    assert key(3).raw in additions
    assert len(settings) < 30


async def test_peers_are_taken_off_before_the_interface(make: Make, kernel: KernelDouble) -> None:
    """Linux deletes an empty interface at once, and one with ten thousand peers in minutes."""
    ours = make()
    await ours.create()
    await ours.apply(adding(ours.name, *map(peer, range(1, 251))))
    (model,) = kernel.devices.values()
    kernel.received.clear()
    await ours.destroy()
    assert not model.peers
    assert len(kernel.received) == 3
    assert not link.exists(ours.name)
