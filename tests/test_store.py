"""The state file: what was saved comes back whole, or not at all."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_vpn.errors import HostError, StoreError
from dstack_vpn.mesh.access import Verdict
from dstack_vpn.mesh.events import Event, EventKind
from dstack_vpn.mesh.membership import Address, Checkpoint, Node
from dstack_vpn.store import JOURNAL_LIMIT, Saved, Store, read_saved
from lab.fixtures import need
from mesh.build import membership, node, turn_state

HOSTILE = [
    "",
    "\0",
    "a\0b",
    "\u202e",
    "\x1b[2J",
    "'; DROP TABLE nodes; --",
    "\ufffd00",
    "x" * 99_999,
]


@contextmanager
def opened(path: Path) -> Iterator[Store]:
    """A store that is closed afterwards."""
    with closing(Store(path)) as store:
        yield store


def load(path: Path) -> Saved | None:
    """What a new process finds."""
    with opened(path) as store:
        return store.load()


def event(number: int = 0, *, node_id: str = "db", token_id: int = 1) -> Event:
    """An event whose detail is its number."""
    return Event(
        kind=EventKind.REVOKED,
        block=number,
        token_id=token_id,
        node_id=node_id,
        verdict=Verdict.REVOKED,
        detail=str(number),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the state file is; its directory does not exist yet."""
    return tmp_path / "state" / "state.db"


def test_first_start(path: Path) -> None:
    """A new file holds nothing, and only its owner can read it."""
    assert load(path) is None
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (path.parent, path)]
    assert modes == [0o700, 0o600]


def test_round_trip(path: Path) -> None:
    """The membership comes back as it was, with the time at which it was agreed on."""
    saved = membership([node(1), node(2, revoked=True), node(3, expires_at=2**64 - 1)])
    with opened(path) as store:
        store.save(saved, wall_now=123.5)
    assert load(path) == Saved(membership=saved, saved_at=123.5)


strings = st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from(HOSTILE)
nodes = st.lists(
    st.builds(
        Node,
        token_id=st.sampled_from([1, 2**63 - 1, 2**63, 2**64, 2**256 - 1]) | st.integers(1, 9),
        holder=st.just(Address("0x" + "11" * 20)),
        node_id=strings,
        key=st.binary(max_size=40) | st.just(bytes(32)),
        endpoint=strings,
        role=st.binary(min_size=32, max_size=32),
        created_at=st.integers(0, 2**256 - 1),
        expires_at=st.integers(0, 2**64 - 1),
        revoked=st.booleans(),
        suspended=st.booleans(),
        since_block=st.integers(0, 2**63),
    ),
    max_size=6,
    unique_by=lambda n: n.token_id,
)


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store that many memberships go through."""
    with opened(tmp_path_factory.mktemp("store") / "state.db") as store:
        yield store


@settings(max_examples=60, deadline=None)
@given(nodes)
def test_hostile_tokens_round_trip(busy: Store, tokens: list[Node]) -> None:
    """Ids past 2^63 and any text of a holder come back as they were, over whatever was there."""
    saved = membership(tokens)
    busy.save(saved, wall_now=1)
    found = busy.load()
    assert found is not None
    assert found.membership == saved


def rows(path: Path) -> set[str]:
    """The token ids in the table."""
    with closing(sqlite3.connect(path)) as db:
        return {row[0] for row in db.execute("SELECT token_id FROM nodes")}


def test_only_changed_nodes_are_written(path: Path) -> None:
    """Of a thousand tokens, one that changed costs one row, and the age alone costs none."""
    tokens = {i: node(i) for i in range(1, 1001)}
    with opened(path) as store:
        store.save(membership(tokens.values()), wall_now=1)
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("CREATE TABLE written (token_id TEXT)")
            for what, row in (("INSERT", "NEW"), ("DELETE", "OLD")):
                db.execute(
                    f"CREATE TRIGGER on_{what} AFTER {what} ON nodes"
                    f" BEGIN INSERT INTO written VALUES ('{what} ' || {row}.token_id); END"
                )
        store.save(membership(tokens.values()), wall_now=2)
        tokens[7] = replace(tokens[7], revoked=True)
        del tokens[9]
        tokens[1001] = node(1001)
        store.save(membership(tokens.values()), wall_now=3)
    with closing(sqlite3.connect(path)) as db:
        written = {row[0] for row in db.execute("SELECT token_id FROM written")}
    assert written == {"INSERT 7", "DELETE 9", "INSERT 1001"}
    found = load(path)
    assert found is not None
    assert found.membership == membership(tokens.values())


def test_nothing_old_stays(path: Path) -> None:
    """Saving without having loaded replaces what the file held, burned tokens included."""
    with opened(path) as store:
        store.save(membership([node(1), node(2, revoked=True)]), wall_now=1)
    with opened(path) as store:
        store.save(membership([node(1)]), wall_now=2)
    assert rows(path) == {"1"}


def test_forget(path: Path) -> None:
    """Forgetting the membership keeps the journal."""
    with opened(path) as store:
        store.save(membership([node(1)]), wall_now=1)
        store.record([event()], wall_now=1)
        store.forget()
        assert store.load() is None
        assert len(store.journal()) == 1
        store.save(membership([node(1)]), wall_now=2)
    assert load(path) == Saved(membership=membership([node(1)]), saved_at=2)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM nodes WHERE token_id = '2'",
        "UPDATE nodes SET node = '{}' WHERE token_id = '2'",
        "UPDATE nodes SET token_id = 'two' WHERE token_id = '2'",
        "UPDATE head SET membership = 'x'",
        "DELETE FROM head",
    ],
)
def test_what_does_not_add_up_is_not_loaded(path: Path, statement: str) -> None:
    """A file that was tampered with gives no membership, and the next save mends it."""
    saved = membership([node(1), node(2), node(3)])
    with opened(path) as store:
        store.save(saved, wall_now=1)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)
    with opened(path) as store:
        assert store.load() is None
        store.save(saved, wall_now=2)
    assert load(path) == Saved(membership=saved, saved_at=2)


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" * 300])
def test_damaged_file_is_set_aside(path: Path, content: bytes) -> None:
    """A file that is no database is kept under another name, and the node starts without it."""
    path.parent.mkdir()
    path.write_bytes(content)
    assert load(path) is None
    assert path.with_suffix(".damaged").read_bytes() == content


def test_file_without_a_table_is_set_aside(path: Path) -> None:
    """A sound database of our version that lacks a table is none of ours."""
    with opened(path) as store:
        store.save(membership([node(1)]), wall_now=1)
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE head")
    assert load(path) is None
    assert path.with_suffix(".damaged").exists()


def test_torn_page_is_set_aside(path: Path) -> None:
    """A database with a page of garbage is not trusted for the pages that are well."""
    with opened(path) as store:
        store.save(membership(node(i) for i in range(1, 200)), wall_now=1)
    with path.open("r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xa5" * 4096)
    assert load(path) is None
    assert path.with_suffix(".damaged").exists()


def test_other_schema_is_set_aside(path: Path) -> None:
    """The file of another version is not guessed at."""
    load(path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA user_version = 99")
    assert load(path) is None
    assert path.with_suffix(".damaged").exists()


def test_directory_that_cannot_be_used(tmp_path: Path) -> None:
    """A state directory that cannot be made is a fact of the host, said in one sentence."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "state.db", tmp_path):
        with pytest.raises(HostError, match=r"STATE_DIR .* cannot be used"):
            Store(path)


def test_a_look_while_the_agent_writes(path: Path) -> None:
    """A reader beside the agent sees the state before the write under way, and stops nobody."""
    old, new = membership([node(1)]), membership([node(1), node(2)])
    with opened(path) as store:
        assert read_saved(path) is None
        store.save(old, wall_now=1)
        with closing(sqlite3.connect(path, isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("DELETE FROM head")
            assert read_saved(path) == Saved(membership=old, saved_at=1)
            writer.execute("ROLLBACK")
        store.save(new, wall_now=2)
        assert read_saved(path) == Saved(membership=new, saved_at=2)
    assert list(path.parent.iterdir()) == [path]


def test_a_look_sets_nothing_aside(path: Path) -> None:
    """What a reader cannot use it names and leaves alone: that is the agent's to judge."""
    with pytest.raises(HostError, match="cannot be read"):
        read_saved(path)
    assert not path.parent.exists()
    load(path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA user_version = 99")
    for reason in ("schema version 99 is not 1", "file is not a database"):
        with pytest.raises(HostError, match=f"{path} cannot be read .{reason}"):
            read_saved(path)
        path.write_bytes(b"no database" * 100)
    assert list(path.parent.iterdir()) == [path]


def test_forgetting_says_whether_there_was_anything(path: Path) -> None:
    """The second time there is nothing left to forget."""
    with opened(path) as store:
        store.save(membership([node(1)]), wall_now=1)
        assert [store.forget(), store.forget()] == [True, False]
        assert store.load() is None


def test_journal(path: Path) -> None:
    """The journal keeps hostile names and great token ids, oldest first, over restarts."""
    events = [event(i, node_id=name, token_id=2**255) for i, name in enumerate(HOSTILE)]
    with opened(path) as store:
        store.record(events, wall_now=5)
        store.record([], wall_now=6)
    with opened(path) as store:
        entries = store.journal()
        assert [e.node_id for e in entries] == HOSTILE
        assert {(e.time, e.token_id, e.kind, e.verdict) for e in entries} == {
            (5.0, 2**255, "revoked", "REVOKED")
        }
        assert [e.detail for e in store.journal(2)] == [e.detail for e in entries[-2:]]


def test_journal_has_a_limit(path: Path) -> None:
    """The oldest entries go; the newest of them stay, however many are added at once."""
    with opened(path) as store:
        store.record([event(i) for i in range(JOURNAL_LIMIT + 5)], wall_now=1)
        store.record([event(-1)], wall_now=2)
        entries = store.journal(10 * JOURNAL_LIMIT)
    assert len(entries) == JOURNAL_LIMIT
    assert (entries[0].detail, entries[-1].detail) == ("6", "-1")


def unwritable(store: Store, step: str) -> None:
    """Make the file refuse the writes of one step of a save, as a full disk does."""
    with closing(sqlite3.connect(store.path)) as db, db:
        db.execute(
            f"CREATE TRIGGER full_disk BEFORE {step}"
            " BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )


@pytest.mark.parametrize("step", ["DELETE ON nodes", "INSERT ON nodes", "INSERT ON head"])
def test_failed_save_keeps_the_old_state(path: Path, step: str) -> None:
    """A save that fails at any step leaves the state before it whole, and may be tried again."""
    old = membership([node(1), node(2)])
    new = membership([node(1, revoked=True), node(3)], number=1001)
    with opened(path) as store:
        store.save(old, wall_now=1)
        unwritable(store, step)
        for _ in range(2):
            with pytest.raises(StoreError, match="disk is full"):
                store.save(new, wall_now=2)
            assert store.load() == Saved(membership=old, saved_at=1)
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("DROP TRIGGER full_disk")
        store.save(new, wall_now=3)
    assert load(path) == Saved(membership=new, saved_at=3)


def test_error_of_ours_in_mid_save(path: Path) -> None:
    """What cannot be written at all leaves no open transaction behind."""
    old = membership([node(1)])
    with opened(path) as store:
        store.save(old, wall_now=1)
        with pytest.raises(UnicodeEncodeError):
            store.save(membership([node(1, endpoint="\ud800")]), wall_now=2)
        store.record([event()], wall_now=2)
        assert store.load() == Saved(membership=old, saved_at=1)


SAVE_FOR_EVER = """
import itertools, sys
from pathlib import Path
from dstack_vpn.store import Store
from mesh.build import turn_state
store = Store(Path(sys.argv[1]))
for turn in itertools.count(1):
    store.save(turn_state(turn), wall_now=turn)
    print(turn, flush=True)
"""


def test_kill_in_mid_save(path: Path) -> None:
    """A process that is killed while it saves leaves one of its states whole."""
    command = [sys.executable, "-c", SAVE_FOR_EVER, str(path)]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    for saves in (1, 9):
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ, text=True) as process:
            assert process.stdout is not None
            told = [int(process.stdout.readline()) for _ in range(saves)]
            process.send_signal(signal.SIGKILL)
            told += [int(line) for line in process.stdout if line.endswith("\n")]
        found = load(path)
        assert found is not None
        turn = found.membership.block.number
        assert turn in {told[-1], told[-1] + 1}, "what was said to be saved is saved"
        assert found == Saved(membership=turn_state(turn), saved_at=turn)


@contextmanager
def small_disk(at: Path) -> Iterator[None]:
    """A file system with room for 256 kB."""
    at.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(at)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    need(
        mounted.returncode == 0, f"a small disk takes the right to mount: {mounted.stderr.strip()}"
    )
    try:
        yield
    finally:
        subprocess.run(["umount", str(at)], check=True)


def test_full_disk(tmp_path: Path) -> None:
    """On a full disk saving and recording fail in words, the old state stays, and room heals it."""
    disk = tmp_path / "disk"
    few, many = membership([node(1)]), membership(node(i) for i in range(1, 3000))
    with small_disk(disk), opened(disk / "state.db") as store:
        store.save(few, wall_now=1)
        ballast = disk / "ballast"
        fill(ballast)
        with pytest.raises(StoreError, match=r"full|disk I/O error"):
            store.save(many, wall_now=2)
        with pytest.raises(StoreError, match=r"full|disk I/O error"):
            store.record([event()] * 3000, wall_now=2)
        assert store.load() == Saved(membership=few, saved_at=1)
        ballast.unlink()
        store.record([event()], wall_now=3)
        store.save(membership([node(1), node(2)]), wall_now=3)
        assert load(disk / "state.db") == Saved(
            membership=membership([node(1), node(2)]), saved_at=3
        )


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            return


def test_saved_order_is_nothing(path: Path) -> None:
    """The order in which tokens were read is not part of the state."""
    tokens: Sequence[Node] = [node(i) for i in (3, 1, 2)]
    with opened(path) as store:
        store.save(membership(tokens), wall_now=1)
    found = load(path)
    assert found is not None
    assert found.membership == membership(sorted(tokens, key=lambda n: n.token_id))
    assert found.membership.checkpoint == Checkpoint(revision=3, history=bytes(32), member_count=3)
