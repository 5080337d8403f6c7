"""The key that signs: where it may come from, and what is said of where it comes from."""

import os
from pathlib import Path

from cli.command import SCRIPT, run
from cli.devnet import ACCOUNTS, KEYS, Devnet, devnet
from lab.host import Host
from lab.lab import Lab
from lab.process import Finished


async def sign_with(host: Host, path: str) -> Finished:
    """Sign with the key in a file of a host; no chain answers there, so it goes no further."""
    environ = {
        "PATH": os.environ["PATH"],
        "NETWORK": "hardhat",
        "RPC_URL": "http://127.0.0.1:1",
        "CONTRACT_PRIVATE_KEY_FILE": path,
    }
    words = (SCRIPT, "node", "register", "a", "--to", ACCOUNTS[0])
    return await host.run(*words, env=environ, check=False)


async def test_a_key_that_docker_mounts_may_have_any_mode(lab: Lab) -> None:
    """A secret in /run/secrets has the mode that the engine gives it; elsewhere it is refused."""
    host = await lab.host("a")
    (host.run_dir / "secrets").mkdir()
    for name in ("secrets/owner.key", "owner.key"):
        (host.run_dir / name).touch(0o444)
        (host.run_dir / name).write_text(KEYS[0])
    mounted = await sign_with(host, "/run/secrets/owner.key")
    assert mounted.code == 1
    assert "127.0.0.1#1" in mounted.out
    loose = await sign_with(host, "/run/owner.key")
    assert loose.code == 2
    assert "chmod 600 /run/owner.key" in loose.out


def test_a_key_in_a_variable_is_remarked_on_where_it_is_worth_something(
    net: Devnet, tmp_path: Path
) -> None:
    """Once, on public networks; the keys of a local chain are known to everybody anyway."""
    deploy = ("contract", "deploy")
    with devnet("--chain-id", "8453") as base:
        environ = base.settings("", NETWORK="base", QUORUM="1")
        remark, sent = run(*deploy, env=environ).err.splitlines()
        assert remark.startswith("CONTRACT_PRIVATE_KEY holds the key in the open; better is a file")
        assert sent.startswith("sent transaction 0x")
        assert KEYS[0][2:] not in remark

        file = tmp_path / "owner.key"
        file.touch(0o600)
        file.write_text(environ.pop("CONTRACT_PRIVATE_KEY"))
        from_file = run(*deploy, env=environ | {"CONTRACT_PRIVATE_KEY_FILE": str(file)})
        assert len(from_file.err.splitlines()) == 1
    assert len(run(*deploy, env=net.settings("")).err.splitlines()) == 1
