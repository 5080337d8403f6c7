"""``dstack-vpn deploy``: nodes as containers, on the engine of this machine or of another one.

Thin functions over `dstack_vpn.deploy`. Results go to stdout, progress to stderr.
"""

import contextlib
import re
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from dstack_vpn.cli import signer
from dstack_vpn.cli.local import keys, local_network
from dstack_vpn.cli.options import AsJson, Commands, examples
from dstack_vpn.cli.show import note, put, put_json, put_table
from dstack_vpn.deploy import keeper as keeper_loop
from dstack_vpn.deploy import project as steps
from dstack_vpn.deploy.envfile import render as render_env_example
from dstack_vpn.deploy.follow import followed
from dstack_vpn.deploy.loglines import (
    LEVELS,
    Line,
    as_json,
    merge,
    parse_lines,
    show,
)
from dstack_vpn.deploy.project import Project, open_project
from dstack_vpn.deploy.report import HEAD, Row
from dstack_vpn.errors import SettingError, UserError

TIMEOUT = 120.0
"""Seconds that a deployment may take to become ready; an image that is pulled comes before that."""

Directory = Annotated[
    Path,
    typer.Option(
        "--directory",
        "-C",
        metavar="DIR",
        envvar="DSTACK_VPN_DIRECTORY",
        show_envvar=False,
        help="Where docker-compose.yml is.",
    ),
]
Profile = Annotated[
    list[str] | None,
    typer.Option("--profile", metavar="NAME", help="A profile of the Compose file to turn on."),
]
Timeout = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", min=1, help="Longest wait for readiness.")
]
BuildCa = Annotated[
    Path | None,
    typer.Option(
        "--build-ca",
        metavar="FILE",
        help="Certificates (PEM) that the build must trust; they stay out of the images.",
    ),
]
NoBuild = Annotated[bool, typer.Option("--no-build", help="Use the images as they are.")]
HERE = Path()


def setup(
    *, directory: Directory = HERE, build_ca: BuildCa = None, as_json: AsJson = False
) -> None:
    """Check this machine and the settings, write .env if there is none, and make the nodes' keys.

    A key that is there is never overwritten. Private keys stay in the nodes' volumes.
    """
    project = open_project(directory, keeper=False)
    steps.check(project)
    written = steps.write_env(project, render_env_example(signer.VARIABLES))
    if written:
        note(f"wrote {written}; what is commented out there has its default")
    steps.build(project, build_ca=build_ca, say=note)
    public = steps.make_keys(project)
    if as_json:
        put_json({"wroteEnv": written is not None, "publicKeys": public})
        return
    for node_id, key in public.items():
        put(f"{node_id} {key}")
    if steps.LOCAL_CHAIN not in project.profiles:
        note("register each: dstack-vpn node register NODE_ID --key PUBLIC_KEY --to HOLDER_ADDRESS")


def build(
    *,
    directory: Directory = HERE,
    profile: Profile = None,
    build_ca: BuildCa = None,
    as_json: AsJson = False,
) -> None:
    """Build the images. Those that a variable such as DSTACK_VPN_IMAGE names are left out."""
    project = open_project(directory, profiles=profile or (), keeper=False)
    built = steps.build(project, build_ca=build_ca, say=note)
    if as_json:
        put_json({"built": built})


def deploy(
    *,
    directory: Directory = HERE,
    profile: Profile = None,
    no_build: NoBuild = False,
    build_ca: BuildCa = None,
    keeper: Annotated[
        bool,
        typer.Option(
            "--keeper/--no-keeper",
            help="Run the keeper, which starts again what the engine leaves down.",
        ),
    ] = True,
    timeout: Timeout = TIMEOUT,
    as_json: AsJson = False,
) -> None:
    """Check, build, start, and wait until every service does what it is for.

    Without any settings it makes a network of its own: a chain, the contract, two nodes that are
    on the list, a web server beside the one and a client beside the other.
    """
    project = open_project(directory, profiles=profile or (), keeper=keeper)
    steps.check(project)
    if not no_build:
        steps.build(project, build_ca=build_ca, say=note)
    _bring_up(project, timeout, as_json)


def _bring_up(
    project: Project, timeout: float, as_json: bool, *, recreate: bool | None = None
) -> None:
    steps.up(project, recreate=recreate)
    _tell(steps.wait_ready(project, timeout=timeout, say=note), as_json)


def status(*, directory: Directory = HERE, profile: Profile = None, as_json: AsJson = False) -> int:
    """Show what each service does now. Exit code 0 when all do what they are for, else 1."""
    rows = steps.status(open_project(directory, profiles=profile or ()))
    _tell(rows, as_json)
    return 0 if all(row.ok for row in rows) else 1


def _tell(rows: list[Row], as_json: bool) -> None:
    if as_json:
        ok = all(row.ok for row in rows)
        put_json({"ok": ok, "services": [row.json() for row in rows]})
    else:
        put_table(HEAD, [row.cells() for row in rows])


def start(
    *,
    directory: Directory = HERE,
    profile: Profile = None,
    timeout: Timeout = TIMEOUT,
    as_json: AsJson = False,
) -> None:
    """Start what is deployed, as it is, and wait until it is ready."""
    _bring_up(_deployed(directory, profile), timeout, as_json, recreate=False)


def stop(*, directory: Directory = HERE, profile: Profile = None, as_json: AsJson = False) -> None:
    """Stop all containers. Keys, state and chain stay."""
    project = _deployed(directory, profile)
    stopped = steps.stop(project)
    if as_json:
        put_json({"stopped": stopped})


def restart(
    *,
    directory: Directory = HERE,
    profile: Profile = None,
    timeout: Timeout = TIMEOUT,
    as_json: AsJson = False,
) -> None:
    """Stop all containers and start them again."""
    project = _deployed(directory, profile)
    steps.stop(project)
    _bring_up(project, timeout, as_json, recreate=False)


def update(
    *,
    directory: Directory = HERE,
    no_build: NoBuild = False,
    build_ca: BuildCa = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace nodes whose image did not change too.")
    ] = False,
    timeout: Timeout = TIMEOUT,
    as_json: AsJson = False,
) -> None:
    """Replace the nodes by their new image, one at a time. Each is ready before the next.

    Tunnels between the others are not touched. Ends at the first node that does not become ready.
    """
    project = _deployed(directory, None)
    steps.check(project)
    if not no_build:
        steps.build(project, build_ca=build_ca, say=note)
    replaced = steps.update(project, timeout=timeout, recreate=force, say=note)
    if as_json:
        put_json({"replaced": replaced})


def reset_state(
    *,
    nodes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NODE...]", help="Services; all nodes by default."),
    ] = None,
    directory: Directory = HERE,
    timeout: Timeout = TIMEOUT,
    as_json: AsJson = False,
) -> None:
    """Accept a chain that began anew: nodes forget the membership that they saved. Keys stay."""
    project = _deployed(directory, None)
    chosen = steps.reset_state(project, nodes or (), say=note)
    rows = steps.wait_ready(project, timeout=timeout, say=note, services=chosen)
    _tell(rows, as_json)


def cleanup(
    *,
    directory: Directory = HERE,
    profile: Profile = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    keep_state: Annotated[
        bool, typer.Option("--keep-state", help="Keep the volumes: keys, state, chain.")
    ] = False,
    keep_images: Annotated[bool, typer.Option("--keep-images", help="Keep the images.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove containers, networks, volumes and images. Asks before keys and state are deleted."""
    project = open_project(directory, profiles=profile or ())
    if not (yes or keep_state):
        _ask("this deletes the nodes' keys, their state and the local chain for good; go on?")
    steps.clean_up(project, keep_state=keep_state, keep_images=keep_images, say=note)
    if as_json:
        put_json({"keptState": keep_state, "keptImages": keep_images})


def _ask(question: str) -> None:
    if sys.stdin is None or not sys.stdin.isatty():
        raise UserError(
            "there is no terminal to ask whether keys may be deleted; accepted: --yes, or"
            " --keep-state"
        )
    if not typer.confirm(question, err=True):
        raise UserError("nothing was removed; accepted: yes, or --keep-state")


def _deployed(directory: Path, profile: list[str] | None) -> Project:
    project = open_project(directory, profiles=profile or ())
    if not project.engine.containers():
        raise UserError("nothing is deployed here; `dstack-vpn deploy` does it")
    return project


def logs(
    *,
    services: Annotated[
        list[str] | None, typer.Argument(metavar="[SERVICE...]", help="All services by default.")
    ] = None,
    directory: Directory = HERE,
    profile: Profile = None,
    level: Annotated[
        str, typer.Option("--level", metavar="LEVEL", help=f"Least severe: {', '.join(LEVELS)}.")
    ] = "debug",
    tail: Annotated[
        int, typer.Option("--tail", metavar="LINES", min=0, help="Lines of each container.")
    ] = 100,
    since: Annotated[
        str, typer.Option("--since", metavar="TIME", help="As 10m, or 2026-01-31T12:00:00Z.")
    ] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the logs of the containers as one, in the order of time."""
    if level not in LEVELS:
        raise SettingError("--level", f"is {level[:20]!a}", ", ".join(LEVELS))
    if since and not _SINCE.fullmatch(since):
        raise SettingError("--since", f"is {since[:40]!a}", "10m or 1h30m, or 2026-01-31T12:00:00Z")
    project = _deployed(directory, profile)
    there = [c for c in project.engine.containers() if not c.one_off]
    for service in services or ():
        if service not in {c.service for c in there}:
            accepted = ", ".join(c.service for c in there)
            raise SettingError("SERVICE", f"{service[:60]!a} has no container", accepted)
    chosen = [c for c in there if not services or c.service in services]
    options = ["--timestamps", "--tail", str(tail), *(["--since", since] if since else [])]
    width = max((len(c.service) for c in chosen), default=0)
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        if follow:
            # As Ctrl-C does, so that the programs that read for us end too.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            lines = stack.enter_context(followed(project.engine, chosen, options))
        else:
            texts = {c.service: project.engine.logs(c, *options) for c in chosen}
            lines = merge(parse_lines(service, text) for service, text in texts.items())
        for line in lines:
            if line.at_least(level):
                _put_line(line, width, as_json)


_SINCE = re.compile(
    r"(\d+(h|m|s|ms))+|\d+(\.\d+)?|\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?",
    re.ASCII,
)
"""What the engine takes; it tells only its log of what it does not take."""


def _put_line(line: Line, width: int, json_wanted: bool) -> None:
    if json_wanted:
        import msgspec  # noqa: PLC0415 - one object a line, unlike all other output

        put(msgspec.json.encode(as_json(line)).decode())
    else:
        put(show(line, width=width))
    sys.stdout.flush()


def watch(
    project: Annotated[
        str,
        typer.Option("--project", metavar="NAME", help="Its name, as `docker compose ls` shows."),
    ] = "",
    docker_socket: Annotated[
        Path, typer.Option("--socket", metavar="PATH", help="The engine's socket.")
    ] = keeper_loop.SOCKET,
) -> None:
    """Start again what the engine leaves down, until SIGTERM. The keeper, without a container."""
    keeper_loop.run(path=docker_socket, project=project)


def env_example() -> None:
    """Print env.example: every variable, its meaning, and its default."""
    sys.stdout.write(render_env_example(signer.VARIABLES))


COMMANDS: Commands = {
    "setup": (setup, examples("dstack-vpn deploy setup", "dstack-vpn deploy setup --json")),
    "build": (
        build,
        examples(
            "dstack-vpn deploy build",
            "BASE_IMAGE=debian:bookworm-slim@sha256:… dstack-vpn deploy build",
            "dstack-vpn deploy build --build-ca proxy-ca.crt",
        ),
    ),
    "deploy": (
        deploy,
        examples(
            "dstack-vpn deploy",
            "dstack-vpn deploy deploy --no-build --timeout 60",
            "dstack-vpn deploy deploy --directory /srv/dstack-vpn --json",
        ),
    ),
    "status": (status, examples("dstack-vpn deploy status", "dstack-vpn deploy status --json")),
    "logs": (
        logs,
        examples(
            "dstack-vpn deploy logs --follow",
            "dstack-vpn deploy logs node-a --level warn --since 10m",
            "dstack-vpn deploy logs --json",
        ),
    ),
    "start": (start, examples("dstack-vpn deploy start")),
    "stop": (stop, examples("dstack-vpn deploy stop")),
    "restart": (restart, examples("dstack-vpn deploy restart")),
    "update": (update, examples("dstack-vpn deploy update", "dstack-vpn deploy update --no-build")),
    "reset-state": (
        reset_state,
        examples("dstack-vpn deploy reset-state", "dstack-vpn deploy reset-state node-a"),
    ),
    "cleanup": (
        cleanup,
        examples("dstack-vpn deploy cleanup", "dstack-vpn deploy cleanup --keep-state"),
    ),
    "watch": (watch, examples("dstack-vpn deploy watch --project dstack-vpn")),
    "env-example": (env_example, examples("dstack-vpn deploy env-example > .env")),
    "keys": (keys, examples("dstack-vpn deploy keys node-a=/nodes/a node-b=/nodes/b")),
    "local-network": (
        local_network,
        examples("dstack-vpn deploy local-network node-a=/nodes/a node-b=/nodes/b"),
    ),
}


def by_default(context: typer.Context) -> None:
    """Nodes as containers. Without a command: the same as `deploy deploy`."""
    if context.invoked_subcommand is None:
        deploy()
