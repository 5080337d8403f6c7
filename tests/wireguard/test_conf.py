"""The wg-quick file: readable, the same every time, and taken by the real tools."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.mesh.diff import diff
from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.mesh.rollback import InterfaceSettings, Rollback
from dstack_vpn.wireguard.conf import About, render_conf
from dstack_vpn.wireguard.conffile import write_private
from dstack_vpn.wireguard.userspace import UserspaceDevice
from lab.fixtures import need_lab
from lab.process import run
from wireguard.samples import at, device, key, patient, peer, unique_name

PRIVATE_KEY = PrivateKey(bytes(range(1, 33)))
WANTED = device(
    PRIVATE_KEY,
    peer(2),
    peer(1, endpoint=at("2001:db8::1"), keepalive=25),
    listen_port=51820,
    addresses=("fd59:11ea:eff5::9/48", "10.213.0.9/16"),
)


CONFIGURED = InterfaceSettings(listen_port=51820, mtu=None)
ROLLBACK = Rollback(state=7, block=12, made_at=1, listen_port=51821, mtu=None, replaced=CONFIGURED)
ABOUT = About(
    block=17,
    block_hash="0xab12",
    block_time=1_750_000_007,
    configured=CONFIGURED,
    in_force=ROLLBACK.in_force(CONFIGURED),
)


def test_a_whole_file() -> None:
    """Sorted, with what it is about and who each peer is, and without the private key."""
    assert render_conf(WANTED, ABOUT) == (
        "# written by dstack-vpn for block 17 0xab12 of 2025-06-15T15:06:47Z; changes are"
        " overwritten\n"
        "# settings: LISTEN_PORT=51820 MTU=auto\n"
        "# rolled back to state 7 of block 12: LISTEN_PORT is 51821 instead of 51820\n"
        "[Interface]\n"
        "Address = 10.213.0.9/16, fd59:11ea:eff5::9/48\n"
        "ListenPort = 51820\n"
        "MTU = 1420\n"
        "Table = off\n"
        "\n"
        "# node-1, token 1\n"
        "[Peer]\n"
        f"PublicKey = {key(1).text}\n"
        "AllowedIPs = 10.213.0.1/32, fd59:11ea:eff5::1/128\n"
        "Endpoint = [2001:db8::1]:51820\n"
        "PersistentKeepalive = 25\n"
        "\n"
        "# node-2, token 2\n"
        "[Peer]\n"
        f"PublicKey = {key(2).text}\n"
        "AllowedIPs = 10.213.0.2/32, fd59:11ea:eff5::2/128\n"
    )


def test_the_private_key_only_when_asked_for() -> None:
    """It is in the file when it is handed over, on its own line, and nowhere else."""
    without = render_conf(WANTED, About(block=None))
    text = render_conf(WANTED, About(block=None), private_key=PRIVATE_KEY)
    line = f"PrivateKey = {PRIVATE_KEY.reveal()}\n"
    assert text.replace(line, "") == without
    assert text.count(line) == 1


def test_the_order_of_peers_does_not_matter() -> None:
    """The same device gives the same bytes."""
    turned = replace(WANTED, peers=dict(reversed(list(WANTED.peers.items()))))
    assert render_conf(turned, About(block=1, block_hash="x")) == render_conf(
        WANTED, About(block=1, block_hash="x")
    )


@patient
@given(st.text(max_size=200), st.text(max_size=200))
def test_nothing_hostile_can_break_a_line(node_id: str, block_hash: str) -> None:
    """Whatever stands in a name or a hash, the file has the lines that it should have."""
    hostile = replace(peer(1), node_id=node_id)
    text = render_conf(device(PRIVATE_KEY, hostile), About(block=1, block_hash=block_hash))
    plain = render_conf(device(PRIVATE_KEY, peer(1)), About(block=1, block_hash="x"))
    assert text.isascii()
    assert [line for line in text.splitlines() if not line.startswith("#")] == [
        line for line in plain.splitlines() if not line.startswith("#")
    ]
    assert len(text.splitlines()) == len(plain.splitlines())


@pytest.mark.parametrize("seconds", [-(2**70), -1, 0, 2**40, 2**70])
def test_a_time_that_no_calendar_has(seconds: int) -> None:
    """A chain may say anything of its blocks; the file is written all the same."""
    text = render_conf(WANTED, About(block=1, block_hash="0xab", block_time=seconds))
    assert text.startswith("# written by dstack-vpn for block 1 0xab")
    assert text.splitlines()[1] == "[Interface]"


HOSTILE = (
    "node-1",
    "a\n[Peer]\nPublicKey = " + key(9).text,
    "a\r\nPostUp = touch /tmp/x\u2028[Interface]",
    "# \x00\x1b]0;\x07" + "x" * 300,
    "\N{RIGHT-TO-LEFT OVERRIDE}\ud800",
)


async def test_the_tools_take_the_file(tmp_path: Path) -> None:
    """`wg-quick strip` reads it and `wg setconf` makes a device of it with exactly the peers.

    IPv4 and IPv6, endpoints of both and none, and whatever stands in names and hashes.
    """
    need_lab()
    name = unique_name()
    ends = (None, at("192.0.2.7", 1), at("2001:db8::1", 65535), at("::ffff:192.0.2.9"), None)
    peers = [
        replace(peer(number, endpoint=end, keepalive=number * 5), node_id=node_id)
        for number, (node_id, end) in enumerate(zip(HOSTILE, ends, strict=True), 1)
    ]
    wanted = device(
        PRIVATE_KEY, *peers, name=name, listen_port=42042, addresses=("fd59::9/48", "10.213.0.9/16")
    )
    path = tmp_path / f"{name}.conf"
    about = replace(ABOUT, block_hash="0x\n[Peer]\n")
    write_private(path, render_conf(wanted, about, private_key=PRIVATE_KEY))
    stripped = (await run("wg-quick", "strip", str(path))).out
    made = UserspaceDevice(name, PRIVATE_KEY, marker_path=tmp_path / "marker")
    await made.create()
    try:
        await run("wg", "setconf", name, "/dev/stdin", text=stripped)
        seen = await made.seen()
        assert seen is not None
        assert seen.peers.keys() == wanted.peers.keys()
        change = diff(wanted, seen)
        assert change.peers == ()
        assert (change.set_key, change.listen_port) == (False, None)
    finally:
        await made.destroy()


async def test_wg_quick_brings_the_file_up(tmp_path: Path) -> None:
    """On the day without an agent: `wg-quick up FILE`, and the addresses lead to the members."""
    need_lab()
    name = unique_name()
    wanted = replace(WANTED, name=name, listen_port=42043)
    path = tmp_path / f"{name}.conf"
    path.write_text(render_conf(wanted, About(block=1, block_hash="0xab"), private_key=PRIVATE_KEY))
    path.chmod(0o600)
    await run("wg-quick", "up", str(path))
    try:
        made = UserspaceDevice(name, PRIVATE_KEY, marker_path=tmp_path / "marker")
        assert not diff(wanted, await made.seen())
        route = (await run("ip", "route", "get", "10.213.77.1")).out
        assert f"dev {name}" in route
    finally:
        await run("wg-quick", "down", str(path))
