"""`scripts/lab`: exit codes, signals and descriptors pass through it, and nothing outlives it.

These tests start worlds of their own, and so run outside of a lab as well as in one.
"""

import asyncio
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.chain import REPOSITORY
from lab.fixtures import need

LAB = str(REPOSITORY / "scripts/lab")
WAIT = 30.0


@pytest.fixture(autouse=True)
def possible() -> None:
    """Skip with the sentence that `scripts/lab` itself says where it is refused."""
    tried = subprocess.run([LAB, "true"], capture_output=True, text=True, check=False)
    need(tried.returncode == 0, tried.stderr.strip())


def lab(*command: str, **options: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [LAB, *command], capture_output=True, text=True, check=False, timeout=WAIT, **options
    )


def wait_until(look: Callable[[], bool], what: str) -> None:
    """The plain twin of `until`."""
    deadline = time.monotonic() + WAIT
    while not look():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("true",), 0),
        (("sh", "-c", "exit 7"), 7),
        (("sh", "-c", "kill -9 $$"), 137),
        (("no-such-command",), 127),
        (("/etc/passwd",), 126),
        ((), 2),
    ],
)
def test_the_exit_code_comes_back(command: tuple[str, ...], code: int) -> None:
    """The exit code is the command's own, or what a shell would make of its end."""
    assert lab(*command).returncode == code


def test_a_world_is_empty() -> None:
    """A world has only lo, which is up, an empty /run with the usual directories, and itself."""
    links = lab("ip", "-br", "link").stdout.splitlines()
    assert [link.split()[:2] for link in links] == [["lo", "UNKNOWN"]]
    assert lab("ls", "/run").stdout.split() == ["lab", "netns", "tmp", "wireguard"]
    processes = lab("ps", "-ww", "-A", "-o", "args=").stdout.splitlines()
    assert len(processes) == 2
    assert "world.py" in processes[0]
    assert processes[1] == "ps -ww -A -o args="


def test_standard_streams_and_other_descriptors_pass_through() -> None:
    """What is open outside is open inside, under the same number."""
    reader, writer = os.pipe()
    script = f"import os; print(input()); os.write({writer}, b'through\\n')"
    world = lab(sys.executable, "-c", script, input="in\n", pass_fds=(writer,))
    os.close(writer)
    with os.fdopen(reader) as pipe:
        assert pipe.read() == "through\n"
    assert world.stdout == "in\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_reach_the_command(number: signal.Signals) -> None:
    """A signal that is sent to `scripts/lab` is the command's to handle, once."""
    script = (
        "import signal, sys, time\n"
        "got = []\n"
        f"signal.signal({int(number)}, lambda *_: got.append(1))\n"
        "print('up', flush=True)\n"
        "while not got: time.sleep(0.01)\n"
        "print(len(got), flush=True)\n"
        "sys.exit(9)\n"
    )
    world = subprocess.Popen([LAB, sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with world:
        assert world.stdout is not None
        assert world.stdout.readline() == "up\n"
        world.send_signal(number)
        assert world.stdout.read() == "1\n"
        assert world.wait(WAIT) == 9


def test_ctrl_c_reaches_the_command_once() -> None:
    """Ctrl-C on a terminal, which goes to the whole process group, is not passed on again."""
    script = (
        "import signal, time\n"
        "got = []\n"
        "signal.signal(signal.SIGINT, lambda *_: got.append(1))\n"
        "print('up', flush=True)\n"
        "while not got: time.sleep(0.01)\n"
        # A signal that is passed on would come a little later.
        "time.sleep(0.3)\n"
        "print('times:', len(got))\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(LAB, [LAB, sys.executable, "-c", script])
    shown = ""
    sent = False
    while True:
        try:
            shown += os.read(terminal, 1024).decode()
        except OSError:  # EIO: the last process has closed the terminal
            break
        if "up" in shown and not sent:
            os.write(terminal, b"\x03")
            sent = True
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert "times: 1" in shown


@pytest.mark.parametrize("victim", ["outer process", "process 1", "command"])
def test_a_killed_world_leaves_nothing(victim: str, tmp_path: Path) -> None:
    """However a world is killed, no process and no interface of it is left, daemons included."""
    before = set(Path("/sys/class/net").iterdir())
    marker = f"{time.monotonic_ns() % 10**9 + 10**9}"
    script = (
        f"ip link add left type bridge; (setsid sleep {marker} &); unshare -n sleep {marker} & "
        f"echo up; sleep {marker}"
    )
    world = subprocess.Popen([LAB, "sh", "-c", script], stdout=subprocess.PIPE, text=True)
    with world:
        assert world.stdout is not None
        assert world.stdout.readline() == "up\n"
        wait_until(lambda: len(running_with(marker, "sleep")) == 3, "three sleeps")
        process_1 = children(world.pid)[0]
        pid = {"outer process": world.pid, "process 1": process_1}.get(victim)
        os.kill(pid or children(process_1)[0], signal.SIGKILL)
        world.wait(WAIT)
    wait_until(lambda: not running_with(marker), "no process of the world is left")
    assert set(Path("/sys/class/net").iterdir()) == before


async def test_parallel_worlds_do_not_collide() -> None:
    """Worlds at the same time have the same names and addresses, and do not notice each other."""
    script = (
        "ip link add sw0 type bridge && ip addr add 10.99.0.1/24 dev sw0 && ip link set sw0 up && "
        "echo mine > /run/lab/file && ping -c1 -W5 10.99.0.1 >/dev/null && ls /run/lab"
    )

    async def world() -> tuple[int, bytes]:
        process = await asyncio.create_subprocess_exec(
            LAB, "sh", "-c", script, stdout=subprocess.PIPE
        )
        out, _ = await process.communicate()
        return await process.wait(), out

    assert await asyncio.gather(*(world() for _ in range(4))) == [(0, b"file\n")] * 4


def test_a_world_in_a_world() -> None:
    """Worlds nest, so the tests of the lab run in a lab."""
    assert lab(LAB, "sh", "-c", "ip -br link | wc -l").stdout == "1\n"


@pytest.mark.parametrize("who", ["as we are", "nobody", "root of a container"])
def test_anybody_gets_a_whole_lab(who: str, tmp_path: Path) -> None:
    """Root, a plain user and a container's root get hosts, a chain and a tunnel that works."""
    smoke = f"{LAB} {sys.executable} -m lab.smoke"
    if who == "as we are":
        script = f"exec {smoke}"
    else:
        if not all_ids_are_real():
            pytest.skip("we are a plain user already, whom the first case is about")
        become = {
            "nobody": "--reuid 65534 --regid 65534 --clear-groups",
            "root of a container": "--bounding-set -sys_admin,-net_admin",
        }[who]
        script = f"{open_to_all(tmp_path)} && exec setpriv {become} {smoke}"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "tests"), "HOME": "/nonexistent"}
    command = (
        ["sh", "-c", script] if who == "as we are" else ["unshare", "--mount", "sh", "-c", script]
    )
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env=environment
    )
    assert (done.returncode, done.stdout) == (0, "0 lost\n"), done.stderr


@pytest.mark.parametrize("missing", ["/dev/net/tun", "namespaces"])
def test_a_refusal_is_one_sentence(missing: str) -> None:
    """Where the machine does not allow a lab, one sentence says what it takes; exit code 2."""
    script = {
        "/dev/net/tun": f"mount -t tmpfs none /dev/net && {LAB} true",
        # No user namespace may be made below the one in which this limit is 0.
        "namespaces": (
            "echo 0 > /proc/sys/user/max_user_namespaces && "
            f"exec setpriv --bounding-set -sys_admin --inh-caps -sys_admin {LAB} true"
        ),
    }[missing]
    unshare = ["unshare", "--mount", "--user", "--map-root-user"]
    done = subprocess.run(
        [*unshare, "sh", "-c", script], capture_output=True, text=True, check=False, timeout=WAIT
    )
    assert done.returncode == 2
    assert missing in done.stderr
    assert done.stderr.count("\n") == 1


def all_ids_are_real() -> bool:
    """Whether we are root with a nobody to become: not in a plain user's user namespace."""
    ids = sum(int(line.split()[2]) for line in Path("/proc/self/uid_map").read_text().splitlines())
    return os.geteuid() == 0 and ids > 65534


def open_to_all(scratch: Path) -> str:
    """Shell words that give everybody, in this mount namespace, what here may be root's alone.

    That is /dev/net/tun (as it is for all on most machines) and directories above Python and the
    repository, such as /root. Their modes change in an overlay only.
    """
    device = scratch / "tun"
    os.mknod(device, 0o020666, os.makedev(10, 200))
    device.chmod(0o666)
    words = [f"mount --bind {device} /dev/net/tun"]
    needed = (Path(sys.base_prefix), Path(sys.prefix), REPOSITORY)
    parents = {parent for path in needed for parent in path.parents}
    for number, closed in enumerate(sorted(p for p in parents if not p.stat().st_mode & 0o001)):
        layer = scratch / f"layer-{number}"
        layer.mkdir()
        layers = f"lowerdir={closed},upperdir={layer}/upper,workdir={layer}/work"
        words += [
            f"mount -t tmpfs none {layer}",
            f"mkdir {layer}/upper {layer}/work",
            f"mount -t overlay none {closed} -o {layers}",
            f"chmod a+rx {closed}",
        ]
    return " && ".join(words)


def children(pid: int) -> list[int]:
    """The child processes of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def running_with(word: str, command: str = "") -> list[int]:
    """Processes that have this word on their command line."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                words = (path / "cmdline").read_bytes().decode().split("\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if word in words and words[0].startswith(command):
                found.append(int(path.name))
    return found
