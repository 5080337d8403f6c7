"""The agent process: ``python -m dstack_vpn [--env-file FILE] [--dry-run]``.

``dstack-vpn up`` becomes this process. It loads none of what only the command line needs, which is
a third of its memory. SIGTERM and SIGINT stop it in order; a second signal is not needed, for each
step has a time limit.
"""

import asyncio
import signal
import sys
from pathlib import Path

from dstack_vpn.bridge import WireGuardContractBridge, dry_run
from dstack_vpn.config import Settings, load_settings
from dstack_vpn.errors import DstackVpnError, UserError
from dstack_vpn.log import configure_logs

USAGE = "usage: python -m dstack_vpn [--env-file FILE] [--dry-run]"


def main(arguments: list[str]) -> int:
    """Run one node; returns the exit code.

    0 after a wanted stop, 1 when something failed, 2 for a mistake of the user.
    """
    try:
        env_file, dry = _parse(arguments)
        settings = load_settings(env_file=env_file)
        configure_logs(level=settings.log_level, form=settings.log_format, node_id=settings.node_id)
        if dry:
            sys.stdout.write(asyncio.run(dry_run(settings)) + "\n")
        else:
            asyncio.run(_serve(settings))
    except UserError as error:
        sys.stderr.write(f"dstack-vpn: {error}\n")
        return error.exit_code
    except DstackVpnError as error:
        sys.stderr.write(f"dstack-vpn: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


async def _serve(settings: Settings) -> None:
    """Run the bridge until a signal asks it to stop, or it fails."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    bridge = WireGuardContractBridge(settings=settings)
    await bridge.start()
    try:
        async with asyncio.TaskGroup() as group:
            ended = group.create_task(bridge.wait_stopped(), name="bridge ended")
            asked = group.create_task(stop.wait(), name="signal")
            await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
            asked.cancel()
            ended.cancel()
    except* DstackVpnError as failed:
        raise failed.exceptions[0] from None
    finally:
        await bridge.stop()


def _parse(arguments: list[str]) -> tuple[Path | None, bool]:
    env_file, dry, rest = None, False, list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--dry-run":
            dry = True
        elif word == "--env-file" and rest:
            env_file = Path(rest.pop(0))
        else:
            raise UserError(f"{word!r} is not understood; {USAGE}")
    return env_file, dry


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
