"""When providers agree: which block they all have, and whether they say the same about it.

Pure. A vote belongs to a host, not to a URL: two URLs of one host are one vote, and it counts only
when all of them say the same. The number of votes needed is fixed when the agent starts. It never
shrinks because providers are silent: failing over to whoever still answers is how an attacker who
can silence the honest ones gets to speak alone.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from dstack_vpn.mesh.membership import Block

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Quorum:
    """Who votes and how many must agree."""

    hosts: Mapping[str, str]
    """Provider's name to the host that it belongs to."""
    needed: int
    """Votes that must agree, from 1 to the number of hosts."""

    def __post_init__(self) -> None:
        if not 1 <= self.needed <= self.voters:
            raise ValueError(f"{self.needed} votes needed of {self.voters} hosts")

    @property
    def voters(self) -> int:
        """The number of votes there are."""
        return len(set(self.hosts.values()))

    def target(self, heads: Mapping[str, Block]) -> Block | None:
        """The newest block that enough hosts should have: the needed-th highest of their heads.

        A host's head is the lowest of its URLs', and it has one when all of them answered. None
        when too few answered.
        """
        lowest: dict[str, Block] = {}
        for name, block in heads.items():
            host = self.hosts[name]
            if host not in lowest or block.number < lowest[host].number:
                lowest[host] = block
        silent = {host for name, host in self.hosts.items() if name not in heads}
        answered = [block for host, block in lowest.items() if host not in silent]
        if len(answered) < self.needed:
            return None
        return sorted(answered, key=lambda b: -b.number)[self.needed - 1]

    def agreed(self, answers: Mapping[str, T]) -> T | None:
        """What enough hosts say identically, or None; the largest camp when there are several."""
        said: dict[str, set[T]] = {}
        for name, answer in answers.items():
            said.setdefault(self.hosts[name], set()).add(answer)
        silent = {host for name, host in self.hosts.items() if name not in answers}
        votes: dict[T, int] = {}
        for host, words in said.items():
            if len(words) == 1 and host not in silent:
                word = next(iter(words))
                votes[word] = votes.get(word, 0) + 1
        best = max(votes, key=lambda word: votes[word], default=None)
        return best if best is not None and votes[best] >= self.needed else None
