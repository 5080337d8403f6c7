"""A private world for one command: `scripts/lab CMD [ARG...]`.

The command gets network, mount and PID namespaces of its own (and a user namespace when we are not
root), with lo up and a fresh tmpfs on /run. Nothing it makes can be seen from outside or outlives
it: interfaces, bridges and nft tables go with the network namespace, files below /run with the
mount namespace, and every process with the PID namespace, however the command or we ourselves end.
So there is no clean-up code that a SIGKILL could skip.

Three processes: we (outside, passing signals in and the exit code out), the world's process 1
(mounts, passes signals on, buries orphans) and the command. Signals and exit codes take the path
that they would take without us; open file descriptors are inherited, which is how a listening
socket of the outside gets in (see publish.py). Standard library only, and no import of the package,
because this runs before anything is installed.
"""

import ctypes
import errno
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

#: In a world this directory exists; everything that a lab keeps on disk is below it.
LAB_DIR = Path("/run/lab")
TEMPORARY = "/run/tmp"
TUN = "/dev/net/tun"

REFUSED = 2
CANNOT_RUN, NOT_FOUND = 126, 127  # as a shell says it

# <linux/sched.h>, <sys/mount.h>, <linux/prctl.h>
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 0x1000, 0x4000, 0x40000
PR_SET_PDEATHSIG = 1

PASSED_ON = frozenset(
    {
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGWINCH,
    }
)

libc = ctypes.CDLL(None, use_errno=True)


class RefusedError(Exception):
    """The machine does not allow a world; the text is the sentence for the user."""


def check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    check(libc.mount(source.encode(), target.encode(), kind.encode(), flags, data.encode()))


def leave_namespaces() -> None:
    """Leave the namespaces that we share with everybody; as plain user through a user namespace."""
    flags = CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWPID
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0 and libc.unshare(flags) == 0:
        return
    # Root without CAP_SYS_ADMIN (a plain container) may still have user namespaces.
    check(libc.unshare(flags | CLONE_NEWUSER))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    # We are called root now; what the real one left in /tmp under that name is not ours to use.
    os.environ.setdefault("TMPDIR", TEMPORARY)


def furnish() -> None:
    """Give the world its own /proc and /run, and its loopback."""
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    for directory in (str(LAB_DIR), "/run/wireguard", "/run/netns", TEMPORARY):
        Path(directory).mkdir()
    if os.path.realpath("/var/run") != "/run":  # where wireguard-go and wg look
        mount("/run", "/var/run", flags=MS_BIND | MS_REC)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def check_tun() -> None:
    try:
        os.close(os.open(TUN, os.O_RDWR))
    except OSError as error:
        raise RefusedError(
            f"scripts/lab cannot open {TUN} ({error.strerror}), which userspace WireGuard needs: "
            f"run it as root, or allow the device to this user or container"
        ) from error


def relay(child: int) -> int:
    """Pass signals to the child and bury whatever ends, until the child has; return its exit code.

    A signal that the kernel made (si_code > 0: Ctrl-C on the terminal, a hang-up) has gone to the
    whole process group, the child included, and is not passed on a second time.
    """
    while True:
        info = signal.sigwaitinfo(PASSED_ON | {signal.SIGCHLD})
        if info.si_signo != signal.SIGCHLD:
            if info.si_code <= 0:
                os.kill(child, info.si_signo)
            continue
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code


def run(command: Sequence[str], mask: set[signal.Signals]) -> NoReturn:
    """Become the command, with the signals as we found them."""
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for changed_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(changed_by_python, signal.SIG_DFL)
    try:
        os.execvp(command[0], list(command))
    except OSError as error:
        print(f"scripts/lab: {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(NOT_FOUND if error.errno == errno.ENOENT else CANNOT_RUN)


def be_process_1(command: Sequence[str], parent_alive: int, mask: set[signal.Signals]) -> int:
    """Live and die as the world's process 1: when it ends the kernel kills all the others."""
    check(libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0))
    if select.select([parent_alive], [], [], 0)[0]:
        return REFUSED  # the parent was killed before the line above; nobody is left to tell
    try:
        furnish()
    except (OSError, subprocess.CalledProcessError) as error:
        print(no_namespaces(error), file=sys.stderr, flush=True)
        return REFUSED
    child = os.fork()
    if child == 0:
        run(command, mask)
    return relay(child)


def no_namespaces(error: Exception) -> str:
    return (
        f"scripts/lab could not make its private namespaces ({error}): it needs root, or "
        "unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, "
        "user.max_user_namespaces > 0, kernel.apparmor_restrict_unprivileged_userns=0)"
    )


def main(command: Sequence[str]) -> int:
    if not command:
        print("usage: scripts/lab CMD [ARG...]", file=sys.stderr)
        return REFUSED
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON | {signal.SIGCHLD})
    try:
        check_tun()
        leave_namespaces()
    except RefusedError as error:
        print(error, file=sys.stderr)
        return REFUSED
    except OSError as error:
        print(no_namespaces(error), file=sys.stderr)
        return REFUSED
    alive, held = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(held)
        code = REFUSED
        try:
            code = be_process_1(command, alive, {signal.Signals(number) for number in mask})
        finally:
            os._exit(code)
    return relay(child)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
