"""The wish for a rollback, on disk: the command line leaves it there, and the agent looks for it.

One small file of JSON in STATE_DIR, hostile until parsed. What it means is decided in
`mesh.rollback`.
"""

from pathlib import Path

import msgspec
import structlog

from dstack_vpn.mesh.rollback import InForce, InterfaceSettings, Rollback
from dstack_vpn.wireguard.conffile import write_private

log = structlog.get_logger()

ROLLBACK_FILE = "rollback.json"
"""Its name in STATE_DIR."""
_LONGEST = 4096
_Stamp = tuple[int, int, int] | None
"""What tells one writing of the file from another; None while there is none."""


class RollbackFile:
    """The file of one node."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Take its path; nothing is read yet.

        Args:
            path: of the file.
            read_only: leave also what has ended.
        """
        self.path = path
        self._read_only = read_only
        self._seen: _Stamp = None

    def changed(self) -> bool:
        """Whether there is another file than `load` saw, or one no more; costs one stat(2)."""
        return self._stamp() != self._seen

    def load(self) -> Rollback | None:
        """Read the wish; None where there is none, or none that makes sense, which is logged."""
        self._seen = self._stamp()
        try:
            with self.path.open("rb") as file:
                text = file.read(_LONGEST)
            return msgspec.json.decode(text, type=Rollback)
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("rollback.unreadable", path=str(self.path), error=error.strerror)
        except msgspec.MsgspecError as error:
            log.warning("rollback.unreadable", path=str(self.path), error=str(error))
        return None

    def in_force(self, configured: InterfaceSettings) -> InForce:
        """What is in force now, which is logged; a rollback that has ended is removed for good.

        Never raises: a node with a bad file in the way goes by its settings.

        Args:
            configured: what the settings say.
        """
        rollback = self.load()
        if rollback is None:
            return InForce(settings=configured, rollback=None, sentence="")
        in_force = rollback.in_force(configured)
        if in_force.rollback is None:
            log.warning("rollback.ended", sentence=in_force.sentence)
            self._remove_ended()
        else:
            log.warning("rollback.in_force", sentence=in_force.sentence)
        return in_force

    def save(self, rollback: Rollback) -> None:
        """Leave a wish, in place of any other.

        Raises:
            OSError: the disk does not take it.
        """
        write_private(self.path, msgspec.json.encode(rollback).decode())

    def remove(self) -> None:
        """Take the wish back; no error where there is none.

        Raises:
            OSError: the directory does not allow it.
        """
        self.path.unlink(missing_ok=True)

    def _remove_ended(self) -> None:
        # Otherwise it would be in force again as soon as somebody sets the old value.
        if self._read_only or self.changed():
            return  # somebody has just left another one
        try:
            self.remove()
        except OSError as error:
            log.warning("rollback.not_removed", path=str(self.path), error=error.strerror)
        self._seen = self._stamp()

    def _stamp(self) -> _Stamp:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
