"""The agent process: ``python -m dstack_vpn`` with the flags of ``dstack-vpn up``.

``dstack-vpn up`` becomes this process. It loads none of what only the command line needs, which is
a third of its memory. SIGTERM and SIGINT stop it in order; a second signal is not needed, for each
step has a time limit.
"""

import dstack_vpn.lean  # isort: skip  # noqa: F401 - must come before everything else
import asyncio
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from dstack_vpn.bridge import WireGuardContractBridge, dry_run
from dstack_vpn.config import Settings, load_settings
from dstack_vpn.errors import DstackVpnError, UserError
from dstack_vpn.log import configure_logs

USAGE = (
    "usage: python -m dstack_vpn [--env-file FILE] [--dry-run] [--reset-state] [--keep-device]"
    " [--exit-by-signal]"
)


def main(arguments: list[str]) -> int:
    """Run one node; returns the exit code.

    0 after a wanted stop, 1 when something failed, 2 for a mistake of the user. With
    --exit-by-signal a wanted stop ends the process by the signal that asked for it.
    """
    ended_by: signal.Signals | None = None
    try:
        asked = _parse(arguments)
        settings = load_settings(env_file=asked.env_file)
        configure_logs(level=settings.log_level, form=settings.log_format, node_id=settings.node_id)
        if asked.dry_run:
            sys.stdout.write(asyncio.run(dry_run(settings)) + "\n")
        else:
            ended_by = asyncio.run(
                _serve(settings, reset_state=asked.reset_state, keep_device=asked.keep_device)
            )
    except DstackVpnError as error:
        sys.stderr.writelines(f"dstack-vpn: {sentence}\n" for sentence in error.sentences)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return _end_by(ended_by) if ended_by and asked.exit_by_signal else 0


async def _serve(
    settings: Settings, *, reset_state: bool, keep_device: bool
) -> signal.Signals | None:
    """Run the bridge until a signal asks it to stop, or it fails; returns that signal."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    wanted: signal.Signals | None = None
    stopping = False

    def ask(number: signal.Signals) -> None:
        nonlocal wanted, stopping
        # Once: a second signal must not interrupt the stop that the first one began.
        if not stopping:
            wanted, stopping = number, True
            task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask, number)
    bridge = WireGuardContractBridge(settings=settings)
    try:
        await bridge.start(reset_state=reset_state)
        await bridge.wait_stopped()
    except asyncio.CancelledError:
        if wanted is None:
            raise
    finally:
        stopping = True
        # Only a wanted stop ends the device, unless it is to be kept. After a failure its sessions
        # go on, and the next start adopts it (fail static).
        await bridge.stop(keep_device=keep_device or wanted is None)
    return wanted


def _end_by(number: signal.Signals) -> int:
    """End this process by a signal; where that cannot be, returns a shell's exit code for it."""
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    # The kernel spares process 1 of a container every signal that it does not handle.
    return 128 + number


@dataclass(slots=True)
class _Asked:
    env_file: Path | None = None
    dry_run: bool = False
    reset_state: bool = False
    keep_device: bool = False
    exit_by_signal: bool = False


def _parse(arguments: list[str]) -> _Asked:
    """Read the few flags by hand; `dstack-vpn up --help` explains them."""
    asked, rest = _Asked(), list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--dry-run":
            asked.dry_run = True
        elif word == "--reset-state":
            asked.reset_state = True
        elif word == "--keep-device":
            asked.keep_device = True
        elif word == "--exit-by-signal":
            asked.exit_by_signal = True
        elif word == "--env-file" and rest:
            asked.env_file = Path(rest.pop(0))
        else:
            raise UserError(f"{word!r} is not understood; {USAGE}")
    return asked


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
