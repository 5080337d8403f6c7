"""The text of env.example, made from the tables of settings; pure.

`dstack-vpn deploy env-example` prints it, and a test compares the file with it. Every line that
sets something is commented out: a copy of the file changes nothing until it is edited.
"""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dstack_vpn.deploy.preflight import (
    COMPOSE_DEFAULTS,
    COMPOSE_RULES,
    DEFAULT_SOCKET,
    FIXED,
    NODE_IDS,
    PORTS,
    SOCKET_VARIABLE,
)
from dstack_vpn.variables import VARIABLES, Variable

WIDTH = 98


@dataclass(frozen=True, slots=True)
class ComposeVariable:
    """A variable that only the Compose files and `dstack-vpn deploy` read."""

    name: str
    meaning: str
    default: str
    note: str = ""
    """What is said in place of a default that is empty or depends on something."""


COMPOSE_VARIABLES: tuple[ComposeVariable, ...] = (
    ComposeVariable(
        "COMPOSE_PROJECT_NAME",
        "Name of the project, which stands before the names of its containers and volumes.",
        "",
        "the name of the directory",
    ),
    ComposeVariable(
        "COMPOSE_PROFILES",
        "Parts that are on, separated by commas: local-chain (a chain of its own) and keeper.",
        "",
        "`dstack-vpn deploy` turns on what fits",
    ),
    ComposeVariable(
        "BASE_IMAGE",
        "Debian image that ours are made of, and that holds the networks; may have a digest.",
        "debian:bookworm-slim",
    ),
    ComposeVariable(
        "DSTACK_VPN_IMAGE",
        "Image of the nodes. It is built here under any tag; another name is pulled.",
        "dstack-vpn:local",
    ),
    ComposeVariable("NGINX_IMAGE", "Image of the examples beside them.", "dstack-vpn-nginx:local"),
    ComposeVariable("CHAIN_IMAGE", "Image of the local chain.", "dstack-vpn-chain:local"),
    ComposeVariable(
        "BUILD_CA_FILE",
        "Certificates that builds have to trust, behind a proxy that opens TLS.",
        "",
        "none",
    ),
    *(ComposeVariable(name, "Node id of the node.", value) for name, value in NODE_IDS.items()),
    *(
        ComposeVariable(
            port.variable, f"Port of this machine for {port.purpose}.", str(port.default)
        )
        for port in PORTS
    ),
    ComposeVariable(
        "WIREGUARD_PORT", "The same for WireGuard (UDP) of the node of docker/node.", "51820"
    ),
    ComposeVariable(
        "HEALTH_PORT", "The same for the health endpoints of the node of docker/node.", "8080"
    ),
    ComposeVariable(
        "HEALTH_BIND", "Address of this machine on which the health ports listen.", "127.0.0.1"
    ),
    ComposeVariable(
        "NODE_A_MESH_ADDRESS",
        "Address of node-a in the mesh, where test-client looks for the page of nginx-server.",
        "10.213.0.1",
    ),
    ComposeVariable(
        "IPV6_SYSCTL",
        "Switches IPv6 on inside; on a host without IPv6 say"
        " net.ipv4.conf.all.accept_source_route=0, which is so anyway.",
        "net.ipv6.conf.all.disable_ipv6=0",
    ),
    ComposeVariable(SOCKET_VARIABLE, "The engine's socket, for the keeper.", DEFAULT_SOCKET),
)


def render(signing: Iterable[Variable]) -> str:
    """The whole file.

    Args:
        signing: the variables of the command line for signed changes.
    """
    handed = [v for v in VARIABLES if v.name not in FIXED and v.name != "NODE_ID"]
    fixed = [v for v in VARIABLES if v.name in FIXED or v.name == "NODE_ID"]
    parts = [
        _heading(
            "Settings for docker-compose.yml and for `dstack-vpn`. Copy this file to .env, where"
            " Compose finds it by itself, or name it with --env-file. Everything is optional unless"
            " it says otherwise: with nothing set there is a network with a chain of its own."
        ),
        _heading("What the Compose files themselves read."),
        *(_compose(v) for v in COMPOSE_VARIABLES),
        _heading("Settings that docker-compose.yml hands to both nodes."),
        *(_setting(v, COMPOSE_DEFAULTS.get(v.name)) for v in handed),
        _heading(
            "Settings that are fixed in the containers of docker-compose.yml, or different for each"
            " of its nodes. They are for a node on a host (`dstack-vpn up --env-file`), and some"
            " for the files in docker/node and docker/dstack."
        ),
        *(_setting(v, None) for v in fixed),
        _heading("What `dstack-vpn` signs changes to the contract with. Nodes need none of it."),
        *(_setting(v, None) for v in signing),
    ]
    return "\n".join(parts)


def _heading(text: str) -> str:
    return f"{_comment('## ', [text])}"


def _comment(first: str, sentences: Sequence[str]) -> str:
    lines = textwrap.wrap(" ".join(sentences), WIDTH - len(first), break_on_hyphens=False)
    return "".join(f"{first}{line}\n" for line in lines)


def _compose(variable: ComposeVariable) -> str:
    sentences = [variable.meaning]
    if variable.name in COMPOSE_RULES:
        sentences.append(f"Accepted: {COMPOSE_RULES[variable.name][1]}.")
    sentences.append(f"Default: {variable.note or variable.default}.")
    return _comment("# ", sentences) + f"#{variable.name}={variable.default}\n"


def _setting(variable: Variable, in_compose: str | None) -> str:
    default = in_compose if in_compose is not None else variable.default or ""
    if in_compose is not None:
        said = f"Default here: {in_compose}."
    elif variable.default is None:
        said = "Needed; no default."
    else:
        said = f"Default: {variable.default_note or variable.default or 'empty'}."
    sentences = [variable.meaning, f"Accepted: {variable.accepted}.", said]
    if variable.name in FIXED:
        sentences.append(f"In containers: {FIXED[variable.name]}.")
    text = _comment("# ", sentences)
    # A plain secret is second best, so the file that holds it is what the example offers.
    name = (
        f"{variable.name}_FILE" if variable.secret and variable.name != "RPC_URL" else variable.name
    )
    return f"{text}#{name}={default}\n"
