"""`scripts/vm`: a command runs under another kernel, and only what was asked for is left of it."""

import subprocess
from pathlib import Path

import pytest

from lab.chain import REPOSITORY
from lab.fixtures import need, need_lab
from lab.vm import IN_VAIN, REFUSED, TOO_LATE, accelerator, missing
from lab.vmboot import Entry, cpio, depends, in_order

VM = str(REPOSITORY / "scripts/vm")


def vm(*words: str) -> "subprocess.CompletedProcess[str]":
    need_lab()
    lacking = missing()
    need(lacking is None, str(lacking))
    return subprocess.run([VM, *words], capture_output=True, text=True, check=False, timeout=120)


def test_a_command_has_our_files_and_a_kernel_with_wireguard(tmp_path: Path) -> None:
    """It sees this directory, gives back its exit code, and keeps what it writes to one place."""
    (tmp_path / "kept").mkdir()
    script = """
    ip link add wg0 type wireguard && ip -d link show wg0
    cat pyproject.toml | head -n 1
    echo here >"$1/kept/file"; echo nowhere >"$1/file"
    exit 7
    """
    ended = vm("--keep", str(tmp_path / "kept"), "sh", "-c", script, "sh", str(tmp_path))
    assert ended.returncode == 7, ended
    assert "wireguard" in ended.stdout
    assert ended.stdout.endswith((REPOSITORY / "pyproject.toml").read_text().splitlines()[0] + "\n")
    assert (tmp_path / "kept/file").read_text() == "here\n"
    assert not (tmp_path / "file").exists()


def test_a_kernel_that_dies_is_told_from_a_command_that_fails() -> None:
    """A panic ends the machine with an exit code of its own and the kernel's last words."""
    ended = vm("sh", "-c", "echo c >/proc/sysrq-trigger")
    assert ended.returncode == IN_VAIN
    assert "Kernel panic" in ended.stderr


def test_the_limit_holds_even_while_it_boots() -> None:
    """Nothing of the machine is waited for any longer."""
    ended = vm("--within", "0.5", "true")
    assert (ended.returncode, ended.stderr) == (TOO_LATE, "\nscripts/vm: not done within 0.5 s\n")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "CMD is missing"),
        (("--keep", "/nowhere", "true"), "--keep /nowhere is not a directory"),
        (("--within", "soon", "true"), "argument --within: invalid float value: 'soon'"),
    ],
)
def test_a_wrong_command_line_boots_nothing(words: tuple[str, ...], complaint: str) -> None:
    """One sentence says what is wrong with it."""
    ended = vm(*words)
    assert ended.returncode == REFUSED
    assert ended.stderr.endswith(f"scripts/vm: error: {complaint}\n")


@pytest.mark.parametrize(
    ("flags", "kvm", "chosen"),
    [
        ("fpu vmx sse", True, "kvm"),
        ("fpu svm sse", True, "kvm"),
        ("fpu vmx sse", False, "tcg"),
        ("fpu vmmcall svm_lock", True, "tcg"),
    ],
)
def test_kvm_is_used_where_it_can_work(flags: str, kvm: bool, chosen: str) -> None:
    """A device file without the processor's support is not enough."""
    assert accelerator(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: vmx\n", kvm=kvm) == chosen


def test_modules_are_loaded_after_what_they_rest_on(tmp_path: Path) -> None:
    """Once each, in the kernel's spelling; what is built in needs no loading."""
    rests_on = {"wireguard": "udp_tunnel,lib-curve", "lib_curve": "", "udp_tunnel": "lib-curve"}
    modules = {name: tmp_path / f"{name}.ko" for name in rests_on}
    for name, others in rests_on.items():
        modules[name].write_bytes(b"ELF\0license=GPL\0depends=%s\0name=x\0" % others.encode())
    assert depends(modules["wireguard"].read_bytes()) == ["udp_tunnel", "lib_curve"]
    wanted = ["wireguard", "built_in", "udp_tunnel"]
    assert in_order(modules, wanted) == ["lib_curve", "udp_tunnel", "wireguard"]


def test_an_archive_is_as_the_kernel_documents_it() -> None:
    """Header of 110 characters, name and data each padded to four bytes."""
    fields = (1, 0o100755, 0, 0, 1, 0, 5, 0, 0, 0, 0, 3, 0)
    header = "070701" + "".join(f"{field:08x}" for field in fields)
    assert len(header) == 110
    archive = cpio([Entry("ab", 0o100755, b"12345")])
    body = b"ab\x00" + b"\x00" * 3 + b"12345" + b"\x00" * 3
    assert archive.startswith(header.encode() + body + b"070701")
    assert b"TRAILER!!!\0" in archive
    assert len(archive) % 4 == 0
