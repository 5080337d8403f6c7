"""The configuration of a node by the command line: shown, compared, kept, and rolled back."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cli.command import Ended, refused, run, run_here
from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.mesh.rollback import InterfaceSettings
from dstack_vpn.store import claim_directory
from dstack_vpn.wireguard.backups import Backups, ConfFile, head_of
from dstack_vpn.wireguard.conf import About, render_conf
from dstack_vpn.wireguard.rollbackfile import RollbackFile
from wireguard.samples import device, key, peer

PRIVATE_KEY = PrivateKey(bytes(range(1, 33)))
SINCE = 1_750_000_007


class Node:
    """A node that writes its configuration as the agent does, for settings of the test's choice."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.backups = Backups(directory / "backups", most=10)
        self.file = ConfFile(directory / "wg0.conf", self.backups)
        self.rollbacks = RollbackFile(directory / "rollback.json")
        self.configured = InterfaceSettings(listen_port=51820, mtu=None)
        self.block = 0

    def write(self, *peers: int) -> None:
        """The next block, with these peers; `auto` comes to 1420 here."""
        self.block += 1
        in_force = self.rollbacks.in_force(self.configured)
        wanted = device(
            PRIVATE_KEY,
            *map(peer, peers),
            listen_port=in_force.settings.listen_port,
            mtu=in_force.settings.mtu or 1420,
            addresses=("10.213.0.9/16",),
        )
        about = About(
            block=self.block, block_hash="0xab", configured=self.configured, in_force=in_force
        )
        self.file.write(render_conf(wanted, about, private_key=PRIVATE_KEY))
        os.utime(self.file.path, (0, SINCE + self.block))

    def set(self, listen_port: int, mtu: int | None) -> None:
        """Another start, with other settings."""
        self.configured = InterfaceSettings(listen_port=listen_port, mtu=mtu)

    @property
    def in_force(self) -> tuple[int | None, int | None]:
        """Listen port and MTU by the file."""
        head = head_of(self.file.path)
        return head.listen_port, head.mtu

    def config(self, *words: str) -> Ended:
        """Run a command for this node, whatever is wrong with its other settings."""
        settings = self.directory / "node.env"
        settings.write_text(f"STATE_DIR={self.directory}\nNODE_ID=Upper\nNETWORK=mainnet\n")
        ended = run_here("config", *words, "--env-file", str(settings))
        assert PRIVATE_KEY.reveal() not in ended.out + ended.err
        return ended

    @contextmanager
    def running(self, *peers: int) -> Iterator[None]:
        """A stand-in for the agent: it has the directory, and looks for a wish now and then."""
        descriptor = claim_directory(self.directory)
        over = threading.Event()

        def look() -> None:
            while not over.wait(0.01):
                if self.rollbacks.changed():
                    self.write(*peers)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            os.close(descriptor)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Five states: 1 to 3 with port 51820, then 4 with other settings, then one in force."""
    made = Node(tmp_path / "state")
    made.write()
    made.write(1)
    made.write(1, 2)
    made.set(51999, 1300)
    made.write(1, 2)
    made.write(2, 3)
    return made


def test_show_hides_the_key(node: Node) -> None:
    """The text in force and that of an earlier state are as they are, but for the key."""
    text = node.file.path.read_text().replace(PRIVATE_KEY.reveal(), "(hidden)")
    assert node.config("show").out == text
    earlier = node.config("show", "--state", "2").out
    assert f"PublicKey = {key(1).text}" in earlier
    assert key(2).text not in earlier


def test_show_as_json(node: Node) -> None:
    """All that the file says."""
    shown = node.config("show", "--json").json()
    (first, second) = shown.pop("peers")
    assert shown == {
        "file": str(node.file.path),
        "state": None,
        "block": 5,
        "blockHash": "0xab",
        "address": "10.213.0.9/16",
        "listenPort": 51999,
        "mtu": 1300,
        "configured": {"listenPort": 51999, "mtu": 1300},
        "rolledBackTo": None,
        "note": "",
    }
    assert (first["publicKey"], second["comment"]) == (key(2).text, "node-3, token 3")
    assert node.config("show", "--state", "1", "--json").json()["configured"]["mtu"] == "auto"


def test_list_says_what_each_state_changed(node: Node) -> None:
    """By number, with time, block, peers and settings; the last line is what is in force."""
    lines = node.config("list").out.splitlines()
    assert [line.split()[0] for line in lines] == ["STATE", "1", "2", "3", "4", "in"]
    assert "2025-06-15 15:06:49 UTC  2      1      51820  1420  peers: 1 added" in lines[2]
    assert lines[4].endswith("ListenPort 51820 -> 51999; MTU 1420 -> 1300")
    assert lines[5].endswith("51999  1300  peers: 1 added, 1 removed")
    found = node.config("list", "--json").json()
    assert [(f["state"], f["peers"], f["block"]) for f in found] == [
        (1, 0, 1),
        (2, 1, 2),
        (3, 2, 3),
        (4, 2, 4),
        (None, 2, 5),
    ]
    assert found[3]["changes"] == ["ListenPort 51820 -> 51999", "MTU 1420 -> 1300"]


def test_diff_in_words_and_as_text(node: Node) -> None:
    """Since the newest state, since any, and from one to another."""
    told = node.config("diff").out.splitlines()
    assert told[:3] == [
        "peers: 1 added, 1 removed",
        "--- state 4 (block 4)",
        "+++ in force (block 5)",
    ]
    assert f"-PublicKey = {key(1).text}" in told
    assert f"+PublicKey = {key(3).text}" in told
    assert not any(key(2).text in line for line in told)
    older = node.config("diff", "2", "4", "--json").json()
    assert (older["from"], older["to"]) == (2, 4)
    assert older["changes"][-1] == "peers: 1 added"
    assert "-ListenPort = 51820" in older["diff"]
    assert node.config("diff", "3", "3").out == "nothing changed\n"


def test_what_a_file_says_cannot_steer_the_terminal(node: Node) -> None:
    """An operator's own file may hold anything."""
    node.file.path.write_text("[Interface]\n# \x1b]0;x\x07\nPostUp = a\x9bb\n")
    for command in (["show"], ["diff", "1"], ["list"]):
        ended = node.config(*command)
        assert ended.code == 0
        assert not {"\x1b", "\x07", "\x9b"} & set(ended.out)


def test_a_backup_by_hand(node: Node) -> None:
    """It has a number, and says what it is for."""
    told = node.config("backup", "--note", "before the new port").out
    assert told.startswith("kept as state 5: ")
    listed = node.config("list").out.splitlines()
    assert "by hand: before the new port" in listed[5]
    made = node.config("backup", "--json").json()
    assert (made["state"], made["byHand"], made["removed"]) == (6, True, [])
    told = "".join(node.config("backup").err for _ in range(9))
    assert told == "state 5, the oldest that was kept by hand, made room for it\n"


@pytest.mark.parametrize("text", ["two\nlines", "\x1b[31m", "x" * 201])
def test_a_note_is_one_line(node: Node, text: str) -> None:
    """It stands in a comment, and in a table."""
    refused(node.config("backup", "--note", text), "--note", "accepted: one line")
    assert len(node.backups.states()) == 4


def test_rollback_for_the_next_start(node: Node) -> None:
    """Without an agent it is left for the next one, which takes the settings and no peer."""
    told = node.config("rollback")
    assert told.out == (
        "back to state 3 of block 3: LISTEN_PORT is 51820 instead of 51999, MTU is 1420 instead of"
        " 1300; no agent runs: in force at the next start\n"
    )
    assert told.code == 0
    assert node.in_force == (51999, 1300)
    node.write(2, 3)
    assert node.in_force == (51820, 1420)
    assert [p["publicKey"] for p in node.config("show", "--json").json()["peers"]] == [
        key(2).text,
        key(3).text,
    ]
    assert "rolled back to state 3" in node.config("list").out


def test_rollback_waits_for_the_agent(node: Node) -> None:
    """What it says is in force is in force; and so is the way back from the way back."""
    with node.running(3):
        back = node.config("rollback", "3", "--json").json()
        assert back == {"state": 3, "listenPort": 51820, "mtu": 1420, "inForce": True}
        assert node.in_force == (51820, 1420)
        undone = node.config("rollback", "--undo")
        assert undone.out == "back to the settings; in force\n"
        assert node.in_force == (51999, 1300)
    assert not node.rollbacks.path.exists()


def test_rollback_of_a_rollback(node: Node) -> None:
    """It replaces what is configured, not what the first one made of it."""
    node.config("rollback", "3")
    node.write(3)
    node.set(51999, 1300)
    node.config("rollback", "4")
    assert not node.rollbacks.path.exists(), "that state has the settings that are configured"
    node.write(3)
    assert node.in_force == (51999, 1300)


def test_a_new_setting_ends_a_rollback(node: Node) -> None:
    """For good."""
    node.config("rollback", "3")
    node.set(52000, 1300)
    node.write(3)
    assert node.in_force == (52000, 1300)
    node.set(51999, 1300)
    node.write(3)
    assert node.in_force == (51999, 1300)


def test_rollback_after_a_stop(node: Node) -> None:
    """The file went with the device: what was in force last is the newest state."""
    node.file.remove()
    assert node.config("rollback").code == 0
    wish = node.rollbacks.load()
    assert wish is not None
    assert (wish.state, wish.replaced.listen_port) == (3, 51999)


def test_an_agent_that_does_not_take_it(node: Node) -> None:
    """Exit code 1, with what to do."""
    descriptor = claim_directory(node.directory)
    try:
        ended = node.config("rollback", "--timeout", "0")
    finally:
        os.close(descriptor)
    refused(ended, "has not taken it within 0 s", "rollback --undo", code=1)


def test_nothing_to_roll_back_to(node: Node) -> None:
    """The same settings, no such state, both at once: a sentence each, and nothing is left."""
    refused(
        node.config("rollback", "4"), "STATE 4 has the listen port and the MTU that are in force"
    )
    refused(node.config("rollback", "99"), "STATE 99 is not in", "accepted: 1 to 4")
    refused(node.config("rollback", "3", "--undo"), "STATE and --undo are both given")
    (node.backups.states()[0].path).write_text("[Interface]\nListenPort = 99999\nMTU = 7\n")
    refused(node.config("rollback", "1"), "STATE 1 has no listen port and MTU that a setting")
    for state in node.backups.states()[:3]:
        state.path.unlink()
    refused(node.config("rollback"), "no state has other settings than those in force")
    refused(node.config("rollback", "--undo"), "nothing is rolled back")
    assert not node.rollbacks.path.exists()


@pytest.mark.parametrize(
    "words", [("show",), ("diff",), ("backup",), ("rollback",), ("rollback", "--undo")]
)
def test_where_there_is_no_node(tmp_path: Path, words: tuple[str, ...]) -> None:
    """A directory that is not there is told of, and not made."""
    where = tmp_path / "none"
    refused(run("config", *words, env={"STATE_DIR": str(where)}), str(where), "accepted: ")
    assert not where.exists()


def test_an_empty_list(tmp_path: Path) -> None:
    """A node that has not run has no states, which is no mistake."""
    environ: dict[str, Any] = {"STATE_DIR": str(tmp_path / "none")}
    told = run("config", "list", env=environ)
    assert (told.code, told.out) == (0, "")
    assert "holds no states so far" in told.err
    assert run("config", "list", "--json", env=environ).json() == []


def test_malformed_settings(tmp_path: Path) -> None:
    """Those that are needed are checked, by their names."""
    for name, value in (("STATE_DIR", ""), ("WG_INTERFACE", "../x"), ("WG_CONFIG_FILE", "")):
        settings = tmp_path / "node.env"
        settings.write_text(f"{name}={value or '/tmp/' + chr(0)}\n")
        refused(run("config", "show", "--env-file", str(settings)), name, "accepted: ")
