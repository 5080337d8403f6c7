"""The table of variables: every one refuses what it does not accept, in a sentence."""

from collections.abc import Mapping

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dstack_vpn.config import Settings, load_settings
from dstack_vpn.errors import SettingError, SettingsError
from dstack_vpn.mesh.membership import ContractKind, Tag
from dstack_vpn.variables import NETWORKS, VARIABLES, Variable

GOOD = {"NODE_ID": "db", "NETWORK": "hardhat"}

ANYTHING = "every text is accepted"

BAD: Mapping[str, list[str] | str] = {
    "NODE_ID": ["Upper", "a.b", "-a", "a" * 64, "\u0430", "a b"],
    "NETWORK": ["mainnet", "BASE", "8453"],
    "CONTRACT_ADDRESS": ["0x12", "5fbdb2315678afecb367f032d93f642f64180aa3", "0x" + "g" * 40],
    "CONTRACT_KIND": ["ours", "erc721", "checkpoint,published"],
    "START_BLOCK": ["-1", "latest", "0x10", str(2**53 + 1), "5"],
    "RPC_URL": ["rpc.example", "ftp://rpc.example", "https://", "http://[::1", "http://a:99999"],
    "RPC_OPERATORS": [
        "a.example",
        "127.0.0.1=",
        "127.0.0.1=a b",
        "https://a.example/key=infura",
        "127.0.0.1=a,127.0.0.1=b",
        "b.example=infura",
        "127.0.0.1:8545=local",
    ],
    "QUORUM": ["0", "-1", "1.5", "all", "2", "\uff11"],
    "CONFIRMATIONS": ["-1", "10001", "five", "1_0", "9" * 5000, "latest", "safe,finalized"],
    "POLL_INTERVAL": ["0", "nan", "inf", "1e3", "1_0", "\uff11", "-1", "3601"],
    "SYNC_INTERVAL": ["99", "30s", "86400001", "1.5"],
    "DARK_AFTER": ["0", "86401", "soon"],
    "DARK_CLOSE_AFTER": ["-1", "31536001", "never", "close"],
    "HALT_CLOSE_AFTER": ["-1", "31536001", "never", "close"],
    "CONTRACT_WAIT": ["-1", "86401", "a minute"],
    "WIREGUARD_PRIVATE_KEY": ANYTHING,  # `identity` reads it; test_identity has what it refuses
    "WG_INTERFACE": ["sixteen-letters-", "wg/0", "..", ".wg", "-wg", "wg 0", "wg\u00e9"],
    "LISTEN_PORT": ["0", "65536", "+1", "port"],
    "WIREGUARD_BACKEND": ["boringtun", "kernel,userspace"],
    "MTU": ["1279", "65536", "automatic"],
    "KEEPALIVE": ["-1", "65536", "off"],
    "FORWARDING": ["yes", "1", "true"],
    "IPV4_RANGE": ["10.213.0.1/16", "10.0.0.0/7", "10.0.0.0/30", "fd00::/48", "x" * 1000],
    "ENDPOINTS": ["db", "db=", "Upper=192.0.2.1:1", "db=127.0.0.1:1", "db=192.0.2.1"],
    "ENDPOINT_TEMPLATE": ["db:51820", "{node_id}", "{node_id}:0", "{node_id}/:1"],
    "WG_CONFIG_FILE": ["/tmp/\0"],
    "CONFIG_BACKUPS": ["-1", "1001", "all"],
    "STATE_DIR": ["/tmp/\0"],
    "HEALTH_CHECK_HOST": ["localhost", "127.0.0.1:8080", "*"],
    "HEALTH_CHECK_PORT": ["-1", "65536", "http"],
    "API_TOKEN": ANYTHING,
    "LOG_LEVEL": ["trace", "warning", "7"],
    "LOG_FORMAT": ["text", "yaml"],
}
"""A new variable must be listed here, with what it refuses."""

CASES = [(v, text) for v in VARIABLES for text in BAD.get(v.name, []) if BAD[v.name] != ANYTHING]


def load(**values: str) -> Settings:
    """The settings of these variables alone, on a local chain."""
    return load_settings(GOOD | values)


def test_every_variable_has_bad_examples() -> None:
    """No variable goes untested: the examples are about the very variables that there are."""
    assert set(BAD) == {v.name for v in VARIABLES}


@pytest.mark.parametrize(("variable", "text"), CASES, ids=[f"{v.name}-{t[:9]!a}" for v, t in CASES])
def test_malformed(variable: Variable, text: str) -> None:
    """A malformed value is an error that names the variable and what is accepted."""
    with pytest.raises(SettingError) as caught:
        load(**{variable.name: text})
    assert caught.value.setting == variable.name
    told = str(caught.value)
    assert told.startswith(f"{variable.name} ")
    assert "; accepted: " in told
    assert told.isprintable()
    assert len(told) < 500


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda v: v.name)
def test_missing(variable: Variable) -> None:
    """What is absent or blank takes its default; only a mandatory one is an error."""
    values = {k: v for k, v in GOOD.items() if k != variable.name}
    if variable.name == "NETWORK":
        values |= {"CONTRACT_ADDRESS": "0x" + "1" * 40, "RPC_URL": "http://a,http://b"}
    if variable.default is not None:
        absent, blank = load_settings(values), load_settings(values | {variable.name: "  "})
        assert absent == blank
        return
    with pytest.raises(SettingError) as caught:
        load_settings(values)
    assert str(caught.value) == f"{variable.name} is missing; accepted: {variable.accepted}"


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda v: v.name)
def test_words_for_the_docs(variable: Variable) -> None:
    """Each variable says what it means and what is accepted, and is called once."""
    assert variable.meaning.endswith(".")
    assert variable.accepted
    assert not variable.accepted.endswith(".")
    assert [v.name for v in VARIABLES].count(variable.name) == 1
    assert [v.field for v in VARIABLES].count(variable.field) == 1


def test_defaults() -> None:
    """The defaults that the design states."""
    found = load()
    assert (found.dark_after, found.dark_close_after, found.sync_interval) == (60, 86_400, 30)
    assert (found.interface, found.listen_port, str(found.ipv4_range)) == (
        "wg0",
        51820,
        "10.213.0.0/16",
    )
    assert (found.confirmations, found.poll_interval, found.quorum) == (0, 0.25, 1)
    assert (found.contract_kind, found.start_block, found.halt_close_after) == (
        ContractKind.CHECKPOINT,
        None,
        0,
    )
    assert found.rpc_operators == {}
    assert (found.health_host, found.health_port, found.log_level) == ("127.0.0.1", 8080, "info")
    assert found.rpc_urls == ("http://127.0.0.1:8545",)
    assert found.contract == "0x5fbdb2315678afecb367f032d93f642f64180aa3"


def test_networks() -> None:
    """The predecessor's three networks, with its chain ids; the public ones wait for 5 blocks."""
    assert {n.name: n.chain_id for n in NETWORKS.values()} == {
        "hardhat": 31337,
        "base": 8453,
        "baseSepolia": 84532,
    }
    assert {n.confirmations for n in NETWORKS.values() if n.public} == {5}
    assert [n.name for n in NETWORKS.values() if not n.public] == ["hardhat"]


def test_endpoints() -> None:
    """Endpoints of peers are read by node id, checked like any endpoint, and cannot be altered."""
    found = load(ENDPOINTS="db=192.0.2.1:1, web=web.example:2,").endpoints
    assert {k: str(v) for k, v in found.items()} == {"db": "192.0.2.1:1", "web": "web.example:2"}
    with pytest.raises(TypeError):
        found["x"] = found["db"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("0", 0), ("64", 64), ("10000", 10_000), ("safe", Tag.SAFE), ("Finalized", Tag.FINALIZED)],
)
def test_confirmations(text: str, wanted: int | Tag) -> None:
    """How deep an admission must be is a number of blocks or a tag; one of each is no other."""
    found = load(CONFIRMATIONS=text).confirmations
    assert (found, type(found)) == (wanted, type(wanted))


@pytest.mark.parametrize("name", ["DARK_CLOSE_AFTER", "HALT_CLOSE_AFTER"])
@pytest.mark.parametrize(
    ("text", "seconds"),
    [("hold", 0), ("HOLD", 0), ("0", 0), ("900", 900), ("0.5", 0.5), ("31536000", 31_536_000)],
)
def test_policies(name: str, text: str, seconds: float) -> None:
    """After how long peers are removed: seconds, or hold for never."""
    (variable,) = (v for v in VARIABLES if v.name == name)
    assert variable.parse(text) == seconds


def test_operators() -> None:
    """Operators are read by host, whatever the spelling, and cannot be altered."""
    urls = "https://A.example/key,http://[2001:db8::1]:8545,wss://b.example."
    text = "a.EXAMPLE.=One, [2001:db8::1] = two ,b.example=ONE,b.example=one,"
    found = load(RPC_URL=urls, RPC_OPERATORS=text)
    assert found.rpc_operators == {"a.example": "one", "2001:db8::1": "two", "b.example": "one"}
    assert found.voters == ("one", "two", "one")
    with pytest.raises(TypeError):
        found.rpc_operators["x"] = "one"  # type: ignore[index]


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=80)


@settings(max_examples=300)
@given(st.sampled_from(VARIABLES), texts | st.from_regex(r"[0-9.:/=,{}a-z\[\]-]{1,40}"))
@example(next(v for v in VARIABLES if v.name == "RPC_URL"), "http://a\u2100b")
@example(next(v for v in VARIABLES if v.name == "RPC_URL"), "http://[v1.x]/")
@example(next(v for v in VARIABLES if v.name == "NETWORK"), "base")
@example(next(v for v in VARIABLES if v.name == "NETWORK"), "\U00010000" * 60)
def test_any_text_is_a_setting_or_a_setting_error(variable: Variable, text: str) -> None:
    """Whatever stands in a variable: settings, or sentences that are short and safe to print."""
    told: tuple[str, ...] = ()
    try:
        load(**{variable.name: text})
    except (SettingError, SettingsError) as error:
        told = error.sentences
    assert all(sentence.isprintable() and len(sentence) < 500 for sentence in told)
