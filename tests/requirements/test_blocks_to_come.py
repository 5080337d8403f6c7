"""Requirement 35: blocks that are not made yet, such as flashblocks, never enter."""

from pathlib import Path
from typing import Any

import pytest

from chain.local import assert_same, at, following, local_chain, new_key
from lab.nft import AccessNFT
from lab.rpcfault import Ask, Call, Fault, Reply
from lab.rpcfaults import Forge
from lab.waiting import until
from requirements.scene import Clock, Scene, providers, scene

ZERO_HASH = "0x" + "00" * 32


class Preconfirmed(Fault):
    """Give the block that is being made wherever the newest one is asked for."""

    async def answer(self, call: Call, ask: Ask) -> Reply:
        """See `Fault.answer`."""
        if call["params"][:1] != ["latest"]:
            return await ask(call)
        return await ask({**call, "params": ["pending", *call["params"][1:]]})


def newest(call: Call) -> bool:
    """Whether the newest block is asked for."""
    return bool(call["method"] == "eth_getBlockByNumber" and call["params"][0] == "latest")


def without(**parts: Any) -> Forge:
    """The newest block with other parts."""
    return Forge("eth_getBlockByNumber", where=newest, change=lambda block: {**block, **parts})


UNMADE: dict[str, Fault] = {
    "no hash": without(hash=None),
    "a hash of zeroes": without(hash=ZERO_HASH),
    "no number": without(number=None),
    "no nonce": without(nonce=None, hash=None),
    "no state": without(stateRoot=ZERO_HASH),
    "pending": Preconfirmed(),
}


async def all_are_real(s: Scene) -> None:
    """Every block that is held, agreed on or by one provider, is one of the chain."""
    for chain in (*s.follower._witnesses, s.follower._agreed):
        journal = chain.journal if chain else None
        assert journal is not None
        for record in journal.after(journal.oldest):
            block = record.block
            assert (await s.chain.block(block.number)).hash == block.hash != ZERO_HASH


@pytest.mark.parametrize("name", UNMADE)
async def test_requirement_35_a_block_that_is_not_made_yet_never_enters(
    tmp_path: Path, name: str
) -> None:
    """Requirement 35: a block without a hash, or only about to be, is refused and admits nobody."""
    async with scene(tmp_path, count=1) as s:
        kept = await s.mint("kept")
        await s.follower.start(None)
        before = s.membership
        await s.chain.set_automine(False)
        await s.nft.submit(
            "mintNodeAccess(address,string,string,string)",
            await s.chain.account(1), "early", new_key(), "",
        )  # fmt: skip
        s.proxies[0].fault = UNMADE[name]
        for _ in range(3):
            view = await s.poll()
            assert s.membership == before
            assert s.members() == {kept}
            assert view.last_error is not None
            assert not view.providers[0].healthy
        await all_are_real(s)
        s.proxies[0].honest()
        await s.chain.mine()
        await s.arrive()
        await assert_same(s.follower, s.nft)
        await all_are_real(s)


async def test_requirement_35_nor_by_a_subscription(tmp_path: Path) -> None:
    """Requirement 35: a head that is told without a hash, or too early, is a wake-up at most."""
    async with local_chain(tmp_path) as chain:
        nft = await AccessNFT.deploy(chain)
        async with (
            providers(chain.url, 1) as (proxy,),
            following(nft.address, at(proxy.ws_url, 9)) as follower,
        ):
            s = Scene(nft, (proxy,), follower, Clock())
            await s.mint("kept")
            await follower.start(None)
            await until(lambda: proxy.subscribers("newHeads"), "it has subscribed")
            await chain.set_automine(False)
            await nft.submit(
                "mintNodeAccess(address,string,string,string)",
                await chain.account(1), "early", new_key(), "",
            )  # fmt: skip
            pending = await proxy.ask("eth_getBlockByNumber", "pending", False)
            above = {**pending, "number": hex(int(pending["number"], 16) + 1)}
            before = s.membership
            for told in (
                pending,
                {**pending, "hash": None},
                {**pending, "hash": ZERO_HASH},
                {**above, "hash": ZERO_HASH},
                {"number": above["number"]},
                None,
            ):
                await proxy.tell("newHeads", told)
                await follower._witnesses[0].wait(5)
                view = await s.poll()
                assert view.last_error is None
                assert s.membership == before
            await all_are_real(s)
            await chain.mine()
            await s.arrive()
            await assert_same(follower, nft)
