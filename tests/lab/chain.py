"""A chain: one anvil node of the lab, at an address of its own on the switch, and its controls.

anvil tells subscribers nothing about `revert` and `rollback`, and tells of `reorg` only the new
blocks: only parent hashes give them away. A snapshot is worth nothing after a reorg below it.
"""

import itertools
import json
import re
import time
from dataclasses import dataclass, field
from functools import cache
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Self

from lab.http import HttpError, request
from lab.process import Process
from lab.switch import Switch
from lab.waiting import PATIENCE, until

REPOSITORY = Path(__file__).resolve().parents[2]
CHAIN_ID = 31337


class RpcError(Exception):
    """The node answered with a JSON-RPC error."""

    def __init__(self, method: str, error: dict[str, Any]) -> None:
        super().__init__(f"{method}: {error.get('message')} ({error.get('code')})")
        self.code = error.get("code")
        self.data = error.get("data")


@dataclass(frozen=True, slots=True)
class Block:
    """A header, as far as tests care."""

    number: int
    hash: str
    parent: str
    timestamp: int


@dataclass(frozen=True, slots=True)
class Mined:
    """A transaction that is in a block, and when we knew (time.monotonic)."""

    transaction: str
    block: int
    block_hash: str
    sent: float  #: just before it was given to the node
    seen: float  #: just after its receipt was seen
    logs: tuple[dict[str, Any], ...]
    contract: str | None  #: the address it created

    @property
    def token_id(self) -> int:
        """The token of the first ERC-721 event; of a mint, the new one."""
        return next(int(log["topics"][3], 16) for log in self.logs if len(log["topics"]) == 4)


@dataclass(slots=True)
class Chain:
    """A running anvil; made by `start`."""

    name: str
    address: IPv4Address  #: where hosts find it
    directory: Path
    switch: Switch
    process: Process
    port: int
    _options: tuple[str, ...]
    _log: Path
    _ids: "itertools.count[int]" = field(default_factory=itertools.count, init=False)
    _accounts: list[str] = field(default_factory=list, init=False)

    @classmethod
    async def start(
        cls,
        *,
        name: str,
        switch: Switch,
        directory: Path,
        log_dir: Path,
        block_time: float | None = None,
        slots_in_an_epoch: int | None = None,
        timestamp: int | None = None,
        keep_state: bool = False,
        fork: tuple[str, int] | None = None,
        options: tuple[str, ...] = (),
    ) -> Self:
        """Start anvil and wait until it listens.

        Args:
            name: of the process and its log.
            switch: where it gets an address of its own.
            directory: for its state; not shared with another chain.
            log_dir: where its log goes.
            block_time: seconds between blocks; without it each transaction makes one.
            slots_in_an_epoch: S makes safe = latest - S and finalized = latest - 2 S (anvil: 32).
            timestamp: of the genesis block; two chains with the same one have the same genesis.
            keep_state: write the state to disk each second and on SIGTERM, for `restart`.
            fork: URL and block number of a chain to share history with up to that block.
            options: more words for anvil's command line.
        """
        words = [*options]
        if block_time is not None:
            words += ["--block-time", f"{block_time:g}"]
        if slots_in_an_epoch is not None:
            words += ["--slots-in-an-epoch", str(slots_in_an_epoch)]
        if timestamp is not None:
            words += ["--timestamp", str(timestamp)]
        if keep_state:
            words += ["--state", str(directory / "state.json"), "--state-interval", "1"]
            words += ["--preserve-historical-states"]
        if fork is not None:
            words += ["--fork-url", fork[0], "--fork-block-number", str(fork[1])]
        log = log_dir / f"{name}.log"
        process, port = await launch(name, log, directory, words, port=0)
        address = await switch.another_address()
        return cls(name, address, directory, switch, process, port, tuple(words), log)

    @property
    def url(self) -> str:
        """Its RPC URL (http; the same with ws:// is its WebSocket)."""
        return f"http://{self.address}:{self.port}"

    async def another_url(self) -> str:
        """One more URL of this node, under another address: another provider of the same chain."""
        return f"http://{await self.switch.another_address()}:{self.port}"

    async def rpc(self, method: str, *params: Any, within: float = 10.0) -> Any:
        """Call a JSON-RPC method."""
        call = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}
        answer = await request(
            "POST",
            self.url,
            headers={"Content-Type": "application/json"},
            body=json.dumps(call).encode(),
            within=within,
        )
        reply = answer.json()
        if "error" in reply:
            raise RpcError(method, reply["error"])
        return reply["result"]

    # Reading

    async def block(self, which: int | str = "latest") -> Block:
        """A header by number, tag or hash."""
        if isinstance(which, str) and len(which) == 66:
            raw = await self.rpc("eth_getBlockByHash", which, False)
        else:
            tag = hex(which) if isinstance(which, int) else which
            raw = await self.rpc("eth_getBlockByNumber", tag, False)
        if raw is None:
            raise LookupError(f"{self.name} has no block {which}")
        number, timestamp = int(raw["number"], 16), int(raw["timestamp"], 16)
        return Block(number, raw["hash"], raw["parentHash"], timestamp)

    async def account(self, index: int) -> str:
        """The address of a dev account (0 to 9), whose transactions need no signature here."""
        if not self._accounts:
            self._accounts = await self.rpc("eth_accounts")
        return self._accounts[index]

    # Writing

    async def submit(
        self, data: str, *, to: str | None, account: int = 0, gas: int | None = None
    ) -> str:
        """Hand a transaction to the node; its hash."""
        transaction = {"from": await self.account(account), "data": data}
        if to is not None:
            transaction["to"] = to
        if gas is not None:
            transaction["gas"] = hex(gas)
        return str(await self.rpc("eth_sendTransaction", transaction))

    async def mined(self, transaction: str, *, sent: float, within: float = PATIENCE) -> Mined:
        """Wait for the receipt of a transaction.

        Raises:
            RpcError: it was mined and failed.
        """
        receipt = await until(
            lambda: self.rpc("eth_getTransactionReceipt", transaction),
            f"{self.name} mines {transaction}",
            within=within,
        )
        seen = time.monotonic()
        if int(receipt["status"], 16) != 1:
            await self._raise_again(transaction, int(receipt["blockNumber"], 16) - 1)
        return Mined(
            transaction=transaction,
            block=int(receipt["blockNumber"], 16),
            block_hash=receipt["blockHash"],
            sent=sent,
            seen=seen,
            logs=tuple(receipt["logs"]),
            contract=receipt.get("contractAddress"),
        )

    async def send(
        self, data: str, *, to: str | None, account: int = 0, within: float = PATIENCE
    ) -> Mined:
        """Hand a transaction to the node and wait until it is in a block."""
        sent = time.monotonic()
        return await self.mined(
            await self.submit(data, to=to, account=account), sent=sent, within=within
        )

    async def _raise_again(self, transaction: str, block: int) -> None:
        """Make the call of a failed transaction once more: a receipt does not tell its error."""
        failed = await self.rpc("eth_getTransactionByHash", transaction)
        call = {"from": failed["from"], "to": failed["to"], "data": failed["input"]}
        await self.rpc("eth_call", call, hex(block))
        raise RpcError("eth_getTransactionReceipt", {"message": f"{transaction} reverted"})

    # Controls of the chain

    async def mine(self, blocks: int = 1) -> Block:
        """Make blocks now; the last one."""
        await self.rpc("anvil_mine", hex(blocks))
        return await self.block()

    async def snapshot(self) -> str:
        """Remember this state."""
        return str(await self.rpc("evm_snapshot"))

    async def revert(self, snapshot: str) -> Block:
        """Go back to a snapshot, which is used up by it; the head that comes back."""
        if not await self.rpc("evm_revert", snapshot):
            raise LookupError(f"{self.name} has no snapshot {snapshot}")
        return await self.block()

    async def reorg(self, depth: int) -> Block:
        """Replace the last blocks with as many empty ones; their transactions are lost."""
        await self.rpc("anvil_reorg", depth, [])
        return await self.block()

    async def rollback(self, depth: int) -> Block:
        """Drop the last blocks without replacement; the head that comes back."""
        await self.rpc("anvil_rollback", depth)
        return await self.block()

    async def set_automine(self, on: bool) -> None:
        """Make a block for each transaction, or only when told to."""
        await self.rpc("evm_setAutomine", on)

    async def set_interval(self, seconds: int) -> None:
        """Make a block each so many seconds; 0 = never."""
        await self.rpc("evm_setIntervalMining", seconds)

    async def increase_time(self, seconds: int) -> Block:
        """Move the chain's clock forward, and make a block that shows it."""
        await self.rpc("evm_increaseTime", seconds)
        return await self.mine()

    # Controls of the node

    async def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        await self.process.pause()

    def resume(self) -> None:
        """SIGCONT."""
        self.process.resume()

    async def kill(self) -> None:
        """SIGKILL: whatever was not on disk is lost."""
        await self.process.kill()

    async def stop(self) -> None:
        """SIGTERM: a chain with `keep_state` writes its state."""
        await self.process.stop()

    async def restart(self) -> None:
        """Start again at the same address and port, after `kill` or `stop`."""
        assert not self.process.running, f"{self.name} still runs"
        self.process, self.port = await launch(
            self.name, self._log, self.directory, self._options, port=self.port
        )

    async def close(self) -> None:
        """End the process; its address goes with the switch."""
        await self.process.kill()

    async def answers(self) -> bool:
        """Whether it says what its head is."""
        try:
            await self.rpc("eth_blockNumber", within=0.5)
        except HttpError:
            return False
        return True


async def launch(
    name: str, log: Path, directory: Path, options: "tuple[str, ...] | list[str]", *, port: int
) -> tuple[Process, int]:
    """Start anvil and read its port from what it prints."""
    process = await Process.start(
        anvil(), "--host", "0.0.0.0", "--port", str(port), *options,
        name=name, log=log, env={"HOME": str(directory)},
    )  # fmt: skip
    try:
        line = await process.line("Listening on")
    except BaseException:
        await process.kill()
        raise
    found = re.search(r":(\d+)$", line)
    assert found, line
    return process, int(found[1])


@cache
def anvil() -> Path:
    """The native binary: npm's command of that name is a script that would stay in between."""
    modules = REPOSITORY / "contracts/node_modules"
    for path in sorted(modules.glob("@foundry-rs/anvil-*/bin/anvil")):
        return path
    raise FileNotFoundError(f"no anvil in {modules}: run `npm ci --prefix contracts`")
