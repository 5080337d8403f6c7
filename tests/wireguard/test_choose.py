"""Which WireGuard carries the packets, for each wish and each device that is there already."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from dstack_vpn.errors import DeviceError, HostError
from dstack_vpn.mesh.diff import diff
from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.wireguard import link
from dstack_vpn.wireguard.backend import Backend
from dstack_vpn.wireguard.choose import open_device
from lab.fixtures import need_kernel_wireguard, need_lab
from lab.process import run
from wireguard.kernel_double import KernelDouble
from wireguard.samples import device, key, peer, unique_name

PRIVATE_KEY = PrivateKey.generate()

Open = Callable[..., Awaitable[Backend]]


@pytest.fixture
def kernel() -> KernelDouble:
    """The kernel's side."""
    return KernelDouble()


@pytest.fixture
def name() -> str:
    """A free interface name, in a lab."""
    need_lab()
    return unique_name()


@pytest_asyncio.fixture
async def wish(name: str, kernel: KernelDouble, tmp_path: Path) -> AsyncIterator[Open]:
    """Choose as a newly started agent does; what is there in the end is taken down."""

    async def choose(backend: str, *, touch: bool = True) -> Backend:
        return await open_device(
            name,
            PRIVATE_KEY,
            marker_path=tmp_path / "marker",
            backend=backend,
            touch=touch,
            dial=kernel.dial,
            add_link=kernel.add_link,
        )

    yield choose
    kernel.has_wireguard = True
    if link.exists(name):
        await (await choose("auto")).destroy()


async def bring(made: Backend) -> None:
    """Create the device and give it our key and a peer."""
    await made.create()
    wanted = device(PRIVATE_KEY, peer(1), name=made.name)
    await made.apply(diff(wanted, await made.seen()))


async def has_our_peer(made: Backend) -> bool:
    """Whether it is the device that `bring` made."""
    seen = await made.seen()
    return seen is not None and key(1) in seen.peers


async def test_the_kernels_own_is_the_best(wish: Open, name: str) -> None:
    """Where the kernel has WireGuard it is used, and the log says so."""
    with capture_logs() as logs:
        chosen = await wish("auto")
    assert chosen.kind == "kernel"
    assert logs[-1] == {
        "event": "device.backend",
        "log_level": "info",
        "device": name,
        "backend": "kernel",
        "reason": "the kernel has WireGuard",
    }


async def test_without_the_kernels_it_is_wireguard_go(wish: Open, kernel: KernelDouble) -> None:
    """The reason is in the log; nothing is made yet."""
    kernel.has_wireguard = False
    with capture_logs() as logs:
        chosen = await wish("auto")
    assert chosen.kind == "userspace"
    assert not link.exists(chosen.name)
    assert str(logs[-1]["reason"]).startswith("the kernel of this machine has no WireGuard")


async def test_what_the_kernel_cannot_make_is_made_by_wireguard_go(
    name: str, kernel: KernelDouble, tmp_path: Path
) -> None:
    """Some kernels know the family, and make no interface of it all the same."""

    async def refuse(_: str) -> None:
        raise DeviceError("ip failed: Error: Unknown device type.")

    with capture_logs() as logs:
        chosen = await open_device(
            name,
            PRIVATE_KEY,
            marker_path=tmp_path / "marker",
            backend="auto",
            dial=kernel.dial,
            add_link=refuse,
        )
    assert chosen.kind == "userspace"
    assert logs[-1]["reason"] == "ip failed: Error: Unknown device type."


@pytest.mark.parametrize("kind", ["kernel", "userspace"])
@pytest.mark.parametrize("again", ["auto", "same"])
async def test_a_device_that_is_there_is_kept(wish: Open, kind: str, again: str) -> None:
    """Its sessions live in it: auto changes nothing that works."""
    before = await wish(kind)
    await bring(before)
    index = link.index(before.name)
    with capture_logs() as logs:
        chosen = await wish(kind if again == "same" else again)
    wished = f"WIREGUARD_BACKEND is {kind}"
    assert logs[-1]["reason"] == (wished if again == "same" else "our device is there already")
    await chosen.create()
    assert chosen.kind == kind
    assert await has_our_peer(chosen)
    assert link.index(chosen.name) == index


@pytest.mark.parametrize(("old", "new"), [("kernel", "userspace"), ("userspace", "kernel")])
async def test_an_explicit_wish_replaces_a_device_of_the_other_kind(
    wish: Open, old: str, new: str
) -> None:
    """It is said in the log, for sessions begin anew."""
    await bring(await wish(old))
    with capture_logs() as logs:
        chosen = await wish(new)
    assert chosen.kind == new
    assert "device.replaced" in {entry["event"] for entry in logs}
    await chosen.create()
    assert not await has_our_peer(chosen)
    await bring(chosen)
    assert await has_our_peer(chosen)


async def test_a_wish_that_cannot_be_fulfilled_ends_nothing(
    wish: Open, kernel: KernelDouble
) -> None:
    """The sentence names the setting and what is accepted; the device that works goes on."""
    before = await wish("userspace")
    await bring(before)
    kernel.has_wireguard = False
    with pytest.raises(HostError, match=r"no WireGuard: .*set WIREGUARD_BACKEND to auto or user"):
        await wish("kernel")
    assert await has_our_peer(before)


@pytest.mark.parametrize("backend", ["auto", "kernel", "userspace"])
async def test_somebody_elses_interface_is_left_alone(
    wish: Open, kernel: KernelDouble, name: str, backend: str
) -> None:
    """Whatever the wish and whatever the interface."""
    await run("ip", "link", "add", "dev", name, "type", "bridge")
    with pytest.raises(HostError, match="set another WG_INTERFACE"):
        await wish(backend)
    await link.delete(name)
    await kernel.add_link(name)  # a device of the kernel, without key, that we did not make
    with pytest.raises(HostError, match="set another WG_INTERFACE"):
        await wish(backend)
    await link.delete(name)


async def test_who_only_looks_makes_nothing(wish: Open) -> None:
    """What would carry the packets cannot be known then, and the log says so."""
    with capture_logs() as logs:
        chosen = await wish("auto", touch=False)
    assert not link.exists(chosen.name)
    assert logs[-1]["reason"] == "nothing is made"


@pytest.mark.parametrize(("old", "new"), [("kernel", "userspace"), ("userspace", "kernel")])
async def test_who_only_looks_ends_nothing(wish: Open, old: str, new: str) -> None:
    """The device that would be replaced is the one that can be read."""
    await bring(await wish(old))
    chosen = await wish(new, touch=False)
    assert chosen.kind == old
    assert await has_our_peer(chosen)


async def test_a_real_kernel_is_chosen(name: str, tmp_path: Path) -> None:
    """Where Linux has WireGuard, the same is true without a double."""
    need_kernel_wireguard()
    marker = tmp_path / "marker"
    chosen = await open_device(name, PRIVATE_KEY, marker_path=marker, backend="auto")
    try:
        assert chosen.kind == "kernel"
        await bring(chosen)
        again = await open_device(name, PRIVATE_KEY, marker_path=marker, backend="auto")
        assert await has_our_peer(again)
    finally:
        await chosen.destroy()
