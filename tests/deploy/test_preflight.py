"""What is checked before containers are made: each mistake is named, with what is accepted."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.fake_docker import FakeDocker
from dstack_vpn.deploy.preflight import (
    COMPOSE_DEFAULTS,
    COMPOSE_RULES,
    FIXED,
    NODE_IDS,
    PORTS,
    Port,
    compose_errors,
    compose_variable_errors,
    engine_errors,
    env_file_errors,
    port_errors,
    ports_in_use,
    setting_errors,
    tun_errors,
    wants_local_chain,
)
from dstack_vpn.errors import UserError
from dstack_vpn.variables import VARIABLES

ADDRESS = "0x" + "1" * 40
ALL = frozenset({"local-chain", "keeper"})


def told(errors: list[UserError]) -> list[str]:
    """What is wrong, without what is accepted, which each must say."""
    found = [str(error).partition("; accepted: ") for error in errors]
    assert all(accepted for _, _, accepted in found)
    return [wrong for wrong, _, _ in found]


# The engine and Compose


@pytest.mark.parametrize("version", ["20.10.0", "20.10.24+dfsg1", "24.0.7", "28.1.1-rd", "29"])
def test_engines(docker: FakeDocker, version: str) -> None:
    """Docker 20.10 or newer will do."""
    docker.answer("docker", "version", out=f"{version}\n")
    assert engine_errors() == []


@pytest.mark.parametrize(
    ("out", "err", "code", "wrong"),
    [
        ("19.03.15\n", "", 0, "the engine is Docker 19.03.15"),
        ("20\n", "", 0, "the engine is Docker 20"),
        ("", "permission denied\n", 1, "the engine does not answer (permission denied)"),
        ("\n", "Cannot connect.\n", 1, "the engine does not answer (Cannot connect.)"),
        ("24.0.7\n", "it died\n", 1, "the engine does not answer (it died)"),
        ("dev\n", "", 0, "the engine does not answer (dev)"),
    ],
)
def test_engines_that_will_not_do(
    docker: FakeDocker, out: str, err: str, code: int, wrong: str
) -> None:
    """One that is too old or does not answer is named, with its own words."""
    docker.answer("docker", "version", out=out, err=err, code=code)
    assert told(engine_errors()) == [wrong]


def test_no_engine(docker: FakeDocker) -> None:
    """Without Docker that is what is told, and so where it cannot be run."""
    (docker.directory / "docker").chmod(0o644)
    assert told(engine_errors()) == ["docker cannot be run: Permission denied"]
    docker.remove("docker")
    assert told(engine_errors()) == ["docker is not installed"]


@pytest.mark.parametrize(
    ("version", "wrong"),
    [
        ((2, 24, 5), []),
        ((1, 29, 2), []),
        ((5,), []),
        ((1, 28, 6), ["Compose is version 1.28.6"]),
        ((1,), ["Compose is version 1"]),
        (None, ["Compose is not installed"]),
    ],
)
def test_compose(version: tuple[int, ...] | None, wrong: list[str]) -> None:
    """Compose 2, or the last of 1."""
    assert told(compose_errors(version)) == wrong


# Settings


def test_without_settings_all_is_right() -> None:
    """A network with a chain of its own needs no setting."""
    assert setting_errors({}) == []
    assert setting_errors({v.name: " " for v in VARIABLES} | dict.fromkeys(NODE_IDS, "")) == []


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({"NETWORK": "mainnet"}, ["NETWORK is 'mainnet'"]),
        ({"MTU": "100"}, ["MTU is 100"]),
        ({"NODE_A_ID": "Upper"}, ["NODE_A_ID is not a DNS label"]),
        ({"NODE_B_ID": "-b"}, ["NODE_B_ID is not a DNS label"]),
        ({"NODE_B_ID": "node-a"}, ["NODE_A_ID and NODE_B_ID are the same"]),
        ({"RPC_URL": "rpc.example"}, ["RPC_URL has no usable URL at place 1"]),
        (
            {"QUORUM": "2"},
            [
                (
                    "QUORUM is 2, but RPC_URL has 1 vote(s), one for each host or operator, and"
                    " more than half of them must agree"
                )
            ],
        ),
        ({"RPC_OPERATORS": "chain=us"}, []),
        (
            {"RPC_OPERATORS": "rpc.example=us"},
            ["RPC_OPERATORS names 'rpc.example', which is no host of RPC_URL"],
        ),
        (
            {"START_BLOCK": "7"},
            ["START_BLOCK is set, but CONTRACT_KIND is checkpoint, which needs none"],
        ),
        ({"START_BLOCK": "7", "CONTRACT_KIND": "published"}, []),
        (
            {"NETWORK": "base"},
            [
                "CONTRACT_ADDRESS is missing",
                # Not http://chain:8545: there is no chain of one's own on Base.
                "RPC_URL is missing",
            ],
        ),
        (
            {"NETWORK": "base", "CONTRACT_ADDRESS": ADDRESS, "RPC_URL": "https://a.example"},
            ["RPC_URL names one provider on base, who could then admit anybody"],
        ),
        (
            {
                "NETWORK": "base",
                "CONTRACT_ADDRESS": ADDRESS,
                "RPC_URL": "https://a.example",
                "QUORUM": "1",
            },
            [],
        ),
        (
            {"MTU": "x", "LOG_LEVEL": "loud", "NODE_A_ID": "A", "NODE_B_ID": "B"},
            [
                "NODE_A_ID is not a DNS label",
                "LOG_LEVEL is 'loud'",
                "MTU is 'x', not a whole number",
                "NODE_B_ID is not a DNS label",
            ],
        ),
        # What is not handed to the nodes is not looked at.
        ({"STATE_DIR": "\0", "WG_INTERFACE": "..", "NODE_ID": "Upper"}, []),
    ],
)
def test_settings(values: dict[str, str], wrong: list[str]) -> None:
    """Everything that is wrong is told at once, once, by the name that stands in .env."""
    assert sorted(told(setting_errors(values))) == sorted(wrong)


def test_no_secret_is_told() -> None:
    """A URL that is malformed may carry a key, so it is named by its place."""
    (error,) = setting_errors({"RPC_URL": "ftp://rpc.example/s3cr3t"})
    assert "s3cr3t" not in str(error)


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


@given(
    st.sampled_from(
        [
            *(v.name for v in VARIABLES),
            *(p.variable for p in PORTS),
            *NODE_IDS,
            *COMPOSE_RULES,
            "DOCKER_SOCKET",
        ]
    ),
    texts,
)
def test_any_text_is_right_or_told(name: str, text: str) -> None:
    """Whatever stands in a variable: nothing, or sentences that are safe to print."""
    values = {name: text}
    for error in (
        *setting_errors(values),
        *port_errors(values, ALL),
        *compose_variable_errors(values, ALL, local=name == "DOCKER_SOCKET"),
    ):
        assert str(error).isprintable()
        assert "; accepted: " in str(error)
        assert name in str(error)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({}, True),
        ({"NETWORK": "hardhat"}, True),
        ({"NETWORK": " ", "RPC_URL": " "}, True),
        ({"RPC_URL": COMPOSE_DEFAULTS["RPC_URL"]}, True),
        ({"RPC_URL": "http://chain.example:8545"}, False),
        ({"NETWORK": "base"}, False),
        ({"NETWORK": "baseSepolia", "RPC_URL": "https://a.example"}, False),
        ({"CONTRACT_ADDRESS": ADDRESS}, True),
    ],
)
def test_whether_a_local_chain_is_wanted(values: dict[str, str], wanted: bool) -> None:
    """It is there by itself only where nothing names another chain."""
    assert wants_local_chain(values) == wanted


def test_fixed_settings_are_settings() -> None:
    """Each has its reason, and is there."""
    assert set(FIXED) < {v.name for v in VARIABLES}
    assert all(FIXED.values())


# .env


@pytest.mark.parametrize(
    "line",
    [
        "",
        "# A='$x # y",
        "A=",
        "A=b",
        " export A = b c ",
        "A='b'",
        'A="b # c"',
        "A='it\"s'",
        'A="it\'s"',
        r"A=a\b",
        "A=b=c==",
    ],
)
def test_lines_that_all_programs_read_alike(tmp_path: Path, line: str) -> None:
    """Plain values, and quotes that go around the whole of one."""
    path = tmp_path / ".env"
    path.write_text(f"{line}\n")
    assert env_file_errors(path) == []


QUOTE = "a quote that does not go around the whole value"
COMMENT = "a # without quotes, where Compose may end the value"


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ("s3cr3t$", "a $, which Compose replaces"),
        ("'s3cr3t${HOME}'", "a $, which Compose replaces"),
        ("s3cr3t # mine", COMMENT),
        ("s3cr3t\t# mine", COMMENT),
        ("s3cr3t#1", COMMENT),
        ("# s3cr3t", COMMENT),
        ("'s3cr3t' # mine", QUOTE),
        ("'s3cr3t", QUOTE),
        ("s3cr3t'", QUOTE),
        ('"', QUOTE),
        ("'s3cr3t\"", QUOTE),
        ("it's3cr3t", QUOTE),
        ("'a' s3cr3t 'b'", QUOTE),
        (r'"s3cr3t\n"', "a backslash between quotes"),
        (r"'s3cr3t\\'", "a backslash between quotes"),
    ],
)
def test_lines_that_programs_read_differently(tmp_path: Path, value: str, wrong: str) -> None:
    """Each is told by file, line and variable, and never with its value."""
    path = tmp_path / ".env"
    path.write_text(f"A=b\n\nexport RPC_URL = {value}\n#\nB={value}\n")
    errors = env_file_errors(path)
    assert told(errors) == [
        f".env has {wrong} on line 3, in RPC_URL",
        f".env has {wrong} on line 5, in B",
    ]
    assert not any("s3cr3t" in str(error) for error in errors)


def test_an_env_file_that_cannot_be_read(tmp_path: Path) -> None:
    """It is called by its name, which is no option's."""
    path = tmp_path / ".env"
    assert env_file_errors(path) == []
    path.write_text("A=b\nwhat is this\n")
    assert told(env_file_errors(path)) == [f".env has no NAME=value on line 2 of {path}"]
    path.write_bytes(b"\xff")
    assert told(env_file_errors(path)) == [f".env cannot be read ({path}: not UTF-8 text)"]
    path.unlink()
    path.mkdir()
    assert told(env_file_errors(path)) == [f".env cannot be read ({path}: Is a directory)"]


# What only the Compose file reads


DIGEST = "sha256:" + "0a" * 32
IMAGES = {
    "good": [
        *("debian", "debian:bookworm-slim", f"debian@{DIGEST}", f"a/b:c@{DIGEST}", DIGEST),
        *("localhost:5000/a/b-c_d.e:V1.0_x", "ghcr.io/a/b__c:1", "Registry.example/a"),
    ],
    "bad": [
        *("-v", "a b", " a", "a ", "a:", ":a", "a/", "/a", "A", "a:b:c", "a$b", "a\n", "a@b"),
        *("https://registry.example/a", "a..b", f"debian{DIGEST}@", "\u00e4", "a:-b"),
    ],
}
TEXTS = {
    "COMPOSE_PROJECT_NAME": {
        "good": ["a", "0", "a-b_c", "dstack-vpn"],
        "bad": ["-a", "_a", "A", "a.b", "a b", " ", "a\n", "\u00e4"],
    },
    "COMPOSE_PROFILES": {
        "good": ["keeper", "local-chain,keeper", "a, b", "a,,b", ",", "a.b_C-1"],
        "bad": ["a b", "a;b", "a\n", "$a", "\u00e4"],
    },
    "BASE_IMAGE": IMAGES,
    "DSTACK_VPN_IMAGE": IMAGES,
    "NGINX_IMAGE": IMAGES,
    "CHAIN_IMAGE": IMAGES,
    "HEALTH_BIND": {
        "good": ["0.0.0.0", "127.0.0.1", "::", "::1", "fd00::1"],
        "bad": ["localhost", "127.0.0", "127.0.0.1:80", "[::1]", "fe80::1%eth0", " ::1", "1", "*"],
    },
    "NODE_A_MESH_ADDRESS": {
        "good": ["10.213.0.1", "[fd00::1]"],
        "bad": ["10.213.0.1/16", "fd00::1", "[10.213.0.1]", "[]", "node-a", "[fe80::1%x]"],
    },
    "IPV6_SYSCTL": {
        "good": ["net.ipv6.conf.all.disable_ipv6=0", "net.ipv4.conf.all.accept_source_route=0"],
        "bad": ["net", "net.ipv6", "net.ipv6=", "kernel.x=1", "net.ipv6=a", "net..a=1"],
    },
}  # fmt: skip
CASES = [(n, t, k == "good") for n, kinds in TEXTS.items() for k, ts in kinds.items() for t in ts]


@pytest.mark.parametrize(("name", "text", "good"), CASES)
def test_what_only_the_compose_file_reads(name: str, text: str, *, good: bool) -> None:
    """What Compose or the engine would stumble over is told by its variable."""
    errors = compose_variable_errors({name: text}, frozenset(), local=True)
    assert told(errors) == ([] if good else [f"{name} is {text[:60]!a}"])


def test_every_rule_is_tried() -> None:
    """An empty text is no text, and all that is wrong is told at once."""
    assert TEXTS.keys() == COMPOSE_RULES.keys()
    assert compose_variable_errors(dict.fromkeys(TEXTS, ""), frozenset(), local=True) == []
    all_wrong = compose_variable_errors(dict.fromkeys(TEXTS, " x"), frozenset(), local=True)
    assert len(all_wrong) == len(TEXTS) - 1  # spaces between profiles are as good as none


def test_the_socket_of_the_keeper(tmp_path: Path) -> None:
    """It has to be one, where there is a keeper and the engine is this machine's."""
    path = tmp_path / "s"
    values = {"DOCKER_SOCKET": str(path)}
    keeper = frozenset({"keeper"})
    wrong = [f"DOCKER_SOCKET is {str(path)[:60]!a}, which is no socket"]
    assert told(compose_variable_errors(values, keeper, local=True)) == wrong
    assert compose_variable_errors(values, keeper, local=False) == []
    assert compose_variable_errors(values, frozenset(), local=True) == []
    path.touch()
    assert told(compose_variable_errors(values, keeper, local=True)) == wrong
    path.unlink()
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(path))
        assert compose_variable_errors(values, keeper, local=True) == []
    for text in ("s", "/a:/b", f"unix://{path}"):
        (error,) = compose_variable_errors({"DOCKER_SOCKET": text}, keeper, local=True)
        assert "which a container cannot be given" in str(error)
    (error,) = compose_variable_errors({"DOCKER_SOCKET": "/" + "a" * 300}, keeper, local=True)
    assert "which cannot be looked at (File name too long)" in str(error)


# Ports


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({}, []),
        ({"NODE_A_HEALTH_PORT": "1", "NODE_B_HEALTH_PORT": "65535"}, []),
        ({"NODE_A_HEALTH_PORT": " 8090 "}, []),
        ({"NODE_A_HEALTH_PORT": "http"}, ["NODE_A_HEALTH_PORT is 'http'"]),
        ({"NODE_A_HEALTH_PORT": "0"}, ["NODE_A_HEALTH_PORT is '0'"]),
        ({"NODE_A_HEALTH_PORT": "65536"}, ["NODE_A_HEALTH_PORT is '65536'"]),
        ({"NODE_A_HEALTH_PORT": "-1"}, ["NODE_A_HEALTH_PORT is '-1'"]),
        ({"NODE_A_HEALTH_PORT": "\u0661"}, [r"NODE_A_HEALTH_PORT is '\u0661'"]),
        ({"NODE_A_HEALTH_PORT": "9" * 5000}, [f"NODE_A_HEALTH_PORT is '{'9' * 20}'"]),
        (
            {"NODE_A_HEALTH_PORT": "8081"},
            ["NODE_A_HEALTH_PORT and NODE_B_HEALTH_PORT are both 8081"],
        ),
        (
            {"NODE_A_HEALTH_PORT": "08545"},
            ["NODE_A_HEALTH_PORT and CHAIN_PORT are both 8545"],
        ),
        # UDP and TCP do not get into each other's way.
        ({"NODE_A_HEALTH_PORT": "51820"}, []),
        (
            {"NODE_A_WIREGUARD_PORT": "x", "NODE_B_WIREGUARD_PORT": "y", "CHAIN_PORT": "z"},
            ["NODE_A_WIREGUARD_PORT is 'x'", "NODE_B_WIREGUARD_PORT is 'y'", "CHAIN_PORT is 'z'"],
        ),
    ],
)
def test_ports(values: dict[str, str], wrong: list[str]) -> None:
    """Each port is one, and no two are the same."""
    assert told(port_errors(values, ALL)) == wrong


def test_ports_of_what_is_not_there() -> None:
    """Without the local chain nobody cares for its port."""
    values = {"CHAIN_PORT": "8080"}
    assert port_errors(values, ALL) != []
    assert port_errors(values, frozenset()) == []


@contextmanager
def taken(port: Port, host: str) -> Iterator[str]:
    """Take a port of the kind; its number."""
    with socket.socket(socket.AF_INET, port.kind) as taker:
        taker.bind((host, 0))
        if port.kind == socket.SOCK_STREAM:
            taker.listen()
        yield str(taker.getsockname()[1])


def free() -> dict[str, str]:
    """A free port for each variable."""
    found = {}
    for port in PORTS:
        with taken(port, "127.0.0.1") as text:
            found[port.variable] = text
    return found


@pytest.mark.parametrize("port", PORTS, ids=lambda p: p.variable)
@pytest.mark.parametrize("host", ["127.0.0.1", ""])
def test_ports_in_use(port: Port, host: str) -> None:
    """A port that another program has is named, with its kind."""
    with taken(port, host) as text:
        wrong = told(ports_in_use(free() | {port.variable: text}, ALL))
    kind = "UDP" if port.kind == socket.SOCK_DGRAM else "TCP"
    assert wrong == [f"{port.variable} is {text}, and that {kind} port is in use"]


@pytest.mark.parametrize("port", PORTS, ids=lambda p: p.variable)
def test_ports_in_use_at_another_address(port: Port) -> None:
    """A port is tried where the Compose file publishes it, and taken elsewhere it is free."""
    everywhere = port.kind == socket.SOCK_DGRAM
    with taken(port, "127.0.0.2") as text:
        values = free() | {port.variable: text}
        assert bool(ports_in_use(values, ALL)) == everywhere
        values["HEALTH_BIND"] = "127.0.0.2"
        assert bool(ports_in_use(values, ALL)) == (everywhere or "HEALTH" in port.variable)
        values["HEALTH_BIND"] = "0.0.0.0"
        assert bool(ports_in_use(values, ALL)) == (everywhere or "HEALTH" in port.variable)


def test_ports_in_use_with_ipv6() -> None:
    """The health ports may be published on an IPv6 address; what is none is another's to tell."""
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as taker:
        taker.bind(("::1", 0))
        taker.listen()
        values = free() | {"NODE_A_HEALTH_PORT": str(taker.getsockname()[1])}
        assert ports_in_use(values, ALL) == []
        assert len(ports_in_use(values | {"HEALTH_BIND": "::1"}, ALL)) == 1
        assert ports_in_use(values | {"HEALTH_BIND": "\0"}, ALL) == []


def test_ports_that_are_free() -> None:
    """What nobody has, or had a moment ago, is free."""
    values = free()
    assert ports_in_use(values, ALL) == []
    chain = next(port for port in PORTS if port.profile)
    with taken(chain, "127.0.0.1") as text:
        with socket.create_connection(("127.0.0.1", int(text))):
            pass
        assert ports_in_use(values | {chain.variable: text}, frozenset()) == []
    assert ports_in_use(values | {chain.variable: text}, ALL) == []


def test_tun(tmp_path: Path) -> None:
    """Without the device for tunnels there is none, and it is told how to get it."""
    assert tun_errors(tmp_path) == []
    assert told(tun_errors(tmp_path / "tun")) == [f"there is no {tmp_path}/tun on this machine"]
