"""Requirements 33 and 34: what is on the disk is whole or refused, and holds for only so long."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from chain.local import assert_same, following
from dstack_vpn.mesh.health import Code
from dstack_vpn.mesh.membership import Address, BlockHash, Mark, Membership
from dstack_vpn.store import Saved, Store
from lab.rpcfaults import Drop
from mesh.build import membership, node, turn_state
from requirements.node import Node, restarted
from requirements.node import node as running_node
from requirements.scene import scene, urls

CLOSE_AFTER = 900.0

SAVE_FOR_EVER = """
import itertools, sys
from pathlib import Path
from dstack_vpn.store import Store
from requirements.test_state_on_disk import state_at
store = Store(Path(sys.argv[1]))
for turn in itertools.count(int(sys.argv[2])):
    store.save(state_at(turn), wall_now=turn)
    print(turn, flush=True)
"""


def mark(number: int) -> Mark:
    """A final block."""
    return Mark(number, BlockHash(f"0x{number:064x}"))


def state_at(turn: int) -> Membership:
    """One of many memberships, each of them with a final block of its own."""
    return replace(turn_state(turn), finalized=mark(turn))


def saved_in(path: Path) -> Saved | None:
    """What a new process finds."""
    with closing(Store(path)) as store:
        return store.load()


def test_requirement_33_killed_at_any_point_old_or_new_is_left(tmp_path: Path) -> None:
    """Requirement 33: a process that is killed while it saves leaves the old state or the new.

    All of it: the final block and its hash, the digest of the members, chain id and contract.
    """
    path = tmp_path / "state.db"
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    turn = 1
    for saves in (1, 2, 5, 13):
        command = [sys.executable, "-c", SAVE_FOR_EVER, str(path), str(turn)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ, text=True) as process:
            assert process.stdout is not None
            told = [int(process.stdout.readline()) for _ in range(saves)]
            process.send_signal(signal.SIGKILL)
            told += [int(line) for line in process.stdout if line.endswith("\n")]
        found = saved_in(path)
        assert found is not None
        turn = found.membership.block.number
        assert turn in {told[-1], told[-1] + 1}
        assert found == Saved(membership=state_at(turn), saved_at=turn)


def test_requirement_33_a_corrupt_file_is_refused(tmp_path: Path) -> None:
    """Requirement 33: with any page of it damaged, a file is the old state or none."""
    path, copy = tmp_path / "state.db", tmp_path / "copy" / "state.db"
    with closing(Store(path)) as store:
        store.save(state_at(7), wall_now=7)
    whole = path.read_bytes()
    copy.parent.mkdir()
    for start in range(0, len(whole), 4096):
        copy.write_bytes(whole[:start] + b"\xa5" * 4096 + whole[start + 4096 :])
        found = saved_in(copy)
        assert found in (None, Saved(membership=state_at(7), saved_at=7))
    copy.write_bytes(whole[: len(whole) // 2])
    assert saved_in(copy) is None


def test_requirement_33_what_was_final_stays_final(tmp_path: Path) -> None:
    """Requirement 33: a state with an older final block, or none, does not replace a newer one.

    Whatever else it says is saved. Only to forget everything, which a person asks for, ends that.
    """
    path = tmp_path / "state.db"
    new = state_at(50)
    with closing(Store(path)) as store:
        store.save(new, wall_now=1)
    for older in (mark(49), None):
        # By a process that never looked at what was there, too.
        with closing(Store(path)) as store:
            store.save(replace(state_at(51), finalized=older), wall_now=2)
        found = saved_in(path)
        assert found is not None
        assert found == Saved(membership=replace(state_at(51), finalized=mark(50)), saved_at=2)
    with closing(Store(path)) as store:
        store.save(state_at(52), wall_now=3)
        assert store.load() == Saved(membership=state_at(52), saved_at=3)
        elsewhere = replace(state_at(5), contract=Address("0x" + "77" * 20))
        store.save(elsewhere, wall_now=4)
        assert store.load() == Saved(membership=elsewhere, saved_at=4)
        store.save(new, wall_now=5)
        store.forget()
        store.save(state_at(8), wall_now=6)
        assert store.load() == Saved(membership=state_at(8), saved_at=6)


def test_requirement_33_a_damaged_membership_keeps_its_final_block(tmp_path: Path) -> None:
    """Requirement 33: members that do not add up are not loaded; what was final stays final."""
    path = tmp_path / "state.db"
    with closing(Store(path)) as store:
        store.save(state_at(50), wall_now=1)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM nodes WHERE token_id = '2'")
    with closing(Store(path)) as store:
        assert store.load() is None
        store.save(replace(membership([node(1)]), finalized=None), wall_now=2)
    found = saved_in(path)
    assert found is not None
    assert found.membership.finalized == mark(50)


async def test_requirement_33_an_old_file_is_no_way_back(tmp_path: Path) -> None:
    """Requirement 33: members from an older copy of the file are not believed, but compared."""
    async with scene(tmp_path) as s:
        token = await s.mint("a")
        old = await s.follower.start(None)
        await s.nft.burn(token)
        await s.mint("b")
        async with following(s.nft.address, s.chain.url) as follower:
            await follower.start(old)
            await assert_same(follower, s.nft)


async def start(n: Node) -> int:
    """Let a node have one peer, and save that."""
    two = await n.scene.mint("two")
    await n.look()
    assert await n.peers() == {two}
    assert n.store.load() is not None
    return two


def wall_of(n: Node) -> float:
    """Seconds since 1970, by the node's own clock."""
    return 1_800_000_000 + n.clock.now


@pytest.mark.parametrize("close", [True, False])
async def test_requirement_34_a_start_without_a_chain_holds_what_was_saved_for_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, close: bool
) -> None:
    """Requirement 34: with no provider the saved members are held by the policy for the dark.

    Their age counts from when they were saved, not from the start. Nobody is admitted, and the
    node is not ready.
    """
    settings = {"DARK_CLOSE_AFTER": str(int(CLOSE_AFTER)) if close else "0"}
    async with running_node(tmp_path, monkeypatch, settings=settings) as first:
        monkeypatch.setattr(time, "time", lambda: wall_of(first))
        two = await start(first)
        for proxy in first.proxies:
            proxy.fault = Drop()
        await first.scene.nft.mint("three")
        first.clock.now += 600  # it was off
        async with restarted(first, settings=settings) as n:
            await n.look()
            assert await n.peers() == {two}
            assert not n.health().ready
            assert Code.CHAIN_UNVERIFIED in n.codes()
            await n.pass_time(CLOSE_AFTER - 600 - 1)
            assert await n.peers() == {two}
            await n.pass_time(1)
            assert bool(n.snapshot.closed) == close
            assert await n.peers() == (set() if close else {two})


async def test_requirement_34_without_a_saved_state_there_are_no_peers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requirement 34: with no provider and nothing saved, not even what is on the device stays."""
    async with running_node(tmp_path, monkeypatch) as first:
        await start(first)
        first.store.forget()
        for proxy in first.proxies:
            proxy.fault = Drop()
        async with restarted(first) as n:
            assert n.device.peers
            await n.look()
            assert not n.device.peers
            assert not n.health().ready
            assert Code.CHAIN_UNKNOWN in n.codes()


async def test_requirement_34_a_quorum_confirms_what_was_saved(tmp_path: Path) -> None:
    """Requirement 34: one provider of two is not enough to take what was saved for verified."""
    async with scene(tmp_path, count=2) as s:
        token = await s.mint("a")
        saved = await s.follower.start(None)
        async with following(s.nft.address, *urls(s.proxies)) as follower:
            s.proxies[1].fault = Drop()
            follower._adopt(saved)
            view = await follower.poll()
            assert not view.verified
            assert view.membership is not None
            assert set(view.membership.nodes) == {token}
