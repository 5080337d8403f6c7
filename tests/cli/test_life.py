"""The life of a contract and of a node, by the command line alone."""

import time
from pathlib import Path

from eth_account import Account

from cli.command import refused, run
from cli.devnet import ACCOUNTS, KEYS, Devnet
from dstack_vpn.mesh.keys import PrivateKey


def new_key() -> str:
    return PrivateKey.generate().public.text


def test_from_deployment_to_the_end_of_a_node(net: Devnet) -> None:
    """Deploy, register, list, info, access, revoke, restore, transfer, set-key, renew, burn."""
    owner = net.settings("")
    del owner["CONTRACT_ADDRESS"]
    deployed = run("contract", "deploy", "--json", env=owner)
    assert deployed.err.startswith("sent transaction 0x")
    made = deployed.json()
    assert (made["owner"], made["chainId"]) == (ACCOUNTS[0], 31337)

    owner = net.settings(made["contract"])
    holder = net.settings(made["contract"], KEYS[1])
    first, second = new_key(), new_key()

    empty = run("node", "list", env=owner)
    assert "no nodes yet" in empty.out
    registered = run(
        "node", "register", "node-a", "--to", ACCOUNTS[1], "--key", first, "--json", env=owner
    ).json()
    assert (registered["tokenId"], registered["holder"]) == (1, ACCOUNTS[1])
    assert run("access", "node-a", env=owner).out.startswith("ACCESS_GRANTED: ")
    assert run("access", "node-a", "--key", first, env=owner).code == 0
    mismatch = run("access", "node-a", "--key", second, env=owner)
    assert (mismatch.code, mismatch.out.partition(":")[0]) == (1, "PUBLIC_KEY_MISMATCH")
    unknown = run("access", "nobody", "--json", env=owner)
    assert (unknown.code, unknown.json()["verdict"]) == (1, "NODE_NOT_FOUND")

    invited = run("node", "register", "node-b", "--to", ACCOUNTS[1].lower(), env=owner)
    assert "registered node-b as token 2" in invited.out
    assert "member when its holder sets a key" in invited.out

    table = run("node", "list", env=owner).out.splitlines()
    assert table[1].split() == ["1", "node-a", "ACCESS_GRANTED", "10.213.0.1", "-", first]
    assert table[2].split() == ["2", "node-b", "NO_KEY", "10.213.0.2", "-", "-"]

    assert (
        "reached at" in run("node", "set-endpoint", "node-a", "[2001:db8::7]:51820", env=holder).out
    )
    info = run("node", "info", "1", "--json", env=owner).json()
    assert info["endpoint"] == "[2001:db8::7]:51820"
    assert info["holder"] == ACCOUNTS[1]
    assert info["addresses"][0] == "10.213.0.1"
    assert "node-a" in run("node", "info", "node-a", env=owner).out

    assert "revoked node-a (token 1)" in run("node", "revoke", "node-a", env=owner).out
    assert run("access", "node-a", "--json", env=owner).json()["verdict"] == "REVOKED"
    refused(run("node", "revoke", "#1", env=owner), "the contract refused: token 1 is revoked")
    assert run("node", "restore", "1", "--json", env=owner).json()["nodeId"] == "node-a"
    assert run("access", "node-a", env=owner).code == 0

    moved = run("node", "transfer", "node-a", "--to", ACCOUNTS[2], env=holder)
    assert f"{ACCOUNTS[2]} holds node-a (token 1)" in moved.out
    assert run("access", "node-a", "--json", env=owner).json()["verdict"] == (
        "SUSPENDED_BY_TRANSFER"
    )
    refused(run("node", "set-key", "node-a", second, env=holder), "does not hold token 1")
    buyer = net.settings(made["contract"], KEYS[2])
    refused(run("node", "set-key", "node-a", first, env=buyer), "registered before, by token 1")
    assert second in run("node", "set-key", "node-a", second, env=buyer).out
    assert run("access", "node-a", "--key", second, env=owner).code == 0

    past = run("node", "renew", "node-a", "--until", "2020-01-01", env=owner)
    assert "ends 2020-01-01 00:00:00 UTC" in past.out
    assert run("access", "node-a", "--json", env=owner).json()["verdict"] == "EXPIRED"
    later = run("node", "renew", "node-a", "--until", "+30d", "--json", env=owner).json()
    assert abs(later["expiresAt"] - time.time() - 30 * 86_400) < 60
    run("node", "renew", "node-a", "--until", "never", env=owner)
    assert run("access", "node-a", env=owner).code == 0

    assert "burned node-a" in run("node", "burn", "node-a", env=buyer).out
    assert run("access", "node-a", "--json", env=owner).json()["verdict"] == "NODE_NOT_FOUND"
    refused(run("node", "info", "node-a", env=owner), "NODE 'node-a' is unknown")


def test_who_rules_the_contract(net: Devnet, contract: str) -> None:
    """Guardians revoke and nothing else; a successor becomes owner by his own signature."""
    owner, other = net.settings(contract), net.settings(contract, KEYS[1])
    key = new_key()
    run("node", "register", "a", "--to", ACCOUNTS[0], "--key", key, env=owner)
    refused(run("node", "revoke", "a", env=other), "neither the owner of the contract nor a")
    run("contract", "guardian", ACCOUNTS[1], env=owner)
    assert run("node", "revoke", "a", env=other).code == 0
    refused(run("node", "restore", "a", env=other), f"{ACCOUNTS[1]} is not the owner")
    assert run("contract", "release-key", key, env=owner).code == 0

    run("contract", "transfer", ACCOUNTS[1], env=owner)
    named = run("contract", "info", "--json", env=owner).json()
    assert (named["owner"], named["pendingOwner"]) == (ACCOUNTS[0], ACCOUNTS[1])
    assert named["codeIsOurs"]
    refused(run("contract", "accept", env=owner), "is not the successor")
    assert run("contract", "accept", env=other).code == 0
    shown = run("contract", "info", env=owner).out
    assert f"owner            {ACCOUNTS[1]}" in shown
    assert "(the one of this package)" in shown


def test_a_node_id_of_digits_is_not_taken_for_a_token(net: Devnet, contract: str) -> None:
    """Node ids may be numbers; what could be two tokens is asked back, and # says which."""
    owner = net.settings(contract)
    for node_id in ("2", "b", "77"):
        run("node", "register", node_id, "--to", ACCOUNTS[0], env=owner)
    refused(run("node", "burn", "2", env=owner), "accepted: #1 or #2")
    refused(run("node", "info", "2", env=owner), "accepted: #1 or #2")
    assert run("node", "info", "77", "--json", env=owner).json()["tokenId"] == 3
    assert run("node", "burn", "#2", "--json", env=owner).json()["nodeId"] == "b"
    assert run("node", "burn", "77", "--json", env=owner).json()["tokenId"] == 3
    assert run("node", "burn", "2", "--json", env=owner).json()["tokenId"] == 1


def test_settings_and_key_from_files(net: Devnet, contract: str, tmp_path: Path) -> None:
    """--env-file holds the settings, the key is in a file of its own, or encrypted."""
    key_file = tmp_path / "owner.key"
    key_file.write_text(KEYS[0][2:] + "\n")
    key_file.chmod(0o600)
    settings = tmp_path / "owner.env"
    settings.write_text(
        f"NETWORK=hardhat\nRPC_URL={net.url}\nCONTRACT_ADDRESS={contract}\n"
        f"CONTRACT_PRIVATE_KEY_FILE={key_file}\n"
    )
    common = ("--to", ACCOUNTS[0], "--env-file", str(settings), "--json")
    assert run("node", "register", "a", *common).json()["tokenId"] == 1

    keystore, password = tmp_path / "keystore.json", tmp_path / "password"
    secret = "correct horse"
    keystore.write_text(
        str(Account.encrypt(bytes.fromhex(KEYS[0][2:]), secret, iterations=4)).replace("'", '"')
    )
    password.write_text(secret + "\n")
    password.chmod(0o600)
    words = ("node", "register", "b", *common, "--keystore", str(keystore))
    told = refused(run(*words), "CONTRACT_KEYSTORE_PASSWORD_FILE is missing")
    assert "terminal" in told
    environ = {"CONTRACT_KEYSTORE_PASSWORD_FILE": str(password)}
    assert run(*words, env=environ).json()["tokenId"] == 2
    password.write_text("wrong horse")
    refused(run(*words, env=environ), "the password does not open", str(keystore))
