"""The loop on parts in memory."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from dstack_vpn.config import load_settings
from dstack_vpn.errors import WrongChainError
from dstack_vpn.mesh.access import Verdict
from dstack_vpn.mesh.events import Event
from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.mesh.membership import Membership, Node
from dstack_vpn.reconcile import Reconciler
from dstack_vpn.store import Store
from dstack_vpn.wireguard.guardian import Watched
from dstack_vpn.wireguard.lease import KernelTarget, Target
from dstack_vpn.wireguard.memory import MemoryDevice
from lab.waiting import until
from mesh.build import BLOCK, CHAIN_NOW, chain_view, key_of, local_node, membership, node, suspect

OWN = PrivateKey(bytes(31) + b"\x01")
ME = node(1, key=OWN.public.raw)
DARK = chain_view(verified=False, agreed_at=None, advanced_at=None)
PUBLIC = {
    "NETWORK": "base",
    "RPC_URL": "https://a.example,https://b.example,https://c.example",
    "CONTRACT_ADDRESS": "0x" + "11" * 20,
}


class Chain:
    """A chain that says what the test says."""

    def __init__(self) -> None:
        self.view = replace(DARK, last_error="nobody answers")
        self.news = asyncio.Event()
        self.saved: Membership | None = None

    def show(self, nodes: Sequence[Node], *, number: int = BLOCK, **facts: Any) -> None:
        """Show these tokens as agreed on just now, unless told otherwise."""
        now = asyncio.get_running_loop().time()
        shown = chain_view(membership(nodes, number=number), agreed_at=now, advanced_at=now)
        self.view = replace(shown, **facts)
        self.news.set()

    async def start(self, saved: Membership | None) -> Membership:
        """Never asked here."""
        raise NotImplementedError

    async def run(
        self, saved: Membership | None, *, interval: float, changed: Callable[[], None]
    ) -> None:
        """Look at what the test says, whenever it says something."""
        self.saved = saved
        while True:
            self.news.clear()
            changed()
            await self.news.wait()


class Guard:
    """Says what the test says, and keeps what it was told."""

    def __init__(self) -> None:
        self.says = Watched()
        self.told: list[tuple[Target | None, float | None]] = []

    async def watch(self, target: Target | None, closes_at: float | None) -> Watched:
        """See `Guardian.watch`."""
        self.told.append((target, closes_at))
        return self.says


class Lasting(MemoryDevice):
    """A device that would outlive its agent."""

    @property
    def target(self) -> KernelTarget | None:  # type: ignore[override]
        """See `Backend.target`."""
        return None if self.device is None else KernelTarget(self.name, 7)


class Bench:
    """A loop whose chain, device and state file are at hand."""

    def __init__(self, directory: Path) -> None:
        self.chain = Chain()
        self.device = MemoryDevice("wg0", OWN)
        self.store = Store(directory / "state.db")
        self.guard = Guard()
        self.events: list[Event] = []
        self.told: list[frozenset[int] | None] = []

    def loop(self, **variables: str) -> Reconciler:
        """The loop, with these settings."""
        loop = Reconciler(
            settings=load_settings({"NODE_ID": "node-1", "NETWORK": "hardhat"} | variables),
            local=replace(local_node(), public_key=OWN.public),
            source=self.chain,
            device=self.device,
            store=self.store,
            write_conf=lambda _wanted, _membership: None,
            publish=self.events.extend,
            guard=self.guard,
        )
        apply: Callable[..., Awaitable[Any]] = loop._applier.apply

        async def telling(*given: Any, changed: frozenset[int] | None, **facts: Any) -> Any:
            self.told.append(changed)
            return await apply(*given, changed=changed, **facts)

        loop._applier.apply = telling  # type: ignore[method-assign, assignment]
        return loop

    @property
    def peers(self) -> list[int]:
        """The tokens whose keys are on the device."""
        return [i for i in range(1, 10) if key_of(i) in self.device.peers]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A loop in a directory of its own."""
    made = Bench(tmp_path)
    yield made
    made.store.close()


async def test_a_clock_that_stands_before_the_save_holds_nobody_for_ever(bench: Bench) -> None:
    """A machine that starts in 1970 without a chain closes when it ran for long enough itself."""
    bench.store.save(membership([ME, node(2)]), wall_now=time.time() + 1e6)
    loop = bench.loop(DARK_CLOSE_AFTER="60")
    await loop.cycle()
    assert bench.peers == [2]

    loop._loaded_at -= 61  # time does not pass faster for a test
    await loop.cycle()
    assert loop.snapshot.closed
    assert bench.peers == []


async def test_in_the_dark_nobody_is_let_in_whom_the_last_run_had_not_admitted(
    bench: Bench,
) -> None:
    """Who was saved before the admission was deep enough waits for providers to confirm it."""
    saved = membership([ME, node(2, since_block=BLOCK - 5), node(3, since_block=BLOCK - 4)])
    bench.store.save(saved, wall_now=time.time())
    loop = bench.loop(CONFIRMATIONS="5")
    await loop.cycle()
    assert bench.peers == [2]
    bench.chain.show([ME, node(2), node(3, since_block=BLOCK - 4)], confirmed=BLOCK - 4)
    await loop.cycle()
    assert bench.peers == [2, 3]


async def test_an_admission_waits_for_its_block_to_count(bench: Bench) -> None:
    """The same tokens, a deeper block: whoever waited is in, and nothing else is touched."""
    loop = bench.loop()
    tokens = [ME, node(2), node(3, since_block=BLOCK)]
    bench.chain.show(tokens, confirmed=BLOCK - 1)
    await loop.cycle()
    assert bench.peers == [2]
    bench.chain.view = replace(bench.chain.view, confirmed=BLOCK)
    await loop.cycle()
    assert bench.peers == [2, 3]
    assert bench.told == [None, {3}]


async def test_one_provider_puts_a_member_out_and_the_others_bring_it_back(bench: Bench) -> None:
    """Out in the cycle in which one source says so; in again when that is over."""
    loop = bench.loop()
    tokens = [ME, node(2), node(3)]
    bench.chain.show(tokens)
    await loop.cycle()
    bench.chain.show(tokens, suspects={2: suspect(node(2, revoked=True))})
    bench.events.clear()
    await loop.cycle()
    assert bench.peers == [3]
    assert [(e.kind, e.token_id, e.verdict) for e in bench.events if e.token_id] == [
        ("revoked", 2, Verdict.SOURCE_DISPUTED)
    ]
    assert loop.snapshot.own is not None
    assert loop.snapshot.own.granted
    bench.chain.show(tokens)
    await loop.cycle()
    assert bench.peers == [2, 3]


async def test_the_device_side_is_told_what_changed_since_it_last_succeeded(bench: Bench) -> None:
    """Tokens in most cycles; all of them at the start, after a failure, and when we are out."""
    loop = bench.loop()
    bench.chain.show([ME, node(2), node(3)])
    await loop.cycle()
    bench.chain.show([ME, node(2, endpoint="192.0.2.1:1"), node(4)])
    await loop.cycle()
    bench.device.stalled = True
    bench.chain.show([ME, node(2)])
    await loop.cycle()
    bench.device.stalled = False
    bench.chain.show([ME, node(2), node(5)])
    await loop.cycle()
    bench.chain.show([replace(ME, revoked=True), node(2), node(5)])
    await loop.cycle()
    assert bench.told == [None, {2, 3, 4}, {2, 4}, None, None]


async def test_a_cycle_without_news_does_not_touch_the_device(bench: Bench) -> None:
    """A new head that changes nothing is noted as applied, and that is all."""
    loop = bench.loop()
    tokens = [ME, node(2)]
    bench.chain.show(tokens)
    await loop.cycle()
    bench.chain.show(tokens, number=BLOCK + 1)
    await loop.cycle()
    assert bench.told == [None]
    assert loop.snapshot.applied_block == BLOCK + 1


async def test_news_at_the_start_is_what_differs_from_the_last_run(bench: Bench) -> None:
    """A restart tells of whoever came or went meanwhile, and of nobody else."""
    bench.store.save(membership([ME, node(2), node(3)]), wall_now=time.time())
    loop = bench.loop()
    bench.chain.show([ME, node(2), node(4)])
    await loop.cycle()
    assert [(e.kind, e.token_id) for e in bench.events if e.token_id] == [
        ("revoked", 3),
        ("granted", 4),
    ]


async def test_who_expired_in_a_standstill_stays_out_when_all_is_read_anew(bench: Bench) -> None:
    """A new start at the same head says nothing new about the time."""
    loop = bench.loop()
    tokens = [ME, node(2, expires_at=CHAIN_NOW + 100)]
    bench.chain.show(tokens)
    await loop.cycle()
    assert bench.peers == [2]
    loop._clock = replace(loop._clock, offset=loop._clock.offset + 100)
    bench.chain.show([*tokens, node(3)], resyncs=2)
    await loop.cycle()
    assert bench.peers == [3]


async def test_a_chain_that_stands_still_closes_when_it_is_told_to(bench: Bench) -> None:
    """HALT_CLOSE_AFTER removes all peers, and the next head brings them back."""
    loop = bench.loop(**PUBLIC, HALT_CLOSE_AFTER="900")
    now = asyncio.get_running_loop().time()
    tokens = [ME, node(2)]
    bench.chain.show(tokens, advanced_at=now - 800)
    await loop.cycle()
    assert bench.peers == [2]
    bench.chain.show(tokens, advanced_at=now - 900)
    await loop.cycle()
    assert bench.peers == []
    assert "stood still for longer than HALT_CLOSE_AFTER" in (loop.snapshot.closed or "")
    bench.chain.show(tokens, number=BLOCK + 1)
    await loop.cycle()
    assert bench.peers == [2]


async def test_how_it_stands_with_the_chain_is_logged_once(bench: Bench) -> None:
    """A line when it gets dark, one when it stands still, one when it goes on."""
    loop = bench.loop(**PUBLIC)
    now = asyncio.get_running_loop().time()
    facts: list[dict[str, Any]] = [
        {},
        {"agreed_at": now - 61, "advanced_at": now - 61, "last_error": "refused"},
        {"agreed_at": now - 62, "advanced_at": now - 62},
        {"advanced_at": now - 70},
        {"advanced_at": now - 71},
        {},
    ]
    with capture_logs() as lines:
        for fact in facts:
            bench.chain.show([ME], **fact)
            await loop.cycle()
    told = [line for line in lines if line["event"].startswith("chain.")]
    assert told == [
        {"event": "chain.dark", "log_level": "warning", "age": 61, "reason": "refused"}
        | {"block": BLOCK},
        {"event": "chain.halted", "log_level": "warning", "age": 70, "block": BLOCK},
        {"event": "chain.light", "log_level": "info", "was": "halted", "block": BLOCK},
    ]


async def test_while_no_admission_counts_nobody_is_let_in(bench: Bench) -> None:
    """A view that is verified, and says of no block that its admissions count, admits nobody."""
    loop = bench.loop()
    bench.chain.show([ME, node(2)], confirmed=None)
    await loop.cycle()
    assert bench.peers == []
    assert loop.snapshot.own is not None
    assert loop.snapshot.own.verdict is Verdict.NOT_YET_CONFIRMED


async def test_news_of_the_chain_lead_to_a_cycle(bench: Bench) -> None:
    """The follower runs by itself, from what was saved, and wakes the loop."""
    saved = membership([ME, node(2), node(3)])
    bench.store.save(saved, wall_now=time.time())
    loop = bench.loop()
    bench.chain.show([ME, node(2), node(3)])
    async with asyncio.TaskGroup() as group:
        running = group.create_task(loop.run())
        await until(lambda: bench.peers == [2, 3], "the saved members are peers")
        assert bench.chain.saved == saved
        bench.chain.show([ME, node(3)])
        await until(lambda: bench.peers == [3], "the burned one is none")
        running.cancel()


async def test_another_chain_at_the_first_contact_ends_it(bench: Bench) -> None:
    """Before anything was touched: what it refuses must find nothing changed."""

    class Wrong(Chain):
        async def run(
            self, saved: Membership | None, *, interval: float, changed: Callable[[], None]
        ) -> None:
            raise WrongChainError("another chain")

    bench.store.save(membership([ME, node(2)]), wall_now=time.time())
    bench.chain = Wrong()
    with pytest.raises(ExceptionGroup) as caught:
        await bench.loop().run()
    assert caught.group_contains(WrongChainError)
    assert bench.told == []


async def test_tokens_may_come_in_any_order(bench: Bench) -> None:
    """A token with a low number that comes late is found, and removed, like any other."""
    loop = bench.loop()
    for tokens in ([node(7), ME], [node(7), ME, node(4)], [node(7), node(4), node(2), ME]):
        bench.chain.show(tokens)
        await loop.cycle()
    assert bench.peers == [2, 4, 7]
    bench.chain.show([node(7), node(4, revoked=True), node(2), ME])
    await loop.cycle()
    assert bench.peers == [2, 7]
    assert bench.told == [None, {4}, {2}, {4}]


async def test_what_the_guard_removed_comes_back_in_the_same_cycle(bench: Bench) -> None:
    """An agent that was stopped for too long: its device is read, whatever else is due."""
    loop = bench.loop()
    bench.chain.show([ME, node(2)])
    await loop.cycle()
    bench.device.peers.clear()
    bench.guard.says = Watched(ran_out=True)
    await loop.cycle()
    assert bench.peers == [2]


async def test_the_lease_goes_as_far_as_the_dark_policy(bench: Bench) -> None:
    """Before the device is changed, and once more for a device that was not there before."""
    bench.device = Lasting("wg0", OWN)
    loop = bench.loop(DARK_CLOSE_AFTER="60")
    bench.chain.show([ME, node(2)])
    agreed_at = bench.chain.view.agreed_at
    assert agreed_at is not None
    for _ in range(2):
        await loop.cycle()
    made = bench.device.target
    assert made is not None
    assert bench.guard.told == [
        (None, agreed_at + 60),
        (made, agreed_at + 60),
        (made, agreed_at + 60),
    ]


async def test_a_lease_is_left_alone_while_nothing_is_known(bench: Bench) -> None:
    """That of an earlier run stays in force; where the rule is off, it is ended at once."""
    await bench.loop(DARK_CLOSE_AFTER="60").cycle()
    assert bench.guard.told == []
    await bench.loop(DARK_CLOSE_AFTER="hold").cycle()
    assert bench.guard.told == [(None, None)]


async def test_a_guard_that_fails_is_told_once_and_shown(bench: Bench) -> None:
    """In the log when it begins, in the snapshot for as long as it lasts."""
    loop = bench.loop()
    bench.chain.show([ME, node(2)])
    bench.guard.says = Watched(warning="no guard")
    with capture_logs() as log:
        for _ in range(2):
            await loop.cycle()
            assert loop.snapshot.unguarded == "no guard"
    assert [line["reason"] for line in log if line["event"] == "guard.failed"] == ["no guard"]
    bench.guard.says = Watched()
    await loop.cycle()
    assert loop.snapshot.unguarded is None
