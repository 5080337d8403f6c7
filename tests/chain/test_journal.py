"""The window of recent blocks: what links gets in, and every way back is exact."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.samples import block, node
from dstack_vpn.chain.journal import Journal
from dstack_vpn.chain.verify import Step
from dstack_vpn.errors import BadAnswerError
from dstack_vpn.mesh.membership import Block, Checkpoint, Node


def checkpoint(revision: int) -> Checkpoint:
    return Checkpoint(revision=revision, history=bytes(32), member_count=0)


def step(at: Block, changes: dict[int, Node | None] | None = None, revision: int = 0) -> Step:
    return Step(block=at, checkpoint=checkpoint(revision), changes=changes or {})


def test_a_block_that_does_not_follow_is_refused_and_nothing_changes() -> None:
    """A wrong parent or a gap leaves the journal as it is, also at the end of a good row."""
    journal = Journal(block(5), checkpoint(0), {1: node(1)})
    base = journal.head
    for row in (
        [step(block(7))],
        [step(block(6, 1))],
        [step(block(6)), step(block(7, 1), {1: None})],
    ):
        with pytest.raises(BadAnswerError):
            journal.replace_after(base, row)
        assert journal.head is base
        assert journal.nodes == {1: node(1)}


def test_a_reorganisation_undoes_what_its_blocks_changed() -> None:
    """Going back two blocks and on by three others gives the tokens of the new branch."""
    journal = Journal(block(5), checkpoint(0), {1: node(1), 2: node(2)})
    base = journal.head
    old = [step(block(6), {1: None}), step(block(7), {3: node(3), 2: node(2, revoked=True)})]
    assert journal.replace_after(base, old) == []
    assert journal.nodes == {2: node(2, revoked=True), 3: node(3)}
    new = [
        step(block(6, 1, parent_branch=0)),
        step(block(7, 1)),
        step(block(8, 1), {4: node(4)}, 1),
    ]
    assert [r.block for r in journal.replace_after(base, new)] == [block(7), block(6)]
    assert journal.nodes == {1: node(1), 2: node(2), 4: node(4)}
    assert journal.find(block(7).hash) is None
    assert journal.head.checkpoint == checkpoint(1)


def test_the_window_forgets_its_oldest_blocks() -> None:
    """What falls out cannot be gone back to; the rest can."""
    journal = Journal(block(0), checkpoint(0), {}, window=4)
    for number in range(1, 10):
        journal.replace_after(journal.head, [step(block(number), {number: node(number)})])
    assert journal.oldest.block == block(0), "it is all above what is agreed on"
    journal.keep_from = 8
    journal.replace_after(journal.head, [])
    assert journal.oldest.block == block(6)
    assert journal.find(block(5).hash) is None
    assert set(journal.nodes_at(journal.oldest)) == set(range(1, 7))


def test_maps_once_given_out_never_change() -> None:
    """A reader may keep the tokens of a block while the journal moves on."""
    journal = Journal(block(0), checkpoint(0), {1: node(1)})
    before = journal.nodes
    journal.replace_after(journal.head, [step(block(1), {1: None, 2: node(2)})])
    assert before == {1: node(1)}


changes = st.dictionaries(st.integers(1, 6), st.none() | st.integers(0, 3), max_size=3)


@given(st.lists(st.tuples(changes, st.integers(0, 5)), max_size=25))
@settings(deadline=None)
def test_every_record_leads_back_to_its_tokens(
    moves: list[tuple[dict[int, int | None], int]],
) -> None:
    """Random changes and random ways back agree with plain copies kept beside."""
    journal = Journal(block(0), checkpoint(0), {})
    copies: list[tuple[Block, dict[int, Node]]] = [(block(0), {})]
    for branch, (change, depth) in enumerate(moves, 1):
        back = min(depth, len(copies) - 1)
        del copies[len(copies) - back :]
        parent, tokens = copies[-1]
        base = journal.find(parent.hash)
        assert base is not None
        made = {i: None if v is None else node(i, created_at=v) for i, v in change.items()}
        at = Block(
            number=parent.number + 1,
            hash=block(parent.number + 1, branch).hash,
            parent_hash=parent.hash,
            timestamp=0,
        )
        assert len(journal.replace_after(base, [step(at, made)])) == back
        after = {k: v for k, v in (tokens | made).items() if v is not None}
        copies.append((at, after))
        for one, expected in copies:
            record = journal.find(one.hash)
            assert record is not None
            assert journal.nodes_at(record) == expected
