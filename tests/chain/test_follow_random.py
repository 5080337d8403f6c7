"""A long random walk of writes, reorganisations and ways back, compared with the contract."""

import random
from pathlib import Path

import pytest

from chain.local import assert_same, following, local_chain, new_key, ws
from dstack_vpn.chain.follow import Follower
from lab.chain import RpcError
from lab.nft import AccessNFT
from lab.waiting import until

STEPS = 300
ACCOUNTS = 3


class Walk:
    """Random things that can happen to a chain."""

    def __init__(self, nft: AccessNFT, source: random.Random) -> None:
        self.nft = nft
        self.source = source
        self.names = 0
        self.snapshots: list[str] = []
        self.floor = 0  #: the block of the deployment, below which nothing goes

    async def step(self) -> None:
        """Do one thing; what the contract refuses counts as nothing."""
        acts = [
            *[self._mint] * 4,
            *[self._set_key] * 3,
            *[self._write] * 8,
            *[self._transfer] * 2,
            self._burn,
            self._mine,
            self._reorg,
            self._rollback,
            self._snapshot,
            self._revert,
        ]
        try:
            await self.source.choice(acts)()
        except RpcError:
            return

    async def _token(self) -> tuple[int, int]:
        """Any token that exists, and the account of its holder."""
        last = await self.nft.call("nextTokenId()", returns="uint256")
        token = self.source.randrange(1, max(2, last))
        holder = await self.nft.call("ownerOf(uint256)", token, returns="address")
        return token, [await self.nft.chain.account(i) for i in range(ACCOUNTS)].index(holder)

    async def _mint(self) -> None:
        self.names += 1
        key = new_key(self.source) if self.source.random() < 0.7 else ""
        await self.nft.mint(f"n{self.names}", key, to=self.source.randrange(ACCOUNTS))

    async def _set_key(self) -> None:
        token, account = await self._token()
        await self.nft.set_key(token, new_key(self.source), account=account)

    async def _transfer(self) -> None:
        token, account = await self._token()
        await self.nft.transfer(token, account=account, to=self.source.randrange(ACCOUNTS))

    async def _burn(self) -> None:
        token, account = await self._token()
        await self.nft.burn(token, account=account)

    async def _write(self) -> None:
        """One of the small writes."""
        token, account = await self._token()
        match self.source.randrange(5):
            case 0:
                await self.nft.revoke(token)
            case 1:
                await self.nft.restore(token)
            case 2:
                await self.nft.renew(token, self.source.randrange(2**64))
            case 3:
                role = self.source.randbytes(32)
                await self.nft.send("setRole(uint256,bytes32)", token, role)
            case _:
                endpoint = "x" * self.source.randrange(90)
                await self.nft.set_endpoint(token, endpoint, account=account)

    async def _mine(self) -> None:
        await self.nft.chain.mine(self.source.randrange(1, 5))

    async def _deepest(self) -> int:
        height = (await self.nft.chain.block()).number
        return min(6, height - self.floor)

    async def _reorg(self) -> None:
        if deepest := await self._deepest():
            # A snapshot of a block that is gone breaks the chain when it is used.
            self.snapshots.clear()
            await self.nft.chain.reorg(self.source.randint(1, deepest))

    async def _rollback(self) -> None:
        if deepest := await self._deepest():
            self.snapshots.clear()
            await self.nft.chain.rollback(self.source.randint(1, deepest))

    async def _snapshot(self) -> None:
        self.snapshots.append(await self.nft.chain.snapshot())

    async def _revert(self) -> None:
        if self.snapshots:
            await self.nft.chain.revert(self.snapshots.pop())


async def arrive(follower: Follower, nft: AccessNFT) -> None:
    """Poll until the follower is at the head; over HTTP that is one poll.

    A WebSocket may first tell of a block that is not the head any more.
    """
    head = await nft.chain.block()

    async def there() -> bool:
        membership = (await follower.poll()).membership
        return membership is not None and membership.block.hash == head.hash

    await until(there, f"block {head.number} is reached")


@pytest.mark.parametrize(("seed", "socket"), [(7, False), (23, True)])
async def test_no_difference_in_a_random_walk(tmp_path: Path, seed: int, *, socket: bool) -> None:
    """After each of 300 steps, of one act or of several, the follower equals the contract."""
    source = random.Random(seed)
    async with local_chain(tmp_path) as chain:
        nft = await AccessNFT.deploy(chain)
        walk = Walk(nft, source)
        walk.floor = (await chain.block()).number
        url = ws(chain.url) if socket else chain.url
        async with following(nft.address, url) as follower:
            await follower.start(None)
            for _ in range(STEPS):
                for _ in range(source.choice([1, 1, 1, 4])):
                    await walk.step()
                await arrive(follower, nft)
                await assert_same(follower, nft)
            assert follower.view.reorgs > 10
            assert follower.view.resyncs < STEPS / 10
