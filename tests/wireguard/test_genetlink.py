"""Exchanges over generic netlink: with this kernel, and with one that says what no kernel says."""

import asyncio
import errno
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from dstack_vpn.errors import DeviceError, HostError
from dstack_vpn.wireguard import genetlink
from dstack_vpn.wireguard.genetlink import Channel, InterruptedDumpError, connect
from dstack_vpn.wireguard.netlink import GENERIC, attribute, attributes, message
from lab.waiting import until

Answer = Callable[[int], list[bytes]]
"""What is answered to a request with this sequence number."""


def verdict(sequence: int, code: int = 0, flags: int = 0) -> bytes:
    """An NLMSG_ERROR."""
    return message(2, flags, sequence, struct.pack("=i", -code) + bytes(16))


@contextmanager
def kernel(answer: Answer) -> Iterator[Channel]:
    """A channel to something in the kernel's place."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def serve() -> None:
        with ours, suppress(ConnectionError):
            while request := ours.recv(1 << 17):
                (sequence,) = struct.unpack_from("=I", request, 8)
                for part in answer(sequence):
                    ours.send(part)

    thread = threading.Thread(target=serve)
    thread.start()
    with theirs:
        yield Channel("wg0", theirs)
        theirs.shutdown(socket.SHUT_RDWR)
    thread.join()


async def ask(channel: Channel, *, dump: bool = False) -> list[bytes]:
    """What is answered."""
    return [body async for body in channel.ask(b"", dump=dump)]


# -- with this kernel


async def test_a_family_of_this_kernel_is_found() -> None:
    """Every Linux has the family that tells of the others, and its number is fixed."""
    async with connect("wg0", "nlctrl") as channel:
        assert channel is not None
        assert channel.family == 0x10
        request = GENERIC.pack(3, 2, 0) + attribute(2, b"nlctrl\0")
        (body,) = [body async for body in channel.ask(request)]
        assert attributes(body[GENERIC.size :])[2] == b"nlctrl\0"


async def test_a_family_that_no_kernel_has_is_none() -> None:
    """That is an answer, not an error."""
    async with connect("wg0", "dstack-no-such") as channel:
        assert channel is None


async def test_this_kernel_refuses_in_words() -> None:
    """A malformed request is an OSError with the kernel's own explanation behind its name."""
    async with connect("wg0", "nlctrl") as channel:
        assert channel is not None
        with pytest.raises(OSError, match=r": .") as refused:
            await channel.request(GENERIC.pack(3, 2, 0) + attribute(1, bytes(1)))
    assert refused.value.errno in {errno.EINVAL, errno.ERANGE}


async def test_a_machine_without_netlink_has_no_family() -> None:
    """Some sandboxes have none; that is no reason to stop."""

    def dial() -> socket.socket:
        raise OSError(errno.EPROTONOSUPPORT, "Protocol not supported")

    async with connect("wg0", "wireguard", dial) as channel:
        assert channel is None


async def test_no_socket_is_an_error_that_passes() -> None:
    """Too many open files say nothing about WireGuard."""

    def dial() -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    with pytest.raises(DeviceError, match=r"wg0: no socket to the kernel \(Too many open files\)"):
        async with connect("wg0", "wireguard", dial):
            pass


# -- with something in its place


async def test_all_parts_of_an_answer_are_given() -> None:
    """Several messages in a read and several reads, up to the verdict."""

    def answer(sequence: int) -> list[bytes]:
        bodies = [message(0x1D, 2, sequence, bytes([i]) * 4) for i in range(3)]
        return [bodies[0] + bodies[1], bodies[2], message(3, 2, sequence, bytes(4))]

    with kernel(answer) as channel:
        assert await ask(channel, dump=True) == [bytes([i]) * 4 for i in range(3)]


async def test_late_answers_to_another_request_are_passed_over() -> None:
    """What answers a request that was given up is not taken for the answer to this one."""

    def answer(sequence: int) -> list[bytes]:
        late = message(0x1D, 0, sequence - 1, b"late") + verdict(sequence - 1, errno.EINVAL)
        return [late, verdict(sequence)]

    with kernel(answer) as channel:
        await channel.request(b"")


@pytest.mark.parametrize("code", [errno.EPERM, errno.EACCES])
async def test_a_missing_right_is_named(code: int) -> None:
    """No retry helps, so it is the host that must change."""
    with (
        kernel(lambda sequence: [verdict(sequence, code)]) as channel,
        pytest.raises(HostError, match="capability NET_ADMIN"),
    ):
        await channel.request(b"")


async def test_a_dump_may_fail_at_its_end() -> None:
    """NLMSG_DONE carries an error number too."""
    with (
        kernel(lambda sequence: [message(3, 2, sequence, struct.pack("=i", -19))]) as channel,
        pytest.raises(OSError, match="No such device"),
    ):
        await ask(channel, dump=True)


@pytest.mark.parametrize("place", [0x1D, 3])
async def test_an_interrupted_dump_is_no_answer(place: int) -> None:
    """NLM_F_DUMP_INTR on any message, the last one included."""

    def answer(sequence: int) -> list[bytes]:
        return [
            message(kind, 0x10 if kind == place else 0, sequence, bytes(4)) for kind in (0x1D, 3)
        ]

    with kernel(answer) as channel, pytest.raises(InterruptedDumpError):
        await ask(channel, dump=True)


class Overrun(socket.socket):
    """A socket whose buffer was too small."""

    def recv(self, *_: object) -> bytes:
        """Say so."""
        raise OSError(errno.ENOBUFS, "No buffer space available")


async def test_lost_answers_are_asked_for_again() -> None:
    """A dump with a hole is read anew; whether a request was carried out is not known."""
    with ExitStack() as stack:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.enter_context(ours)
        channel = Channel("wg0", stack.enter_context(Overrun(fileno=theirs.detach())))
        with pytest.raises(InterruptedDumpError):
            await ask(channel, dump=True)
        with pytest.raises(DeviceError, match="an answer of the kernel was lost"):
            await channel.request(b"")


@pytest.mark.parametrize(
    "part", [b"\1", message(2, 0, 0, b"")[:15], message(0x1D, 0, 0, bytes(64))[:40]]
)
async def test_what_is_cut_off_is_an_error(part: bytes) -> None:
    """Half an answer is none."""
    with kernel(lambda _: [part]) as channel, pytest.raises(DeviceError, match="malformed"):
        await ask(channel)


async def test_a_verdict_without_a_number_is_an_error() -> None:
    """An empty NLMSG_ERROR is not taken for success."""
    with (
        kernel(lambda sequence: [message(2, 0, sequence, b"")]) as channel,
        pytest.raises(DeviceError, match="malformed"),
    ):
        await channel.request(b"")


async def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is not filled by a kernel that goes on and on."""
    monkeypatch.setattr(genetlink, "MAX_ANSWER", 1000)
    with (
        kernel(lambda sequence: [message(0x1D, 2, sequence, bytes(400))] * 4) as channel,
        pytest.raises(DeviceError, match="answers without end"),
    ):
        await ask(channel, dump=True)


async def test_a_silent_kernel_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """No exchange takes longer than its limit."""
    monkeypatch.setattr(genetlink, "TIMEOUT", 0.05)
    with (
        kernel(lambda _: []) as channel,
        pytest.raises(DeviceError, match=r"wg0 did not answer within 0\.05 s"),
    ):
        await channel.request(b"")


async def test_a_slow_kernel_holds_nobody_up() -> None:
    """While the kernel works on a request, inside the call that sent it, the loop goes on."""
    asked, may_answer = threading.Event(), threading.Event()

    class Slow(socket.socket):
        def send(self, *_: object) -> int:
            asked.set()
            may_answer.wait()
            return 0

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, Slow(fileno=theirs.detach()) as slow:
        channel = Channel("wg0", slow)
        async with asyncio.TaskGroup() as tasks:
            request = tasks.create_task(channel.request(b""))
            await until(asked.is_set, "the kernel was asked")
            assert not request.done()
            ours.send(verdict(channel._sequence))
            may_answer.set()
