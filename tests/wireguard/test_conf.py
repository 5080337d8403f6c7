"""The wg-quick file: readable, the same every time, and taken by the real tools."""

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.mesh.diff import diff
from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.wireguard.conf import render_conf
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


def test_a_whole_file() -> None:
    """Sorted, with the block it belongs to and who each peer is, and without the private key."""
    assert render_conf(WANTED, block=17, block_hash="0xab12") == (
        "# written by dstack-vpn for block 17 0xab12; changes are overwritten\n"
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
    without = render_conf(WANTED, block=None, block_hash=None)
    text = render_conf(WANTED, block=None, block_hash=None, private_key=PRIVATE_KEY)
    line = f"PrivateKey = {PRIVATE_KEY.reveal()}\n"
    assert text.replace(line, "") == without
    assert text.count(line) == 1


def test_the_order_of_peers_does_not_matter() -> None:
    """The same device gives the same bytes."""
    turned = replace(WANTED, peers=dict(reversed(list(WANTED.peers.items()))))
    assert render_conf(turned, block=1, block_hash="x") == render_conf(
        WANTED, block=1, block_hash="x"
    )


@patient
@given(st.text(max_size=200), st.text(max_size=200))
def test_nothing_hostile_can_break_a_line(node_id: str, block_hash: str) -> None:
    """Whatever stands in a name or a hash, the file has the lines that it should have."""
    hostile = replace(peer(1), node_id=node_id)
    text = render_conf(device(PRIVATE_KEY, hostile), block=1, block_hash=block_hash)
    plain = render_conf(device(PRIVATE_KEY, peer(1)), block=1, block_hash="x")
    assert text.isascii()
    assert [line for line in text.splitlines() if not line.startswith("#")] == [
        line for line in plain.splitlines() if not line.startswith("#")
    ]
    assert len(text.splitlines()) == len(plain.splitlines())


async def test_the_tools_take_the_file(tmp_path: Path) -> None:
    """`wg-quick strip` reads it and `wg setconf` makes a device as wanted of it."""
    need_lab()
    name = unique_name()
    wanted = replace(WANTED, name=name, listen_port=42042)
    path = tmp_path / f"{name}.conf"
    text = render_conf(wanted, block=1, block_hash="0xab", private_key=PRIVATE_KEY)
    path.write_text(text)
    path.chmod(0o600)
    stripped = (await run("wg-quick", "strip", str(path))).out
    made = UserspaceDevice(name, PRIVATE_KEY, marker_path=tmp_path / "marker")
    await made.create()
    try:
        await run("wg", "setconf", name, "/dev/stdin", text=stripped)
        change = diff(wanted, await made.seen())
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
    path.write_text(render_conf(wanted, block=1, block_hash="0xab", private_key=PRIVATE_KEY))
    path.chmod(0o600)
    await run("wg-quick", "up", str(path))
    try:
        made = UserspaceDevice(name, PRIVATE_KEY, marker_path=tmp_path / "marker")
        assert not diff(wanted, await made.seen())
        route = (await run("ip", "route", "get", "10.213.77.1")).out
        assert f"dev {name}" in route
    finally:
        await run("wg-quick", "down", str(path))
