"""Access control: the verdict on every token, and that nothing else lets anybody in."""

from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.mesh.access import Verdict, find, is_node_id, judge, judge_self
from dstack_vpn.mesh.membership import ZERO_KEY, Node
from mesh.build import BLOCK, BUYER, CHAIN_NOW, decide, key_of, membership, node, suspect

WORDS = (
    "ACCESS_GRANTED NODE_NOT_FOUND NO_KEY REVOKED SUSPENDED_BY_TRANSFER EXPIRED KEY_INVALID"
    " KEY_DUPLICATE NODE_ID_INVALID NODE_ID_DUPLICATE PUBLIC_KEY_MISMATCH UNADDRESSABLE"
    " NOT_YET_CONFIRMED SOURCE_DISPUTED"
)

HOSTILE_NODE_IDS = [
    "",
    "A",
    "UPPER",
    "-a",
    "a-",
    "a_b",
    "a.b",
    "a b",
    "a" * 64,
    "a\n",
    "\na",
    "a\0",
    "\u0430",
    "\uff41",
    "a\u202e",
    "../etc",
    "{node_id}",
    "<script>",
    "'; DROP TABLE nodes; --",
    "\x1b[2J",
    "\ufffd00",
    "x" * 1_000_000,
]

TABLE: list[tuple[Node, Verdict, str]] = [
    (node(), Verdict.ACCESS_GRANTED, "active, unexpired and with a valid key"),
    (node(revoked=True), Verdict.REVOKED, "the contract's owner or a guardian revoked"),
    (node(suspended=True), Verdict.SUSPENDED_BY_TRANSFER, "the token was transferred"),
    (node(key=ZERO_KEY), Verdict.NO_KEY, "has no WireGuard key yet"),
    (node(key=b"short"), Verdict.KEY_INVALID, "not 32 bytes"),
    (node(key=b""), Verdict.KEY_INVALID, "not 32 bytes"),
    (node(key=b"k" * 33), Verdict.KEY_INVALID, "not 32 bytes"),
    (node(expires_at=CHAIN_NOW - 1), Verdict.EXPIRED, f"ended at chain time {CHAIN_NOW - 1}"),
    (node(expires_at=1), Verdict.EXPIRED, "ended at chain time 1"),
    (node(node_id="Upper"), Verdict.NODE_ID_INVALID, "not a lower-case DNS label"),
    (node(2**64), Verdict.UNADDRESSABLE, "from 1 to 2^64-1"),
    (node(2**256 - 1, node_id="a"), Verdict.UNADDRESSABLE, "from 1 to 2^64-1"),
    (node(0, key=b"k" * 32), Verdict.UNADDRESSABLE, "from 1 to 2^64-1"),
    (node(2**64 - 1), Verdict.ACCESS_GRANTED, "active"),
    (node(since_block=BLOCK), Verdict.NOT_YET_CONFIRMED, "admitted at block 1000; admissions"),
    (node(since_block=BLOCK - 4), Verdict.NOT_YET_CONFIRMED, "count up to block 995"),
    # What the owner did comes before what the holder did, and both before what is missing.
    (node(revoked=True, suspended=True, key=ZERO_KEY), Verdict.REVOKED, "revoked"),
    (node(suspended=True, key=ZERO_KEY), Verdict.SUSPENDED_BY_TRANSFER, "transferred"),
    (node(revoked=True, since_block=BLOCK), Verdict.REVOKED, "revoked"),
]


def test_words_are_the_fixed_list() -> None:
    """Scripts match on these words; a word is its own value."""
    assert [str(v) for v in Verdict] == WORDS.split()
    assert [v.name for v in Verdict] == WORDS.split()


@pytest.mark.parametrize(("token", "verdict", "reason"), TABLE)
def test_verdict_on_one_token(token: Node, verdict: Verdict, reason: str) -> None:
    """Each state of a token has one verdict, and says why."""
    (decision,) = decide([token], confirmations=5)
    assert decision.verdict is verdict
    assert reason in decision.reason
    assert (decision.token_id, decision.node_id) == (token.token_id, token.node_id)
    assert decision.granted == (verdict is Verdict.ACCESS_GRANTED)


@pytest.mark.parametrize("node_id", HOSTILE_NODE_IDS)
def test_hostile_node_ids(node_id: str) -> None:
    """A node id that is no lower-case DNS label lets nobody in, and no reason quotes it."""
    assert not is_node_id(node_id)
    (decision,) = decide([node(node_id=node_id)])
    assert decision.verdict is Verdict.NODE_ID_INVALID
    assert decision.reason.isprintable()
    assert len(decision.reason) < 100


@pytest.mark.parametrize("node_id", ["a", "0", "a-b", "a--b", "0-0", "a" * 63, "localhost"])
def test_good_node_ids(node_id: str) -> None:
    """DNS labels of up to 63 letters, digits and hyphens are node ids."""
    assert is_node_id(node_id)


@pytest.mark.parametrize(
    ("expires_at", "verdict"),
    [
        (CHAIN_NOW + 1, Verdict.ACCESS_GRANTED),
        (CHAIN_NOW, Verdict.EXPIRED),
        (CHAIN_NOW - 1, Verdict.EXPIRED),
        (0, Verdict.ACCESS_GRANTED),
    ],
)
def test_expiry_boundary(expires_at: int, verdict: Verdict) -> None:
    """Access ends at the very second of `expires_at`; 0 is never."""
    (decision,) = decide([node(expires_at=expires_at)])
    assert decision.verdict is verdict


def test_expiry_within_a_second() -> None:
    """Chain time runs on between blocks, so a fraction before the end is still in."""
    tokens = membership([node(expires_at=CHAIN_NOW)])
    (before,) = judge(tokens, confirmed=BLOCK, chain_now=CHAIN_NOW - 0.001)
    (after,) = judge(tokens, confirmed=BLOCK, chain_now=CHAIN_NOW + 0.001)
    assert (before.granted, after.granted) == (True, False)


@pytest.mark.parametrize(
    ("since_block", "confirmations", "granted"),
    [
        (BLOCK, 0, True),
        (BLOCK, 1, False),
        (BLOCK - 4, 5, False),
        (BLOCK - 5, 5, True),
        (BLOCK - 6, 5, True),
    ],
)
def test_confirmations_boundary(since_block: int, confirmations: int, granted: bool) -> None:
    """A node is in once so many blocks are on top of its own, and not one sooner."""
    (decision,) = decide([node(since_block=since_block)], confirmations=confirmations)
    assert decision.granted == granted


def test_while_no_admission_counts_nobody_is_in() -> None:
    """Before it is known how deep an admission is, it counts for nothing."""
    (decision,) = judge(membership([node()]), confirmed=None, chain_now=CHAIN_NOW)
    assert decision.verdict is Verdict.NOT_YET_CONFIRMED
    assert decision.reason == "admitted at block 1; no admission counts yet"


@pytest.mark.parametrize(
    ("told", "what"),
    [
        (None, "was burned"),
        (node(revoked=True), "was revoked"),
        (node(revoked=True, holder=BUYER), "was revoked"),
        (node(holder=BUYER, suspended=True, key=ZERO_KEY), "was transferred"),
        (node(holder=BUYER), "was transferred"),
        (node(suspended=True, key=ZERO_KEY), "was suspended by a transfer"),
        (node(key=ZERO_KEY), "has no key any more"),
        (node(key=b"k" * 32), "has another key"),
        (node(node_id="\x1b[2J"), "has another node id"),
        (node(expires_at=CHAIN_NOW), f"ended at chain time {CHAIN_NOW}"),
    ],
)
def test_a_single_provider_puts_a_member_out(told: Node | None, what: str) -> None:
    """On the word of one source a member is out at once; the reason says whose, and what it is."""
    tokens = membership([node(), node(2)])
    suspects = {1: suspect(told), 9: suspect(None)}
    out, other = judge(tokens, confirmed=BLOCK, chain_now=CHAIN_NOW, suspects=suspects)
    assert other.granted
    assert out.verdict is Verdict.SOURCE_DISPUTED
    assert out.reason == (
        f"rpc-1.example#1 says that at block {BLOCK + 2} the token {what}; the other providers"
        " have not confirmed it yet"
    )


def test_several_providers_that_are_not_enough_are_all_named() -> None:
    """Two of five are no quorum; both are named."""
    suspects = {1: suspect(None, providers=2)}
    (out,) = judge(membership([node()]), confirmed=BLOCK, chain_now=CHAIN_NOW, suspects=suspects)
    assert out.reason.startswith("rpc-1.example#1 and rpc-2.example#2 say that at block ")


@pytest.mark.parametrize(
    "told",
    [
        node(),
        node(endpoint="192.0.2.1:1"),
        node(expires_at=CHAIN_NOW + 1),
        node(since_block=BLOCK + 1, created_at=7),
    ],
)
def test_what_changes_no_access_puts_nobody_out(told: Node) -> None:
    """Another endpoint, an end that is to come: that is no reason to cut a member off."""
    suspects = {1: suspect(told)}
    (decision,) = judge(
        membership([node()]), confirmed=BLOCK, chain_now=CHAIN_NOW, suspects=suspects
    )
    assert decision.granted


def test_a_single_provider_lets_nobody_in() -> None:
    """Who is out by what the providers agree on stays so, for that reason, whatever one says."""
    tokens = membership([node(1, revoked=True), node(2, since_block=BLOCK)])
    told = {1: suspect(node(1)), 2: suspect(None), 3: suspect(node(3))}
    facts: dict[str, Any] = {"confirmed": BLOCK - 1, "chain_now": CHAIN_NOW}
    assert judge(tokens, **facts, suspects=told) == judge(tokens, **facts)


def test_who_is_only_suspected_keeps_key_and_node_id() -> None:
    """A lie about a member does not open the door to a copy of its key, nor of its name."""
    member = node(1, node_id="db", created_at=10, since_block=10)
    copies = [
        node(2, key=member.key, created_at=20, since_block=20),
        node(3, node_id="db", created_at=20, since_block=20),
    ]
    decisions = judge(
        membership([member, *copies]),
        confirmed=BLOCK,
        chain_now=CHAIN_NOW,
        suspects={1: suspect(None)},
    )
    verdicts = [d.verdict for d in decisions]
    assert verdicts == [
        Verdict.SOURCE_DISPUTED,
        Verdict.KEY_DUPLICATE,
        Verdict.NODE_ID_DUPLICATE,
    ]


def test_first_to_set_a_key_keeps_it() -> None:
    """Copying a member's key evicts nobody, not even from a token that was minted earlier."""
    copier = node(1, key=b"k" * 32, created_at=10, since_block=300)
    member = node(2, key=b"k" * 32, created_at=20, since_block=200)
    first, second = decide([copier, member])
    assert (first.verdict, second.verdict) == (Verdict.KEY_DUPLICATE, Verdict.ACCESS_GRANTED)
    assert first.reason == "token 2 registered this key first"


def test_earlier_mint_keeps_the_key_when_the_setting_is_not_known() -> None:
    """Of two tokens read in one snapshot, the one that was minted first keeps the key."""
    newer = node(1, key=b"k" * 32, created_at=20)
    older = node(2, key=b"k" * 32, created_at=10)
    assert [d.granted for d in decide([newer, older])] == [False, True]
    same_time = [node(i, key=b"k" * 32) for i in (3, 2)]
    assert [d.granted for d in decide(same_time)] == [True, False]


def test_first_to_be_minted_keeps_the_node_id() -> None:
    """A second token with a member's node id stays out, even after the member changed its key."""
    member = node(1, node_id="db", created_at=10, since_block=300)
    copier = node(2, node_id="db", created_at=20, since_block=200)
    first, second = decide([member, copier])
    assert (first.verdict, second.verdict) == (Verdict.ACCESS_GRANTED, Verdict.NODE_ID_DUPLICATE)
    assert second.reason == "token 1 registered this node id first"


def test_who_is_out_holds_nothing() -> None:
    """A revoked token keeps neither its key nor its node id from another."""
    gone = node(1, node_id="db", key=b"k" * 32, revoked=True)
    heir = node(2, node_id="db", key=b"k" * 32, created_at=9)
    assert [d.granted for d in decide([gone, heir])] == [False, True]


def test_a_copied_key_does_not_take_a_node_id_either() -> None:
    """A token that is out for its key does not keep a member from its node id."""
    member = node(1, key=b"k" * 32, since_block=10, created_at=10)
    thief = node(2, key=b"k" * 32, node_id="db", since_block=20, created_at=1)
    late = node(3, node_id="db", created_at=30)
    assert [d.granted for d in decide([member, thief, late])] == [True, False, True]


names = st.sampled_from(["a", "b", "c", "A", ""])
keys = st.sampled_from([b"k" * 32, b"l" * 32, b"m" * 32, ZERO_KEY, b"x"])
tokens = st.builds(
    node,
    st.integers(0, 12) | st.just(2**64),
    node_id=names,
    key=keys,
    created_at=st.integers(0, 3),
    since_block=st.integers(BLOCK - 3, BLOCK + 1),
    expires_at=st.sampled_from([0, CHAIN_NOW, CHAIN_NOW + 1]),
    revoked=st.sampled_from([False, False, True]),
    suspended=st.sampled_from([False, False, True]),
)
memberships = st.lists(tokens, max_size=12, unique_by=lambda n: n.token_id)


@given(memberships, st.integers(0, 3))
def test_one_grant_for_a_key_and_for_a_node_id(nodes: list[Node], confirmations: int) -> None:
    """Whatever the tokens say: one decision each, and a key or a node id is granted once."""
    decisions = decide(nodes, confirmations=confirmations)
    assert [d.token_id for d in decisions] == sorted(n.token_id for n in nodes)
    granted = [d for d in decisions if d.granted]
    assert set(Counter(d.key for d in granted).values()) <= {1}
    assert set(Counter(d.node_id for d in granted).values()) <= {1}
    assert all(d.key is not None and is_node_id(d.node_id) for d in granted)
    assert all(1 <= d.token_id < 2**64 for d in granted)


@given(memberships, st.randoms(use_true_random=False))
def test_order_of_tokens_is_nothing(nodes: list[Node], random: Random) -> None:
    """Two nodes that read the same tokens in another order judge the same."""
    assert decide(nodes) == decide(random.sample(nodes, len(nodes)))


@given(memberships)
def test_only_active_tokens_are_granted(nodes: list[Node]) -> None:
    """Nobody is in whom the contract does not count as active."""
    by_id = {n.token_id: n for n in nodes}
    assert all(by_id[d.token_id].active for d in decide(nodes) if d.granted)


def test_find() -> None:
    """A node id names its granted token, else its newest, else nothing."""
    out = node(1, node_id="db", revoked=True)
    granted = node(2, node_id="db")
    late = node(3, node_id="db", created_at=9)
    assert find(decide([out, granted, late]), "db").token_id == 2
    assert find(decide([out, node(3, node_id="db", suspended=True)]), "db").token_id == 3
    missing = find(decide([out]), "web")
    assert (missing.token_id, missing.verdict, missing.key) == (0, Verdict.NODE_NOT_FOUND, None)


def test_find_says_hostile_text_safely() -> None:
    """The reason for a node id that does not exist is short and printable."""
    reason = find((), "\x1b[2J" + "x" * 100_000).reason
    assert reason.isprintable()
    assert len(reason) < 200


def test_judge_self() -> None:
    """A node whose token carries another key than its own is out, and both keys are named."""
    decisions = decide([node(1), node(2, revoked=True)])
    assert judge_self(decisions, "node-1", key_of(1)) == decisions[0]
    other = judge_self(decisions, "node-1", key_of(9))
    assert (other.verdict, other.token_id) == (Verdict.PUBLIC_KEY_MISMATCH, 1)
    assert key_of(1).text in other.reason
    assert key_of(9).text in other.reason
    assert judge_self(decisions, "node-2", key_of(9)).verdict is Verdict.REVOKED
    assert judge_self(decisions, "node-3", key_of(1)).verdict is Verdict.NODE_NOT_FOUND
