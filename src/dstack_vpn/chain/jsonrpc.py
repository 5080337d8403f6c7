"""JSON-RPC 2.0 messages: requests to bytes, bytes to replies matched by id.

Pure. A reply is either a result, still as raw JSON, or an error; anything else is refused. A batch
counts only as a whole: one missing or doubled answer spoils it.

No answer is decoded that is larger than what was asked for can be. Bytes alone do not say what that
costs: of ``[],`` over and over each MB becomes 25 MB in memory. So the values in it are bounded as
well, by counting the characters that begin one.
"""

import gc
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

RATE_LIMITS = frozenset((429, -32005, -32016, -32011))
"""Codes that mean "later, please": HTTP's, the usual one, Base's, and proxyd's "no backend"."""

_MAX_TEXT = 200

_PAUSE_GC = 2**20
"""Bytes from which on decoding pauses the garbage collector, which else takes most of the time."""


class Bound(NamedTuple):
    """How large a result may be."""

    size: int
    """Bytes of JSON."""
    values: int
    """JSON values: texts, numbers, lists, objects; those that begin in a text count too."""


KB, MB = 2**10, 2**20

MOST = Bound(32 * MB, 1_000_000)
"""Of one message, whatever was asked."""

SMALL = Bound(MB, 20_000)
"""What is left of a block without its transactions is a hash of each."""

ENVELOPE = Bound(64 * KB, 500)
"""What a message may have around its result, or in place of it."""


class MessageError(ValueError):
    """Not the JSON-RPC that belongs here; the text holds nothing that the peer sent."""


@dataclass(frozen=True, slots=True)
class RpcFault:
    """An error answer."""

    code: int
    message: str
    """What the provider wrote, printable and at most 200 characters; it may hold anything."""


class Request(msgspec.Struct, frozen=True):
    """One request."""

    id: int
    method: str
    params: Sequence[object]
    bound: Bound = SMALL
    """How large the result may be; the server is not told."""


class Message(msgspec.Struct, frozen=True):
    """Whatever a server may send: a reply, or a notification of a subscription."""

    id: Any = None
    result: msgspec.Raw = msgspec.Raw(b"")
    error: Any = None
    method: Any = None
    params: msgspec.Raw = msgspec.Raw(b"")


Reply = object | RpcFault
"""A result as a JSON value, or the error."""

_one_or_many = msgspec.json.Decoder(list[Message] | Message)


def encode(requests: Sequence[Request]) -> bytes:
    """Encode one request as an object, several as a batch."""
    texts = [
        {"jsonrpc": "2.0", "id": request.id, "method": request.method, "params": request.params}
        for request in requests
    ]
    return msgspec.json.encode(texts[0] if len(texts) == 1 else texts)


def bound_of(requests: Iterable[Request]) -> Bound:
    """How large a message may be that answers some requests, or less."""
    bounds = [ENVELOPE]
    for request in requests:
        bounds += (request.bound, ENVELOPE)
    size, values = sum(b.size for b in bounds), sum(b.values for b in bounds)
    return Bound(min(MOST.size, size), min(MOST.values, values))


def check_size(text: bytes | str, bound: Bound, requests: Iterable[Request]) -> None:
    """Check how large a text is before it is decoded.

    Args:
        text: what came.
        bound: what it may have.
        requests: what was asked, for the message.

    Raises:
        MessageError: it is larger.
    """
    if len(text) > bound.size:
        raise too_large(bound.size, requests)
    if len(text) <= bound.values:
        return
    values = (
        text.count(b",") + text.count(b"[") + text.count(b"{")
        if isinstance(text, bytes)
        else text.count(",") + text.count("[") + text.count("{")
    )
    if values > bound.values:
        asked = _asked(requests)
        raise MessageError(f"an answer of more than {bound.values} JSON values to {asked}")


def too_large(size: int, requests: Iterable[Request]) -> MessageError:
    """Say that an answer has more bytes than it may have."""
    limit = f"{size // MB} MB" if size >= MB else f"{size // KB} kB"
    return MessageError(f"an answer of more than {limit} to {_asked(requests)}")


def _asked(requests: Iterable[Request]) -> str:
    return ", ".join(dict.fromkeys(request.method for request in requests)) or "nothing"


def decode_batch(body: bytes, requests: Sequence[Request]) -> dict[int, Reply]:
    """Decode the answer to a batch (or to a single request).

    Returns:
        For each id its reply; a single error object for the whole batch stands for every id.

    Raises:
        MessageError: not JSON-RPC, too large, or an answer is missing or doubled.
    """
    check_size(body, bound_of(requests), requests)
    asked = {request.id: request for request in requests}
    try:
        answer = _one_or_many.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise MessageError("an answer that is not JSON-RPC") from None
    if isinstance(answer, Message):
        if answer.error is not None and answer.id is None:
            return dict.fromkeys(asked, _fault(answer.error))
        answer = [answer]
    replies: dict[int, Reply] = {}
    for message in answer:
        if type(message.id) is not int or message.id not in asked or message.id in replies:
            raise MessageError("an answer to something else, or one answer twice")
        replies[message.id] = reply_of(message, asked[message.id])
    if len(replies) != len(asked):
        raise MessageError(f"{len(replies)} answers to {len(asked)} requests")
    return replies


def is_fault(body: bytes) -> bool:
    """Whether an answer is JSON-RPC, and nothing but errors."""
    try:
        answer = _one_or_many.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    messages = [answer] if isinstance(answer, Message) else answer
    return bool(messages) and all(message.error is not None for message in messages)


def decode_messages(body: bytes | str) -> list[Message]:
    """Decode what came over a WebSocket: one message, or the answers to a batch.

    Raises:
        MessageError: not JSON-RPC.
    """
    try:
        messages = _one_or_many.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise MessageError("a message that is not JSON-RPC") from None
    return [messages] if isinstance(messages, Message) else messages


def reply_of(message: Message, request: Request) -> Reply:
    """The reply to a request in a message.

    Raises:
        MessageError: neither a result nor an error, or a result that is too large.
    """
    if message.error is not None:
        return _fault(message.error)
    return decode_value(message.result, request)


def decode_value(raw: msgspec.Raw, request: Request) -> object:
    """Decode raw JSON that answers a request.

    Raises:
        MessageError: it is missing, too large or too deep.
    """
    text = bytes(raw)
    check_size(text, request.bound, [request])
    pause = len(text) > _PAUSE_GC and gc.isenabled()
    if pause:
        gc.disable()
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise MessageError("an answer with neither result nor error") from None
    finally:
        if pause:
            gc.enable()


def _fault(error: object) -> RpcFault:
    code, text = 0, ""
    if isinstance(error, dict):
        if type(error.get("code")) is int:
            code = error["code"]
        text = str(error.get("message", ""))[:_MAX_TEXT]
    elif isinstance(error, str):
        text = error[:_MAX_TEXT]
    return RpcFault(code, "".join(c if c.isprintable() else " " for c in text))
