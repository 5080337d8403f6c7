"""A virtual machine for one command, with a Linux kernel that has WireGuard: `scripts/vm CMD...`.

    scripts/vm-kernel                            once: Debian's kernel and busybox, to .stamps/vm
    scripts/vm uname -r                          a command; its exit code is ours
    scripts/vm bash                              a shell, when run from a terminal
    scripts/vm scripts/lab .venv/bin/python -m pytest -q tests/wireguard/test_live.py -k kernel
    scripts/vm --keep DIR --within 600 CMD...    DIR is the real one; a limit in seconds

The machine sees the files of this one, with a layer in memory over them: whatever it writes is gone
with it, except in DIR. It has no network and one processor (two emulated ones take longer), and
what it prints comes through a serial port, both streams as one. The command starts in the same
directory, with PATH, HOME, LANG and CI.

Needs QEMU and virtiofsd (Debian 12: qemu-system-x86) on an x86-64 machine, and no more rights than
`scripts/lab` has. Where the processor offers us virtualisation, KVM is used. Elsewhere Python takes
some 15 times as long as outside, and the machine boots in 3 s.

QEMU and virtiofsd die with us. Standard library only, as the lab itself.
"""

import argparse
import os
import platform
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.vmboot import MODULES, initramfs, modules_below

KERNEL_DIR = Path(__file__).resolve().parents[2] / ".stamps/vm"
"""Where scripts/vm-kernel unpacks its packages."""

QEMU = "qemu-system-x86_64"
VIRTIOFSD = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")
DYING_WITH_US = ("setpriv", "--pdeathsig", "KILL")

MEMORY = "1024M"
LIMIT = 600
"""Seconds for all of it, unless told."""

# Names in the directory that a run has for itself.
INITRD, SOCKET, START, CODE = "initrd", "files", "start", "code"
KERNEL_LOG, FILES_LOG = "kernel.log", "virtiofsd.log"

REFUSED, IN_VAIN, TOO_LATE = 2, 125, 124  # the latter two as `timeout` says it


def missing() -> str | None:
    """Say in a sentence what this machine lacks, and how to get it; None where nothing."""
    if platform.machine() != "x86_64":
        return f"virtual machines need an x86-64 processor, and this one is {platform.machine()}"
    if shutil.which(QEMU) is None or not any(map(os.path.exists, VIRTIOFSD)):
        return f"{QEMU} and virtiofsd are not both installed (Debian 12: qemu-system-x86)"
    if not KERNEL_DIR.is_dir():
        return f"there is no kernel in {KERNEL_DIR}: run scripts/vm-kernel"
    return None


def accelerator(cpuinfo: str, *, kvm: bool) -> str:
    """Choose how the processor is imitated.

    Args:
        cpuinfo: the text of /proc/cpuinfo. A guest may have /dev/kvm without the processor's
            support, and QEMU would begin and hang.
        kvm: whether /dev/kvm can be opened.
    """
    flags = {
        flag for line in cpuinfo.splitlines() if line.startswith("flags") for flag in line.split()
    }
    return "kvm" if kvm and flags & {"vmx", "svm"} else "tcg"


def qemu(kernel: Path, exchange: Path, speed: str) -> list[str]:
    """The command line: a plain PC that has nothing but two serial ports and the host's files."""
    return [
        QEMU, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
        "-machine", "q35", "-accel", speed, "-cpu", "max" if speed == "tcg" else "host",
        "-m", MEMORY, "-numa", "node,memdev=memory",
        "-object", f"memory-backend-memfd,id=memory,size={MEMORY},share=on",
        "-chardev", f"socket,id=files,path={exchange / SOCKET}",
        "-device", "vhost-user-fs-pci,chardev=files,tag=host",
        "-serial", f"file:{exchange / KERNEL_LOG}",
        "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
        "-kernel", str(kernel), "-initrd", str(exchange / INITRD),
        "-append", "console=ttyS0 quiet panic=-1 mitigations=off",
    ]  # fmt: skip


def start_script(command: Sequence[str], here: Path, exchange: Path) -> str:
    """What process 1 of the machine does; at its end a reset, for which QEMU ends."""
    names = ("PATH", "HOME", "LANG", "CI")
    values = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    words = shlex.join(["env", "-i", *values, "setsid", "-c", "-w", *command])
    return f"""stty -onlcr
ip link set lo up
cd {shlex.quote(str(here))} && {words}
echo $? >{shlex.quote(str(exchange / CODE))}
echo b >/proc/sysrq-trigger
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine, before it is started."""

    exchange: Path  #: a directory of ours that the machine shares
    keep: Path | None  #: the user's

    def prepare(self, command: Sequence[str]) -> list[str]:
        """Write what it boots, and return the command line of QEMU."""
        shared = [str(path) for path in (self.exchange, self.keep) if path]
        busybox = (KERNEL_DIR / "bin/busybox").read_bytes()
        modules = modules_below(KERNEL_DIR / "lib/modules")
        (self.exchange / INITRD).write_bytes(initramfs(busybox, modules, shared, MODULES))
        (self.exchange / START).write_text(start_script(command, Path.cwd(), self.exchange))
        (kernel,) = (KERNEL_DIR / "boot").glob("vmlinuz-*")
        kvm = os.access("/dev/kvm", os.R_OK | os.W_OK)
        speed = accelerator(Path("/proc/cpuinfo").read_text(), kvm=kvm)
        return qemu(kernel, self.exchange, speed)

    def run(self, command: Sequence[str], limit: float) -> int:
        """Boot, run the command, and return its exit code or what happened instead."""
        words = self.prepare(command)
        virtiofsd = next(filter(os.path.exists, VIRTIOFSD))
        with (
            socket.socket(socket.AF_UNIX) as listening,
            (self.exchange / FILES_LOG).open("wb") as log,
        ):
            listening.bind(str(self.exchange / SOCKET))
            listening.listen(1)
            # It serves one connection and ends with it. Its usual sandbox would be a mount
            # namespace, which cannot have the host's root for its own.
            served = subprocess.Popen(
                [
                    *DYING_WITH_US, virtiofsd, f"--fd={listening.fileno()}",
                    "-o", "source=/", "-o", "sandbox=chroot", "-o", "cache=always",
                ],
                pass_fds=(listening.fileno(),), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            subprocess.run([*DYING_WITH_US, *words], timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            print(f"\nscripts/vm: not done within {limit:g} s", file=sys.stderr)
            return TOO_LATE
        finally:
            served.kill()
            served.wait()
        try:
            return int((self.exchange / CODE).read_text())
        except FileNotFoundError:
            print("scripts/vm: the machine ended before the command", file=sys.stderr)
            for name in (KERNEL_LOG, FILES_LOG):
                print((self.exchange / name).read_text(errors="replace"), file=sys.stderr)
            return IN_VAIN


def main(arguments: Sequence[str]) -> int:
    """Run the command of the command line in a machine."""
    parser = argparse.ArgumentParser(prog="scripts/vm", allow_abbrev=False)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="what is written there stays")
    parser.add_argument("--within", type=float, default=LIMIT, metavar="SECONDS")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="CMD ...")
    chosen = parser.parse_args(arguments)
    if not chosen.command:
        parser.error("CMD is missing")
    if chosen.keep and not chosen.keep.is_dir():
        parser.error(f"--keep {chosen.keep} is not a directory")
    if lacking := missing():
        print(f"scripts/vm: {lacking}", file=sys.stderr)
        return REFUSED
    with tempfile.TemporaryDirectory(prefix="vm-") as directory:
        machine = Machine(Path(directory), chosen.keep.resolve() if chosen.keep else None)
        return machine.run(chosen.command, chosen.within)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
