"""Checks on what a provider says about a block: its place, its logs, and the fold's proof.

Pure. The proof is what counts: folding the logs of every block must arrive at the `history` that
the providers state for the newest one, and then nothing is missing and nothing is false, whatever
single provider the logs came from. The checks before it tell what was wrong, and cheaply.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dstack_vpn.chain.contract import NODE_CHANGED, NodeChanged, decode_node_changed
from dstack_vpn.chain.header import Header, in_bloom, parse_bytes, parse_quantity
from dstack_vpn.errors import BadAnswerError
from dstack_vpn.mesh.membership import Address, Block, Checkpoint, Node, Nodes

Changes = Mapping[int, Node | None]
"""Token id to the node after a block, None when it was burned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One block on the way from a known one to a newer one."""

    block: Block
    checkpoint: Checkpoint
    """As folded: the contract's state at the end of the block."""
    changes: Changes
    events: int = 0
    """Logs of the block that it was folded from."""


def may_have_changes(header: Header, contract: Address) -> bool:
    """Whether the bloom of a block leaves room for a `NodeChanged` of the contract.

    When it does not, the block has none, by the block's own hash.
    """
    return in_bloom(header.bloom, bytes.fromhex(contract[2:]), NODE_CHANGED)


def parse_logs(value: object, header: Header, contract: Address) -> list[NodeChanged]:
    """Check the answer of ``eth_getLogs`` for one block hash, address and topic.

    An empty list passes although the bloom says "perhaps": the bloom may be chance, and an
    omission does not survive the proof.

    Raises:
        BadAnswerError: not a list of logs that this block of this contract can have.
    """
    if not isinstance(value, list):
        raise BadAnswerError("logs", "an answer that is not a list of logs")
    if value and not may_have_changes(header, contract):
        raise BadAnswerError("bloom", "logs in a block whose bloom excludes them")
    changes = []
    last_index = -1
    for log in value:
        if not isinstance(log, dict):
            raise BadAnswerError("logs", "a log that is not an object")
        changes.append(_parse_log(log, header.block, contract))
        index = parse_quantity(log.get("logIndex"))
        if index <= last_index:
            raise BadAnswerError("log-index", "logs out of order")
        last_index = index
    return changes


def _parse_log(log: dict[Any, Any], block: Block, contract: Address) -> NodeChanged:
    if log.get("removed") not in (None, False):
        raise BadAnswerError("log-removed", "a log that was removed")
    if parse_bytes(log.get("blockHash"), 32).hex() != block.hash[2:]:
        raise BadAnswerError("log-block", "a log of another block")
    if parse_bytes(log.get("address"), 20).hex() != contract[2:]:
        raise BadAnswerError("log-address", "a log of another contract")
    topics = log.get("topics")
    if not isinstance(topics, list):
        raise BadAnswerError("logs", "a log without topics")
    return decode_node_changed(
        [parse_bytes(topic, 32) for topic in topics[:4]],
        parse_bytes(log.get("data")),
        block_number=block.number,
    )


def fold(
    block: Block, checkpoint: Checkpoint, nodes: Nodes, changes: Sequence[NodeChanged]
) -> Step:
    """Apply the changes of one block.

    Args:
        block: the block.
        checkpoint: the contract's state before the block.
        nodes: the tokens before the block.
        changes: the block's events in order.

    Raises:
        BadAnswerError: a revision is missing or comes twice, or an unknown token is burned.
    """
    revision, history = checkpoint.revision, checkpoint.history
    count = checkpoint.member_count
    after: dict[int, Node | None] = {}
    for change in changes:
        if change.revision != revision + 1:
            raise BadAnswerError(
                "revision", f"revision {change.revision} follows revision {revision}"
            )
        token_id = change.token_id
        old = after[token_id] if token_id in after else nodes.get(token_id)
        new = keep_since(old, change.node)
        if old is None and new is None:
            raise BadAnswerError("revision", f"token {token_id} burned before it was minted")
        count += bool(new and new.active) - bool(old and old.active)
        after[token_id] = new
        revision += 1
        history = change.history_after(history, block.number)
    # The contract counts in the same way, so a count below zero can only be a forgery.
    stated = Checkpoint(revision=revision, history=history, member_count=max(count, 0))
    return Step(block=block, checkpoint=stated, changes=after, events=len(changes))


def keep_since(old: Node | None, new: Node | None) -> Node | None:
    """A changed node, with the age of its access when that did not change."""
    if old is None or new is None or old.access_state != new.access_state:
        return new
    return replace(new, since_block=old.since_block)


def apply_changes(nodes: Nodes, changes: Changes) -> Nodes:
    """The tokens after the changes; the given mapping itself when there are none."""
    if not changes:
        return nodes
    after = dict(nodes)
    for token_id, node in changes.items():
        if node is None:
            after.pop(token_id, None)
        else:
            after[token_id] = node
    return after


def check_proof(folded: Checkpoint, stated: Checkpoint) -> None:
    """Check that a fold arrived where the providers say that the contract is.

    Raises:
        BadAnswerError: it did not: a change is missing, or one is false.
    """
    if folded.revision != stated.revision:
        raise BadAnswerError(
            "proof", f"the logs end at revision {folded.revision}, not at {stated.revision}"
        )
    if folded.history != stated.history:
        raise BadAnswerError("proof", f"the logs up to revision {folded.revision} are not genuine")
    # By the fold's own count: to count ten thousand nodes at each change would be all the work.
    _same_count(folded.member_count, stated)


def check_count(nodes: Nodes, stated: Checkpoint) -> None:
    """Check the number of active nodes against what the contract counts.

    Raises:
        BadAnswerError: nodes are missing, or there are too many.
    """
    _same_count(sum(node.active for node in nodes.values()), stated)


def _same_count(active: int, stated: Checkpoint) -> None:
    if active != stated.member_count:
        raise BadAnswerError(
            "member-count", f"{active} active nodes, but the contract counts {stated.member_count}"
        )
