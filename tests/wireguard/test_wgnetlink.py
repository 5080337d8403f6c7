"""The messages of the kernel's WireGuard, byte for byte and as no kernel would send them."""

import struct
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.mesh.device import AddPeer, DeviceChange, RemovePeer, SeenDevice, UpdatePeer
from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.wireguard import wgnetlink
from dstack_vpn.wireguard.memory import MemoryDevice
from dstack_vpn.wireguard.wgnetlink import DumpReader, KernelState
from wireguard.kernel_double import pages, walk
from wireguard.samples import adding, at, hosts, key, patient, peer

LITTLE = struct.pack("=H", 1) == b"\1\0"
pytestmark = pytest.mark.skipif(not LITTLE, reason="the bytes are those of a little-endian host")

PRIVATE_KEY = PrivateKey(bytes.fromhex("a0" * 31 + "41"))
NESTED = 0x8000


def octets(text: str) -> bytes:
    """Bytes from hex, with what comes after a # left out."""
    return bytes.fromhex("".join(line.partition("#")[0] for line in text.splitlines()))


def one(*messages: bytes) -> str:
    """The only message, as hex."""
    (message,) = messages
    return message.hex()


# -- requests

HEADER = """
    01 01 0000                # WG_CMD_SET_DEVICE, version 1
    0800 0100 07000000        # WGDEVICE_A_IFINDEX: 7
"""


def test_a_device_is_asked_for_by_its_name() -> None:
    """GET_DEVICE holds the name, with the zero at its end."""
    expected = octets(
        """
        00 01 0000            # WG_CMD_GET_DEVICE, version 1
        0800 0200 77673000    # WGDEVICE_A_IFNAME: "wg0"
        """
    )
    assert wgnetlink.get_device("wg0").hex() == expected.hex()


def test_settings_are_written_when_the_change_says_so() -> None:
    """Private key and listen port, each only if it is to change."""
    change = DeviceChange(name="wg0", set_key=True, listen_port=42017)
    expected = octets(
        HEADER
        + f"""
        2400 0300 {"a0" * 31}41   # WGDEVICE_A_PRIVATE_KEY
        0600 0600 21a4 0000       # WGDEVICE_A_LISTEN_PORT: 42017
        """
    )
    assert one(wgnetlink.set_settings(7, change, PRIVATE_KEY) or b"") == expected.hex()
    assert wgnetlink.set_settings(7, adding("wg0", peer(1)), PRIVATE_KEY) is None
    port_only = wgnetlink.set_settings(7, DeviceChange(name="wg0", listen_port=1), PRIVATE_KEY)
    assert port_only is not None
    assert PRIVATE_KEY.raw not in port_only


def test_a_peer_is_added() -> None:
    """All that is wanted of it, in place of the allowed IPs that it may have."""
    wanted = peer(1, endpoint=at("192.0.2.1"), keepalive=25)
    expected = octets(
        HEADER
        + f"""
        9800 0880                     # WGDEVICE_A_PEERS, nested
        9400 0080                     # 0, nested
        2400 0100 {"00" * 31}01       # WGPEER_A_PUBLIC_KEY
        1400 0400                     # WGPEER_A_ENDPOINT: struct sockaddr_in
            0200 ca6c c0000201 {"00" * 8}  # AF_INET, port 51820, 192.0.2.1
        0600 0500 1900 0000           # WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL: 25
        0800 0300 02000000            # WGPEER_A_FLAGS: WGPEER_F_REPLACE_ALLOWEDIPS
        4800 0980                     # WGPEER_A_ALLOWEDIPS, nested
        1c00 0080                     # 0, nested
            0600 0100 0200 0000       # WGALLOWEDIP_A_FAMILY: AF_INET
            0800 0200 0ad50001        # WGALLOWEDIP_A_IPADDR: 10.213.0.1
            0500 0300 20 000000       # WGALLOWEDIP_A_CIDR_MASK: 32
        2800 0080                     # 0, nested
            0600 0100 0a00 0000       # WGALLOWEDIP_A_FAMILY: AF_INET6
            1400 0200 fd5911eaeff500000000000000000001
            0500 0300 80 000000       # WGALLOWEDIP_A_CIDR_MASK: 128
        """
    )
    assert one(*wgnetlink.set_peers(7, [AddPeer(peer=wanted)])) == expected.hex()


def test_a_peer_is_updated() -> None:
    """Only what changes is written, and only a peer that is there is changed."""
    update = UpdatePeer(
        key=key(2),
        node_id="node-2",
        allowed_ips=None,
        endpoint=at("2001:db8::2", 41),
        keepalive=None,
        changes=(),
    )
    expected = octets(
        HEADER
        + f"""
        5400 0880                     # WGDEVICE_A_PEERS, nested
        5000 0080                     # 0, nested
        2400 0100 {"00" * 31}02       # WGPEER_A_PUBLIC_KEY
        2000 0400                     # WGPEER_A_ENDPOINT: struct sockaddr_in6
            0a00 0029 00000000        # AF_INET6, port 41, flow information
            20010db8 00000000 00000000 00000002
            00000000                  # scope
        0800 0300 04000000            # WGPEER_A_FLAGS: WGPEER_F_UPDATE_ONLY
        """
    )
    assert one(*wgnetlink.set_peers(7, [update])) == expected.hex()


def test_the_last_allowed_ip_is_taken() -> None:
    """No allowed IPs at all is something else than allowed IPs that stay."""
    update = UpdatePeer(
        key=key(2), node_id="", allowed_ips=(), endpoint=None, keepalive=0, changes=()
    )
    expected = octets(
        HEADER
        + f"""
        3c00 0880 3800 0080
        2400 0100 {"00" * 31}02
        0600 0500 0000 0000           # WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL: off
        0800 0300 06000000            # WGPEER_F_REPLACE_ALLOWEDIPS, WGPEER_F_UPDATE_ONLY
        """
    )
    assert one(*wgnetlink.set_peers(7, [update])) == expected.hex()


def test_peers_are_removed() -> None:
    """Key and flag, nothing else."""
    removals = [RemovePeer(key=key(number), reason="") for number in (1, 2)]
    expected = octets(
        HEADER
        + f"""
        6400 0880
        3000 0080 2400 0100 {"00" * 31}01 0800 0300 01000000  # WGPEER_F_REMOVE_ME
        3000 0080 2400 0100 {"00" * 31}02 0800 0300 01000000
        """
    )
    assert one(*wgnetlink.set_peers(7, removals)) == expected.hex()


def entries(message: bytes) -> list[dict[int, bytes]]:
    """The peers of a SET_DEVICE, read by the double's reader."""
    told = dict(walk(message[4:]))
    return [
        {kind & 0x3FFF: value for kind, value in walk(entry)} for _, entry in walk(told[8 | NESTED])
    ]


def test_very_many_allowed_ips_are_continued() -> None:
    """What continues a peer replaces nothing and makes none; no message passes 64 KiB."""
    networks = tuple(IPv6Network((IPv6Address("fd00::") + i, 128)) for i in range(3500))
    changes = [AddPeer(peer=peer(1, allowed_ips=networks)), AddPeer(peer=peer(2))]
    messages = list(wgnetlink.set_peers(7, changes))
    assert len(messages) > 2
    assert max(map(len, messages)) < 65000
    told = [entry for message in messages for entry in entries(message)]
    assert [entry[1] for entry in told] == [key(1).raw] * 4 + [key(2).raw]
    flags = [int.from_bytes(entry[3], "little") for entry in told]
    assert flags == [2, 4, 4, 4, 2]
    counts = [len(list(walk(entry[9]))) for entry in told]
    assert counts == [1000, 1000, 1000, 500, 2]
    assert all(5 not in entry for entry in told[1:4])


def test_a_request_has_a_hundred_peers_at_most() -> None:
    """The order of the change is kept, and nothing is left out."""
    changes = [RemovePeer(key=key(number), reason="") for number in range(1, 251)]
    chunks = list(wgnetlink.chunks(changes))
    assert [len(chunk) for chunk in chunks] == [100, 100, 50]
    assert [change for chunk in chunks for change in chunk] == changes


@pytest.mark.parametrize("keepalive", [-1, 65536])
def test_a_number_that_does_not_fit_is_refused(keepalive: int) -> None:
    """It is not sent as another number."""
    with pytest.raises(ValueError, match=f"keepalive of {keepalive} s"):
        list(wgnetlink.set_peers(7, [AddPeer(peer=peer(1, keepalive=keepalive))]))


# -- answers

SECRET = "5e" * 32
DEVICE = f"""
    00 01 0000                    # WG_CMD_GET_DEVICE
    0600 0600 21a4 0000           # WGDEVICE_A_LISTEN_PORT
    0800 0700 00000000            # WGDEVICE_A_FWMARK
    0800 0100 07000000            # WGDEVICE_A_IFINDEX
    0800 0200 77673000            # WGDEVICE_A_IFNAME
    2400 0300 {SECRET}            # WGDEVICE_A_PRIVATE_KEY
    2400 0400 {"00" * 31}09       # WGDEVICE_A_PUBLIC_KEY
"""
PEER = f"""
    c400 0880                     # WGDEVICE_A_PEERS
    c000 0080                     # 0
    2400 0100 {"00" * 31}01       # WGPEER_A_PUBLIC_KEY
    2400 0200 {SECRET}            # WGPEER_A_PRESHARED_KEY
    1400 0600                     # WGPEER_A_LAST_HANDSHAKE_TIME: struct __kernel_timespec
        0094357700000000 0065cd1d00000000  # 2,000,000,000 s, 500,000,000 ns
    0600 0500 1900 0000           # WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL
    0c00 0800 0200000001000000    # WGPEER_A_TX_BYTES: 2^32 + 2
    0400 0000                     # padding, so that 64 bits are aligned
    0c00 0700 0300000000000000    # WGPEER_A_RX_BYTES
    0800 0a00 01000000            # WGPEER_A_PROTOCOL_VERSION
    1400 0400 0200 ca6c c0000201 {"00" * 8}  # WGPEER_A_ENDPOINT
"""
ALLOWED_IPS = """
    2000 0980                     # WGPEER_A_ALLOWEDIPS
    1c00 0080 0500 0300 20 000000 0600 0100 0200 0000 0800 0200 0ad50001
"""
CONTINUED = f"""
    00 01 0000
    5800 0880 5400 0080
    2400 0100 {"00" * 31}01       # the same peer, its key and allowed IPs only
    2c00 0980 2800 0080
        0500 0300 80 000000 0600 0100 0a00 0000
        1400 0200 fd5911eaeff500000000000000000001
"""
DUMP = (octets(DEVICE + PEER + ALLOWED_IPS), octets(CONTINUED))


def read(*messages: bytes) -> KernelState:
    """Read a dump."""
    reader = DumpReader()
    for message in messages:
        reader.feed(message)
    return reader.device()


def test_a_dump_is_read() -> None:
    """Device and peer, with the peer's allowed IPs from two messages put together."""
    state = read(*DUMP)
    assert (state.index, state.public_key, state.listen_port) == (7, key(9), 42017)
    (seen,) = state.peers.values()
    assert (seen.key, seen.allowed_ips) == (key(1), hosts(1))
    assert (seen.endpoint, seen.keepalive) == (at("192.0.2.1"), 25)
    assert seen.last_handshake == 2_000_000_000.5
    assert (seen.rx_bytes, seen.tx_bytes) == (3, 2**32 + 2)
    assert SECRET not in repr(state)


def test_a_device_without_anything_is_read() -> None:
    """No key, no peers."""
    state = read(octets("00 01 0000 0800 0100 07000000"))
    assert (state.public_key, state.listen_port, state.peers) == (None, 0, {})
    zeroes = octets(f"00 01 0000 0800 0100 07000000 2400 0400 {'00' * 32}")
    assert read(zeroes).public_key is None


def entry(*attributes: str) -> bytes:
    """A dump with one peer made of these attributes."""
    told = octets("".join(attributes))
    peers = struct.pack("=HHHH", 8 + len(told), 8 | NESTED, 4 + len(told), NESTED)
    return octets(DEVICE) + peers + told


KEY = f"2400 0100 {'00' * 31}01"


def test_what_is_not_known_is_skipped() -> None:
    """A newer kernel may tell more, of the device, of a peer, and of an allowed IP."""
    network = "2400 0080 0500 0300 20000000 06000100 02000000 08000200 0ad50001 0800 0400 00000000"
    newer = entry(KEY, "0500 6300 01000000", "2800 0980", network)
    state = read(newer + octets("0800 6300 01020304"))
    assert state.peers[key(1)].allowed_ips == (IPv4Network("10.213.0.1/32"),)


def test_a_peer_of_zeroes_is_nobody() -> None:
    """It can shake no hand, and must not keep the others from being read."""
    assert read(entry(f"2400 0100 {'00' * 32}")).peers == {}


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (octets("00 01 0000"), "names no interface"),
        (b"\0\1\0", "wrong length"),
        (octets("00 01 0000 0600 0100 0700 0000"), "wrong length"),
        (octets("00 01 0000 0c00 0100 0700 0000"), "cut off"),
        (entry("0800 0300 00000000"), "peer without a key"),
        (entry(f"2000 0100 {'01' * 28}"), "peer without a key"),
        (entry(KEY, "0500 0500 01000000"), "wrong length"),
        (entry(KEY, f"1400 0600 {'ff' * 16}"), "handshake at no time"),
        (entry(KEY, f"1400 0600 {'00' * 8} {'ff' * 4}{'00' * 4}"), "handshake at no time"),
        (entry(KEY, f"1000 0400 0200 ca6c {'00' * 8}"), "endpoint that is no address"),
        (entry(KEY, f"1400 0400 0a00 ca6c {'00' * 12}"), "endpoint that is no address"),
        (entry(KEY, f"0500 0400 02 {'00' * 3}"), "wrong length"),
        (entry(KEY, "0c00 0980 0800 0080 06000100"), "cut off"),
        (entry(KEY, "0800 0980 0400 0080"), "no network"),
        (
            entry(KEY, "2000 0980 1c000080 05000300 21000000 06000100 02000000 08000200 0ad50001"),
            "no network",
        ),
        (
            entry(KEY, "2000 0980 1c000080 05000300 18000000 06000100 02000000 08000200 0ad50001"),
            "no network",
        ),
        (
            entry(KEY, "2000 0980 1c000080 05000300 20000000 06000100 0a000000 08000200 0ad50001"),
            "no network",
        ),
    ],
)
def test_what_no_kernel_would_send_is_refused(message: bytes, problem: str) -> None:
    """A sentence, which quotes nothing, and no device."""
    with pytest.raises(ValueError, match=problem) as refused:
        read(message)
    assert SECRET not in str(refused.value)


def test_the_same_peer_twice_is_refused() -> None:
    """Only a peer that follows itself is one that goes on."""
    other = entry(f"2400 0100 {'00' * 31}02")
    with pytest.raises(ValueError, match="same peer twice"):
        read(*DUMP, other, DUMP[1])


@given(st.lists(st.binary(max_size=120), max_size=4))
def test_garbage_is_a_device_or_a_value_error(messages: list[bytes]) -> None:
    """Whatever the bytes."""
    with suppress(ValueError):
        read(*messages)


@given(st.data())
def test_a_damaged_dump_is_a_device_or_a_value_error(data: st.DataObject) -> None:
    """A real dump in which some bytes are others, or missing, gets deeper than garbage."""
    messages = [bytearray(message) for message in DUMP]
    for _ in range(data.draw(st.integers(1, 4))):
        message = data.draw(st.sampled_from(messages))
        place = data.draw(st.integers(0, len(message) - 1)) if message else 0
        if data.draw(st.booleans()):
            message[place : place + 1] = bytes([data.draw(st.integers(0, 255))])
        else:
            del message[place : place + data.draw(st.sampled_from([1, 4, 8]))]
    with suppress(ValueError):
        assert isinstance(read(*map(bytes, messages)), KernelState)


numbers = st.integers(1, 40)


@patient
@given(
    st.dictionaries(numbers, st.tuples(st.integers(0, 30), st.booleans()), max_size=12),
    st.integers(400, 4000),
)
def test_a_dump_reads_the_same_however_it_is_divided(
    peers: dict[int, tuple[int, bool]], space: int
) -> None:
    """Peers and allowed IPs that go on in another message are one device."""
    model = MemoryDevice("wg0", PRIVATE_KEY)
    model.device = SeenDevice(
        name="wg0", public_key=None, listen_port=0, mtu=1420, up=False, addresses=(), peers={}
    )
    wanted = [
        peer(
            number,
            allowed_ips=tuple(
                IPv4Network((IPv4Address("10.0.0.0") + number * 256 + i, 32)) for i in range(count)
            ),
            endpoint=at("2001:db8::1", number) if located else None,
        )
        for number, (count, located) in peers.items()
    ]
    model.alter(adding("wg0", *wanted))
    seen = model.look()
    messages = [
        octets("00 01 0000") + own + (struct.pack("=HH", 4 + len(page), 8 | NESTED) + page)
        for own, page in pages(model, 7, space)
    ]
    assert seen is not None
    assert read(*messages).peers == seen.peers
