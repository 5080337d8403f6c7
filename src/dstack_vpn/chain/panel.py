"""All providers, asked at once, and what they agree on.

I/O. Between the providers and those who read a block: asks in parallel, turns answers into an
agreement or into a sentence why there is none, and sees to it that every provider is on the chain
and the contract that were configured.
"""

import asyncio
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from dstack_vpn.chain import calls
from dstack_vpn.chain.calls import Call, Refusal
from dstack_vpn.chain.contract import decode_checkpoint
from dstack_vpn.chain.header import Header
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
from dstack_vpn.mesh.membership import Address, BlockHash, Checkpoint

T = TypeVar("T", bound=Hashable)

_NO_CODE = keccak256(b"")


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
    checkpoint: Checkpoint | None
    """The contract's state at `head`; None when the head moved while it was read."""
    extras: tuple[Any, ...]
    """What the extra calls answered, at the same block too."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What came back from those who were asked."""

    values: Mapping[Provider, tuple[Any, ...]]
    errors: Mapping[Provider, ChainError]

    def raise_first(self) -> None:
        """Raise the first error, if there is one."""
        for error in self.errors.values():
            raise error


class Panel:
    """The configured providers, the chain and the contract they are asked about."""

    def __init__(
        self,
        providers: Sequence[Provider],
        *,
        chain_id: int,
        contract: Address,
        contract_wait: float = 0.0,
        needed: int | None = None,
    ) -> None:
        """Prepare, without traffic.

        Args:
            providers: at least one.
            chain_id: EIP-155 id that each must have.
            contract: the membership contract.
            contract_wait: seconds for which a contract that was never there is a temporary error,
                from when it was first missed.
            needed: votes that must agree; all by default.
        """
        hosts = {provider.name: provider.host for provider in providers}
        self.quorum = Quorum(hosts, needed if needed is not None else len(set(hosts.values())))
        self.providers = tuple(providers)
        self.chain_id = chain_id
        self.contract = contract
        self.identity: ChainIdentity | None = None
        self._contract_wait = contract_wait
        self._missed_at: float | None = None
        self._checked: dict[Provider, int] = {}

    def checked(self, provider: Provider) -> bool:
        """Whether the provider showed the right chain and code since it was last away."""
        return self._checked.get(provider) == provider.generation

    def distrust(self) -> None:
        """Check every provider again before it is used."""
        self._checked.clear()

    async def ask(self, plan: Mapping[Provider, Sequence[Call[Any]]]) -> Answers:
        """Ask several providers at once; one that fails does not disturb the others."""
        values: dict[Provider, tuple[Any, ...]] = {}
        errors: dict[Provider, ChainError] = {}

        async def one(provider: Provider, batch: Sequence[Call[Any]]) -> None:
            try:
                values[provider] = await provider.batch(batch)
            except ChainError as error:
                errors[provider] = error

        async with asyncio.TaskGroup() as group:
            for provider, batch in plan.items():
                group.create_task(one(provider, batch), name=f"ask {provider.name}")
        return Answers(values, errors)

    def agree(self, answers: Mapping[Provider, T], what: str, errors: Answers) -> T:
        """What enough providers say.

        Args:
            answers: what each says.
            what: what they were asked, for the message.
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

    async def heads(self) -> tuple[dict[Provider, Header], Answers]:
        """Ask everybody for the newest block, and who came back also who it is.

        Raises:
            WrongChainError: a provider is on another chain, or shows another contract.
        """
        plan: dict[Provider, list[Call[Any]]] = {}
        generations = {p: p.generation for p in self.providers}
        for provider in self.providers:
            known = self.checked(provider)
            plan[provider] = [*([] if known else self._identity_calls()), calls.latest()]
        answers = await self.ask(plan)
        self._check_chain_ids(plan, answers)
        values = dict(answers.values)
        errors = dict(answers.errors)
        for provider, value in answers.values.items():
            if len(plan[provider]) > 1:
                try:
                    self._check_identity(provider, ChainIdentity.of(value[1], value[2]))
                except ChainError as error:
                    errors[provider] = error
                    del values[provider]
                    continue
                self._checked[provider] = generations[provider]
        heads = {provider: value[-1] for provider, value in values.items()}
        for provider, head in heads.items():
            provider.head = head.block.number
        return heads, Answers(values, errors)

    async def open(
        self, extras: Sequence[Call[Any]] = ()
    ) -> tuple[dict[Provider, Opening], Answers]:
        """Ask everybody for all that a start takes, in one batch.

        The head is asked twice, around the contract's state: when it is the same block, the state
        belongs to it.

        Args:
            extras: calls that confirm a saved state at the newest block; they may fail.

        Raises:
            WrongChainError: a provider is on another chain, or the contract is not one of ours.
        """
        generations = {p: p.generation for p in self.providers}
        batch = [
            *self._identity_calls(),
            calls.latest(),
            calls.latest_checkpoint(self.contract),
            *map(calls.lenient, extras),
            calls.latest(),
        ]
        plan = dict.fromkeys(self.providers, batch)
        answers = await self.ask(plan)
        self._check_chain_ids(plan, answers)
        openings: dict[Provider, Opening] = {}
        identities: dict[Provider, ChainIdentity] = {}
        errors = dict(answers.errors)
        for provider, value in answers.values.items():
            _, genesis, code, before, stated, *more, head = value
            try:
                identity = ChainIdentity.of(genesis, code)
                self._check_identity(provider, identity)
                checkpoint = self._parse_checkpoint(provider, stated)
            except ChainError as error:
                errors[provider] = error
                continue
            self._checked[provider] = generations[provider]
            provider.head = head.block.number
            still = before.block == head.block
            openings[provider] = Opening(head, checkpoint if still else None, tuple(more))
            identities[provider] = identity
        answers = Answers(answers.values, errors)
        if self.identity is None:
            # Pinned when all agree on it, not when the first one has spoken.
            what = "the first block of the chain or the contract's code"
            self.identity = self.agree(identities, what, answers)
        return openings, answers

    def _identity_calls(self) -> list[Call[Any]]:
        return [calls.chain_id(), calls.header_at(0), calls.code(self.contract)]

    def _check_chain_ids(
        self, plan: Mapping[Provider, Sequence[Call[Any]]], answers: Answers
    ) -> None:
        for provider, value in answers.values.items():
            if len(plan[provider]) > 1 and value[0] != self.chain_id:
                raise WrongChainError(
                    f"{provider.name} serves the chain with id {value[0]},"
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

    def _parse_checkpoint(self, provider: Provider, stated: bytes | Refusal) -> Checkpoint:
        wrong = WrongChainError(
            f"the contract at {self.contract} is not a membership contract of this project:"
            f" it has no usable checkpoint() (asked {provider.name})"
        )
        if isinstance(stated, Refusal):
            # 3 is what most nodes give for a revert; others say it in words only.
            if stated.code == 3 or "revert" in stated.message.lower():
                raise wrong
            problem = f"eth_call was refused: {stated.message} (code {stated.code})"
            raise ProviderError(provider.name, problem, code=stated.code)
        try:
            return decode_checkpoint(stated)
        except BadAnswerError:
            raise wrong from None
