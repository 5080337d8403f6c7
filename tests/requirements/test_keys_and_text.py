"""Requirements 36 and 37: keys have one text and one token, and no text breaks anything."""

import base64
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from chain.local import following, local_chain, new_key
from chain.samples import encode_page
from chain.samples import node as any_node
from dstack_vpn.chain import contract as abi
from dstack_vpn.chain.follow import Follower
from dstack_vpn.chain.published_kind import PublishedContract
from dstack_vpn.log import configure_logs
from dstack_vpn.mesh.access import Verdict
from dstack_vpn.mesh.health import Code, assess
from dstack_vpn.mesh.keys import PublicKey
from dstack_vpn.mesh.membership import Address, Node
from dstack_vpn.store import Store
from dstack_vpn.web.answer import JsonAnswer
from dstack_vpn.web.render import render_access, render_health, render_stats, render_wireguard
from dstack_vpn.wireguard.conf import About, render_conf
from lab.chain import CHAIN_ID, RpcError
from lab.published import PublishedAccess
from mesh.build import BLOCK, NOW, WALL_NOW, decide, device_of, key_of, membership, plan_for
from mesh.build import node as token
from mesh.build import snapshot as snapshot_of
from requirements.node import node
from requirements.scene import decisions, scene

KEY = base64.b64encode(bytes(range(1, 33))).decode()
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def aliases(text: str) -> list[str]:
    """The other texts that a lax decoder reads as the same key."""
    first = ALPHABET.index(text[42]) & ~3
    every = [text[:42] + ALPHABET[first + i] + "=" for i in range(4)]
    return [alias for alias in every if alias != text]


NO_KEYS = [
    "",
    KEY[:-1],
    KEY + "=",
    KEY + "\n",
    " " + KEY[1:],
    KEY.replace("=", ""),
    KEY[:-2] + "==",
    KEY.replace("A", "-", 1),
    base64.b64encode(bytes(32)).decode(),
    base64.b64encode(bytes(31)).decode(),
    base64.b64encode(b"k" * 33).decode(),
    "\uff21" + KEY[1:],
    bytes(range(1, 33)).hex(),
    *aliases(KEY),
]


def test_requirement_36_a_key_has_one_text() -> None:
    """Requirement 36: 44 characters, canonical base64 of 32 bytes that are not all zero."""
    assert PublicKey.parse(KEY).raw == bytes(range(1, 33))
    assert len(aliases(KEY)) == 3
    assert {base64.b64decode(alias, validate=True) for alias in aliases(KEY)} == {
        PublicKey.parse(KEY).raw
    }
    for text in NO_KEYS:
        with pytest.raises(ValueError, match="WireGuard key"):
            PublicKey.parse(text)


async def test_requirement_36_our_contract_takes_no_other_text(tmp_path: Path) -> None:
    """Requirement 36: on our contract no alias and no second use of a key gets as far as a log."""
    async with scene(tmp_path, count=1) as s:
        one = (await s.nft.mint("one", KEY)).token_id
        for text in [*NO_KEYS[1:], KEY]:
            with pytest.raises(RpcError):
                await s.nft.mint("two", text)
        await s.follower.start(None)
        assert s.members() == {one}
        assert s.membership.nodes[one].key == PublicKey.parse(KEY).raw


@contextlib.asynccontextmanager
async def published(
    directory: Path, *options: str
) -> AsyncIterator[tuple[PublishedAccess, Follower]]:
    """A contract that checks nothing, and its follower."""
    async with local_chain(directory, options=options) as chain:
        contract = await PublishedAccess.deploy(chain)
        address = Address(contract.address.lower())
        kind = PublishedContract(address, chain_id=CHAIN_ID, start_block=contract.start_block)
        async with following(address, chain.url, kind=kind) as follower:
            yield contract, follower


async def test_requirement_36_the_first_to_register_a_key_keeps_it(tmp_path: Path) -> None:
    """Requirement 36: where a contract lets two tokens have one key, the later one is out.

    Whatever the later one's number, and however often the first one's holder sets it again. An
    alias is no key at all. What is refused is not taken from the first.
    """
    async with published(tmp_path) as (contract, follower):
        late = (await contract.mint("late", new_key())).token_id
        first = (await contract.mint("first", KEY)).token_id
        alias = [(await contract.mint(f"a{i}", a)).token_id for i, a in enumerate(aliases(KEY))]
        await follower.start(None)
        await contract.set_key(late, KEY)
        await follower.poll()
        await contract.set_key(first, KEY)
        copy = (await contract.mint("copy", KEY, to=1)).token_id
        await follower.poll()
        found = decisions(follower.view)
        assert found[first].granted
        assert found[late].verdict is found[copy].verdict is Verdict.KEY_DUPLICATE
        assert f"token {first}" in found[late].reason
        assert {found[number].verdict for number in alias} == {Verdict.KEY_INVALID}


def test_requirement_36_a_copied_key_is_a_warning_that_names_both() -> None:
    """Requirement 36: as long as a token has the key of another one, /health says which."""
    nodes = [token(1), token(2), token(7, key=key_of(2).raw, since_block=BLOCK)]
    health = assess(snapshot_of(nodes), now=NOW, dark_after=60.0)
    (warning,) = [w for w in health.warnings if w.code is Code.KEY_COPIED]
    assert "token 7" in warning.text
    assert "token 2 registered this key first" in warning.text
    assert health.ready
    assert not assess(snapshot_of(), now=NOW, dark_after=60.0).warnings


async def test_requirement_36_a_copied_key_is_logged_once_and_nobody_is_evicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requirement 36: the first stays on the device; of the copy there is one line in the log."""
    async with node(tmp_path, monkeypatch) as n:
        two = await n.scene.mint("two")
        await n.look()
        agreed = n.follower._agreed
        assert agreed is not None
        member = agreed.journal.nodes[two]
        copy = replace(member, token_id=9, node_id="copy", since_block=member.since_block + 1)
        agreed.journal._nodes = {**agreed.journal.nodes, 9: copy}
        await n.scene.chain.mine()
        with capture_logs() as lines:
            for _ in range(3):
                await n.look()
        assert list(n.device.peers) == [PublicKey(member.key)]
        told = [line for line in lines if line["event"] == "access.key_copied"]
        assert [(line["token_id"], line["log_level"]) for line in told] == [(9, "warning")]
        assert Code.KEY_COPIED in n.codes()


# 37: hostile text

HOSTILE = {
    "a megabyte": "x" * 2**20,
    "NUL": "a\0b",
    "newlines": "a\n[Peer]\nPublicKey = x\r\n",
    "controls": "\x1b[2J\x07\x9b2J",
    "right to left": "\u202egnp.exe\u2066",
    "markup": "<script>alert(1)</script>\"'&{{7*7}}",
    "a path": "../../etc/passwd",
    "line separators": "a\u2028b\u2029c\x85d",
    "many bytes": "\U0001f9ff" * 300,
    "empty": "",
}


@pytest.fixture
def fresh_logs() -> Iterator[None]:
    """The process's logs as they were, afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("fresh_logs")
@pytest.mark.parametrize("name", HOSTILE)
def test_requirement_37_hostile_text_breaks_nothing_on_its_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Requirement 37: a node id and an endpoint of any text are read, judged, stored and shown.

    The token is out for its name; a member with such an endpoint is in without it.
    """
    text = HOSTILE[name]
    told = [any_node(1), any_node(2, node_id=text, endpoint=text), any_node(3, endpoint=text)]
    decoded = abi.decode_page(encode_page([*told]), first=1, since_block=0)
    assert decoded == told
    nodes = [replace(n, key=key_of(n.token_id).raw, since_block=1) for n in told]

    verdicts = {d.token_id: d.verdict for d in decide(nodes)}
    assert verdicts == {1: "ACCESS_GRANTED", 2: "NODE_ID_INVALID", 3: "ACCESS_GRANTED"}
    plan = plan_for(nodes)
    device = device_of(plan)
    assert set(device.peers) == {key_of(3)}
    assert device.peers[key_of(3)].endpoint is None

    file = render_conf(device, About(block=1, block_hash=text))
    assert file.isascii()
    assert file.count("[Peer]") == 1
    assert len(file) < 2000

    with contextlib.closing(Store(tmp_path / "state.db")) as store:
        store.save(membership(nodes), wall_now=1)
        found = store.load()
    assert found is not None
    assert found.membership.nodes[2] == nodes[1]

    shot = replace(snapshot_of(nodes), last_error=text, notes=plan.notes)
    health = assess(shot, now=NOW, dark_after=60.0)
    for shown in (
        render_health(shot, health, wall_now=WALL_NOW),
        render_stats(shot, health, wall_now=WALL_NOW),
        render_wireguard(shot, wall_now=WALL_NOW),
        render_access(shot),
    ):
        body = JsonAnswer(shown).body
        json.loads(bytes(body))
        assert b"\n" not in body
    for form in ("json", "console"):
        configure_logs(form=form)
        structlog.get_logger().info("membership.refused", node_id=text, reason=text)
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        allowed = "\n\x1b" if form == "console" else "\n"  # colours
        assert all(c.isprintable() or c in allowed for c in line)
        assert text.isprintable() or text not in line


def test_requirement_37_bytes_that_are_no_text_are_read_too() -> None:
    """Requirement 37: a contract's string may hold any bytes; each comes out as another text."""
    page = encode_page([any_node(1, node_id="ABCDEFGH"), any_node(2, node_id="ABCDEFGI")])
    for bad in (b"\xff\xfe\x80\x00", b"\xc0\x80\xed\xa0", b"\xf5\x90\x80\x80"):
        data = page.replace(b"ABCDEFGH", bad * 2)
        one, two = abi.decode_page(data, first=1, since_block=0)
        assert isinstance(one, Node)
        assert isinstance(two, Node)
        assert two.node_id == "ABCDEFGI"
        assert abi.encode_page([one, two]) == data
        JsonAnswer({"nodeId": one.node_id})


ON_CHAIN = 2**16
"""Bytes of a text that a chain stores for us within a second; a megabyte takes it ten."""


async def test_requirement_37_a_contract_that_takes_any_text_holds_up_nobody(
    tmp_path: Path,
) -> None:
    """Requirement 37: whatever the texts of a real contract's tokens are, its members are in."""
    options = ("--gas-limit", "20000000000", "--hardfork", "cancun")
    async with published(tmp_path, *options) as (contract, follower):
        good = (await contract.mint("good", new_key())).token_id
        await follower.start(None)
        told = {name: text[:ON_CHAIN] for name, text in HOSTILE.items()}
        bad = {name: (await contract.mint(text, new_key())).token_id
               for name, text in told.items()}  # fmt: skip
        last = (await contract.mint("last", new_key())).token_id
        view = await follower.poll()
        assert view.last_error is None
        found = decisions(view)
        assert {number for number, d in found.items() if d.granted} == {good, last}
        assert view.membership is not None
        for name, number in bad.items():
            assert found[number].verdict is Verdict.NODE_ID_INVALID
            assert view.membership.nodes[number].node_id == told[name]
