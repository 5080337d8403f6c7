"""The tally and the agreed chain against a plain model, in memory: thousands of steps in seconds.

Three chains, as witnesses would have them: honest ones follow the truth when they are asked, all of
it or a part; one lies as it likes. What is agreed on must be the truth at some block, whatever
happens, and what an honest chain has against a member must be heard.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from chain.chains import Built, Changes, suspects
from chain.samples import node
from dstack_vpn.chain.agreed import Agreed
from dstack_vpn.chain.journal import Journal, Record
from dstack_vpn.chain.quorum import Quorum
from dstack_vpn.chain.tally import next_move
from dstack_vpn.mesh.access import judge
from dstack_vpn.mesh.membership import Address, BlockHash, Mark, Membership, Node, Nodes

NAMES = ("a", "b", "c")
LIAR = "c"
THREE = Quorum({name: name for name in NAMES}, 2)
TOKENS = 3
START = 10
WINDOW = 512

Act = tuple[str, int, int]


def state_of(kind: int, token: int, old: Node | None) -> Node | None:
    """A token after something happened to it."""
    plain = node(token) if old is None else old
    match kind % 6:
        case 0:
            return None if old else plain
        case 1:
            return replace(plain, revoked=True)
        case 2:
            return replace(plain, revoked=False)
        case 3:
            return replace(plain, key=bytes([kind + 1]) * 32)
        case 4:
            return replace(plain, expires_at=2_000_000_000 - kind)
        case _:
            return replace(plain, endpoint=f"198.51.100.{kind % 200}:1")


@dataclass
class Model:
    """The truth, and what is made of it."""

    truth: Built = field(default_factory=lambda: Built.at(START, 1, 2, window=WINDOW))
    records: dict[BlockHash, tuple[Record, Nodes]] = field(default_factory=dict)
    chains: dict[str, Built] = field(default_factory=dict)
    left: dict[str, set[BlockHash]] = field(default_factory=dict)
    branches: int = 0
    lied: bool = False

    def __post_init__(self) -> None:
        self.chains = {name: self.truth.copy() for name in NAMES}
        self.left = {name: set() for name in NAMES}
        self.agreed = Agreed(self.truth.journal.copy())
        self._remember()

    # What happens

    def act(self, act: Act) -> None:
        """Do one thing, and look at what comes of it."""
        what, a, b = act
        getattr(self, what)(a, b)

    def grow(self, kind: int, token: int) -> None:
        """A block of the honest chain."""
        self._grow(self.truth, kind, token)
        self._remember()

    def back(self, depth: int, _: int) -> None:
        """The honest chain loses blocks; what follows is another branch."""
        height = self.truth.journal.head.block.number
        final = self.agreed.finalized
        self.truth.back(min(1 + depth % 9, height - (final.number if final else START)))

    def sync(self, which: int, behind: int) -> None:
        """A provider that is honest at present is asked, and shows all or a part."""
        name = NAMES[which % 3]
        if name == LIAR and self.lied:
            return
        height = self.truth.journal.head.block.number
        self._follow(name, max(START, height - behind % 4 * (behind % 3)))
        self.check(name, whole=self.chains[name].journal.head.block.number == height)

    def lie(self, kind: int, token: int) -> None:
        """A block that only the liar has."""
        self.lied = True
        self._grow(self.chains[LIAR], kind, token)
        self.check(LIAR, whole=False)

    def restate(self, kind: int, token: int) -> None:
        """The liar has the newest honest block with other members in it."""
        self.lied = True
        self._follow(LIAR, self.truth.journal.head.block.number)
        chain = self.chains[LIAR].journal
        head, before = chain.head, chain.at(chain.head.block.number - 1)
        if before is None:
            return
        changes = self._changes(chain, kind, token, head.block.number)
        stated = replace(head.checkpoint, history=bytes([kind % 250 + 1]) * 32)
        step = replace(head.step, changes={**head.step.changes, **changes}, checkpoint=stated)
        chain.replace_after(before, [step])
        self.check(LIAR, whole=False)

    def leave(self, depth: int, _: int) -> None:
        """The liar goes back on its own chain."""
        chain = self.chains[LIAR]
        number = max(START, chain.journal.head.block.number - 1 - depth % 20)
        record = chain.journal.at(number)
        assert record is not None
        undone = chain.journal.replace_after(record, [])
        self.left[LIAR] |= {r.block.hash for r in undone}
        self.lied = True
        self.check(LIAR, whole=False)

    def repent(self, *_: int) -> None:
        """The liar is honest for a while, beginning anew on what is agreed on."""
        self.chains[LIAR] = Built(self.agreed.journal.copy())
        self.left[LIAR].clear()
        self.lied = False

    def final(self, depth: int, _: int) -> None:
        """A block of the agreed chain is final; the honest chain never goes back below it."""
        number = self.agreed.head.block.number - 9 - depth % 5
        record = self.agreed.journal.at(number)
        old = self.agreed.finalized
        if record is None or (old is not None and number <= old.number):
            return
        if self.truth.journal.find(record.block.hash) is not None:
            self.agreed.finalized = Mark(number, record.block.hash)

    def _grow(self, chain: Built, kind: int, token: int) -> None:
        self.branches += 1
        journal = chain.journal
        number = journal.head.block.number + 1
        chain.grow(self._changes(journal, kind, token, number), branch=self.branches)

    def _changes(self, journal: Journal, kind: int, token: int, number: int) -> Changes:
        if kind % 7 == 6:
            return {}
        token = 1 + token % TOKENS
        new = state_of(kind, token, journal.nodes.get(token))
        return {token: new and replace(new, since_block=number)}

    def _remember(self) -> None:
        journal = self.truth.journal
        self.records.setdefault(journal.head.block.hash, (journal.head, journal.nodes))

    def _follow(self, name: str, number: int) -> None:
        """Let a chain become the truth up to a height, as a witness does it."""
        mine, truth = self.chains[name].journal, self.truth.journal
        common = mine.common(truth)
        assert common is not None
        base = common if common.block.number <= number else mine.at(number)
        theirs = truth.at(base.block.number) if base else None
        assert base is not None
        assert theirs is not None
        steps = [r.step for r in truth.after(theirs) if r.block.number <= number]
        undone = mine.replace_after(base, steps)
        self.left[name] |= {r.block.hash for r in undone if mine.find(r.block.hash) is None}

    # What must hold

    def check(self, name: str, *, whole: bool) -> None:
        """Move as the follower does, and see what came of it."""
        journals = {n: c.journal for n, c in self.chains.items()}
        agreed = self.agreed
        before = {t: n.access_state for t, n in agreed.journal.nodes.items()}
        move = next_move(THREE, journals, agreed.journal, self.left, agreed.finalized)
        if move is not None:
            kept, undone = agreed.move(move, journals)
            if undone:
                self._check_return(before, kept)
        self._check_truth()
        for n in NAMES:
            journals[n].keep_from = agreed.head.block.number
        if whole:
            self._check_removals(name)

    def _check_truth(self) -> None:
        """What is agreed on is the truth at a block, and no access is older than it really is."""
        head, nodes = self.agreed.head, self.agreed.journal.nodes
        there = self.records.get(head.block.hash)
        assert there is not None, "the agreed block is no honest one"
        record, true = there
        assert record.same(head)
        plain = {t: replace(n, since_block=0) for t, n in nodes.items()}
        assert plain == {t: replace(n, since_block=0) for t, n in true.items()}
        for token, ours in nodes.items():
            # Where the chain was only cut, what it gives back waits for its next block.
            assert ours.since_block <= head.block.number + 1
            if ours.active:
                assert ours.since_block >= self._since(token, head.block.hash)

    def _since(self, token: int, block_hash: BlockHash) -> int:
        """Since which block the access has really held, on the branch that ends here."""
        record, nodes = self.records[block_hash]
        access, number = nodes[token].access_state, record.block.number
        while (there := self.records.get(record.block.parent_hash)) is not None:
            record, nodes = there
            held = nodes.get(token)
            if held is None or held.access_state != access:
                break
            number = record.block.number
        return number

    def _check_return(self, before: Mapping[int, object], kept: Record) -> None:
        """What a reorganisation gave access is as new as the branch that brought it."""
        first = kept.block.number + 1
        for token, ours in self.agreed.journal.nodes.items():
            if before.get(token) != ours.access_state:
                assert ours.since_block >= first

    def _check_removals(self, name: str) -> None:
        """What an honest chain that was just asked for all has against a member is heard."""
        agreed, theirs = self.agreed.journal, self.chains[name].journal
        found = suspects({name: theirs}, agreed)
        common = agreed.common(theirs)
        assert common is not None
        membership = Membership(
            chain_id=1,
            contract=Address("0x" + "11" * 20),
            genesis=agreed.head.block.hash,
            code_hash=b"",
            block=agreed.head.block,
            checkpoint=agreed.head.checkpoint,
            nodes=agreed.nodes,
        )
        decisions = judge(
            membership, confirmed=agreed.head.block.number, chain_now=0, suspects=found
        )
        for token in [d.token_id for d in decisions if d.granted]:
            ours, now = agreed.nodes[token], theirs.nodes.get(token)
            out = now is None or now.access_state != ours.access_state
            assert not out or ours.since_block > common.block.number


acts = st.one_of(
    *(
        st.tuples(st.just(what), st.integers(0, 40), st.integers(0, 11))
        for what, weight in {"sync": 6, "grow": 5, "back": 1, "lie": 2, "restate": 1}.items()
        for _ in range(weight)
    ),
    *(
        st.tuples(st.just(what), st.integers(0, 40), st.just(0))
        for what in ("leave", "repent", "final")
    ),
)


@seed(1)
@settings(max_examples=150, database=None, suppress_health_check=list(HealthCheck))
@given(st.lists(acts, min_size=30, max_size=120))
def test_what_is_agreed_on_is_the_truth(plan: list[Act]) -> None:
    """Safety after every step, over thousands of them."""
    model = Model()
    for act in plan:
        model.act(act)
    model.repent()
    model.grow(6, 0)
    for which in (0, 1, 2):
        model.sync(which, 0)
    assert model.agreed.head.same(model.truth.journal.head)
