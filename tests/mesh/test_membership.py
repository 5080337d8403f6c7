"""Membership: what of a token counts as active, and what an admission rests on."""

from dataclasses import replace

from dstack_vpn.mesh.membership import ZERO_KEY, Address
from mesh.build import node


def test_active_is_what_the_contract_counts() -> None:
    """Active means not revoked, not suspended and with a key; expiry has no part in it."""
    assert node().active
    assert node(expires_at=1).active
    assert not node(revoked=True).active
    assert not node(suspended=True).active
    assert not node(key=ZERO_KEY).active


def test_access_state() -> None:
    """An admission rests on holder, node id, key and being active, and on nothing else."""
    before = node()
    same = [
        replace(before, endpoint="192.0.2.7:1"),
        replace(before, role=b"r" * 32),
        replace(before, expires_at=9),
        replace(before, since_block=77),
    ]
    other = [
        replace(before, holder=Address("0x" + "22" * 20)),
        replace(before, node_id="other"),
        replace(before, key=b"k" * 32),
        replace(before, revoked=True),
        replace(before, suspended=True),
    ]
    assert {n.access_state for n in same} == {before.access_state}
    assert before.access_state not in [n.access_state for n in other]
