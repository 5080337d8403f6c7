"""Chains on the loopback interface: the follower needs no network of its own to be tested.

The same `Chain` and `AccessNFT` as in the lab, without hosts and switches, so these tests run
anywhere that anvil runs. 127.0.0.1, 127.0.0.2 and so on stand for different hosts.
"""

import base64
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, cast

from eth_abi.abi import decode

from chain.samples import BYTES_TYPE
from dstack_vpn.chain.follow import Follower
from dstack_vpn.chain.providers import open_providers
from dstack_vpn.mesh.membership import Address
from lab.chain import CHAIN_ID, Chain, launch
from lab.nft import AccessNFT, calldata
from lab.switch import Switch

NO_SWITCH = cast("Switch", None)


@contextlib.asynccontextmanager
async def local_chain(
    directory: Path, name: str = "chain", *, options: Sequence[str] = ()
) -> AsyncIterator[Chain]:
    """An anvil of its own on a free port."""
    home = directory / name
    home.mkdir(exist_ok=True)
    log = home / "anvil.log"
    process, port = await launch(name, log, home, list(options), port=0)
    address = IPv4Address("127.0.0.1")
    chain = Chain(name, address, home, NO_SWITCH, process, port, tuple(options), log)
    try:
        yield chain
    finally:
        await chain.close()


def at(url: str, host: int) -> str:
    """The same URL under another host's name: 127.0.0.HOST."""
    return url.replace("127.0.0.1", f"127.0.0.{host}")


def ws(url: str) -> str:
    """The WebSocket at the same place."""
    return url.replace("http://", "ws://")


@contextlib.asynccontextmanager
async def following(
    contract: str,
    *urls: str,
    confirmations: int = 0,
    chain_id: int = CHAIN_ID,
    answer_within: float = 10.0,
    **more: Any,
) -> AsyncIterator[Follower]:
    """A follower that has not started."""
    follower = Follower(
        providers=open_providers(urls, timeout=answer_within),
        chain_id=chain_id,
        contract=Address(contract.lower()),
        confirmations=confirmations,
        **more,
    )
    try:
        yield follower
    finally:
        await follower.aclose()


def new_key(source: random.Random | None = None) -> str:
    """A WireGuard key as the contract takes it."""
    return base64.b64encode((source or random.Random()).randbytes(32)).decode()


Seen = dict[int, tuple[Any, ...]]


async def read_nodes(nft: AccessNFT) -> Seen:
    """All tokens at the head, read directly and decoded by another library."""
    data = calldata("getNodes(uint256,uint256)", 1, 100_000)
    raw = await nft.chain.rpc("eth_call", {"to": nft.address, "data": data}, "latest")
    (nodes,) = decode([f"{BYTES_TYPE}[]"], bytes.fromhex(raw[2:]))
    return {shown[0]: tuple(shown) for shown in nodes if shown[0]}


def seen_by(follower: Follower) -> Seen:
    """All tokens as the follower has them, in the same form."""
    membership = follower.view.membership
    assert membership is not None
    return {
        token: (
            node.token_id,
            node.holder,
            node.node_id.encode(),
            node.key,
            node.endpoint.encode(),
            node.role,
            node.created_at,
            node.expires_at,
            node.revoked,
            node.suspended,
        )
        for token, node in membership.nodes.items()
    }


async def assert_same(follower: Follower, nft: AccessNFT) -> None:
    """The follower knows exactly what the contract says at the head."""
    view = follower.view
    head = await nft.chain.block()
    assert view.last_error is None
    assert view.membership is not None
    assert (view.membership.block.number, view.membership.block.hash) == (head.number, head.hash)
    assert seen_by(follower) == await read_nodes(nft)
    checkpoint = view.membership.checkpoint
    stated = (checkpoint.revision, checkpoint.history, checkpoint.member_count)
    assert stated == await nft.checkpoint()
