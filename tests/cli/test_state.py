"""What a node keeps on disk, by the command line: looked at, and forgotten."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cli.command import refused, run
from dstack_vpn.identity import write_key_file
from dstack_vpn.mesh.events import Event, EventKind
from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.store import STATE_FILE, Store, claim_directory
from mesh.build import membership, node

SAVED = membership([node(1), node(2, revoked=True), node(3), node(4, expires_at=1)], number=7)
EVENT = Event(
    kind=EventKind.APPLIED, block=7, token_id=0, node_id="", verdict=None, detail="added node-3"
)

WRONG = {"NODE_ID": "Upper", "NETWORK": "mainnet", "RPC_URL": "ftp://x", "CONTRACT_ADDRESS": "0x1"}
"""Nothing of this concerns the state on disk."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The state directory of a node that was stopped."""
    made = tmp_path / "state"
    write_key_file(made / "wireguard.key", PrivateKey.generate())
    with closing(Store(made / STATE_FILE)) as store:
        store.save(SAVED, wall_now=1_750_000_007.9)
        store.record([EVENT], wall_now=1_750_000_007)
    return made


@contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Hold a directory as an agent does."""
    descriptor = claim_directory(directory)
    try:
        yield
    finally:
        os.close(descriptor)


def contents(directory: Path) -> dict[str, bytes]:
    """All files of a directory."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_show_tells_what_is_saved_and_changes_nothing(directory: Path, tmp_path: Path) -> None:
    """Also while the agent runs, and whatever is wrong with the settings of the node."""
    before = contents(directory)
    settings = tmp_path / "node.env"
    settings.write_text(f"STATE_DIR={directory}\n")
    with claimed(directory):
        shown = run("state", "show", "--json", "--env-file", str(settings), env=WRONG).json()
        told = run("state", "show", env={"STATE_DIR": str(directory)})
    assert shown == {
        "stateDir": str(directory),
        "chainId": 31337,
        "contract": "0x5FbDB2315678afecb367f032d93F642f64180aa3",
        "block": 7,
        "blockHash": SAVED.block.hash,
        "nodes": 4,
        "granted": 2,
        "savedAt": 1_750_000_007,
    }
    assert (told.code, told.err) == (0, "")
    assert "4, 2 granted access at that block" in told.out
    assert "2025-06-15 15:06:47 UTC" in told.out
    assert contents(directory) == before


def test_forget_leaves_the_key_and_the_journal(directory: Path) -> None:
    """Only the membership goes; the next start reads it anew."""
    key = (directory / "wireguard.key").read_bytes()
    forgotten = run("state", "forget", "--json", env=WRONG | {"STATE_DIR": str(directory)})
    assert forgotten.json() == {"stateDir": str(directory), "block": 7}
    with closing(Store(directory / STATE_FILE)) as store:
        assert store.load() is None
        assert [entry.detail for entry in store.journal()] == [EVENT.detail]
        store.save(SAVED, wall_now=1)
    assert (directory / "wireguard.key").read_bytes() == key
    told = run("state", "forget", env={"STATE_DIR": str(directory)})
    assert "(that of block 7); the key and the journal stay" in told.out


def test_the_state_of_a_running_agent_is_not_forgotten(directory: Path) -> None:
    """The agent would save it again; the sentence says what to do first."""
    before = contents(directory)
    with claimed(directory):
        ended = run("state", "forget", env={"STATE_DIR": str(directory)})
    refused(ended, f"STATE_DIR {directory} is in use by a running agent", "was stopped")
    assert contents(directory) == before


@pytest.mark.parametrize("command", ["show", "forget"])
def test_where_nothing_is_saved(directory: Path, tmp_path: Path, command: str) -> None:
    """A directory that is not there is not made; an empty state and one forgotten are none."""
    file = directory / STATE_FILE
    words = "holds no saved membership; accepted: the directory of a node"
    with closing(Store(file)) as store:
        store.forget()
    for path in (tmp_path / "none", file, directory):
        refused(run("state", command, env={"STATE_DIR": str(path)}), f"STATE_DIR {path} {words}")
    file.write_bytes(b"")
    refused(run("state", command, env={"STATE_DIR": str(directory)}), words)
    assert not (tmp_path / "none").exists()


def test_a_damaged_state(directory: Path) -> None:
    """It is not shown, and it can be forgotten where only what it holds is damaged."""
    environ = {"STATE_DIR": str(directory)}
    file = directory / STATE_FILE
    with closing(Store(file)) as store, store._transaction() as db:
        db.execute("DELETE FROM nodes WHERE token_id = '1'")
    ended = run("state", "show", env=environ)
    assert (ended.code, ended.out) == (2, "")
    assert "the saved members are not as many as they say" in ended.err
    assert "(a membership that could not be read)" in run("state", "forget", env=environ).out

    file.write_bytes(b"no database" * 100)
    refused(run("state", "show", env=environ), f"the state file {file} cannot be read")
    assert file.read_bytes() == b"no database" * 100


def test_a_malformed_directory(tmp_path: Path) -> None:
    """STATE_DIR itself is checked as ever."""
    settings = tmp_path / "node.env"
    settings.write_text("STATE_DIR=/tmp/\0\n")
    for command in ("show", "forget"):
        refused(run("state", command, "--env-file", str(settings)), "STATE_DIR is no path")


def test_nothing_to_forget_may_be_well(tmp_path: Path) -> None:
    """With --if-any it is told, and no failure; nothing is made."""
    ended = run("state", "forget", "--if-any", env={"STATE_DIR": str(tmp_path / "none")})
    assert ended.code == 0
    assert "holds no saved membership" in ended.err
    assert not (tmp_path / "none").exists()
