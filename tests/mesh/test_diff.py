"""The diff: the least that leads from the device as seen to the device as wanted."""

import random
from dataclasses import replace
from ipaddress import IPv4Network, ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.mesh.device import (
    AddPeer,
    DeviceChange,
    FieldChange,
    RemovePeer,
    SeenDevice,
    UpdatePeer,
    WantedDevice,
)
from dstack_vpn.mesh.diff import NOT_A_MEMBER, diff, patched
from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.wireguard.memory import MemoryDevice
from wireguard.samples import adding, at, device, hosts, key, patient, peer

PRIVATE_KEY = PrivateKey(bytes(range(1, 33)))
OTHER_KEY = PrivateKey(bytes(range(2, 34)))
NUMBERS = st.integers(1, 4)
POOL = [network for number in range(1, 5) for network in hosts(number)]
ADDRESSES = ["10.213.0.7/16", "10.213.0.8/16", "fd59:11ea:eff5::7/48", "fd01::1/64"]


@st.composite
def wanted_devices(draw: st.DrawFn) -> WantedDevice:
    """A plan that does not contradict itself."""
    numbers = draw(st.sets(NUMBERS))
    owners = draw(st.lists(st.sampled_from([0, *numbers]), min_size=len(POOL), max_size=len(POOL)))
    endpoints = st.none() | st.sampled_from(
        [at("192.0.2.1"), at("192.0.2.1", 7), at("2001:db8::1")]
    )
    peers = [
        peer(
            number,
            allowed_ips=tuple(n for n, owner in zip(POOL, owners, strict=True) if owner == number),
            endpoint=draw(endpoints),
            keepalive=draw(st.sampled_from([0, 1, 25])),
        )
        for number in sorted(numbers)
    ]
    return device(
        draw(st.sampled_from([PRIVATE_KEY, OTHER_KEY])),
        *peers,
        listen_port=draw(st.sampled_from([0, 51820, 51821])),
        mtu=draw(st.sampled_from([1280, 1420])),
        addresses=tuple(sorted(draw(st.sets(st.sampled_from(ADDRESSES))))),
    )


def model(*turns: WantedDevice) -> MemoryDevice:
    """A device that was brought to each of these states, one after the other."""
    made = MemoryDevice("wg0", PRIVATE_KEY)
    for turn in turns:
        bring(made, turn)
    return made


def bring(made: MemoryDevice, wanted: WantedDevice) -> DeviceChange:
    """One turn of the reconciler on the model."""
    made.private_key = PRIVATE_KEY if wanted.public_key == PRIVATE_KEY.public else OTHER_KEY
    if made.device is None:
        made.device = SeenDevice(
            name="wg0", public_key=None, listen_port=40000, mtu=1420, up=False, addresses=(),
            peers={},
        )  # fmt: skip
    change = diff(wanted, made.look())
    made.alter(change)
    return change


def look(made: MemoryDevice) -> SeenDevice:
    """Read a model that is there."""
    seen = made.look()
    assert seen is not None
    return seen


@patient
@given(wanted_devices(), wanted_devices())
def test_applying_a_diff_gives_what_is_wanted(first: WantedDevice, wanted: WantedDevice) -> None:
    """From any state the device is as wanted after one change, and the next diff is empty."""
    made = model(first)
    before = look(made)
    bring(made, wanted)
    after = look(made)
    assert after.public_key == wanted.public_key
    assert after.listen_port == (wanted.listen_port or before.listen_port)
    assert (after.mtu, after.up) == (wanted.mtu, True)
    assert set(after.addresses) == set(wanted.addresses)
    assert after.peers.keys() == wanted.peers.keys()
    for number, want in wanted.peers.items():
        assert set(after.peers[number].allowed_ips) == set(want.allowed_ips)
        assert after.peers[number].keepalive == want.keepalive
        if want.endpoint is not None:
            assert after.peers[number].endpoint == want.endpoint
        elif number in before.peers:
            assert after.peers[number].endpoint == before.peers[number].endpoint
    assert not diff(wanted, after)


@patient
@given(wanted_devices(), wanted_devices())
def test_what_a_change_makes_of_the_peers_is_known_without_looking(
    first: WantedDevice, wanted: WantedDevice
) -> None:
    """The device as patched has the peers that the device has, and the old reading is as it was."""
    wanted = replace(wanted, public_key=first.public_key)
    made = model(first)
    before, again = look(made), look(made)
    change = bring(made, wanted)
    assert patched(before, change).peers == look(made).peers
    assert before == again


@patient
@given(wanted_devices(), wanted_devices(), st.randoms(use_true_random=False))
def test_a_diff_does_not_depend_on_the_order_of_its_input(
    first: WantedDevice, wanted: WantedDevice, chance: random.Random
) -> None:
    """The same states in any order give the same change: removals, updates, additions, by key."""
    seen = look(model(first))
    change = diff(wanted, seen)
    shuffled = list(wanted.peers.items())
    chance.shuffle(shuffled)
    other = list(seen.peers.items())
    chance.shuffle(other)
    assert change == diff(
        replace(wanted, peers=dict(shuffled), addresses=wanted.addresses[::-1]),
        replace(seen, peers=dict(other)),
    )
    order = {RemovePeer: 0, UpdatePeer: 1, AddPeer: 2}
    ranks = [
        (order[type(c)], c.peer.key if isinstance(c, AddPeer) else c.key) for c in change.peers
    ]
    assert ranks == sorted(ranks)


@patient
@given(wanted_devices(), wanted_devices())
def test_a_diff_names_only_what_differs(first: WantedDevice, wanted: WantedDevice) -> None:
    """Unchanged ports and keys are never sent, and an update has a reason for each field."""
    seen = look(model(first))
    change = diff(wanted, seen)
    assert change.set_key == (seen.public_key != wanted.public_key)
    assert change.listen_port != seen.listen_port
    assert change.mtu != seen.mtu
    assert not set(change.add_addresses) & set(seen.addresses)
    for update in change.peers:
        if isinstance(update, UpdatePeer):
            named = {field.field for field in update.changes}
            given_fields = {
                field
                for field in ("allowed_ips", "endpoint", "keepalive")
                if getattr(update, field) is not None
            }
            assert named == given_fields != set()


def test_a_device_that_was_just_created_gets_everything() -> None:
    """Without a device as seen the diff holds all of the plan."""
    wanted = device(PRIVATE_KEY, peer(1), listen_port=51820, addresses=("10.213.0.7/16",))
    assert diff(wanted, None) == DeviceChange(
        name="wg0",
        set_key=True,
        listen_port=51820,
        mtu=1420,
        up=True,
        add_addresses=(ip_interface("10.213.0.7/16"),),
        peers=(AddPeer(peer=peer(1)),),
    )


def test_a_removal_says_why() -> None:
    """The caller's reason is given for a key, else that it belongs to no member."""
    made = model(device(PRIVATE_KEY, peer(1), peer(2)))
    change = diff(device(PRIVATE_KEY), made.look(), reasons={key(1): "REVOKED"})
    assert change.peers == (
        RemovePeer(key=key(1), reason="REVOKED"),
        RemovePeer(key=key(2), reason=NOT_A_MEMBER),
    )


def test_an_update_says_what_changes() -> None:
    """Old and new value of each field are in the change, as text."""
    made = model(device(PRIVATE_KEY, peer(1, allowed_ips=hosts(1)[:1], keepalive=25)))
    wanted = device(PRIVATE_KEY, peer(1, endpoint=at("192.0.2.1")))
    (update,) = diff(wanted, made.look()).peers
    assert isinstance(update, UpdatePeer)
    assert update.changes == (
        FieldChange(
            field="allowed_ips",
            old="10.213.0.1/32",
            new="10.213.0.1/32, fd59:11ea:eff5::1/128",
        ),
        FieldChange(field="endpoint", old="", new="192.0.2.1:51820"),
        FieldChange(field="keepalive", old="25", new="0"),
    )
    assert str(update.changes[1]) == "endpoint none -> 192.0.2.1:51820"


def test_a_peer_that_has_roamed_is_left_alone() -> None:
    """While no endpoint is wanted, what the device learned stays; a wanted one is set again."""
    made = model(device(PRIVATE_KEY, peer(1, endpoint=at("192.0.2.1"))))
    made.hear(key(1), at=1.0, endpoint=at("198.51.100.9", 4242))
    assert not diff(device(PRIVATE_KEY, peer(1)), made.look())
    (update,) = diff(device(PRIVATE_KEY, peer(1, endpoint=at("192.0.2.1"))), made.look()).peers
    assert isinstance(update, UpdatePeer)
    assert update.endpoint == at("192.0.2.1")


def test_a_robbed_peer_gets_its_address_back() -> None:
    """What a foreign peer took returns with the thief's removal, which does not do it by itself."""
    wanted = device(PRIVATE_KEY, peer(1), peer(2))
    made = model(wanted)
    made.alter(adding("wg0", peer(99, allowed_ips=hosts(1))))
    assert look(made).peers[key(1)].allowed_ips == ()
    removal, update = bring(made, wanted).peers
    assert removal == RemovePeer(key=key(99), reason=NOT_A_MEMBER)
    assert isinstance(update, UpdatePeer)
    assert update.allowed_ips == hosts(1)
    assert not diff(wanted, made.look())


def test_a_listen_port_of_0_takes_any() -> None:
    """A device may keep the port that it chose."""
    made = model(device(PRIVATE_KEY))
    assert not diff(device(PRIVATE_KEY, listen_port=0), made.look())


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        (
            device(PRIVATE_KEY, peer(1), peer(2, allowed_ips=(IPv4Network("10.213.0.1/32"),))),
            "gives 10.213.0.1/32 to both",
        ),
        (
            replace(device(PRIVATE_KEY), peers={key(2): peer(1)}),
            "files peer",
        ),
        (
            replace(
                device(PRIVATE_KEY),
                peers={PRIVATE_KEY.public: replace(peer(1), key=PRIVATE_KEY.public)},
            ),
            "a peer of itself",
        ),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(wanted: WantedDevice, complaint: str) -> None:
    """No diff is made of a plan that no device could hold."""
    with pytest.raises(ValueError, match=complaint):
        diff(wanted, None)


def test_ranges_of_different_length_may_nest() -> None:
    """Only the same range twice is a contradiction: the longer prefix wins on the device."""
    wide = peer(9, allowed_ips=(IPv4Network("10.213.0.0/16"),))
    assert diff(device(PRIVATE_KEY, peer(1), wide), None)
