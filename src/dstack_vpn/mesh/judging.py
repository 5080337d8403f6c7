"""Judging again and again: what `access.judge` comes to, for no more work than the changes make.

Pure, but with a memory: of ten thousand tokens one changes at a time, and most cycles change none.
A token is judged anew when it is another one, when what a single provider says of it is another
thing, and when chain time, or the block up to which admissions count, has passed what it waits for.
With it go those who claim its key or its node id.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import inf
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from dstack_vpn.mesh.access import (
    Decision,
    Objection,
    Verdict,
    decide,
    judge_self,
    key_rank,
    name_rank,
    objection,
    taken,
)
from dstack_vpn.mesh.keys import PublicKey
from dstack_vpn.mesh.membership import NO_NODES, NO_SUSPECTS, Membership, Node, Nodes, Suspects

Decisions = Mapping[int, Decision]
"""The decision on each token, by token id; in no order."""

NO_DECISIONS: Decisions = MappingProxyType({})

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The decisions on all tokens, and what of them is new."""

    decisions: Decisions
    """Never changed, only replaced."""
    own: Decision
    """The decision on this node itself."""
    changed: frozenset[int]
    """Tokens that came or went, that are not as they were, or on which the decision is not."""
    before: tuple[Decision, ...]
    """The decisions that there were on the changed tokens."""
    after: tuple[Decision, ...]
    """The decisions that there are on the changed tokens."""
    next_end: int | None
    """The next chain time at which a decision may change by itself, or None."""


class Judge:
    """Judges one membership after the other, and knows the last one."""

    def __init__(self, *, node_id: str, public_key: PublicKey) -> None:
        """Know of nothing yet.

        Args:
            node_id: of this node itself.
            public_key: of this node itself.
        """
        self._own = node_id, public_key
        self._nodes: Nodes = NO_NODES
        self._confirmed: int | None = None
        self._chain_now = -inf
        self._suspects: Suspects = NO_SUSPECTS
        self._decisions: Decisions = NO_DECISIONS
        self._namesakes: set[int] = set()
        """Tokens with the node id of this node."""
        self._waiting: set[int] = set()
        """Tokens that lack nothing but confirmations."""
        self._ends: list[tuple[int, int]] = []
        """A heap of what is to expire: chain time and token."""
        self._claims: dict[int, Node] = {}
        """Tokens to which there is no objection, as they are in the lines."""
        self._keys = _Lines[bytes](lambda token: key_rank(self._claims[token]))
        self._names = _Lines[str](lambda token: name_rank(self._claims[token]))

    def judge(
        self,
        membership: Membership,
        *,
        confirmed: int | None,
        chain_now: float,
        suspects: Suspects = NO_SUSPECTS,
    ) -> Judgement:
        """Judge all tokens; the arguments are those of `access.judge`."""
        renewed, gone = _differences(self._nodes, membership.nodes)
        self._nodes = membership.nodes
        due = self._confirm(confirmed) | self._suspect(suspects) | {*renewed, *gone}
        due |= self._pass(chain_now, renewed)
        name, _ = self._own
        self._namesakes.difference_update(renewed, gone)
        self._namesakes.update(t for t in renewed if membership.nodes[t].node_id == name)
        changed = self._decide(due) if due else {}
        old, new = self._decisions, self._decisions
        if changed:
            new = dict(old)
            for token, decision in changed.items():
                if decision is None:
                    del new[token]
                else:
                    new[token] = decision
            self._decisions = new
        news = sorted({*renewed, *gone, *changed})
        return Judgement(
            decisions=new,
            own=judge_self((new[token] for token in self._namesakes), *self._own),
            changed=frozenset(news),
            before=tuple(old[token] for token in news if token in old),
            after=tuple(new[token] for token in news if token in new),
            next_end=self._next_end(),
        )

    def _confirm(self, confirmed: int | None) -> set[int]:
        """Note up to which block admissions count; whom that may concern."""
        before, self._confirmed = self._confirmed, confirmed
        if before == confirmed:
            return set()
        if before is not None and (confirmed is None or confirmed < before):
            # A reorganisation: some admissions may not count any more.
            least = -1 if confirmed is None else confirmed
            return {token for token, node in self._nodes.items() if node.since_block > least}
        return self._waiting.copy()

    def _suspect(self, suspects: Suspects) -> set[int]:
        """Note what single providers say; whom that may concern."""
        before, self._suspects = self._suspects, suspects
        if before is suspects:
            return set()
        found = {t for t in before.keys() | suspects.keys() if before.get(t) != suspects.get(t)}
        for token in found:
            self._await_end(token)
        return found

    def _pass(self, chain_now: float, renewed: Iterable[int]) -> set[int]:
        """Note what time it is; whom that may concern."""
        before, self._chain_now = self._chain_now, chain_now
        for token in renewed:
            self._await_end(token)
        found = set()
        while self._ends and self._ends[0][0] <= chain_now:
            found.add(heappop(self._ends)[1])
        if chain_now < before:
            # A reorganisation may set the time back.
            self._gather_ends()
            found.update(token for _, token in self._ends)
        elif len(self._ends) > 2 * len(self._nodes) + 64:
            # Most of them are of nodes that are not so any more.
            self._gather_ends()
        return found

    def _gather_ends(self) -> None:
        self._ends = [(end, token) for token in self._nodes for end in self._ends_of(token)]
        heapify(self._ends)

    def _await_end(self, token: int) -> None:
        for end in self._ends_of(token):
            heappush(self._ends, (end, token))

    def _ends_of(self, token: int) -> list[int]:
        """What is to come of the ends of a token: its own, and the one that is told of it."""
        node, suspect = self._nodes.get(token), self._suspects.get(token)
        if node is None:
            return []
        told = [suspect.node.expires_at] if suspect is not None and suspect.node else []
        return [end for end in (node.expires_at, *told) if end > self._chain_now]

    def _next_end(self) -> int | None:
        while self._ends:
            end, token = self._ends[0]
            if end in self._ends_of(token):
                return end
            heappop(self._ends)
        return None

    def _decide(self, due: Iterable[int]) -> dict[int, Decision | None]:
        """Judge some tokens anew, and whoever shares their claims; what differs then."""
        found: dict[int, Objection | None] = {}
        for token in due:
            node = self._nodes.get(token)
            if node is not None:
                found[token] = objection(node, confirmed=self._confirmed, chain_now=self._chain_now)
        self._waiting.difference_update(due)
        self._waiting.update(
            token for token, why in found.items() if why and why[0] is Verdict.NOT_YET_CONFIRMED
        )
        concerned = self._claim(due, {t: self._nodes[t] for t, why in found.items() if why is None})
        changed: dict[int, Decision | None] = {}
        for token in concerned:
            old = self._decisions.get(token)
            node = self._nodes.get(token)
            new = None
            if node is not None:
                why = found.get(token) or self._taken(token)
                new = decide(node, why, self._suspects.get(token), chain_now=self._chain_now)
            if new != old:
                changed[token] = new
        return changed

    def _taken(self, token: int) -> Objection | None:
        node = self._claims[token]
        return taken(node, self._keys.first(node.key), self._names.first(node.node_id))

    def _claim(self, due: Iterable[int], claims: Mapping[int, Node]) -> set[int]:
        """Put the claims of some tokens in place of those that they had.

        Args:
            due: the tokens.
            claims: those of them to which there is no objection.

        Returns:
            They, and all others whose place in a line may be another one now.
        """
        concerned = set(due)
        moving = [t for t in concerned if self._claims.get(t) is not claims.get(t)]
        leaving = [t for t in moving if t in self._claims]
        coming = [t for t in moving if t in claims]
        keys = {self._claims[t].key for t in leaving} | {claims[t].key for t in coming}
        # In line for a node id is whoever is the first in line for his key.
        firsts = self._firsts(keys)
        names = {self._claims[t].node_id for t in firsts}
        concerned |= self._keys.members(keys) | self._names.members(names)
        self._names.leave((self._claims[t].node_id, t) for t in firsts)
        self._keys.leave((self._claims[t].key, t) for t in leaving)
        for token in leaving:
            del self._claims[token]
        self._claims.update((t, claims[t]) for t in coming)
        self._keys.join((claims[t].key, t) for t in coming)
        firsts = self._firsts(keys)
        names = {self._claims[t].node_id for t in firsts}
        self._names.join((self._claims[t].node_id, t) for t in firsts)
        return concerned | self._keys.members(keys) | self._names.members(names)

    def _firsts(self, keys: Iterable[bytes]) -> list[int]:
        return [first for key in keys if (first := self._keys.first(key))]


class _Lines(Generic[T]):
    """Who claims what one token alone can have: lines of tokens, the least first."""

    def __init__(self, rank: Callable[[int], Any]) -> None:
        self._rank = rank
        # Nearly all lines are of one; a tuple of one is the smallest container.
        self._lines: dict[T, tuple[int, ...]] = {}

    def first(self, thing: T) -> int:
        """Who has the thing; 0 for nobody."""
        line = self._lines.get(thing)
        return line[0] if line else 0

    def members(self, things: Iterable[T]) -> set[int]:
        """All who are in line for some things."""
        return {token for thing in things for token in self._lines.get(thing, ())}

    def leave(self, claims: Iterable[tuple[T, int]]) -> None:
        """Take tokens out of the lines in which they are."""
        for thing, tokens in _grouped(claims).items():
            left = tuple(token for token in self._lines[thing] if token not in tokens)
            if left:
                self._lines[thing] = left
            else:
                del self._lines[thing]

    def join(self, claims: Iterable[tuple[T, int]]) -> None:
        """Put tokens into the lines for what they claim."""
        for thing, tokens in _grouped(claims).items():
            line = (*self._lines.get(thing, ()), *tokens)
            self._lines[thing] = tuple(sorted(line, key=self._rank)) if len(line) > 1 else line


def _grouped(claims: Iterable[tuple[T, int]]) -> dict[T, set[int]]:
    groups: dict[T, set[int]] = {}
    for thing, token in claims:
        groups.setdefault(thing, set()).add(token)
    return groups


def _differences(old: Nodes, new: Nodes) -> tuple[list[int], list[int]]:
    """Tokens that are new or not as they were, and tokens that are gone."""
    if old is new:
        return [], []
    before = old.get
    other = [token for token, node in new.items() if before(token) is not node]
    came = sum(token not in old for token in other)
    renewed = [token for token in other if before(token) != new[token]]
    if len(old) + came == len(new):
        return renewed, []
    return renewed, [token for token in old if token not in new]
