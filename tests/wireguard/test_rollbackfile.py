"""The wish for a rollback on disk: hostile until parsed, noticed, and gone when it is over."""

import json
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from dstack_vpn.mesh.rollback import InterfaceSettings, Rollback
from dstack_vpn.wireguard.rollbackfile import RollbackFile

CONFIGURED = InterfaceSettings(listen_port=51820, mtu=None)
WISH = Rollback(state=7, block=17, made_at=1, listen_port=51821, mtu=None, replaced=CONFIGURED)


@pytest.fixture
def file(tmp_path: Path) -> RollbackFile:
    """The file of a node that has none yet."""
    return RollbackFile(tmp_path / "rollback.json")


def test_what_is_saved_is_loaded(file: RollbackFile) -> None:
    """Whole, and for nobody else to read."""
    assert file.load() is None
    file.save(WISH)
    assert file.load() == WISH
    assert file.path.stat().st_mode & 0o777 == 0o600


def test_a_change_is_noticed_until_it_is_read(file: RollbackFile) -> None:
    """Another file, or none any more; what was read is nothing new."""
    assert not file.changed()
    other = RollbackFile(file.path)
    for there in (True, True, False):
        if there:
            other.save(WISH)
        else:
            other.remove()
        assert file.changed()
        file.load()
        assert not file.changed()


def test_in_force_is_told(file: RollbackFile) -> None:
    """The log says what is used instead of what was configured."""
    file.save(WISH)
    with capture_logs() as logs:
        found = file.in_force(CONFIGURED)
    assert found.settings == InterfaceSettings(listen_port=51821, mtu=None)
    assert [line["event"] for line in logs] == ["rollback.in_force"]
    assert file.path.exists()
    assert not file.changed()


def test_what_has_ended_is_gone_for_good(file: RollbackFile) -> None:
    """Nor is it in force again when somebody sets the old value."""
    file.save(WISH)
    new = InterfaceSettings(listen_port=51999, mtu=None)
    with capture_logs() as logs:
        assert file.in_force(new).settings == new
    assert [line["event"] for line in logs] == ["rollback.ended"]
    assert not file.path.exists()
    assert not file.changed()
    assert file.in_force(CONFIGURED).settings == CONFIGURED


def made(**fields: Any) -> bytes:
    """A file with some fields set otherwise."""
    good: dict[str, Any] = {
        "state": 7,
        "block": 17,
        "made_at": 1,
        "listen_port": 51821,
        "mtu": None,
        "replaced": {"listen_port": 51820, "mtu": None},
    }
    return json.dumps(good | fields).encode()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\x00",
        b"[]",
        b"null",
        b"{}",
        made(listen_port=0),
        made(listen_port=65_536),
        made(listen_port="51821"),
        made(mtu=1279),
        made(mtu=True),
        made(replaced=None),
        made(replaced={"listen_port": -1, "mtu": None}),
        made(state=-1),
        made(note="x" * 5000),
        b"[" * 4000,
    ],
)
def test_what_makes_no_sense_is_none(file: RollbackFile, text: bytes) -> None:
    """The settings stand, a warning says why, and a node starts all the same."""
    file.path.write_bytes(text)
    with capture_logs() as logs:
        assert file.in_force(CONFIGURED).settings == CONFIGURED
    assert [line["event"] for line in logs] == ["rollback.unreadable"]
    assert not file.changed()


def test_the_sample_makes_sense(file: RollbackFile) -> None:
    """What the test above spoils is good by itself."""
    file.path.write_bytes(made())
    assert file.load() == WISH


def test_a_directory_in_its_place(file: RollbackFile) -> None:
    """It is no wish."""
    file.path.mkdir()
    with capture_logs() as logs:
        assert file.load() is None
    assert [line["event"] for line in logs] == ["rollback.unreadable"]
