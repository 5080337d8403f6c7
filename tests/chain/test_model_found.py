"""What the model test has found: each as the shortest way there is to it."""

from pathlib import Path

import pytest

from chain.chains import Built, revoked, suspects
from chain.local import new_key
from chain.model_world import Plan, Stage, Step
from chain.samples import node
from chain.test_tally import THREE, journals, trio
from chain.trio import trio_of
from dstack_vpn.chain.tally import next_move
from dstack_vpn.mesh.access import judge
from dstack_vpn.mesh.membership import Mark, Tag
from lab.nft import AccessNFT
from lab.rpcfaults import Delay, RateLimit

PLANS = {
    "a start whose snapshot is below what was final": Plan(
        confirmations=Tag.FINALIZED,
        steps=[
            Step("mine", 9), Step("poll"), Step("block"), Step("poll"),
            Step("restart", 1), Step("block"),
        ],
    ),
    "a tag that was told of a branch that is gone": Plan(
        confirmations=Tag.SAFE,
        steps=[
            Step("mine", 9), Step("poll"), Step("poll"), Step("poll"),
            Step("rollback", 3), Step("block"), Step("mine"), Step("poll"),
        ],
    ),
    "a branch that leaves all that was known counts anew": Plan(
        confirmations=1,
        steps=[
            Step("mine", 7), Step("poll"), Step("mine", 1), Step("poll"),
            Step("rollback", 6), Step("block"), Step("poll"),
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANS)
async def test_it_holds_there_too(tmp_path: Path, name: str) -> None:
    """A plan that failed once."""
    async with Stage.open(tmp_path) as stage:
        await stage.play(PLANS[name])


@pytest.mark.parametrize("others", [1, 2])
def test_what_ends_earlier_does_not_hide_a_removal(others: int) -> None:
    """Of all that is said against a member the most counts, whoever says it and when."""
    agreed, chains = trio()
    chains["a"].grow({1: node(1, expires_at=2_000_000_000)})
    (chains["a"] if others == 1 else chains["b"]).grow(revoked(1))
    found = suspects(journals(chains), agreed.journal)[1]
    assert found.node is not None
    assert found.node.revoked
    assert found.providers == ("a", "b")[:others]


def left_at(agreed: Built, depth: int, branch: int) -> Built:
    """Another branch that leaves the agreed chain so many blocks below its head."""
    return agreed.copy().back(depth).grow(branch=branch)


def test_an_old_block_that_two_share_takes_back_nothing_that_is_final() -> None:
    """One that left it, and one of another branch, do not leave it together; two of one do."""
    agreed = Built.at(10, 1).grow(*[{}] * 20)
    final = Mark(20, agreed.journal.at(20).block.hash)  # type: ignore[union-attr]
    chains = {"a": left_at(agreed, 15, 7), "b": left_at(agreed, 1, 8), "c": agreed.copy()}
    assert next_move(THREE, journals(chains), agreed.journal, {}, final) is None
    without = next_move(THREE, journals(chains), agreed.journal, {})
    assert without is not None
    assert without.record.block.number == 15
    chains["b"] = left_at(agreed, 15, 7)
    move = next_move(THREE, journals(chains), agreed.journal, {}, final)
    assert move is not None
    assert move.record.same(chains["b"].journal.head)


async def test_who_answers_first_and_cannot_be_followed_holds_up_no_start(
    contract: AccessNFT,
) -> None:
    """Two agree where to start, and one of them fails then: the third, who is late, is followed."""
    token = (await contract.mint("a", new_key())).token_id
    async with trio_of(contract, confirmations=1) as trio:
        trio.proxies[0].fault = RateLimit("eth_getLogs", code=-32000)
        trio.proxies[2].fault = Delay("eth_getCode", until=0.3)
        view = await trio.follower.poll()
        assert view.verified
        assert view.membership is not None
        assert set(view.membership.nodes) == {token}
        assert not any(d.granted for d in judge(view.membership, confirmed=0, chain_now=0))
