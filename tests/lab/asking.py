"""Asking through a proxy as the real providers ask."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from dstack_vpn.chain import calls
from dstack_vpn.chain.calls import Call
from dstack_vpn.chain.header import Header
from dstack_vpn.chain.providers import open_providers
from dstack_vpn.chain.rpc import Provider
from dstack_vpn.errors import ChainError
from dstack_vpn.mesh.membership import Address
from lab.chain import CHAIN_ID
from lab.rpcproxy import Proxy
from lab.waiting import until

CONTRACT = Address("0x5fbdb2315678afecb367f032d93f642f64180aa3")
"""Where the first contract of account 0 is."""


@contextlib.asynccontextmanager
async def asking(
    proxy: Proxy, scheme: str = "http", *, within: float = 2.0
) -> AsyncIterator[Provider]:
    """A real provider that asks through the proxy."""
    url = proxy.url if scheme == "http" else proxy.ws_url
    (provider,) = open_providers([url], timeout=within)
    try:
        yield provider
    finally:
        await provider.aclose()


async def ask(provider: Provider, call: Call[Any]) -> Any:
    """Ask one thing; what came, or how it was refused."""
    try:
        (answer,) = await provider.batch([call])
    except ChainError as refusal:
        provider._end_pause()
        return str(refusal)
    return answer


async def answers(provider: Provider) -> None:
    """Wait until it does."""

    async def look() -> bool:
        return bool(await ask(provider, calls.chain_id()) == CHAIN_ID)

    await until(look, "it answers")


def logs_of(header: Header) -> Call[Any]:
    """Ask for the changes in a block."""
    return calls.logs(CONTRACT, header)


async def told(provider: Provider, block_hash: str) -> None:
    """Wait until a subscription has told of a block."""

    def look() -> bool:
        head = provider.take_head()
        return head is not None and head.block.hash == block_hash

    await until(look, f"block {block_hash} is told")
