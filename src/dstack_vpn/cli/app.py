"""The tree of commands, and the mistakes in how they were called."""

import sys
from typing import Annotated

import typer

from dstack_vpn import __version__
from dstack_vpn.cli import (
    access,
    config,
    contract,
    deploy,
    keys,
    node,
    nodes,
    rollback,
    state,
    status,
    up,
    verify,
    why,
)
from dstack_vpn.cli.options import Commands, examples
from dstack_vpn.errors import UserError


def _plain(**options: object) -> typer.Typer:
    common = {
        "add_completion": False,
        "no_args_is_help": True,
        "pretty_exceptions_enable": False,
        "rich_markup_mode": None,
        "context_settings": {"help_option_names": ["-h", "--help"]},
    }
    return typer.Typer(**(common | options))  # type: ignore[arg-type]


app = _plain(
    name="dstack-vpn",
    help="A WireGuard mesh whose member list is an ERC-721 contract.",
    epilog=examples(
        "dstack-vpn keys generate --out node-a.key",
        "dstack-vpn node register node-a --to 0x7099… --key PUBLIC_KEY",
        "dstack-vpn up --env-file node-a.env",
        "dstack-vpn access node-a",
    ),
)
key_commands = _plain(help="Make and read WireGuard keys.")
contract_commands = _plain(help="The membership contract itself.")
node_commands = _plain(help="Nodes: who is in, and changes to the list.")
state_commands = _plain(help="What a node keeps on disk of the chain.")
config_commands = _plain(help="The configuration file of a node: earlier states, and the way back.")
deploy_commands = _plain(
    callback=deploy.by_default, invoke_without_command=True, no_args_is_help=False
)

app.command("up", epilog=up.EXAMPLES)(up.up)
app.command("access", epilog=access.EXAMPLES)(access.access)
app.command("status", epilog=status.EXAMPLES)(status.status)
app.command("why", epilog=why.EXAMPLES)(why.why)
app.command("verify", epilog=verify.EXAMPLES)(verify.verify)
app.add_typer(key_commands, name="keys")
app.add_typer(contract_commands, name="contract")
app.add_typer(node_commands, name="node")
app.add_typer(state_commands, name="state")
app.add_typer(config_commands, name="config")
app.add_typer(deploy_commands, name="deploy")


def _fill(group: typer.Typer, commands: Commands) -> None:
    for name, (command, lines) in commands.items():
        group.command(name, epilog=lines)(command)


_fill(key_commands, keys.COMMANDS)
_fill(contract_commands, contract.COMMANDS)
_fill(node_commands, {**nodes.COMMANDS, **node.COMMANDS})
_fill(state_commands, state.COMMANDS)
_fill(config_commands, {**config.COMMANDS, **rollback.COMMANDS})
_fill(deploy_commands, deploy.COMMANDS)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"dstack-vpn {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A WireGuard mesh whose member list is an ERC-721 contract."""


def run(arguments: list[str]) -> int:
    """Run the command that the arguments name.

    Raises:
        UserError: they name none, or not as it wants to be called.
    """
    match arguments:
        case ["deploy", "-h" | "--help", *_]:
            pass
        case ["deploy", option, *_] if option.startswith("-"):
            # `deploy` alone is `deploy deploy`, with its options too.
            arguments = ["deploy", *arguments]
    try:
        result = app(args=arguments, prog_name="dstack-vpn", standalone_mode=False)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        # typer's usage errors have no public class of their own in all its versions.
        tell = getattr(error, "format_message", None)
        if tell is None:
            raise
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "dstack-vpn"
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(tell() + "\n")
            return 2
        raise UserError(f"{_sentence(tell())}; see {path} --help") from None
    return result if isinstance(result, int) else 0


def _sentence(message: str) -> str:
    # The words that are too many may be a key that was put in the wrong place.
    if message.startswith("Got unexpected extra argument"):
        message = "there are too many arguments"
    first = message.strip().rstrip(".")
    return first[:1].lower() + first[1:]
