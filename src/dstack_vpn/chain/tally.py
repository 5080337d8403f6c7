"""The tally: what the chains that the providers showed amount to together.

Pure. Admission is slow and needs many: the agreed head moves only to blocks that enough voters
have, with the same members in them, and never back before as many have left it. Removal is quick
and needs one: whatever a single provider's chain says about a member, at a block that descends from
the member's admission, is a suspicion that is acted on at once, until enough others refute it.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from dstack_vpn.chain.journal import Journal, Record
from dstack_vpn.chain.quorum import Quorum
from dstack_vpn.mesh.membership import BlockHash, Mark, Node, Nodes, Suspect, Suspects

DISPUTE_DEPTH = 6
"""Blocks. We chose: a provider whose branch the agreed chain left so far behind is not merely early
or on the losing side of a short race; honest nodes change branch within one or two blocks."""

Chains = Mapping[str, Journal]
"""Provider's name to its chain."""


@dataclass(frozen=True, slots=True)
class Move:
    """Where the agreed head goes."""

    record: Record
    """The new head, as it stands in the journal of `source`."""
    camp: tuple[str, ...]
    """The providers whose chain has it with the same members."""
    back: bool
    """Whether the agreed head is left behind: a reorganisation."""


def next_move(
    quorum: Quorum,
    chains: Chains,
    agreed: Journal,
    left: Mapping[str, Collection[BlockHash]],
    final: Mark | None = None,
) -> Move | None:
    """The newest block that enough voters have, if that is another one than the agreed head.

    Args:
        quorum: how votes are counted.
        chains: what each provider shows; who never showed anything is absent.
        agreed: the agreed chain.
        left: blocks that each provider once had and went back from.
        final: newest block that is final, if any is.
    """
    head = agreed.head
    followers = {n: c for n, c in chains.items() if head.same(c.find(head.block.hash))}
    ahead = _newest(quorum, followers, above=head.block.number)
    if ahead is not None:
        return Move(*ahead, back=False)
    # To have another block in its place, or to have taken it back, is to reject it; to be merely
    # behind is not. As many must reject the head as once agreed on it.
    rejecting = {
        n: c
        for n, c in chains.items()
        if n not in followers and (head.block.hash in left.get(n, ()) or _parted(c, agreed))
    }
    # That they have an old block in common says nothing against what was final since then, unless
    # as many have left that too: else one that lies, with one that is early, would have said it.
    lowest = -1
    if final is not None and not quorum.enough(
        [n for n, c in rejecting.items() if _lacks(c, final)]
    ):
        lowest = final.number - 1
    instead = _newest(quorum, rejecting, above=lowest)
    return None if instead is None else Move(*instead, back=True)


def supporters(chains: Chains, agreed: Journal) -> set[str]:
    """The providers whose chain has the agreed head, with the same members in it."""
    head = agreed.head
    return {n for n, c in chains.items() if head.same(c.find(head.block.hash))}


def accused(name: str, chain: Journal, agreed: Journal) -> Suspects:
    """From whom one provider's chain takes access, at any block since it has anything of its own.

    Also if it gives it back later: to be in again takes as many as to be in. Only tokens whose
    admission its blocks descend from: a provider that is behind, or on a branch that never had a
    member, removes nobody.
    """
    found: dict[int, Suspect] = {}
    common = None if chain.head.same(agreed.head) else agreed.common(chain)
    if common is None:
        return found
    for record in _after(chain, common):
        for token_id, theirs in record.step.changes.items():
            ours, known = agreed.nodes.get(token_id), found.get(token_id)
            if ours is None or ours.since_block > common.block.number:
                continue
            if _more(ours, known.node if known else ours, theirs):
                block = record.block
                found[token_id] = Suspect(
                    node=theirs, block=block.number, hash=block.hash, providers=(name,)
                )
    return found


def merged(accusations: Iterable[Suspects], nodes: Nodes) -> Suspects:
    """Several providers' accusations of our members as one.

    Any one suffices: who takes more speaks, and of several that take as much the first one.
    """
    found: dict[int, Suspect] = {}
    for one in accusations:
        for token_id, suspect in one.items():
            ours, known = nodes.get(token_id), found.get(token_id)
            if ours is None:
                continue
            speaks = suspect
            if known is not None and not _more(ours, known.node, suspect.node):
                speaks = known
            names = known.providers if known is not None else ()
            found[token_id] = replace(speaks, providers=(*names, *suspect.providers))
    return found


@dataclass(frozen=True, slots=True)
class Parting:
    """Where a provider's chain and the agreed one have their first difference."""

    number: int
    """Height of the block."""
    theirs: BlockHash
    ours: BlockHash
    noticed: int
    """Number of the agreed head when it was first seen."""


def partings(chains: Chains, agreed: Journal, before: Mapping[str, Parting]) -> dict[str, Parting]:
    """Whose chain differs from the agreed one, and since when.

    Args:
        chains: what each provider shows.
        agreed: the agreed chain.
        before: what this returned last.
    """
    found: dict[str, Parting] = {}
    for name, chain in chains.items():
        common = agreed.common(chain)
        if common is None or common is agreed.head or chain.head.same(common):
            continue
        theirs = chain.at(common.block.number + 1)
        ours = agreed.at(common.block.number + 1)
        if theirs is None or ours is None:
            continue
        known = before.get(name)
        same = known is not None and known.theirs == theirs.block.hash
        found[name] = Parting(
            number=ours.block.number,
            theirs=theirs.block.hash,
            ours=ours.block.hash,
            noticed=known.noticed if known and same else agreed.head.block.number,
        )
    return found


def refuted(partings: Mapping[str, Parting], agreed: Journal) -> dict[str, str]:
    """The providers whose chain enough others contradict, and in which way.

    Either they have the same block with other members in it, or the agreed chain went on for
    `DISPUTE_DEPTH` blocks with another block in the place of theirs. Only what came since they
    were seen to differ counts for that: of a deep reorganisation one is always the first to tell.
    """
    found: dict[str, str] = {}
    for name, parting in partings.items():
        number = parting.number
        if parting.theirs == parting.ours:
            found[name] = f"it has other members at block {number} ({_short(parting.ours)})"
        elif agreed.head.block.number - max(number, parting.noticed) >= DISPUTE_DEPTH:
            found[name] = (
                f"it has block {number} as {_short(parting.theirs)}, where enough others have"
                f" {_short(parting.ours)}"
            )
    return found


@dataclass(frozen=True, slots=True)
class Dispute:
    """Providers that contradict each other, so that no block is agreed on."""

    text: str
    depth: int
    """Blocks for which they have done so, the longest of their chains counted."""


def dispute(quorum: Quorum, chains: Chains, agreed: Journal) -> Dispute | None:
    """Who contradicts whom about which block, where none of them has enough voters.

    A camp that may still get enough, because others have not come so far yet, is no dispute.
    """
    ahead: dict[str, int] = {}
    behind: set[str] = set()
    for name, chain in chains.items():
        common = agreed.common(chain)
        if common is not None and chain.head.same(common):
            behind.add(name)
        elif common is not None:
            ahead[name] = common.block.number
    if not ahead:
        return None
    number = min(ahead.values()) + 1
    head = agreed.head.block.number
    if number <= head and quorum.enough(supporters(chains, agreed)):
        # Whoever parted below the agreed head is outvoted already.
        ahead = {name: common for name, common in ahead.items() if common == head}
        number = head + 1
    camps: dict[tuple[BlockHash, bytes], list[str]] = {}
    for name, chain in sorted(chains.items()):
        if (name in ahead or number <= head) and (record := chain.at(number)) is not None:
            key = (record.block.hash, record.checkpoint.history)
            camps.setdefault(key, []).append(name)
    if len(camps) < 2 or any(quorum.enough({*names, *behind}) for names in camps.values()):
        return None
    depth = max(chains[name].head.block.number for name in ahead) - number + 1
    parts = [
        f"{' and '.join(names)} {'has' if len(names) == 1 else 'have'} {_short(block_hash)}"
        for (block_hash, _), names in camps.items()
    ]
    what = f"block {number}"
    if len({block_hash for block_hash, _ in camps}) == 1:
        what = f"the contract's state at block {number}"
    return Dispute(f"the providers disagree on {what}: {', '.join(parts)}", depth)


def _newest(quorum: Quorum, chains: Chains, *, above: int) -> tuple[Record, tuple[str, ...]] | None:
    """The newest record that enough of these chains share, and those that do."""
    level = quorum.level({name: chain.head.block.number for name, chain in chains.items()})
    if level is None:
        return None
    for number in range(int(level), above, -1):
        camps: dict[tuple[BlockHash, bytes, int], list[str]] = {}
        for name, chain in chains.items():
            if (record := chain.at(number)) is not None:
                stated = record.checkpoint
                key = (record.block.hash, stated.history, stated.revision)
                camps.setdefault(key, []).append(name)
        for names in camps.values():
            if quorum.enough(names):
                record = chains[names[0]].at(number)
                assert record is not None
                return record, tuple(names)
        if not camps:
            return None
    return None


def _parted(chain: Journal, agreed: Journal) -> bool:
    """Whether a chain has a block of its own in the place of one of the agreed chain."""
    common = agreed.common(chain)
    if common is None or common.same(chain.head) or common.same(agreed.head):
        return False
    theirs, ours = chain.at(common.block.number + 1), agreed.at(common.block.number + 1)
    # The same block with other members in it is a lie or a fault, no branch.
    return theirs is not None and ours is not None and theirs.block.hash != ours.block.hash


def _lacks(chain: Journal, final: Mark) -> bool:
    """Whether a chain does not have a block, as far as it reaches back."""
    record = chain.at(final.number)
    if record is None:
        return chain.oldest.block.number <= final.number
    return record.block.hash != final.hash


def _after(chain: Journal, common: Record) -> list[Record]:
    record = chain.at(common.block.number)
    assert record is not None
    return chain.after(record)


def _more(ours: Node, said: Node | None, theirs: Node | None) -> bool:
    """Whether a state takes more of our member's access than another one that was said already.

    A time that ends earlier takes something, which a revocation after it must not be hidden by.
    """
    if said is None or not ours.active or said.access_state != ours.access_state:
        return False
    if theirs is None or theirs.access_state != ours.access_state:
        return True
    ends, earlier = said.expires_at, theirs.expires_at
    return bool(earlier) and (not ends or earlier < ends)


def _short(block_hash: BlockHash) -> str:
    return f"{block_hash[:10]}…"
