"""Programs: what they get of ours, and how their end is told."""

import asyncio

import pytest

from dstack_vpn.errors import DeviceError, HostError
from dstack_vpn.wireguard import command


async def test_a_missing_program_is_a_mistake_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without iproute2 the sentence says what to install."""
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(HostError, match="install iproute2"):
        await command.run("ip", "link")


async def test_a_machine_without_room_for_a_process_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A full process table passes; it must not end the agent."""

    async def full(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", full)
    with pytest.raises(DeviceError, match="ip cannot be run: Resource temporarily"):
        await command.run("ip", "link")


async def test_a_program_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No program can stop the loop."""
    monkeypatch.setattr(command, "TIMEOUT", 0.05)
    with pytest.raises(DeviceError, match=r"sleep 600 took longer than 0\.05 s"):
        await command.run("sleep", "600")


async def test_a_program_gets_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs see the search path and no other variable of ours."""
    monkeypatch.setenv("WIREGUARD_PRIVATE_KEY", "secret")
    names = {line.partition("=")[0] for line in (await command.run("env")).splitlines()}
    assert names == {"PATH", "LC_ALL"}


async def test_a_refusal_of_the_kernel_is_told_from_a_missing_right() -> None:
    """Errors of rights end the agent with a sentence, others are tried again."""
    with pytest.raises(HostError, match="NET_ADMIN"):
        await command.run(
            "sh", "-c", "echo 'RTNETLINK answers: Operation not permitted' >&2; exit 2"
        )
    with pytest.raises(DeviceError, match="failed: broken"):
        await command.run("sh", "-c", "echo broken >&2; exit 1")
    with pytest.raises(DeviceError, match="no reason given"):
        await command.run("false")
