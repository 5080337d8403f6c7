"""A snapshot: all tokens at one block, read in pages.

I/O. One provider gives the pages; the others confirm each by its digest at the same block hash, and
all state the same checkpoint and the same number of tokens. Nothing comes out of a snapshot that is
not whole: any error, any disagreement and any change of the block ends it.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from dstack_vpn.chain import calls
from dstack_vpn.chain.calls import Call, Page
from dstack_vpn.chain.journal import Journal
from dstack_vpn.chain.panel import Panel
from dstack_vpn.chain.rpc import Provider
from dstack_vpn.chain.verify import check_count
from dstack_vpn.errors import BadAnswerError
from dstack_vpn.mesh.membership import Block, Checkpoint, Node, Nodes

PAGE = 500
"""Tokens in one call: below 10 million gas and 1 MB, which common limits allow."""

MAX_TOKENS = 1_000_000
"""More than that is taken for a lie: a mesh of such a size needs another design."""

_AT_ONCE = 4


async def read_snapshot(
    panel: Panel, block: Block, reader: Provider, known: Journal | None = None
) -> tuple[Checkpoint, Nodes]:
    """Read all tokens at a block.

    Args:
        panel: who is asked.
        block: where; each node's `since_block` is its number.
        reader: who gives the pages.
        known: what was verified last; kept when the contract's history is still the same.

    Raises:
        ChainError: it could not be read whole, or is not agreed on.
    """
    contract = panel.contract
    opening: list[Call[Any]] = [
        calls.checkpoint_or_seed(contract, panel.chain_id, block),
        calls.next_token_id(contract, block),
    ]
    answers = await panel.ask(dict.fromkeys(panel.providers, opening))
    said = {provider: (value[0], value[1]) for provider, value in answers.values.items()}
    stated, next_id = panel.agree(said, f"the contract at block {block.number}", answers)
    if known is not None and known.head.checkpoint == stated:
        return stated, known.nodes
    if next_id - 1 > MAX_TOKENS:
        raise BadAnswerError("page", f"{next_id - 1} tokens; at most {MAX_TOKENS} are believed")
    nodes: dict[int, Node] = {}
    limit = asyncio.Semaphore(_AT_ONCE)

    async def one(first: int) -> None:
        async with limit:
            page = await _read_page(panel, block, reader, first)
        if len(page.nodes) != min(PAGE, next_id - first):
            raise BadAnswerError(
                "page", f"{len(page.nodes)} tokens from {first} on, where {next_id - 1} is the last"
            )
        nodes.update({node.token_id: node for node in page.nodes if node is not None})

    try:
        async with asyncio.TaskGroup() as group:
            for first in range(1, next_id, PAGE):
                group.create_task(one(first), name=f"page {first}")
    except ExceptionGroup as failed:
        # One sentence is enough: the pages fail for one reason.
        raise failed.exceptions[0] from None
    check_count(nodes, stated)
    return stated, nodes


async def _read_page(panel: Panel, block: Block, reader: Provider, first: int) -> Page:
    plan: dict[Provider, list[Call[Any]]] = {
        provider: [calls.page_digest(panel.contract, block, first, PAGE)]
        for provider in panel.providers
    }
    plan[reader] = [calls.page(panel.contract, block, first, PAGE)]
    answers = await panel.ask(plan)
    if reader not in answers.values:
        raise answers.errors[reader]
    page: Page = answers.values[reader][0]
    digests: Mapping[Provider, bytes] = {
        provider: page.digest if provider is reader else value[0]
        for provider, value in answers.values.items()
    }
    agreed = panel.agree(digests, f"the tokens from {first} on at block {block.number}", answers)
    if agreed != page.digest:
        raise BadAnswerError("page-digest", f"the others refute the page that {reader.name} gave")
    return page
