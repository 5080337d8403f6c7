"""Constructing `WireGuardContractBridge`; as a running node it is tested in tests/agent."""

from pathlib import Path
from typing import Any

import pytest

from dstack_vpn import WireGuardContractBridge
from dstack_vpn.config import load_settings
from dstack_vpn.errors import SettingError

LOCAL: dict[str, Any] = {"node_id": "node-a", "network": "hardhat"}


def test_keywords_are_settings() -> None:
    """Each reaches the setting of its name, `private_key` that of the key, seconds become one."""
    bridge = WireGuardContractBridge(
        **LOCAL, sync_interval=2.5, health_check_port=0, state_dir=Path("/srv/a"), private_key="k"
    )
    settings = bridge.settings
    assert (settings.node_id, settings.network.name) == ("node-a", "hardhat")
    assert (settings.sync_interval, settings.health_port) == (2.5, 0)
    assert (settings.state_dir, settings.wireguard_key) == (Path("/srv/a"), "k")


def test_a_key_in_a_call_is_not_in_the_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what stands in the environment is warned of."""
    monkeypatch.setenv("API_TOKEN", "from-the-environment")
    bridge = WireGuardContractBridge(**LOCAL, private_key="k")
    assert bridge.settings.plain_secrets == ("API_TOKEN",)


@pytest.mark.parametrize("name", ["confirmation", "wireguard_conf", "quorum_"])
def test_a_keyword_that_is_no_setting_is_refused(name: str) -> None:
    """A slip of the pen is not dropped in silence."""
    with pytest.raises(SettingError, match=rf"^{name} is no setting; accepted: "):
        WireGuardContractBridge(**(LOCAL | {name: 1}))


def test_complete_settings_stand_alone() -> None:
    """Nothing that is given beside complete settings could have an effect."""
    settings = load_settings({"NODE_ID": "node-a", "NETWORK": "hardhat"})
    assert WireGuardContractBridge(settings=settings).settings is settings
    with pytest.raises(SettingError, match=r"^settings and node_id are both given"):
        WireGuardContractBridge(settings=settings, node_id="node-b")


async def test_before_the_start_there_is_nothing_to_look_at() -> None:
    """What needs a running bridge says so; a stop and a wait for its end have nothing to do."""
    bridge = WireGuardContractBridge(**LOCAL)
    for look in (lambda: bridge.snapshot, lambda: bridge.health_port, bridge.assess):
        with pytest.raises(RuntimeError, match="has not been started"):
            look()
    await bridge.wait_stopped()
    await bridge.stop()
