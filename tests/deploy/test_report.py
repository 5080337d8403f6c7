"""The table of `deploy status`: one row a service, from what engine, health check and node say."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.samples import NOW, PROBE_CHECK, container, ended, json_values
from dstack_vpn.deploy.containers import Container
from dstack_vpn.deploy.report import (
    HEAD,
    Checked,
    NodeFacts,
    Row,
    is_node,
    make_rows,
    read_check,
    read_facts,
)
from dstack_vpn.mesh.health import assess
from dstack_vpn.mesh.plan import REJECT_AFTER
from dstack_vpn.web.render import render_health
from web import samples

NODE = container(check=PROBE_CHECK)
WELL = Checked(passed=True, said='{"ready":true}')
PEERS = len(samples.snapshot().peer_names)
ILL = Checked(passed=False, said='{"ready":false,"reason":"why"}')


def row(one: Container, checked: Checked | None = None, facts: NodeFacts | None = None) -> Row:
    """The row of a service with one container."""
    (found,) = make_rows(
        [one.service],
        [one],
        now=NOW,
        checks={one.id: checked} if checked else {},
        nodes={one.id: facts} if facts else {},
    )
    return found


CASES: dict[str, tuple[Row, tuple[str, str, bool, str]]] = {
    "well": (row(NODE, WELL), ("running", "healthy", True, "")),
    "without a check": (row(container("net")), ("running", "-", True, "")),
    "ill": (row(NODE, ILL), ("running", "unhealthy", False, ILL.said)),
    "ill, and says why": (
        row(NODE, ILL, NodeFacts(reasons=("no device", "no plan"))),
        ("running", "unhealthy", False, "no device; no plan"),
    ),
    "ready, with something to say": (
        row(NODE, WELL, NodeFacts(reasons=("the chain is dark",))),
        ("running", "healthy", True, ""),
    ),
    "did its work": (row(ended("init", policy="on-failure")), ("done", "-", True, "")),
    "stopped": (row(ended(code=143)), ("exited", "-", False, "ended with exit code 143")),
    "stopped with success": (row(ended("nginx")), ("exited", "-", False, "ended with exit code 0")),
    "not started": (row(ended(error="no such device")), ("exited", "-", False, "no such device")),
    "waits to be started again": (
        row(container(state="restarting", exit_code=2, restarts=2)),
        (
            "restarting",
            "-",
            False,
            "ended with exit code 2; started again by the engine: 2",
        ),
    ),
    "was started again": (
        row(container(restarts=1, check=PROBE_CHECK), WELL),
        ("running", "healthy", True, "started again by the engine: 1"),
    ),
    "has something to do yet": (
        row(container("init", policy="on-failure")),
        ("running", "-", False, "it has not done yet what it is for"),
    ),
    "begins again and again": (
        row(container("keeper", restarts=7, started_at=NOW - 9)),
        ("running", "-", False, "it does not keep running; started again by the engine: 7"),
    ),
    "began again some time ago": (
        row(container("keeper", restarts=7, started_at=NOW - 11)),
        ("running", "-", True, "started again by the engine: 7"),
    ),
    "not there": (
        make_rows(["gone"], [NODE], now=NOW, checks={}, nodes={})[0],
        ("missing", "-", False, "there is no container; `dstack-vpn deploy` makes it"),
    ),
    "there for one command only": (
        make_rows(["admin"], [container("admin", one_off=True)], now=NOW, checks={}, nodes={})[0],
        ("missing", "-", False, "there is no container; `dstack-vpn deploy` makes it"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_rows(case: str) -> None:
    """What a service does, whether that is right, and if not, why."""
    found, expected = CASES[case]
    assert (found.state, found.health, found.ok, found.note) == expected


def test_rows_are_in_the_order_of_the_services() -> None:
    """Each service has its row; what belongs to none of them has no row."""
    found = make_rows(
        ["b", "a"],
        [container("a"), container("x"), container("b")],
        now=NOW,
        checks={},
        nodes={},
    )
    assert [r.service for r in found] == ["b", "a"]
    twice = [container("a", id="1", name="a-1"), container("a", id="2", name="a-2")]
    rows = make_rows(["a"], twice, now=NOW, checks={}, nodes={})
    assert [r.container for r in rows] == ["a-1", "a-2"]


def test_nodes_are_known_by_their_health_check() -> None:
    """What the image of a node checks is what makes a container a node."""
    assert is_node(NODE)
    assert not is_node(container("web", check=("curl", "http://127.0.0.1/")))
    assert not is_node(container("net"))


@pytest.mark.parametrize(
    ("code", "out", "err", "said"),
    [
        (0, '{"ready":true}\n', "a warning\n", '{"ready":true}'),
        (1, '{"ready":false}\n', "", '{"ready":false}'),
        (7, "half\n", "curl: (7) refused\n", "curl: (7) refused"),
        (1, "", "Traceback:\n  x\nValueError: y\n\n", "ValueError: y"),
        (1, "", " \n", ""),
        (1, "", "a\x1b[2Jb\r\n", r"a\x1b[2Jb"),
    ],
)
def test_health_checks(code: int, out: str, err: str, said: str) -> None:
    """The last thing that a check said is why it failed; nothing in it steers a terminal."""
    assert read_check(code, out, err) == Checked(passed=code == 0, said=said)


def health(**changes: Any) -> dict[str, Any]:
    """What a real node answers at /health, with parts of it changed."""
    shot = samples.snapshot()
    judged = assess(shot, now=samples.NOW, dark_after=60)
    return render_health(shot, judged, wall_now=samples.WALL_NOW) | changes


def shaken(*ages: float | None) -> str:
    """What `wg` prints of peers with handshakes so many seconds ago; None for never."""
    moments = (0 if age is None else int(samples.WALL_NOW - age) for age in ages)
    return "".join(f"{'A' * 42}{i}=\t{moment}\n" for i, moment in enumerate(moments))


def test_what_a_node_says() -> None:
    """The facts of the row stand where a real node puts them, and come from the device."""
    facts = read_facts(health(), shaken(10, None, 300))
    assert facts == NodeFacts(peers=PEERS, block=90, lag=2, ages=(10.5, 300.5))
    found = row(NODE, WELL, facts)
    assert found.cells() == (
        "node-a", "running", "healthy", f"1/{PEERS}", "90", "2", "10 s ago", "",
    )  # fmt: skip
    assert found.json() == {
        "service": "node-a",
        "container": "vpn-node-a-1",
        "state": "running",
        "health": "healthy",
        "ok": True,
        "note": "",
        "activePeers": 1,
        "totalPeers": PEERS,
        "block": 90,
        "lag": 2,
        "handshakeAgeSeconds": 10.5,
    }


def test_reasons_are_the_words_of_the_node() -> None:
    """Every reason is told, in the order of the node."""
    reasons = [{"code": "closed", "text": "closed"}, {"code": "x", "text": "d\x1bark"}, {}, 7]
    assert read_facts(health(reasons=reasons), None).reasons == ("closed", r"d\x1bark", "", "")


@pytest.mark.parametrize(
    ("ages", "shown"),
    [
        ((), "0/1"),
        ((None,), "0/1"),
        ((REJECT_AFTER - 1,), "1/1"),
        ((REJECT_AFTER,), "0/1"),
        # The node's clock was set back.
        ((-100,), "1/1"),
    ],
)
def test_a_peer_counts_while_its_session_lives(ages: tuple[float | None, ...], shown: str) -> None:
    """WireGuard drops a session some time after its handshake; so does the count."""
    facts = read_facts(health(peerRegistry={"totalPeers": 1}), shaken(*ages))
    assert row(NODE, WELL, facts).cells()[HEAD.index("PEERS")] == shown


@pytest.mark.parametrize(
    ("said", "handshakes", "peers"),
    [
        (None, None, "-"),
        # Without the clock of the node, ages would be guesses.
        (None, shaken(10), "-"),
        (health(timestamp=None), shaken(10), f"-/{PEERS}"),
        (health(timestamp="soon"), shaken(10), f"-/{PEERS}"),
        # The device is not there.
        (health(), None, f"-/{PEERS}"),
        (health(), "no tab", f"-/{PEERS}"),
        (health(), "key\tsoon", f"-/{PEERS}"),
        (health(), f"key\t{'9' * 400}", f"-/{PEERS}"),
        (health(peerRegistry=None), shaken(10), "1/-"),
    ],
)
def test_what_is_not_known_is_not_counted(
    said: dict[str, Any] | None, handshakes: str | None, peers: str
) -> None:
    """A dash is no zero: it stands where node or device did not say it, or not so that we know."""
    found = row(NODE, WELL, read_facts(said, handshakes))
    assert found.cells()[HEAD.index("PEERS")] == peers


@given(
    json_values | st.fixed_dictionaries({}, optional=dict.fromkeys(health(), json_values)),
    st.none() | st.text() | st.from_regex(r"(.*\t[0-9]{1,400}\n){1,3}"),
    st.booleans(),
)
def test_whatever_a_node_says_is_a_row(said: Any, handshakes: str | None, passed: bool) -> None:
    """A node that is none of ours can answer anything; it has a row of text all the same."""
    found = row(NODE, Checked(passed=passed, said="so"), read_facts(said, handshakes))
    assert (found.ok, len(found.cells())) == (passed, len(HEAD))
    assert all(isinstance(cell, str) for cell in found.cells())
    assert all(value is None or isinstance(value, int) for value in (found.block, found.lag))
