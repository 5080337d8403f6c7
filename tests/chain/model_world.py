"""The world of the model test: one real chain, three providers of it, and a follower of theirs.

A `Plan` is data: how the follower is set up, and what happens, step by step. `Stage.play` does it,
holds every view against the reference (`model`), and tells in an error what led there. What a step
names by a number is taken modulo what there is, so that every plan can be played and any part of it
left out.
"""

import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from eth_abi.abi import decode
from structlog.testing import capture_logs

from chain.local import assert_same, at, local_chain, new_key
from chain.model import Reference, Token, Truth
from chain.samples import BYTES_TYPE
from chain.trio import Clock
from dstack_vpn.chain.checkpoint_kind import CheckpointContract
from dstack_vpn.chain.follow import Follower
from dstack_vpn.chain.providers import open_providers
from dstack_vpn.chain.witness import Witness
from dstack_vpn.errors import BadAnswerError
from dstack_vpn.mesh.access import judge
from dstack_vpn.mesh.membership import Address, Node, Tag
from dstack_vpn.mesh.snapshot import ChainView
from dstack_vpn.store import Store
from lab.chain import CHAIN_ID
from lab.nft import AccessNFT, calldata
from lab.rawhttp import Hangup
from lab.rpcfault import Ask, Call, Fault, Reply
from lab.rpcfaults import (
    Drop,
    Forge,
    Garbage,
    Give,
    Omit,
    RateLimit,
    Reverse,
    Stall,
    Truncate,
    flip,
)
from lab.rpcforger import Forger
from lab.rpclag import PinnedHead
from lab.rpcproxy import Proxy

PROVIDERS = 3
NEEDED = 2
ACCOUNTS = 3
SLOTS = 2
"""Blocks by which `safe` is behind; `finalized` is behind by twice as many."""
DEPTHS: Mapping[int | Tag, int] = {Tag.SAFE: SLOTS, Tag.FINALIZED: 2 * SLOTS}
MOST_POLLS = 4
"""Polls with enough honest providers after which their head must be agreed on: a start or a resync
may ask the liar first for what only one is asked for, and then asks another."""
STALLED = 0.03
"""Seconds for which a provider that never answers is waited for."""


# What can happen


class Step(NamedTuple):
    """One thing that happens; see `World` for what the words mean."""

    what: str
    a: int = 0
    b: int = 0
    c: int = 0

    def __repr__(self) -> str:
        numbers = self[1 : 1 + max(i for i in range(4) if self[i] or not i)]
        return f"Step({', '.join(map(repr, (self.what, *numbers)))})"


@dataclass(frozen=True, slots=True)
class Plan:
    """A follower and what happens to it."""

    steps: Sequence[Step]
    confirmations: int | Tag = 0
    patience: float = 0.0
    liar: int = 0

    def __repr__(self) -> str:
        steps = [step for step in self.steps if step.what != "nothing"]
        return (
            f"Plan(confirmations={self.confirmations!r}, patience={self.patience},"
            f" liar={self.liar}, steps={steps})"
        )

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """What Hypothesis prints: it can be played as it is."""
        printer.text(repr(self))

    @property
    def depth(self) -> int:
        """Blocks on top of an admission before it counts."""
        c = self.confirmations
        return DEPTHS[c] if isinstance(c, Tag) else c


TROUBLES: Mapping[str, Callable[[int], Fault]] = {
    "drops": lambda head: Drop(),
    "stalls": lambda head: Stall(),
    "limits": lambda head: RateLimit(code=429),
    "refuses": lambda head: RateLimit(code=-32005),
    "garbles": lambda head: Garbage(),
    "truncates": lambda head: Truncate(),
    "hangs on calls": lambda head: Drop("eth_call"),
    "has no logs yet": lambda head: RateLimit("eth_getLogs", code=-32000),
    "has no state": lambda head: RateLimit("eth_call", code=-32000),
    "lags": PinnedHead,
    "flips": lambda head: flip(PinnedHead(head)),
    "drops at times": lambda head: flip(Drop()),
}
"""What may happen to any number of providers; none of it is a lie."""

_TAGGED = ("safe", "finalized")


def _false_tags(head: Mapping[str, Any]) -> Fault:
    """Everything is final."""
    return Give("eth_getBlockByNumber", value=head, where=lambda call: call["params"][0] in _TAGGED)


CRUDE: Mapping[str, Callable[[Mapping[str, Any]], Fault]] = {
    "omits logs": lambda head: Omit("eth_getLogs"),
    "omits a log": lambda head: Omit("eth_getLogs", [0]),
    "turns logs around": lambda head: Reverse("eth_getLogs"),
    "other chain": lambda head: Give("eth_chainId", value="0x1"),
    "other code": lambda head: Give("eth_getCode", value="0x6000"),
    "no code": lambda head: Give("eth_getCode", value="0x"),
    "null blocks": lambda head: Give("eth_getBlockByNumber"),
    "false history": lambda head: Forge(
        to="checkpoint()", method="eth_call", change=lambda d: d and d[:66] + "66" * 32 + d[130:]
    ),
    "false digest": lambda head: Give(
        "eth_call", to="hashNodes(uint256,uint256)", value="0x" + "66" * 32
    ),
    "fewer tokens": lambda head: Give(
        "eth_call", to="nextTokenId()", value="0x" + "00" * 31 + "01"
    ),
    "all final": _false_tags,
}
FORGED = (
    "grant", "key", "revoke", "burn", "blocks", "time",
    "grant here", "key here", "revoke here", "burn here", "hide",
)  # fmt: skip
"""Lies that fit in themselves; those that end in `here` are told of a real block."""


class Careless(Fault):
    """Nothing is answered where lies that are told on top of each other do not fit together."""

    async def answer(self, call: Call, ask: Ask) -> Reply:
        """Answer, or give up."""
        try:
            return await ask(call)
        except (BadAnswerError, TypeError, ValueError, KeyError) as error:
            raise Hangup from error


# Playing


@dataclass(slots=True)
class Stage:
    """Three proxies, and a chain of its own for each plan.

    A chain of many plans would soon have more blocks than anvil keeps the states of in memory, and
    what it rolls back to then is an empty one.
    """

    proxies: tuple[Proxy, ...]
    direct: Proxy
    """Asks the chain itself."""
    directory: Path
    plans: int = 0
    last: Sequence[str] = ()
    """What happened in the last plan."""
    steps: int = 0
    """Steps that did something, so far."""
    seen: Counter[str] = field(default_factory=Counter)
    """How often what was the case, so that a test can tell that it tested something."""

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, directory: Path) -> "AsyncIterator[Stage]":
        """An empty one."""
        async with contextlib.AsyncExitStack() as stack:
            direct, *proxies = [
                await stack.enter_async_context(Proxy.open("")) for _ in range(1 + PROVIDERS)
            ]
            yield cls(tuple(proxies), direct, directory)

    async def play(self, plan: Plan) -> None:
        """Begin a chain, deploy a contract, and do what the plan says.

        Raises:
            AssertionError: the follower did what it must not do; with all that led there.
        """
        self.plans += 1
        store = Store(self.directory / f"state-{self.plans}.db")
        options = ["--slots-in-an-epoch", str(SLOTS)]
        async with local_chain(self.directory, f"chain-{self.plans}", options=options) as chain:
            for proxy in (self.direct, *self.proxies):
                proxy.honest()
                proxy.backend = chain.url
            nft = await AccessNFT.deploy(chain)
            await chain.set_automine(False)
            world = World(self, plan, nft, store)
            try:
                with capture_logs():
                    await world.play()
            except Exception as error:
                history = "\n".join(world.history)
                raise AssertionError(f"{error!r}\n{plan}\n{history}") from error
            finally:
                self.last = world.history
                await world.close()
                for proxy in (self.direct, *self.proxies):
                    proxy.drop()
                store.close()


class World:
    """One plan being played."""

    def __init__(self, stage: Stage, plan: Plan, nft: AccessNFT, store: Store) -> None:
        self.stage = stage
        self.plan = plan
        self.nft = nft
        self.chain = nft.chain
        self.store = store
        self.history: list[str] = []
        self.clock = Clock()
        self.source = random.Random(len(plan.steps))
        self.forger = Forger(nft.address, CHAIN_ID)
        self.liar = plan.liar
        self.lies: list[Fault] = []
        self.troubles: dict[int, Fault] = {}
        self.reference: Reference
        self.snapshots: list[tuple[str, int]] = []
        self.final = 0
        """Below it nothing is undone where blocks become final."""
        self.violations: list[str] = []
        self.waited = 0
        self.names = 0
        self.follower = self._new_follower()

    # The way through a plan

    async def close(self) -> None:
        """End what runs."""
        await self.follower.aclose()

    async def play(self) -> None:
        """Do every step, then let all be well, and see that it is."""
        self.reference = Reference(await self._first(), self.plan.depth)
        for step in self.plan.steps:
            act = getattr(self, "do_" + step.what)
            if await act(*step[1:]):
                self.stage.steps += 1
                self.stage.seen[step.what] += 1
        await self._end()

    def note(self, text: str) -> bool:
        """Tell what was done."""
        self.history.append(text)
        return True

    async def do_nothing(self, *_: int) -> bool:
        """What a step becomes that is not needed."""
        return False

    # The chain

    async def do_block(self, count: int, kind: int, chosen: int) -> bool:
        """A block with some writes to the contract."""
        done = [await self._write(kind // 11**i % 11, chosen + i) for i in range(1 + count)]
        await self.chain.mine(1)
        await self._observe()
        return self.note(f"block {self.reference.head.number}: {', '.join(done)}")

    async def do_mine(self, count: int, *_: int) -> bool:
        """Some empty blocks."""
        await self.chain.mine(1 + count)
        await self._observe()
        return self.note(f"mine to {self.reference.head.number}")

    async def do_time(self, seconds: int, *_: int) -> bool:
        """The chain's own clock goes on."""
        await self.chain.increase_time(seconds)
        await self._observe()
        return self.note(f"chain time + {seconds}, block {self.reference.head.number}")

    async def do_reorg(self, depth: int, *_: int) -> bool:
        """The last blocks are replaced by as many empty ones."""
        depth = min(1 + depth, self._deepest())
        if depth < 1:
            return False
        self.snapshots.clear()
        await self.chain.reorg(depth)
        await self._observe()
        return self.note(f"reorganisation of {depth}, head {self.reference.head.number}")

    async def do_rollback(self, depth: int, *_: int) -> bool:
        """The last blocks are dropped."""
        depth = min(1 + depth, self._deepest())
        if depth < 1:
            return False
        self.snapshots.clear()
        before = self.reference.head
        await self.chain.rollback(depth)
        await self._observe()
        assert self.reference.fork(before, self.reference.head) is self.reference.head
        return self.note(
            f"rollback of {depth} to {self.reference.head.number} {self.reference.head.hash[:8]}"
        )

    async def do_snapshot(self, *_: int) -> bool:
        """Remember where the chain is."""
        self.snapshots.append((await self.chain.snapshot(), self.reference.head.number))
        return self.note(f"snapshot at {self.reference.head.number}")

    async def do_revert(self, *_: int) -> bool:
        """Go back to the last snapshot."""
        if not self.snapshots or self.snapshots[-1][1] < self.final:
            return False
        await self.chain.revert(self.snapshots.pop()[0])
        await self._observe()
        return self.note(f"revert to {self.reference.head.number}")

    def _deepest(self) -> int:
        return self.reference.head.number - max(self.reference.first.number, self.final)

    async def _write(self, kind: int, chosen: int) -> str:
        """Hand one write to the chain; what the contract refuses fails in its block."""
        tokens = sorted(self.reference.head.tokens)
        if kind == 0 or not tokens:
            self.names += 1
            key = "" if chosen % 4 == 3 else new_key(self.source)
            to = await self.chain.account(chosen % ACCOUNTS)
            signature = "mintNodeAccess(address,string,string,string)"
            await self._submit(signature, to, f"n{self.names}", key, "")
            return f"mint n{self.names}{'' if key else ' without a key'}"
        token = tokens[chosen % len(tokens)]
        holder = await self._account_of(self.reference.head.tokens[token].holder)
        match kind:
            case 1 | 2:
                key = new_key(self.source)
                await self._submit("setPublicKey(uint256,string)", token, key, account=holder)
                return f"set the key of {token}"
            case 3:
                here = await self.chain.account(holder)
                there = await self.chain.account((holder + 1) % ACCOUNTS)
                signature = "transferFrom(address,address,uint256)"
                await self._submit(signature, here, there, token, account=holder)
                return f"transfer {token}"
            case 4 | 5:
                await self._submit("revokeNodeAccess(uint256)", token)
                return f"revoke {token}"
            case 6 | 7:
                await self._submit("restoreNodeAccess(uint256)", token)
                return f"restore {token}"
            case 8:
                await self._submit("burn(uint256)", token, account=holder)
                return f"burn {token}"
            case 9:
                expiry = self.reference.head.timestamp + (-5, 3, 30, 10**6)[chosen % 4]
                expiry = 0 if chosen % 5 == 4 else expiry
                await self._submit("renewNodeAccess(uint256,uint64)", token, expiry)
                return f"let {token} end at {expiry}"
            case _:
                text = f"198.51.100.{chosen % 200}:1"
                await self._submit("setEndpoint(uint256,string)", token, text, account=holder)
                return f"set the endpoint of {token}"

    async def _submit(self, signature: str, *values: Any, account: int = 0) -> None:
        # With a limit of gas nothing is estimated, and what fails does so in its block.
        data = calldata(signature, *values)
        await self.chain.submit(data, to=self.nft.address, account=account, gas=1_000_000)

    async def _account_of(self, holder: str) -> int:
        accounts = [(await self.chain.account(i)).lower() for i in range(ACCOUNTS)]
        return accounts.index(holder)

    # What the chain really has

    async def _first(self) -> Truth:
        head = await self.stage.direct.ask("eth_getBlockByNumber", "latest", False)
        return await self._read(head, None)

    async def _observe(self) -> None:
        """Read what is new on the chain itself."""
        ask, reference = self.stage.direct.ask, self.reference
        head = await ask("eth_getBlockByNumber", "latest", False)
        new = []
        raw = head
        while not reference.known(raw["hash"]):
            new.append(raw)
            raw = await ask("eth_getBlockByNumber", hex(int(raw["number"], 16) - 1), False)
        before = reference.block(raw["hash"])
        for raw in reversed(new):
            before = await self._read(raw, before)
            reference.add(before)
        reference.moved(head["hash"])

    async def _read(self, raw: Mapping[str, Any], before: Truth | None) -> Truth:
        tokens = before.tokens if before else {}
        stated = before.checkpoint if before else (0, b"", 0)
        if before is None or raw["transactions"]:
            at_block = {"blockHash": raw["hash"], "requireCanonical": True}

            async def call(signature: str, *values: int) -> bytes:
                transaction = {"to": self.nft.address, "data": calldata(signature, *values)}
                answer = await self.stage.direct.ask("eth_call", transaction, at_block)
                return bytes.fromhex(answer[2:])

            page = await call("getNodes(uint256,uint256)", 1, 100_000)
            (nodes,) = decode([f"{BYTES_TYPE}[]"], page)
            tokens = {
                n[0]: Token(n[1], n[2].decode(), n[3], n[7], n[8], n[9]) for n in nodes if n[0]
            }
            stated = decode(["uint64", "bytes32", "uint256"], await call("checkpoint()"))
        return Truth(
            number=int(raw["number"], 16),
            hash=raw["hash"],
            parent=raw["parentHash"],
            timestamp=int(raw["timestamp"], 16),
            tokens=tokens,
            checkpoint=stated,
        )

    # The providers

    async def do_trouble(self, which: int, kind: int, behind: int) -> bool:
        """A provider fails honestly, or is behind."""
        which %= PROVIDERS
        name = list(TROUBLES)[kind % len(TROUBLES)]
        head = max(self.reference.first.number, self.reference.head.number - behind)
        self.troubles[which] = TROUBLES[name](head)
        self._set_faults()
        return self.note(f"provider {which + 1} {name} (block {head})")

    async def do_heal(self, which: int, *_: int) -> bool:
        """A provider has no trouble any more; of one that lies, it lies on."""
        found = self.troubles.pop(which % PROVIDERS, None)
        self._set_faults()
        return found is not None and self.note(f"provider {which % PROVIDERS + 1} answers again")

    async def do_honest(self, *_: int) -> bool:
        """The liar is honest from now on."""
        found, self.lies = bool(self.lies), []
        self._set_faults()
        return found and self.note(f"provider {self.liar + 1} is honest")

    async def do_liar(self, which: int, *_: int) -> bool:
        """Another one may lie from now on, where nothing is left of what the one before said.

        Two that lie would be enough, and what a provider said last is its word until it says else.
        """
        said = self._witness(self.liar)
        if self.lies or isinstance(self.plan.confirmations, Tag):
            return False
        if said is not None and self._poisoned(said):
            return False
        self.liar = which % PROVIDERS
        return self.note(f"provider {self.liar + 1} may lie from now on")

    async def do_crude(self, kind: int, *_: int) -> bool:
        """The liar says what does not fit in itself."""
        name = list(CRUDE)[kind % len(CRUDE)]
        head = await self.stage.direct.ask("eth_getBlockByNumber", "latest", False)
        self.lies.append(CRUDE[name](head))
        self._set_faults()
        return self.note(f"provider {self.liar + 1} lies: {name}")

    async def do_forge(self, kind: int, chosen: int, more: int) -> bool:
        """The liar says what fits in itself."""
        name = FORGED[kind % len(FORGED)]
        proxy = self.stage.proxies[self.liar]
        # The forger goes on from what is told already, and sees no trouble on the way.
        proxy.fault = self.lies
        try:
            lie = await self._forge(proxy, name, chosen, more)
        except BadAnswerError:
            return False  # what it has told already leaves no room for it
        finally:
            self.lies = list(proxy.fault)
            self._set_faults()
        return self.note(f"provider {self.liar + 1} lies: {lie}")

    async def _forge(self, proxy: Proxy, name: str, chosen: int, more: int) -> str:
        forger = self.forger
        tokens = sorted((await forger.state(proxy)).nodes)
        token = tokens[chosen % len(tokens)] if tokens else 1
        how = {"real_block": True} if name.endswith(" here") else {}
        key = self.source.randbytes(32)
        match name.removesuffix(" here"):
            case "grant":
                if chosen % 2 or not tokens:
                    token = max(tokens, default=0) + 1
                await forger.grant(proxy, token, "mallory", key, **how)
            case "key" if tokens:
                await forger.swap_key(proxy, token, key, **how)
            case "revoke" if tokens:
                await forger.revoke(proxy, token, **how)
            case "burn" if tokens:
                await forger.burn(proxy, token, **how)
            case "hide":
                await forger.hide(proxy)
                return "the newest block changed nothing"
            case "time":
                later = self.reference.head.timestamp + (1, 100, 10**7)[chosen % 3]
                await forger.time(proxy, later)
                return f"a block of time {later}"
            case _:
                await forger.blocks(proxy, 1 + chosen)
                return f"{1 + chosen} blocks"
        if how:
            return f"{name}, of token {token}"
        if more:
            await forger.blocks(proxy, more)
        return f"{name}, of token {token}, and {more} blocks on top"

    def _set_faults(self) -> None:
        for i, proxy in enumerate(self.stage.proxies):
            trouble = self.troubles.get(i)
            lies = [*self.lies, Careless()] if i == self.liar and self.lies else []
            proxy.fault = [*lies, *([trouble] if trouble else ())]

    # The follower

    def _new_follower(self) -> Follower:
        urls = [at(proxy.url, host) for host, proxy in enumerate(self.stage.proxies, 2)]
        contract = Address(self.nft.address.lower())
        follower = Follower(
            providers=open_providers(urls, timeout=10.0),
            chain_id=CHAIN_ID,
            contract=contract,
            confirmations=self.plan.confirmations,
            quorum=NEEDED,
            kind=CheckpointContract(contract),
            rollback_patience=self.plan.patience,
            finality=isinstance(self.plan.confirmations, Tag),
            now=self.clock,
        )
        merge = follower._merge

        def watched() -> None:
            merge()
            self._check_admissions(follower.view)

        follower._merge = watched  # type: ignore[method-assign]
        self.heard_out: set[tuple[int, Any]] = set()
        return follower

    def _witness(self, i: int) -> Witness | None:
        witness = self.follower._witnesses[i]
        return witness if witness.journal is not None else None

    def _poisoned(self, witness: Witness) -> bool:
        """Whether what a witness heard last was not the truth."""
        assert witness.journal is not None
        head = witness.journal.head
        truth = self.reference.shown(head.block.hash)
        stated = (head.checkpoint.revision, head.checkpoint.history, head.checkpoint.member_count)
        return truth is None or truth.checkpoint != stated

    async def do_wait(self, kind: int, *_: int) -> bool:
        """Monotonic time goes by."""
        seconds = (1, 5, 20, 70, 3700, 200_000)[kind % 6]
        self.clock.now += seconds
        return self.note(f"{seconds} s go by")

    async def do_restart(self, kind: int, *_: int) -> bool:
        """The follower ends and another one begins, with what was saved or without."""
        await self.follower.aclose()
        kept = kind % 3 != 0
        if not kept:
            self.store.forget()
        self.follower = self._new_follower()
        saved = self.store.load()
        if saved is not None:
            self.follower._adopt(saved.membership)
        where = f"at block {saved.membership.block.number}" if saved else "with nothing"
        return self.note(f"restart {where}")

    async def do_poll(self, *_: int) -> bool:
        """A look at every provider."""
        self.clock.now += 0.25
        vouching = self._prepare(range(PROVIDERS))
        view = await self.follower.poll()
        self._settle(view, vouching, f"poll, vouched for by {[i + 1 for i in vouching]}")
        self._check_progress(view, vouching)
        return True

    async def do_look(self, which: int, *_: int) -> bool:
        """A look at one provider."""
        if self.follower._agreed is None:
            return False
        which %= PROVIDERS
        vouching = self._prepare([which])
        await self.follower._look(self.follower._witnesses[which])
        self._settle(self.follower.view, vouching, f"look at {which + 1}")
        return True

    def _prepare(self, asked: Sequence[int]) -> list[int]:
        """Who of those that are asked can vouch for the honest head."""
        self.reference.show()
        self.final = max(self.final, self.reference.head.number - DEPTHS[Tag.FINALIZED])
        if not isinstance(self.plan.confirmations, Tag):
            self.final = 0
        for i, provider in enumerate(self.follower._panel.providers):
            provider._not_before = 0.0
            provider._timeout = STALLED if isinstance(self.troubles.get(i), Stall) else 10.0
        return [i for i in asked if self._vouches(i)]

    def _vouches(self, i: int) -> bool:
        """Whether a provider is honest, has no trouble, and is heard when it says who is out.

        It is not while it is in quarantine, for what it said before; and where patience is asked
        for, not while its chain is shorter than the one that it, or that block of a liar that it
        once was, had shown. Who lied about the very block at which it is now is not asked again for
        it before another block comes.
        """
        if i in self.troubles or (i == self.liar and self.lies):
            return False
        witness, head = self._witness(i), self.reference.head
        if witness is None:
            return True
        assert witness.journal is not None
        block = witness.journal.head.block
        if self.plan.patience and head.number < block.number:
            return False
        if block.hash == head.hash and self._poisoned(witness):
            return False
        return not witness.quarantined(self.clock.now)

    def _settle(self, view: ChainView, vouching: Sequence[int], what: str) -> None:
        """Check what must hold after a look, and tell of it."""
        block = view.membership.block.number if view.membership else None
        granted = sorted(self._granted(view))
        short = view.membership.block.hash[:8] if view.membership else ""
        self.note(
            f"{what}: block {block} {short}{'' if view.verified else ', not verified'},"
            f" confirmed {view.confirmed}, in: {granted},"
            f" suspects {sorted(view.suspects)}, error {view.last_error}"
        )
        self._check_removals(view, vouching)
        if self.violations:
            raise AssertionError("; ".join(self.violations))
        membership = view.membership if view.verified else None
        if membership is not None:
            known = self.store.load()
            if known is None or known.membership.checkpoint != membership.checkpoint:
                self.store.save(membership, wall_now=time.time())

    # What must hold

    def _granted(self, view: ChainView) -> dict[int, Node]:
        """Who is in, by the rules of the reconciler."""
        membership = view.membership
        if membership is None:
            return {}
        confirmed = view.confirmed
        if not view.verified:
            confirmed = membership.block.number - self.plan.depth
            if isinstance(self.plan.confirmations, Tag):
                confirmed = membership.finalized.number if membership.finalized else None
        decisions = judge(
            membership,
            confirmed=confirmed,
            chain_now=membership.block.timestamp,
            suspects=view.suspects,
        )
        return {d.token_id: membership.nodes[d.token_id] for d in decisions if d.granted}

    def _check_admissions(self, view: ChainView) -> None:
        """No liar moves anything, and nobody is in who may not be; at any moment."""
        reference, membership = self.reference, view.membership
        if membership is None:
            return
        block = membership.block
        truth = reference.shown(block.hash)
        if truth is None:
            self.violations.append(f"the agreed block {block.number} is no honest one")
            return
        if (truth.number, truth.timestamp) != (block.number, block.timestamp):
            self.violations.append(f"the agreed block {block.number} is not as it was")
        stated = membership.checkpoint
        if truth.checkpoint != (stated.revision, stated.history, stated.member_count):
            self.violations.append(f"the checkpoint at block {block.number} is false")
        if truth.tokens != {t: _token(n) for t, n in membership.nodes.items()}:
            self.violations.append(f"the tokens at block {block.number} are false")
        most = max(0, reference.highest - reference.depth)
        if view.verified and view.confirmed is not None and view.confirmed > most:
            self.violations.append(f"admissions count up to {view.confirmed}")
        final = membership.finalized
        if final is not None:
            there = final.number < reference.first.number or reference.shown(final.hash)
            if not there or final.number > max(0, reference.highest - DEPTHS[Tag.FINALIZED]):
                self.violations.append(f"block {final.number} is taken to be final")
        for token_id, node in self._granted(view).items():
            if not reference.may_be_in(token_id, _token(node).access, truth):
                self.violations.append(f"token {token_id} is in and may not be")

    def _check_removals(self, view: ChainView, vouching: Sequence[int]) -> None:
        """Nobody is in whom an honest provider, asked just now, has out.

        Except for:
        - what is from the disk and not verified: it is held as a whole until enough have answered;
        - a member whose admission is not on the branch of those who have it out, while they are too
          few to leave the other branch: their word is about another admission. The same where
          their branch parts from ours below all that is kept of ours.
        """
        if not vouching or not view.verified:
            return
        membership, agreed = view.membership, self.follower._agreed
        assert membership is not None
        assert agreed is not None
        truth = self.reference.shown(membership.block.hash)
        assert truth is not None
        common = self.reference.fork(truth, self.reference.head).number
        for token_id, node in self._granted(view).items():
            access = _token(node).access
            why = self.reference.must_be_out(token_id, access, membership.block.timestamp)
            if why is None:
                continue
            if common < max(node.since_block, agreed.journal.oldest.block.number):
                self.stage.seen["held by another branch"] += 1
                continue
            who = " and ".join(str(i + 1) for i in vouching)
            self.violations.append(f"token {token_id} is in, but by {who} {why}")

    def _check_progress(self, view: ChainView, vouching: Sequence[int]) -> None:
        """What enough honest providers have is agreed on, whatever the liar says."""
        self.stage.seen["reorganisations"] += bool(view.reorgs)
        membership = view.membership
        there = membership is not None and membership.block.hash == self.reference.head.hash
        if len(vouching) < NEEDED or (view.verified and there):
            self.waited = 0
            return
        self.waited += 1
        if self.waited > MOST_POLLS:
            raise AssertionError(f"{vouching} agree, and nothing moves: {view.last_error}")

    # The end

    async def _end(self) -> None:
        """All is well again: the follower has what the contract has, and all members are in."""
        self.lies, self.troubles = [], {}
        self._set_faults()
        self.note("all is well again")
        for _ in range(MOST_POLLS):
            await self.do_mine(1 + self.plan.depth)
            self.clock.now += 5 + self.plan.patience
            await self.do_poll()
        await assert_same(self.follower, self.nft)
        view = self.follower.view
        assert not view.suspects
        assert set(self._granted(view)) == self.reference.members()
        for name in ("reorgs", "resyncs", "compares"):
            self.stage.seen[name] += getattr(view, name)


def _token(node: Node) -> Token:
    return Token(
        holder=node.holder,
        node_id=node.node_id,
        key=node.key,
        expires_at=node.expires_at,
        revoked=node.revoked,
        suspended=node.suspended,
    )
