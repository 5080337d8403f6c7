"""Who has a vote, which block all have, and what counts as agreement."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.samples import block
from dstack_vpn.chain.quorum import Quorum

THREE = {"a#1": "a", "b#2": "b", "c#3": "c"}


def test_the_target_is_the_needed_th_highest_head() -> None:
    """With 2 of 3, one that is ahead and one that is behind decide nothing."""
    heads = {"a#1": block(9), "b#2": block(7), "c#3": block(5)}
    assert Quorum(THREE, 1).target(heads) == block(9)
    assert Quorum(THREE, 2).target(heads) == block(7)
    assert Quorum(THREE, 3).target(heads) == block(5)


def test_silence_never_makes_the_quorum_smaller() -> None:
    """What one of three says is never enough for two, however silent the others are."""
    alone = {"a#1": block(9)}
    assert Quorum(THREE, 2).target(alone) is None
    assert Quorum(THREE, 2).agreed({"a#1": "x"}) is None
    assert Quorum(THREE, 2).agreed({}) is None


def test_two_urls_of_one_host_are_one_vote() -> None:
    """Two URLs of a host cannot outvote anybody, and count only when they say the same."""
    quorum = Quorum({"a#1": "a", "a#2": "a", "b#3": "b"}, 2)
    assert quorum.voters == 2
    assert quorum.agreed({"a#1": "x", "a#2": "x"}) is None
    assert quorum.agreed({"a#1": "x", "a#2": "x", "b#3": "x"}) == "x"
    assert quorum.agreed({"a#1": "x", "a#2": "y", "b#3": "x"}) is None
    assert quorum.agreed({"a#1": "x", "b#3": "x"}) is None
    assert quorum.target({"a#1": block(5), "a#2": block(3), "b#3": block(9)}) == block(3)
    assert quorum.target({"a#1": block(5), "b#3": block(9)}) is None


def test_of_several_blocks_of_one_height_most_decide() -> None:
    """Whoever answered first with a block of its own is not the one to be followed."""
    heads = {"a#1": block(7, 1), "b#2": block(7), "c#3": block(7)}
    assert Quorum(THREE, 2).target(heads) == block(7)
    assert [Quorum(THREE, 2).target(heads, turn) for turn in (1, 2)] == [block(7, 1), block(7)]


def test_a_single_liar_changes_nothing() -> None:
    """With 2 of 3 the honest ones agree, and the liar's word is not what comes out."""
    assert Quorum(THREE, 2).agreed({"a#1": "true", "b#2": "lie", "c#3": "true"}) == "true"


@pytest.mark.parametrize("needed", [0, 4, -1])
def test_an_impossible_number_of_votes_is_an_error(needed: int) -> None:
    """From 1 to the number of hosts."""
    with pytest.raises(ValueError, match="votes needed"):
        Quorum(THREE, needed)


@given(st.dictionaries(st.sampled_from(sorted(THREE)), st.sampled_from("xyz")), st.integers(1, 3))
def test_agreement_has_at_least_the_needed_votes(answers: dict[str, str], needed: int) -> None:
    """Whatever is said, what is agreed on was said by enough."""
    agreed = Quorum(THREE, needed).agreed(answers)
    most = max((list(answers.values()).count(v) for v in answers.values()), default=0)
    assert (agreed is not None) == (most >= needed)
    if agreed is not None:
        assert list(answers.values()).count(agreed) >= needed
