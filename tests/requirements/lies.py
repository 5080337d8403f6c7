"""The fault matrix: ways to lie about a block in which members are granted, and who finds out.

Each row is a lie that one provider tells of the newest block, or on top of it. What is called
`REFUSED` a provider is caught at that is all by itself; what is called `BELIEVED` only others can
refute.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from chain.samples import HOLDER, word
from dstack_vpn.chain import contract as abi
from dstack_vpn.mesh.keys import PublicKey
from dstack_vpn.mesh.membership import Node
from lab.chain import CHAIN_ID
from lab.nft import AccessNFT
from lab.rpcfault import Call, Fault, calldata
from lab.rpcfaults import Forge, Give, Omit, Swap
from lab.rpcforger import Forger, header_hash
from lab.rpcproxy import Proxy

MALLORY = b"\x66" * 32
"""The key of whoever is to be let in."""
STRANGER = 99
"""A token that nobody minted."""

GET_NODES = "getNodes(uint256,uint256)"
HASH_NODES = "hashNodes(uint256,uint256)"
ONE = b"\x11" * 32


class Alone(Enum):
    """What comes of a lie where nobody else is asked."""

    REFUSED = "refused"
    UNASKED = "what it is about is not asked for"
    BELIEVED = "believed"


@dataclass(frozen=True)
class Told:
    """Who lies, and about what."""

    nft: AccessNFT
    proxy: Proxy
    token: int
    """Granted in the newest block, with another one."""

    @property
    def forger(self) -> Forger:
        """Makes up what fits in itself."""
        return Forger(self.nft.address, CHAIN_ID)

    async def key(self) -> bytes:
        """The key that was granted."""
        signature = "getPublicKeyByTokenId(uint256)"
        return PublicKey.parse(await self.nft.call(signature, self.token, returns="string")).raw

    async def head(self) -> dict[str, Any]:
        """The newest block."""
        found: dict[str, Any] = await self.nft.chain.rpc("eth_getBlockByNumber", "latest", False)
        return found


Tell = Callable[[Told], Awaitable[None]]


@dataclass(frozen=True)
class Row:
    """One row of the matrix."""

    tell: Tell
    following: Alone
    """Where the block is followed."""
    starting: Alone
    """Where the follower starts at the block."""


def put(*faults: Fault) -> Tell:
    """Set faults that need to know nothing."""

    async def tell(told: Told) -> None:
        told.proxy.fault = faults

    return tell


def insert(logs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One more grant after the true ones."""
    if not logs:
        return logs
    last = logs[-1]
    node = Node(
        token_id=STRANGER, holder=HOLDER, node_id="mallory", key=MALLORY, endpoint="",
        role=bytes(32), created_at=1_700_000_000, expires_at=0, revoked=False, suspended=False,
        since_block=0,
    )  # fmt: skip
    topics = [last["topics"][0], hex_word(int(last["topics"][1], 16) + 1), hex_word(STRANGER)]
    data = "0x" + (word(32) + abi.encode_page([node])[96:]).hex()
    index = hex(int(last["logIndex"], 16) + 1)
    return [*logs, {**last, "topics": topics, "data": data, "logIndex": index}]


def hex_word(number: int) -> str:
    return "0x" + word(number).hex()


async def swap_in_logs(told: Told) -> None:
    """Another key in the data of the logs."""
    told.proxy.fault = Swap("eth_getLogs", await told.key(), MALLORY)


async def swap_in_receipts(told: Told) -> None:
    """And in the receipts that would refute it."""
    key = await told.key()
    told.proxy.fault = [Swap(m, key, MALLORY) for m in ("eth_getLogs", "eth_getBlockReceipts")]


async def rewrite_root(told: Told) -> None:
    """And in the header that would refute those."""
    await swap_in_receipts(told)
    hide = Forge("eth_getBlockByNumber", lambda raw: raw and {**raw, "receiptsRoot": hex_of(ONE)})
    told.proxy.fault = [*told.proxy.fault, hide]


async def sibling(told: Told) -> None:
    """Another block of the same height, whose hash is right, and the logs in its name."""
    real = await told.head()
    other = {**real, "extraData": "0x6d616c6c6f7279"}
    other["hash"] = hex_of(header_hash(other))

    def instead(raw: dict[str, Any] | None) -> dict[str, Any] | None:
        return other if raw and raw["hash"] == real["hash"] else raw

    def renamed(call: Call) -> bool:
        return call["method"] == "eth_getLogs" and call["params"][0].get("blockHash") is not None

    told.proxy.fault = [
        Give("eth_getLogs", [], where=renamed),
        Forge("eth_getBlockByNumber", instead),
    ]


async def forged_block(told: Told) -> None:
    """A block that fits in itself, and five on top of it."""
    await told.forger.grant(told.proxy, STRANGER, "mallory", MALLORY)
    await told.forger.blocks(told.proxy, 5)


async def forged_key(told: Told) -> None:
    """The same with another key for a member."""
    await told.forger.swap_key(told.proxy, told.token, MALLORY)
    await told.forger.blocks(told.proxy, 5)


async def grant_at_honest_hash(told: Told) -> None:
    """Logs, checkpoint, pages and digests of the true block, all fitting, with a grant more."""
    await told.forger.grant(told.proxy, STRANGER, "mallory", MALLORY, real_block=True)


async def key_at_honest_hash(told: Told) -> None:
    """The same with another key for a member."""
    await told.forger.swap_key(told.proxy, told.token, MALLORY, real_block=True)


async def hidden(told: Told) -> None:
    """The true block without its changes."""
    await told.forger.hide(told.proxy)


async def swap_in_pages(told: Told) -> None:
    """Another key in a page."""
    told.proxy.fault = Swap("eth_call", await told.key(), MALLORY, to=GET_NODES)


async def swap_everywhere(told: Told) -> None:
    """Another key in all that is ever said."""
    told.proxy.fault = Swap("*", await told.key(), MALLORY)


def hex_of(data: bytes) -> str:
    return "0x" + data.hex()


def at_checkpoint(change: Callable[[str], str]) -> Tell:
    """Alter what `checkpoint()` answers."""
    return put(Forge("eth_call", change, where=lambda call: is_view(call, "checkpoint()")))


def is_view(call: Call, signature: str) -> bool:
    return calldata(call).startswith(hex_of(abi.encode_call(signature)))


ROWS: dict[str, Row] = {
    "all logs omitted": Row(put(Omit("eth_getLogs")), Alone.REFUSED, Alone.UNASKED),
    "one of two logs omitted": Row(put(Omit("eth_getLogs", [1])), Alone.REFUSED, Alone.UNASKED),
    "a grant inserted": Row(put(Forge("eth_getLogs", insert)), Alone.REFUSED, Alone.UNASKED),
    "a key swapped in data": Row(swap_in_logs, Alone.REFUSED, Alone.UNASKED),
    "a key swapped in logs and receipts": Row(swap_in_receipts, Alone.REFUSED, Alone.UNASKED),
    "the receipts root rewritten": Row(rewrite_root, Alone.REFUSED, Alone.REFUSED),
    "a sibling of the block": Row(sibling, Alone.REFUSED, Alone.REFUSED),
    "a whole block forged": Row(forged_block, Alone.BELIEVED, Alone.BELIEVED),
    "a whole block forged for a key": Row(forged_key, Alone.BELIEVED, Alone.BELIEVED),
    "a grant at the honest hash": Row(grant_at_honest_hash, Alone.BELIEVED, Alone.BELIEVED),
    "a key at the honest hash": Row(key_at_honest_hash, Alone.BELIEVED, Alone.BELIEVED),
    "nothing happened at the honest hash": Row(hidden, Alone.BELIEVED, Alone.BELIEVED),
    "a history": Row(
        at_checkpoint(lambda d: d[:66] + ONE.hex() + d[130:]), Alone.REFUSED, Alone.BELIEVED
    ),
    "a revision": Row(
        at_checkpoint(lambda d: hex_word(99) + d[66:]), Alone.REFUSED, Alone.BELIEVED
    ),
    "a count of members": Row(
        at_checkpoint(lambda d: d[:130] + word(2).hex()), Alone.REFUSED, Alone.REFUSED
    ),
    "a page with another key": Row(swap_in_pages, Alone.UNASKED, Alone.BELIEVED),
    "a digest": Row(
        put(Give("eth_call", hex_of(ONE), to=HASH_NODES)), Alone.UNASKED, Alone.UNASKED
    ),
    "fewer tokens": Row(
        put(Give("eth_call", hex_word(2), to="nextTokenId()")), Alone.UNASKED, Alone.REFUSED
    ),
    "more tokens": Row(
        put(Give("eth_call", hex_word(9), to="nextTokenId()")), Alone.UNASKED, Alone.REFUSED
    ),
    "another key in all answers": Row(swap_everywhere, Alone.BELIEVED, Alone.BELIEVED),
}
