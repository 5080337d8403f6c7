"""What the Python package ships of the contract is what its sources compile to."""

import json
import subprocess
from pathlib import Path

from .conftest import ARTIFACT, CONTRACTS, Anvil, Tools

CODE_LIMIT = 24_576  #: bytes of code that the chain accepts (EIP-170)


def test_a_fresh_compile_gives_the_packaged_file(tools: Tools, tmp_path: Path) -> None:
    """ABI, bytecode and code hash are reproduced byte for byte."""
    fresh = tmp_path / "artifact.json"
    command = [tools.node, str(CONTRACTS / "build.mjs"), str(fresh)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert fresh.read_bytes() == ARTIFACT.read_bytes()


def test_deployed_code_fits_and_has_the_packaged_hash(anvil: Anvil) -> None:
    """A client may pin the code hash: it depends on nothing of the deployment."""
    code_hash = json.loads(ARTIFACT.read_text())["deployedBytecodeHash"]
    for _ in range(2):
        address = anvil.deploy()
        code = anvil.call("eth_getCode", address, "latest")
        assert 0 < len(code) // 2 - 1 <= CODE_LIMIT
        assert anvil.call("eth_getProof", address, [], "latest")["codeHash"] == code_hash


def test_lock_file_pins_without_addresses() -> None:
    """Where the packages come from is the reader's own setting."""
    lock = (CONTRACTS / "package-lock.json").read_text()
    assert "://" not in lock
    assert '"resolved"' not in lock


def test_sources_are_formatted(tools: Tools) -> None:
    """Formatting is no matter of opinion."""
    command = [tools.forge, "fmt", "--check"]
    done = subprocess.run(command, cwd=CONTRACTS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
