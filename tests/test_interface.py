"""What is in force of the local node while a rollback comes and goes."""

from dataclasses import replace
from pathlib import Path

from dstack_vpn.interface import Interface
from dstack_vpn.mesh.rollback import InterfaceSettings, Rollback
from dstack_vpn.wireguard.rollbackfile import RollbackFile
from mesh.build import local_node

CONFIGURED = InterfaceSettings(listen_port=51820, mtu=None)
WISH = Rollback(
    state=3, block=7, made_at=1, listen_port=51999, mtu=1300, replaced=CONFIGURED
)  # fmt: skip


def interface(path: Path, **values: bool) -> Interface:
    """Of a node whose network lets 1370 bytes through."""
    return Interface(local_node(), CONFIGURED, RollbackFile(path, **values), auto_mtu=1370)


def test_without_a_rollback_the_settings_stand(tmp_path: Path) -> None:
    """The MTU that is left open is the one that fits."""
    found = interface(tmp_path / "rollback.json")
    assert found.local == replace(local_node(), listen_port=51820, mtu=1370)
    assert found.refresh() is None


def test_a_rollback_comes_and_goes_while_the_node_runs(tmp_path: Path) -> None:
    """Each is told once, with the node as it is from then on."""
    file = RollbackFile(tmp_path / "rollback.json")
    found = interface(file.path)
    file.save(WISH)
    assert found.refresh() == replace(local_node(), listen_port=51999, mtu=1300)
    assert found.in_force.rollback == WISH
    assert found.refresh() is None
    file.remove()
    assert found.refresh() == replace(local_node(), listen_port=51820, mtu=1370)


def test_garbage_changes_nothing(tmp_path: Path) -> None:
    """A file that makes no sense leaves the settings in force."""
    found = interface(tmp_path / "rollback.json")
    (tmp_path / "rollback.json").write_text("{")
    assert found.refresh() is None
    assert found.local.listen_port == 51820


def test_a_dry_run_removes_nothing(tmp_path: Path) -> None:
    """A rollback that has ended stays where it is only read."""
    file = RollbackFile(tmp_path / "rollback.json")
    file.save(replace(WISH, replaced=InterfaceSettings(listen_port=1, mtu=None)))
    assert interface(file.path, read_only=True).in_force.rollback is None
    assert file.path.exists()
    assert interface(file.path).in_force.rollback is None
    assert not file.path.exists()
