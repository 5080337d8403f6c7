"""Private files, written atomically: the wg-quick text of `conf.py`, the note of `marker.py`."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path


def write_private(path: Path, text: str | Iterable[str]) -> None:
    """Replace a file: whoever reads it sees the old text or the new one, never a part.

    A long text may be given in parts, so that it is never held whole.

    The file is 0600; a directory that has to be made is 0700. A crash in the middle leaves at most
    a file next to it whose name ends in ``.new``, 0600 too, that the next write takes over.

    Raises:
        OSError: the disk is full, read-only, or not ours; the old file is untouched.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(new, flags, 0o600), "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)  # before any text: a left-over may be wider
            file.writelines((text,) if isinstance(text, str) else text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)  # the rename itself must survive a power cut
    finally:
        os.close(directory)
