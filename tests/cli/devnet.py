"""A local chain for the command line, and a provider before it that can be made to misbehave."""

import json
import re
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from dstack_vpn.chain.admin import artifact
from lab.chain import anvil

# anvil's own accounts: these keys are printed in its manual.
KEYS = (
    "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
    "0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
)
ACCOUNTS = (
    "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
    "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
    "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
)


class Devnet:
    """A running anvil."""

    def __init__(self, url: str) -> None:
        self.url = url

    def rpc(self, method: str, *params: object) -> Any:
        """Call a JSON-RPC method."""
        reply = post(self.url, {"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        assert "error" not in reply, reply
        return reply["result"]

    def deploy(self) -> str:
        """A new contract of account 0; its address."""
        data = "0x" + artifact().bytecode.hex()
        sent = self.rpc("eth_sendTransaction", {"from": ACCOUNTS[0], "data": data})
        # The block comes a moment after the answer.
        for _ in range(1000):
            if receipt := self.rpc("eth_getTransactionReceipt", sent):
                return str(receipt["contractAddress"])
            time.sleep(0.01)
        raise AssertionError("anvil mines nothing")

    def settings(self, contract: str, key: str = KEYS[0], **more: str) -> dict[str, str]:
        """The environment of a command that is about a contract here."""
        environ = {"NETWORK": "hardhat", "RPC_URL": self.url, "CONTRACT_ADDRESS": contract}
        return environ | {"CONTRACT_PRIVATE_KEY": key} | more


@contextmanager
def devnet(*options: str) -> Iterator[Devnet]:
    """Start anvil on a free port."""
    command = [str(anvil()), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if found := re.search(r"Listening on .*:(\d+)", line):
                    break
            else:
                raise AssertionError("anvil did not start")
            # It prints each call; nobody reads that, and a full pipe would stop it.
            reader = threading.Thread(target=process.stdout.read, daemon=True)
            reader.start()
            yield Devnet(f"http://127.0.0.1:{found[1]}")
        finally:
            process.kill()
            reader.join()


Answer = Callable[[list[Any], Callable[[], dict[str, Any]]], dict[str, Any]]
"""Answers a call: gets its parameters, and a function that asks the real chain."""


@contextmanager
def provider(chain: Devnet, answers: dict[str, Answer]) -> Iterator[str]:
    """Serve a chain with some methods answered otherwise; the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            call = json.loads(self.rfile.read(int(self.headers["Content-Length"])))

            def ask() -> dict[str, Any]:
                reply: dict[str, Any] = post(chain.url, call)
                return reply

            answer = answers.get(call["method"])
            reply = answer(call["params"], ask) if answer else ask()
            body = json.dumps(reply | {"jsonrpc": "2.0", "id": call["id"]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v2/very-secret"
        finally:
            server.shutdown()
            thread.join()


def post(url: str, call: dict[str, Any]) -> Any:
    """Send a JSON-RPC call."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(call).encode(), headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)
