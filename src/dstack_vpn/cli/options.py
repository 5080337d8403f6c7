"""Options that several commands share, and the form of their examples."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

Commands = dict[str, tuple[Callable[..., Any], str]]
"""The commands of a group: name to function and examples."""

EnvFile = Annotated[
    Path | None,
    typer.Option("--env-file", metavar="FILE", help="Read settings from NAME=value lines too."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Keystore = Annotated[
    Path | None,
    typer.Option(
        "--keystore",
        metavar="FILE",
        help="Sign with an encrypted key file instead of CONTRACT_PRIVATE_KEY; its password is"
        " asked for, or read from CONTRACT_KEYSTORE_PASSWORD_FILE.",
    ),
]
Patience = Annotated[
    float,
    typer.Option("--timeout", metavar="SECONDS", min=1, help="Longest wait for the block."),
]
MaxFee = Annotated[
    float,
    typer.Option("--max-fee", metavar="GWEI", min=0, help="Most to pay for a unit of gas."),
]
NodeRef = Annotated[
    str,
    typer.Argument(metavar="NODE", help="Node id or token id; #7 is always token 7."),
]

PATIENCE = 120.0
"""Seconds; Base makes a block every two."""


def examples(*lines: str) -> str:
    """An epilog that keeps its lines as they are."""
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))
