"""Our contract as it is followed: one event for every change, and a history that proves the fold.

I/O, over one provider (or, for a snapshot, over all). The proof is what counts: the logs must lead
to the `history` that the provider states for the block. So what a provider says of a block is one
consistent story, and whether it is the true one is decided by how many others tell the same.
"""

from collections.abc import Sequence
from typing import Any

from dstack_vpn.chain import calls
from dstack_vpn.chain.calls import Call, Refusal
from dstack_vpn.chain.contract import NodeChanged, decode_checkpoint
from dstack_vpn.chain.header import Header, bloom_chance
from dstack_vpn.chain.kind import UnprovenError
from dstack_vpn.chain.pages import MAX_TOKENS, PAGE, SnapshotReader
from dstack_vpn.chain.panel import Panel
from dstack_vpn.chain.rpc import Provider
from dstack_vpn.chain.verify import Step, apply_changes, check_proof, fold, may_have_changes
from dstack_vpn.errors import BadAnswerError, ProviderError, WrongChainError
from dstack_vpn.mesh.membership import (
    NO_NODES,
    Address,
    Block,
    BlockHash,
    Checkpoint,
    ContractKind,
    Membership,
    Nodes,
)

UNLIKELY = 0.1
"""Logs are asked for along with the state where the bloom, which names a change, is wrong with less
chance than this. On a busy chain nearly all blooms name one, and to ask each time would cost more
than all else; there the state tells first whether anything changed."""

RANGE = 5
"""Blocks whose logs are asked for at once: some free plans allow no more."""


class CheckpointContract:
    """A contract with `checkpoint()`, `NodeChanged` and pages; see docs/contract.md."""

    name = ContractKind.CHECKPOINT
    exact_ages = False

    def __init__(self, address: Address) -> None:
        """Name it; nothing is asked."""
        self._address = address

    def opening_calls(self, saved: Membership | None) -> list[Call[Any]]:
        """Ask for the checkpoint, the number of tokens, and the digests of those that are known."""
        contract = self._address
        asked: list[Call[Any]] = [calls.latest_checkpoint(contract)]
        last = max(saved.nodes, default=0) if saved else 0
        if saved is None or last > MAX_TOKENS:
            return asked
        pages = [calls.page_digest(contract, "latest", i, PAGE) for i in range(1, last + 1, PAGE)]
        extras: list[Call[Any]] = [calls.next_token_id(contract, "latest"), *pages]
        return [*asked, *map(calls.lenient, extras)]

    def check_opening(self, provider: Provider, answers: Sequence[Any]) -> None:
        """Whether there is a checkpoint: a call that reverts is no sign of the other kind."""
        wrong = WrongChainError(
            f"the contract at {self._address} is not a membership contract of this project: it has"
            f" no usable checkpoint() (asked {provider.name}); for one that has only the published"
            " interface set CONTRACT_KIND=published"
        )
        stated = answers[0]
        if isinstance(stated, Refusal):
            # 3 is what most nodes give for a revert; others say it in words only.
            if stated.code == 3 or "revert" in stated.message.lower():
                raise wrong
            problem = f"eth_call was refused: {stated.message} (code {stated.code})"
            raise ProviderError(provider.name, problem, code=stated.code)
        try:
            decode_checkpoint(stated)
        except BadAnswerError:
            raise wrong from None

    def is_current(self, saved: Membership, block: Block, answers: Sequence[Any]) -> bool:
        """Equal histories: whatever blocks came in between, they changed nothing.

        And the digests show that what comes from the disk is what the contract has.
        """
        stated, *more = answers
        if block.number < saved.block.number or decode_checkpoint(stated) != saved.checkpoint:
            return False
        next_id, *digests = more or (None,)
        if type(next_id) is not int or next_id - 1 > PAGE * len(digests):
            return False
        nodes = saved.nodes
        return digests == [
            calls.digest_of([nodes.get(i) for i in range(first, min(first + PAGE, next_id))])
            for first in range(1, 1 + PAGE * len(digests), PAGE)
        ]

    def first_calls(self, target: Header, *, linked: bool) -> list[Call[Any]]:
        """Ask for the contract's state, and for the logs of the only block there is to fold."""
        stated = calls.optional(calls.checkpoint(self._address, target.block))
        likely = linked and bloom_chance(target.bloom, 2) < UNLIKELY
        return [stated, *(self._log_calls([target]).values() if likely else ())]

    async def fold(
        self,
        provider: Provider,
        before: Checkpoint,
        nodes: Nodes,
        chain: Sequence[Header],
        first: Sequence[Any],
    ) -> list[Step]:
        """Fold the blocks one by one and prove where it ends."""
        stated, *got = first
        if isinstance(stated, Refusal):
            number = chain[-1].block.number
            problem = f"no state at block {number}: {stated.message} ({stated.code})"
            error = ProviderError(provider.name, problem)
            provider.blame(error)
            raise error
        if stated == before:
            # Equal histories: no block in between changed anything.
            return [Step(block=h.block, checkpoint=before, changes={}) for h in chain]
        logs: dict[BlockHash, list[NodeChanged]] = {}
        if got:
            logs[chain[-1].block.hash] = got[0]
        log_calls = self._log_calls([h for h in chain if h.block.hash not in logs])
        if log_calls:
            answers = await provider.batch(list(log_calls.values()))
            logs.update(zip(log_calls, answers, strict=True))
        steps = []
        checkpoint = before
        try:
            for header in chain:
                changes = logs.get(header.block.hash, [])
                step = fold(header.block, checkpoint, nodes, changes)
                checkpoint, nodes = step.checkpoint, apply_changes(nodes, step.changes)
                steps.append(step)
            check_proof(checkpoint, stated)
        except BadAnswerError as error:
            problem = str(error).removeprefix(f"{error.check}: ")
            unproven = UnprovenError(error.check, f"by {provider.name}, {problem}")
            provider.blame(unproven)
            raise unproven from None
        return steps

    async def snapshot(
        self, panel: Panel, block: Block, source: Provider, known: Membership | None
    ) -> tuple[Checkpoint, Nodes]:
        """Read pages from one, confirmed by digests from enough; a known page is only confirmed."""
        # The age of access that is younger than the snapshot would be wrong in it.
        usable = known is not None and known.block.number <= block.number
        nodes = known.nodes if known is not None and usable else NO_NODES
        return await SnapshotReader(panel, block, source, nodes).read()

    async def compare(
        self, panel: Panel, block: Block, source: Provider, known: Membership
    ) -> tuple[Checkpoint, Nodes]:
        """Confirm all pages by their digests; those that differ are read."""
        return await self.snapshot(panel, block, source, known)

    async def count_events(self, provider: Provider, first: int, last: int) -> dict[int, int]:
        """Count the changes in a range of blocks, by parts that every provider allows."""
        parts = [
            calls.change_counts(self._address, start, min(start + RANGE, last + 1) - 1)
            for start in range(first, last + 1, RANGE)
        ]
        found: dict[int, int] = {}
        for part in await provider.batch(parts):
            found |= part
        return found

    def _log_calls(self, headers: Sequence[Header]) -> dict[BlockHash, Call[Any]]:
        return {
            header.block.hash: calls.logs(self._address, header)
            for header in headers
            if may_have_changes(header, self._address)
        }
