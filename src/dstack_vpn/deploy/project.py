"""The steps of a deployment of docker-compose.yml: checked before, and waited for by facts.

`cli.deploy` calls them. `engine` runs the commands; `preflight` and `report` judge. Progress is
told through `Say`, results are returned, and a step that fails raises with the reason.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from dstack_vpn.config import read_env_file
from dstack_vpn.deploy import preflight
from dstack_vpn.deploy.containers import EXITED, Container
from dstack_vpn.deploy.engine import (
    PROJECT_NAME,
    DeployError,
    Engine,
    find_compose,
    project_name,
    run,
)
from dstack_vpn.deploy.keep import decide
from dstack_vpn.deploy.loglines import parse_lines, show
from dstack_vpn.deploy.report import (
    Checked,
    NodeFacts,
    Row,
    is_node,
    make_rows,
    read_check,
    read_facts,
)
from dstack_vpn.errors import SettingError, SettingsError, UserError

COMPOSE_FILE = "docker-compose.yml"
ENV_FILE = ".env"
LOCAL_CHAIN, KEEPER, KEYS, ADMIN = "local-chain", "keeper", "keys", "admin"
"""Profiles of the Compose file; a service of the same name is in each of the last three."""
PROFILE_OF = {
    "chain": LOCAL_CHAIN, "init": LOCAL_CHAIN, "keeper": KEEPER, "keys": KEYS, "admin": ADMIN,
}  # fmt: skip
"""The services that are there only with a profile. Compose 1.29 lists them with and without it."""
POLL = 0.25
"""Seconds between two looks at containers that are not ready yet."""
LOG_TAIL = 20
"""Lines that are shown of a container that failed."""
CHECKS_AT_ONCE = 8
BUILD_CA = Path("docker/ca/this-build.crt")

IPV6 = Path("/proc/sys/net/ipv6")
NO_IPV6 = "net.ipv4.conf.all.accept_source_route=0"
"""Stands in the place of the switch for IPv6 on a host that has none: what is so anyway."""

Say = Callable[[str], None]
"""Tells the user of progress."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image that is built here, whatever its tag, unless a variable gives it another name."""

    variable: str
    default: str
    dockerfile: str
    profile: str = ""

    def built_here(self, tag: str) -> bool:
        """Whether a tag is ours to build and to remove; any other one is pulled."""
        return tag.partition(":")[0] == self.default.partition(":")[0]


IMAGES = (
    Image("DSTACK_VPN_IMAGE", "dstack-vpn:local", "docker/wireguard/Dockerfile"),
    Image("NGINX_IMAGE", "dstack-vpn-nginx:local", "docker/nginx/Dockerfile"),
    Image("CHAIN_IMAGE", "dstack-vpn-chain:local", "docker/chain/Dockerfile", LOCAL_CHAIN),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A directory with a Compose file, and how it is to be run."""

    directory: Path
    values: Mapping[str, str]
    """The variables that Compose reads: those of the environment before those of .env."""
    profiles: frozenset[str]
    engine: Engine
    local_engine: bool
    """Whether the engine runs on this machine."""

    def value(self, name: str, default: str = "") -> str:
        """A variable; empty counts as absent."""
        return self.values.get(name, "").strip() or default

    def services(self) -> list[str]:
        """The services that belong to it with its profiles."""
        return [
            service
            for service in self.engine.services()
            if service not in PROFILE_OF or PROFILE_OF[service] in self.profiles
        ]

    @property
    def everything(self) -> Engine:
        """The engine with all profiles on, for what concerns whatever is there."""
        return self.engine.with_profiles(*sorted({*self.profiles, *PROFILE_OF.values()}))

    def without(self, profile: str) -> "Project":
        """The same with a profile off."""
        left = self.profiles - {profile}
        return replace(self, profiles=left, engine=self.engine.with_profiles(*sorted(left)))


def open_project(
    directory: Path, *, profiles: Iterable[str] = (), keeper: bool | None = None
) -> Project:
    """Find the project, the engine and Compose.

    Args:
        directory: with the Compose file.
        profiles: to be on, beside those that COMPOSE_PROFILES names. That of the local chain is on
            by itself where neither NETWORK nor RPC_URL names another one.
        keeper: whether the keeper belongs to it; None: if it is there already.

    Raises:
        SettingsError: names everything that is missing.
    """
    values = dict(os.environ)
    wrong: list[UserError] = []
    if not (directory / COMPOSE_FILE).is_file():
        problem, accepted = f"has no {COMPOSE_FILE} ({directory})", "a checkout of dstack-vpn"
        wrong.append(SettingError("--directory", problem, accepted))
    env_file = directory / ENV_FILE
    unclear = preflight.env_file_errors(env_file)
    if env_file.exists() and not unclear:
        values = read_env_file(env_file) | values
    name = project_name(values.get("COMPOSE_PROJECT_NAME", ""), directory)
    if not PROJECT_NAME.fullmatch(name):
        problem = f"is {name[:60]!a}" if name else "is missing, and the directory's name makes none"
        wrong.append(SettingError("COMPOSE_PROJECT_NAME", problem, "a-z, 0-9, hyphen, underscore"))
    wrong += unclear
    wrong += preflight.engine_errors()
    found = find_compose()
    wrong += preflight.compose_errors(found and found[1])
    if wrong or found is None:
        raise SettingsError(wrong)
    on = {p for p in values.get("COMPOSE_PROFILES", "").replace(" ", "").split(",") if p}
    on |= set(profiles)
    if preflight.wants_local_chain(values):
        on.add(LOCAL_CHAIN)
    host = run(("docker", "context", "inspect", "-f", "{{.Endpoints.docker.Host}}")).out.strip()
    local = host.startswith("unix://")
    variables: dict[str, str] = {}
    if local:
        variables["DOCKER_SOCKET"] = values.get("DOCKER_SOCKET") or host.removeprefix("unix://")
        if not IPV6.exists():
            variables["IPV6_SYSCTL"] = values.get("IPV6_SYSCTL") or NO_IPV6
    engine = Engine(
        directory,
        found[0],
        project=name,
        profiles=sorted({*on, KEEPER}),
        variables=variables,
    )
    if keeper is None:
        keeper = any(c.service == KEEPER for c in engine.containers())
    project = Project(
        directory=directory,
        values=values | variables,
        profiles=frozenset({*on, KEEPER}),
        engine=engine,
        local_engine=local,
    )
    return project if keeper else project.without(KEEPER)


def check(project: Project) -> None:
    """Check what the containers will need, before any of them is made.

    Raises:
        SettingsError: names everything that is wrong.
    """
    ports = preflight.port_errors(project.values, project.profiles)
    # Those that our own containers hold are not in use by another.
    if not ports and project.local_engine and not _any_runs(project):
        ports = preflight.ports_in_use(project.values, project.profiles)
    wrong = [
        *preflight.setting_errors(project.values),
        *preflight.compose_variable_errors(
            project.values, project.profiles, local=project.local_engine
        ),
        *ports,
        *(preflight.tun_errors() if project.local_engine else ()),
    ]
    if wrong:
        raise SettingsError(wrong)


def _any_runs(project: Project) -> bool:
    return any(container.running for container in project.engine.containers())


def write_env(project: Project, text: str) -> Path | None:
    """Write .env where there is none; its path if it was written.

    Raises:
        DeployError: it cannot be written.
    """
    path = project.directory / ENV_FILE
    try:
        # Private from the start: it is where keys of providers will stand.
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
    except FileExistsError:
        return None
    except OSError as error:
        raise DeployError(f"{path} cannot be written: {error.strerror}") from None
    return path


def build(project: Project, *, build_ca: Path | None, say: Say) -> list[str]:
    """Build the images that no variable names; returns their tags.

    Args:
        project: whose images.
        build_ca: certificates that the build has to trust, for a proxy that opens TLS.
        say: for progress.

    Raises:
        SettingError: the certificates cannot be read.
        DeployError: a build failed; it has told why itself.
    """
    source = "--build-ca"
    if build_ca is None and (named := project.value("BUILD_CA_FILE")):
        source, build_ca = "BUILD_CA_FILE", project.directory / named
    built = []
    with _trusting(project, source, build_ca):
        for image, tag in _own_images(project):
            if image.profile and image.profile not in project.profiles:
                continue
            began = time.monotonic()
            say(f"{tag}: building")
            base = project.value("BASE_IMAGE")
            options = ["--build-arg", f"BASE={base}"] if base else []
            project.engine.show("docker", "build", "-f", image.dockerfile, "-t", tag, *options, ".")
            say(f"{tag}: built in {time.monotonic() - began:.0f} s")
            built.append(tag)
    return built


def _own_images(project: Project) -> list[tuple[Image, str]]:
    """The images that are built here, with their tags."""
    tags = [(image, project.value(image.variable, image.default)) for image in IMAGES]
    return [(image, tag) for image, tag in tags if image.built_here(tag)]


@contextlib.contextmanager
def _trusting(project: Project, source: str, build_ca: Path | None) -> Iterator[None]:
    """Have the builds trust certificates, for as long as they take."""
    if build_ca is None:
        yield
        return
    accepted = "a file of PEM certificates"
    try:
        text = build_ca.read_bytes()
    except OSError as error:
        problem = f"cannot be read ({build_ca}: {error.strerror})"
        raise SettingError(source, problem, accepted) from None
    if b"BEGIN CERTIFICATE" not in text or b"PRIVATE KEY" in text:
        # What a build uses stays in its layers.
        problem = f"does not hold certificates alone ({build_ca})"
        raise SettingError(source, problem, accepted)
    path = project.directory / BUILD_CA
    try:
        try:
            path.write_bytes(text)
        except OSError as error:
            raise DeployError(f"{path} cannot be written: {error.strerror}") from None
        yield
    finally:
        path.unlink(missing_ok=True)


def make_keys(project: Project) -> dict[str, str]:
    """Make the keys of the nodes in their volumes, as far as there are none.

    Returns:
        Public keys by node id.

    Raises:
        DeployError: they cannot be made.
    """
    engine = project.engine.with_profiles(*sorted({*project.profiles, KEYS}))
    printed = engine.compose("run", "--rm", "--no-deps", "-T", KEYS, patience=None)
    try:
        return {str(node): str(key) for node, key in json.loads(printed).items()}
    except (ValueError, AttributeError):
        raise DeployError("the keys were made, but their public halves were not told") from None


def up(project: Project, *services: str, recreate: bool | None = None) -> None:
    """Make and start containers, as far as they are not there as the Compose file has them.

    Args:
        project: whose.
        services: these alone; all by default.
        recreate: True makes them anew in any case, False never, None where their settings or image
            changed.

    Raises:
        DeployError: that failed.
    """
    if not services:
        _drop_unwanted(project)
    words = ["up", "--detach", "--no-build"]
    if recreate is not None:
        words.append("--force-recreate" if recreate else "--no-recreate")
    if services:
        words.append("--no-deps")
    project.engine.show("compose", *words, *services)
    if not services:
        _bring_home(project)


def _bring_home(project: Project) -> None:
    """Start anew whoever is left in a network that was made anew: Compose 1.29 does not."""
    for start in decide(project.engine.containers(), {}, now=0.0):
        if start.container.running:
            project.engine.docker("restart", start.container.id, patience=None)


def _drop_unwanted(project: Project) -> None:
    """Remove what belongs to a profile that is off; to Compose it is part of the project anyway."""
    there = {c.service for c in project.engine.containers() if not c.one_off}
    unwanted = sorted(s for s in there & PROFILE_OF.keys() if PROFILE_OF[s] not in project.profiles)
    if unwanted:
        project.everything.show("compose", "rm", "--stop", "--force", *unwanted)


def wait_ready(
    project: Project, *, timeout: float, say: Say, services: Sequence[str] | None = None
) -> list[Row]:
    """Return when all services do what they are for.

    Args:
        project: whose services.
        timeout: seconds to wait at most.
        say: is told when a service changes its state.
        services: those that are waited for; all by default.

    Raises:
        DeployError: one has failed for good, or the time is over; the end of its log was told.
    """
    began = time.monotonic()
    wanted = project.services() if services is None else services
    told: dict[str, str] = {}
    while True:
        containers = project.engine.containers()
        rows = _look(project, wanted, containers)
        for row in rows:
            words = [word for word in (row.state, row.health, row.note) if word not in ("", "-")]
            now = "ready" if row.ok else ", ".join(words)
            if told.get(row.service) != now:
                say(f"{time.monotonic() - began:5.1f} s  {row.service}: {now}")
            told[row.service] = now
        waiting = [row for row in rows if not row.ok]
        if not waiting:
            return rows
        lost = [row for row in waiting if row.state in (EXITED, "dead")]
        if lost or time.monotonic() - began > timeout:
            _tell_why(project, lost or waiting, containers, say)
            reason = "; ".join(f"{row.service}: {row.note or row.state}" for row in lost or waiting)
            late = "" if lost else f"not ready after {timeout:g} s: "
            raise DeployError(f"{late}{reason}")
        time.sleep(POLL)


def _tell_why(
    project: Project, rows: Sequence[Row], containers: Sequence[Container], say: Say
) -> None:
    failed = {row.container for row in rows}
    for container in containers:
        if container.name in failed:
            say(f"--- the last lines of {container.service}")
            try:
                text = project.engine.logs(container, "--timestamps", "--tail", str(LOG_TAIL))
            except DeployError as error:
                say(str(error))
                continue
            for line in parse_lines(container.service, text):
                say(show(line, width=len(container.service)))


def status(project: Project) -> list[Row]:
    """What every service does now."""
    return _look(project, project.services(), project.engine.containers())


def _look(project: Project, services: Sequence[str], containers: Sequence[Container]) -> list[Row]:
    engine = project.engine

    def ask(container: Container) -> tuple[Checked, NodeFacts]:
        done = engine.inside(container, *container.check)
        checked = read_check(done.code, done.out, done.err)
        if not is_node(container):
            return checked, NodeFacts()
        handshakes = engine.inside(container, "wg", "show", "wg0", "latest-handshakes")
        return checked, read_facts(
            engine.json_inside(container, *container.check, "/health"),
            handshakes.out if handshakes.code == 0 else None,
        )

    asked = [c for c in containers if c.running and c.check and c.service in services]
    with ThreadPoolExecutor(CHECKS_AT_ONCE) as pool:
        answers = dict(zip([c.id for c in asked], pool.map(ask, asked), strict=True))
    return make_rows(
        services,
        containers,
        now=time.time(),
        checks={key: checked for key, (checked, _) in answers.items()},
        nodes={key: facts for key, (_, facts) in answers.items()},
    )


def stop(project: Project) -> list[str]:
    """Stop all containers; they and their volumes stay. Returns the services that had run."""
    ran = sorted({c.service for c in project.engine.containers() if c.running})
    if KEEPER in ran:
        # First, or it would start again what has to be killed.
        project.everything.show("compose", "stop", KEEPER)
    project.everything.show("compose", "stop")
    return ran


def nodes(project: Project) -> list[str]:
    """The services that are nodes, as far as they have a container."""
    return [c.service for c in project.engine.containers() if is_node(c) and not c.one_off]


def update(project: Project, *, timeout: float, recreate: bool, say: Say) -> list[str]:
    """Replace the nodes by their new image, one at a time; each has to be ready before the next.

    The owners of their networks stay, so their neighbours notice no more than the node's absence.

    Returns:
        The nodes that were replaced; one of which nothing changed is left as it is.

    Raises:
        DeployError: one did not become ready; those after it were not touched.
    """
    replaced = []
    for service in nodes(project):
        before = _ids_of(project, service)
        up(project, service, recreate=recreate or None)
        wait_ready(project, timeout=timeout, say=say, services=[service])
        if _ids_of(project, service) != before:
            replaced.append(service)
            say(f"{service}: replaced")
    return replaced


def _ids_of(project: Project, service: str) -> set[str]:
    return {c.id for c in project.engine.containers() if c.service == service}


def reset_state(project: Project, services: Sequence[str], *, say: Say) -> list[str]:
    """Have nodes forget the membership that they saved, to accept a chain that began anew.

    Raises:
        UserError: there is no such node.
        DeployError: a step failed.
    """
    known = nodes(project)
    chosen = list(dict.fromkeys(services)) or known
    for service in chosen:
        if service not in known:
            accepted = ", ".join(known) or "none: nothing is deployed"
            raise SettingError("NODE", f"{service[:60]!a} is no node of this project", accepted)
    for service in chosen:
        say(f"{service}: forgetting")
        project.engine.show("compose", "stop", service)
        forget = ("state", "forget", "--if-any")
        try:
            project.engine.compose(
                "run", "--rm", "--no-deps", "-T", service, *forget, patience=None
            )
        finally:
            up(project, service)
    return chosen


def clean_up(project: Project, *, keep_state: bool, keep_images: bool, say: Say) -> None:
    """Remove the containers and networks, and unless they are to be kept, volumes and images.

    Raises:
        DeployError: something could not be removed.
    """
    project.everything.show("compose", "down", *([] if keep_state else ["--volumes"]))
    if keep_images:
        return
    for image, tag in _own_images(project):
        # Only what is built from here: a lone node's file builds nothing.
        there = (project.directory / image.dockerfile).exists() and project.engine.has_image(tag)
        if there:
            project.engine.docker("image", "rm", tag, patience=None)
            say(f"{tag}: removed")
