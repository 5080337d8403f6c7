"""What voices amount to: the agreed head moves by many, a member is suspended by one."""

from dataclasses import replace

import pytest

from chain.chains import Built, Changes, granted, revoked, suspects
from chain.samples import block, node
from dstack_vpn.chain.agreed import Agreed, FinalityError
from dstack_vpn.chain.journal import Journal
from dstack_vpn.chain.quorum import Quorum
from dstack_vpn.chain.tally import (
    DISPUTE_DEPTH,
    Move,
    Parting,
    dispute,
    next_move,
    partings,
    refuted,
    supporters,
)
from dstack_vpn.mesh.membership import Mark

THREE = Quorum({"a": "a", "b": "b", "c": "c"}, 2)
Chains = dict[str, Built]


def trio() -> tuple[Built, Chains]:
    """An agreed chain at block 10 with members 1 and 2, and three providers that are there."""
    agreed = Built.at(10, 1, 2)
    return agreed, {name: agreed.copy() for name in "abc"}


def journals(chains: Chains) -> dict[str, Journal]:
    return {name: chain.journal for name, chain in chains.items()}


def move_of(agreed: Built, chains: Chains, left: dict[str, set[str]] | None = None) -> Move | None:
    return next_move(THREE, journals(chains), agreed.journal, left or {})  # type: ignore[arg-type]


def test_nobody_moves_the_head_alone() -> None:
    """One of three that is ahead moves nothing; the second one does, as far as both are."""
    agreed, chains = trio()
    chains["a"].grow({}, {}, {})
    assert move_of(agreed, chains) is None
    chains["b"].grow({}, {})
    move = move_of(agreed, chains)
    assert move is not None
    assert (move.record.block, move.back) == (block(12), False)


def test_the_same_block_with_other_members_is_not_the_same_answer() -> None:
    """Two that agree on a hash but not on the contract's history agree on nothing."""
    agreed, chains = trio()
    chains["a"].grow(granted(3))
    chains["b"].grow(granted(3, key=b"\x66" * 32))
    assert move_of(agreed, chains) is None
    chains["c"].grow(granted(3))
    move = move_of(agreed, chains)
    assert move is not None
    assert move.camp == ("a", "c")


def test_what_is_agreed_lies_below_where_they_part() -> None:
    """Two that share a block and differ above it agree up to there."""
    agreed, chains = trio()
    chains["a"].grow(granted(3), granted(4))
    chains["b"].grow(granted(3), granted(5))
    move = move_of(agreed, chains)
    assert move is not None
    assert move.record.block == block(11)


def test_a_reorganisation_takes_as_many_as_an_agreement() -> None:
    """One that changes its branch moves nothing, however long that is; the second one does."""
    agreed, chains = trio()
    for chain in chains.values():
        chain.grow({}, {})
    agreed.grow({}, {})
    chains["a"].back(2).grow({}, {}, {}, {}, branch=1)
    assert move_of(agreed, chains) is None
    chains["b"].back(2).grow({}, branch=1)
    move = move_of(agreed, chains)
    assert move is not None
    assert (move.record.block.number, move.back) == (11, True)
    assert move.record.block.hash == block(11, 1).hash


def test_to_be_behind_is_not_to_go_back() -> None:
    """Two that are late take nothing back; two that had the head and left it do."""
    agreed, chains = trio()
    agreed.grow(revoked(1))
    chains["c"].grow(revoked(1))
    assert move_of(agreed, chains) is None
    head = {agreed.journal.head.block.hash}
    assert move_of(agreed, chains, {"a": set(head)}) is None
    move = move_of(agreed, chains, {"a": set(head), "b": set(head)})
    assert move is not None
    assert (move.record.block, move.back) == (block(10), True)


@pytest.mark.parametrize(
    ("change", "out"),
    [
        (revoked(1), True),
        ({1: None}, True),
        ({1: node(1, suspended=True, key=bytes(32))}, True),
        ({1: node(1, key=b"\x66" * 32)}, True),
        ({1: node(1, holder="0x" + "bb" * 20)}, True),
        ({1: node(1, node_id="other")}, True),
        ({1: node(1, expires_at=5)}, True),
        ({1: node(1, endpoint="198.51.100.7:1")}, False),
        ({1: node(1, role=b"r" * 32)}, False),
        (granted(3), False),
    ],
)
def test_one_source_is_enough_to_suspect(change: Changes, *, out: bool) -> None:
    """Whatever takes access away counts at once; what gives it, or changes nothing of it, not."""
    agreed, chains = trio()
    chains["b"].grow(change)
    found = suspects(journals(chains), agreed.journal)
    assert set(found) == ({1} if out else set())
    if out:
        assert found[1].providers == ("b",)
        assert found[1].node == chains["b"].journal.nodes.get(1)
        assert found[1].block == 11


def test_what_one_source_gives_back_is_not_given_back() -> None:
    """Who was revoked and restored since the agreed head is out until enough have seen both."""
    agreed, chains = trio()
    chains["b"].grow(revoked(1), {}, {1: node(1)})
    found = suspects(journals(chains), agreed.journal)
    assert (found[1].block, found[1].providers) == (11, ("b",))
    assert found[1].node is not None
    assert found[1].node.revoked


def test_a_longer_term_is_no_removal() -> None:
    """An expiry that comes later, or never, takes nothing away."""
    start = Built.at(10)
    start.grow(granted(1, expires_at=100))
    for ends in (0, 101):
        chain = start.copy().grow({1: node(1, expires_at=ends)})
        assert suspects({"a": chain.journal}, start.journal) == {}


def test_who_never_had_the_admission_removes_nobody() -> None:
    """A provider that is behind, or on a branch without the grant, is no witness against it."""
    agreed, chains = trio()
    behind = chains["a"]
    other = chains["b"].grow(branch=1)
    agreed.grow(granted(3))
    assert suspects({"a": behind.journal, "b": other.journal}, agreed.journal) == {}
    # On that branch the others, who were admitted before, can be removed.
    other.grow(revoked(2), branch=1)
    assert set(suspects({"b": other.journal}, agreed.journal)) == {2}


def test_an_old_removal_does_not_count_against_a_newer_admission() -> None:
    """Who is late still tells of the revocation that was taken back since."""
    agreed, chains = trio()
    late = chains["a"].grow(revoked(1))
    agreed.grow(revoked(1), granted(1))
    assert suspects({"a": late.journal}, agreed.journal) == {}


def test_several_sources_are_all_named() -> None:
    """The suspect has the names of everybody who says it."""
    agreed, chains = trio()
    for name in "ac":
        chains[name].grow(revoked(2))
    (found,) = suspects(journals(chains), agreed.journal).values()
    assert found.providers == ("a", "c")


def test_a_lie_about_a_shared_block_is_refuted_at_once() -> None:
    """Who has other members in the block that enough agree on is contradicted by them."""
    agreed, chains = trio()
    agreed.grow({})
    chains["b"].grow(revoked(1))
    found = partings(journals(chains), agreed.journal, {})
    (how,) = refuted(found, agreed.journal).values()
    assert "other members at block 11" in how


def test_a_branch_of_its_own_is_refuted_when_it_is_left_behind() -> None:
    """A short race refutes nobody; after some blocks of the others it does."""
    agreed, chains = trio()
    chains["b"].grow(revoked(1), *[{}] * 30, branch=7)
    found: dict[str, Parting] = {}
    for _ in range(DISPUTE_DEPTH):
        agreed.grow({})
        found = partings(journals(chains), agreed.journal, found)
        assert refuted(found, agreed.journal) == {}
    agreed.grow({})
    found = partings(journals(chains), agreed.journal, found)
    (how,) = refuted(found, agreed.journal).values()
    assert block(11, 7).hash[:10] in how
    assert block(11).hash[:10] in how


def test_the_first_to_tell_of_a_deep_reorganisation_is_not_refuted() -> None:
    """That the agreed chain is long already says nothing: it must go on without that provider."""
    agreed, chains = trio()
    agreed.grow(*[{}] * 30)
    chains["b"].grow(revoked(1), branch=7)
    found = partings(journals(chains), agreed.journal, {})
    assert refuted(found, agreed.journal) == {}
    chains["b"].grow(*[{}] * 40, branch=7)
    agreed.grow(*[{}] * (DISPUTE_DEPTH - 1))
    found = partings(journals(chains), agreed.journal, found)
    assert refuted(found, agreed.journal) == {}
    agreed.grow({})
    assert set(refuted(partings(journals(chains), agreed.journal, found), agreed.journal)) == {"b"}
    # A branch that it has instead is another matter.
    chains["b"] = Built.at(10, 1, 2).grow({}, branch=8)
    found = partings(journals(chains), agreed.journal, found)
    assert refuted(found, agreed.journal) == {}


def test_who_is_behind_or_ahead_is_not_refuted() -> None:
    """Neither contradicts anybody."""
    agreed, chains = trio()
    chains["a"].grow(*[{}] * 20)
    agreed.grow(*[{}] * 10)
    assert partings(journals(chains), agreed.journal, {}) == {}
    assert supporters(journals(chains), agreed.journal) == {"a"}


def test_a_dispute_shows_both_hashes_and_everybody() -> None:
    """Where providers part, the sentence has who has which block, and how long."""
    agreed, chains = trio()
    assert dispute(THREE, journals(chains), agreed.journal) is None
    chains["a"].grow({}, {})
    assert dispute(THREE, journals(chains), agreed.journal) is None
    chains["b"].grow(branch=1)
    assert dispute(THREE, journals(chains), agreed.journal) is None, "the third may decide it"
    chains["c"].grow(branch=2)
    found = dispute(THREE, journals(chains), agreed.journal)
    assert found is not None
    assert found.depth == 2
    assert found.text == (
        f"the providers disagree on block 11: a has {block(11).hash[:10]}…,"
        f" b has {block(11, 1).hash[:10]}…, c has {block(11, 2).hash[:10]}…"
    )
    chains["b"] = agreed.copy().grow(granted(9))
    chains["c"] = agreed.copy().grow(granted(8))
    found = dispute(THREE, journals(chains), agreed.journal)
    assert found is not None
    assert "the contract's state at block 11" in found.text


def moved(agreed: Agreed, chain: Built) -> tuple[int, int]:
    """Move to a chain's head; the block that was kept, and how many were undone."""
    record = chain.journal.head
    common, undone = agreed.move(Move(record, ("a",), back=True), {"a": chain.journal})
    return common.block.number, undone


def test_the_agreed_chain_keeps_the_age_of_access() -> None:
    """Blocks that do not concern a member leave its age alone."""
    chain = Built.at(10, 1)
    agreed = Agreed(chain.journal.copy())
    chain.grow({1: node(1, endpoint="198.51.100.7:1")}, granted(2))
    assert moved(agreed, chain) == (10, 0)
    assert {t: n.since_block for t, n in agreed.journal.nodes.items()} == {1: 10, 2: 12}
    assert agreed.head.same(chain.journal.head)


def test_the_age_of_access_is_the_latest_that_any_of_them_tells() -> None:
    """Where they do not agree on the age as well, one that tells an older one gains nothing."""
    first, second = Built.at(10), Built.at(10)
    agreed = Agreed(first.journal.copy())
    for chain, where in ((first, 1), (second, 3)):
        for number in range(1, 5):
            chain.grow(granted(1) if number == where else {})
    same = first.journal.head.checkpoint
    head = second.journal.head
    second.journal._records[-1] = replace(head, step=replace(head.step, checkpoint=same))
    move = Move(first.journal.head, ("a", "b"), back=False)
    agreed.move(move, {"a": first.journal, "b": second.journal})
    assert agreed.journal.nodes[1].since_block == 13


def test_what_a_reorganisation_brings_back_is_new() -> None:
    """A revocation that is dropped gives access back as of the first block of the new branch."""
    chain = Built.at(10, 1, 2)
    agreed = Agreed(chain.journal.copy())
    other = chain.copy().grow(branch=1).grow(branch=1)
    chain.grow(revoked(1), granted(3))
    moved(agreed, chain)
    assert moved(agreed, other) == (10, 2)
    assert {t: n.since_block for t, n in agreed.journal.nodes.items()} == {1: 11, 2: 10}
    # And it stays so new while it is not touched, also when its endpoint changes.
    other.grow({1: node(1, endpoint="198.51.100.7:1")}, branch=1)
    moved(agreed, other)
    assert agreed.journal.nodes[1].since_block == 11


def test_a_rollback_that_brings_back_waits_for_its_first_block() -> None:
    """Where there is no new branch yet, access is as new as the block that is to come."""
    chain = Built.at(10, 1)
    start = chain.copy()
    agreed = Agreed(chain.journal.copy())
    chain.grow({}, revoked(1))
    start.grow({})
    moved(agreed, chain)
    assert moved(agreed, start) == (11, 1)
    assert agreed.journal.nodes[1].since_block == 12
    moved(agreed, chain)
    assert agreed.journal.nodes[1].revoked


def test_what_is_final_is_never_left() -> None:
    """A branch that parts below the mark is refused, and nothing moves; one above it is not."""
    chain = Built.at(10, 1)
    other = chain.copy().grow(branch=1).grow(branch=1)
    chain.grow({}, {})
    late = chain.copy().back(1).grow(branch=2).grow(branch=2)
    agreed = Agreed(chain.journal.copy(), Mark(11, block(11).hash))
    head = agreed.head
    with pytest.raises(FinalityError, match="was final"):
        moved(agreed, other)
    assert agreed.head is head
    assert moved(agreed, late) == (11, 1)
