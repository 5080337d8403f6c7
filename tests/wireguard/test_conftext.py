"""A configuration file read back: what it says, what differs, and that no key is ever shown."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.mesh.rollback import InterfaceSettings, Rollback
from dstack_vpn.wireguard.conf import About, render_conf
from dstack_vpn.wireguard.conftext import (
    HIDDEN,
    Head,
    interface_changes,
    peer_changes,
    peer_fields,
    read_conf,
    read_head,
    without_secrets,
)
from wireguard.samples import at, device, key, patient, peer

PRIVATE_KEY = PrivateKey(bytes(range(1, 33)))
WANTED = device(
    PRIVATE_KEY,
    peer(1, endpoint=at("2001:db8::1"), keepalive=25),
    peer(2),
    listen_port=51821,
    addresses=("10.213.0.9/16", "fd59::9/48"),
)
CONFIGURED = InterfaceSettings(listen_port=51820, mtu=None)
ROLLBACK = Rollback(
    state=7, block=None, made_at=1, listen_port=51821, mtu=None, replaced=CONFIGURED
)
ABOUT = About(
    block=17,
    block_hash="0xab12",
    block_time=1_750_000_007,
    configured=CONFIGURED,
    in_force=ROLLBACK.in_force(CONFIGURED),
)
TEXT = render_conf(WANTED, ABOUT, private_key=PRIVATE_KEY)


def test_a_file_of_ours_is_read_in_full() -> None:
    """What the text was made of comes back."""
    conf = read_conf(TEXT)
    section = conf.head.section
    assert conf.head == Head(
        block=17,
        block_hash="0xab12",
        configured=CONFIGURED,
        rolled_back_to=7,
        address="10.213.0.9/16, fd59::9/48",
        listen_port=51821,
        mtu=1420,
        section=section,
    )
    assert section.splitlines()[0] == f"PrivateKey = {PRIVATE_KEY.reveal()}"
    assert conf.peers.keys() == {key(1).text, key(2).text}
    assert peer_fields(conf.peers[key(1).text]) == {
        "comment": "node-1, token 1",
        "allowedIps": ["10.213.0.1/32", "fd59:11ea:eff5::1/128"],
        "endpoint": "[2001:db8::1]:51820",
        "persistentKeepalive": 25,
    }


def test_the_front_of_a_file_is_enough() -> None:
    """The head of a large file needs no peers, and may be cut anywhere among them."""
    end = TEXT.index("[Peer]")
    whole = read_head(TEXT)
    assert all(read_head(TEXT[:cut]) == whole for cut in range(end, len(TEXT)))


def test_a_file_that_is_not_ours() -> None:
    """Other spelling, comments and settings of wg-quick are no obstacle, and are no block."""
    text = "#mine\n[interface]\nlistenport=1\n# why\nPostUp = x\nMTU=big\n[peer]\npublickey= K \n"
    head = read_head(text)
    assert (head.block, head.listen_port, head.mtu) == (None, 1, None)
    assert head.section.splitlines() == ["listenport=1", "PostUp = x", "MTU=big"]
    assert list(read_conf(text).peers) == ["K"]


@patient
@given(st.text())
def test_anything_may_stand_in_the_file(text: str) -> None:
    """Nothing raises."""
    conf = read_conf(text)
    assert not interface_changes(conf.head, conf.head)
    assert not str(peer_changes(conf.peers, conf.peers))


SECRET = PRIVATE_KEY.reveal()


@pytest.mark.parametrize(
    "line",
    [
        f"PrivateKey = {SECRET}",
        f"privatekey={SECRET}",
        f"  PresharedKey\t=  {SECRET}  ",
        f"# PrivateKey = {SECRET}",
        f"#PublicKey = {SECRET}",
        f"PublicKey = {key(1).text} {SECRET}",
        f"PostUp = wg set %i private-key <(echo {SECRET})",
        f"PostUp = wg set %i peer x preshared-key {SECRET[:-1]}",
        f"{SECRET}{SECRET}",
    ],
)
def test_no_secret_is_shown(line: str) -> None:
    """Wherever a key stands that is not a peer's public one, and however it is spelled."""
    (shown,) = without_secrets(line)
    assert SECRET[:-1] not in shown
    assert HIDDEN in shown


def test_all_else_is_shown_as_it_is() -> None:
    """Public keys too."""
    shown = "".join(f"{line}\n" for line in without_secrets(TEXT))
    assert shown == TEXT.replace(SECRET, HIDDEN)


def test_what_differs_is_said_in_words() -> None:
    """Each setting with its old and new value; of a key only that it is another one."""
    other = PrivateKey(bytes(range(2, 34)))
    new = replace(WANTED, listen_port=51999, mtu=1300, addresses=())
    changed = read_head(render_conf(new, ABOUT, private_key=other))
    assert interface_changes(read_head(TEXT), changed) == (
        "ListenPort 51821 -> 51999",
        "MTU 1420 -> 1300",
        "Address 10.213.0.9/16, fd59::9/48 -> none",
        "another private key",
    )
    assert interface_changes(Head(section="DNS = 1"), Head()) == ("another dns",)


def test_peers_that_differ_are_counted() -> None:
    """Added, removed, altered; whether anything else of the file changed does not matter."""
    new = device(PRIVATE_KEY, peer(1, keepalive=5), peer(3), peer(4))
    found = peer_changes(read_conf(TEXT).peers, read_conf(render_conf(new, About(block=1))).peers)
    assert found.removed == (key(2).text,)
    assert found.altered == (key(1).text,)
    assert str(found) == "peers: 2 added, 1 removed, 1 altered"
