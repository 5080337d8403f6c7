"""How a proxy tells what `rpcforger` made up: `Forgery` forged blocks, `Restatement` a real one."""

# ruff: noqa: D102 - what a method is for is said by the base class

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dstack_vpn.chain import contract as abi
from dstack_vpn.chain.keccak import keccak256
from dstack_vpn.mesh.membership import Address, Checkpoint, Node
from lab.rpcfault import Ask, Call, Fault, Reply, block_of, calldata, result, with_block

Raw = dict[str, Any]

_NEWEST = ("latest", "pending")


@dataclass(frozen=True, slots=True)
class State:
    """The contract at a block."""

    checkpoint: Checkpoint
    nodes: Mapping[int, Node]
    next_id: int

    def view(self, data: bytes) -> bytes | None:
        """What a view answers; None for one that is not forged."""
        arguments = [int.from_bytes(data[i : i + 32], "big") for i in range(4, len(data), 32)]
        if data == abi.CALL_CHECKPOINT:
            stated = self.checkpoint
            return _words(stated.revision) + stated.history + _words(stated.member_count)
        if data == abi.CALL_NEXT_TOKEN_ID:
            return _words(self.next_id)
        if data[:4] == abi.call_get_nodes(0, 0)[:4]:
            return self._page(*arguments)
        if data[:4] == abi.call_hash_nodes(0, 0)[:4]:
            return keccak256(self._page(*arguments))
        return None

    def _page(self, first: int, limit: int) -> bytes:
        ids = range(first, max(first, min(first + limit, self.next_id)))
        return abi.encode_page([self.nodes.get(i) for i in ids])


@dataclass(frozen=True, slots=True)
class Told:
    """A block as it is told."""

    header: Raw
    logs: list[Raw]
    state: State
    """At its end."""

    @property
    def number(self) -> int:
        """Its height."""
        return int(self.header["number"], 16)


class Forgery(Fault):
    """Forged blocks on top of a real one; the real ones that come meanwhile are not told of."""

    def __init__(self, contract: Address, base: Told) -> None:
        self._contract = contract
        self.told = [base]  #: the real block and the forged ones on it

    async def answer(self, call: Call, ask: Ask) -> Reply:
        match call["method"]:
            case "eth_blockNumber":
                return result(call, self.told[-1].header["number"])
            case "eth_getBlockByNumber" | "eth_getBlockByHash":
                which = call["params"][0]
                told = self._find(which)
                if told is None and (_number(which) or 0) > self.told[0].number:
                    return result(call, None)
                return await ask(call) if told is None else result(call, told.header)
            case "eth_getLogs":
                return await self._logs(call, ask)
        told = self._find(block_of(call))
        if told is None:
            return await ask(call)
        answer = told.state.view(_calldata(call, self._contract))
        if answer is not None:
            return result(call, "0x" + answer.hex())
        return await ask(with_block(call, self.told[0].header["number"]))

    def notify(self, told: dict[str, Any]) -> None:
        return None

    def _find(self, block: Any) -> Told | None:
        """The forged block that is named somehow."""
        if isinstance(block, dict):
            block = block.get("blockHash") or block.get("blockNumber")
        if block in _NEWEST:
            return self.told[-1]
        forged = self.told[1:]
        number = _number(block)
        return next((t for t in forged if number == t.number or block == t.header["hash"]), None)

    async def _logs(self, call: Call, ask: Ask) -> Reply:
        (query,) = call["params"]
        if "blockHash" in query:
            told = self._find(query)
            return await ask(call) if told is None else result(call, _matching(told.logs, query))
        base, head = self.told[0].number, self.told[-1].number
        first, last = (
            head if query.get(end, "latest") in _NEWEST else (_number(query[end]) or 0)
            for end in ("fromBlock", "toBlock")
        )
        found: list[Raw] = []
        if first <= base:
            ends = {"fromBlock": hex(first), "toBlock": hex(min(last, base))}
            reply = await ask({**call, "params": [{**query, **ends}]})
            if "result" not in reply:
                return reply
            found = reply["result"]
        forged = [log for t in self.told[1:] if first <= t.number <= last for log in t.logs]
        return result(call, [*found, *_matching(forged, query)])


class Restatement(Fault):
    """A real block with other logs and another state, at its own hash.

    The state is told of every block where the true one has not changed since.
    """

    def __init__(self, contract: Address, told: Told, true: Checkpoint) -> None:
        self._contract = contract
        self._told = told
        self._true = true

    async def answer(self, call: Call, ask: Ask) -> Reply:
        if call["method"] == "eth_getLogs":
            return await self._logs(call, ask)
        answer = self._told.state.view(_calldata(call, self._contract))
        if answer is None:
            return await ask(call)
        transaction = {"to": self._contract, "data": "0x" + abi.CALL_CHECKPOINT.hex()}
        reply = await ask({**call, "params": [transaction, block_of(call)]})
        stated = bytes.fromhex(reply.get("result", "0x")[2:])
        if not stated or abi.decode_checkpoint(stated) != self._true:
            return await ask(call)
        return result(call, "0x" + answer.hex())

    async def _logs(self, call: Call, ask: Ask) -> Reply:
        (query,) = call["params"]
        told = _matching(self._told.logs, query)
        if "blockHash" in query:
            mine = query["blockHash"] == self._told.header["hash"]
            return result(call, told) if mine else await ask(call)
        reply = await ask(call)
        found = reply.get("result", [])
        at = [i for i, log in enumerate(found) if log["blockHash"] == self._told.header["hash"]]
        return result(call, [*found[: at[0]], *told, *found[at[-1] + 1 :]]) if at else reply


def _calldata(call: Call, contract: Address) -> bytes:
    """What is asked of the contract; empty for any other call."""
    if call["method"] != "eth_call" or call["params"][0].get("to", "").lower() != contract:
        return b""
    return bytes.fromhex(calldata(call)[2:])


def _matching(logs: list[Raw], query: Raw) -> list[Raw]:
    """The logs that a query is about, as far as addresses and topics go."""

    def fits(wanted: Any, value: str) -> bool:
        options = wanted if isinstance(wanted, list) else [wanted]
        return wanted is None or value.lower() in [str(option).lower() for option in options]

    return [
        log
        for log in logs
        if fits(query.get("address"), log["address"])
        and len(query.get("topics") or ()) <= len(log["topics"])
        and all(map(fits, query.get("topics") or (), log["topics"]))
    ]


def _number(block: Any) -> int | None:
    """The height that names a block; None for a hash or a tag."""
    if not isinstance(block, str) or not block.startswith("0x") or len(block) == 66:
        return None
    return int(block, 16)


def _words(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(32, "big") for number in numbers)
