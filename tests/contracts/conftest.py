"""What the tests of the contract stand on: the tools that `npm ci --prefix contracts` installs."""

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CONTRACTS = REPOSITORY / "contracts"
ARTIFACT = REPOSITORY / "src/dstack_vpn/chain/abi/DstackAccessNFT.json"


@dataclass(frozen=True, kw_only=True)
class Tools:
    """Programs that are known to be there."""

    node: str
    forge: str
    anvil: str


@pytest.fixture(scope="session")
def tools() -> Tools:
    """The tools; without them there is nothing to test, which only CI takes for a failure."""
    # The programs, not npm's launchers: the process that we end is then the one we mean.
    binaries = CONTRACTS / "node_modules/@foundry-rs"
    found: dict[str, Path | str | None] = {
        name: next(binaries.glob(f"{name}-*/bin/{name}"), None) for name in ("forge", "anvil")
    }
    found["node"] = shutil.which("node")
    missing = [name for name, path in found.items() if path is None]
    if missing:
        absent = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        absent(f"{', '.join(missing)} not installed: needs Node.js and `npm ci --prefix contracts`")
    return Tools(**{name: str(path) for name, path in found.items()})


@dataclass(frozen=True, kw_only=True)
class Anvil:
    """A chain of one's own. The first of its accounts deploys, all of them are unlocked."""

    url: str

    def call(self, method: str, *params: object) -> Any:
        """The result of a JSON-RPC call."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        request = urllib.request.Request(
            self.url, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = json.load(response)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def deploy(self) -> str:
        """The address of a new contract, made of the code that the package ships."""
        code = json.loads(ARTIFACT.read_text())["bytecode"]
        sender = self.call("eth_accounts")[0]
        # Answers with the receipt: anvil may still be mining when the plain call returns.
        receipt = self.call("eth_sendTransactionSync", {"from": sender, "data": code})
        return str(receipt["contractAddress"])


@pytest.fixture
def anvil(tools: Tools) -> Iterator[Anvil]:
    """A fresh chain on a free port, ended with the test."""
    command = [tools.anvil, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            # The port is the kernel's choice; anvil tells it when it listens, or ends.
            banner = next(line for line in process.stdout if line.startswith("Listening on "))
            yield Anvil(url=f"http://{banner.split()[-1]}")
        finally:
            process.terminate()


@pytest.fixture
def client(tools: Tools, anvil: Anvil) -> Callable[[str, str], Any]:
    """Runs a client script against a contract; gives what it reports."""

    def run(script: str, contract: str) -> Any:
        command = [tools.node, str(Path(__file__).with_name(script)), anvil.url, contract]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run
