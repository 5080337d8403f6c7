"""Writing to the chain of a benchmark: a thousand tokens at once, and blocks on demand."""

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any

from lab.chain import Chain
from lab.http import request
from lab.nft import AccessNFT, calldata

BLOCK_GAS = 4_000_000_000  #: a thousand mints in one block
MINT_GAS = 1_000_000
BATCH = 100  #: calls in one HTTP request


async def mint_all(nft: AccessNFT, keys: Sequence[str]) -> None:
    """Mint `node-1`, `node-2` and so on for these keys, all in one block."""
    owner = await nft.chain.account(0)
    nonce = int(await nft.chain.rpc("eth_getTransactionCount", owner, "latest"), 16)
    signature = "mintNodeAccess(address,string,string,string)"
    calls = [
        {
            "from": owner,
            "to": nft.address,
            "gas": hex(MINT_GAS),
            "nonce": hex(nonce + index),
            "data": calldata(signature, owner, f"node-{index + 1}", key, ""),
        }
        for index, key in enumerate(keys)
    ]
    for first in range(0, len(calls), BATCH):
        await batch(nft.chain, "eth_sendTransaction", calls[first : first + BATCH])
    await nft.chain.mine()
    _, _, members = await nft.checkpoint()
    assert members == len(keys), f"{members} of {len(keys)} tokens are in the block"


async def batch(chain: Chain, method: str, parameters: Sequence[Any]) -> None:
    """Make many calls in one request; each must succeed."""
    calls = [
        {"jsonrpc": "2.0", "id": number, "method": method, "params": [parameter]}
        for number, parameter in enumerate(parameters)
    ]
    answer = await request(
        "POST", chain.url, headers={"Content-Type": "application/json"},
        body=json.dumps(calls).encode(), within=60,
    )  # fmt: skip
    errors = [reply["error"] for reply in answer.json() if "error" in reply]
    assert not errors, errors[:3]


async def make_block(chain: Chain) -> float:
    """Make a block of what waits in the pool; the time at which it was asked for.

    The connection is open before the clock is read, so that what follows is the making of a block.
    """
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "evm_mine", "params": []})
    reader, writer = await asyncio.open_connection(str(chain.address), chain.port)
    head = f"POST / HTTP/1.1\r\nHost: {chain.address}\r\nContent-Type: application/json\r\n"
    message = f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
    began = time.monotonic()
    writer.write(message)
    answer = await reader.read()
    writer.close()
    assert b'"error"' not in answer, answer
    return began
