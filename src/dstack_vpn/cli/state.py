"""``dstack-vpn state``: what a node keeps on disk of the chain. Needs no setting but STATE_DIR."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from dstack_vpn.chain.checksum import to_checksum
from dstack_vpn.cli.options import AsJson, Commands, EnvFile, examples
from dstack_vpn.cli.show import moment, note, put, put_facts, put_json
from dstack_vpn.config import read_setting
from dstack_vpn.errors import HostError, SettingError
from dstack_vpn.log import configure_logs
from dstack_vpn.mesh.access import judge
from dstack_vpn.store import STATE_FILE, Saved, Store, claim_directory, read_saved


def show(env_file: EnvFile = None, as_json: AsJson = False) -> None:
    """Show the saved membership. Nothing is changed, and the agent may run."""
    file = _find(env_file)
    saved = read_saved(file)
    if saved is None:
        raise _NothingSavedError(file.parent)
    membership = saved.membership
    block = membership.block
    # How many confirmations an admission takes is the agent's setting; here it takes none.
    decisions = judge(membership, confirmed=block.number, chain_now=block.timestamp)
    shown = {
        "stateDir": str(file.parent),
        "chainId": membership.chain_id,
        "contract": to_checksum(membership.contract),
        "block": block.number,
        "blockHash": block.hash,
        "nodes": len(decisions),
        "granted": sum(decision.granted for decision in decisions),
        "savedAt": int(saved.saved_at),
    }
    if as_json:
        put_json(shown)
        return
    put_facts(
        {
            "directory": shown["stateDir"],
            "chain id": shown["chainId"],
            "contract": shown["contract"],
            "block": f"{block.number} {block.hash}",
            "nodes": f"{shown['nodes']}, {shown['granted']} granted access at that block",
            "saved": moment(int(saved.saved_at)),
        }
    )


def forget(
    if_any: Annotated[
        bool, typer.Option("--if-any", help="Where nothing is saved, that is well too.")
    ] = False,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Forget the saved membership, as `up --reset-state` does. The key and the journal stay."""
    try:
        file = _find(env_file)
        saved = _forget(file)
    except _NothingSavedError as error:
        if not if_any:
            raise
        note(str(error))
        return
    block = saved.membership.block.number if saved else None
    if as_json:
        put_json({"stateDir": str(file.parent), "block": block})
        return
    what = "a membership that could not be read" if block is None else f"that of block {block}"
    put(f"forgot the membership in {file.parent} ({what}); the key and the journal stay")


def _forget(file: Path) -> Saved | None:
    """Forget what is saved in a state file; what it was, None for what cannot be read."""
    with ExitStack() as stack:
        accepted = "the directory of an agent that was stopped"
        stack.callback(os.close, claim_directory(file.parent, accepted=accepted))
        store = Store(file)
        stack.callback(store.close)
        saved = store.load()
        if not store.forget():
            raise _NothingSavedError(file.parent)
    return saved


def _find(env_file: Path | None) -> Path:
    """The state file of STATE_DIR.

    Raises:
        SettingError: there is none.
        HostError: we may not look.
    """
    # What the store has to say of a file is for people here.
    configure_logs(level="warn", form="console")
    directory: Path = read_setting("STATE_DIR", env_file)
    file = directory / STATE_FILE
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise _NothingSavedError(directory) from None
    except OSError as error:
        raise HostError(
            f"STATE_DIR {directory} cannot be read ({error.strerror}); accepted: a directory that"
            " this process can read"
        ) from None
    return file


class _NothingSavedError(SettingError):
    """STATE_DIR is not that of a node that has read its chain."""

    def __init__(self, directory: Path) -> None:
        accepted = "the directory of a node that has read its chain"
        super().__init__("STATE_DIR", f"{directory} holds no saved membership", accepted)


COMMANDS: Commands = {
    "show": (show, examples("dstack-vpn state show", "dstack-vpn state show --json")),
    "forget": (forget, examples("dstack-vpn state forget --env-file node-a.env")),
}
