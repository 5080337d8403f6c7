"""The conversation with a device that does not behave: every end is an error in time."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from dstack_vpn.errors import DeviceError, HostError
from dstack_vpn.wireguard import channel
from dstack_vpn.wireguard.channel import connect
from dstack_vpn.wireguard.uapi import Request
from lab.waiting import until

SET = Request(text=b"set=1\n\n")
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def device(path: Path, answer: Answer) -> AsyncIterator[None]:
    """A socket that answers each connection in this way, then hangs up."""
    served: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await answer(reader, writer)
        writer.close()

    server = await asyncio.start_unix_server(serve, str(path))
    try:
        yield
    finally:
        server.close()
        for writer in served:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


def saying(text: bytes) -> Answer:
    """Read one request and answer with this."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\n\n")
        writer.write(text)

    return answer


async def test_an_answer_in_pieces_is_one_answer(tmp_path: Path) -> None:
    """Pieces of any size are put together, even where one ends inside of the blank line."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            await reader.readuntil(b"\n\n")
            for piece in (b"listen_", b"port=7\nerrno=0\n", b"\n"):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.001)

    async with device(tmp_path / "s", answer), connect("wg0", tmp_path / "s") as found:
        assert found is not None
        assert found.pid == os.getpid()
        for _ in range(2):  # one connection carries any number of requests
            assert (await found.get()).listen_port == 7


async def test_an_error_number_is_returned(tmp_path: Path) -> None:
    """What the device refuses is for the caller to judge."""
    async with (
        device(tmp_path / "s", saying(b"errno=-98\n\n")),
        connect("wg0", tmp_path / "s") as found,
    ):
        assert found is not None
        assert await found.set(SET) == -98


async def test_the_next_request_is_written_during_the_last_and_sent_after_it(
    tmp_path: Path,
) -> None:
    """A device may lose what comes before its answer; its work is our time to write."""
    written: list[int] = []
    asked = asyncio.Queue[int]()

    def requests() -> Iterator[Request]:
        for number in range(3):
            written.append(number)
            yield Request(text=b"set=1\nn=%d\n\n" % number)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(3):
            assert await reader.readuntil(b"\n\n") == b"set=1\nn=%d\n\n" % number
            await until(lambda: len(written) >= min(number + 2, 3), "the next one is written")  # noqa: B023
            with suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    asked.put_nowait(len(await reader.read(1)))  # nothing comes before the answer
            writer.write(b"errno=%d\n\n" % -number)

    async with device(tmp_path / "s", answer), connect("wg0", tmp_path / "s") as found:
        assert found is not None
        told = [(r.text[8:9], errno) async for r, errno in found.set_all(requests())]
    assert told == [(b"0", 0), (b"1", -1), (b"2", -2)]
    assert asked.empty()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"", "hung up in the middle"),
        (b"errno=0\n", "hung up in the middle"),
        (b"hello\n\n", "something else than errno"),
        (b"x" * 300_000, "answers without end"),
    ],
)
async def test_a_bad_answer_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes, complaint: str
) -> None:
    """Cut off, garbage, or endless: the caller reads back and tries again."""
    monkeypatch.setattr(channel, "MAX_ANSWER", 250_000)
    async with device(tmp_path / "s", saying(text)), connect("wg0", tmp_path / "s") as found:
        assert found is not None
        with pytest.raises(DeviceError, match=f"wg0.*{complaint}"):
            await found.set(SET)


async def test_a_garbled_device_is_an_error_that_quotes_nothing(tmp_path: Path) -> None:
    """The private key of an answer is in no error, not even as its cause."""
    secret = b"5" * 63
    text = b"private_key=" + secret + b"\nerrno=0\n\n"
    async with device(tmp_path / "s", saying(text)), connect("wg0", tmp_path / "s") as found:
        assert found is not None
        with pytest.raises(DeviceError, match="64 hex digits") as refused:
            await found.get()
        assert secret.decode() not in repr((refused.value, refused.value.__cause__))


async def test_a_silent_device_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No exchange takes longer than its limit."""
    monkeypatch.setattr(channel, "TIMEOUT", 0.05)

    async def answer(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()  # until we hang up

    async with device(tmp_path / "s", answer), connect("wg0", tmp_path / "s") as found:
        assert found is not None
        with pytest.raises(DeviceError, match=r"wg0 did not answer within 0\.05 s"):
            await found.get()


async def test_a_slow_device_is_waited_for_while_it_gets_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is on silence: what comes bit by bit may take longer, though not for ever."""
    monkeypatch.setattr(channel, "TIMEOUT", 0.1)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\n\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.04)

    async with device(tmp_path / "s", answer):
        pieces = [*[b"x=1\n"] * 5, b"listen_port=7\nerrno=0\n\n"]
        async with connect("wg0", tmp_path / "s") as found:
            assert found is not None
            assert (await found.get()).listen_port == 7
        pieces = [b"x=1\n"] * 100
        async with connect("wg0", tmp_path / "s") as found:
            assert found is not None
            with pytest.raises(DeviceError, match="did not answer"):
                await found.get()


async def test_nobody_there_is_none(tmp_path: Path) -> None:
    """No socket, and a socket that a dead process left, are the same: nobody."""
    async with connect("wg0", tmp_path / "s") as found:
        assert found is None
    async with device(tmp_path / "s", saying(b"")):
        pass
    async with connect("wg0", tmp_path / "s") as found:
        assert found is None


async def test_a_socket_that_is_none_is_an_error(tmp_path: Path) -> None:
    """A path that cannot be connected to is said with the reason."""
    with pytest.raises(DeviceError, match="too long"):
        async with connect("wg0", tmp_path / ("s" * 200)):
            pass


async def test_a_socket_of_another_user_is_a_mistake_of_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing right ends the agent with a sentence instead of being tried again for ever."""

    async def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", refuse)
    with pytest.raises(HostError, match="run as root"):
        async with connect("wg0", tmp_path / "s"):
            pass
