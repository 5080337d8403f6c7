"""Every command explains itself."""

import pytest

import dstack_vpn
from cli.command import run, run_here
from dstack_vpn.cli import config, contract, deploy, keys, node, nodes, rollback, state

GROUPS = {
    "keys": keys.COMMANDS,
    "contract": contract.COMMANDS,
    "node": nodes.COMMANDS | node.COMMANDS,
    "state": state.COMMANDS,
    "config": config.COMMANDS | rollback.COMMANDS,
    "deploy": deploy.COMMANDS,
}
COMMANDS = [
    ("up",),
    ("access",),
    ("status",),
    ("verify",),
    ("why",),
    *((g, name) for g, c in GROUPS.items() for name in c),
]


def test_version() -> None:
    """--version prints the version of the package."""
    assert run("--version").out == f"dstack-vpn {dstack_vpn.__version__}\n"


@pytest.mark.parametrize("words", COMMANDS)
def test_help_has_examples_that_name_the_command(words: tuple[str, ...]) -> None:
    """--help needs no settings, exits 0 and shows how the command is called."""
    ended = run_here(*words, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert "Examples:\n" in ended.out
    assert f"    dstack-vpn {' '.join(words)}" in ended.out or words == ("up",)
