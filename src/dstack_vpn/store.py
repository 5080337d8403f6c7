"""State on disk: the last verified membership, and the audit journal. SQLite, one small file.

What it is for: a restart with nothing changed is ready after one round trip, and a restart while
the chain is away holds the members by the dark policy. It is never a source of admissions: the
follower proves it against the chain first. It holds no secret.
"""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import structlog

from dstack_vpn.errors import HostError, StoreError
from dstack_vpn.mesh.events import Event
from dstack_vpn.mesh.membership import Membership, Node

log = structlog.get_logger()

STATE_FILE = "state.db"
"""Its name in STATE_DIR."""
SCHEMA_VERSION = 1
JOURNAL_LIMIT = 10_000
"""Newest entries that the audit journal keeps."""

_SCHEMA = """
CREATE TABLE head (id INTEGER PRIMARY KEY CHECK (id = 1), saved_at REAL, membership BLOB);
CREATE TABLE nodes (token_id TEXT PRIMARY KEY, node BLOB) WITHOUT ROWID;
CREATE TABLE journal (
    id INTEGER PRIMARY KEY AUTOINCREMENT, time REAL, block INTEGER, kind TEXT,
    token_id TEXT, node_id TEXT, verdict TEXT, detail TEXT
);
"""


def claim_directory(path: Path, *, accepted: str = "a directory of its own for each agent") -> int:
    """Make the state directory if need be, and keep every other agent out of it.

    Two agents of one directory would fight for one device. The lock is on the directory itself
    (flock(2)), and ends with the process however it ends.

    Args:
        path: of the directory.
        accepted: what to say where an agent has it.

    Returns:
        A descriptor; closing it gives the directory up.

    Raises:
        HostError: another agent has it, or it cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(
            f"STATE_DIR {path} cannot be used ({error.strerror}); accepted: a directory that this"
            " process can write"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise HostError(
            f"STATE_DIR {path} is in use by a running agent; accepted: {accepted}"
        ) from None
    return descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What a previous run left."""

    membership: Membership
    saved_at: float
    """Wall-clock seconds since 1970 at which the providers last agreed on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """One line of the audit journal."""

    time: float
    block: int
    kind: str
    token_id: int
    node_id: str
    verdict: str
    detail: str


class Store:
    """The state file of one node; safe to call from worker threads, one call at a time."""

    def __init__(self, path: Path) -> None:
        """Open or make the file; a damaged one is set aside, never trusted.

        Raises:
            HostError: the directory or the file cannot be made.
        """
        self.path = path
        self._lock = threading.Lock()
        # What the table holds; None while that is not known, so that nothing old stays in it.
        self._rows: dict[int, Node] | None = None
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._db = self._open()
            path.chmod(0o600)
        except (OSError, sqlite3.OperationalError) as error:
            raise HostError(
                f"STATE_DIR {path.parent} cannot be used ({error}); accepted: a directory that"
                " this process can write"
            ) from None

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            aside = self.path.with_suffix(".damaged")
            self.path.replace(aside)
            log.warning("store.damaged", moved_to=str(aside), error=str(error))
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
        try:
            db.execute("PRAGMA synchronous=FULL")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
            elif version != SCHEMA_VERSION:
                raise sqlite3.DatabaseError(f"schema version {version} is not {SCHEMA_VERSION}")
            tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            if not {("head",), ("nodes",), ("journal",)} <= set(tables):
                raise sqlite3.DatabaseError("a table is missing")
            if db.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("the integrity check failed")
        except sqlite3.Error:
            db.close()
            raise
        return db

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def load(self) -> Saved | None:
        """The membership that was saved last, or None; one that does not add up is None too."""
        with self._lock:
            saved = _load(self._db)
        if saved is not None:
            self._rows = dict(saved.membership.nodes)
        return saved

    def save(self, membership: Membership, *, wall_now: float) -> None:
        """Replace the saved membership in one transaction; only changed nodes are written.

        The newest final block that was ever saved stays, until `forget`: whoever brings an older
        one, or none, must not make a node go back below it after its next start.

        Raises:
            StoreError: the disk is full or gone; the previous state is still whole.
        """
        new = dict(membership.nodes)
        old = self._rows or {}
        # By identity first: of ten thousand nodes nearly all are the very same.
        changed = [n for i, n in new.items() if (was := old.get(i)) is not n and was != n]
        gone = [i for i in old if i not in new]
        with self._transaction() as db:
            if self._rows is None:
                db.execute("DELETE FROM nodes")
            db.executemany("DELETE FROM nodes WHERE token_id = ?", [(str(i),) for i in gone])
            db.executemany(
                "INSERT OR REPLACE INTO nodes VALUES (?, ?)",
                [(str(n.token_id), msgspec.json.encode(n)) for n in changed],
            )
            bare = msgspec.json.encode(replace(_with_newest_mark(db, membership), nodes={}))
            db.execute("INSERT OR REPLACE INTO head VALUES (1, ?, ?)", (wall_now, bare))
        self._rows = new

    def forget(self) -> bool:
        """Forget the membership, keep the journal: the way to accept a chain that began anew.

        Returns:
            Whether there was one.

        Raises:
            StoreError: the disk is full or gone.
        """
        with self._transaction() as db:
            found = db.execute("DELETE FROM head").rowcount
            db.execute("DELETE FROM nodes")
        self._rows = {}
        return found > 0

    def record(self, events: Iterable[Event], *, wall_now: float) -> None:
        """Append to the audit journal, and drop what is past its limit.

        Raises:
            StoreError: the disk is full or gone.
        """
        rows = [
            (wall_now, e.block, e.kind, str(e.token_id), e.node_id, e.verdict or "", e.detail)
            for e in events
        ]
        with self._transaction() as db:
            db.executemany(
                "INSERT INTO journal (time, block, kind, token_id, node_id, verdict, detail)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                rows,
            )
            db.execute(
                "DELETE FROM journal WHERE id <= (SELECT MAX(id) FROM journal) - ?",
                (JOURNAL_LIMIT,),
            )

    def journal(self, limit: int = 100) -> tuple[JournalEntry, ...]:
        """The newest entries of the audit journal, oldest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT time, block, kind, token_id, node_id, verdict, detail FROM journal"
                " ORDER BY id DESC LIMIT ?",
                (limit,),
            ).fetchall()
        return tuple(
            JournalEntry(
                time=r[0],
                block=r[1],
                kind=r[2],
                token_id=int(r[3]),
                node_id=r[4],
                verdict=r[5],
                detail=r[6],
            )
            for r in reversed(rows)
        )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                raise StoreError(f"the state file {self.path} cannot be written: {error}") from None
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")


def read_saved(path: Path) -> Saved | None:
    """What a state file holds, without touching it: its agent may go on writing.

    Raises:
        HostError: there is no such file, or it cannot be read.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                return None
            if version != SCHEMA_VERSION:
                raise sqlite3.DatabaseError(f"schema version {version} is not {SCHEMA_VERSION}")
            db.execute("BEGIN")  # so that both tables are of one moment
            return _load(db)
    except sqlite3.Error as error:
        raise HostError(
            f"the state file {path} cannot be read ({error}); accepted: one that an agent of this"
            " version has written, and the right to read it"
        ) from None


def _with_newest_mark(db: sqlite3.Connection, membership: Membership) -> Membership:
    """The membership with the final block that is saved, where that is newer than its own."""
    row = db.execute("SELECT membership FROM head").fetchone()
    try:
        old = msgspec.json.decode(row[0], type=Membership) if row else None
    except (msgspec.MsgspecError, ValueError):
        return membership
    if old is None or old.finalized is None or _chain_of(old) != _chain_of(membership):
        return membership
    if membership.finalized and membership.finalized.number >= old.finalized.number:
        return membership
    return replace(membership, finalized=old.finalized)


def _chain_of(membership: Membership) -> tuple[int, str, str]:
    return membership.chain_id, membership.genesis, membership.contract


def _load(db: sqlite3.Connection) -> Saved | None:
    row = db.execute("SELECT saved_at, membership FROM head").fetchone()
    rows = db.execute("SELECT token_id, node FROM nodes").fetchall()
    if row is None:
        return None
    try:
        nodes = {int(token): msgspec.json.decode(blob, type=Node) for token, blob in rows}
        bare = msgspec.json.decode(row[1], type=Membership)
    except (msgspec.MsgspecError, ValueError) as error:
        log.warning("store.unreadable", error=str(error))
        return None
    if bare.checkpoint.member_count != sum(n.active for n in nodes.values()):
        log.warning("store.unreadable", error="the saved members are not as many as they say")
        return None
    return Saved(membership=replace(bare, nodes=nodes), saved_at=row[0])
