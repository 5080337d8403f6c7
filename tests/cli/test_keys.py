"""WireGuard keys by the command line."""

import stat
from pathlib import Path

from cli.command import refused, run
from dstack_vpn.mesh.keys import PrivateKey


def test_a_pair_on_stdout() -> None:
    """Without a file both keys are printed, and they belong together."""
    lines = dict(line.split() for line in run("keys", "generate").out.splitlines())
    assert PrivateKey.parse(lines["private"]).public.text == lines["public"]
    pair = run("keys", "generate", "--json").json()
    assert PrivateKey.parse(pair["privateKey"]).public.text == pair["publicKey"]


def test_a_private_key_goes_to_a_file_only(tmp_path: Path) -> None:
    """The file is 0600, stdout has the public key alone, and no key is overwritten by accident."""
    out = tmp_path / "node.key"
    made = run("keys", "generate", "--out", str(out))
    key = PrivateKey.parse(out.read_text().strip())
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert made.out == f"{key.public}\n"

    refused(run("keys", "generate", "--out", str(out)), f"--out {out} exists", "--force")
    assert out.read_text().strip() == key.reveal()
    out.chmod(0o644)
    again = run("keys", "generate", "--out", str(out), "--force", "--json").json()
    assert again["publicKey"] != key.public.text
    assert "privateKey" not in again
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_the_public_half(tmp_path: Path) -> None:
    """From stdin, as `wg pubkey`, or from a file."""
    key = PrivateKey.generate()
    assert run("keys", "public", stdin=key.reveal() + "\n").out == f"{key.public}\n"
    file = tmp_path / "node.key"
    file.write_text(key.reveal())
    assert run("keys", "public", "--file", str(file), "--json").json() == {
        "publicKey": key.public.text
    }
