"""A contract with only the published interface, on a chain of the lab, with its awkward habits.

The deployed contract's source was never published; this one does what the interface leaves open in
as many ways as there are habits. It is compiled when it is first needed, and again when it changes.
"""

import asyncio
import hashlib
import json
import os
import subprocess
from dataclasses import dataclass
from enum import IntFlag
from functools import cache
from pathlib import Path
from typing import Any, Self

from eth_abi.abi import encode

from lab.chain import REPOSITORY, Chain, Mined
from lab.nft import OWNER, AccessNFT, calldata

SOURCE = REPOSITORY / "tests/contracts/published/PublishedAccess.sol"
COMPILER = REPOSITORY / "contracts/solcjs-wrapper"
STAMPS = REPOSITORY / ".stamps"


class Habit(IntFlag):
    """What the contract does where the interface is silent."""

    NONE = 0
    KEEP_KEY = 1  #: a transfer leaves the key in place
    KEY_OF_OWNER = 2  #: one key an owner, for all his tokens
    TRANSFER_LAST = 4  #: its own event comes before `Transfer`
    ONLY_TRANSFER = 8  #: a transfer logs no `NodeAccessTransferred`
    ONLY_OWN = 16  #: a transfer logs no `Transfer`
    NO_REASON = 32  #: a missing token reverts without data
    ZEROES = 64  #: a missing token reads as zeroes
    HIDE_REVOKED = 128  #: a revoked token reads as a missing one


@dataclass(frozen=True, slots=True)
class PublishedAccess:
    """The contract at an address; made by `deploy`."""

    chain: Chain
    address: str
    start_block: int  #: the block of its deployment

    @classmethod
    async def deploy(
        cls, chain: Chain, habits: Habit = Habit.NONE, *, account: int = OWNER
    ) -> Self:
        """Deploy it with some habits."""
        code = await asyncio.to_thread(bytecode)
        argument = encode(["uint256"], [int(habits)]).hex()
        mined = await chain.send(code + argument, to=None, account=account)
        assert mined.contract is not None
        return cls(chain, mined.contract, mined.block)

    async def submit(self, signature: str, *values: Any, account: int = OWNER) -> str:
        """Hand a call to the node without waiting; the transaction's hash."""
        return await self._calls.submit(signature, *values, account=account)

    async def send(self, signature: str, *values: Any, account: int = OWNER) -> Mined:
        """Make a call as a transaction and wait for it."""
        return await self._calls.send(signature, *values, account=account)

    async def call(
        self, signature: str, *values: Any, returns: str = "", at: str = "latest"
    ) -> Any:
        """Read, at a block tag; `returns` are the ABI types."""
        return await self._calls.call(signature, *values, returns=returns, at=at)

    @property
    def _calls(self) -> AccessNFT:
        """The same address, for the calls that any contract takes."""
        return AccessNFT(self.chain, self.address)

    async def mint(self, node_id: str, key: str = "", *, to: int = OWNER) -> Mined:
        """Mint a token for an account; see `Mined.token_id`."""
        signature = "mintNodeAccess(address,string,string,string)"
        return await self.send(signature, await self.chain.account(to), node_id, key, "")

    async def set_key(self, token_id: int, key: str, *, account: int = OWNER) -> Mined:
        """Set a WireGuard key as its holder."""
        return await self.send("updatePublicKey(uint256,string)", token_id, key, account=account)

    async def transfer(self, token_id: int, *, account: int = OWNER, to: int) -> Mined:
        """Give a token to another account."""
        sender, receiver = await self.chain.account(account), await self.chain.account(to)
        signature = "transferFrom(address,address,uint256)"
        return await self.send(signature, sender, receiver, token_id, account=account)

    async def revoke(self, token_id: int) -> Mined:
        """Revoke, as owner."""
        return await self.send("revokeNodeAccess(uint256)", token_id)

    async def grant_again(self, token_id: int) -> Mined:
        """Undo a revocation, as owner."""
        return await self.send("grantAgain(uint256)", token_id)

    async def burn(self, token_id: int, *, account: int = OWNER) -> Mined:
        """Destroy a token, as its holder."""
        return await self.send("burn(uint256)", token_id, account=account)

    async def change_silently(self, token_id: int, key: str) -> Mined:
        """Change a key without any event, as owner."""
        return await self.send("change(uint256,string)", token_id, key)

    async def at_once(self, *writes: tuple[Any, ...], account: int = OWNER) -> Mined:
        """Several writes of one account in one transaction, each a signature and its values."""
        encoded = [bytes.fromhex(calldata(*write)[2:]) for write in writes]
        return await self.send("multicall(bytes[])", encoded, account=account)


@cache
def bytecode() -> str:
    """What a deployment sends, as hex; the constructor's argument comes after it."""
    digest = hashlib.sha256(SOURCE.read_bytes() + COMPILER.read_bytes()).hexdigest()[:16]
    kept = STAMPS / f"published-{digest}.hex"
    if kept.is_file():
        return kept.read_text()
    code = _compile()
    STAMPS.mkdir(exist_ok=True)
    # Whole or not at all: several test processes may do this at the same time.
    new = kept.with_suffix(f".{os.getpid()}")
    new.write_text(code)
    new.replace(kept)
    for old in STAMPS.glob("published-*.hex"):
        if old != kept:
            Path.unlink(old, missing_ok=True)
    return code


def _compile() -> str:
    job = {
        "language": "Solidity",
        "sources": {SOURCE.name: {"content": SOURCE.read_text()}},
        "settings": {
            "evmVersion": "cancun",
            "optimizer": {"enabled": True},
            "outputSelection": {"*": {"*": ["evm.bytecode.object"]}},
        },
    }
    done = subprocess.run(
        [COMPILER, "--standard-json"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert "contracts" in answer, answer["errors"]
    return "0x" + str(
        answer["contracts"][SOURCE.name]["PublishedAccess"]["evm"]["bytecode"]["object"]
    )
