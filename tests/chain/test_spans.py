"""What providers say when a range is too large, and what else they say."""

import pytest

from dstack_vpn.chain.spans import Span, TooLarge, too_large

SAYINGS = [
    # Alchemy, in two plans
    (
        "you can make eth_getLogs requests with up to a 10 block range. Based on your parameters,",
        TooLarge(10, lasting=True),
    ),
    (
        "You can make eth_getLogs requests with up to a 1K block range and no limit on the answer",
        TooLarge(1000, lasting=True),
    ),
    (
        "Log response size exceeded. this block range should work: [0x1a2b, 0x1a99]",
        TooLarge(111, lasting=False),
    ),
    # Infura, zkSync
    ("query returned more than 10000 results", TooLarge(None, lasting=False)),
    (
        "Query returned more than 10000 results. Try with this block range [0x64, 0xc7].",
        TooLarge(100, lasting=False),
    ),
    # QuickNode, Blast, BlockPI
    ("eth_getLogs is limited to a 1,000 range", TooLarge(1000, lasting=True)),
    ("eth_getLogs and eth_newFilter are limited to a 5 blocks range", TooLarge(5, lasting=True)),
    ("eth_getLogs is limited to 1024 block range", TooLarge(1024, lasting=True)),
    ("exceeds the range allowed for your plan (2000 > 500).", TooLarge(500, lasting=True)),
    # Base and other nodes behind proxyd
    ("block range too large", TooLarge(None, lasting=False)),
    ("backend response too large", TooLarge(None, lasting=False)),
    (
        "no backend is currently healthy to serve traffic",
        TooLarge(None, lasting=False, certain=False),
    ),
    # reth
    ("query exceeds max block range 1000", TooLarge(1000, lasting=True)),
    (
        "query exceeds max results 20000, retry with the range 1000-1500",
        TooLarge(501, lasting=False),
    ),
    # many
    ("eth_getLogs range is too large, max is 1k blocks", TooLarge(1000, lasting=True)),
    ("block range is too wide (maximum 1024)", TooLarge(1024, lasting=True)),
    ("maximum block range: 500", TooLarge(500, lasting=True)),
    ("Max range: 800", TooLarge(800, lasting=True)),
    (
        "requested too many blocks from 0 to 5000000, maximum is set to 1024",
        TooLarge(1024, lasting=True),
    ),
    ("Maximum allowed number of requested blocks is 1500", TooLarge(1500, lasting=True)),
    ("please limit the query to at most 1000 blocks", TooLarge(1000, lasting=True)),
    ("maximum [from, to] blocks distance: 100", TooLarge(100, lasting=True)),
    ("block range greater than 100 max", TooLarge(100, lasting=True)),
    ("Block range limit exceeded.", TooLarge(None, lasting=False)),
    ("logs matched by query exceeds limit of 10000", TooLarge(None, lasting=False)),
    ("response size should not greater than 10000000 bytes", TooLarge(None, lasting=False)),
    ("limit exceeded", TooLarge(None, lasting=False)),
    ("Query timeout exceeded. Consider reducing your block range.", TooLarge(None, lasting=False)),
    ("query timed out", TooLarge(None, lasting=False, certain=False)),
    ("context deadline exceeded", TooLarge(None, lasting=False, certain=False)),
    ("no answer within 10 s to eth_getLogs", TooLarge(None, lasting=False, certain=False)),
    ("an answer of more than 32 MB", TooLarge(None, lasting=False)),
    ("HTTP status 413", TooLarge(None, lasting=False, certain=False)),
    # What is about something else
    ("over rate limit", None),
    ("daily request count exceeded, request rate limited", None),
    ("Too Many Requests", None),
    ("Your app has exceeded its compute units per second capacity", None),
    ("credits limited", None),
    ("invalid block range params", None),
    ("block range extends beyond current head block", None),
    ("unknown block", None),
    ("missing trie node 0xabc (path )", None),
    ("the method eth_getLogs does not exist/is not available", None),
    ("internal error", None),
    ("HTTP status 502", None),
    ("cannot connect", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "expected"), SAYINGS)
def test_refusals_are_told_apart(text: str, expected: TooLarge | None) -> None:
    """Requirement 29: what is about size and what it suggests; the rest is never taken for it."""
    assert too_large(text, 2000) == expected


@pytest.mark.parametrize(
    "text",
    [
        "limited to a 2000 range",
        "limited to a 0 range",
        "this block range should work: [0x9, 0x1]",
        "range 007-" + "9" * 150,
    ],
)
def test_a_suggestion_that_is_no_help_is_not_followed(text: str) -> None:
    """Not less than what was asked for, or less than a block: then the range is halved."""
    assert too_large(text, 2000) == TooLarge(None, lasting=False)


def test_a_span_halves_down_to_one_block() -> None:
    """Without a suggestion each refusal halves it, and it never gets below one."""
    span = Span(2000)
    sizes = []
    for _ in range(12):
        span.shrink(TooLarge(None, lasting=False), span.size)
        sizes.append(span.size)
    assert sizes == [1000, 500, 250, 125, 62, 31, 15, 7, 3, 1, 1, 1]


def test_a_span_grows_back_slowly_and_not_beyond_a_limit() -> None:
    """An eighth a time, up to where it began, or to what the provider said is its limit."""
    span = Span(2000)
    span.shrink(TooLarge(None, lasting=False), 2000)
    span.grow()
    assert span.size == 1125
    for _ in range(20):
        span.grow()
    assert span.size == 2000
    span.shrink(TooLarge(10, lasting=True), 2000)
    for _ in range(20):
        span.grow()
    assert span.size == 10


def test_the_rest_of_a_range_halves_what_was_asked() -> None:
    """What is halved is the question that failed, which at the end of a range is a smaller one."""
    span = Span(2000)
    span.shrink(TooLarge(None, lasting=False), 60)
    assert span.size == 30
