"""The UAPI text: what is written reads back, and what is read may be anything."""

import re
from ipaddress import ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dstack_vpn.mesh.device import (
    AddPeer,
    DeviceChange,
    IpNetwork,
    PeerChange,
    RemovePeer,
    SeenPeer,
    UpdatePeer,
)
from dstack_vpn.mesh.diff import sorted_networks
from dstack_vpn.mesh.keys import PrivateKey, PublicKey
from dstack_vpn.wireguard.uapi import (
    CHUNK,
    GetReader,
    UapiDevice,
    parse_errno,
    parse_get,
    render,
    render_peers,
)
from wireguard.samples import at, hosts, key, patient, peer

PRIVATE_KEY = PrivateKey(bytes(range(1, 33)))
SECRET = PRIVATE_KEY.raw.hex()

addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
networks = st.one_of(addresses.map(ip_network), st.sampled_from(hosts(1) + hosts(2)))
counters = st.integers(0, 2**64 - 1)
keys = st.binary(min_size=32, max_size=32).filter(any).map(PublicKey)


@st.composite
def seen_peers(draw: st.DrawFn, number: PublicKey) -> SeenPeer:
    """A peer as a device may report it."""
    endpoint = draw(st.none() | st.tuples(addresses, st.integers(0, 65535)))
    return SeenPeer(
        key=number,
        allowed_ips=sorted_networks(draw(st.lists(networks, max_size=4))),
        endpoint=None if endpoint is None else at(str(endpoint[0]), endpoint[1]),
        keepalive=draw(st.integers(0, 65535)),
        last_handshake=float(draw(st.integers(0, 2**31))),
        rx_bytes=draw(counters),
        tx_bytes=draw(counters),
    )


@st.composite
def answers(draw: st.DrawFn) -> UapiDevice:
    """A device as it may answer."""
    numbers = draw(st.lists(keys, unique=True, max_size=4))
    return UapiDevice(
        public_key=draw(st.sampled_from([None, PRIVATE_KEY.public])),
        listen_port=draw(st.integers(0, 65535)),
        peers={number: draw(seen_peers(number)) for number in numbers},
    )


def write(device: UapiDevice) -> bytes:
    """Write the answer to get=1 as wireguard-go does."""
    lines = [f"private_key={SECRET}"] if device.public_key else []
    if device.listen_port:
        lines.append(f"listen_port={device.listen_port}")
    for one in device.peers.values():
        lines += [f"public_key={one.key.hex}", f"preshared_key={'0' * 64}", "protocol_version=1"]
        if one.endpoint is not None:
            lines.append(f"endpoint={one.endpoint}")
        lines += [
            f"last_handshake_time_sec={int(one.last_handshake)}",
            "last_handshake_time_nsec=0",
            f"tx_bytes={one.tx_bytes}",
            f"rx_bytes={one.rx_bytes}",
            f"persistent_keepalive_interval={one.keepalive}",
            *(f"allowed_ip={network}" for network in one.allowed_ips),
        ]
    return "\n".join((*lines, "errno=0", "", "")).encode()


def complaint(answer: bytes) -> str:
    """All that a refusal of the answer would show, causes included; empty when it is taken."""
    try:
        parse_get(answer)
    except ValueError as error:
        return "".join(map(str, (error, error.__cause__ or "")))
    return ""


@patient
@given(answers())
def test_an_answer_reads_back(device: UapiDevice) -> None:
    """Everything that a device reports about itself and its peers arrives."""
    assert parse_get(write(device)) == device


@patient
@given(answers(), st.integers(1, 100))
def test_an_answer_may_come_in_parts(device: UapiDevice, size: int) -> None:
    """However it is cut into parts it reads the same, and is done with the last byte."""
    reader, whole = GetReader(), write(device)
    for start in range(0, len(whole), size):
        assert not reader.done
        reader.feed(whole[start : start + size])
    assert reader.done
    assert reader.device() == device


def test_an_answer_ends_with_its_blank_line() -> None:
    """What comes after the end is no part of the answer, and not passed over."""
    for more in (b"rx_bytes=1\nerrno=0\n\n", b"x"):
        assert complaint(b"errno=0\n\n" + more).startswith("the device")


@patient
@given(answers(), st.data())
def test_an_answer_that_was_cut_off_is_refused(device: UapiDevice, data: st.DataObject) -> None:
    """A part of an answer is never taken for the whole: missing peers would look removed."""
    whole = write(device)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(ValueError, match="the device"):
        parse_get(cut)


@patient
@given(st.binary(max_size=200))
@example(b"")
@example(b"errno=0\n\n\n\n")
def test_garbage_is_refused_with_a_sentence(garbage: bytes) -> None:
    """Arbitrary bytes give a device or a ValueError of ours, nothing else."""
    for text in (garbage, garbage + b"\nerrno=0\n\n"):
        assert complaint(text).startswith("the device") or parse_get(text) is not None


@patient
@given(
    st.sampled_from(["private_key", "public_key", "listen_port", "endpoint", "allowed_ip", "x y"]),
    st.text(max_size=30),
)
def test_hostile_values_are_refused_without_being_quoted(name: str, value: str) -> None:
    """No value of an answer gets into an error text, whichever line it stands on."""
    marked = f"SECRET{value}"
    text = f"private_key={SECRET}\npublic_key={key(1).hex}\n{name}={marked}\nerrno=0\n\n"
    said = complaint(text.encode())
    assert "SECRET" not in said
    assert SECRET not in said


@pytest.mark.parametrize(
    "line",
    [
        f"private_key={'a' * 63}",
        f"private_key={'A' * 64}",
        "listen_port=65536",
        "listen_port=-1",
        "listen_port=01",
        "listen_port=\u0661",  # a digit to Python, not to a protocol
        f"public_key={'0' * 63}",
        f"public_key={key(1).hex}\npublic_key={key(1).hex}",
        f"public_key={key(1).hex}\nendpoint=host.example:1",
        f"public_key={key(1).hex}\nendpoint=2001:db8::1:1",
        f"public_key={key(1).hex}\nendpoint=[192.0.2.1]:1",
        f"public_key={key(1).hex}\nendpoint=192.0.2.1:65536",
        f"public_key={key(1).hex}\nendpoint=192.0.2.1:1\nendpoint=192.0.2.2:1",
        f"public_key={key(1).hex}\nallowed_ip=10.0.0.1/16",
        f"public_key={key(1).hex}\nallowed_ip=-10.0.0.1/32",
        f"public_key={key(1).hex}\npersistent_keepalive_interval=65536",
        f"public_key={key(1).hex}\nrx_bytes=1e3",
        "no equals sign",
        "",
        "errno=0",
    ],
)
def test_malformed_lines_are_refused(line: str) -> None:
    """What no device writes is not read as something else."""
    with pytest.raises(ValueError, match="the device"):
        parse_get(f"{line}\nerrno=0\n\n".encode() if line != "errno=0" else b"errno=0\nx\n\n")


def test_an_error_of_the_device_is_an_error() -> None:
    """An answer with an error number is no device, whatever else it holds."""
    with pytest.raises(ValueError, match="errno -5"):
        parse_get(b"listen_port=1\nerrno=-5\n\n")


def test_lines_of_newer_devices_are_skipped() -> None:
    """An unknown key does not keep us from taking a revoked peer off a newer device."""
    text = f"fwmark=7\nnew_thing=x\npublic_key={key(1).hex}\nother_thing=y\nerrno=0\n\n"
    assert set(parse_get(text.encode()).peers) == {key(1)}


def test_a_key_of_zeroes_is_no_key() -> None:
    """Some devices write a missing private key as zeroes; boringtun gives the public key."""
    assert parse_get(f"private_key={'0' * 64}\nerrno=0\n\n".encode()).public_key is None
    nobody = f"own_public_key={'0' * 64}\npublic_key={'0' * 64}\nrx_bytes=1\nerrno=0\n\n"
    assert parse_get(nobody.encode()) == UapiDevice(public_key=None, listen_port=0, peers={})
    text = f"own_public_key={PRIVATE_KEY.public.hex}\nerrno=0\n\n"
    assert parse_get(text.encode()).public_key == PRIVATE_KEY.public


@pytest.mark.parametrize(("answer", "errno"), [(b"errno=0\n\n", 0), (b"errno=-98\n\n", -98)])
def test_the_answer_to_a_set_request(answer: bytes, errno: int) -> None:
    """A set is answered by a number alone."""
    assert parse_errno(answer) == errno


@pytest.mark.parametrize(
    "answer", [b"", b"errno=0", b"errno=0\n", b"errno=\n\n", b"a\nerrno=0\n\n", b"errno=-0\n\n"]
)
def test_another_answer_to_a_set_request_is_refused(answer: bytes) -> None:
    """Nothing else counts as success."""
    with pytest.raises(ValueError, match="something else than errno"):
        parse_errno(answer)


def test_a_change_as_text() -> None:
    """Removals stand alone and first, then the settings, then updates and additions."""
    update = UpdatePeer(
        key=key(2),
        node_id="b",
        allowed_ips=None,
        endpoint=at("fe80::1", 5),
        keepalive=0,
        changes=(),
    )
    change = DeviceChange(
        name="wg0",
        set_key=True,
        listen_port=51820,
        mtu=1420,
        up=True,
        peers=(
            RemovePeer(key=key(1), reason="REVOKED"),
            update,
            AddPeer(peer=peer(3, endpoint=at("192.0.2.1"), keepalive=25)),
        ),
    )
    requests = render(change, PRIVATE_KEY)
    assert [r.text.decode() for r in requests.removals] == [
        f"set=1\npublic_key={key(1).hex}\nremove=true\n\n"
    ]
    assert requests.settings is not None
    assert requests.settings.text.decode() == (
        f"set=1\nprivate_key={SECRET}\nlisten_port=51820\n\n"
    )
    (others,) = requests.peers
    assert others.text.decode() == (
        "set=1\n"
        f"public_key={key(2).hex}\nupdate_only=true\n"
        "endpoint=[fe80::1]:5\npersistent_keepalive_interval=0\n"
        f"public_key={key(3).hex}\n"
        "endpoint=192.0.2.1:51820\npersistent_keepalive_interval=25\n"
        "replace_allowed_ips=true\nallowed_ip=10.213.0.3/32\n"
        "allowed_ip=fd59:11ea:eff5:0000:0000:0000:0000:0003/128\n\n"
    )
    assert SECRET not in repr(requests)


def test_an_unchanged_port_and_key_are_never_sent() -> None:
    """A change of peers alone holds no line about the device itself."""
    change = DeviceChange(name="wg0", peers=(AddPeer(peer=peer(1)),))
    requests = render(change, PRIVATE_KEY)
    assert requests.settings is None
    (request,) = requests.peers
    assert b"private_key" not in request.text
    assert b"listen_port" not in request.text
    nothing = render(DeviceChange(name="wg0", mtu=1280), PRIVATE_KEY)
    assert (list(nothing.removals), nothing.settings, list(nothing.peers)) == ([], None, [])


@pytest.mark.parametrize("additions", [0, 1, CHUNK, 3 * CHUNK + 1])
@pytest.mark.parametrize("removals", [0, CHUNK - 1, CHUNK + 1])
def test_large_changes_are_cut_into_pieces(additions: int, removals: int) -> None:
    """No request is about more than CHUNK peers, each is whole, and none is lost or reordered."""
    peers: list[PeerChange] = [
        RemovePeer(key=key(number), reason="") for number in range(1, removals + 1)
    ]
    peers += [AddPeer(peer=peer(number)) for number in range(1, additions + 1)]
    requests = render(DeviceChange(name="wg0", peers=tuple(peers)), PRIVATE_KEY)
    whole = [*requests.removals, *requests.peers]
    assert [change for request in whole for change in request.peers] == peers
    for request in whole:
        assert 1 <= len(request.peers) <= CHUNK
        assert re.fullmatch(rb"set=1\n([a-z_]+=[^\n]+\n)+\n", request.text)
        assert request.text.count(b"public_key=") == len(request.peers)
    assert all(b"remove=true" in request.text for request in requests.removals)
    assert not any(b"remove=true" in request.text for request in requests.peers)


@patient
@given(keys, st.lists(networks, max_size=5), st.integers(0, 65535))
def test_a_request_has_one_line_per_fact(
    number: PublicKey, allowed: list[IpNetwork], keepalive: int
) -> None:
    """No value can bring a line of its own: they are typed, and every line is of a known form."""
    update = UpdatePeer(
        key=number,
        node_id="evil\nremove=true",
        allowed_ips=sorted_networks(allowed),
        endpoint=None,
        keepalive=keepalive,
        changes=(),
    )
    lines = render_peers((update,)).text.decode().split("\n")
    assert lines[:3] == ["set=1", f"public_key={number.hex}", "update_only=true"]
    assert lines[-2:] == ["", ""]
    assert len(lines) == 3 + 2 + len(set(allowed)) + 2
    told = [line.partition("=")[2] for line in lines if line.startswith("allowed_ip=")]
    assert tuple(map(ip_network, told)) == sorted_networks(allowed)
