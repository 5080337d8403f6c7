"""Signed writes by a provider that does not do as it should."""

from collections.abc import Callable
from typing import Any

import pytest

from cli.command import refused, run
from cli.devnet import ACCOUNTS, Answer, Devnet, provider

REGISTER = ("node", "register", "a", "--to", ACCOUNTS[0], "--json")

Ask = Callable[[], dict[str, Any]]


def fixed(result: object) -> Answer:
    """An answer that is always the same."""
    return lambda _params, _ask: {"result": result}


def error(code: int, message: str, data: object = None) -> Answer:
    """An error that is always the same."""
    return lambda _params, _ask: {"error": {"code": code, "message": message, "data": data}}


def without_base_fee(_params: list[Any], ask: Ask) -> dict[str, Any]:
    """A block as chains before EIP-1559 have it."""
    block = ask()["result"]
    del block["baseFeePerGas"]
    return {"result": block}


def lost(_params: list[Any], ask: Ask) -> dict[str, Any]:
    """Pass a transaction on, and answer what a node answers to the second try."""
    ask()
    return {"error": {"code": -32000, "message": "already known"}}


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ({}, "0x2"),
        ({"eth_maxPriorityFeePerGas": error(-32601, "no such method")}, "0x2"),
        ({"eth_getBlockByNumber": without_base_fee}, "0x0"),
        ({"eth_sendRawTransaction": lost}, "0x2"),
    ],
)
def test_a_write_arrives(net: Devnet, contract: str, answers: dict[str, Answer], kind: str) -> None:
    """EIP-1559 fees, or a gas price where there is no base fee; a lost answer is no lost write."""
    with provider(net, answers) as url:
        made = run(*REGISTER, env=net.settings(contract, RPC_URL=url)).json()
    sent = net.rpc("eth_getTransactionByHash", made["transaction"])
    assert (made["tokenId"], sent["type"]) == (1, kind)
    assert int(sent["blockNumber"], 16) == made["block"]


@pytest.mark.parametrize(
    ("answers", "words", "code"),
    [
        (
            {"eth_maxPriorityFeePerGas": fixed(hex(10**18))},
            "asks 1e+09 gwei for a unit of gas, above the limit of 100; --max-fee raises it",
            2,
        ),
        ({"eth_chainId": fixed("0x1")}, "127.0.0.1#1 serves chain 1, but NETWORK hardhat", 2),
        ({"eth_chainId": fixed("none")}, "127.0.0.1#1 answered eth_chainId with", 1),
        ({"eth_getCode": fixed("0x")}, "there is no contract at CONTRACT_ADDRESS", 2),
        ({"eth_call": error(-32000, "header not found")}, "header not found", 1),
        ({"eth_call": error(3, "execution reverted")}, "refused: it gave no reason", 2),
        (
            {"eth_call": error(3, "execution reverted", {"data": "0x6d1b1f6e"})},
            "an error that this version does not know (0x6d1b1f6e)",
            2,
        ),
        ({"eth_estimateGas": error(3, "x", "0x08c379a0")}, "the contract refused", 2),
        ({"eth_sendRawTransaction": error(-32000, "nonce too low")}, "nonce too low", 1),
    ],
)
def test_a_write_that_cannot_be(
    net: Devnet, contract: str, answers: dict[str, Answer], words: str, code: int
) -> None:
    """What stands in the way is told in one line, nothing is sent, and the URL stays secret."""
    before = net.rpc("eth_getTransactionCount", ACCOUNTS[0], "latest")
    with provider(net, answers) as url:
        ended = run(*REGISTER, env=net.settings(contract, RPC_URL=url))
    refused(ended, words, code=code)
    assert net.rpc("eth_getTransactionCount", ACCOUNTS[0], "latest") == before
    assert "very-secret" not in ended.err


def test_no_block_in_time(net: Devnet, contract: str) -> None:
    """The wait has an end; the hash is known, so that one can look later."""
    with provider(net, {"eth_getTransactionReceipt": fixed(None)}) as url:
        ended = run(*REGISTER, "--timeout", "1", env=net.settings(contract, RPC_URL=url))
    assert (ended.code, ended.out) == (1, "")
    sent, told = ended.err.splitlines()
    assert sent.removeprefix("sent transaction ") in told
    assert "is in no block after 1 s; it may still be mined" in told


def test_a_provider_that_stumbles_while_we_wait(net: Devnet, contract: str) -> None:
    """A provider that is away for a moment after the transaction was sent alters nothing."""
    asked = []

    def stumble(_params: list[Any], ask: Ask) -> dict[str, Any]:
        asked.append(1)
        return {"error": {"code": -32016, "message": "slow down"}} if len(asked) == 1 else ask()

    with provider(net, {"eth_getTransactionReceipt": stumble}) as url:
        ended = run(*REGISTER, env=net.settings(contract, RPC_URL=url))
    assert ended.json()["tokenId"] == 1
    assert len(asked) == 2


def test_a_transaction_that_fails_in_its_block(net: Devnet, contract: str) -> None:
    """What only the block shows is a failure with the hash and the block."""

    def failed(_params: list[Any], ask: Ask) -> dict[str, Any]:
        receipt = ask()["result"]
        return {"result": receipt and {**receipt, "status": "0x0"}}

    with provider(net, {"eth_getTransactionReceipt": failed}) as url:
        ended = run(*REGISTER, env=net.settings(contract, RPC_URL=url))
    # By then another transaction took the node id: the second simulation says so.
    assert ended.code == 2
    assert "the contract refused: token 1 has the node id 'a'" in ended.err


def test_the_next_provider_takes_over(net: Devnet, contract: str) -> None:
    """A write goes to the first provider that answers."""
    urls = f"http://localhost:1,{net.url}"
    assert run(*REGISTER, env=net.settings(contract, RPC_URL=urls)).json()["tokenId"] == 1
    only_sockets = net.settings(contract, RPC_URL=net.url.replace("http", "ws"))
    refused(run(*REGISTER, env=only_sockets), "RPC_URL has no http or https URL")
