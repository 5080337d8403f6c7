"""What a fault of a provider is, and how it reads a call and makes a reply; see `rpcfaults`."""

# ruff: noqa: D102 - what a method is for is said by the base class

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from eth_utils.crypto import keccak

Call = dict[str, Any]
Reply = dict[str, Any]
Ask = Callable[[Call], Awaitable[Reply]]
"""Asks whoever is nearer to the chain: another fault, or the chain itself."""
Body = bytes | AsyncIterator[bytes]
"""A whole answer, or one that comes in pieces and may never end."""

# Which parameter names the block.
_BLOCK_AT = {
    "eth_call": 1,
    "eth_getBalance": 1,
    "eth_getBlockReceipts": 0,
    "eth_getCode": 1,
    "eth_getProof": 2,
    "eth_getStorageAt": 2,
    "eth_getTransactionCount": 1,
}


class HttpStatus(Exception):  # noqa: N818 - what is answered
    """The whole request is to be answered with this status."""

    def __init__(self, status: int, retry_after: int | None = None) -> None:
        super().__init__(f"HTTP status {status}")
        self.status = status
        self.headers = "" if retry_after is None else f"Retry-After: {retry_after}\r\n"


def result(call: Call, value: Any) -> Reply:
    """The reply that gives a value."""
    return {"jsonrpc": "2.0", "id": call["id"], "result": value}


def error(call: Call, code: int, message: str) -> Reply:
    """The reply that refuses."""
    return {"jsonrpc": "2.0", "id": call["id"], "error": {"code": code, "message": message}}


def calldata(call: Call) -> str:
    """What a call hands to the contract, in hex; empty for all but eth_call."""
    if call["method"] != "eth_call":
        return ""
    return str(call["params"][0].get("data") or call["params"][0].get("input") or "")


def selector(view: str) -> str:
    """The selector of a view's signature, in hex; what is in hex already stays."""
    return view if view.startswith("0x") else "0x" + keccak(text=view)[:4].hex()


def with_block(call: Call, block: Any) -> Call:
    """The same call about another block."""
    at = _BLOCK_AT[call["method"]]
    params = list(call["params"])
    return {**call, "params": [*params[:at], block, *params[at + 1 :]]}


def block_of(call: Call) -> Any:
    """How a call names its block; None where it names none."""
    at = _BLOCK_AT.get(call["method"])
    if at is None:
        return None
    return call["params"][at] if len(call["params"]) > at else "latest"


def anything(_call: Call) -> bool:
    """Every call."""
    return True


class Fault:
    """A way to fail; this one does nothing."""

    freezes: ClassVar[bool] = False  #: nothing is read from a connection, nor written to one

    def hits(self, call: Call) -> bool:
        """Whether a call is among those that fail."""
        return True

    def turn(self) -> "Fault | None":
        """Which fault the next request meets."""
        return self

    def backend(self) -> str:
        """The URL of whom to ask instead; empty for the proxy's own."""
        return ""

    async def meet(self) -> None:
        """Meet a client that opens a WebSocket."""

    async def answer(self, call: Call, ask: Ask) -> Reply:
        """Answer a call that is hit."""
        return await ask(call)

    def body(self, body: Body) -> Body:
        """Change the bytes of an answer to a request with a call that is hit."""
        return body

    def notify(self, told: dict[str, Any]) -> dict[str, Any] | None:
        """Change what a subscription tells; None to keep it quiet."""
        return told


@dataclass(frozen=True)
class OnCalls(Fault):
    """A fault of some calls only."""

    method: str = "*"
    """Of the calls that it hits."""
    _: KW_ONLY
    to: str = ""
    """Only calls of this view: its signature, or its selector in hex."""
    where: Callable[[Call], bool] = anything
    """Only calls that fit."""

    def hits(self, call: Call) -> bool:
        if self.method not in ("*", call["method"]) or not self.where(call):
            return False
        return not self.to or calldata(call).startswith(selector(self.to))
