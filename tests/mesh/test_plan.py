"""The plan: who is a peer, where packets go, and who speaks first."""

from collections.abc import Generator, Sequence
from dataclasses import replace
from ipaddress import ip_address
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_vpn.mesh.diff import check_plan
from dstack_vpn.mesh.endpoint import parse_endpoint
from dstack_vpn.mesh.membership import ZERO_KEY, Node
from dstack_vpn.mesh.plan import (
    CANDIDATE_TIME,
    ON_LINK_TRIES,
    ON_LINK_WINDOW,
    REJECT_AFTER,
    STAGGER,
    TURN,
    LocalNode,
    Plan,
    candidates,
    planning,
)
from mesh.build import (
    ADDRESSES,
    NOW,
    WALL_NOW,
    as_seen,
    clock_at,
    decide,
    device_of,
    key_of,
    local_node,
    membership,
    node,
    plan_for,
    seen_device,
    seen_peer,
    socket_address,
)

A, B, C = "192.0.2.1:1", "192.0.2.2:2", "192.0.2.3:3"


def endpoint_of(plan: Plan, number: int = 2) -> str | None:
    """Where the plan sends the packets of a peer."""
    endpoint = device_of(plan).peers[key_of(number)].endpoint
    return None if endpoint is None else str(endpoint)


def keepalive_of(plan: Plan, number: int = 2) -> int:
    """The keepalive that the plan gives a peer."""
    return device_of(plan).peers[key_of(number)].keepalive


def test_members_are_peers() -> None:
    """Every granted node but this one is a peer, with its own addresses and nothing else."""
    device = device_of(plan_for([node(i) for i in (1, 2, 3)]))
    assert list(device.peers) == [key_of(2), key_of(3)]
    assert device.addresses == ADDRESSES.interfaces(1)
    peer = device.peers[key_of(2)]
    assert (peer.token_id, peer.node_id, peer.allowed_ips) == (2, "node-2", ADDRESSES.hosts(2))


@pytest.mark.parametrize(
    "other",
    [
        node(2, revoked=True),
        node(2, suspended=True),
        node(2, key=ZERO_KEY),
        node(2, expires_at=1),
        node(2, node_id="UPPER"),
        node(2**64, node_id="far"),
        node(2, key=key_of(1).raw, created_at=9),
    ],
)
def test_who_is_not_granted_is_no_peer(other: Node) -> None:
    """A token with any other verdict is not on the device, whatever else it carries."""
    assert not device_of(plan_for([node(1), other])).peers


def test_without_a_grant_there_is_nothing() -> None:
    """A node that is not a member has no peers and no addresses, and the reason says why."""
    for tokens in ([node(2)], [node(1, revoked=True), node(2)], [node(1, key=b"k" * 32), node(2)]):
        plan = plan_for(tokens)
        assert not device_of(plan).peers
        assert not device_of(plan).addresses
        assert "this node itself is" in plan.removal_reasons[key_of(2)]


def test_closed_removes_all_peers() -> None:
    """A closed node keeps its addresses and no peer at all; each removal says why."""
    plan = plan_for([node(1), node(2), node(3, revoked=True)], closed="dark for too long")
    assert not device_of(plan).peers
    assert device_of(plan).addresses == ADDRESSES.interfaces(1)
    assert plan.removal_reasons[key_of(2)] == "dark for too long"
    assert plan.removal_reasons[key_of(3)].startswith("REVOKED: ")


def test_removal_reasons() -> None:
    """Each key that is out has its verdict as the reason; a copied key blames no member."""
    tokens = [
        node(1),
        node(2, revoked=True),
        node(3),
        node(4, key=key_of(3).raw, created_at=9),
        node(5, expires_at=1),
    ]
    reasons = plan_for(tokens).removal_reasons
    assert set(reasons) == {key_of(2), key_of(5)}
    assert reasons[key_of(2)].startswith("REVOKED: ")
    assert reasons[key_of(5)].startswith("EXPIRED: ")
    assert plan_for(tokens, closed="closed").removal_reasons[key_of(3)] == "closed"


def test_no_ipv6_on_this_host() -> None:
    """A host without IPv6 gets its IPv4 address alone, and keeps its peers."""
    device = device_of(plan_for([node(1), node(2)], local=local_node(ipv6=False)))
    assert device.addresses == ADDRESSES.interfaces(1)[:1]
    assert list(device.peers) == [key_of(2)]


def test_order_of_candidates() -> None:
    """Static settings come first, then the token's endpoint, then the template."""
    local = local_node(static={"node-2": A}, template="{node_id}.mesh:51820")
    found, notes = candidates(B, "node-2", local)
    assert [str(e) for e in found] == [A, B, "node-2.mesh:51820"]
    assert notes == ()
    assert [str(e) for e in candidates("", "node-3", local)[0]] == ["node-3.mesh:51820"]
    assert candidates("", "node-2", local_node()) == ((), ())


def test_one_endpoint_from_several_sources_is_tried_once() -> None:
    """Equal candidates are one."""
    local = local_node(static={"node-2": A})
    assert candidates(A, "node-2", local)[0] == (parse_endpoint(A),)


@pytest.mark.parametrize(
    ("endpoint", "static", "source"),
    [
        ("127.0.0.1:51820", {}, "token"),
        ("10.213.0.2:51820", {}, "token"),
        ("\x1b[2J" * 999, {}, "token"),
        ("", {"node-2": "10.213.0.2:51820"}, "settings"),
        ("", {"node-2": "[fd59:11ea:eff5::2]:1"}, "settings"),
    ],
)
def test_garbage_keeps_the_peer(endpoint: str, static: dict[str, str], source: str) -> None:
    """A refused endpoint is a note; the node is still a peer and may speak to us first."""
    plan = plan_for([node(1), node(2, endpoint=endpoint)], local=local_node(static=static))
    assert (endpoint_of(plan), keepalive_of(plan)) == (None, 0)
    (note,) = plan.notes[2]
    assert note.startswith(f"endpoint from the {source} left out: ")
    assert note.isprintable()
    assert len(note) < 250


def test_garbage_does_not_hide_the_next_candidate() -> None:
    """Behind a refused endpoint of the token the template still counts."""
    local = local_node(template="{node_id}:51820")
    plan = plan_for(
        [node(1), node(2, endpoint="localhost:1")],
        local=local,
        resolved={"node-2": [ip_address("192.0.2.2")]},
    )
    assert endpoint_of(plan) == "192.0.2.2:51820"
    assert len(plan.notes[2]) == 1


@pytest.mark.parametrize(
    ("answer", "endpoint", "note"),
    [
        (["192.0.2.7"], "192.0.2.7:1", None),
        ([], None, "the name db.example has no address"),
        (["127.0.0.1"], None, "127.0.0.1 is a loopback address"),
        (["10.213.0.2"], None, "10.213.0.2 lies inside the mesh itself"),
        (["::1", "2001:db8::7"], "[2001:db8::7]:1", "::1 is a loopback address"),
    ],
)
def test_names(answer: list[str], endpoint: str | None, note: str | None) -> None:
    """A name is worth what it resolved to, and that is checked like any address."""
    plan = plan_for(
        [node(1), node(2, endpoint="db.example:1")],
        resolved={"db.example": [ip_address(a) for a in answer]},
    )
    assert endpoint_of(plan) == endpoint
    notes = plan.notes.get(2, ())
    assert len(notes) == (note is not None)
    assert note is None or note in notes[0]


def test_live_peer_is_left_alone() -> None:
    """While a handshake lives, what WireGuard learned by roaming stays: no endpoint is set."""
    tokens = [node(1), node(2, endpoint=A)]
    live = seen_device(seen_peer(2, endpoint=B, age=REJECT_AFTER - 0.1))
    dead = seen_device(seen_peer(2, endpoint=B, age=REJECT_AFTER + 0.1))
    assert endpoint_of(plan_for(tokens, seen=live)) is None
    assert keepalive_of(plan_for(tokens, seen=live)) == 25
    assert endpoint_of(plan_for(tokens, seen=dead)) == A


def test_never_is_not_lately() -> None:
    """On a machine whose clock stands at 1970 a peer without a handshake is not live."""
    silent = seen_device(seen_peer(2, endpoint=B))
    plan = plan_for([node(1), node(2, endpoint=A)], seen=silent, wall_now=5.0)
    assert endpoint_of(plan) == A


def test_peer_that_only_was_heard() -> None:
    """A dead peer that nobody wrote an endpoint for is still tried where it was last heard."""
    tokens = [node(1), node(2)]
    heard = seen_device(seen_peer(2, endpoint=B, age=9999))
    assert endpoint_of(plan_for(tokens, seen=heard)) is None
    assert keepalive_of(plan_for(tokens, seen=heard)) == 25
    assert keepalive_of(plan_for(tokens, seen=seen_device(seen_peer(2)))) == 0


def test_candidates_take_turns() -> None:
    """A peer that does not answer is tried at each candidate in order, and again from the first."""
    tokens = [node(1), node(2, endpoint=B)]
    local = local_node(static={"node-2": A}, template="{node_id}:3")
    resolved = {"node-2": [ip_address("192.0.2.3")]}
    added = NOW
    tried = [
        endpoint_of(
            plan_for(
                tokens,
                local=local,
                resolved=resolved,
                since={key_of(2): added},
                now=added + turn * CANDIDATE_TIME + 1,
            )
        )
        for turn in range(4)
    ]
    assert tried == [A, B, C, A]


@given(st.integers(2, 5), st.integers(0, 10_000_000))
def test_every_candidate_gets_its_turn(count: int, milliseconds: int) -> None:
    """Planning at no other times than those a plan asks for, every candidate is tried."""
    # Of a clock that told femtoseconds, sums of them would be lost in the seconds.
    added = milliseconds / 1000
    addresses = [ip_address(f"192.0.2.{i}") for i in range(1, count + 1)]
    tried: list[str | None] = []
    now = added
    for _ in range(count + 2):
        plan = plan_for(
            [node(1), node(2, endpoint="many.example:1")],
            resolved={"many.example": addresses},
            since={key_of(2): added},
            now=now,
        )
        tried.append(endpoint_of(plan))
        assert plan.wake_at is not None
        assert now < plan.wake_at <= now + CANDIDATE_TIME
        now = plan.wake_at
    assert set(tried) == {f"{a}:1" for a in addresses}


def test_one_candidate_needs_no_waking() -> None:
    """Nothing changes by itself for a peer with one endpoint, once both have spoken."""
    plan = plan_for([node(1), node(2, endpoint=A)], since={key_of(2): NOW - 1})
    assert plan.wake_at is None


@given(
    st.tuples(st.integers(1, 2**64 - 1), st.integers(1, 2**64 - 1)).filter(lambda p: p[0] != p[1])
)
def test_one_of_two_speaks_first(pair: tuple[int, int]) -> None:
    """Of two nodes that add each other, one speaks at once and the other after STAGGER."""
    tokens = [node(i, node_id=f"n{i}", endpoint=A) for i in pair]

    def speaks(me: int, other: int, age: float) -> bool:
        local = replace(local_node(me), node_id=f"n{me}")
        plan = plan_for(tokens, local=local, since={key_of(other): NOW - age})
        peer = device_of(plan).peers[key_of(other)]
        assert peer.endpoint == socket_address(A), "whoever waits can answer all the same"
        if not peer.keepalive:
            assert plan.wake_at == pytest.approx(NOW - age + STAGGER)
        return bool(peer.keepalive)

    one, two = pair
    at_once = [speaks(one, two, 0), speaks(two, one, 0)]
    assert sorted(at_once) == [False, True]
    assert [speaks(one, two, STAGGER), speaks(two, one, STAGGER)] == [True, True]


def test_stagger_is_for_new_pairs_only() -> None:
    """A peer that was adopted with a handshake, however old, is spoken to at once."""
    tokens = [node(1, endpoint=A), node(2)]
    local = local_node(2)
    assert keepalive_of(plan_for(tokens, local=local), 1) == 0
    known = seen_device(seen_peer(1, endpoint=A, age=9999), own=2)
    assert keepalive_of(plan_for(tokens, local=local, seen=known), 1) == 25


def test_keepalive_off() -> None:
    """With KEEPALIVE=0 nobody is spoken to first."""
    plan = plan_for([node(1), node(2, endpoint=A)], local=local_node(keepalive=0))
    assert keepalive_of(plan) == 0


def neighbours(count: int) -> list[Node]:
    """This node and so many others on its own link."""
    others = [
        node(i, endpoint=f"10.9.{i >> 8}.{i & 255}:51820", node_id=f"n{i}")
        for i in range(2, count + 2)
    ]
    return [node(1), *others]


def tries(plan: Plan, local: LocalNode) -> set[int]:
    """Tokens on the local link that are spoken to first."""
    return {
        p.token_id
        for p in device_of(plan).peers.values()
        if p.keepalive and p.endpoint and any(p.endpoint.ip in n for n in local.on_link)
    }


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 180), st.floats(0, 1e6))
def test_on_link_cap(count: int, now: float) -> None:
    """Never are more than 50 silent neighbours tried at once, and every one gets its turn."""
    local, tokens = local_node(on_link=["10.9.0.0/16"]), neighbours(count)
    everybody = {n.token_id for n in tokens[1:]}
    tried: set[int] = set()
    for _ in range(-(-count // ON_LINK_TRIES)):
        plan = plan_for(tokens, local=local, now=now)
        assert {p.token_id for p in device_of(plan).peers.values()} == everybody
        assert len(tries(plan, local)) <= ON_LINK_TRIES
        tried |= tries(plan, local)
        if count > ON_LINK_TRIES:
            assert plan.wake_at is not None
            assert now < plan.wake_at <= now + ON_LINK_WINDOW
            now = plan.wake_at
    assert tried == everybody


def test_on_link_cap_counts_the_silent_only() -> None:
    """Live neighbours and far peers do not take the places of silent neighbours."""
    local = local_node(on_link=["10.9.0.0/16"])
    live = seen_device(*(seen_peer(i, endpoint="10.9.0.2:51820", age=1) for i in range(2, 100)))
    plan = plan_for(neighbours(130), local=local, seen=live)
    silent = {p.token_id for p in device_of(plan).peers.values() if p.endpoint and p.keepalive}
    assert silent == set(range(100, 132))
    far = plan_for(neighbours(130), local=local_node(on_link=["192.0.2.0/24"]))
    assert all(p.keepalive for p in device_of(far).peers.values())


def test_on_link_cap_counts_where_a_peer_was_last_heard() -> None:
    """Neighbours that roamed here and died count too, though no token names their address."""
    tokens = [node(i) for i in range(1, 152)]
    dead = [seen_peer(i, endpoint=f"10.9.0.{i}:51820", age=9999) for i in range(2, 152)]
    local = local_node(on_link=["10.9.0.0/16"])
    tried: set[int] = set()
    for window in range(3):
        now = NOW + window * ON_LINK_WINDOW
        plan = plan_for(tokens, local=local, seen=seen_device(*dead), now=now)
        spoken_to = {p.token_id for p in device_of(plan).peers.values() if p.keepalive}
        assert len(spoken_to) <= ON_LINK_TRIES
        tried |= spoken_to
    assert tried == set(range(2, 152))


endpoints = st.sampled_from(["", A, "[2001:db8::1]:9", "db.example:1", "127.0.0.1:1", "\0"])
others = st.builds(
    node,
    st.integers(2, 30) | st.just(2**64 - 1) | st.just(2**64),
    node_id=st.sampled_from(["a", "b", "c", "d", "e", "f", "", "A"]),
    key=st.integers(0, 9).map(lambda n: bytes(31) + bytes([n])),
    endpoint=endpoints,
    created_at=st.integers(1, 5),
    revoked=st.sampled_from([False, False, False, True]),
)
token_lists = st.lists(others, max_size=12, unique_by=lambda n: n.token_id)


@given(token_lists, st.randoms(use_true_random=False), st.booleans())
def test_a_plan_contradicts_nothing_and_depends_on_no_order(
    others: Sequence[Node], random: Random, live: bool
) -> None:
    """The same facts in any order give the same plan, and no two peers share an allowed IP."""
    tokens = [node(1), *others]
    seen = [seen_peer(n, endpoint=B, age=1 if live else None) for n in range(2, 10)]
    resolved = {"db.example": [ip_address("192.0.2.9")]}

    def make(order: Sequence[Node], peers: Sequence[int]) -> Plan:
        device = seen_device(*(seen[i] for i in peers))
        return plan_for(order, seen=device, resolved=resolved)

    plan = make(tokens, range(8))
    again = make(random.sample(tokens, len(tokens)), random.sample(range(8), 8))
    assert plan == again
    assert list(device_of(plan).peers) == list(device_of(again).peers)
    check_plan(device_of(plan))
    allowed = [ip for p in device_of(plan).peers.values() for ip in p.allowed_ips]
    assert len(allowed) == len(set(allowed))
    assert not set(allowed) & set(ADDRESSES.hosts(1))
    assert key_of(1) not in device_of(plan).peers


@given(token_lists)
def test_a_plan_that_was_applied_asks_for_nothing_more(others: Sequence[Node]) -> None:
    """Planning again from the device as planned gives the same plan: the loop comes to rest."""
    tokens = [node(1), *others]
    since = {key_of(i): NOW - 60 for i in range(1, 10)}
    first = device_of(plan_for(tokens, since=since))
    assert device_of(plan_for(tokens, since=since, seen=as_seen(first))) == first


def test_a_large_plan_is_made_with_pauses() -> None:
    """Planning for many lets others work every `TURN` members; the plan is the same."""
    tokens = [node(i) for i in range(1, 3 * TURN + 2)]
    decisions = decide(tokens)
    steps = planning(
        nodes=membership(tokens).nodes,
        decisions=decisions,
        own=decisions[0],
        local=local_node(),
        seen=None,
        resolved={},
        since={},
        now=NOW,
        clock=clock_at(),
    )
    made: list[Plan] = []

    def to_the_end() -> Generator[None, None, None]:
        made.append((yield from steps))

    assert len(list(to_the_end())) >= 3
    assert made == [plan_for(tokens)]


def test_handshakes_are_aged_by_the_wall_clock() -> None:
    """Devices report handshakes in wall-clock time; monotonic time has no part in it."""
    device = seen_device(seen_peer(2, endpoint=B, age=10))
    tokens = [node(1), node(2, endpoint=A)]
    assert endpoint_of(plan_for(tokens, seen=device, now=1e9)) is None
    assert endpoint_of(plan_for(tokens, seen=device, wall_now=WALL_NOW + 200)) == A
