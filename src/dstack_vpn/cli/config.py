"""``dstack-vpn config``: the configuration file of a node, and its earlier states.

Needs no setting but STATE_DIR, WG_INTERFACE and WG_CONFIG_FILE. A private key is never shown.
"""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from dstack_vpn.cli.options import AsJson, Commands, EnvFile, examples
from dstack_vpn.cli.show import moment, note, plain, put, put_json, put_table
from dstack_vpn.cli.states import Place, Shown, read_file
from dstack_vpn.errors import HostError, UserError
from dstack_vpn.wireguard.backups import Backup
from dstack_vpn.wireguard.conftext import (
    Conf,
    Head,
    interface_changes,
    peer_changes,
    peer_fields,
    read_conf,
    without_secrets,
)

State = Annotated[
    int | None,
    typer.Argument(metavar="STATE", min=1, help="Number of a state, as `list` shows it."),
]
LONGEST_NOTE = 200


def show(
    state: Annotated[
        int | None, typer.Option("--state", metavar="STATE", min=1, help="An earlier state.")
    ] = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Show the configuration in force, or an earlier one, without the private key."""
    shown = Place.find(env_file).read(state)
    if as_json:
        put_json(
            {
                "file": str(shown.path),
                "state": state,
                **_head_facts(shown.conf.head),
                "peers": [
                    {"publicKey": key, **peer_fields(text)}
                    for key, text in shown.conf.peers.items()
                ],
            }
        )
        return
    for line in without_secrets(shown.text):
        put(plain(line))


def list_states(env_file: EnvFile = None, as_json: AsJson = False) -> None:
    """List the earlier states and the one in force, each with what it changed."""
    place = Place.find(env_file)
    found = [_state_facts(state) for state in place.states()]
    if place.file.exists():
        since = int(place.file.stat().st_mtime)
        found.append({"state": None, "path": str(place.file), "since": since, "byHand": False})
    before: Conf | None = None
    for facts in found:
        conf = read_conf(read_file(Path(facts["path"])))
        changes = [] if before is None else list(changes_of(before, conf))
        facts.update(_head_facts(conf.head), peers=len(conf.peers), changes=changes)
        before = conf
    if as_json:
        put_json(found)
        return
    if not found:
        note(f"{place.backups.directory} holds no states so far, and there is no {place.file}")
        return
    head = ("STATE", "SINCE", "BLOCK", "PEERS", "PORT", "MTU", "WHAT CHANGED")
    put_table(head, list(_rows(found)))


def diff(
    state: State = None,
    other: State = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Say what changed: from the newest state, or STATE, to what is in force, or a second STATE."""
    place = Place.find(env_file)
    if state is None:
        if not (states := place.states()):
            raise UserError(
                f"{place.backups.directory} holds no states so far; accepted: a node whose"
                " configuration has changed"
            )
        state = states[-1].number
    old, new = place.read(state), place.read(other)
    changes = list(changes_of(old.conf, new.conf))
    lines = list(_unified(old, new))
    if as_json:
        put_json({"from": state, "to": other, "changes": changes, "diff": lines})
        return
    for line in changes or ["nothing changed"]:
        put(plain(line))
    for line in lines:
        put(plain(line))


def backup(
    about: Annotated[
        str, typer.Option("--note", metavar="TEXT", help="One line about it, for `list`.")
    ] = "",
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Keep the state in force by hand: it is not thinned as others are."""
    if not about.isprintable() or len(about) > LONGEST_NOTE:
        raise UserError(
            f"--note is too long, or has what cannot be printed; accepted: one line of at most"
            f" {LONGEST_NOTE} characters"
        )
    place = Place.find(env_file)
    read_file(place.file)
    try:
        made, gone = place.backups.keep_by_hand(place.file, about.strip())
    except OSError as error:
        raise HostError(
            f"{place.backups.directory} cannot be used ({error.strerror}); accepted: a STATE_DIR"
            " that this process can write"
        ) from None
    if as_json:
        put_json(_state_facts(made) | {"removed": [state.number for state in gone]})
        return
    put(f"kept as state {made.number}: {made.path}")
    for state in gone:
        note(f"state {state.number}, the oldest that was kept by hand, made room for it")


def _state_facts(state: Backup) -> dict[str, Any]:
    return {
        "state": state.number,
        "path": str(state.path),
        "since": state.time,
        "byHand": state.by_hand,
    }


def _head_facts(head: Head) -> dict[str, Any]:
    configured = head.configured
    return {
        "block": head.block,
        "blockHash": head.block_hash,
        "address": head.address,
        "listenPort": head.listen_port,
        "mtu": head.mtu,
        "configured": configured
        and {"listenPort": configured.listen_port, "mtu": configured.mtu or "auto"},
        "rolledBackTo": head.rolled_back_to,
        "note": head.note,
    }


def _rows(found: list[dict[str, Any]]) -> Iterator[list[str]]:
    for facts in found:
        told = list(facts["changes"])
        if facts["rolledBackTo"] is not None:
            told.append(f"rolled back to state {facts['rolledBackTo']}")
        if facts["byHand"]:
            told.append(f"by hand: {facts['note']}".removesuffix(": "))
        columns = (facts[name] for name in ("block", "peers", "listenPort", "mtu"))
        yield [
            str(facts["state"] or "in force"),
            moment(facts["since"]),
            *("-" if value is None else str(value) for value in columns),
            "; ".join(told) or "-",
        ]


def changes_of(old: Conf, new: Conf) -> Iterator[str]:
    """What differs between two files, in words."""
    yield from interface_changes(old.head, new.head)
    if peers := str(peer_changes(old.peers, new.peers)):
        yield peers


def _unified(old: Shown, new: Shown) -> Iterator[str]:
    """A unified diff of the interface sections and of the peers that differ."""
    a, b = old.conf, new.conf
    differ = peer_changes(a.peers, b.peers)
    keys = sorted({*differ.added, *differ.removed, *differ.altered})

    def lines(conf: Conf) -> list[str]:
        peers = [conf.peers[key] for key in keys if key in conf.peers]
        parts = (f"[Interface]\n{conf.head.section}", *peers)
        return list(without_secrets("\n\n".join(parts)))

    was, now = (f"{shown.name} (block {shown.conf.head.block})" for shown in (old, new))
    yield from difflib.unified_diff(lines(a), lines(b), was, now, lineterm="")


COMMANDS: Commands = {
    "show": (show, examples("dstack-vpn config show", "dstack-vpn config show --state 12 --json")),
    "list": (list_states, examples("dstack-vpn config list", "dstack-vpn config list --json")),
    "diff": (
        diff,
        examples(
            "dstack-vpn config diff         # what the last change was",
            "dstack-vpn config diff 12      # all since state 12",
            "dstack-vpn config diff 12 15",
        ),
    ),
    "backup": (backup, examples("dstack-vpn config backup --note 'before the new port'")),
}
