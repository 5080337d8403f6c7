"""A snapshot: all tokens at one block, read in pages.

I/O. One provider gives the pages; the others confirm each by its digest at the same block hash, and
all state the same checkpoint and the same number of tokens. A page that is known already is not
read: all confirm its digest. Nothing comes out of a snapshot that is not whole: any error, any
disagreement and any change of the block ends it.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from dstack_vpn.chain import calls
from dstack_vpn.chain.calls import Call, Page
from dstack_vpn.chain.panel import Panel
from dstack_vpn.chain.rpc import Provider
from dstack_vpn.chain.verify import check_count
from dstack_vpn.errors import BadAnswerError
from dstack_vpn.mesh.membership import NO_NODES, Block, Checkpoint, Node, Nodes

PAGE = 500
"""Tokens in one call: below 10 million gas and 1 MB, which common limits allow."""

MAX_TOKENS = 1_000_000
"""More than that is taken for a lie: a mesh of such a size needs another design."""

_AT_ONCE = 4


class SnapshotReader:
    """The reading of all tokens at a block."""

    def __init__(
        self, panel: Panel, block: Block, reader: Provider, known: Nodes = NO_NODES
    ) -> None:
        """Prepare.

        Args:
            panel: who is asked.
            block: where; `since_block` of a node that is read is its number.
            reader: who gives the pages.
            known: tokens as they were at a block not newer than that one.
        """
        self._panel = panel
        self._block = block
        self._reader = reader
        self._known = known
        self._limit = asyncio.Semaphore(_AT_ONCE)

    async def read(self) -> tuple[Checkpoint, Nodes]:
        """Read it.

        Raises:
            ChainError: it could not be read whole, or is not agreed on.
        """
        panel, block = self._panel, self._block
        opening: list[Call[Any]] = [
            calls.checkpoint_or_seed(panel.contract, panel.chain_id, block),
            calls.next_token_id(panel.contract, calls.at_hash(block)),
        ]
        (stated, next_id), _ = await panel.settle(
            dict.fromkeys(panel.providers, opening),
            lambda _, value: (value[0], value[1]),
            f"the contract at block {block.number}",
        )
        if next_id - 1 > MAX_TOKENS:
            problem = f"{next_id - 1} tokens; at most {MAX_TOKENS} are believed"
            raise BadAnswerError("page", problem)
        try:
            async with asyncio.TaskGroup() as group:
                pages = [
                    group.create_task(self._page(first, min(PAGE, next_id - first)))
                    for first in range(1, next_id, PAGE)
                ]
        except ExceptionGroup as failed:
            # One sentence is enough: the pages fail for one reason.
            raise failed.exceptions[0] from None
        nodes = {n.token_id: n for page in pages for n in page.result() if n is not None}
        check_count(nodes, stated)
        return stated, nodes

    async def _page(self, first: int, count: int) -> Sequence[Node | None]:
        async with self._limit:
            known = [self._known.get(i) for i in range(first, first + count)]
            if any(known) and await self._still(known, first):
                return known
            return await self._read_page(first, count)

    async def _still(self, known: Sequence[Node | None], first: int) -> bool:
        """Whether all say that these tokens are as we know them."""
        panel, count = self._panel, len(known)
        expected = calls.digest_of(known)
        digest = calls.page_digest(panel.contract, calls.at_hash(self._block), first, count)
        agreed, _ = await panel.settle(
            {provider: [digest] for provider in panel.providers},
            lambda _, value: bytes(value[0]),
            self._what(first),
        )
        return agreed == expected

    async def _read_page(self, first: int, count: int) -> Sequence[Node | None]:
        panel, contract = self._panel, self._panel.contract
        digest = calls.page_digest(contract, calls.at_hash(self._block), first, count)
        plan: dict[Provider, list[Call[Any]]] = {p: [digest] for p in panel.providers}
        plan[self._reader] = [calls.page(contract, self._block, first, count)]
        agreed, answers = await panel.settle(
            plan,
            lambda p, value: value[0].digest if p is self._reader else value[0],
            self._what(first),
            must=self._reader,
        )
        page: Page = answers.values[self._reader][0]
        if len(page.nodes) != count:
            raise BadAnswerError(
                "page",
                f"{self._reader.name} gave {len(page.nodes)} tokens from {first} on, where {count}"
                " belong",
            )
        if agreed != page.digest:
            raise BadAnswerError(
                "page-digest", f"the others refute the page that {self._reader.name} gave"
            )
        return page.nodes

    def _what(self, first: int) -> str:
        return f"the tokens from {first} on at block {self._block.number}"
