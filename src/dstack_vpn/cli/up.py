"""``dstack-vpn up``: becomes the agent process."""

import os
import sys
from typing import Annotated

import typer

from dstack_vpn.cli.options import EnvFile, examples
from dstack_vpn.config import load_settings

EXAMPLES = examples(
    "dstack-vpn up --env-file node-a.env",
    "NODE_ID=node-a NETWORK=hardhat dstack-vpn up",
    "dstack-vpn up --dry-run          say what would be done, and do nothing",
    "dstack-vpn up --reset-state      accept a local chain that began anew",
    "dstack-vpn up --keep-device      be replaced by a newer agent without losing a packet",
)


def up(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    reset_state: Annotated[
        bool,
        typer.Option(
            "--reset-state", help="Forget the saved membership first; the key and journal stay."
        ),
    ] = False,
    keep_device: Annotated[
        bool,
        typer.Option(
            "--keep-device",
            help="At a wanted stop too, leave the device and its sessions to the next start, as for"
            " an upgrade. Its peers go after DARK_CLOSE_AFTER.",
        ),
    ] = False,
    exit_by_signal: Annotated[
        bool,
        typer.Option(
            "--exit-by-signal",
            help="End by the signal that asked for the stop, not with exit code 0: for supervisors"
            " that start again only what did not end with success.",
        ),
    ] = False,
    env_file: EnvFile = None,
) -> None:
    """Run this machine as a node of the mesh, until SIGTERM."""
    # Mistakes are told here, before the process changes.
    load_settings(env_file=env_file)
    words = [sys.executable, "-m", "dstack_vpn"]
    if dry_run:
        words.append("--dry-run")
    if reset_state:
        words.append("--reset-state")
    if keep_device:
        words.append("--keep-device")
    if exit_by_signal:
        words.append("--exit-by-signal")
    if env_file is not None:
        words += ["--env-file", str(env_file)]
    sys.stdout.flush()
    # The agent runs for months and needs nothing of the command line's libraries: a fresh process
    # without them takes a third less memory. It keeps this process's id, for whoever watches it.
    os.execv(sys.executable, words)  # noqa: S606
