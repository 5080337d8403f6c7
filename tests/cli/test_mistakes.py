"""Mistakes of users: exit code 2, one line that names what to change, no secret, no traceback."""

from pathlib import Path

import pytest

from cli.command import refused, run
from cli.devnet import ACCOUNTS, KEYS, Devnet

SECRET = "0x" + "5ec2e7a1" * 8
KEY = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
POOR = "0x" + "77" * 32

REGISTER = ("node", "register", "a", "--to", ACCOUNTS[0])

CASES: dict[str, tuple[tuple[str, ...], dict[str, str | None], str]] = {
    # How it is called
    "no such command": (("frobnicate",), {}, "no such command"),
    "no such option": (("access", "a", "--frobnicate"), {}, "--frobnicate"),
    "missing argument": (("access",), {}, "NODE_ID"),
    "missing option": (("node", "register", "a"), {}, "--to"),
    "key as one word too many": (("node", "list", SECRET), {}, "too many arguments"),
    "key as option": (("node", "list", f"--private-key={SECRET}"), {}, "--private-key"),
    "no number": ((*REGISTER, "--max-fee", "cheap"), {}, "--max-fee"),
    "no time to wait": ((*REGISTER, "--timeout", "0"), {}, "--timeout"),
    # Settings
    "unknown network": (("node", "list"), {"NETWORK": "mainnet"}, "NETWORK is 'mainnet'"),
    "no contract on base": (
        ("node", "list"),
        {"NETWORK": "base", "QUORUM": "1", "CONTRACT_ADDRESS": None},
        "CONTRACT_ADDRESS is missing",
    ),
    "no provider on base": (("node", "list"), {"NETWORK": "base", "RPC_URL": None}, "RPC_URL"),
    "one provider on base": (("node", "list"), {"NETWORK": "base"}, "QUORUM=1"),
    "malformed contract": (("node", "list"), {"CONTRACT_ADDRESS": "0x12"}, "CONTRACT_ADDRESS"),
    "malformed URL": (("node", "list"), {"RPC_URL": f"ftp://a/{SECRET}"}, "RPC_URL"),
    "another chain": (
        ("contract", "info"),
        {"NETWORK": "baseSepolia", "QUORUM": "1"},
        "serves chain 31337, but NETWORK baseSepolia is chain 84532",
    ),
    "nothing at the address": (
        ("contract", "info"),
        {"CONTRACT_ADDRESS": "0x" + "12" * 20},
        "CONTRACT_ADDRESS",
    ),
    "nobody at the address": (
        ("access", "a"),
        {"CONTRACT_ADDRESS": "0x" + "12" * 20},
        "there is no contract at",
    ),
    "no env file": (("node", "list", "--env-file", "/nowhere"), {}, "--env-file"),
    "up without a name": (("up",), {}, "NODE_ID is missing"),
    "up with a bad name": (("up", "--dry-run"), {"NODE_ID": "Node_A"}, "NODE_ID"),
    # The key that signs
    "no key": (REGISTER, {"CONTRACT_PRIVATE_KEY": None}, "CONTRACT_PRIVATE_KEY is missing"),
    "short key": (REGISTER, {"CONTRACT_PRIVATE_KEY": SECRET[:-2]}, "CONTRACT_PRIVATE_KEY"),
    "long key": (REGISTER, {"CONTRACT_PRIVATE_KEY": SECRET + "00"}, "CONTRACT_PRIVATE_KEY"),
    "key of other letters": (REGISTER, {"CONTRACT_PRIVATE_KEY": "zz" * 32}, "CONTRACT_PRIVATE_KEY"),
    "key of zeroes": (REGISTER, {"CONTRACT_PRIVATE_KEY": "00" * 32}, "CONTRACT_PRIVATE_KEY"),
    "key past the curve": (REGISTER, {"CONTRACT_PRIVATE_KEY": "ff" * 32}, "CONTRACT_PRIVATE_KEY"),
    "key twice": (
        REGISTER,
        {"CONTRACT_PRIVATE_KEY_FILE": "/run/key"},
        "CONTRACT_PRIVATE_KEY and CONTRACT_PRIVATE_KEY_FILE are set together",
    ),
    "no key file": (
        REGISTER,
        {"CONTRACT_PRIVATE_KEY": None, "CONTRACT_PRIVATE_KEY_FILE": "/nowhere"},
        "CONTRACT_PRIVATE_KEY_FILE cannot be read (/nowhere: No such file",
    ),
    "open key file": (
        REGISTER,
        {"CONTRACT_PRIVATE_KEY": None, "CONTRACT_PRIVATE_KEY_FILE": "{open}"},
        "chmod 600",
    ),
    "no keystore": ((*REGISTER, "--keystore", "/nowhere"), {}, "--keystore cannot be read"),
    "keystore that is none": ((*REGISTER, "--keystore", "{open}"), {}, "--keystore names no key"),
    # Values
    "malformed node id": (("access", "Node_A"), {}, "NODE_ID is not a DNS label"),
    "malformed key": (("access", "a", "--key", SECRET), {}, "--key is not a WireGuard"),
    "register a malformed id": (("node", "register", "-a", "--to", ACCOUNTS[0]), {}, "-a"),
    "register to nobody": (
        ("node", "register", "a", "--to", "0x" + "00" * 20),
        {},
        "--to is the zero address",
    ),
    "register to a typing error": (
        ("node", "register", "a", "--to", ACCOUNTS[0].replace("F6F4", "F6f4")),
        {},
        "--to has a typing error",
    ),
    "register to a name": (("node", "register", "a", "--to", "vitalik.eth"), {}, "--to"),
    "register a private key": ((*REGISTER, "--key", SECRET), {}, "--key is not a WireGuard"),
    "key alias": (
        ("node", "set-key", "a", KEY.replace("QE=", "QF=")),
        {},
        "PUBLIC_KEY is not a WireGuard public key",
    ),
    "unknown node": (("node", "revoke", "nobody"), {}, "NODE 'nobody' is unknown"),
    "unknown token": (("node", "revoke", "#9"), {}, "there is no token 9"),
    "token 0": (("node", "revoke", "#0"), {}, "NODE '#0' is unknown"),
    "huge token": (("node", "revoke", "#" + "9" * 90), {}, "is unknown"),
    "steering text": (("node", "info", "\x1b[2J\n"), {}, "is unknown"),
    "endpoint without port": (("node", "set-endpoint", "a", "host"), {}, "HOST:PORT"),
    "endpoint at home": (("node", "set-endpoint", "a", "127.0.0.1:1"), {}, "loopback"),
    "no time": (("node", "renew", "a", "--until", "soon"), {}, "--until is 'soon'"),
    "time of the epoch": (("node", "renew", "a", "--until", "0"), {}, "--until is 0"),
    "huge time": (("node", "renew", "a", "--until", "9" * 30), {}, "--until is 9"),
    # What the account may do
    "not the owner": (
        REGISTER,
        {"CONTRACT_PRIVATE_KEY": KEYS[1]},
        f"the contract refused: {ACCOUNTS[1]} is not the owner of the contract",
    ),
    "no money": (("contract", "deploy"), {"CONTRACT_PRIVATE_KEY": POOR}, "has 0 ETH on hardhat"),
    "too dear": ((*REGISTER, "--max-fee", "0.0000001"), {}, "--max-fee raises it"),
    # WireGuard keys
    "no private key": (("keys", "public"), {}, "stdin holds no WireGuard private key"),
    "no private key in the file": (("keys", "public", "--file", "{open}"), {}, "--file holds no"),
    "no file": (("keys", "public", "--file", "/nowhere"), {}, "--file cannot be read"),
    "key file exists": (("keys", "generate", "--out", "{open}"), {}, "--force"),
    "key file in the way": (("keys", "generate", "--out", "/proc/none/k"), {}, "/proc/none/k"),
}


@pytest.fixture(scope="module")
def empty(net: Devnet) -> str:
    """A contract without nodes, which no mistake changes."""
    return net.deploy()


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_sentence(net: Devnet, empty: str, tmp_path: Path, case: str) -> None:
    """Each mistake is told in one line that names it, and no key is in it."""
    arguments, changed, expected = CASES[case]
    readable = tmp_path / "open"
    readable.write_text(SECRET)
    readable.chmod(0o644)
    given: dict[str, str | None] = {**net.settings(empty), **changed}
    environ = {n: v.replace("{open}", str(readable)) for n, v in given.items() if v is not None}
    words = [a.replace("{open}", str(readable)) for a in arguments]
    ended = run(*words, env=environ, stdin=SECRET)
    refused(ended, expected)
    keys = [SECRET, SECRET[2:-2], *KEYS, environ.get("CONTRACT_PRIVATE_KEY", SECRET)]
    for secret in keys:
        assert secret.removeprefix("0x") not in ended.err + ended.out


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("up",), ["NODE_ID", "CONTRACT_ADDRESS", "MTU", "RPC_URL"]),
        (("node", "list"), ["CONTRACT_ADDRESS", "MTU", "RPC_URL"]),
        (REGISTER, ["CONTRACT_ADDRESS", "MTU", "RPC_URL"]),
        (("contract", "deploy"), ["MTU", "RPC_URL"]),
    ],
)
def test_several_mistakes_are_a_line_each(words: tuple[str, ...], names: list[str]) -> None:
    """All settings that are wrong are told at once, and none that the command does not need."""
    ended = run(*words, env={"NETWORK": "base", "MTU": "100", "CONTRACT_ADDRESS": "0x1"})
    assert (ended.code, ended.out) == (2, "")
    told = [line.split()[:2] for line in ended.err.splitlines()]
    assert told == [["dstack-vpn:", name] for name in names]


def test_no_arguments_show_the_help() -> None:
    """The bare command says what there is, as a mistake."""
    for words in ((), ("node",), ("keys",), ("contract",), ("state",)):
        ended = run(*words)
        assert ended.code == 2
        assert "Commands:" in ended.err


@pytest.mark.parametrize(
    "words", [("node", "list"), ("access", "a"), ("contract", "info"), ("node", "revoke", "a")]
)
def test_a_provider_that_is_away_is_no_mistake(
    net: Devnet, empty: str, words: tuple[str, ...]
) -> None:
    """Exit code 1, and the provider by its number, without its URL."""
    environ = net.settings(empty, RPC_URL=f"http://127.0.0.1:1/{SECRET}")
    told = refused(run(*words, env=environ), "127.0.0.1#1", code=1)
    assert SECRET not in told
