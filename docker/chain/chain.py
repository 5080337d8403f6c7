"""A local chain that survives: anvil, with its state on disk. The main process of docker/chain.

anvil can save its state by itself, but writes over the file that it has, so that a kill in the
middle leaves half a file and no chain. Here the state, history included, is asked for whenever
there is a new block, at most every `INTERVAL` seconds, and put in the place of the old one as a
whole. What is lost by a kill is what was mined since.

``chain.py`` runs the chain; ``chain.py check`` is its health check. Standard library only.
"""

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

PORT = 8545
INTERVAL = 1.0
"""Seconds between two looks for a new block."""
TRIES = 20
"""How often in one look the state is read, until no block was made meanwhile."""
PATIENCE = 30.0
"""Seconds for an answer; a state may be large."""
CHECK_PATIENCE = 3.0
"""The same for the health check, which the engine ends a second later."""
STATE = Path(os.environ.get("CHAIN_STATE", "/data/state.json"))
ANVIL = ("anvil", "--host", "0.0.0.0", "--port", str(PORT), "--silent")


def rpc(method: str, *params: Any, patience: float = PATIENCE) -> Any:
    """Ask the chain; raises what can be wrong with an answer, or RuntimeError for a refusal."""
    call = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}",
        data=call.encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=patience) as answer:
        reply = json.load(answer)
    if "error" in reply:
        raise RuntimeError(f"{method}: {reply['error']}")
    return reply["result"]


def head(patience: float = PATIENCE) -> str:
    """The hash of the newest block."""
    return str(rpc("eth_getBlockByNumber", "latest", False, patience=patience)["hash"])


def save(saved: str) -> str:
    """Write the state down if there is a newer block than the one given; the newest block."""
    for _ in range(TRIES):
        newest = head()
        if newest == saved:
            return saved
        # With historical states: nodes ask for what was at a block.
        state = json.loads(gzip.decompress(bytes.fromhex(rpc("anvil_dumpState", True)[2:])))
        state["blocks"] = of_one_beginning(state["blocks"])
        # A block that is made meanwhile may be in the balances and not among the blocks.
        if head() == newest:
            write(state)
            return newest
    raise RuntimeError("blocks are made faster than the state can be read")


def write(state: dict[str, Any]) -> None:
    """Put a state in the place of the one on disk, as a whole."""
    draft = STATE.with_suffix(".new")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(state, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(STATE)


def of_one_beginning(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks without first blocks that are not the chain's.

    Each start makes a first block before the state is loaded, and anvil 1.7.1 dumps that one too.
    At the next start either may win, and then the chain is another one for everybody who knew it.
    """
    begun = rpc("eth_getBlockByNumber", "0x0", False)["timestamp"]
    return [
        block
        for block in blocks
        if int(block["header"]["number"], 16) or block["header"]["timestamp"] == begun
    ]


def serve() -> int:
    """Run the chain until a signal asks it to end; the exit code."""
    asked = threading.Event()
    received: list[int] = []

    def ask(number: int, _frame: object) -> None:
        received.append(number)
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    load = ("--load-state", str(STATE)) if STATE.exists() else ()
    say(f"{'continues' if load else 'begins'}; its state is kept in {STATE}")
    # In a session of its own: the signal that asks us to end must not reach it before it is saved.
    chain = subprocess.Popen([*ANVIL, *load], start_new_session=True)
    saved = trouble = ""
    while chain.poll() is None and not asked.wait(INTERVAL):
        saved, trouble = try_to_save(saved, trouble)
    if chain.poll() is not None:
        say(f"anvil ended with {chain.returncode}")
        return 1
    try_to_save(saved, trouble)
    chain.terminate()
    chain.wait()
    # As after a death by that signal: the engine starts again after its own restart what did not
    # end with success.
    return 128 + received[0]


def try_to_save(saved: str, trouble: str) -> tuple[str, str]:
    """Save; the newest block that is saved, and why it is not the newest of all, told once."""
    try:
        return save(saved), ""
    except Exception as error:  # noqa: BLE001 - neither a full disk nor an odd answer ends the chain
        new_trouble = f"{type(error).__name__}: {error}"
        if new_trouble != trouble:
            say(f"not saved ({new_trouble})")
        return saved, new_trouble


def check() -> int:
    """Whether it answers; the exit code."""
    try:
        head(CHECK_PATIENCE)
    except Exception as error:  # noqa: BLE001 - whatever it is, that is no answer
        say(f"does not answer ({type(error).__name__}: {error})")
        return 1
    return 0


def say(text: str) -> None:
    """Tell the log."""
    print(f"chain: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(check() if sys.argv[1:] == ["check"] else serve())
