"""A node that is behind: an old block is its newest, and it knows nothing above."""

# ruff: noqa: D102 - what a method is for is said by the base class

from dataclasses import dataclass
from typing import Any

from lab.rpcfault import Ask, Call, Fault, Reply, block_of, error, result, with_block

_NEWEST = ("latest", "pending")


@dataclass(frozen=True)
class PinnedHead(Fault):
    """Show the chain as it was when it ended with this block.

    Calls on state above are refused as geth does it; a range of logs is cut off in silence, as some
    providers do it.
    """

    number: int

    async def answer(self, call: Call, ask: Ask) -> Reply:
        match call["method"]:
            case "eth_blockNumber":
                return result(call, hex(self.number))
            case "eth_getBlockByNumber":
                return await self._block(call, ask)
            case "eth_getBlockByHash" | "eth_getTransactionReceipt" | "eth_getTransactionByHash":
                return await self._known(call, ask)
            case "eth_getLogs":
                return await self._logs(call, ask)
        block = block_of(call)
        if block is None:
            return await ask(call)
        if block in _NEWEST:
            return await ask(with_block(call, hex(self.number)))
        if await self._above(call, block, ask):
            return error(call, -32000, "header not found")
        return await ask(call)

    def notify(self, told: dict[str, Any]) -> dict[str, Any] | None:
        number = told["params"]["result"].get("number") or told["params"]["result"]["blockNumber"]
        return None if int(number, 16) > self.number else told

    async def _block(self, call: Call, ask: Ask) -> Reply:
        which, *more = call["params"]
        if which in _NEWEST:
            return await ask({**call, "params": [hex(self.number), *more]})
        return await self._known(call, ask)

    async def _known(self, call: Call, ask: Ask) -> Reply:
        reply = await ask(call)
        found = reply.get("result") or {}
        number = found.get("number") or found.get("blockNumber") or "0x0"
        return result(call, None) if int(number, 16) > self.number else reply

    async def _logs(self, call: Call, ask: Ask) -> Reply:
        (query,) = call["params"]
        if "blockHash" in query:
            if await self._above(call, query, ask):
                return error(call, -32000, "unknown block")
            return await ask(call)
        first, last = (self._number(query.get(end, "latest")) for end in ("fromBlock", "toBlock"))
        if first > self.number:
            return result(call, [])
        ends = {"fromBlock": hex(first), "toBlock": hex(min(last, self.number))}
        return await ask({**call, "params": [{**query, **ends}]})

    def _number(self, block: str) -> int:
        if block in _NEWEST:
            return self.number
        return 0 if block == "earliest" else int(block, 16)

    async def _above(self, call: Call, block: Any, ask: Ask) -> bool:
        """Whether a block that is named somehow is one that this node does not have yet."""
        if isinstance(block, dict) and "blockNumber" in block:
            block = block["blockNumber"]
        if isinstance(block, str) and len(block) < 66:
            return block.startswith("0x") and int(block, 16) > self.number
        block_hash = block["blockHash"] if isinstance(block, dict) else block
        asked = {**call, "method": "eth_getBlockByHash", "params": [block_hash, False]}
        found = (await ask(asked)).get("result")
        return found is None or int(found["number"], 16) > self.number
