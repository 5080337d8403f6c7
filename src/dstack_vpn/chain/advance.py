"""From the newest verified block to another one that the providers have.

I/O. Reads the headers in between and the logs from one provider, and the contract's state at the
target from everybody; proves the fold; and only then changes the journal, all at once. In the usual
case, a target whose parent is known, that is one question to each provider.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dstack_vpn.chain import calls
from dstack_vpn.chain.calls import Call, Refusal
from dstack_vpn.chain.contract import NodeChanged
from dstack_vpn.chain.header import Header
from dstack_vpn.chain.journal import Journal, Record
from dstack_vpn.chain.panel import Answers, Panel
from dstack_vpn.chain.rpc import Provider
from dstack_vpn.chain.verify import Step, apply_changes, check_proof, fold, may_have_changes
from dstack_vpn.errors import BadAnswerError, ChainError, DisagreementError, ProviderError
from dstack_vpn.mesh.membership import BlockHash, Checkpoint

_LOOK_BACK = 8
"""Headers read at once below a fork; doubled until the common ancestor is found."""


class UnprovenError(BadAnswerError):
    """The logs do not lead to the state that the providers state."""


class OutOfWindowError(ChainError):
    """No block of the journal leads to the target."""


class Advance:
    """One attempt to reach a target."""

    def __init__(
        self, panel: Panel, journal: Journal, target: Header, heads: Mapping[Provider, Header]
    ) -> None:
        """Prepare.

        Args:
            panel: who is asked.
            journal: where we are; changed only when all is proven.
            target: where to go.
            heads: the newest block of each provider that showed one.
        """
        self._panel = panel
        self._journal = journal
        self._target = target
        self._heads = heads
        self._headers: dict[int, Header] = {}
        self._logs: dict[BlockHash, list[NodeChanged]] = {}

    async def run(self, source: Provider) -> int:
        """Go there.

        Args:
            source: who gives headers and logs; one that has the target.

        Returns:
            The number of blocks undone on the way.

        Raises:
            UnprovenError: what the source gave is refuted.
            OutOfWindowError: no recent block leads to the target.
            ChainError: no usable answer, or none that is agreed on.
        """
        journal, target = self._journal, self._target.block
        numbers: Iterable[int] = ()
        wanted: list[Header] = []
        if journal.find(target.parent_hash) is not None:
            wanted = [self._target]
        else:
            ahead = target.number - journal.head.block.number
            if ahead > journal.window or target.number <= journal.oldest.block.number:
                raise OutOfWindowError(f"no recent block leads to block {target.number}")
            first = target.number - (ahead - 1 if ahead > 1 else _LOOK_BACK)
            numbers = self._in_window(first, target.number - 1)
        stated = await self._ask_target(source, numbers, wanted)
        chain, base = await self._link(source)
        steps = await self._steps(source, chain, base, stated)
        return journal.replace_after(base, steps)

    async def _ask_target(
        self, source: Provider, numbers: Iterable[int], wanted: Sequence[Header]
    ) -> Checkpoint:
        """Ask everybody for the contract's state at the target; the source for the rest as well."""
        target = self._target.block
        contract = self._panel.contract
        plan: dict[Provider, list[Call[Any]]] = {}
        for provider in self._panel.providers:
            plan[provider] = [calls.optional(calls.checkpoint(contract, target))]
            if not self._shows_target(provider):
                plan[provider].append(calls.header_at_or_none(target.number))
        own = len(plan[source])
        header_calls, log_calls = self._header_calls(numbers), self._log_calls(wanted)
        plan[source] += [*header_calls.values(), *log_calls.values()]
        answers = await self._panel.ask(plan)
        if source not in answers.values:
            raise answers.errors[source]
        extras = answers.values[source][own:]
        self._headers.update(zip(header_calls, extras, strict=False))
        self._logs.update(zip(log_calls, extras[len(header_calls) :], strict=True))
        return self._agreed_state(answers)

    def _agreed_state(self, answers: Answers) -> Checkpoint:
        """What enough providers say about the contract at the target."""
        target = self._target.block
        errors = dict(answers.errors)
        said: dict[Provider, tuple[BlockHash, Checkpoint | None]] = {}
        for provider, (stated, *confirmed) in answers.values.items():
            header = self._target if self._shows_target(provider) else confirmed[0]
            if header is None:
                errors[provider] = ProviderError(provider.name, f"has no block {target.number} yet")
            elif header.block.hash != target.hash:
                said[provider] = (header.block.hash, None)
            elif isinstance(stated, Refusal):
                problem = f"no state at block {target.number}: {stated.message} ({stated.code})"
                errors[provider] = ProviderError(provider.name, problem)
                provider.blame(errors[provider])
            else:
                said[provider] = (target.hash, stated)
        hashes = {block_hash[:10] for block_hash, _ in said.values()}
        what = f"the contract's state at block {target.number}"
        if len(hashes) > 1:
            what = f"block {target.number} ({'…, '.join(sorted(hashes))}…)"
        _, agreed = self._panel.agree(said, what, Answers(answers.values, errors))
        if agreed is None:
            raise DisagreementError(f"block {target.number} was replaced while it was read")
        return agreed

    def _shows_target(self, provider: Provider) -> bool:
        head = self._heads.get(provider)
        return head is not None and head.block == self._target.block

    async def _link(self, source: Provider) -> tuple[list[Header], Record]:
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
                    f"block {self._target.block.number} is on a branch that left ours before"
                    f" block {journal.oldest.block.number}"
                )
            if number not in self._headers:
                look_back *= 2
                header_calls = self._header_calls(self._in_window(number - look_back, number))
                answers = await source.batch(list(header_calls.values()))
                self._headers.update(zip(header_calls, answers, strict=True))
            below = self._headers[number]
            if below.block.hash != chain[-1].block.parent_hash:
                raise BadAnswerError("parent", f"{source.name} changed its branch meanwhile")
            chain.append(below)
        chain.reverse()
        return chain, base

    async def _steps(
        self, source: Provider, chain: Sequence[Header], base: Record, stated: Checkpoint
    ) -> list[Step]:
        """Fold the blocks one by one and prove where it ends."""
        checkpoint, nodes = base.checkpoint, self._journal.nodes_at(base)
        if stated == checkpoint:
            # Equal histories: no block in between changed anything.
            return [Step(block=h.block, checkpoint=checkpoint, changes={}) for h in chain]
        log_calls = self._log_calls([h for h in chain if h.block.hash not in self._logs])
        if log_calls:
            answers = await source.batch(list(log_calls.values()))
            self._logs.update(zip(log_calls, answers, strict=True))
        steps = []
        try:
            for header in chain:
                changes = self._logs.get(header.block.hash, [])
                step = fold(header.block, checkpoint, nodes, changes)
                checkpoint, nodes = step.checkpoint, apply_changes(nodes, step.changes)
                steps.append(step)
            check_proof(checkpoint, nodes, stated)
        except BadAnswerError as error:
            problem = str(error).removeprefix(f"{error.check}: ")
            unproven = UnprovenError(error.check, f"by {source.name}, {problem}")
            source.blame(unproven)
            raise unproven from None
        return steps

    def _in_window(self, first: int, last: int) -> range:
        return range(max(first, self._journal.oldest.block.number + 1), last + 1)

    def _header_calls(self, numbers: Iterable[int]) -> dict[int, Call[Header]]:
        return {number: calls.header_at(number) for number in numbers}

    def _log_calls(self, headers: Iterable[Header]) -> dict[BlockHash, Call[list[NodeChanged]]]:
        contract = self._panel.contract
        return {
            header.block.hash: calls.logs(contract, header)
            for header in headers
            if may_have_changes(header, contract)
        }
