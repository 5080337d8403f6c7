"""All providers, asked at once, and what they agree on.

I/O. Between the providers and those who read a block: asks in parallel, turns answers into an
agreement or into a sentence why there is none, and sees to it that every provider is on the chain
and the contract that were configured.
"""

import asyncio
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from dstack_vpn.chain import calls
from dstack_vpn.chain.calls import Call
from dstack_vpn.chain.header import Header
from dstack_vpn.chain.journal import Record
from dstack_vpn.chain.keccak import keccak256
from dstack_vpn.chain.quorum import Quorum
from dstack_vpn.chain.rpc import Provider
from dstack_vpn.errors import (
    BadAnswerError,
    ChainError,
    DisagreementError,
    ProviderError,
    WrongChainError,
)
from dstack_vpn.mesh.membership import (
    NO_SUSPECTS,
    Address,
    BlockHash,
    ContractKind,
    Mark,
    Membership,
    Nodes,
    Suspects,
)

T = TypeVar("T", bound=Hashable)

_NO_CODE = keccak256(b"")

GRACE = 1.0
"""Seconds that slow providers get when enough others have answered, but not the same."""


@dataclass(frozen=True, slots=True)
class ChainIdentity:
    """What must never change: which chain it is, and which code the contract has."""

    genesis: BlockHash
    code_hash: bytes
    """keccak-256 of the contract's code."""

    @classmethod
    def of(cls, genesis: Header, code: bytes) -> "ChainIdentity":
        """What a provider shows."""
        return cls(genesis.block.hash, keccak256(code))


@dataclass(frozen=True, slots=True)
class Opening:
    """What one provider says when it is asked for the first time."""

    head: Header
    answers: tuple[Any, ...] | None
    """To the questions of the kind of contract, at `head`; None when that moved meanwhile."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What came back from those who were asked."""

    values: Mapping[Provider, tuple[Any, ...]]
    errors: Mapping[Provider, ChainError]

    def raise_first(self) -> None:
        """Raise the first error, if there is one."""
        for error in self.errors.values():
            raise error


Values = Mapping[Provider, tuple[Any, ...]]
"""What each provider has answered so far."""


class Panel:
    """The configured providers, the chain and the contract they are asked about."""

    def __init__(
        self,
        providers: Sequence[Provider],
        *,
        chain_id: int,
        contract: Address,
        contract_wait: float = 0.0,
        voters: Sequence[str] | None = None,
        needed: int | None = None,
    ) -> None:
        """Prepare, without traffic.

        Args:
            providers: at least one.
            chain_id: EIP-155 id that each must have.
            contract: the membership contract.
            contract_wait: seconds for which a contract that was never there is a temporary error,
                from when it was first missed.
            voters: whose vote each provider is part of, in their order; its host by default.
            needed: votes that must agree; all by default.
        """
        whose = [p.host for p in providers] if voters is None else voters
        voter_of = {p.name: voter for p, voter in zip(providers, whose, strict=True)}
        self.quorum = Quorum(voter_of, len(set(whose)) if needed is None else needed)
        self.providers = tuple(providers)
        self.chain_id = chain_id
        self.contract = contract
        self.identity: ChainIdentity | None = None
        self.refused: dict[Provider, str] = {}
        """Who is of another chain or shows another contract, and how that is told."""
        self._contract_wait = contract_wait
        self._missed_at: float | None = None
        self._checked: dict[Provider, int] = {}

    def checked(self, provider: Provider) -> bool:
        """Whether the provider showed the right chain and code since it was last away."""
        return self._checked.get(provider) == provider.generation

    async def ask(
        self,
        plan: Mapping[Provider, Sequence[Call[Any]]],
        done: Callable[[Values], bool] = lambda _: False,
    ) -> Answers:
        """Ask several providers at once; one that fails does not disturb the others.

        Whoever has not answered when it is enough is not waited for: a provider that says nothing
        must not hold up those who agree. When as many voters have answered as are needed, the
        others get `GRACE` seconds more.

        Args:
            plan: who is asked what.
            done: whether the answers so far are enough.
        """
        values: dict[Provider, tuple[Any, ...]] = {}
        errors: dict[Provider, ChainError] = {
            provider: ProviderError(provider.name, "no answer yet") for provider in plan
        }

        async def one(provider: Provider, batch: Sequence[Call[Any]]) -> None:
            try:
                values[provider] = await provider.batch(batch)
                del errors[provider]
            except ChainError as error:
                errors[provider] = error

        async with asyncio.TaskGroup() as group:
            pending = {
                group.create_task(one(provider, batch), name=f"ask {provider.name}")
                for provider, batch in plan.items()
            }
            deadline: float | None = None
            now = asyncio.get_running_loop().time
            while pending and not done(values):
                if deadline is None and self.quorum.enough({p.name for p in values}):
                    deadline = now() + GRACE
                left = None if deadline is None else max(0.0, deadline - now())
                ended, pending = await asyncio.wait(
                    pending, timeout=left, return_when=asyncio.FIRST_COMPLETED
                )
                if not ended:
                    break
            for task in pending:
                task.cancel()
        return Answers(values, errors)

    async def settle(
        self,
        plan: Mapping[Provider, Sequence[Call[Any]]],
        pick: Callable[[Provider, tuple[Any, ...]], T],
        what: str,
        *,
        must: Provider | None = None,
    ) -> tuple[T, Answers]:
        """Ask, and return what enough providers say, as soon as they have said it.

        Args:
            plan: who is asked what.
            pick: what of a provider's answers they must agree on.
            what: they were asked, for the message.
            must: whose answer is needed in any case.

        Raises:
            ChainError: too few answered.
            DisagreementError: those who answered contradict each other.
        """

        def said(values: Values) -> dict[Provider, T]:
            return {provider: pick(provider, value) for provider, value in values.items()}

        def done(values: Values) -> bool:
            heard = {provider.name: word for provider, word in said(values).items()}
            return (must is None or must in values) and self.quorum.agreed(heard) is not None

        answers = await self.ask(plan, done)
        if must is not None and must not in answers.values:
            raise answers.errors[must]
        return self.agree(said(answers.values), what, answers), answers

    def agree(self, answers: Mapping[Provider, T], what: str, errors: Answers) -> T:
        """What enough providers say.

        Args:
            answers: what each says.
            what: they were asked, for the message.
            errors: where to find why the others said nothing.

        Raises:
            ChainError: too few answered.
            DisagreementError: those who answered contradict each other.
        """
        agreed = self.quorum.agreed({p.name: answer for p, answer in answers.items()})
        if agreed is not None:
            return agreed
        if len(set(answers.values())) <= 1:
            errors.raise_first()
        names = " and ".join(provider.name for provider in answers)
        raise DisagreementError(f"{names} disagree on {what}")

    async def head_of(self, provider: Provider) -> Header:
        """Ask one provider for its newest block, and who came back also who it is.

        Raises:
            WrongChainError: it is on another chain, or shows another contract.
            ChainError: no usable answer.
        """
        generation = provider.generation
        known = self.checked(provider)
        batch = [*([] if known else self._identity_calls()), calls.latest()]
        *identity, head = await provider.batch(batch)
        if identity:
            chain_id, genesis, code = identity
            self._check(provider, chain_id, ChainIdentity.of(genesis, code))
            self._checked[provider] = generation
        provider.found_head(head.block.number)
        found: Header = head
        return found

    async def open(self, questions: Sequence[Call[Any]]) -> tuple[dict[Provider, Opening], Answers]:
        """Ask everybody for all that a start takes, in one batch.

        The head is asked twice, around the questions: when it is the same block, the answers belong
        to it.

        Args:
            questions: about the newest block.

        Raises:
            WrongChainError: so many are on another chain, or show another contract, that those who
                are left can never be enough.
        """
        generations = {p: p.generation for p in self.providers}
        batch = [*self._identity_calls(), calls.latest(), *questions, calls.latest()]

        def done(values: Values) -> bool:
            return self.quorum.agreed({p.name: _frozen(v) for p, v in values.items()}) is not None

        answers = await self.ask(dict.fromkeys(self.providers, batch), done)
        openings: dict[Provider, Opening] = {}
        identities: dict[Provider, ChainIdentity] = {}
        errors = dict(answers.errors)
        wrong: dict[Provider, WrongChainError] = {}
        for provider, value in answers.values.items():
            chain_id, genesis, code, before, *more, head = value
            identity = ChainIdentity.of(genesis, code)
            try:
                self._check(provider, chain_id, identity)
            except WrongChainError as error:
                wrong[provider] = error
                continue
            except ChainError as error:
                errors[provider] = error
                continue
            self._checked[provider] = generations[provider]
            provider.found_head(head.block.number)
            openings[provider] = Opening(head, tuple(more) if before.block == head.block else None)
            identities[provider] = identity
        possible = {p.name for p in self.providers if p not in wrong}
        if wrong and not self.quorum.enough(possible):
            raise next(iter(wrong.values()))
        answers = Answers(answers.values, errors)
        if self.identity is None:
            # Pinned when enough agree on it, not when the first one has spoken.
            what = "the first block of the chain or the contract's code"
            self.identity = self.agree(identities, what, answers)
            for provider in [p for p, shown in identities.items() if shown != self.identity]:
                del openings[provider]
                self._checked.pop(provider)
        return openings, answers

    def membership(
        self,
        kind: ContractKind,
        at: Record,
        nodes: Nodes,
        finalized: Mark | None,
        suspects: Suspects = NO_SUSPECTS,
    ) -> Membership:
        """The membership at a verified block; after the identity is pinned."""
        assert self.identity is not None
        return Membership(
            chain_id=self.chain_id,
            contract=self.contract,
            genesis=self.identity.genesis,
            code_hash=self.identity.code_hash,
            block=at.block,
            checkpoint=at.checkpoint,
            nodes=nodes,
            kind=kind,
            finalized=finalized,
            suspects=dict(suspects),
        )

    def _identity_calls(self) -> list[Call[Any]]:
        return [calls.chain_id(), calls.header_at(0), calls.code(self.contract)]

    def _check(self, provider: Provider, chain_id: int, shown: ChainIdentity) -> None:
        """Check who a provider is, and remember whom not to listen to.

        Raises:
            WrongChainError: another chain, other code, or no contract at all.
            ChainError: it may be the right one later.
        """
        try:
            self._check_chain_id(provider, chain_id)
            self._check_identity(provider, shown)
        except WrongChainError as error:
            self.refused[provider] = str(error)
            raise
        self.refused.pop(provider, None)

    def _check_chain_id(self, provider: Provider, chain_id: int) -> None:
        if chain_id != self.chain_id:
            raise WrongChainError(
                f"{provider.name} serves the chain with id {chain_id},"
                f" but this node is configured for chain id {self.chain_id}"
            )

    def _check_identity(self, provider: Provider, shown: ChainIdentity) -> None:
        """Compare with what was pinned.

        Raises:
            WrongChainError: another chain, other code, or no contract at all.
            BadAnswerError: the code that was there is not, which a node that is behind also shows.
            ChainError: there is no contract yet, and it is waited for.
        """
        pinned = self.identity
        if pinned is not None and shown.genesis != pinned.genesis:
            raise WrongChainError(
                f"{provider.name} serves another chain than the one followed so far"
                f" (its first block is {shown.genesis[:10]}…, not {pinned.genesis[:10]}…); if the"
                " chain was started anew on purpose, start once with --reset-state"
            )
        if shown.code_hash == _NO_CODE:
            if pinned is not None:
                raise BadAnswerError(
                    "code", f"{provider.name} has no code at {self.contract}: perhaps it is behind"
                )
            absent = (
                f"there is no contract at {self.contract} on the chain of {provider.name}"
                f" (chain id {self.chain_id})"
            )
            if self._waits_for_contract():
                wait = f"{self._contract_wait:g} s (CONTRACT_WAIT)"
                raise ChainError(f"{absent}; it is waited for, for {wait} at most")
            raise WrongChainError(absent)
        if pinned is not None and shown.code_hash != pinned.code_hash:
            raise WrongChainError(
                f"{provider.name} shows other code at {self.contract} than the code pinned when it"
                " was first read; if the contract was replaced on purpose, start once with"
                " --reset-state"
            )

    def _waits_for_contract(self) -> bool:
        now = asyncio.get_running_loop().time()
        if self._missed_at is None:
            self._missed_at = now
        return now - self._missed_at < self._contract_wait


def _frozen(value: tuple[Any, ...]) -> Hashable:
    """What a provider answered at the opening, to be compared with what others did."""
    return tuple(v.block if isinstance(v, Header) else v for v in value)
