"""Which containers are started again: a table of cases, and when they are due."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.samples import NOW, container, ended
from dstack_vpn.deploy.containers import Container
from dstack_vpn.deploy.keep import FIRST, MOST, SETTLED, Start, Tries, after, decide

NET = container("node-a-net")
"""The owner of a network, which runs for an hour already."""
NET_ANEW = container("node-a-net", started_at=NOW - 10)

CASES: dict[str, tuple[Container, str]] = {
    # Left down by the engine
    "killed": (ended(code=137, policy="on-failure"), "it was killed"),
    "killed, whatever policy": (ended(code=137, policy="always"), "it was killed"),
    "failed": (ended(code=1, policy="on-failure"), "it ended with exit code 1"),
    "crashed": (ended(code=139), "it ended with exit code 139"),
    "not found": (ended(code=127), "it ended with exit code 127"),
    "network not there": (
        ended(code=128, error="cannot join network of a non running container"),
        "the engine could not start it (cannot join network of a non running container)",
    ),
    # What a container ended with before says nothing about why it cannot be started now.
    "stopped, then not started": (
        ended(code=143, error="no such device"),
        "the engine could not start it (no such device)",
    ),
    "long error": (ended(error="x" * 999), f"the engine could not start it ({'x' * 200})"),
    # Left down by its own wish or the operator's
    "done": (ended(code=0), ""),
    "stopped": (ended(code=143), ""),
    "interrupted": (ended(code=130), ""),
    "mistake of the user": (ended(code=2, policy="on-failure"), ""),
    "policy no": (ended(code=137, policy="no"), ""),
    "policy no, not started": (ended(error="no such device", policy="no"), ""),
    "one command": (ended(code=137, one_off=True), ""),
    # Not down, or about to be something else
    "runs": (container(), ""),
    "never started": (container(state="created"), ""),
    "paused": (container(state="paused"), ""),
    "between two tries of the engine": (container(state="restarting", exit_code=1), ""),
    "being removed": (container(state="removing", exit_code=137), ""),
    "dead": (container(state="dead", exit_code=137), ""),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_started_again(case: str) -> None:
    """What is down against its policy is started, with the reason; all else is left alone."""
    one, why = CASES[case]
    assert decide([one], {}, now=0) == ([Start(container=one, why=why)] if why else [])


@pytest.mark.parametrize(
    ("code", "apart", "started"),
    [
        (143, 0.0, True),
        (130, 4.0, True),
        (143, 6.0, False),  # since the keeper runs again
        (143, -24.0, True),
        (143, -26.0, False),
        (0, 0.0, False),
    ],
)
def test_what_ended_as_the_engine_did(code: int, apart: float, started: bool) -> None:
    """It was stopped when the keeper itself was: not by somebody who wanted it to stay down."""
    keeper = container("keeper", finished_at=NOW - 100, started_at=NOW - 95)
    node = ended(code=code, finished_at=NOW - 100 + apart, policy="on-failure")
    why = "it ended when the engine did"
    expected = [Start(container=node, why=why)] if started else []
    assert decide([node, keeper], {}, now=0, own=keeper.id) == expected
    assert decide([node, keeper], {}, now=0) == []
    first = replace(keeper, finished_at=0.0)  # a keeper that never ended before
    assert decide([node, first], {}, now=0, own=keeper.id) == []


STRANDED: dict[str, tuple[Container, Container, bool]] = {
    "made anew under it": (NET_ANEW, container(network_of=NET.id), True),
    "older than it": (NET, container(network_of=NET.id, started_at=NOW - 10), False),
    "started in the same moment": (NET, container(network_of=NET.id), False),
    "of another": (NET_ANEW, container(), False),
    "of one that is gone": (NET_ANEW, container(network_of="gone"), False),
    "of one that is down": (
        ended("node-a-net", 143, started_at=NOW - 10),
        container(network_of=NET.id),
        False,
    ),
    "stopped itself": (NET_ANEW, ended(code=143, network_of=NET.id), False),
    "one command": (NET_ANEW, container(network_of=NET.id, one_off=True), False),
    "policy no": (NET_ANEW, container(network_of=NET.id, policy="no"), False),
}


@pytest.mark.parametrize("case", STRANDED)
def test_what_is_stranded_is_started_anew(case: str) -> None:
    """Who joined a network that was made anew is alone in the old one, until started again."""
    owner, one, stranded = STRANDED[case]
    why = "the network of vpn-node-a-net-1 was made anew"
    assert decide([one, owner], {}, now=0) == ([Start(container=one, why=why)] if stranded else [])


def test_owners_of_networks_come_first() -> None:
    """After a restart of the engine the owner is started before those who join its network."""
    net, other = ended("z-net", 137), ended("b", 1)
    node = ended("a", 128, network_of=net.id, error="its network is not there")
    found = decide([node, other, net], {}, now=0)
    assert [start.container for start in found] == [net, node, other]


def rounds(one: Container, times: int) -> list[float]:
    """When a container that goes down again at once is started, in seconds."""
    tries: dict[str, Tries] = {}
    moments = []
    now = 0.0
    for _ in range(times):
        while not (starts := decide([one], tries, now=now)):
            tries = after(tries, [], [one], now=now, wall_now=NOW)
            now += 0.5
            assert now < times * MOST
        moments.append(now)
        tries = after(tries, starts, [one], now=now, wall_now=NOW)
    return moments


def test_the_pause_grows_up_to_a_minute() -> None:
    """1, 2, 4 seconds and so on, then one a minute, however long it goes on."""
    moments = rounds(ended(code=1), 1100)
    pauses = [later - sooner for sooner, later in pairwise(moments)]
    assert pauses[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert set(pauses[6:]) == {MOST}
    assert moments[0] == 0


@pytest.mark.parametrize(
    ("one", "kept"),
    [
        (container(started_at=NOW - SETTLED - 1), False),
        (container(started_at=NOW - SETTLED), True),
        (container(started_at=NOW), True),
        # A clock that was set back makes nothing worse.
        (container(started_at=NOW + 9999), True),
        (ended(code=1, started_at=NOW - 3600), True),
        (container(state="restarting", started_at=NOW - 3600), True),
    ],
)
def test_what_has_settled_is_forgotten(one: Container, kept: bool) -> None:
    """Earlier starts are forgotten after a minute of running, and not before."""
    tries = {one.id: Tries(pause=8, due_at=8)}
    assert after(tries, [], [one], now=5, wall_now=NOW) == (tries if kept else {})


def test_what_is_gone_is_forgotten() -> None:
    """A container that was removed leaves nothing behind."""
    assert after({"gone": Tries(pause=1, due_at=1)}, [], [container()], now=0, wall_now=NOW) == {}


def test_containers_wait_by_themselves() -> None:
    """A container that is not due yet holds up no other."""
    one, other = ended("a", 1), ended("b", 1)
    tries = after({}, [Start(container=one, why="")], [one, other], now=0, wall_now=NOW)
    assert tries == {one.id: Tries(pause=FIRST, due_at=FIRST)}
    assert [s.container for s in decide([one, other], tries, now=0.5)] == [other]
    assert [s.container for s in decide([one, other], tries, now=1)] == [one, other]


words = st.sampled_from(["", "a", "b", "c", "no", "exited", "running", "created"])
anything = st.builds(
    container,
    st.sampled_from(["a", "b", "c"]),
    id=st.sampled_from(["a", "b", "c"]),
    state=words,
    exit_code=st.integers(),
    error=words,
    network_of=words,
    policy=words,
    one_off=st.booleans(),
    started_at=st.floats(0, 1e12),
)


@given(st.lists(anything, max_size=5), st.floats(0, 1e12), st.floats(0, 1e12))
def test_any_project(containers: list[Container], now: float, wall_now: float) -> None:
    """Whatever there is: only what is there is started, and nothing of it again at once."""
    starts = decide(containers, {}, now=now)
    assert {start.container.id for start in starts} <= {c.id for c in containers}
    assert all(s.why and not s.container.one_off and s.container.policy != "no" for s in starts)
    tries = after({}, starts, containers, now=now, wall_now=wall_now)
    assert decide(containers, tries, now=now) == []
