"""Tokens of a contract with only the published interface: who has access after some events."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.samples import CHAIN_ID, CONTRACT, block
from dstack_vpn.chain.published import (
    NOBODY,
    Access,
    Event,
    Granted,
    KeyUpdated,
    Moved,
    Placed,
    Position,
    Revoked,
)
from dstack_vpn.chain.tokens import (
    History,
    State,
    admits,
    concerned,
    settle,
    settle_all,
    state_of,
    step,
    summarize,
)
from dstack_vpn.chain.verify import apply_changes
from dstack_vpn.mesh.membership import NO_NODES, ZERO_KEY, Address, Checkpoint, Node, Nodes

ANN, BOB, EVE = (Address("0x" + f"{n:02x}" * 20) for n in (0xA1, 0xB2, 0xE3))
K1, K2, K3 = (bytes([n]) * 32 for n in (1, 2, 3))


def at(number: int, *events: Event) -> list[Placed]:
    """Events of one block."""
    return [Placed(Position(number, i), event) for i, event in enumerate(events)]


def state(key: bytes = K1, holder: Address = ANN, **changes: Any) -> State:
    plain = Access(node_id="a", key=key, created_at=1000, active=True)
    return State(replace(plain, **changes), holder)


def granted(token: int = 1, key: bytes = K1, owner: Address = ANN) -> Granted:
    return Granted(token, "a", owner, key)


MINT = (Moved(1, NOBODY, ANN), granted())


def after(
    *events: Placed, now: State | None = None, before: Node | None = None, number: int = 20
) -> Node:
    """Token 1 after events."""
    node = settle(1, before, History(events), now or state(), block=number)
    assert node is not None
    return node


def test_a_minted_token_is_active_since_its_mint() -> None:
    """Key, holder and name come from the state, the age of access from the history."""
    node = after(*at(5, *MINT))
    assert node == Node(
        token_id=1,
        holder=ANN,
        node_id="a",
        key=K1,
        endpoint="",
        role=bytes(32),
        created_at=1000,
        expires_at=0,
        revoked=False,
        suspended=False,
        since_block=5,
    )


def test_the_events_of_a_mint_may_come_in_either_order() -> None:
    """`Transfer` from nobody after the grant does not take the key away."""
    assert after(*at(5, *reversed(MINT))) == after(*at(5, *MINT))


@pytest.mark.parametrize("receiver", [BOB, ANN])
def test_a_transfer_suspends_even_where_the_key_stays(receiver: Address) -> None:
    """The seller's key is not the buyer's; a transfer to oneself is a transfer too."""
    sold = at(9, Moved(1, ANN, receiver))
    assert after(*at(5, *MINT), *sold, now=state(holder=receiver)).suspended


def test_a_key_set_after_the_transfer_lets_the_buyer_in() -> None:
    """By an update of his own, or by a grant to him."""
    sold = [*at(5, *MINT), *at(9, Moved(1, ANN, BOB), Moved(1, ANN, BOB))]
    for event in (KeyUpdated(BOB, K2), granted(1, K2, BOB)):
        node = after(*sold, *at(12, event), now=state(K2, BOB))
        assert node.active
        assert node.since_block == 12


def test_the_seller_cannot_set_the_buyers_key() -> None:
    """An update by another owner, though the token has that key, is not one of this token's."""
    sold = [*at(5, *MINT), *at(9, Moved(1, ANN, BOB))]
    assert after(*sold, *at(12, KeyUpdated(ANN, K1)), now=state(K1, BOB)).suspended


def test_order_within_a_block_decides() -> None:
    """A key set before the transfer of the same block does not count, one set after it does."""
    sale, update = Moved(1, ANN, BOB), KeyUpdated(BOB, K2)
    assert after(*at(5, *MINT), *at(9, update, sale), now=state(K2, BOB)).suspended
    assert after(*at(5, *MINT), *at(9, sale, update), now=state(K2, BOB)).active


def test_an_event_with_another_key_does_not_count() -> None:
    """Of two tokens of one owner, the update is about the one that has the key now."""
    sold = [*at(5, *MINT), *at(9, Moved(1, ANN, BOB))]
    assert after(*sold, *at(12, KeyUpdated(BOB, K3)), now=state(K1, BOB)).suspended


def test_what_was_set_before_the_mint_does_not_count() -> None:
    """A token that is minted with a key that no event of its block sets is suspended."""
    early = at(2, KeyUpdated(ANN, K1))
    assert after(*early, *at(5, Moved(1, NOBODY, ANN), granted(1, ZERO_KEY))).suspended


def test_a_holder_that_changed_without_an_event_is_suspended() -> None:
    """Whoever holds it now did not set the key."""
    assert after(*at(5, *MINT), now=state(K1, BOB)).suspended
    known = after(*at(5, *MINT))
    assert after(before=known, now=state(K1, BOB)).suspended


def test_a_key_that_changed_without_an_event_is_suspended() -> None:
    """Nobody set it."""
    known = after(*at(5, *MINT))
    assert after(before=known, now=state(K2)).suspended


def test_a_token_without_a_key_is_invited() -> None:
    """No key is no suspension, unless a transfer took it."""
    invited = at(5, Moved(1, NOBODY, ANN), granted(1, ZERO_KEY))
    node = after(*invited, now=state(ZERO_KEY))
    assert (node.suspended, node.active) == (False, False)
    sold = [*invited, *at(9, Moved(1, ANN, BOB))]
    taken = after(*sold, now=state(ZERO_KEY, BOB))
    assert taken.suspended
    assert after(before=taken, now=state(ZERO_KEY, BOB)).suspended
    # He set a key and took it back.
    undone = [*at(11, KeyUpdated(BOB, K2)), *at(12, KeyUpdated(BOB, ZERO_KEY))]
    for placed, known in (([*sold, *undone], None), (undone, taken)):
        assert not after(*placed, before=known, now=state(ZERO_KEY, BOB)).suspended


def test_a_revoked_token_is_revoked_by_its_state() -> None:
    """Whatever the events say; a grant after it counts confirmations anew."""
    out = [*at(5, *MINT), *at(9, Revoked(1, "a"))]
    assert after(*out, now=state(active=False)).revoked
    back = after(*out, *at(15, granted()))
    assert (back.active, back.since_block) == (True, 15)
    # Given back by an event that the interface does not have: not older than we know.
    assert after(*out).since_block == 20


def test_a_key_is_as_old_as_when_it_was_first_set() -> None:
    """Setting one's key again must not let a copy of it become the older one."""
    again = [*at(5, *MINT), *at(9, KeyUpdated(ANN, K1)), *at(11, granted())]
    assert after(*again).since_block == 5
    known = after(*at(5, *MINT))
    assert after(*at(9, KeyUpdated(ANN, K1)), before=known).since_block == 5


@pytest.mark.parametrize(
    "state_read",
    [state_of(None, ANN), state_of(state().access, None), state_of(state().access, NOBODY)],
)
def test_a_token_that_cannot_be_read_is_gone(state_read: State | None) -> None:
    """A view that refuses, or a holder who is nobody."""
    known = after(*at(5, *MINT))
    assert settle(1, known, History(()), state_read, block=9) is None


def test_all_tokens_of_whoever_is_named_are_read_again() -> None:
    """Requirement 9: `PublicKeyUpdated` concerns every token that its owner holds.

    So does every other event, since the key may be the owner's and not the token's; and a node id
    that is named concerns all tokens that have it.
    """

    def node(token: int, holder: Address, name: str) -> Node:
        return replace(after(*at(5, *MINT)), token_id=token, holder=holder, node_id=name)

    nodes = {1: node(1, ANN, "a"), 2: node(2, ANN, "b"), 3: node(3, BOB, "c"), 4: node(4, EVE, "d")}
    assert concerned(at(9, KeyUpdated(ANN, K1)), nodes) == {1, 2}
    assert concerned(at(9, Moved(3, BOB, ANN)), nodes) == {1, 2, 3}
    assert concerned(at(9, Moved(9, NOBODY, EVE)), nodes) == {4, 9}
    assert concerned(at(9, Revoked(3, "d")), nodes) == {3, 4}
    assert concerned(at(9, Granted(9, "c", EVE, K1)), nodes) == {3, 4, 9}
    assert concerned([], nodes) == set()


def test_a_checkpoint_is_made_of_content() -> None:
    """Everything that access rests on changes it, but not how far back access is known."""
    node = after(*at(5, *MINT))

    def of(*nodes: Node) -> Checkpoint:
        return summarize({n.token_id: n for n in nodes}, chain_id=CHAIN_ID, contract=CONTRACT)

    base = of(node)
    assert (base.revision, base.member_count) == (1, 1)
    assert of(replace(node, since_block=6)) == base
    changes: list[dict[str, Any]] = [
        {"token_id": 2},
        {"holder": BOB},
        {"node_id": "b"},
        {"node_id": ""},
        {"key": K2},
        {"key": K1 + b"x"},
        {"created_at": 1001},
        {"revoked": True},
        {"suspended": True},
    ]
    others = [of(replace(node, **change)) for change in changes]
    assert len({base, of(), *others}) == len(others) + 2
    second = replace(node, token_id=2)
    assert of(node, second) == of(second, node) != base
    elsewhere = summarize({1: node}, chain_id=1, contract=CONTRACT)
    assert elsewhere.history != base.history


def test_only_who_gets_in_needs_the_receipts() -> None:
    """A removal is not held up; an admission, or a step towards one, is checked."""
    active = after(*at(5, *MINT))
    revoked, suspended = replace(active, revoked=True), replace(active, suspended=True)
    assert admits({1: active}, {})
    assert admits({1: active}, {1: revoked})
    assert admits({1: active}, {1: suspended})
    assert admits({1: revoked}, {1: replace(suspended, revoked=True)})
    assert admits({1: replace(active, key=K2)}, {1: active})
    assert not admits({1: revoked}, {1: active})
    assert not admits({1: suspended}, {1: active})
    assert not admits({1: None}, {1: active})
    assert not admits({}, {1: active})


@dataclass
class Model:
    """A contract that logs what it changes, with some habits, and knows the truth."""

    keep_key: bool
    key_of_owner: bool
    tokens: dict[int, dict[str, Any]] = field(default_factory=dict)
    keys: dict[Address, bytes] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    serial: int = 3

    def act(self, what: int, token: int, who: int, *, turned: bool) -> None:
        """Do one write; what is not possible does nothing."""
        holder = (ANN, BOB, EVE)[who]
        self.serial += 1
        fresh = self.serial.to_bytes(32, "big")
        if what == 0:
            token = len(self.tokens) + 1
            self.tokens[token] = {"holder": holder, "active": True, "key": ZERO_KEY, "set": False}
            self._set(token, fresh)
            events: list[Event] = [Moved(token, NOBODY, holder)]
            self._log([*events, Granted(token, f"n{token}", holder, fresh)], turned=turned)
            return
        shown = self.tokens.get(token)
        if shown is None or shown["holder"] == NOBODY:
            return
        if what == 1:
            self._set(token, fresh)
            self._log([KeyUpdated(shown["holder"], fresh)], turned=turned)
        elif what == 2:
            sale = Moved(token, shown["holder"], holder)
            shown |= {"holder": holder, "set": False}
            shown["key"] = shown["key"] if self.keep_key else ZERO_KEY
            self._log([sale, sale], turned=turned)
        elif what == 6:
            self._set(token, ZERO_KEY)
            self._log([KeyUpdated(shown["holder"], ZERO_KEY)], turned=turned)
        elif what == 3:
            shown["active"] = False
            self._log([Revoked(token, f"n{token}")], turned=turned)
        elif what == 4:
            shown |= {"active": True}
            self._mark_set(token)
            event = Granted(token, f"n{token}", shown["holder"], self._key(token))
            self._log([event], turned=turned)
        else:
            self._log([Moved(token, shown["holder"], NOBODY)], turned=turned)
            shown |= {"holder": NOBODY, "set": False}

    def _set(self, token: int, key: bytes) -> None:
        shown = self.tokens[token]
        shown["key"] = key
        self.keys[shown["holder"]] = key
        self._mark_set(token)

    def _mark_set(self, token: int) -> None:
        shown = self.tokens[token]
        shown["set"] = True
        for other in self.tokens.values():
            if self.key_of_owner and other["holder"] == shown["holder"]:
                other["set"] = True

    def _key(self, token: int) -> bytes:
        shown = self.tokens[token]
        return self.keys.get(shown["holder"], ZERO_KEY) if self.key_of_owner else shown["key"]

    def _log(self, events: list[Event], *, turned: bool) -> None:
        self.events += reversed(events) if turned else events

    def states(self) -> dict[int, State | None]:
        """What the views say of each token."""
        return {
            t: state_of(Access(f"n{t}", self._key(t), t, shown["active"]), shown["holder"])
            for t, shown in self.tokens.items()
        }

    def truth(self) -> dict[int, tuple[Address, bytes, bool, bool]]:
        """Holder, key, revoked and suspended of each token that exists."""
        return {
            t: (
                shown["holder"],
                self._key(t),
                not shown["active"],
                not shown["set"] and self._key(t) != ZERO_KEY,
            )
            for t, shown in self.tokens.items()
            if shown["holder"] != NOBODY
        }


acts = st.tuples(st.integers(0, 6), st.integers(1, 4), st.integers(0, 2), st.booleans())


def content(nodes: Nodes) -> dict[int, tuple[Address, bytes, bool, bool]]:
    """As `Model.truth`; whoever has no key may have been left without it in more than one way."""
    return {
        t: (n.holder, n.key, n.revoked, n.suspended and n.key != ZERO_KEY) for t, n in nodes.items()
    }


@settings(max_examples=300)
@given(
    blocks=st.lists(st.lists(acts, max_size=3), max_size=12),
    keep_key=st.booleans(),
    key_of_owner=st.booleans(),
    cut=st.integers(0, 12),
)
def test_every_way_through_the_history_leads_to_the_same(
    blocks: Sequence[Sequence[tuple[int, int, int, bool]]],
    cut: int,
    *,
    keep_key: bool,
    key_of_owner: bool,
) -> None:
    """Block by block, at once, or at once from a saved state: all arrive at the truth.

    And the ages of active tokens are those of a follower that saw each block, whichever way.
    """
    model = Model(keep_key, key_of_owner)
    everything: list[Placed] = []
    nodes, saved, saved_at = NO_NODES, NO_NODES, 0
    checkpoint = summarize(nodes, chain_id=CHAIN_ID, contract=CONTRACT)
    for number, writes in enumerate(blocks, 1):
        model.events = []
        for what, token, who, turned in writes:
            model.act(what, token, who, turned=turned)
        events = at(number, *model.events)
        everything += events
        if events:
            touched = concerned(events, nodes)
            states = {t: s for t, s in model.states().items() if t in touched}
            folded = step(
                block(number), events, states, nodes, chain_id=CHAIN_ID, contract=CONTRACT
            )
            nodes, checkpoint = apply_changes(nodes, folded.changes), folded.checkpoint
        assert content(nodes) == model.truth()
        if number <= cut:
            saved, saved_at = nodes, number
    last = len(blocks)
    full = settle_all(NO_NODES, History(everything), model.states(), block=last)
    later = [p for p in everything if p.at.block > saved_at]
    resumed = settle_all(saved, History(later), model.states(), block=last)
    for found in (full, resumed):
        assert content(found) == model.truth()
        assert summarize(found, chain_id=CHAIN_ID, contract=CONTRACT) == checkpoint
        ages = {t: n.since_block for t, n in found.items() if n.active}
        assert ages == {t: n.since_block for t, n in nodes.items() if n.active}
