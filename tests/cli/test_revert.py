"""Refusals of the contract in words."""

import json
from importlib.resources import files
from typing import Any

import pytest
from eth_abi.abi import encode
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.chain.revert import SENTENCES, explain_revert, selector

VALUES: dict[str, Any] = {
    "address": "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266",
    "uint256": 7,
    "bytes32": bytes(range(32)),
    "string": "x\x1b[2J" + "y" * 200,
}


def declarations() -> dict[str, list[str]]:
    """The errors of the shipped ABI: name to types."""
    abi = json.loads((files("dstack_vpn.chain") / "abi/DstackAccessNFT.json").read_text())["abi"]
    return {
        e["name"]: [f"{i['type']} {i['name']}" for i in e["inputs"]]
        for e in abi
        if e["type"] == "error"
    }


def test_every_error_of_the_contract_has_a_sentence() -> None:
    """The table and the ABI name the same errors with the same values."""
    ours = {f"{name}({', '.join(inputs)})" for name, inputs in declarations().items()}
    assert SENTENCES.keys() - ours == {"Error(string reason)", "Panic(uint256 code)"}
    assert ours <= SENTENCES.keys()


@pytest.mark.parametrize("declaration", SENTENCES)
def test_a_sentence_shows_its_values(declaration: str) -> None:
    """Each error becomes one printable line with its values in it."""
    inner = declaration.partition("(")[2].removesuffix(")")
    types = [p.split()[0] for p in inner.split(",") if p]
    text = explain_revert(selector(declaration) + encode(types, [VALUES[t] for t in types]))
    assert text.isprintable()
    assert "{" not in text
    assert len(text) < 400
    if "uint256 tokenId" in declaration:
        assert "token 7" in text or "id 7" in text
    if "address" in declaration:
        assert "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266" in text


@given(st.sampled_from(sorted(SENTENCES)), st.binary(max_size=200))
def test_whatever_comes_back_is_a_sentence(declaration: str, rest: bytes) -> None:
    """A contract that is none of ours can return anything; it becomes a printable line."""
    assert explain_revert(selector(declaration) + rest).isprintable()
    assert explain_revert(rest).isprintable()
