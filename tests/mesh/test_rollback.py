"""A rollback of settings: what it puts in their place, and how long it lasts."""

from dataclasses import fields

from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.mesh.rollback import InterfaceSettings, Rollback, replacements

ports = st.integers(1, 65_535)
mtus = st.integers(1280, 65_535)
settings = st.builds(InterfaceSettings, listen_port=ports, mtu=st.none() | mtus)
FIXED = InterfaceSettings(listen_port=51820, mtu=1420)
AUTO = InterfaceSettings(listen_port=51820, mtu=None)


def rollback(
    listen_port: int | None, mtu: int | None, replaced: InterfaceSettings = FIXED
) -> Rollback:
    """One to state 7."""
    return Rollback(
        state=7, block=17, made_at=1, listen_port=listen_port, mtu=mtu, replaced=replaced
    )


def test_it_replaces_what_it_names_and_says_so() -> None:
    """The other setting stays, whatever it is."""
    found = rollback(51821, None).in_force(FIXED)
    assert found.settings == InterfaceSettings(listen_port=51821, mtu=1420)
    assert found.sentence == (
        "rolled back to state 7 of block 17: LISTEN_PORT is 51821 instead of 51820"
    )
    both = rollback(51821, 1400, AUTO).in_force(AUTO)
    assert both.settings == InterfaceSettings(listen_port=51821, mtu=1400)
    assert both.sentence.endswith(
        "LISTEN_PORT is 51821 instead of 51820, MTU is 1400 instead of auto"
    )


def test_a_new_setting_ends_it() -> None:
    """All of it, for somebody has decided anew; the sentence says by what."""
    new = InterfaceSettings(listen_port=51999, mtu=1420)
    found = rollback(51821, 1400).in_force(new)
    assert (found.settings, found.rollback) == (new, None)
    assert found.sentence == (
        "the rollback to state 7 of block 17 has ended: LISTEN_PORT was set to 51999, from 51820"
    )
    assert rollback(None, 1400).in_force(AUTO).sentence.endswith("MTU was set to auto, from 1420")


def test_a_new_value_of_another_setting_does_not_end_it() -> None:
    """Where it replaces the port alone, the MTU may be set as one likes, and is in force."""
    new = InterfaceSettings(listen_port=51820, mtu=1300)
    found = rollback(51821, None).in_force(new)
    assert found.settings == InterfaceSettings(listen_port=51821, mtu=1300)


@given(target=settings, configured=settings, automatic=mtus)
def test_what_is_replaced_brings_the_target_about(
    target: InterfaceSettings, configured: InterfaceSettings, automatic: int
) -> None:
    """Whatever was configured, what is then in force is the target, and no more is replaced."""
    wanted = InterfaceSettings(listen_port=target.listen_port, mtu=target.mtu or automatic)
    now = InterfaceSettings(listen_port=configured.listen_port, mtu=configured.mtu or automatic)
    port, mtu = replacements(wanted, now=now, configured=configured, before=None)
    made = rollback(port, mtu, configured).in_force(configured).settings
    assert (made.listen_port, made.mtu or automatic) == (wanted.listen_port, wanted.mtu)
    assert (port is None) == (wanted.listen_port == configured.listen_port)
    assert (mtu is None) == (wanted.mtu == now.mtu)


def test_from_one_rollback_to_the_next() -> None:
    """What is replaced is what is configured, never what the rollback before had made of it."""
    before = rollback(51821, 1400, AUTO)
    now = before.in_force(AUTO).settings
    third = InterfaceSettings(listen_port=51822, mtu=1400)
    assert replacements(third, now=now, configured=AUTO, before=before) == (51822, 1400)
    back = InterfaceSettings(listen_port=51820, mtu=1400)
    assert replacements(back, now=now, configured=AUTO, before=before) == (None, 1400)
    port_only = rollback(51821, None, FIXED)
    assert replacements(FIXED, now=now, configured=FIXED, before=port_only) == (None, None)


def test_it_has_no_place_for_peers() -> None:
    """No field could bring back a peer, an address or a key."""
    assert {field.name for field in fields(Rollback)} == {
        "state",
        "block",
        "made_at",
        "listen_port",
        "mtu",
        "replaced",
    }
