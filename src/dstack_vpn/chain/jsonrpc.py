"""JSON-RPC 2.0 messages: requests to bytes, bytes to replies matched by id.

Pure. A reply is either a result, still as raw JSON, or an error; anything else is refused. A batch
counts only as a whole: one missing or doubled answer spoils it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

RATE_LIMITS = frozenset((429, -32005, -32016, -32011))
"""Codes that mean "later, please": HTTP's, the usual one, Base's, and proxyd's "no backend"."""

_MAX_TEXT = 200


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
    jsonrpc: str = "2.0"


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
    return msgspec.json.encode(requests[0] if len(requests) == 1 else requests)


def decode_batch(body: bytes, ids: Collection[int]) -> dict[int, Reply]:
    """Decode the answer to a batch (or to a single request).

    Returns:
        For each id its reply; a single error object for the whole batch stands for every id.

    Raises:
        MessageError: not JSON-RPC, or an answer is missing or doubled.
    """
    try:
        answer = _one_or_many.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise MessageError("an answer that is not JSON-RPC") from None
    if isinstance(answer, Message):
        if answer.error is not None and answer.id is None:
            fault = reply_of(answer)
            return dict.fromkeys(ids, fault)
        answer = [answer]
    replies: dict[int, Reply] = {}
    for message in answer:
        if type(message.id) is not int or message.id not in ids or message.id in replies:
            raise MessageError("an answer to something else, or one answer twice")
        replies[message.id] = reply_of(message)
    if len(replies) != len(ids):
        raise MessageError(f"{len(replies)} answers to {len(ids)} requests")
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


def reply_of(message: Message) -> Reply:
    """The reply in a message.

    Raises:
        MessageError: neither a result nor an error.
    """
    if message.error is not None:
        return _fault(message.error)
    return decode_value(message.result)


def decode_value(raw: msgspec.Raw) -> object:
    """Decode raw JSON.

    Raises:
        MessageError: it is missing or too deep.
    """
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise MessageError("an answer with neither result nor error") from None


def _fault(error: object) -> RpcFault:
    code, text = 0, ""
    if isinstance(error, dict):
        if type(error.get("code")) is int:
            code = error["code"]
        text = str(error.get("message", ""))[:_MAX_TEXT]
    elif isinstance(error, str):
        text = error[:_MAX_TEXT]
    return RpcFault(code, "".join(c if c.isprintable() else " " for c in text))
