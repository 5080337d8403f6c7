"""``dstack-vpn config rollback``: the interface's settings of an earlier state.

The listen port and the MTU, that is. Peers, addresses and the key are not touched: who is a peer is
decided by the contract alone.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from dstack_vpn.cli.config import State
from dstack_vpn.cli.options import AsJson, Commands, EnvFile, examples
from dstack_vpn.cli.show import progress, put, put_json
from dstack_vpn.cli.states import Place, unreadable
from dstack_vpn.errors import DeviceError, HostError, UserError
from dstack_vpn.log import configure_logs
from dstack_vpn.mesh.rollback import InterfaceSettings, Rollback, replacements
from dstack_vpn.store import claim_directory
from dstack_vpn.wireguard.backups import Backup, head_of
from dstack_vpn.wireguard.conftext import Head
from dstack_vpn.wireguard.rollbackfile import ROLLBACK_FILE, RollbackFile

PATIENCE = 20.0
"""Seconds that a running agent has."""
PAUSE = 0.1
"""Seconds between two looks at the configuration file."""

_SEE_LIST = "a state with others than those in force, see dstack-vpn config list"


def rollback(
    state: State = None,
    undo: Annotated[
        bool, typer.Option("--undo", help="Go by the settings again, whatever was rolled back.")
    ] = False,
    patience: Annotated[
        float,
        typer.Option("--timeout", metavar="SECONDS", min=0, help="Longest wait for the node."),
    ] = PATIENCE,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Go back to the listen port and the MTU of STATE, by default of the newest that had others.

    Peers are never rolled back. It lasts, also over restarts, until --undo, or until the setting
    that it replaces is set to another value.
    """
    configure_logs(level="warn", form="console")
    if undo and state is not None:
        raise UserError("STATE and --undo are both given; accepted: one of the two")
    place = Place.find(env_file)
    file = RollbackFile(place.state_dir / ROLLBACK_FILE)
    wish = None if undo else _wish(place, file, state)
    if undo and not file.path.exists() and _head(place.file).rolled_back_to is None:
        raise UserError(
            f"nothing is rolled back, there is no {file.path}; accepted: --undo after a rollback"
        )
    looks = _look_for(wish, file.load())
    runs = _agent_runs(place.state_dir)
    _leave(file, wish)
    what = "back to the settings" if wish is None else f"back to {wish}: {wish.wanted}"
    if runs:
        with progress(f"{what}: waiting for the agent"):
            taken = _wait(lambda: looks(_head(place.file)), within=patience)
        if not taken:
            raise DeviceError(
                f"the agent has not taken it within {patience:g} s ({what}); it goes on trying, its"
                " log says why, and dstack-vpn config rollback --undo takes a rollback back"
            )
    if as_json:
        put_json(
            {
                "state": wish and wish.state,
                "listenPort": wish and wish.listen_port,
                "mtu": wish and wish.mtu,
                "inForce": runs,
            }
        )
        return
    put(f"{what}; {'in force' if runs else 'no agent runs: in force at the next start'}")


def _leave(file: RollbackFile, wish: Rollback | None) -> None:
    """Leave the wish where the agent looks for it; None takes back what was left."""
    try:
        if wish is None:
            file.remove()
        else:
            file.save(wish)
    except OSError as error:
        raise HostError(
            f"{file.path} cannot be written ({error.strerror}); accepted: a STATE_DIR that this"
            " process can write"
        ) from None


def _wish(place: Place, file: RollbackFile, number: int | None) -> Rollback | None:
    """What the agent is to be told; None for nothing but its settings.

    Raises:
        UserError: there is no such state, or nothing to go back to.
    """
    states = place.states()
    if not place.file.exists() and not states:
        raise UserError(
            f"there is no {place.file} and no earlier state; accepted: the STATE_DIR of a node"
            " that has run"
        )
    # A node that was stopped has no file; what was in force last became a state.
    current = _head(place.file if place.file.exists() else states[-1].path)
    now = _settings(current)
    found = _newest_other(states, now) if number is None else place.state(number)
    target = _settings(_head(found.path))
    if now is None or target is None:
        which = "what is in force" if now is None else f"STATE {found.number}"
        raise UserError(
            f"{which} has no listen port and MTU that a setting could have; accepted: {_SEE_LIST}"
        )
    if target == now:
        raise UserError(
            f"STATE {found.number} has the listen port and the MTU that are in force; accepted:"
            f" {_SEE_LIST}"
        )
    before = None if current.rolled_back_to is None else file.load()
    configured = current.configured or now
    port, mtu = replacements(target, now=now, configured=configured, before=before)
    if port is None and mtu is None:
        return None
    return Rollback(
        state=found.number,
        block=found.block,
        made_at=int(time.time()),
        listen_port=port,
        mtu=mtu,
        replaced=configured,
    )


def _newest_other(states: tuple[Backup, ...], now: InterfaceSettings | None) -> Backup:
    for state in reversed(states):
        settings = _settings(_head(state.path))
        if settings is not None and settings != now:
            return state
    raise UserError(f"no state has other settings than those in force; accepted: {_SEE_LIST}")


def _settings(head: Head) -> InterfaceSettings | None:
    """What was in force in a state; None where it does not say, or says what no setting can."""
    if head.listen_port is None or head.mtu is None:
        return None
    if not (1 <= head.listen_port <= 65_535 and 1280 <= head.mtu <= 65_535):
        return None
    return InterfaceSettings(listen_port=head.listen_port, mtu=head.mtu)


def _head(path: Path) -> Head:
    try:
        return head_of(path)
    except OSError as error:
        raise unreadable(path, error) from None


def _look_for(wish: Rollback | None, before: Rollback | None) -> Callable[[Head], bool]:
    """What tells by the agent's file that a wish is in force, in place of the one before."""
    if wish is not None:
        state, port, mtu = wish.state, wish.listen_port, wish.mtu
    else:
        state = None
        port, mtu = (before.replaced.listen_port, before.replaced.mtu) if before else (None, None)

    def shows(head: Head) -> bool:
        same = head.rolled_back_to == state and port in {None, head.listen_port}
        return same and mtu in {None, head.mtu} and head.block is not None

    return shows


def _agent_runs(directory: Path) -> bool:
    try:
        os.close(claim_directory(directory))
    except HostError:
        return True
    return False


def _wait(look: Callable[[], bool], *, within: float) -> bool:
    deadline = time.monotonic() + within
    while not look():
        if time.monotonic() >= deadline:
            return False
        time.sleep(PAUSE)
    return True


COMMANDS: Commands = {
    "rollback": (
        rollback,
        examples(
            "dstack-vpn config rollback       # the newest state with other settings",
            "dstack-vpn config rollback 12",
            "dstack-vpn config rollback --undo",
        ),
    ),
}
