"""What each endpoint shows of a snapshot, as values."""

from typing import Any

import msgspec
import pytest

from dstack_vpn.mesh.access import find, judge
from dstack_vpn.mesh.endpoint import parse_endpoint
from dstack_vpn.mesh.health import Health, assess
from dstack_vpn.mesh.snapshot import Alarm, AlarmCode, Snapshot
from dstack_vpn.web.answer import JsonAnswer
from dstack_vpn.web.render import (
    render_access,
    render_decision,
    render_health,
    render_ready,
    render_stats,
    render_wireguard,
)
from mesh.build import key_of, node
from web.samples import (
    NOW,
    OWN,
    WALL_NOW,
    blank,
    chain,
    device,
    membership,
    peer,
    provider,
    snapshot,
    wanted,
)


def judged(shot: Snapshot, **values: Any) -> Health:
    return assess(shot, now=NOW, dark_after=60, block_time=2.0, **values)


def health(shot: Snapshot) -> dict[str, Any]:
    return render_health(shot, judged(shot), wall_now=WALL_NOW)


def test_health_of_a_node_that_is_well() -> None:
    """Every name that existing readers know is there, with the value they expect."""
    assert health(snapshot()) == {
        "status": "healthy",
        "ready": True,
        "reasons": [],
        "nodeId": "node-1",
        "bridge": {
            "status": "running",
            "startTime": "2023-11-14T22:13:20.000Z",
            "uptime": 100_500,
            "errors": 0,
            "lastError": None,
        },
        "components": {
            "contract": {"status": "healthy"},
            "accessControl": {"status": "healthy"},
            "registry": {"status": "healthy"},
            "config": {"status": "healthy"},
        },
        "peerRegistry": {"activePeers": 2, "totalPeers": 3},
        "access": {
            "verdict": "ACCESS_GRANTED",
            "reason": "active, unexpired and with a valid key",
        },
        "chain": {
            "state": "following",
            "head": 90,
            "hash": f"0x{90:064x}",
            "ageSeconds": 2.0,
            "agreedAgeSeconds": 2.0,
            "advancedAgeSeconds": 3.0,
            "finalized": {"number": 26, "hash": f"0x{26:064x}", "lag": 64},
            "lag": 2,
            "verified": True,
            "needed": 2,
            "voters": 3,
            "suspects": 0,
            "reorgs": 1,
            "deepestReorg": 4,
            "lastError": None,
        },
        "alarms": [],
        "waiting": {"count": 0, "tokens": []},
        "timestamp": "2023-11-14T22:15:00.500Z",
    }


def test_health_before_anything_was_read() -> None:
    """A node that has just started is unhealthy, starting, and claims nothing about its access."""
    shown = health(blank())
    assert (shown["status"], shown["ready"]) == ("unhealthy", False)
    assert shown["bridge"]["status"] == "starting"
    assert shown["access"]["verdict"] is None
    assert {p["status"] for p in shown["components"].values()} == {"unhealthy"}
    assert {r["code"] for r in shown["reasons"]} == {"chain-unknown", "device-down"}
    assert shown["chain"]["head"] is None


@pytest.mark.parametrize(
    ("changed", "status", "bridge", "component", "component_status"),
    [
        ({"chain": chain(agreed_at=NOW - 61)}, "degraded", "running", "contract", "degraded"),
        ({"chain": chain(advanced_at=NOW - 61)}, "degraded", "running", "contract", "degraded"),
        (
            {"chain": chain(membership=membership([]), verified=False)},
            "degraded",
            "running",
            "registry",
            "degraded",
        ),
        ({"closed": "dark for a day"}, "unhealthy", "closed", "accessControl", "unhealthy"),
        ({"pending": "no permission"}, "degraded", "repairing", "config", "degraded"),
        ({"device": None}, "unhealthy", "repairing", "config", "unhealthy"),
        ({"device": device(up=False)}, "unhealthy", "repairing", "config", "unhealthy"),
        ({"applied_block": None}, "degraded", "starting", "config", "degraded"),
    ],
)
def test_what_is_wrong_shows_where_it_is(
    changed: dict[str, Any], status: str, bridge: str, component: str, component_status: str
) -> None:
    """One fault is told by the overall status, by the bridge's word and by the part concerned."""
    shown = health(snapshot(**changed))
    assert shown["status"] == status
    assert shown["bridge"]["status"] == bridge
    assert shown["components"][component]["status"] == component_status


def test_a_node_that_is_no_member_waits() -> None:
    """A revoked node says so in its access, and its bridge waits; nothing of it is broken."""
    nodes = [node(1, revoked=True), node(2)]
    decisions = judge(membership(nodes), confirmed=90, chain_now=0)
    shot = snapshot(nodes, own=find(decisions, "node-1"))
    shown = health(shot)
    assert shown["bridge"]["status"] == "waiting"
    assert shown["access"]["verdict"] == "REVOKED"
    assert shown["components"]["config"]["status"] == "healthy"
    assert render_ready(judged(shot))["reason"].startswith("this node is not a member: REVOKED")


def test_ready_gives_only_reasons_that_block() -> None:
    """A node that is dark but passes traffic is ready; the strict form names what blocks it."""
    shot = snapshot(chain=chain(agreed_at=NOW - 61))
    assert render_ready(judged(shot)) == {"ready": True}
    strict = render_ready(judged(shot, fresh=10))
    assert strict == {
        "ready": False,
        "reason": "the last agreed head is older than the 10 s asked for",
    }


def test_stats() -> None:
    """Counts of verdicts, traffic and requests; every fixed word has a count."""
    nodes = [node(1), node(2), node(3, revoked=True), node(4, key=bytes(32))]
    shot = snapshot(nodes)
    shown = render_stats(shot, judged(shot), wall_now=WALL_NOW)
    assert shown["members"] == 2
    assert {w: n for w, n in shown["verdicts"].items() if n} == {
        "ACCESS_GRANTED": 2,
        "REVOKED": 1,
        "NO_KEY": 1,
    }
    assert len(shown["verdicts"]) == 14
    assert (shown["rxBytes"], shown["txBytes"]) == (9000, 90)
    assert (shown["appliedBlock"], shown["lag"], shown["cycle"]) == (90, 2, 7)
    assert (shown["reorgs"], shown["resyncs"], shown["uptime"]) == (1, 2, 100_500)
    assert shown["peersetHash"] == shot.peerset_hash
    assert shown["providers"][0] == {
        "name": "rpc.example#1",
        "voter": "rpc.example",
        "healthy": True,
        "head": 92,
        "headHash": f"0x{92:064x}",
        "lagBlocks": 0,
        "agrees": True,
        "subscription": "none",
        "seenAgeSeconds": 0.5,
        "quarantinedForSeconds": None,
        "lastError": None,
        "requests": {"eth_call": 3, "eth_getLogs": 2},
        "failures": 1,
        "refused": {},
    }
    # 100.5 s after the start, by two providers.
    assert shown["requestsPerHour"] == {"eth_call": 214.9, "eth_getLogs": 143.3}
    assert shown["chain"] == health(shot)["chain"]


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({}, "following"),
        ({"chain": chain(agreed_at=NOW - 61)}, "dark"),
        ({"chain": chain(advanced_at=NOW - 61)}, "halted"),
        ({"chain": chain(verified=False, agreed_at=None)}, "unverified"),
        ({"chain": chain(membership=None)}, "unknown"),
        ({"closed": "dark for a day"}, "closed"),
    ],
)
def test_state_of_the_chain(changed: dict[str, Any], word: str) -> None:
    """One word says how it stands with the chain; closed comes before all others."""
    assert health(snapshot(**changed))["chain"]["state"] == word


def test_a_provider_that_lies_behind_or_lies() -> None:
    """How far it is behind, what was refused of it, and for how long its word alone is ignored."""
    behind = provider(
        "b.example#2",
        head=80,
        agrees=False,
        seen_at=NOW - 30,
        quarantined_until=NOW + 600,
        refused={"history": 2},
    )
    silent = provider("c.example#3", head=None, seen_at=None, quarantined_until=NOW - 1)
    shot = snapshot(chain=chain(providers=(provider(), behind, silent)))
    _, shown, never = render_stats(shot, judged(shot), wall_now=WALL_NOW)["providers"]
    assert (shown["lagBlocks"], shown["agrees"], shown["seenAgeSeconds"]) == (12, False, 30.0)
    assert (shown["quarantinedForSeconds"], shown["refused"]) == (600.0, {"history": 2})
    assert (never["lagBlocks"], never["seenAgeSeconds"]) == (None, None)
    assert never["quarantinedForSeconds"] is None


def test_alarms() -> None:
    """An alarm is a reason of /health and, with its provider and its age, an entry of its own."""
    alarm = Alarm(code=AlarmCode.QUARANTINED, text="a lie", provider="b.example#2", since=NOW - 9)
    other = Alarm(code=AlarmCode.FINALITY, text="block 7 is gone", since=NOW - 1)
    shot = snapshot(chain=chain(alarms=(alarm, other)))
    shown = health(shot)
    assert shown["alarms"] == [
        {"text": "a lie", "provider": "b.example#2", "ageSeconds": 9.0}
        | {"code": "source-quarantined"},
        {"code": "finality-violated", "text": "block 7 is gone", "provider": None}
        | {"ageSeconds": 1.0},
    ]
    assert [r["code"] for r in shown["reasons"]] == [a["code"] for a in shown["alarms"]]
    assert shown["alarms"] == render_stats(shot, judged(shot), wall_now=WALL_NOW)["alarms"]
    assert shown["status"] == "degraded"


def test_grants_that_wait() -> None:
    """Who waits for the depth of an admission, and why; of many the first twenty, and how many."""
    nodes = [node(i, since_block=90 + i // 30) for i in range(30, 0, -1)]
    decisions = judge(membership(nodes), confirmed=89, chain_now=0)
    waiting = health(snapshot(nodes, decisions={d.token_id: d for d in decisions}))["waiting"]
    assert waiting["count"] == 30
    assert [t["tokenId"] for t in waiting["tokens"]] == list(range(1, 21))
    assert waiting["tokens"][0] == {
        "tokenId": 1,
        "nodeId": "node-1",
        "reason": "admitted at block 90; admissions count up to block 89",
    }


def test_wireguard() -> None:
    """Peers carry the names that their tokens give them, and handshakes as time and as age."""
    shown = render_wireguard(snapshot(), wall_now=WALL_NOW)
    peers = shown.pop("peers")
    assert shown == {
        "interface": "wg0",
        "publicKey": OWN.text,
        "listenPort": 51820,
        "mtu": 1420,
        "up": True,
        "addresses": ["10.213.0.1/16"],
    }
    assert [p["nodeId"] for p in peers] == ["node-2", "node-3", "node-4"]
    assert peers[0] == {
        "nodeId": "node-2",
        "tokenId": 2,
        "publicKey": key_of(2).text,
        "verdict": "ACCESS_GRANTED",
        "endpoint": "192.0.2.7:51820",
        "endpointSource": "roamed",
        "allowedIps": ["10.213.0.2/32"],
        "lastHandshake": "2023-11-14T22:14:59.500Z",
        "handshakeAgeSeconds": 1.0,
        "rxBytes": 2000,
        "txBytes": 20,
        "state": "live",
        "live": True,
        "notes": [],
    }
    silent = peers[2]
    assert (silent["lastHandshake"], silent["handshakeAgeSeconds"]) == (None, None)
    assert (silent["live"], silent["endpoint"]) == (False, None)
    assert (silent["state"], silent["endpointSource"]) == ("never", None)
    static = {"node-2": parse_endpoint("192.0.2.7:51820")}
    named = render_wireguard(snapshot(), wall_now=WALL_NOW, static=static)["peers"]
    assert [p["endpointSource"] for p in named] == ["settings", "roamed", None]
    assert silent["notes"] == ["the name b.example has no address"]


def test_a_session_dies_at_180_seconds() -> None:
    """A handshake of 180 s ago is no live one any more."""
    shot = snapshot(device=device(peer(2, age=179.9), peer(3, age=180)))
    live = [p["live"] for p in render_wireguard(shot, wall_now=WALL_NOW)["peers"]]
    assert live == [True, False]
    assert health(shot)["peerRegistry"] == {"activePeers": 1, "totalPeers": 3}


def test_a_peer_that_nobody_wants_has_no_name() -> None:
    """A stranger on the device is shown, nameless, and is not counted as active."""
    shot = snapshot(
        peer_names={key_of(2): wanted(2)}, device=device(peer(2, age=1), peer(9, age=1))
    )
    stranger = render_wireguard(shot, wall_now=WALL_NOW)["peers"][1]
    assert (stranger["nodeId"], stranger["tokenId"], stranger["notes"]) == (None, None, [])
    assert health(shot)["peerRegistry"]["activePeers"] == 1


def test_wireguard_without_a_device() -> None:
    """The form stays the same when there is no device."""
    assert render_wireguard(blank(), wall_now=WALL_NOW).keys() == (
        render_wireguard(snapshot(), wall_now=WALL_NOW).keys()
    )


def test_access() -> None:
    """Verdicts come with their words, reasons and the block that they are about."""
    shot = snapshot([node(1), node(2, revoked=True)])
    shown = render_access(shot)
    assert shown["block"] == 90
    assert [a["verdict"] for a in shown["access"]] == ["ACCESS_GRANTED", "REVOKED"]
    assert shown["access"][0]["publicKey"] == key_of(1).text


def test_big_token_ids_stay_exact() -> None:
    """A token id that a JavaScript number cannot hold goes out as its digits."""
    big = 2**200 + 1
    token = node(big, node_id="big", key=key_of(5).raw)
    decision = judge(membership([token]), confirmed=90, chain_now=0)[0]
    assert render_decision(decision)["tokenId"] == str(big)
    assert render_decision(decision)["verdict"] == "UNADDRESSABLE"


@pytest.mark.parametrize(
    "hostile",
    [
        '"}, {"admin": true',
        "</script><script>",
        "\x00\x1b[31m\r\n",
        "\u2028\u202e",
        "\ud800x",
        "é" * 99,
    ],
)
def test_hostile_text_comes_out_as_json(hostile: str) -> None:
    """Whatever a holder wrote is one JSON string, and stays where it belongs."""
    nodes = [node(1), node(2, node_id=hostile)]
    shot = snapshot(nodes, last_error=hostile, notes={2: (hostile,)})
    for shown in (
        render_access(shot),
        health(shot),
        render_wireguard(shot, wall_now=WALL_NOW),
    ):
        body = bytes(JsonAnswer(shown).body)
        assert msgspec.json.decode(body).keys() == shown.keys()
    verdict = msgspec.json.decode(JsonAnswer(render_access(shot)).body)
    readable = hostile.encode("utf-8", "replace").decode()
    assert verdict["access"][1]["nodeId"] == readable
