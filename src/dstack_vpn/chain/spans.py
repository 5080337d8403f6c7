"""How many blocks a provider gives the logs of at once: what its refusals mean, and what to try.

Pure. There is no standard for "that is too much": codes collide (-32012 is one vendor's "too large"
and another's "credits"; -32005 and -32011 are both that and "later, please"), so a refusal is
classed by its text as well. What is not known for certain to be about size is not taken for it.
"""

import re
from dataclasses import dataclass

START = 2000
"""Blocks; what the public endpoint of Base recommends, and within nearly every limit that is paid
for. Free plans of some vendors end at 10 or 5: they say so, and are obeyed."""

_NUMBER = r"\(?(\d[\d,._]*)(k?)\b"
_HINTS = tuple(
    re.compile(pattern + r"\s*" + _NUMBER, re.IGNORECASE)
    for pattern in (
        # The vendors in whose texts each was seen; the number is what they accept.
        r"up to an?",  # Alchemy, Aurora
        r"limited to(?: an?)?",  # QuickNode, 1RPC, Blast, BlockPI
        r"max(?:imum)?(?: allowed)?(?: block)?(?: range)?(?: is| is set to| of)?:?",  # many
        r"number of requested blocks is",  # Thirdweb
        r"at most",  # Coinbase
        r"range (?:exceeds|greater than)",  # Somnia, Swell
        r"smaller than size",  # Harmony
        r"blocks distance:",  # Ankr
        r"\d+ >",  # Blast: "exceeds the range allowed for your plan (5000 > 1000)"
    )
)
_RANGE = re.compile(
    r"(?:range|work|try)\D{0,30}?(0x[0-9a-f]+|\d+)\s*(?:,|-|to)\s*(0x[0-9a-f]+|\d+)", re.IGNORECASE
)
"""A range that would do: Alchemy, Infura, zkSync in hex, reth in decimal."""

_NOT_SIZE = re.compile(
    r"\brate\b|too many requests|per second|credit|compute unit|capacity|quota"
    # A range that is wrong or not there yet, in words that speak of ranges too.
    r"|invalid (block )?range|beyond|unknown block|not found|head block|missing|archive|pruned",
    re.IGNORECASE,
)
_SIZE = re.compile(
    r"\brange|too (many|much) (blocks|results|logs|events|data)|^limit exceeded$"
    r"|\b(blocks|results|logs|events|response|query|size|body|output)\W.{0,40}"
    r"(too (large|big|long|wide)|exceed|limit|greater|larger)"
    r"|(exceed|limit|more than|larger than|greater than).{0,40}"
    r"\b(blocks|results|logs|events|response|size|bytes|MB)\b",
    re.IGNORECASE,
)
_PERHAPS = re.compile(
    # Whoever takes too long may do better with less. proxyd says "no backend" for that too, and
    # some say all of it by the status of HTTP only.
    r"time(d )?\W?out|deadline exceeded|took too long|no answer (with)?in "
    r"|no backend is currently healthy|HTTP status (400|413)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class TooLarge:
    """A refusal that was about size."""

    fits: int | None
    """Blocks that would be accepted, when it says so."""
    lasting: bool
    """Whether that is a limit of the provider's, and not only of this range."""
    certain: bool = True
    """False when a single block is not too large for it only because it says this."""


def too_large(text: str, count: int) -> TooLarge | None:
    """Read a refusal; None when it is about something else, as far as can be told.

    Args:
        text: what the provider wrote.
        count: blocks that were asked for.
    """
    if _NOT_SIZE.search(text):
        return None
    for pattern in _HINTS:
        if (found := pattern.search(text)) is not None:
            limit = int(re.sub(r"\D", "", found[1])) * (1000 if found[2] else 1)
            if 1 <= limit < count:
                return TooLarge(limit, lasting=True)
    if (found := _RANGE.search(text)) is not None:
        first, last = (int(n, 16 if n[:2].lower() == "0x" else 10) for n in found.groups())
        fits = last - first + 1
        if 1 <= fits < count:
            return TooLarge(fits, lasting=False)
    if _SIZE.search(text):
        return TooLarge(None, lasting=False)
    return TooLarge(None, lasting=False, certain=False) if _PERHAPS.search(text) else None


class Span:
    """The number of blocks to ask for next."""

    def __init__(self, start: int = START) -> None:
        """Begin with so many, which is also the most that is ever asked for."""
        self.size = start
        self._most = start

    def shrink(self, refused: TooLarge, count: int) -> None:
        """Ask for less, after so many blocks were refused; one block is the least."""
        if refused.fits is not None and refused.lasting:
            self._most = min(self._most, refused.fits)
        self.size = max(1, min(refused.fits or count // 2, self._most))

    def grow(self) -> None:
        """Ask for a little more: an eighth, since each step too far costs a request."""
        self.size = min(self._most, self.size + max(1, self.size // 8))
