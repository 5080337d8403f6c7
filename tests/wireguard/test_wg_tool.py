"""The authors' own program `wg`, against our double of the kernel, and beside what we send.

It is the second witness: `wg` takes the double for the kernel, so the double is like one, and where
both can say the same thing, we say it in the same bytes. A small library (netlink_shim.c) leads it
to the double. What Linux itself makes of our messages is tested in test_vm.py.
"""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_network
from pathlib import Path

import pytest
import pytest_asyncio

from dstack_vpn.mesh.device import AddPeer, DeviceChange, RemovePeer, UpdatePeer
from dstack_vpn.mesh.diff import diff, sorted_networks
from dstack_vpn.mesh.keys import PrivateKey, PublicKey
from dstack_vpn.wireguard import link, wgnetlink
from dstack_vpn.wireguard.kernel import KernelDevice
from lab.fixtures import need, need_lab
from lab.process import run
from wireguard.kernel_double import KernelDouble, walk
from wireguard.samples import adding, at, device, hosts, key, peer, unique_name

PRIVATE_KEY = PrivateKey.generate()
SOURCE = Path(__file__).with_name("netlink_shim.c")
PEERS = 0x8008
"""WGDEVICE_A_PEERS, nested."""


@dataclass
class Bench:
    """A device of the double, with our side of it and with wg's."""

    ours: KernelDevice
    kernel: KernelDouble
    shim: Path
    address: Path

    @property
    def name(self) -> str:
        """The interface."""
        return self.ours.name

    async def wg(self, *words: object, text: str = "") -> str:
        """Run wg, led to the double; what it printed."""
        environment = {
            "PATH": os.environ["PATH"],
            "LD_PRELOAD": str(self.shim),
            "SHIM_SOCKET": str(self.address),
        }
        return (await run("wg", *map(str, words), env=environment, text=text)).out

    async def sent_by_wg(self, *words: object, text: str = "") -> list[bytes]:
        """Have wg set the device; the messages that the kernel got."""
        self.kernel.received.clear()
        await self.wg("set", self.name, *words, text=text)
        return self.kernel.received

    async def shown(self) -> list[list[str]]:
        """Read `wg show NAME dump`: the device's line and each peer's, in columns."""
        return [
            line.split("\t") for line in (await self.wg("show", self.name, "dump")).splitlines()
        ]


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library, compiled."""
    need(shutil.which("cc"), "cc is not installed: gcc and libc6-dev")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    flags = ("-Wall", "-Werror", "-O1", "-shared", "-fPIC")
    subprocess.run(["cc", *flags, "-o", library, SOURCE, "-ldl"], check=True)
    return library


@pytest_asyncio.fixture
async def bench(shim: Path, tmp_path: Path) -> AsyncIterator[Bench]:
    """A device of the double without anything."""
    need_lab()
    kernel, name, address = KernelDouble(), unique_name(), tmp_path / "kernel"
    ours = KernelDevice(
        name,
        PRIVATE_KEY,
        marker_path=tmp_path / "note",
        dial=kernel.dial,
        add_link=kernel.add_link,
        why_taken=kernel.why_taken,
    )
    await ours.create()
    with kernel.listening(address):
        yield Bench(ours, kernel, shim, address)
    await link.delete(name)


def peers_of(message: bytes) -> bytes:
    """The attribute that holds the peers."""
    (value,) = [value for kind, value in walk(message[4:]) if kind == PEERS]
    return value


def ours(*changes: AddPeer | UpdatePeer | RemovePeer) -> bytes:
    """What we send about peers."""
    (message,) = wgnetlink.set_peers(1, changes)
    return peers_of(message)


# -- what we send is what wg sends


async def test_an_addition_is_sent_as_wg_sends_it(bench: Bench) -> None:
    """Byte for byte, with an endpoint of either family."""
    for wanted in (
        peer(1, endpoint=at("192.0.2.1"), keepalive=25),
        peer(2, endpoint=at("2001:db8::1", 9), keepalive=65535),
        peer(3, allowed_ips=(ip_network("10.0.0.0/8"), ip_network("::/0"))),
    ):
        endpoint = ("endpoint", wanted.endpoint) if wanted.endpoint else ()
        (sent,) = await bench.sent_by_wg(
            "peer", wanted.key, *endpoint, "persistent-keepalive", wanted.keepalive,
            "allowed-ips", ",".join(map(str, wanted.allowed_ips)),
        )  # fmt: skip
        assert ours(AddPeer(peer=wanted)).hex() == peers_of(sent).hex()


async def test_a_removal_is_sent_as_wg_sends_it(bench: Bench) -> None:
    """Byte for byte, and one message for several."""
    (sent,) = await bench.sent_by_wg("peer", key(1), "remove", "peer", key(2), "remove")
    removals = [RemovePeer(key=key(number), reason="") for number in (1, 2)]
    assert ours(*removals).hex() == peers_of(sent).hex()


async def test_an_update_is_sent_as_wg_sends_it_but_for_its_flag(bench: Bench) -> None:
    """The program has no word for "only if it is there"; everything else is the same."""
    (sent,) = await bench.sent_by_wg("peer", key(1), "allowed-ips", "10.213.0.1/32")
    update = UpdatePeer(
        key=key(1), node_id="", allowed_ips=hosts(1)[:1], endpoint=None, keepalive=None, changes=()
    )
    flags = bytes.fromhex("0800 0300 0200 0000"), bytes.fromhex("0800 0300 0600 0000")
    assert peers_of(sent).count(flags[0]) == 1
    assert ours(update).hex() == peers_of(sent).replace(*flags).hex()


async def test_settings_are_sent_as_wg_sends_them(bench: Bench) -> None:
    """All but how the device is named: wg gives its name, we its number."""
    (sent,) = await bench.sent_by_wg(
        "listen-port", 42017, "private-key", "/dev/stdin", text=PRIVATE_KEY.reveal()
    )
    change = DeviceChange(name=bench.name, set_key=True, listen_port=42017)
    message = wgnetlink.set_settings(1, change, PRIVATE_KEY)
    assert message is not None
    assert message[:4] == sent[:4]
    (number, *own), (named, *theirs) = list(walk(message[4:])), list(walk(sent[4:]))
    assert own == theirs
    assert (number[0], named) == (1, (2, bench.name.encode() + b"\0"))


# -- wg reads what we wrote


async def test_wg_shows_what_we_wrote(bench: Bench) -> None:
    """Key, port, peers, endpoints, allowed IPs and keepalives."""
    wanted = device(
        PRIVATE_KEY,
        peer(1, endpoint=at("192.0.2.1"), keepalive=25),
        peer(2, endpoint=at("2001:db8::2", 41)),
        name=bench.name,
        listen_port=42017,
    )
    await bench.ours.apply(diff(wanted, await bench.ours.seen()))
    own, *peers = await bench.shown()
    assert own == [PRIVATE_KEY.reveal(), PRIVATE_KEY.public.text, "42017", "off"]
    allowed = [",".join(map(str, hosts(number))) for number in (1, 2)]
    assert peers == [
        [key(1).text, "(none)", "192.0.2.1:51820", allowed[0], "0", "0", "0", "25"],
        [key(2).text, "(none)", "[2001:db8::2]:41", allowed[1], "0", "0", "0", "off"],
    ]


async def test_wg_shows_all_of_a_large_device(bench: Bench) -> None:
    """A thousand peers and a peer with three thousand allowed IPs: several messages, both ways."""
    networks = tuple(IPv6Network((IPv6Address("fd00::") + i, 128)) for i in range(3000))
    many = [peer(1, allowed_ips=networks), *map(peer, range(2, 1002))]
    await bench.ours.apply(adding(bench.name, *many))
    _, *peers = await bench.shown()
    shown = {line[0]: line[3] for line in peers}
    assert shown == {p.key.text: ",".join(map(str, p.allowed_ips)) for p in many}


# -- we read what wg wrote


def conf(*lines: str) -> str:
    """A configuration file of wg."""
    return "\n".join((f"[Interface]\nPrivateKey = {PRIVATE_KEY.reveal()}", *lines, ""))


def section(public_key: PublicKey, allowed_ips: str, *more: str) -> str:
    """A peer of it."""
    return "\n".join(("[Peer]", f"PublicKey = {public_key}", f"AllowedIPs = {allowed_ips}", *more))


async def test_we_read_what_wg_wrote(bench: Bench, tmp_path: Path) -> None:
    """`wg setconf` replaces all peers, `wg syncconf` alters them, `wg set` takes one off."""
    await bench.ours.apply(adding(bench.name, peer(9)))
    file = tmp_path / "conf"

    async def load(how: str, *sections: str) -> None:
        await run("tee", file, text=conf(*sections))
        await bench.wg(how, bench.name, file)

    preshared = PrivateKey.generate().reveal()
    await load(
        "setconf",
        "ListenPort = 4711",
        section(key(1), "10.0.0.1/32, fd00::1/128", "Endpoint = 192.0.2.1:7"),
        section(key(2), "10.0.0.77/24", "PersistentKeepalive = 5", f"PresharedKey = {preshared}"),
    )
    seen = await bench.ours.seen()
    assert seen is not None
    assert (seen.public_key, seen.listen_port) == (PRIVATE_KEY.public, 4711)
    assert set(seen.peers) == {key(1), key(2)}
    assert seen.peers[key(1)].endpoint == at("192.0.2.1", 7)
    assert seen.peers[key(1)].allowed_ips == sorted_networks(
        map(ip_network, ("10.0.0.1/32", "fd00::1/128"))
    )
    assert seen.peers[key(2)].allowed_ips == (ip_network("10.0.0.0/24"),)
    assert seen.peers[key(2)].keepalive == 5

    await load("syncconf", section(key(1), "10.0.0.1/32"), section(key(3), "10.0.0.3/32"))
    await bench.wg("set", bench.name, "peer", key(4), "allowed-ips", "10.0.0.4/32")
    await bench.wg("set", bench.name, "peer", key(3), "remove")
    seen = await bench.ours.seen()
    assert seen is not None
    assert {k: p.allowed_ips for k, p in seen.peers.items()} == {
        key(1): (ip_network("10.0.0.1/32"),),
        key(4): (ip_network("10.0.0.4/32"),),
    }
    assert seen.peers[key(1)].endpoint == at("192.0.2.1", 7)
