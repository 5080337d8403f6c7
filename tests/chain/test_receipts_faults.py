"""Receipts of real blocks fit their headers, and any lie about them does not.

The lies are those that a provider can tell of a block of our contract: well-formed, and with all
indexes in order, so that only the root can refute them.
"""

import asyncio
import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from eth_utils.crypto import keccak

from chain.local import local_chain, new_key
from chain.samples import CONTRACT, FULL_BLOOM, TOPIC, block, hex_of
from dstack_vpn.chain.header import Header, parse_header
from dstack_vpn.chain.published_calls import proved_logs
from dstack_vpn.chain.receipts import ordered_root, parse_receipts
from dstack_vpn.chain.verify import parse_logs
from dstack_vpn.errors import BadAnswerError
from dstack_vpn.mesh.membership import Address
from lab.chain import Chain
from lab.nft import AccessNFT, calldata

# Init code of a contract of no code, which logs 32 bytes under one topic.
LOGGING = "0x60aa60005260bb60206000a100"


@dataclass(frozen=True, slots=True)
class Sample:
    """A block of anvil with changes of our contract between other transactions."""

    header: Header
    contract: Address
    receipts: list[dict[str, Any]]
    logs: list[dict[str, Any]]
    """What eth_getLogs says for our contract and `NodeChanged`."""


async def header_in(chain: Chain, which: str = "latest") -> Header:
    return parse_header(await chain.rpc("eth_getBlockByNumber", which, False))


async def send(chain: Chain, **fields: Any) -> None:
    """Hand a transaction to the node, to be mined with others."""
    await chain.rpc("eth_sendTransaction", {"from": await chain.account(0), **fields})


async def make_sample(directory: Path) -> Sample:
    async with local_chain(directory) as chain:
        nft = await AccessNFT.deploy(chain)
        await nft.mint("a", new_key())
        holder = await chain.account(0)
        await chain.set_automine(False)
        await send(chain, to=holder, gas="0x5208", type="0x0", gasPrice=hex(10**10))
        mint = "mintNodeAccess(address,string,string,string)"
        for name in "bcd":
            data = calldata(mint, holder, name, new_key(), "")
            await send(chain, to=nft.address, data=data, gas=hex(500_000))
            await send(chain, data=LOGGING, gas=hex(100_000))
        data = calldata("revokeNodeAccess(uint256)", 1)
        await send(chain, to=nft.address, data=data, gas=hex(500_000))
        await chain.mine()
        header = await header_in(chain)
        receipts = await chain.rpc("eth_getBlockReceipts", header.block.hash)
        query = {"blockHash": header.block.hash, "address": nft.address, "topics": [hex_of(TOPIC)]}
        logs = await chain.rpc("eth_getLogs", query)
        return Sample(header, Address(nft.address.lower()), receipts, logs)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """Made once; a test copies what it changes."""
    made = asyncio.run(make_sample(tmp_path_factory.mktemp("sample")))
    assert (len(made.receipts), len(made.logs)) == (8, 4)
    return made


def proved(sample: Sample, receipts: object = None) -> list[dict[str, Any]]:
    shown = sample.receipts if receipts is None else receipts
    return parse_receipts(shown, sample.header, sample.contract, [TOPIC])


def test_the_logs_of_a_real_block_are_proved(sample: Sample) -> None:
    """They are those of eth_getLogs, for the same parser."""
    found = proved(sample)
    assert parse_logs(found, sample.header, sample.contract) == parse_logs(
        sample.logs, sample.header, sample.contract
    )
    for mine, given_log in zip(found, sample.logs, strict=True):
        assert mine == {name: given_log[name] for name in mine}


def our_log(receipts: list[dict[str, Any]]) -> dict[str, Any]:
    """The first NodeChanged."""
    return next(
        entry
        for shown in receipts
        for entry in shown["logs"]
        if entry["topics"][0] == hex_of(TOPIC)
    )


def swap_key(entry: dict[str, Any]) -> None:
    """Another WireGuard key in the data: no topic and no length changes."""
    raw = bytearray.fromhex(entry["data"][2:])
    raw[32 + 96 : 32 + 128] = b"\x66" * 32
    entry["data"] = hex_of(bytes(raw))


def drop_a_log(receipts: list[dict[str, Any]]) -> None:
    """Leave one out, and number the others anew."""
    entry = our_log(receipts)
    for shown in receipts:
        shown["logs"] = [kept for kept in shown["logs"] if kept is not entry]
    number(receipts)


def add_a_log(receipts: list[dict[str, Any]]) -> None:
    """Put one in twice, and number all anew."""
    entry = our_log(receipts)
    for shown in receipts:
        if entry in shown["logs"]:
            shown["logs"].append(copy.deepcopy(entry))
    number(receipts)


def number(receipts: list[dict[str, Any]]) -> None:
    entries = [entry for shown in receipts for entry in shown["logs"]]
    for index, entry in enumerate(entries):
        entry["logIndex"] = hex(index)
    for place, shown in enumerate(receipts):
        shown["transactionIndex"] = hex(place)


def drop_the_first_receipt(receipts: list[dict[str, Any]]) -> None:
    del receipts[0]
    number(receipts)


def repeat_a_receipt(receipts: list[dict[str, Any]]) -> None:
    receipts.append(copy.deepcopy(receipts[-1]))
    number(receipts)


def reverse(receipts: list[dict[str, Any]]) -> None:
    receipts.reverse()
    number(receipts)


def swap_logs(receipts: list[dict[str, Any]]) -> None:
    shown = next(shown for shown in receipts if len(shown["logs"]) > 1)
    shown["logs"].reverse()
    number(receipts)


def move_a_log(receipts: list[dict[str, Any]]) -> None:
    """From one transaction to the next."""
    at = next(i for i, shown in enumerate(receipts) if shown["logs"])
    receipts[at + 1]["logs"].insert(0, receipts[at]["logs"].pop())


LIES: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "a key swapped": lambda receipts: swap_key(our_log(receipts)),
    "a log omitted": drop_a_log,
    "a log added": add_a_log,
    "the last receipt missing": lambda receipts: receipts.pop(),
    "the first receipt missing": drop_the_first_receipt,
    "a receipt twice": repeat_a_receipt,
    "receipts in another order": reverse,
    "logs in another order": swap_logs,
    "a log in another transaction": move_a_log,
    "none at all": lambda receipts: receipts.clear(),
    "a failure for a success": lambda receipts: receipts[1].update(status="0x0"),
    "other gas": lambda receipts: receipts[0].update(cumulativeGasUsed="0x5209"),
    "another bloom": lambda receipts: receipts[0].update(logsBloom="0x" + "01" * 256),
    "another type": lambda receipts: receipts[0].update(type="0x1"),
    "another address": lambda receipts: our_log(receipts).update(address="0x" + "99" * 20),
    "a topic more": lambda receipts: our_log(receipts)["topics"].append("0x" + "00" * 32),
    "other data": lambda receipts: our_log(receipts).update(data="0x"),
}


@pytest.mark.parametrize("name", LIES)
def test_receipts_that_lie_do_not_fit_the_header(sample: Sample, name: str) -> None:
    """Well-formed as they are, the root is another."""
    receipts = copy.deepcopy(sample.receipts)
    LIES[name](receipts)
    with pytest.raises(BadAnswerError) as caught:
        proved(sample, receipts)
    assert caught.value.check == "receipts-root"


SLIPS: dict[str, tuple[str, Callable[[list[dict[str, Any]]], Any]]] = {
    "receipts out of order": ("receipts", lambda receipts: receipts.reverse()),
    "a gap in the receipts": ("receipts", lambda receipts: receipts.pop(1)),
    "no index": ("quantity", lambda receipts: receipts[0].pop("transactionIndex")),
    "a receipt of another block": (
        "receipts",
        lambda receipts: receipts[0].update(blockHash="0x" + "11" * 32),
    ),
    "a receipt of another height": (
        "receipts",
        lambda receipts: receipts[0].update(blockNumber="0x0"),
    ),
    "a log of another block": (
        "receipts",
        lambda receipts: our_log(receipts).update(blockHash="0x" + "11" * 32),
    ),
    "a log of another height": (
        "receipts",
        lambda receipts: our_log(receipts).update(blockNumber="0x0"),
    ),
    "a gap in the logs": ("log-index", lambda receipts: receipts[1]["logs"].pop(0)),
    "logs that begin anew": (
        "log-index",
        lambda receipts: receipts[2]["logs"][0].update(logIndex="0x0"),
    ),
    "a log without an index": ("quantity", lambda receipts: our_log(receipts).pop("logIndex")),
    "no logs": ("receipts", lambda receipts: receipts[0].pop("logs")),
    "no topics": ("logs", lambda receipts: our_log(receipts).pop("topics")),
    "five topics": (
        "logs",
        lambda receipts: our_log(receipts).update(topics=["0x" + "00" * 32] * 5),
    ),
    "a short topic": ("data", lambda receipts: our_log(receipts).update(topics=["0x00"])),
    "a short address": ("data", lambda receipts: our_log(receipts).update(address="0x00")),
    "no data": ("data", lambda receipts: our_log(receipts).update(data=None)),
    "a log that is none": ("logs", lambda receipts: receipts[1]["logs"].insert(0, [])),
    "a short bloom": ("data", lambda receipts: receipts[0].update(logsBloom="0x00")),
    "neither status nor root": ("data", lambda receipts: receipts[0].pop("status")),
    "a short root": ("data", lambda receipts: receipts[0].update(status=None, root="0x01")),
    "a deposit without its nonce": (
        "quantity",
        lambda receipts: receipts[0].update(type="0x7e", depositReceiptVersion="0x1"),
    ),
}


@pytest.mark.parametrize("name", SLIPS)
def test_receipts_that_are_malformed_are_refused(sample: Sample, name: str) -> None:
    """Each check has its own name, which is what a metric shows."""
    check, slip = SLIPS[name]
    receipts = copy.deepcopy(sample.receipts)
    slip(receipts)
    with pytest.raises(BadAnswerError) as caught:
        proved(sample, receipts)
    assert caught.value.check == check


def test_the_receipts_of_another_block_are_refused(sample: Sample) -> None:
    """A branch that has the same height does not pass, whatever blocks its receipts name."""
    other = replace(sample.header, receipts_root=keccak(b"another branch"))
    with pytest.raises(BadAnswerError):
        parse_receipts(sample.receipts, other, sample.contract)


# More real blocks


async def raw_transactions(chain: Chain, header: Header) -> list[bytes]:
    """As they are hashed into the header."""
    which = header.block.hash
    count = int(await chain.rpc("eth_getBlockTransactionCountByHash", which), 16)
    found = []
    for place in range(count):
        raw = await chain.rpc("eth_getRawTransactionByBlockHashAndIndex", which, hex(place))
        found.append(bytes.fromhex(raw[2:]))
    return found


async def test_blocks_of_any_size_fit_their_headers(tmp_path: Path) -> None:
    """Receipts and transactions of real blocks have the roots in the header, at each key length."""
    async with local_chain(tmp_path) as chain:
        await chain.set_automine(False)
        for count in (0, 1, 2, 17, 129, 300):
            for _ in range(count):
                await send(chain, data=LOGGING, gas=hex(60_000))
            await chain.mine()
            raw = await chain.rpc("eth_getBlockByNumber", "latest", False)
            header = parse_header(raw)
            assert len(raw["transactions"]) == count
            transactions = await raw_transactions(chain, header)
            assert hex_of(ordered_root(transactions)) == raw["transactionsRoot"]
            for made in {0, count // 2, count - 1} & set(range(count)):
                sent = raw["transactions"][made]
                address = (await chain.rpc("eth_getTransactionReceipt", sent))["contractAddress"]
                receipts = await chain.rpc("eth_getBlockReceipts", header.block.hash)
                (found,) = parse_receipts(receipts, header, Address(address.lower()))
                assert (int(found["logIndex"], 16), found["data"][-2:]) == (made, "aa")


async def test_transactions_of_all_types_of_anvil_fit_their_header(tmp_path: Path) -> None:
    """Legacy, access list, dynamic fee, set code, and a deposit of the OP stack in one block."""
    async with local_chain(tmp_path, options=["--optimism"]) as chain:
        await chain.set_automine(False)
        to = await chain.account(1)
        unsigned = {"chainId": "0x0", "address": to, "nonce": "0x0", "yParity": "0x0"}
        for fields in (
            {"type": "0x0", "gasPrice": hex(10**10)},
            {
                "type": "0x1",
                "gasPrice": hex(10**10),
                "accessList": [{"address": to, "storageKeys": []}],
            },
            {"type": "0x2"},
            {"type": "0x4", "authorizationList": [{**unsigned, "r": "0x1", "s": "0x1"}]},
            {"type": "0x7e", "sourceHash": "0x" + "11" * 32, "mint": "0x0", "isSystemTx": False},
        ):
            await send(chain, to=to, value="0x1", gas=hex(200_000), **fields)
        await chain.mine()
        header = await header_in(chain)
        receipts = await chain.rpc("eth_getBlockReceipts", header.block.hash)
        kinds = [int(shown["type"], 16) for shown in receipts]
        assert sorted(kinds) == [0, 1, 2, 4, 0x7E]
        assert receipts[kinds.index(0x7E)]["depositReceiptVersion"] == "0x1"
        assert parse_receipts(receipts, header, CONTRACT) == []


async def test_a_block_that_the_node_does_not_have_has_no_answer(tmp_path: Path) -> None:
    """Its null is a bad answer, never a block without receipts."""
    async with local_chain(tmp_path) as chain:
        call = proved_logs(CONTRACT, Header(block(7), FULL_BLOOM))
        answer = await chain.rpc(call.method, *call.params)
        assert answer is None
        with pytest.raises(BadAnswerError):
            call.parse(answer)
