"""The lease: its text, when it is worth being written again, and its file."""

import errno
import fcntl
import os
import string
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.wireguard import lease as leases
from dstack_vpn.wireguard.lease import (
    LEAST,
    NOBODY,
    PART,
    SIZE,
    SLACK,
    Guard,
    KernelTarget,
    Lease,
    UserspaceTarget,
    is_due,
    parse,
    render,
)
from wireguard.samples import patient

BOOT = "11111111-2222-3333-4444-555555555555"
DEVICE = UserspaceTarget("wg0", "/run/wg0.sock", 7, 99)
LEASE = Lease(DEVICE, 1000.5, Guard(12, 3456))

numbers = st.integers(0, 2**40)
names = st.text(string.ascii_letters + string.digits + "=_.-/", min_size=1, max_size=60)
targets = st.one_of(
    st.builds(KernelTarget, names, numbers),
    st.builds(UserspaceTarget, names, names, numbers, numbers),
)
moments = st.integers(0, 10**12).map(lambda ms: ms / 1000)


def test_the_text() -> None:
    """Lines of key and value, as UAPI has them, and nothing secret."""
    text = render(LEASE, BOOT)
    assert len(text) == SIZE
    assert text.rstrip(b"\n").decode().split("\n") == [
        f"boot={BOOT}",
        "until=1000.500",
        "guard=12",
        "guard_started=3456",
        "kind=userspace",
        "name=wg0",
        "socket=/run/wg0.sock",
        "pid=7",
        "started=99",
    ]


@patient
@given(targets, moments, numbers, numbers)
def test_what_was_written_is_read(
    target: leases.Target, until: float, pid: int, started: int
) -> None:
    """Each lease comes back as it was, and from another boot not at all."""
    lease = Lease(target, until, Guard(pid, started))
    text = render(lease, BOOT)
    assert len(text) == SIZE
    assert parse(text, BOOT) == lease
    assert parse(text, "another boot") is None


def test_a_key_of_a_later_version_is_passed_over() -> None:
    """An old guard must not cut off a node whose agent was upgraded."""
    text = b"why=because\n" + render(LEASE, BOOT)
    assert parse(text.rstrip(b"\n").ljust(SIZE, b"\n"), BOOT) == LEASE


@patient
@given(st.binary(max_size=SIZE + 1))
def test_garbage_is_no_lease(data: bytes) -> None:
    """Whatever is in the file, reading it raises nothing."""
    assert parse(data, BOOT) is None


@patient
@given(st.integers(0, SIZE - 1), st.integers(0, 255))
def test_a_damaged_lease_is_none_or_another(place: int, byte: int) -> None:
    """One wrong byte gives no lease or one with another value, and no error."""
    text = bytearray(render(LEASE, BOOT))
    text[place] = byte
    found = parse(bytes(text), BOOT)
    assert found is None or 0 <= found.until < float("inf")


@pytest.mark.parametrize("until", ["nan", "inf", "-1", "1e999", "soon", ""])
def test_a_lease_without_end_is_none(until: str) -> None:
    """No text stands for a lease that never runs out."""
    text = render(LEASE, BOOT).replace(b"until=1000.500", f"until={until}".encode())
    assert parse(text.rstrip(b"\n").ljust(SIZE, b"\n"), BOOT) is None


@pytest.mark.parametrize("path", ["/run/a\nuntil=9", "/run/" + "a" * SIZE])
def test_names_that_do_not_fit(path: str) -> None:
    """Nothing that is written could be read as something else."""
    with pytest.raises(ValueError, match="does not take these names"):
        render(LEASE._replace(target=DEVICE._replace(socket=path)), BOOT)


# -- when it is due


@patient
@given(moments, moments, moments, moments)
def test_an_earlier_end_is_due_at_once(
    held: float, earlier: float, now: float, written: float
) -> None:
    """Whoever is to be closed out sooner is, however often that is written."""
    if held - earlier > SLACK:
        assert is_due(held, earlier, now=now, written=written)


def test_the_same_end_is_never_due() -> None:
    """In the dark the end stays where it is, and two clocks that were read one after the other."""
    assert not is_due(5000.0, 5000.0, now=9e9, written=0.0)
    assert not is_due(5000.0, 5000.0 + SLACK / 2, now=9e9, written=0.0)
    assert not is_due(5000.0, 5000.0 - SLACK / 2, now=9e9, written=0.0)


@pytest.mark.parametrize("period", [0.5, 1.0, 2.0, 60.0, 86400.0, 31536000.0])
def test_a_living_agent_writes_seldom_and_is_never_far_behind(period: float) -> None:
    """A head every two seconds, or four in a short lease's time: no lease is much shorter.

    It is written once in a hundredth of its time, or in a second, or in half of a short one.
    """
    now, writes, shortest = 0.0, 0, period
    held, written = period, 0.0
    span = max(min(LEAST, period / 2), PART * period)
    step = min(2.0, period / 4)
    while now < 5 * span:
        now += step
        if is_due(held, now + period, now=now, written=written):
            held, written, writes = now + period, now, writes + 1
        shortest = min(shortest, held - now)
    assert writes <= 5 * span / max(span, step) + 1
    assert shortest >= period - span - step > 0.0


# -- the file


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where the lease is."""
    return str(tmp_path / "wg0.lease")


def put(path: str, lease: Lease) -> None:
    """Write a lease as the agent does."""
    with leases.opened(path, create=True) as file:
        leases.write(file, lease)


def test_the_file_is_private_and_keeps_its_place(path: str) -> None:
    """0600, and rewritten in place: the same file and the same size."""
    put(path, LEASE)
    before = os.stat(path)  # noqa: PTH116
    assert before.st_mode & 0o777 == 0o600
    put(path, LEASE._replace(until=7.0, target=KernelTarget("wg0", 3)))
    after = os.stat(path)  # noqa: PTH116
    assert (after.st_ino, after.st_size) == (before.st_ino, SIZE)
    assert leases.peek(path) == Lease(KernelTarget("wg0", 3), 7.0, LEASE.guard)


def test_what_is_not_there(path: str) -> None:
    """No lease is none; whoever may not make one is told so."""
    assert leases.peek(path) is None
    with pytest.raises(FileNotFoundError), leases.opened(path):
        pass


def test_a_link_is_not_followed(path: str, tmp_path: Path) -> None:
    """A lease is written into no file that it leads to."""
    target = tmp_path / "other"
    target.write_text("mine")
    Path(path).symlink_to(target)
    with pytest.raises(OSError, match="symbolic") as refused, leases.opened(path, create=True):
        pass
    assert refused.value.errno == errno.ELOOP
    assert leases.peek(path) is None
    assert target.read_text() == "mine"


def test_one_side_at_a_time(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who holds it is waited for, and for no longer than patience lasts."""
    put(path, LEASE)
    monkeypatch.setattr(leases, "PATIENCE", 0.05)
    with Path(path).open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        before = time.monotonic()
        with pytest.raises(TimeoutError), leases.opened(path):
            pass
        assert time.monotonic() - before >= leases.PATIENCE
        fcntl.flock(other, fcntl.LOCK_UN)
        with leases.opened(path) as file:
            assert leases.read(file) == LEASE


def test_a_longer_file_is_no_lease(path: str) -> None:
    """What was appended to is not what we wrote."""
    put(path, LEASE)
    with Path(path).open("ab") as file:
        file.write(b"\n")
    assert leases.peek(path) is None


def test_suspension_counts() -> None:
    """Its clock is the one that goes on in a suspended machine, and that nobody sets."""
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= leases.boottime() <= time.clock_gettime(time.CLOCK_BOOTTIME)
    assert leases.boot() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_nobody_is_no_process() -> None:
    """The name of no guard cannot be the one of a process."""
    assert NOBODY == (0, 0)
