"""Earlier states of the configuration file: kept without a copy, private, bounded, and by hand."""

import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.wireguard import backups
from dstack_vpn.wireguard.backups import BREATH, MOST_BY_HAND, Backups, ConfFile, head_of
from dstack_vpn.wireguard.conf import About, render_conf
from wireguard.samples import device, peer

PRIVATE_KEY = PrivateKey(bytes(range(1, 33)))
SINCE = 1_750_000_007
"""2025-06-15 15:06:47 UTC."""


def text(block: int, port: int = 51820, peers: int = 1) -> str:
    """The file of one state."""
    wanted = device(PRIVATE_KEY, *map(peer, range(1, peers + 1)), listen_port=port)
    return render_conf(wanted, About(block=block), private_key=PRIVATE_KEY)


class Node:
    """A node that writes its file, at times of the test's choice."""

    def __init__(self, directory: Path, *, most: int, most_bytes: int = 2**30) -> None:
        self.backups = Backups(directory / "state/backups", most=most, most_bytes=most_bytes)
        self.file = ConfFile(directory / "state/wg0.conf", self.backups)

    def write(self, block: int, port: int = 51820, peers: int = 1) -> None:
        """Bring another state into force, a minute for each block after the first."""
        self.file.write(text(block, port, peers))
        os.utime(self.file.path, (0, SINCE + 60 * (block - 1)))

    @property
    def blocks(self) -> list[int | None]:
        """The blocks of the states that are kept."""
        return [state.block for state in self.backups.states()]


def mode(path: Path) -> int:
    """Permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_replaced_is_kept_under_its_number_time_and_block(tmp_path: Path) -> None:
    """The very same file, 0600 in 0700, whatever the umask; and it sorts by its name."""
    before = os.umask(0)
    try:
        node = Node(tmp_path, most=10)
        node.write(1)
        first = node.file.path.stat().st_ino
        node.write(2)
        node.write(3)
    finally:
        os.umask(before)
    directory = node.backups.directory
    names = sorted(path.name for path in directory.iterdir())
    assert names == ["00000001-20250615T150647Z-1.conf", "00000002-20250615T150747Z-2.conf"]
    state = node.backups.states()[0]
    assert (state.number, state.time, state.block, state.by_hand) == (1, SINCE, 1, False)
    assert state.inode == first
    assert state.path.read_text() == text(1)
    assert node.file.path.read_text() == text(3)
    assert [mode(path) for path in (directory, state.path)] == [0o700, 0o600]


def test_a_stop_keeps_the_last_state(tmp_path: Path) -> None:
    """The file goes with the device; what was in force can still be looked up."""
    node = Node(tmp_path, most=10)
    node.write(1)
    node.file.remove()
    node.file.remove()
    assert not node.file.path.exists()
    assert node.blocks == [1]


def test_none_are_kept_where_none_are_wanted(tmp_path: Path) -> None:
    """With 0 nothing is made, and what was kept before goes, but for what was kept by hand."""
    node = Node(tmp_path, most=0)
    node.write(1)
    node.write(2)
    assert not node.backups.directory.exists()
    more = Node(tmp_path, most=3)
    more.write(3)
    more.backups.keep_by_hand(more.file.path, "")
    node.write(4)
    assert [state.by_hand for state in more.backups.states()] == [True]


def test_they_are_bounded_in_number(tmp_path: Path) -> None:
    """The oldest and the newest are there; a state with another port is not pushed out."""
    node = Node(tmp_path, most=4)
    for block in range(1, 30):
        node.write(block, port=51821 if block == 5 else 51820)
    assert len(node.blocks) == 4
    assert (node.blocks[0], node.blocks[-1]) == (1, 28)
    assert 5 in node.blocks


def test_they_are_bounded_in_bytes(tmp_path: Path) -> None:
    """Large states are fewer."""
    size = len(text(1, peers=50))
    node = Node(tmp_path, most=100, most_bytes=3 * size + 100)
    for block in range(1, 9):
        node.write(block, peers=50)
    assert len(node.blocks) == 3


def test_a_state_that_is_kept_already_is_not_kept_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a write that failed: the state is still in force, and has its backup."""
    node = Node(tmp_path, most=10)
    node.write(1)

    def full(path: Path, lines: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(backups, "write_private", full)
        for _ in range(3):
            with pytest.raises(OSError, match="No space"):
                node.write(2)
    assert node.file.path.read_text() == text(1)
    node.write(3)
    assert node.blocks == [1]


def test_the_file_is_written_also_where_nothing_can_be_kept(tmp_path: Path) -> None:
    """The newest state is what matters; the error is told all the same."""
    node = Node(tmp_path, most=10)
    node.write(1)
    node.backups.directory.write_text("in the way")
    with pytest.raises(OSError, match="backups"):
        node.write(2)
    assert node.file.path.read_text() == text(2)


def test_an_operators_own_file_is_kept_and_made_private(tmp_path: Path) -> None:
    """Whoever names a file that is there already can have it back."""
    node = Node(tmp_path, most=10)
    node.file.path.parent.mkdir()
    node.file.path.write_text("[Interface]\nListenPort = 7\n")
    node.file.path.chmod(0o644)
    node.write(1)
    (state,) = node.backups.states()
    assert (state.block, mode(state.path)) == (None, 0o600)
    assert head_of(state.path).listen_port == 7
    assert state.path.name.endswith("-none.conf")


def test_a_link_or_a_pipe_in_its_place_is_no_state(tmp_path: Path) -> None:
    """It leads who knows where; a pipe would never end."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    victim.chmod(0o644)
    node = Node(tmp_path, most=10)
    node.file.path.parent.mkdir()
    node.file.path.symlink_to(victim)
    node.write(1)
    assert node.blocks == []
    assert mode(victim) == 0o644
    node.file.remove()
    os.mkfifo(node.file.path)
    node.write(2)
    assert node.blocks == [1]


def test_another_file_system(tmp_path: Path) -> None:
    """No link leads there, so the state is copied."""
    elsewhere = Path("/dev/shm")
    if not os.access(elsewhere, os.W_OK) or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    path = elsewhere / f"dstack-vpn-test-{os.getpid()}.conf"
    node = Node(tmp_path, most=10)
    node.file = ConfFile(path, node.backups)
    try:
        node.write(1)
        node.write(2)
        assert path.read_text() == text(2)
    finally:
        path.unlink()
    (state,) = node.backups.states()
    assert (state.block, state.time, mode(state.path)) == (1, SINCE, 0o600)
    assert state.path.read_text() == text(1)


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    """Other files, directories and links in the directory are neither states nor removed."""
    node = Node(tmp_path, most=1)
    node.write(1)
    node.write(2)
    directory = node.backups.directory
    (directory / "notes.txt").write_text("x")
    (directory / "00000009-20250615T150647Z-1.conf").mkdir()
    (directory / "00000008-20250615T150647Z-1.conf").symlink_to("notes.txt")
    (directory / "00000007-20259999T150647Z-1.conf").write_text("")
    node.write(3)
    node.write(4)
    assert node.blocks == [3]
    assert node.backups.states()[0].number == 9
    assert len(list(directory.iterdir())) == 4


def test_states_kept_by_hand(tmp_path: Path) -> None:
    """They are not thinned, the ten newest stay, and each says what it was kept for."""
    node = Node(tmp_path, most=1)
    node.write(1)
    for number in range(1, MOST_BY_HAND + 3):
        made, gone = node.backups.keep_by_hand(node.file.path, f"number {number}")
        assert head_of(made.path).note == f"number {number}"
        assert [state.number for state in gone] == ([] if number <= 10 else [number - 10])
    for block in range(2, 9):
        node.write(block)
    states = node.backups.states()
    assert sum(state.by_hand for state in states) == MOST_BY_HAND
    assert [state.block for state in states if not state.by_hand] == [7]
    assert {mode(state.path) for state in states} == {0o600}


def test_two_at_once_never_take_the_same_number(tmp_path: Path) -> None:
    """The agent and the command line number states in one directory."""
    node = Node(tmp_path, most=100)
    node.write(1)
    other = tmp_path / "other.conf"
    other.write_text(text(7))

    def by_hand() -> None:
        for _ in range(9):
            Backups(node.backups.directory).keep_by_hand(other, "")

    thread = threading.Thread(target=by_hand)
    thread.start()
    for block in range(2, 40):
        node.write(block)
    thread.join()
    numbers = [state.number for state in node.backups.states()]
    assert len(numbers) == 38 + 9
    assert len(set(numbers)) == len(numbers)


def test_the_key_is_in_no_name_and_no_repr(tmp_path: Path) -> None:
    """A private key is where it was before, in the text of a private file."""
    node = Node(tmp_path, most=10)
    node.write(1)
    node.write(2)
    (state,) = node.backups.states()
    assert PRIVATE_KEY.reveal() in state.path.read_text()
    assert PRIVATE_KEY.reveal() not in repr(state) + repr(head_of(state.path))


def test_a_long_text_is_written_with_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that makes text without end would keep the loop from the interpreter."""
    node = Node(tmp_path, most=10)
    made: list[str] = []
    pauses: list[int] = []
    monkeypatch.setattr(time, "sleep", lambda _: pauses.append(len(made)))

    def parts() -> Iterator[str]:
        for number in range(5 * BREATH):
            made.append(f"# {number}\n")
            yield made[-1]

    node.file.write(parts())
    assert pauses == [BREATH * row for row in range(1, 6)]
    assert node.file.path.read_text() == "".join(made)
