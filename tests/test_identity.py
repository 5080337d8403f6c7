"""This node's key: made once, kept, refused when others can read it, and never quoted."""

import os
import stat
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.config import Settings, load_settings
from dstack_vpn.errors import HostError, SettingError
from dstack_vpn.identity import check_private, load_identity, write_key_file
from dstack_vpn.mesh.keys import PrivateKey

KEY = PrivateKey(b"private-key-of-this-test-32-byte")


def settings(state_dir: Path, **values: str) -> Settings:
    """The settings of a node that keeps its state there."""
    return load_settings(
        {"NODE_ID": "db", "NETWORK": "hardhat", "STATE_DIR": str(state_dir)} | values
    )


def mode(path: Path) -> int:
    """The permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def refusal(found: Settings) -> str:
    """What is said about a key that cannot be used, the traceback included."""
    with pytest.raises(SettingError) as caught:
        load_identity(found)
    return "".join(traceback.format_exception(caught.value))


def test_made_at_the_first_start(tmp_path: Path) -> None:
    """Without a configured key one is made, for its owner's eyes only."""
    key = load_identity(settings(tmp_path / "state"))
    path = tmp_path / "state" / "wireguard.key"
    assert path.read_text() == key.reveal() + "\n"
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert list(path.parent.iterdir()) == [path]


def test_kept_the_second_time(tmp_path: Path) -> None:
    """A restart has the key of the first start; another directory has another."""
    first = load_identity(settings(tmp_path / "state"))
    assert load_identity(settings(tmp_path / "state")) == first
    assert load_identity(settings(tmp_path / "other")) != first


def test_several_that_make_the_key_at_once(tmp_path: Path) -> None:
    """Several with one volume and one process number all go on with the key of the file."""
    racers = 4
    with ThreadPoolExecutor(racers) as pool:
        for number in range(200):
            found, start = settings(tmp_path / f"state{number}"), threading.Barrier(racers)

            def first_start(
                _: int, found: Settings = found, start: threading.Barrier = start
            ) -> str:
                start.wait()
                return load_identity(found).reveal()

            keys = set(pool.map(first_start, range(racers)))
            assert keys == {found.default_key_file.read_text().strip()}
            assert list(found.state_dir.iterdir()) == [found.default_key_file]


def test_a_key_that_was_made_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes second takes the key that is there, unless others can read it."""
    found = settings(tmp_path)

    def generate() -> PrivateKey:
        write_key_file(found.default_key_file, KEY)
        found.default_key_file.chmod(bits)
        return PrivateKey(bytes(reversed(KEY.raw)))

    monkeypatch.setattr(PrivateKey, "generate", generate)
    bits = 0o600
    assert load_identity(found) == KEY
    found.default_key_file.unlink()
    bits = 0o644
    assert "chmod 600" in refusal(found)


def test_a_name_that_leads_nowhere(tmp_path: Path) -> None:
    """A link without a file is no key, and none can be put there."""
    found = settings(tmp_path)
    found.default_key_file.symlink_to(tmp_path / "nothing")
    with pytest.raises(HostError, match="File exists"):
        load_identity(found)


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    """A dry run has a key to plan with and leaves no trace."""
    load_identity(settings(tmp_path / "state"), create=False)
    assert not (tmp_path / "state").exists()


def test_key_from_the_variable(tmp_path: Path) -> None:
    """WIREGUARD_PRIVATE_KEY comes before any file, and makes none."""
    assert load_identity(settings(tmp_path, WIREGUARD_PRIVATE_KEY=KEY.reveal())) == KEY
    assert not list(tmp_path.iterdir())


def test_key_from_a_file(tmp_path: Path) -> None:
    """A file that `wg genkey` wrote with a proper umask is read."""
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_text(f"{KEY.reveal()}\n")
    for bits in (0o600, 0o400):
        path.chmod(bits)
        assert load_identity(settings(tmp_path, WIREGUARD_PRIVATE_KEY_FILE=str(path))) == KEY


@pytest.mark.parametrize("bits", [0o644, 0o640, 0o604, 0o660, 0o602, 0o610, 0o777])
@pytest.mark.parametrize("explicit", [False, True])
def test_loose_permissions(tmp_path: Path, bits: int, *, explicit: bool) -> None:
    """A key that others can read or write is refused, and the sentence says how to mend it."""
    path = tmp_path / ("key" if explicit else "wireguard.key")
    write_key_file(path, KEY)
    path.chmod(bits)
    values = {"WIREGUARD_PRIVATE_KEY_FILE": str(path)} if explicit else {}
    told = refusal(settings(tmp_path, **values))
    assert f"mode {bits:04o}" in told
    assert f"chmod 600 {path}" in told
    assert KEY.reveal() not in told


def refused(path: Path, mounted: Path) -> bool:
    """Whether a file is taken for one that others can get at."""
    try:
        check_private("A_FILE", path, mounted=mounted)
    except SettingError:
        return True
    return False


def test_mounted_secrets(tmp_path: Path) -> None:
    """Below the directory of mounted secrets any mode will do, whatever links lead there."""
    mounted = tmp_path / "secrets"
    # As Kubernetes lays them out: a name, a link to the newest version, the versions.
    version = mounted / "app" / "..2026_11_24"
    version.mkdir(parents=True)
    (version / "key").touch(0o444)
    (mounted / "app" / "..data").symlink_to(version.name)
    (mounted / "app" / "key").symlink_to("..data/key")
    (tmp_path / "link").symlink_to(mounted)
    for path in (version / "key", mounted / "app" / "key", tmp_path / "link" / "app" / "key"):
        assert not refused(path, mounted)
        assert not refused(path, tmp_path / "link")
        assert refused(path, tmp_path / "elsewhere")


def test_what_only_seems_to_be_a_mounted_secret(tmp_path: Path) -> None:
    """A link or a path that leads out of the directory, and a name that only begins like it."""
    mounted, other = tmp_path / "secrets", tmp_path / "secrets-of-others"
    for directory in (mounted, other):
        directory.mkdir()
    key = other / "key"
    key.touch(0o444)
    (mounted / "key").symlink_to(key)
    (mounted / "others").symlink_to(other)
    out = mounted / ".." / other.name / "key"
    for path in (key, mounted / "key", mounted / "others" / "key", out):
        assert refused(path, mounted)
        key.chmod(0o600)
        assert not refused(path, mounted)
        key.chmod(0o444)


MALFORMED: dict[str, Callable[[str], bytes]] = {
    "empty": lambda _: b"",
    "short": lambda text: text[:-2].encode(),
    "twice": lambda text: f"{text}\n{text}\n".encode(),
    "hex": lambda _: KEY.raw.hex().encode(),
    "binary": lambda _: b"\xff" + KEY.raw,
    "zero": lambda _: b"A" * 43 + b"=",
    "a line of wg0.conf": lambda text: f"PrivateKey = {text}".encode(),
    "another spelling": lambda text: (text[:42] + chr(ord(text[42]) + 1) + "=").encode(),
}


@pytest.mark.parametrize("make", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed(tmp_path: Path, make: Callable[[str], bytes]) -> None:
    """What is not one key is refused without being quoted."""
    path = tmp_path / "wireguard.key"
    write_key_file(path, KEY)
    path.write_bytes(make(KEY.reveal()))
    told = refusal(settings(tmp_path))
    assert "44 characters of base64" in told
    assert KEY.reveal()[:12] not in told
    assert KEY.raw.hex()[:12] not in told


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=12))
def test_malformed_variable(text: str) -> None:
    """Whatever stands in WIREGUARD_PRIVATE_KEY, an error does not repeat it."""
    told = refusal(settings(Path("/nowhere"), WIREGUARD_PRIVATE_KEY=f"<{text}>"))
    assert "WIREGUARD_PRIVATE_KEY holds no WireGuard private key; accepted: " in told
    assert f"<{text}>" not in told


def test_explicit_file_is_never_made(tmp_path: Path) -> None:
    """A configured file that is missing is an error: a new key would be another identity."""
    path = tmp_path / "key"
    told = refusal(settings(tmp_path, WIREGUARD_PRIVATE_KEY_FILE=str(path)))
    assert f"WIREGUARD_PRIVATE_KEY_FILE names no file ({path}: not found)" in told
    assert not path.exists()


@pytest.mark.parametrize("lead", ["", "/"])
def test_key_in_place_of_its_path(tmp_path: Path, lead: str) -> None:
    """A key that was put where its file's path belongs is not quoted."""
    text = lead + KEY.reveal()[len(lead) :]
    assert text not in refusal(settings(tmp_path, WIREGUARD_PRIVATE_KEY_FILE=text))


def test_unusable_paths(tmp_path: Path) -> None:
    """A directory, a path below a file and a path with NUL are errors of the user."""
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir(0o700)
    for path in ("directory", "file/key", "a\0b"):
        told = refusal(settings(tmp_path, WIREGUARD_PRIVATE_KEY_FILE=str(tmp_path / path)))
        assert "WIREGUARD_PRIVATE_KEY_FILE cannot be read" in told


def test_state_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """A state directory that cannot be written is a fact of the host, said in one sentence."""
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match=r"wireguard\.key cannot be written"):
        write_key_file(tmp_path / "file" / "wireguard.key", KEY)


def test_a_key_is_never_overwritten_by_accident(tmp_path: Path) -> None:
    """Writing where a key stands is refused, unless it was asked for; nothing is left behind."""
    path, other = tmp_path / "wireguard.key", PrivateKey.generate()
    write_key_file(path, KEY)
    with pytest.raises(HostError, match="File exists"):
        write_key_file(path, other)
    assert path.read_text() == KEY.reveal() + "\n"
    path.chmod(0o644)
    write_key_file(path, other, overwrite=True)
    assert (path.read_text(), mode(path)) == (other.reveal() + "\n", 0o600)
    assert [p.name for p in tmp_path.iterdir()] == ["wireguard.key"]


def test_umask_is_nothing(tmp_path: Path) -> None:
    """The key is for its owner alone, however loose or strict the process's umask is."""
    before = os.umask(0)
    try:
        for number, mask in enumerate((0, 0o777)):
            os.umask(mask)
            write_key_file(tmp_path / f"key{number}", KEY)
    finally:
        os.umask(before)
    assert [mode(p) for p in tmp_path.iterdir()] == [0o600, 0o600]
