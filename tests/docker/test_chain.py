"""The local chain of docker/chain: its state survives whatever happens to it.

A host of the lab is its container: everything in it dies at once, and its files stay.
"""

import asyncio
import contextlib
import importlib.util
import json
import os
import random
import signal
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from lab.chain import anvil
from lab.host import Host
from lab.http import HttpError, request
from lab.lab import Lab
from lab.process import Process
from lab.waiting import until

SCRIPT = Path(__file__).parents[2] / "docker/chain/chain.py"
ONE, OTHER = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266", "0x" + "17" * 20
BALANCE = f"0x73{OTHER[2:]}315f5260205ff3"
"""Code that returns the balance of OTHER."""


class LocalChain:
    """The chain in a host; `start` it again after whatever happened to it."""

    def __init__(self, host: Host, process: Process, state: str) -> None:
        self.host = host
        self.process = process
        self._state = state

    @classmethod
    async def start(cls, lab: Lab, *, state: str = "/run/chain/state.json") -> "LocalChain":
        """Start it and wait until it answers."""
        host = await lab.host("chain")
        (host.run_dir / "chain").mkdir(exist_ok=True)
        chain = cls(host, await run(host, state), state)
        await chain.answers()
        return chain

    async def start_again(self) -> None:
        """Start it once more in the same host."""
        self.process = await run(self.host, self._state)
        await self.answers()

    async def answers(self) -> None:
        """Wait until it answers."""
        await until(self.height, "the chain answers", retry_on=(HttpError,))

    async def rpc(self, method: str, *params: Any) -> Any:
        """Call a JSON-RPC method."""
        call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = await request(
            "POST",
            f"http://{self.host.ip4}:8545",
            headers={"Content-Type": "application/json"},
            body=json.dumps(call).encode(),
            within=2,
        )
        reply = answer.json()
        assert "error" not in reply, reply
        return reply["result"]

    async def height(self) -> str:
        """The number of the newest block, as it is written in an answer."""
        return str(await self.rpc("eth_blockNumber"))

    async def block_hash(self, number: int) -> str:
        """The hash of a block."""
        return str((await self.rpc("eth_getBlockByNumber", hex(number), False))["hash"])

    async def pay(self) -> None:
        """Make a block in which OTHER gets a coin."""
        payment = {"from": ONE, "to": OTHER, "value": "0x1"}
        sent = await self.rpc("eth_sendTransaction", payment)
        await until(lambda: self.rpc("eth_getTransactionReceipt", sent), "it is in a block")

    async def coins(self, number: int) -> int:
        """How many coins OTHER had at a block, by a call."""
        return int(await self.rpc("eth_call", {"data": BALANCE}, hex(number)), 16)

    def saved(self) -> int:
        """The height that is on disk; -1 for none. What is there is always whole."""
        path = self.host.run_dir / Path(self._state).relative_to("/run")
        if not path.exists():
            return -1
        return int(json.loads(path.read_text())["best_block_number"])


async def run(host: Host, state: str) -> Process:
    environ = {
        "PATH": f"{anvil().parent}:{os.environ['PATH']}",
        "HOME": "/run",
        "CHAIN_STATE": state,
    }
    return await host.start(sys.executable, "-I", SCRIPT, name="chain", env=environ)


async def test_a_block_is_saved_soon(lab: Lab) -> None:
    """The state on disk follows the chain without being asked, history included."""
    chain = await LocalChain.start(lab)
    await chain.process.line("begins; its state is kept in /run/chain/state.json")
    await until(lambda: chain.saved() == 0, "the beginning is saved", within=5)
    await chain.pay()
    await until(lambda: chain.saved() == 1, "the first block is saved", within=5)
    await chain.pay()
    await until(lambda: chain.saved() == 2, "the second block is saved", within=5)
    assert "not saved" not in chain.process.output


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_it_saves_before_it_ends(lab: Lab, number: signal.Signals, code: int) -> None:
    """Nothing is lost by a stop; its exit code is that of the signal, so it is started again."""
    chain = await LocalChain.start(lab)
    for _ in range(3):
        await chain.pay()
    hashes = [await chain.block_hash(n) for n in range(4)]
    chain.process.signal(number)
    assert await chain.process.wait() == code
    await chain.start_again()
    await chain.process.line("continues; its state is kept")
    assert [await chain.block_hash(n) for n in range(4)] == hashes
    # Nodes ask for what was at a block.
    assert [await chain.coins(n) for n in range(4)] == [0, 1, 2, 3]
    await chain.pay()
    assert await chain.coins(4) == 4


async def make_blocks(chain: LocalChain, hashes: dict[int, str]) -> None:
    """Make blocks until the chain is gone, with a rest now and then; their hashes."""
    with contextlib.suppress(HttpError):
        while True:
            await chain.pay()
            number = int(await chain.height(), 16)
            hashes[number] = await chain.block_hash(number)
            # A state is saved only when no block is made meanwhile.
            while number % 25 == 0 and chain.saved() < number:
                await chain.height()


async def test_it_survives_kills(lab: Lab) -> None:
    """Killed at any moment while blocks are made, it comes back with what it saved at the last."""
    chance = random.Random(4)
    hashes: dict[int, str] = {}
    chain = await LocalChain.start(lab)
    for _ in range(3):
        enough, before = len(hashes) + chance.randrange(40, 200), chain.saved()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(make_blocks(chain, hashes))
            await until(partial(_has, hashes, enough), "there are more blocks", within=120)
            # On a quick machine all of them are made before the first look for a new one.
            await until(lambda: chain.saved() > before, "it is saved", within=60)  # noqa: B023
            saved = chain.saved()
            await chain.host.kill()
        # What a kill in the middle of saving leaves behind.
        (chain.host.run_dir / "chain/state.new").write_text('{"best_block_number": ')
        chain = await LocalChain.start(lab)
        height = int(await chain.height(), 16)
        assert saved <= height <= max(hashes) + 1
        hashes = {number: known for number, known in hashes.items() if number <= height}
        for number in chance.sample(sorted(hashes), min(5, len(hashes))):
            assert await chain.block_hash(number) == hashes[number]
            assert await chain.coins(number) == number
    assert chain.saved() > 0


def _has(hashes: dict[int, str], enough: int) -> bool:
    return len(hashes) >= enough


async def test_a_directory_that_is_not_there_ends_nothing(lab: Lab) -> None:
    """It is told once, the chain goes on, and saves as soon as it can."""
    chain = await LocalChain.start(lab, state="/run/chain/gone/state.json")
    await chain.process.line("not saved (FileNotFoundError")
    await chain.pay()
    (chain.host.run_dir / "chain/gone").mkdir()
    await until(lambda: chain.saved() == 1, "it is saved", within=5)
    assert chain.process.output.count("not saved (FileNotFoundError") == 1


async def test_a_full_disk_ends_nothing(lab: Lab) -> None:
    """What was saved before stays whole, and once there is room all is saved."""
    chain = await LocalChain.start(lab)
    await until(lambda: chain.saved() == 0, "the beginning is saved", within=5)
    state = json.loads((chain.host.run_dir / "chain/state.json").read_text())
    assert await chain.process.stop() == 143
    size = len(json.dumps(state)) * 2 // 1024 + 8
    mount = ("mount", "-t", "tmpfs", "-o")
    await chain.host.run(*mount, f"size={size}k", "tmpfs", "/run/chain")
    await chain.start_again()

    async def on_disk() -> int:
        answer = await chain.host.run("cat", "/run/chain/state.json", check=False)
        return int(json.loads(answer.out)["best_block_number"]) if answer.code == 0 else -1

    async def is_full() -> bool:
        await chain.pay()
        return "not saved (OSError: [Errno 28] No space left on device)" in chain.process.output

    await until(is_full, "the disk is full")
    before = await on_disk()
    height = int(await chain.height(), 16)
    assert before < height
    await chain.host.run("mount", "-o", "remount,size=64m", "/run/chain")

    async def all_is_saved() -> bool:
        return await on_disk() == height

    await until(all_is_saved, "all is saved", within=5)


async def test_the_end_of_anvil_is_its_end(lab: Lab) -> None:
    """The container ends with the chain, so that the engine starts it again."""
    chain = await LocalChain.start(lab)
    await chain.host.run("pkill", "-KILL", "-x", "anvil")
    assert await chain.process.wait() == 1
    assert "anvil ended with -9" in chain.process.output


async def test_the_health_check(lab: Lab) -> None:
    """It asks the chain for its head."""
    chain = await LocalChain.start(lab)
    command = (sys.executable, "-I", SCRIPT, "check")
    assert (await chain.host.run(*command)).out == ""
    await chain.process.stop()
    ended = await chain.host.run(*command, check=False)
    assert ended.code == 1
    assert ended.out.startswith("chain: does not answer (URLError: ")
    assert len(ended.out.splitlines()) == 1


def load() -> Any:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("chain_of_the_image", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def serving(body: bytes, *, length: int | None = None, status: int = 200) -> Iterator[int]:
    """Something at a port that is no chain; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("body", "length", "status"),
    [
        (b"", None, 200),
        (b"<html>", None, 200),
        (b"[]", None, 200),
        (b"{}", None, 200),
        (b'{"result": null}', None, 200),
        (b'{"result": "0x1"}', None, 200),
        (b'{"error": {"message": "no"}}', None, 200),
        (b'{"result": {', 99, 200),
        (b"{}", None, 500),
        (b'{"result": {"hash": "0x1"}}', None, 200),
    ],
)
def test_odd_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: bytes, length: int | None, status: int
) -> None:
    """Whatever answers in the place of the chain: not well, not saved, and no end of it all."""
    module = load()
    well = b'"hash"' in body
    with serving(body, length=length, status=status) as port:
        monkeypatch.setattr(module, "PORT", port)
        monkeypatch.setattr(module, "STATE", tmp_path / "state.json")
        assert module.check() == (0 if well else 1)
        saved, trouble = module.try_to_save("0x0", "")
    assert saved == "0x0"
    assert trouble
    assert list(tmp_path.iterdir()) == []
