"""From the newest verified block of one provider's chain to another one that the provider has.

I/O. Reads the headers in between, lets the kind of contract fold them, and only then changes the
journal, all at once. In the usual case, a target whose parent is known, it is one question.
"""

from collections.abc import Iterable
from typing import Any

from dstack_vpn.chain import calls
from dstack_vpn.chain.calls import Call
from dstack_vpn.chain.header import Header
from dstack_vpn.chain.journal import Journal, Record
from dstack_vpn.chain.kind import Kind
from dstack_vpn.chain.rpc import Provider
from dstack_vpn.errors import BadAnswerError, ChainError

_LOOK_BACK = 8
"""Headers read at once below a fork; doubled until the common ancestor is found."""


class OutOfWindowError(ChainError):
    """No block of the journal leads to the target."""


class Advance:
    """One attempt to reach a target."""

    def __init__(self, provider: Provider, kind: Kind, journal: Journal, target: Header) -> None:
        """Prepare.

        Args:
            provider: who is asked; it has the target.
            kind: of the contract.
            journal: where we are; changed only when all is proven.
            target: where to go.
        """
        self._provider = provider
        self._kind = kind
        self._journal = journal
        self._target = target
        self._headers: dict[int, Header] = {}

    async def run(self) -> list[Record]:
        """Go there.

        Returns:
            The records undone on the way, newest first.

        Raises:
            UnprovenError: what the provider gave is refuted by itself.
            OutOfWindowError: no recent block leads to the target.
            ChainError: no usable answer.
        """
        journal, target = self._journal, self._target.block
        linked = journal.find(target.parent_hash) is not None
        numbers: Iterable[int] = ()
        if not linked:
            ahead = target.number - journal.head.block.number
            if ahead > journal.window or target.number <= journal.oldest.block.number:
                raise OutOfWindowError(
                    f"{self._provider.name} is at block {target.number}, to which no recent block"
                    " leads"
                )
            first = target.number - (ahead - 1 if ahead > 1 else _LOOK_BACK)
            numbers = self._in_window(first, target.number - 1)
        first_calls = self._kind.first_calls(self._target, linked=linked)
        header_calls = self._header_calls(numbers)
        answers = await self._provider.batch([*first_calls, *header_calls.values()])
        self._headers.update(zip(header_calls, answers[len(first_calls) :], strict=True))
        chain, base = await self._link()
        steps = await self._kind.fold(
            self._provider,
            base.checkpoint,
            journal.nodes_at(base),
            chain,
            answers[: len(first_calls)],
        )
        return journal.replace_after(base, steps)

    async def _link(self) -> tuple[list[Header], Record]:
        """The headers from a known block (not included) up to the target, oldest first.

        Raises:
            OutOfWindowError: there is no known block below.
            ChainError: the chain moved while it was read.
        """
        journal = self._journal
        chain = [self._target]
        look_back = _LOOK_BACK
        while (base := journal.find(chain[-1].block.parent_hash)) is None:
            number = chain[-1].block.number - 1
            if number <= journal.oldest.block.number:
                raise OutOfWindowError(
                    f"block {self._target.block.number} of {self._provider.name} is on a branch"
                    f" that left ours before block {journal.oldest.block.number}"
                )
            if number not in self._headers:
                look_back *= 2
                header_calls = self._header_calls(self._in_window(number - look_back, number))
                answers = await self._provider.batch(list(header_calls.values()))
                self._headers.update(zip(header_calls, answers, strict=True))
            below = self._headers[number]
            if below.block.hash != chain[-1].block.parent_hash:
                raise BadAnswerError(
                    "parent", f"{self._provider.name} changed its branch meanwhile"
                )
            chain.append(below)
        chain.reverse()
        return chain, base

    def _in_window(self, first: int, last: int) -> range:
        return range(max(first, self._journal.oldest.block.number + 1), last + 1)

    def _header_calls(self, numbers: Iterable[int]) -> dict[int, Call[Any]]:
        return {number: calls.header_at(number) for number in numbers}
