"""Our membership contract on a chain of the lab, with the writes that tests make.

Accounts are the numbers of anvil's dev accounts; 0 deploys and owns the contract. Every write waits
for its receipt. A write that the contract refuses raises `RpcError`.
"""

import json
import time
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

from eth_abi.abi import decode, encode
from eth_utils.crypto import keccak

from lab.chain import REPOSITORY, Chain, Mined

ARTIFACT = REPOSITORY / "src/dstack_vpn/chain/abi/DstackAccessNFT.json"
OWNER = 0


@dataclass(frozen=True, slots=True)
class AccessNFT:
    """The contract at an address; made by `deploy`."""

    chain: Chain
    address: str

    @classmethod
    async def deploy(cls, chain: Chain, *, account: int = OWNER) -> Self:
        """Deploy it; the first contract of account 0 is where the preset `hardhat` expects it."""
        mined = await chain.send(artifact()["bytecode"], to=None, account=account)
        assert mined.contract is not None
        return cls(chain, mined.contract)

    async def submit(self, signature: str, *values: Any, account: int = OWNER) -> str:
        """Hand a call to the node without waiting; the transaction's hash."""
        data = calldata(signature, *values)
        return await self.chain.submit(data, to=self.address, account=account)

    async def send(self, signature: str, *values: Any, account: int = OWNER) -> Mined:
        """Make a call as a transaction, such as `send("burn(uint256)", 7)`, and wait for it."""
        sent = time.monotonic()
        return await self.chain.mined(
            await self.submit(signature, *values, account=account), sent=sent
        )

    async def call(
        self, signature: str, *values: Any, returns: str = "", at: str = "latest"
    ) -> Any:
        """Read, at a block tag; `returns` are the ABI types; one value comes without its tuple."""
        call = {"to": self.address, "data": calldata(signature, *values)}
        raw = bytes.fromhex((await self.chain.rpc("eth_call", call, at))[2:])
        result = decode(types_of(f"({returns})"), raw)
        return result[0] if len(result) == 1 else result

    async def mint(self, node_id: str, key: str = "", *, to: int = OWNER, uri: str = "") -> Mined:
        """Mint a node for an account, invited only when the key is empty; see `Mined.token_id`."""
        signature = "mintNodeAccess(address,string,string,string)"
        return await self.send(signature, await self.chain.account(to), node_id, key, uri)

    async def set_key(self, token_id: int, key: str, *, account: int = OWNER) -> Mined:
        """Set a WireGuard key as its holder."""
        return await self.send("setPublicKey(uint256,string)", token_id, key, account=account)

    async def set_endpoint(self, token_id: int, endpoint: str, *, account: int = OWNER) -> Mined:
        """Publish an endpoint as its holder."""
        return await self.send("setEndpoint(uint256,string)", token_id, endpoint, account=account)

    async def transfer(self, token_id: int, *, account: int = OWNER, to: int) -> Mined:
        """Give a token to another account, which suspends it."""
        sender, receiver = await self.chain.account(account), await self.chain.account(to)
        signature = "transferFrom(address,address,uint256)"
        return await self.send(signature, sender, receiver, token_id, account=account)

    async def revoke(self, token_id: int, *, account: int = OWNER) -> Mined:
        """Revoke, as owner or guardian."""
        return await self.send("revokeNodeAccess(uint256)", token_id, account=account)

    async def restore(self, token_id: int) -> Mined:
        """Undo a revocation."""
        return await self.send("restoreNodeAccess(uint256)", token_id)

    async def burn(self, token_id: int, *, account: int = OWNER) -> Mined:
        """Destroy a token, as owner or holder."""
        return await self.send("burn(uint256)", token_id, account=account)

    async def renew(self, token_id: int, expires_at: int) -> Mined:
        """Set when it expires, in seconds of the chain's clock; 0 = never."""
        return await self.send("renewNodeAccess(uint256,uint64)", token_id, expires_at)

    async def set_guardian(self, account: int, allowed: bool = True) -> Mined:
        """Let an account revoke, or no longer."""
        return await self.send(
            "setGuardian(address,bool)", await self.chain.account(account), allowed
        )

    async def release_key(self, key: bytes) -> Mined:
        """Let a spent key be used again."""
        return await self.send("releaseKey(bytes32)", key)

    async def checkpoint(self, at: str = "latest") -> tuple[int, bytes, int]:
        """Revision, history and number of active nodes."""
        revision, history, count = await self.call(
            "checkpoint()", returns="uint64,bytes32,uint256", at=at
        )
        return revision, history, count


@cache
def artifact() -> dict[str, Any]:
    """The contract's ABI and bytecode, as the package ships them."""
    loaded: dict[str, Any] = json.loads(ARTIFACT.read_text())
    return loaded


def types_of(signature: str) -> list[str]:
    """The argument types of a signature without tuples."""
    inner = signature.partition("(")[2].removesuffix(")")
    return inner.split(",") if inner else []


def calldata(signature: str, *values: Any) -> str:
    """A call in ABI encoding, as hex."""
    selector = keccak(text=signature)[:4]
    return "0x" + (selector + encode(types_of(signature), values)).hex()
