"""All peers off one device, and off no other: the two requests, held against real devices."""

import os
import signal
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from dstack_vpn.mesh.diff import diff
from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.wireguard import cutoff, pids
from dstack_vpn.wireguard.channel import connect
from dstack_vpn.wireguard.claim import SOCKETS
from dstack_vpn.wireguard.kernel import KernelDevice
from dstack_vpn.wireguard.lease import KernelTarget, UserspaceTarget
from dstack_vpn.wireguard.process import Process
from dstack_vpn.wireguard.userspace import UserspaceDevice
from lab.fixtures import need_lab
from lab.waiting import until
from wireguard.kernel_double import KernelDouble
from wireguard.samples import adding, device, peer, unique_name

PRIVATE_KEY = PrivateKey.generate()


def test_the_request_byte_by_byte() -> None:
    """SET_DEVICE with an index and WGDEVICE_F_REPLACE_PEERS: linux/wireguard.h."""
    if struct.pack("=H", 1) != b"\1\0":
        pytest.skip("written down for little-endian machines")
    assert cutoff.set_no_peers(0x01020304) == bytes.fromhex(
        "01 01 0000"  # WG_CMD_SET_DEVICE, version 1
        "0800 0100 04030201"  # WGDEVICE_A_IFINDEX
        "0800 0500 01000000"  # WGDEVICE_A_FLAGS: WGDEVICE_F_REPLACE_PEERS
    )
    assert cutoff.get_family() == bytes.fromhex("03 02 0000 0e00 0200") + b"wireguard\0\0\0"


@pytest_asyncio.fixture
async def made() -> AsyncIterator[tuple[UserspaceDevice, UserspaceTarget]]:
    """A wireguard-go with two peers and an address, and who it is."""
    need_lab()
    name = unique_name()
    found = UserspaceDevice(name, PRIVATE_KEY, marker_path=Path(f"/run/{name}.marker"))
    await found.create()
    wanted = device(PRIVATE_KEY, peer(1), peer(2), name=name, addresses=("10.213.9.9/16",))
    await found.apply(diff(wanted, await found.seen()))
    path = SOCKETS / f"{name}.sock"
    async with connect(name, path) as channel:
        assert channel is not None
        owner = Process.of(channel.pid)
    assert owner is not None
    yield found, UserspaceTarget(name, str(path), owner.pid, owner.started)
    owner.signal(signal.SIGKILL)
    await until(lambda: not owner.alive, "the device's process is gone")


async def test_peers_go_and_the_interface_stays(
    made: tuple[UserspaceDevice, UserspaceTarget],
) -> None:
    """Nothing is left for a packet to fall back to: link, address, key and port are as before."""
    found, target = made
    before = await found.seen()
    assert before is not None
    assert len(before.peers) == 2
    assert cutoff.is_there(target)
    assert cutoff.remove_all_peers(target)
    after = await found.seen()
    assert after is not None
    assert after.peers == {}
    assert (after.up, after.addresses, after.public_key, after.listen_port) == (
        before.up,
        before.addresses,
        before.public_key,
        before.listen_port,
    )


async def test_another_process_at_the_socket_is_left_alone(
    made: tuple[UserspaceDevice, UserspaceTarget],
) -> None:
    """A pid that was used again, or somebody else who listens: not the device that was meant."""
    found, target = made
    for other in (
        target._replace(started=target.started + 1),
        target._replace(pid=os.getpid(), started=pids.start_time(os.getpid()) or 0),
        target._replace(socket="/run/no.sock"),
    ):
        assert not cutoff.remove_all_peers(other)
    assert not cutoff.is_there(target._replace(started=target.started + 1))
    seen = await found.seen()
    assert seen is not None
    assert len(seen.peers) == 2


@contextmanager
def answering(path: Path, answer: bytes) -> Iterator[UserspaceTarget]:
    """Somebody at a socket who answers in one way; it is this process."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        us = os.getpid()
        yield UserspaceTarget("wg0", str(path), us, pids.start_time(us) or 0)
        thread.join()


@pytest.mark.parametrize(
    ("answer", "done"),
    [
        (b"errno=0\n\n", True),
        (b"errno=-5\n\n", False),
        (b"errno=0\n", False),
        (b"", False),
        (b"\xff" * 1000, False),
    ],
)
def test_only_a_clear_answer_counts(tmp_path: Path, answer: bytes, done: bool) -> None:
    """Whatever else is answered, the peers are not taken to be gone."""
    with answering(tmp_path / "socket", answer) as target:
        assert cutoff.remove_all_peers(target) is done


async def test_a_device_of_the_kernel(tmp_path: Path) -> None:
    """By its number, in the words of the kernel's documentation, as our double reads them."""
    need_lab()
    name = unique_name()
    double = KernelDouble()
    found = KernelDevice(
        name, PRIVATE_KEY, marker_path=tmp_path / "m", dial=double.dial, add_link=double.add_link
    )
    await found.create()
    try:
        await found.apply(adding(name, peer(1), peer(2)))
        target = KernelTarget(name, socket.if_nametoindex(name))
        other = target._replace(number=target.number + 1000)
        assert cutoff.is_there(target)
        assert not cutoff.is_there(other)
        assert not cutoff.remove_all_peers(other, dial=double.dial)
        assert len(double.devices[target.number].peers) == 2
        assert cutoff.remove_all_peers(target, dial=double.dial)
        assert not double.devices[target.number].peers
        double.refusal = (16, "busy")
        assert not cutoff.remove_all_peers(target, dial=double.dial)
        double.has_wireguard = False
        assert not cutoff.remove_all_peers(target, dial=double.dial)
    finally:
        double.refusal, double.has_wireguard = None, True
        await found.destroy()


@pytest.mark.parametrize("answer", [b"", bytes(7), bytes(64)])
def test_a_kernel_that_says_nothing_or_nonsense(answer: bytes) -> None:
    """A socket that hangs up, and one that answers with garbage."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        theirs.send(answer)
        theirs.shutdown(socket.SHUT_WR)
        assert not cutoff.remove_all_peers(KernelTarget("wg0", 1), dial=lambda: ours)
