"""How votes are counted: who has one, how many are needed, and what enough of them say.

Pure. A vote belongs to a host, or to the operator that was declared for several hosts, not to a
URL: the URLs of one voter count only when all of them say the same. The number of votes needed is
fixed when the agent starts. It never shrinks because providers are silent: failing over to whoever
still answers is how an attacker who can silence the honest ones gets to speak alone.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from dstack_vpn.mesh.membership import Block

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Quorum:
    """Who votes and how many must agree."""

    voter_of: Mapping[str, str]
    """Provider's name to the voter that it is part of."""
    needed: int
    """Votes that must agree, from 1 to the number of voters."""

    def __post_init__(self) -> None:
        if not 1 <= self.needed <= self.voters:
            raise ValueError(f"{self.needed} votes needed of {self.voters}")

    @property
    def voters(self) -> int:
        """The number of votes there are."""
        return len(set(self.voter_of.values()))

    def votes(self, names: Collection[str]) -> int:
        """The number of voters all of whose providers are among the named."""
        absent = {voter for name, voter in self.voter_of.items() if name not in names}
        return len(set(self.voter_of.values()) - absent)

    def enough(self, names: Collection[str]) -> bool:
        """Whether the named providers are as many votes as are needed."""
        return self.votes(names) >= self.needed

    def level(self, values: Mapping[str, float]) -> float | None:
        """The highest value that enough voters have reached; None when too few have one.

        Args:
            values: by provider's name. A voter has reached the lowest of its providers' values,
                and nothing when one of them has none.
        """
        reached: dict[str, float] = {}
        for name, voter in self.voter_of.items():
            value = values.get(name, float("-inf"))
            reached[voter] = min(value, reached.get(voter, value))
        highest = sorted(reached.values(), reverse=True)[self.needed - 1]
        return None if highest == float("-inf") else highest

    def target(self, heads: Mapping[str, Block], turn: int = 0) -> Block | None:
        """The newest block that enough voters should have, or None when too few have shown one.

        Args:
            heads: by provider's name.
            turn: where they show several blocks of that height, the one most of them have comes
                first, and the next turn has the next one.
        """
        level = self.level({name: head.number for name, head in heads.items()})
        if level is None:
            return None
        camps = Counter(head for head in heads.values() if head.number == level).most_common()
        return camps[turn % len(camps)][0]

    def agreed(self, answers: Mapping[str, T]) -> T | None:
        """What enough voters say identically, or None; the largest camp when there are several."""
        camps: dict[T, set[str]] = {}
        for name, answer in answers.items():
            camps.setdefault(answer, set()).add(name)
        best = max(camps, key=lambda answer: self.votes(camps[answer]), default=None)
        return best if best is not None and self.enough(camps[best]) else None
