"""JSON-RPC messages: batches count only as a whole, garbage is only garbage."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.chain import jsonrpc
from dstack_vpn.chain.jsonrpc import (
    SMALL,
    Bound,
    MessageError,
    Request,
    RpcFault,
    decode_batch,
    decode_messages,
    encode,
    is_fault,
)


def result(number: object, value: object = "0x1") -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": number, "result": value}


def asked(*numbers: int, bound: Bound = SMALL) -> list[Request]:
    return [Request(id=i, method="eth_chainId", params=(), bound=bound) for i in numbers]


def body(value: object) -> bytes:
    return json.dumps(value).encode()


def test_one_request_is_an_object_and_several_are_a_list() -> None:
    """Providers without batches still serve single requests."""
    one, two = (Request(id=i, method="eth_chainId", params=()) for i in (1, 2))
    assert json.loads(encode([one])) == {
        "jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": [],
    }  # fmt: skip
    assert [r["id"] for r in json.loads(encode([one, two]))] == [1, 2]


def test_errors_alone_are_told_from_all_else() -> None:
    """What comes with an HTTP error is of use only if it says why."""
    error = {"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": "no"}}
    assert is_fault(body(error))
    assert is_fault(body([error, error]))
    for other in ([error, result(2)], result(1), [], "busy", None, 7):
        assert not is_fault(body(other))
    assert not is_fault(b"<html>")


def test_answers_are_matched_by_id_in_any_order() -> None:
    """The order of a batch's answers means nothing."""
    assert decode_batch(body([result(2, "b"), result(1, "a")]), asked(1, 2)) == {1: "a", 2: "b"}
    assert decode_batch(body(result(1, None)), asked(1)) == {1: None}


@pytest.mark.parametrize(
    "answer",
    [
        [result(1)],
        [result(1), result(1)],
        [result(1), result(2), result(3)],
        [result(1), result("2")],
        [result(1), result(2.0)],
        [result(1), result(True)],
        [result(1), {"id": 2}],
        [],
        {},
        result(1),
        "nonsense",
        None,
        5,
        [[result(1), result(2)]],
    ],
)
def test_a_batch_with_a_hole_is_no_answer(answer: object) -> None:
    """Missing, doubled, foreign or empty answers spoil the whole batch."""
    with pytest.raises(MessageError):
        decode_batch(body(answer), asked(1, 2))


def test_an_error_for_the_whole_batch_is_an_error_for_each() -> None:
    """A rate limit comes as one object in place of a list."""
    fault = RpcFault(-32005, "slow down")
    answer = {"jsonrpc": "2.0", "id": None, "error": {"code": -32005, "message": "slow down"}}
    assert decode_batch(body(answer), asked(1, 2)) == {1: fault, 2: fault}


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        ({"code": 3, "message": "execution reverted", "data": "0x"}, (3, "execution reverted")),
        ({"code": "3", "message": 5}, (0, "5")),
        ("plain", (0, "plain")),
        (["odd"], (0, "")),
        ({"message": "a\nb\x1b[31m" + "x" * 999}, (0, ("a b [31m" + "x" * 999)[:200])),
    ],
)
def test_errors_are_made_harmless(error: object, fault: tuple[int, str]) -> None:
    """Whatever a provider writes, what we keep is short and printable."""
    (found,) = decode_batch(body({"id": 1, "error": error}), asked(1)).values()
    assert isinstance(found, RpcFault)
    assert (found.code, found.message) == fault


TINY = Bound(1024, 50)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b'"' + b"a" * 1024 + b'"', "more than 1 kB to eth_chainId"),
        (b"[" + b"[]," * 30 + b"[]]", "more than 50 JSON values to eth_chainId"),
        (b"[" + b'{"a":1},' * 30 + b"[]]", "more than 50 JSON values to eth_chainId"),
        (b"[" + b"1," * 60 + b"1]", "more than 50 JSON values to eth_chainId"),
    ],
)
def test_a_result_is_bounded_by_its_call(value: bytes, words: str) -> None:
    """By its bytes, and by the values in it, which are what costs memory."""
    answer = b'{"id":1,"result":%s}' % value
    assert decode_batch(answer, asked(1)) == {1: json.loads(value)}
    with pytest.raises(MessageError, match=words):
        decode_batch(answer, asked(1, bound=TINY))


@pytest.mark.parametrize(
    "answer",
    [
        b'{"id":1,"result":[%s[]]}',
        b'{"id":1,"error":[%s[]]}',
        b'{"id":[%s[]],"result":1}',
        b"[%s[]]",
    ],
)
def test_nothing_is_decoded_of_a_message_that_is_too_large(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever in the message the mass is: no decoder sees it."""

    class Untouched:
        def decode(self, _: object) -> object:
            raise AssertionError

    monkeypatch.setattr(jsonrpc, "_one_or_many", Untouched())
    with pytest.raises(MessageError, match=r"an answer of more than .* to eth_chainId"):
        decode_batch(answer % (b"[]," * 100_000), asked(1, bound=TINY))


@given(st.binary(max_size=200))
def test_garbage_is_a_message_error(data: bytes) -> None:
    """No bytes do anything else."""
    for decode in (lambda d: decode_batch(d, asked(1)), decode_messages):
        with contextlib.suppress(MessageError):
            decode(data)


def test_deep_nesting_is_a_message_error() -> None:
    """A hundred thousand brackets do not exhaust the stack."""
    deep = b'{"id":1,"result":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(MessageError):
        decode_batch(deep, asked(1))
