"""Private files: whole or not at all, and nobody else's to read."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dstack_vpn.wireguard.conffile import write_private


def mode(path: Path) -> int:
    """Permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


def names(directory: Path) -> list[str]:
    """What is in a directory."""
    return sorted(path.name for path in directory.iterdir())


def test_a_file_and_its_directory_are_private(tmp_path: Path) -> None:
    """0600 in 0700, whatever the umask."""
    path = tmp_path / "new/wg0.conf"
    before = os.umask(0)
    try:
        write_private(path, "text\n")
    finally:
        os.umask(before)
    assert path.read_text() == "text\n"
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert names(path.parent) == ["wg0.conf"]


def test_a_file_is_replaced_and_never_opened(tmp_path: Path) -> None:
    """A reader of the old file keeps the old text: it is another file."""
    path = tmp_path / "wg0.conf"
    path.write_text("old")
    path.chmod(0o644)
    with path.open() as old:
        write_private(path, "new")
        assert old.read() == "old"
    assert (path.read_text(), mode(path)) == ("new", 0o600)


def test_a_leftover_of_a_crash_is_taken_over(tmp_path: Path) -> None:
    """A half-written file of before, readable by all, neither stays nor shows the new text."""
    leftover = tmp_path / ".wg0.conf.new"
    leftover.write_text("half of a secret that was longer than the new text")
    leftover.chmod(0o644)
    write_private(tmp_path / "wg0.conf", "new")
    assert names(tmp_path) == ["wg0.conf"]
    assert (tmp_path / "wg0.conf").read_text() == "new"
    assert mode(tmp_path / "wg0.conf") == 0o600


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    """Nobody can have us write the text somewhere else."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".wg0.conf.new").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic link"):
        write_private(tmp_path / "wg0.conf", "new")
    assert victim.read_text() == "precious"
    write_private(tmp_path / "wg0.conf", "new")  # the link itself is gone


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk shows at fsync at the latest: the old text stays, and nothing else."""
    path = tmp_path / "wg0.conf"
    write_private(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_private(path, "new")
    assert names(tmp_path) == ["wg0.conf"]
    assert path.read_text() == "old"


def test_a_directory_that_cannot_be_made_is_an_error() -> None:
    """The caller hears of it as an OSError."""
    with pytest.raises(OSError, match="/proc/no-such"):
        write_private(Path("/proc/no-such/wg0.conf"), "text")


def test_a_writer_that_is_killed_leaves_a_whole_file(tmp_path: Path) -> None:
    """SIGKILL at any time: the file holds one of the texts, from its first to its last byte."""
    path = tmp_path / "wg0.conf"
    code = (
        "import itertools, sys; from pathlib import Path; "
        "from dstack_vpn.wireguard.conffile import write_private\n"
        "for n in itertools.count(): write_private(Path(sys.argv[1]), f'{n % 10}' * 300000)"
    )
    for _ in range(5):
        writer = subprocess.Popen([sys.executable, "-c", code, str(path)])
        while not path.exists() or not (tmp_path / ".wg0.conf.new").exists():
            assert writer.poll() is None
        writer.kill()
        writer.wait()
        text = path.read_text()
        assert text == text[0] * 300000
        path.unlink()
