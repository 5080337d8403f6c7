"""A change in one sentence, as it stands in the log."""

from dataclasses import replace
from ipaddress import ip_interface

from dstack_vpn.mesh.device import AddPeer, DeviceChange, RemovePeer
from dstack_vpn.mesh.diff import diff
from dstack_vpn.mesh.sentence import MOST, describe
from mesh.build import as_seen, device_of, key_of, node, plan_for, seen_device

FOREIGN = ip_interface("10.9.0.1/24")
WANTED = device_of(plan_for([node(1), node(2, endpoint="192.0.2.1:1")]))


def test_nothing_is_nothing() -> None:
    """A cycle that changed nothing says nothing."""
    assert describe(diff(WANTED, as_seen(WANTED)), WANTED, 7) == ""


def test_first_start() -> None:
    """A new device is told whole: peers, addresses, link and key."""
    assert describe(diff(WANTED, None), WANTED, 7) == (
        "block 7: added node-2; address 10.213.0.1/16 added; address fd59:11ea:eff5::1/48 added;"
        " link wg0 brought up; MTU 1420; port 51820; key set; peers: 1"
    )


def test_removal_says_why() -> None:
    """A peer that goes is named by the start of its key, with the reason."""
    change = DeviceChange(
        name="wg0", peers=(RemovePeer(key=key_of(3), reason="REVOKED: by the owner"),)
    )
    assert describe(change, WANTED, 7) == (
        "block 7: removed AAAAAAAA (REVOKED: by the owner); peers: 1"
    )


def test_update_says_old_and_new() -> None:
    """A peer that changes is told with what it was and what it is."""
    moved = device_of(plan_for([node(1), node(2, endpoint="192.0.2.9:9")]))
    assert describe(diff(moved, as_seen(WANTED)), moved, 8) == (
        "block 8: node-2: endpoint 192.0.2.1:1 -> 192.0.2.9:9; peers: 1"
    )
    alone = device_of(plan_for([node(1)]))
    assert describe(diff(alone, seen_device()), alone, 8) == ""


def test_what_was_altered_by_hand_is_told_with_what_it_was() -> None:
    """A repair of the interface says what somebody had made of it."""
    seen = replace(as_seen(WANTED), mtu=1300, listen_port=4711, up=False, addresses=(FOREIGN,))
    assert describe(diff(WANTED, seen), WANTED, 7) == (
        "block 7: address 10.213.0.1/16 added; address fd59:11ea:eff5::1/48 added;"
        " address 10.9.0.1/24 removed; link wg0 brought up; MTU 1300 -> 1420;"
        " port 4711 -> 51820; peers: 1"
    )


def test_thousands_are_counted() -> None:
    """A thousand new peers make one short sentence, not a thousand names."""
    many = device_of(plan_for([node(i) for i in range(1, 1001)]))
    change = DeviceChange(name="wg0", peers=tuple(AddPeer(peer=p) for p in many.peers.values()))
    sentence = describe(change, many, 9)
    assert sentence.endswith(f"; and {999 - MOST} more; peers: 999")
    assert sentence.count("added") == MOST
