"""env.example: made from the tables, complete, harmless as it is, and right when it is edited."""

import re
from pathlib import Path

import pytest

from deploy.compose_files import COMPOSE_FILES, ROOT, compose_file, interpolated
from dstack_vpn.cli import signer
from dstack_vpn.config import load_settings, read_env_file
from dstack_vpn.deploy.envfile import COMPOSE_VARIABLES, WIDTH, render
from dstack_vpn.deploy.preflight import (
    COMPOSE_DEFAULTS,
    COMPOSE_RULES,
    FIXED,
    NODE_IDS,
    PORTS,
    compose_variable_errors,
    env_file_errors,
    port_errors,
    setting_errors,
    wants_local_chain,
)
from dstack_vpn.deploy.project import IMAGES
from dstack_vpn.variables import VARIABLES

EXAMPLE = ROOT / "env.example"
TEXT = render(signer.VARIABLES)
LINES = re.findall(r"^#([A-Z0-9_]+)=(.*)$", TEXT, re.MULTILINE)
"""Name and value of each line that can be uncommented."""
NEEDED = {"NODE_ID": "db"}
"""What the file itself can have no value for."""


def test_the_file_is_what_the_command_prints() -> None:
    """env.example in the repository is up to date."""
    if EXAMPLE.read_text(encoding="utf-8") != TEXT:
        pytest.fail(
            "env.example is not up to date; this renews it:\n"
            "    .venv/bin/dstack-vpn deploy env-example > env.example",
            pytrace=False,
        )


def test_it_can_be_read() -> None:
    """No line is too long, and each setting is told in whole sentences right above its line."""
    assert max(len(line) for line in TEXT.splitlines() if "=" not in line) <= WIDTH
    for part in TEXT.split("\n\n"):
        *told, last = part.strip().splitlines()
        if not last.startswith("##"):
            assert re.fullmatch(r"#[A-Z0-9_]+=.*", last), part
            assert told
            assert all(line.startswith("# ") for line in told)
            assert told[-1].endswith(".")


def test_every_variable_stands_in_it_once() -> None:
    """Settings of nodes, of the command line and of Compose; of a secret that has one its file."""
    secrets = {"WIREGUARD_PRIVATE_KEY", "API_TOKEN", "CONTRACT_PRIVATE_KEY"}
    names = [v.name for v in COMPOSE_VARIABLES]
    names += [v.name for v in (*VARIABLES, *signer.VARIABLES)]
    wanted = [f"{name}_FILE" if name in secrets else name for name in names]
    assert sorted(name for name, _ in LINES) == sorted(wanted)
    assert len(set(wanted)) == len(wanted)


def test_a_copy_changes_nothing(tmp_path: Path) -> None:
    """As it is, the file sets nothing: a node has its defaults."""
    copy = tmp_path / ".env"
    copy.write_text(TEXT)
    assert read_env_file(copy) == {}
    assert load_settings(NEEDED | {"NETWORK": "hardhat"}, copy) == load_settings(
        NEEDED | {"NETWORK": "hardhat"}
    )


@pytest.mark.parametrize(("name", "value"), LINES, ids=[name for name, _ in LINES])
def test_an_uncommented_line_changes_nothing(tmp_path: Path, name: str, value: str) -> None:
    """The value that a line shows is the default, on a host and with Compose."""
    edited = tmp_path / ".env"
    edited.write_text(TEXT.replace(f"\n#{name}=", f"\n{name}="))
    values = read_env_file(edited)
    assert values == {name: value}
    assert setting_errors(values) == []
    assert port_errors(values, frozenset({"local-chain"})) == []
    assert compose_variable_errors(values, frozenset({"local-chain"}), local=True) == []
    assert env_file_errors(edited) == []
    assert wants_local_chain(values)
    alone = NEEDED | {"NETWORK": "hardhat"}
    if name not in COMPOSE_DEFAULTS:
        assert load_settings(values | alone) == load_settings(alone)
    else:
        load_settings(alone | values)


def test_the_defaults_here_are_those_of_the_compose_file() -> None:
    """What the text calls the default with Compose is what docker-compose.yml has."""
    settings = dict(interpolated("docker-compose.yml"))
    node = compose_file("docker-compose.yml")["x-settings"]
    handed = {v.name for v in VARIABLES} & set(node)
    assert {n: settings[n] for n in handed if settings.get(n)} == COMPOSE_DEFAULTS
    for variable in COMPOSE_VARIABLES:
        if variable.name in settings:
            assert settings[variable.name] == variable.default, variable.name
    assert NODE_IDS.items() <= settings.items()
    assert {(p.variable, str(p.default)) for p in PORTS} <= settings.items()
    assert {(i.variable, i.default) for i in IMAGES} <= settings.items()


@pytest.mark.parametrize("path", COMPOSE_FILES)
def test_every_variable_of_a_compose_file_is_explained(path: str) -> None:
    """env.example knows each variable that a Compose file reads, and has one default for each."""
    found = interpolated(path)
    assert found
    assert {name for name, _ in found} - {name for name, _ in LINES} == set()
    assert len(dict(found)) == len(set(found)), "a variable with two defaults"


def test_every_variable_of_compose_is_read() -> None:
    """What is said to be read by Compose files is read by one, or by Compose or our commands."""
    by_programs = {"COMPOSE_PROJECT_NAME", "COMPOSE_PROFILES", "BUILD_CA_FILE"}
    found = {name for path in COMPOSE_FILES for name, _ in interpolated(path)}
    assert {v.name for v in COMPOSE_VARIABLES} - found == by_programs


def test_every_setting_reaches_the_nodes_or_is_fixed() -> None:
    """docker-compose.yml hands every setting to its nodes, but for those with a reason not to."""
    handed = set(compose_file("docker-compose.yml")["x-settings"])
    by_variable = {name for name, _ in interpolated("docker-compose.yml")} & handed
    everything = {v.name for v in VARIABLES} - {"NODE_ID"}
    assert everything - by_variable == set(FIXED)
    assert handed - everything == set()


def test_every_variable_of_compose_is_judged() -> None:
    """Each has a rule, but for those whose judge is elsewhere."""
    elsewhere = {*NODE_IDS, *(p.variable for p in PORTS), "DOCKER_SOCKET", "BUILD_CA_FILE"}
    # Of docker/node alone, which nothing but Compose reads.
    elsewhere |= {"WIREGUARD_PORT", "HEALTH_PORT"}
    assert {v.name for v in COMPOSE_VARIABLES} - elsewhere == set(COMPOSE_RULES)


@pytest.mark.parametrize(
    "path", ["docker/node/docker-compose.yml", "docker/dstack/docker-compose.yml"]
)
def test_the_other_files_hand_over_settings_of_the_agent(path: str) -> None:
    """A single node gets settings that there are, each from the variable of its own name."""
    environment = compose_file(path)["services"]["node"]["environment"]
    assert set(environment) - {v.name for v in VARIABLES} == set()
    for name, value in environment.items():
        assert re.match(rf"\$\{{{name}:[-?]", value), name
