"""The contract that has only the published interface, as it is followed.

I/O. Such a contract proves nothing by itself: no history, no list of its tokens. What takes the
place of a proof, for one provider: logs come by block hash and are held against the bloom; events
only say which tokens to read again, at that very block; and where somebody is admitted, the logs
are held against the receipts that the header binds. Beyond that it takes the agreement of enough
providers, on a checkpoint that is made of the content (`tokens.summarize`).

A token that no log names is not known: none of the interface's views lists tokens. So the history
must begin before the first mint.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from dstack_vpn.chain import calls
from dstack_vpn.chain.calls import Call
from dstack_vpn.chain.header import Header, bloom_chance
from dstack_vpn.chain.kind import UnprovenError
from dstack_vpn.chain.panel import Answers, Panel
from dstack_vpn.chain.published_calls import (
    Log,
    events_of,
    logs_in,
    may_concern,
    proved_logs,
)
from dstack_vpn.chain.ranges import BackfillLog, LogHistory, ask_patiently
from dstack_vpn.chain.rpc import Provider
from dstack_vpn.chain.spans import START
from dstack_vpn.chain.states import read_states
from dstack_vpn.chain.tokens import (
    History,
    admits,
    concerned,
    settle_all,
    step,
    summarize,
)
from dstack_vpn.chain.verify import Step, apply_changes
from dstack_vpn.errors import BadAnswerError, ChainError
from dstack_vpn.mesh.membership import (
    NO_NODES,
    Address,
    Block,
    BlockHash,
    Checkpoint,
    ContractKind,
    Membership,
    Node,
    Nodes,
)

BY_CHANCE = 0.01
"""An empty answer is looked into where the bloom names the contract with less chance than that."""


class PublishedContract:
    """A contract with `getNodeAccess`, `ownerOf` and the events of the published interface."""

    name = ContractKind.PUBLISHED
    exact_ages = True

    def __init__(
        self, address: Address, *, chain_id: int, start_block: int, chunk: int = START
    ) -> None:
        """Prepare, without traffic.

        Args:
            address: the contract.
            chain_id: EIP-155 id of its chain.
            start_block: the block that it was deployed in, or an older one.
            chunk: blocks of which logs are asked for at once, at most.
        """
        self._address = address
        self._chain_id = chain_id
        self._start = start_block
        self._chunk = chunk
        self._histories: dict[Provider, LogHistory] = {}
        """What was read of the logs, for as long as a start may have to be tried again."""

    def opening_calls(self, saved: Membership | None) -> list[Call[Any]]:
        """Ask nothing: no single answer shows that what is saved is right."""
        del saved
        return []

    def check_opening(self, provider: Provider, answers: Sequence[Any]) -> None:
        """Accept any contract: there is no view by which one could be told for certain."""

    def is_current(self, saved: Membership, block: Block, answers: Sequence[Any]) -> bool:
        """Never: all tokens are read again, which spares only their old history."""
        del saved, block, answers
        return False

    def first_calls(self, target: Header, *, linked: bool) -> list[Call[Any]]:
        """Ask for the logs of the only block there is to fold."""
        if linked and may_concern(target, self._address):
            return [logs_in(self._address, target)]
        return []

    async def fold(
        self,
        provider: Provider,
        before: Checkpoint,
        nodes: Nodes,
        chain: Sequence[Header],
        first: Sequence[Any],
    ) -> list[Step]:
        """Read the logs of all blocks, and the tokens that they are about block by block."""
        logs: dict[BlockHash, list[Log]] = {}
        if first:
            logs[chain[-1].block.hash] = first[0]
        asked = [h for h in chain if may_concern(h, self._address) and h.block.hash not in logs]
        if asked:
            answers = await provider.batch([logs_in(self._address, header) for header in asked])
            logs.update({h.block.hash: got for h, got in zip(asked, answers, strict=True)})
        steps = []
        checkpoint = before
        try:
            for header in chain:
                found = logs.get(header.block.hash)
                folded = await self._step(provider, header, checkpoint, nodes, found)
                checkpoint, nodes = folded.checkpoint, apply_changes(nodes, folded.changes)
                steps.append(folded)
        except UnprovenError as error:
            provider.blame(error)
            raise
        return steps

    async def _step(
        self,
        provider: Provider,
        header: Header,
        before: Checkpoint,
        nodes: Nodes,
        logs: list[Log] | None,
    ) -> Step:
        """One block, from its logs; None when its bloom excludes them."""
        block = header.block
        unchanged = Step(block=block, checkpoint=before, changes={})
        if logs is None:
            return unchanged
        if not logs and bloom_chance(header.bloom, 1) < BY_CHANCE:
            await self._check(provider, header, logs, "bloom-empty")
        events = events_of(logs)
        if not events:
            return unchanged
        states = await read_states(provider, self._address, block, concerned(events, nodes))
        folded = step(block, events, states, nodes, chain_id=self._chain_id, contract=self._address)
        if admits(folded.changes, nodes):
            await self._check(provider, header, logs, "receipts")
        return folded

    async def _check(self, provider: Provider, header: Header, logs: list[Log], check: str) -> None:
        """Hold the logs of a block against its receipts, which nobody can alter.

        Raises:
            UnprovenError: they are not the same.
            ChainError: there are no usable receipts; without them the block is not accepted.
        """
        (proved,) = await provider.batch([proved_logs(self._address, header)])
        if proved != logs:
            raise UnprovenError(
                check,
                f"by {provider.name}, {len(logs)} logs of block {header.block.number} that are not"
                f" the {len(proved)} of its receipts",
            )

    async def snapshot(
        self,
        panel: Panel,
        block: Block,
        source: Provider,  # noqa: ARG002 - everybody reads all of it
        known: Membership | None,
    ) -> tuple[Checkpoint, Nodes]:
        """Let each provider read logs and tokens, until enough have the same.

        What is known spares the log history up to its block, where a provider still has that block;
        the state of every token is read again. Ages of access are exact and part of what is agreed
        on.
        """
        if self._start > block.number:
            await self._check_start(panel)
            return self._summarize({})
        if known is not None and (
            known.kind is not ContractKind.PUBLISHED or known.block.number > block.number
        ):
            known = None

        async def read(provider: Provider) -> tuple[Node, ...]:
            return await self._read_all(provider, block, known)

        nodes = await _agree(panel, read, f"the tokens at block {block.number}")
        return self._summarize({node.token_id: node for node in nodes})

    async def _check_start(self, panel: Panel) -> None:
        """Tell a contract that is younger than a block from a start that is wrong.

        Raises:
            ChainError: the start is not on the chain yet, or nobody says how long that is.
        """
        answers = await panel.ask({provider: [calls.latest()] for provider in panel.providers})
        heads = {p.name: head.block.number for p, (head,) in answers.values.items()}
        newest = panel.quorum.level(heads)
        if newest is None:
            answers.raise_first()
        elif newest < self._start:
            raise ChainError(
                f"START_BLOCK is {self._start}, but the chain is at block {int(newest)}: it must be"
                " the block that the contract was deployed in, or an older one"
            )

    async def _read_all(
        self, provider: Provider, block: Block, known: Membership | None
    ) -> tuple[Node, ...]:
        first, before = self._start, NO_NODES
        if known is not None:
            (there,) = await ask_patiently(provider, [calls.header_at_or_none(known.block.number)])
            if there is not None and there.block.hash == known.block.hash:
                first, before = known.block.number + 1, known.nodes
        history = self._histories.get(provider)
        if history is None or history.first != first:
            history = LogHistory(provider, self._address, first, chunk=self._chunk)
            self._histories[provider] = history
        events = History(events_of(await history.read(block, BackfillLog(provider))))
        states = await read_states(provider, self._address, block, {*before, *events.token_ids})
        nodes = settle_all(before, events, states, block=block.number)
        return tuple(nodes.values())

    async def compare(
        self,
        panel: Panel,
        block: Block,
        source: Provider,  # noqa: ARG002 - everybody reads all of it
        known: Membership,
    ) -> tuple[Checkpoint, Nodes]:
        """What the tokens of an agreed block are when all their states are read again.

        A key that changed without an event suspends its token, since nobody set it; what is only
        missing here comes from a snapshot.

        Args:
            panel: who is asked.
            block: where.
            source: not used.
            known: the tokens as they were followed to that block.

        Raises:
            ChainError: it could not be read, or is not agreed on.
        """

        async def read(provider: Provider) -> tuple[Node, ...]:
            states = await read_states(provider, self._address, block, set(known.nodes))
            nodes = settle_all(known.nodes, History(()), states, block=block.number)
            return tuple(nodes.values())

        agreed = await _agree(panel, read, f"the tokens at block {block.number}")
        # Tokens are followed by now, and a later start goes on from what is known of them.
        self._histories.clear()
        return self._summarize({node.token_id: node for node in agreed})

    async def count_events(self, provider: Provider, first: int, last: int) -> dict[int, int]:
        """Count the events in a range of blocks."""
        (end,) = await provider.batch([calls.header_at(last)])
        history = LogHistory(provider, self._address, first, chunk=self._chunk)
        return dict(Counter(placed.at.block for placed in events_of(await history.read(end.block))))

    def _summarize(self, nodes: Nodes) -> tuple[Checkpoint, Nodes]:
        return summarize(nodes, chain_id=self._chain_id, contract=self._address), nodes


async def _agree(
    panel: Panel, read: Callable[[Provider], Awaitable[tuple[Node, ...]]], what: str
) -> tuple[Node, ...]:
    """What enough providers give in the end; whoever is slower than that is not waited for.

    Raises:
        ChainError: too few gave anything.
        DisagreementError: they contradict each other.
    """
    found: dict[Provider, tuple[Node, ...]] = {}
    errors: dict[Provider, ChainError] = {}

    async def one(provider: Provider) -> None:
        try:
            found[provider] = await read(provider)
        except ChainError as error:
            errors[provider] = error

    def agreed() -> tuple[Node, ...] | None:
        return panel.quorum.agreed({p.name: nodes for p, nodes in found.items()})

    async with asyncio.TaskGroup() as group:
        pending = {
            group.create_task(one(provider), name=f"read {provider.name}")
            for provider in panel.providers
        }
        while pending and agreed() is None:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
    nodes: tuple[Node, ...] = panel.agree(found, what, Answers({}, errors))
    for provider, other in found.items():
        if other != nodes:
            provider.blame(BadAnswerError("snapshot", f"{provider.name} has other tokens"))
    return nodes
