"""What a kind of contract must offer to be followed: how its changes are read, and all its tokens.

Two are implemented: `checkpoint` (ours, whose history proves a fold) and `published` (only the
published interface). Whoever follows a provider knows no more of the contract than this.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from dstack_vpn.chain.calls import Call
from dstack_vpn.chain.header import Header
from dstack_vpn.chain.panel import Panel
from dstack_vpn.chain.rpc import Provider
from dstack_vpn.chain.verify import Step
from dstack_vpn.errors import BadAnswerError
from dstack_vpn.mesh.membership import (
    Block,
    Checkpoint,
    ContractKind,
    Membership,
    Nodes,
)


class UnprovenError(BadAnswerError):
    """What a provider gave about the blocks does not lead to the state that it states."""


class Kind(Protocol):
    """One kind of contract, at one address."""

    name: ContractKind
    exact_ages: bool
    """Whether a snapshot knows since which block each access has held; where it does not, it is
    taken so far below the head that its members count as confirmed."""

    def opening_calls(self, saved: Membership | None) -> list[Call[Any]]:
        """What is asked of each provider at the start, about its newest block.

        Args:
            saved: what was last verified, to be confirmed in the same round trip.
        """

    def check_opening(self, provider: Provider, answers: Sequence[Any]) -> None:
        """Look at a provider's answers to `opening_calls`.

        Raises:
            WrongChainError: the contract is not of this kind.
            ChainError: no usable answer.
        """

    def is_current(self, saved: Membership, block: Block, answers: Sequence[Any]) -> bool:
        """Whether what enough providers answered shows that a saved membership is right at a block.

        Args:
            saved: what was last verified.
            block: their newest block.
            answers: to `opening_calls`.
        """

    def first_calls(self, target: Header, *, linked: bool) -> list[Call[Any]]:
        """What is asked along with the first batch about a target, to spare a round trip.

        Args:
            target: the block to go to.
            linked: its parent is known, so that it is the only block to fold.
        """

    async def fold(
        self,
        provider: Provider,
        before: Checkpoint,
        nodes: Nodes,
        chain: Sequence[Header],
        first: Sequence[Any],
    ) -> list[Step]:
        """The steps of linked blocks, read from one provider and checked against what it states.

        Args:
            provider: who is asked.
            before: the contract's state before the first block.
            nodes: the tokens before it.
            chain: at least one header, oldest first, each the parent of the next; the last one is
                the target of `first_calls`.
            first: the answers to `first_calls`.

        Raises:
            UnprovenError: the provider contradicts itself.
            ChainError: no usable answer.
        """

    async def snapshot(
        self, panel: Panel, block: Block, source: Provider, known: Membership | None
    ) -> tuple[Checkpoint, Nodes]:
        """All tokens at a block, as enough providers have them.

        Args:
            panel: who is asked.
            block: where.
            source: who gives what only one is asked for.
            known: what was verified at a block not newer than that one; only what the providers
                confirm of it is used.

        Raises:
            ChainError: it could not be read whole, or is not agreed on.
        """

    async def compare(
        self, panel: Panel, block: Block, source: Provider, known: Membership
    ) -> tuple[Checkpoint, Nodes]:
        """All tokens at a block again, as enough providers have them now.

        Args:
            panel: who is asked.
            block: where; `known` is what was followed to it.
            source: who gives what only one is asked for.
            known: the tokens to be compared.

        Raises:
            ChainError: it could not be read whole, or is not agreed on.
        """

    async def count_events(self, provider: Provider, first: int, last: int) -> dict[int, int]:
        """How many logs the blocks from `first` to `last` have that `fold` reads, where any.

        Raises:
            ChainError: no usable answer.
        """
