"""Chains of blocks for the tests of what enough providers agree on: no provider, no contract."""

from dataclasses import replace
from typing import Any

from eth_utils.crypto import keccak

from chain.samples import block, node
from dstack_vpn.chain.journal import Journal
from dstack_vpn.chain.tally import Chains, accused, merged
from dstack_vpn.chain.verify import Step, keep_since
from dstack_vpn.mesh.membership import Checkpoint, Node, Suspects

Changes = dict[int, Node | None]


class Built:
    """A journal that grows block by block; its history follows from what changed."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    @classmethod
    def at(cls, number: int, *members: int, window: int = 64) -> "Built":
        """Begin at a block with some members."""
        nodes = {i: node(i, since_block=number) for i in members}
        return cls(Journal(block(number), state(b"", {}, len(nodes)), nodes, window=window))

    def copy(self) -> "Built":
        """Another one, which goes its own way."""
        return Built(self.journal.copy())

    def grow(self, *changes: Changes, branch: int = 0, lie: bytes = b"") -> "Built":
        """Add a block for each set of changes; `lie` alters the history that is told."""
        for change in changes or ({},):
            head = self.journal.head
            number = head.block.number + 1
            parent = head.block.hash
            at = replace(block(number, branch), parent_hash=parent)
            made: Changes = {
                t: keep_since(self.journal.nodes.get(t), n and replace(n, since_block=number))
                for t, n in change.items()
            }
            after = {**self.journal.nodes, **made}
            count = sum(bool(n and n.active) for n in after.values())
            history = head.checkpoint.history
            if change:
                history = keccak(history + repr(sorted(change.items())).encode() + lie)
            stated = state(history, change, count, head.checkpoint.revision)
            self.journal.replace_after(head, [Step(block=at, checkpoint=stated, changes=made)])
        return self

    def back(self, depth: int) -> "Built":
        """Drop blocks."""
        number = self.journal.head.block.number - depth
        record = self.journal.at(number)
        assert record is not None
        self.journal.replace_after(record, [])
        return self


def state(history: bytes, changes: Changes, count: int, revision: int = 0) -> Checkpoint:
    """A checkpoint after some changes."""
    return Checkpoint(
        revision=revision + len(changes), history=history or bytes(32), member_count=count
    )


def revoked(token_id: int, **more: Any) -> Changes:
    """The revocation of a token."""
    return {token_id: node(token_id, revoked=True, **more)}


def granted(token_id: int, **more: Any) -> Changes:
    """The grant of a token."""
    return {token_id: node(token_id, **more)}


def suspects(chains: Chains, agreed: Journal) -> Suspects:
    """What all of these chains say against members of the agreed one."""
    said = (accused(name, chain, agreed) for name, chain in sorted(chains.items()))
    return merged(said, agreed.nodes)
