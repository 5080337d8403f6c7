"""Earlier states of the configuration file: how one is kept when it is replaced, and for how long.

They lie in STATE_DIR/backups (0700), each a whole wg-quick file (0600), named by number, the time
at which it came into force, and its block. A state is kept by a second link to the file that is
about to be replaced, so that it costs no copy. Which states go is decided in `mesh.thinning`;
those that were kept by hand are not thinned, and only the newest `MOST_BY_HAND` of them stay.

Nothing reads peers back from here: a rollback takes the interface's settings and nothing else.
"""

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dstack_vpn.mesh.thinning import KeptState, surplus
from dstack_vpn.wireguard.conffile import write_private
from dstack_vpn.wireguard.conftext import Head, read_head

BACKUPS_DIRECTORY = "backups"
"""Its name in STATE_DIR."""
MOST_BYTES = 64 * 2**20
"""What all states that were kept by themselves may take on the disk."""
MOST_BY_HAND = 10
BREATH, PAUSE = 20, 0.0002
"""Parts of a text that are written in a row, and the seconds between two such rows."""

_NAME = re.compile(r"(\d{8,12})-(\d{8}T\d{6}Z)-(\d{1,16}|none)(-by-hand)?\.conf")
_TIME = "%Y%m%dT%H%M%SZ"
_LAST = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
_HEAD = 4096
"""Bytes at the front of a file that hold what stands before its first peer."""
_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK}


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """One state that was kept, by what its name says."""

    path: Path
    number: int
    time: int
    """Wall-clock seconds since 1970 at which it came into force."""
    block: int | None
    by_hand: bool
    size: int
    """Bytes."""
    inode: int


class Backups:
    """The earlier states of one node's configuration file."""

    def __init__(self, directory: Path, *, most: int = 0, most_bytes: int = MOST_BYTES) -> None:
        """Take where they are; nothing is read yet.

        Args:
            directory: made at the first state that is kept.
            most: how many are kept by themselves; 0 for none.
            most_bytes: how large those may be together.
        """
        self.directory = directory
        self._most = most
        self._most_bytes = most_bytes

    def states(self) -> tuple[Backup, ...]:
        """All states, the newest last; what is no state of ours is left out.

        Raises:
            OSError: the directory cannot be read.
        """
        found = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self.directory) as entries:
            for entry in entries:
                named = _NAME.fullmatch(entry.name)
                # A state may go while we look.
                with contextlib.suppress(FileNotFoundError):
                    if named and entry.is_file(follow_symlinks=False):
                        found.append(_backup(named, entry))
        return tuple(sorted(found, key=lambda state: (state.number, state.path.name)))

    def keep(self, file: Path) -> None:
        """Keep the state in a file that is about to be replaced, and let go what is too much.

        A state that is kept already is not kept twice.

        Raises:
            OSError: the disk does not take it; the file itself is untouched.
        """
        if self._most == 0 and not self.directory.exists():
            return
        descriptor = _open_own(file)
        if descriptor is None:
            return
        with contextlib.closing(os.fdopen(descriptor, "rb")) as opened, self._locked():
            found = os.fstat(opened.fileno())
            states = self.states()
            if self._most and found.st_ino not in {state.inode for state in states}:
                os.fchmod(opened.fileno(), 0o600)  # an operator's own file may be wider
                block = read_head(_text(opened.read(_HEAD))).block
                path = self.directory / _name(states, found.st_mtime, block)
                _link(file, path)
                states = self.states()
            self._thin([state for state in states if not state.by_hand])

    def keep_by_hand(self, file: Path, note: str) -> tuple[Backup, tuple[Backup, ...]]:
        """Keep the state in a file because somebody asked for it.

        Args:
            file: the configuration file.
            note: one line about it; empty for none.

        Returns:
            The new state, and those that made room for it.

        Raises:
            OSError: there is no such file, or the disk does not take it.
        """
        with self._locked():
            text = _text(file.read_bytes())
            states = self.states()
            name = _name(states, time.time(), read_head(text).block, by_hand=True)
            write_private(self.directory / name, (f"# note: {note}\n" if note else "", text))
            made = [state for state in self.states() if state.by_hand]
            gone = tuple(made[:-MOST_BY_HAND])
            for state in gone:
                state.path.unlink(missing_ok=True)
        return made[-1], gone

    def _thin(self, states: Iterable[Backup]) -> None:
        kept = {state.number: state for state in states}
        known = [
            KeptState(
                number=state.number,
                time=state.time,
                section=head_of(state.path).section,
                size=state.size,
            )
            for state in kept.values()
        ]
        gone = surplus(known, now=time.time(), most=self._most, most_bytes=self._most_bytes)
        for number in gone:
            kept[number].path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Have the directory for oneself: the agent and the command line both number states."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fchmod(descriptor, 0o700)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class ConfFile:
    """The configuration file of a node, whose earlier states are kept."""

    def __init__(self, path: Path, backups: Backups) -> None:
        """Take where both are; nothing is read yet."""
        self.path = path
        self._backups = backups

    def write(self, text: str | Iterable[str]) -> None:
        """Replace the text, as `write_private` does, and keep what was there.

        A text in parts is made and written with pauses, so that a loop in another thread is never
        kept waiting for the interpreter: of ten thousand peers that would be tenths of a second.

        Raises:
            OSError: the disk refused one of the two. The text is written also where what was there
                cannot be kept.
        """
        refused = self._keep()
        write_private(self.path, text if isinstance(text, str) else _with_pauses(text))
        if refused:
            raise refused

    def remove(self) -> None:
        """Take the file away after a wanted stop, and keep what was there.

        Raises:
            OSError: it cannot be taken away, or was not kept.
        """
        refused = self._keep()
        self.path.unlink(missing_ok=True)
        if refused:
            raise refused

    def _keep(self) -> OSError | None:
        try:
            self._backups.keep(self.path)
        except OSError as error:
            return error
        return None


def head_of(path: Path) -> Head:
    """What stands before the first peer of a configuration file; nothing where there is none.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return read_head(_text(file.read(_HEAD)))
    except FileNotFoundError:
        return Head()


def text_of(path: Path) -> str:
    """The text of a configuration file, whatever is in it.

    Raises:
        OSError: it cannot be read.
    """
    return _text(path.read_bytes())


def _backup(named: re.Match[str], entry: os.DirEntry[str]) -> Backup:
    found = entry.stat(follow_symlinks=False)
    try:
        moment = datetime.strptime(named[2], _TIME).replace(tzinfo=UTC).timestamp()
    except ValueError:
        moment = 0.0  # 99 is no month
    return Backup(
        path=Path(entry.path),
        number=int(named[1]),
        time=int(moment),
        block=None if named[3] == "none" else int(named[3]),
        by_hand=bool(named[4]),
        size=found.st_size,
        inode=found.st_ino,
    )


def _name(
    states: tuple[Backup, ...], moment: float, block: int | None, *, by_hand: bool = False
) -> str:
    number = max((state.number for state in states), default=0) + 1
    when = datetime.fromtimestamp(min(max(moment, 0), _LAST), UTC).strftime(_TIME)
    tail = "-by-hand" if by_hand else ""
    return f"{number:08d}-{when}-{'none' if block is None else block}{tail}.conf"


def _open_own(file: Path) -> int | None:
    """Open a plain file; None where there is none, and for a link, which leads who knows where."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return descriptor


def _link(file: Path, path: Path) -> None:
    """Give a file a second name; where the file system cannot, a copy has to do."""
    try:
        os.link(file, path, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        write_private(path, text_of(file))


def _with_pauses(parts: Iterable[str]) -> Iterator[str]:
    for number, part in enumerate(parts, 1):
        yield part
        if number % BREATH == 0:
            time.sleep(PAUSE)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
