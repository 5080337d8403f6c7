"""The opening: where enough providers are, and which members the contract has there.

I/O. One batch to each provider is enough when what was verified last is still right; else all
tokens are read at one block. Nothing of it is shown before enough providers have told the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog

from dstack_vpn.chain import calls
from dstack_vpn.chain.alarms import Alarms
from dstack_vpn.chain.calls import Call
from dstack_vpn.chain.header import Header
from dstack_vpn.chain.journal import Journal
from dstack_vpn.chain.kind import Kind
from dstack_vpn.chain.panel import Answers, Opening, Panel
from dstack_vpn.chain.rpc import Provider
from dstack_vpn.errors import ChainError, ProviderError, WrongChainError
from dstack_vpn.mesh.membership import Block, Confirmations, Mark, Membership, Node, Nodes, Tag
from dstack_vpn.mesh.snapshot import AlarmCode

log = structlog.get_logger()

TAG_DEPTH = 64
"""Blocks below the head at which a snapshot is taken where a tag decides: state that is older than
128 blocks is mostly not kept, and what a tag has not reached yet waits for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """Where to start."""

    journal: Journal
    """Its one record was agreed on."""
    heads: Mapping[Provider, Header]
    """The newest block of each provider that showed one."""
    target: Header
    """The newest block that enough of them should have; nothing older may be shown."""
    read: bool
    """All tokens were read."""


class Opener:
    """Finds where to start, at first and whenever following has lost the way."""

    def __init__(
        self,
        panel: Panel,
        kind: Kind,
        *,
        alarms: Alarms,
        confirmations: Confirmations,
        patience: float,
        window: int,
        now: Callable[[], float],
    ) -> None:
        """Prepare; the arguments are those of the follower."""
        self._panel = panel
        self._kind = kind
        self._alarms = alarms
        self._depth = TAG_DEPTH if isinstance(confirmations, Tag) else confirmations
        self._patience = patience
        self._window = window
        self._now = now
        self._turn = 0
        self._shorter_since: float | None = None

    async def open(self, known: Membership | None) -> Opened:
        """Find it.

        Args:
            known: what was last verified, by this run or by one before.

        Raises:
            WrongChainError: the providers or the contract are not what was configured.
            ChainError: too few usable answers, or too few that agree.
        """
        try:
            return await self._open(known)
        except ChainError:
            # Another source for what only one is asked for.
            self._turn += 1
            raise

    async def _open(self, known: Membership | None) -> Opened:
        questions = self._kind.opening_calls(known)
        final = known.finalized if known else None
        more: list[Call[Any]] = [calls.header_at_or_none(final.number)] if final else []
        openings, answers = await self._panel.open([*questions, *more])
        openings, answers = self._usable(openings, answers, final)
        heads = {provider: opening.head for provider, opening in openings.items()}
        count = len(questions)
        said = {
            p.name: (o.head.block, o.answers[:count])
            for p, o in openings.items()
            if o.answers is not None
        }
        agreed = self._panel.quorum.agreed(said)
        if known and agreed and self._kind.is_current(known, *agreed):
            block = agreed[0]
            journal = Journal(block, known.checkpoint, known.nodes, window=self._window)
            target = next(header for header in heads.values() if header.block == block)
            return Opened(journal=journal, heads=heads, target=target, read=False)
        block_of = {provider.name: header.block for provider, header in heads.items()}
        # As often as there are providers, so that each is asked for what only one is asked for.
        turn = self._turn // len(self._panel.providers)
        newest = self._panel.quorum.target(block_of, turn)
        if newest is None:
            answers.raise_first()
            raise ChainError("too few providers answered")
        target = next(header for header in heads.values() if header.block == newest)
        if known and newest.number < known.block.number:
            await self._allow_shorter(known.block, newest)
        # Not by the logs since then: they would prove what changed, not what the disk holds.
        journal = await self._read(target, heads, known)
        return Opened(journal=journal, heads=heads, target=target, read=True)

    def _usable(
        self, openings: Mapping[Provider, Opening], answers: Answers, final: Mark | None
    ) -> tuple[dict[Provider, Opening], Answers]:
        """Who shows a contract of the right kind, on a chain that has the newest final block."""
        usable: dict[Provider, Opening] = {}
        errors = dict(answers.errors)
        wrong: dict[Provider, WrongChainError] = {}
        errors |= self._away(openings, final) if final else {}
        for provider, opening in openings.items():
            if provider in errors:
                continue
            if opening.answers is None:
                usable[provider] = opening
                continue
            try:
                self._kind.check_opening(provider, opening.answers)
            except WrongChainError as error:
                wrong[provider] = error
            except ChainError as error:
                errors[provider] = error
            else:
                usable[provider] = opening
        quorum = self._panel.quorum
        possible = {p.name for p in self._panel.providers if p not in wrong}
        if wrong and not quorum.enough(possible):
            raise next(iter(wrong.values()))
        errors |= {provider: ChainError(str(why)) for provider, why in wrong.items()}
        return usable, Answers(answers.values, errors)

    def _away(
        self, openings: Mapping[Provider, Opening], final: Mark
    ) -> dict[Provider, ProviderError]:
        """Who does not have the newest final block in its place, and why.

        Whoever has not come to it yet is late, and has left nothing.

        Raises:
            ChainError: enough of them left it.
        """
        errors: dict[Provider, ProviderError] = {}
        parted: dict[Provider, str] = {}
        there: set[str] = set()
        for provider, opening in openings.items():
            if opening.answers is None:
                continue
            name, newest = provider.name, opening.head.block.number
            header: Header | None = opening.answers[-1]
            if header is not None and header.block.hash == final.hash:
                there.add(name)
            elif header is None and newest < final.number:
                problem = f"is at block {newest}, behind block {final.number}, which is final"
                errors[provider] = ProviderError(name, problem)
            else:
                shown = f"has {header.block.hash[:10]}…" if header else "has none"
                parted[provider] = f"{name} {shown}"
        quorum = self._panel.quorum
        if quorum.enough({p.name for p in parted}):
            text = (
                f"block {final.number} was final as {final.hash[:10]}…, but"
                f" {', '.join(parted.values())}; nobody is admitted. If that chain is the right"
                " one, stop the agent and start once with --reset-state"
            )
            self._alarms.sound(AlarmCode.FINALITY, text)
            raise ChainError(text)
        if quorum.enough(there):
            self._alarms.clear(AlarmCode.FINALITY)
        for provider, shown in parted.items():
            problem = f"its chain is not the one that was final: {shown}"
            errors[provider] = ProviderError(provider.name, problem)
        return errors

    async def _allow_shorter(self, head: Block, target: Block) -> None:
        """Return if the chain was really cut; raise while providers may only be behind.

        A lower head is no reorganisation: as many as are needed must lack our newest block.
        """
        question = calls.header_at_or_none(head.number)

        def lack(values: Mapping[Provider, tuple[Any, ...]]) -> set[str]:
            return {
                p.name
                for p, (there,) in values.items()
                if not there or there.block.hash != head.hash
            }

        quorum = self._panel.quorum
        answers = await self._panel.ask(
            {p: [question] for p in self._panel.providers}, lambda v: quorum.enough(lack(v))
        )
        behind = ChainError(
            f"the newest block of the providers is {target.number}, behind block {head.number},"
            " which is verified"
        )
        if not quorum.enough(lack(answers.values)):
            self._shorter_since = None
            raise behind
        now = self._now()
        if self._shorter_since is None:
            self._shorter_since = now
        if now - self._shorter_since < self._patience:
            raise behind

    async def _read(
        self, target: Header, heads: Mapping[Provider, Header], known: Membership | None
    ) -> Journal:
        """Read a snapshot below the target, so that its members count as confirmed."""
        able = [p for p in self._panel.providers if p in heads and heads[p].block == target.block]
        source = able[self._turn % len(able)]
        base = target
        if self._depth:
            number = max(0, target.block.number - self._depth)
            if known is not None and self._kind.exact_ages:
                # Above what is known only what came since has to be read.
                number = min(max(number, known.block.number), target.block.number)
            (base,) = await source.batch([calls.header_at(number)])
        stated, nodes = await self._kind.snapshot(self._panel, base.block, source, known)
        if known is not None:
            nodes = await self._age(nodes, known, target.block)
        log.info("chain.snapshot", block=base.block.number, tokens=len(nodes))
        return Journal(base.block, stated, nodes, window=self._window)

    async def _age(self, nodes: Nodes, known: Membership, target: Block) -> Nodes:
        """The tokens of a snapshot, with the age of each access as far as what is known tells it.

        Who has the access that he had keeps its age. Whom a branch gives access of which the block
        that is known is no part, such as by dropping a revocation, has it as of now.
        """
        aged = dict(nodes)
        given = [node for node in nodes.values() if node.active and not _had(known, node)]
        if given and not await self._is_there(known.block):
            aged |= {n.token_id: replace(n, since_block=target.number) for n in given}
        if not self._kind.exact_ages:
            for token_id in nodes.keys() & known.nodes.keys():
                node, old = nodes[token_id], known.nodes[token_id]
                if _had(known, node):
                    since = min(node.since_block, old.since_block)
                    aged[token_id] = replace(node, since_block=since)
        return aged

    async def _is_there(self, block: Block) -> bool:
        """Whether enough providers have a block in its place."""
        question = calls.header_at_or_none(block.number)

        def have(values: Mapping[Provider, tuple[Any, ...]]) -> bool:
            there = {p.name for p, (h,) in values.items() if h and h.block.hash == block.hash}
            return self._panel.quorum.enough(there)

        answers = await self._panel.ask({p: [question] for p in self._panel.providers}, have)
        return have(answers.values)


def _had(known: Membership, node: Node) -> bool:
    """Whether a token had the same access already."""
    old = known.nodes.get(node.token_id)
    return old is not None and old.access_state == node.access_state
