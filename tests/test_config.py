"""Settings: from the environment, a file and options; wrong combinations; secrets never shown."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.config import (
    Settings,
    load_settings,
    provider_name,
    public_settings,
    read_env_file,
    voter_of,
)
from dstack_vpn.errors import SettingError, SettingsError
from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.mesh.membership import ContractKind, Tag
from dstack_vpn.variables import NETWORKS, VARIABLES, Network

LOCAL = {"NODE_ID": "db", "NETWORK": "hardhat"}
BASE = {"NODE_ID": "db", "NETWORK": "base", "CONTRACT_ADDRESS": "0x" + "1" * 40}
KEY = PrivateKey(b"private-key-of-this-test-32-byte").reveal()
TOKEN = "token-for-the-dashboard"
SECRET = "s3cr3t"
URLS = f"https://user:{SECRET}-password@a.example/v2/{SECRET}-path?key={SECRET}-query,https://b.example/{SECRET}"


def refusal(values: dict[str, str]) -> SettingError:
    """The error that these variables give."""
    with pytest.raises(SettingError) as caught:
        load_settings(values)
    return caught.value


def test_predecessor_names() -> None:
    """The predecessor's variables keep their names and units."""
    found = load_settings(
        LOCAL
        | {
            "CONTRACT_ADDRESS": "0x5FbDB2315678afecb367f032d93F642f64180aa3",
            "RPC_URL": "http://127.0.0.1:8545",
            "WIREGUARD_PRIVATE_KEY": KEY,
            "SYNC_INTERVAL": "1500",
            "LOG_LEVEL": "WARN",
            "HEALTH_CHECK_PORT": "9000",
        }
    )
    assert (found.node_id, found.network.chain_id, found.wireguard_key) == ("db", 31337, KEY)
    assert (found.sync_interval, found.log_level, found.health_port) == (1.5, "warn", 9000)
    assert found.contract == "0x5fbdb2315678afecb367f032d93f642f64180aa3"


def test_settings_are_frozen() -> None:
    """Nobody changes a setting after the start."""
    with pytest.raises(AttributeError):
        load_settings(LOCAL).mtu = 1280  # type: ignore[misc]


def test_paths_follow_the_state_directory() -> None:
    """The key and the wg-quick text stand in STATE_DIR unless they are put elsewhere."""
    found = load_settings(LOCAL | {"STATE_DIR": "/srv/vpn", "WG_INTERFACE": "mesh0"})
    assert found.wireguard_key_file == found.default_key_file == Path("/srv/vpn/wireguard.key")
    assert found.wireguard_conf == Path("/srv/vpn/mesh0.conf")
    elsewhere = load_settings(
        LOCAL | {"WG_CONFIG_FILE": "/etc/x.conf", "WIREGUARD_PRIVATE_KEY_FILE": "/run/key"}
    )
    assert elsewhere.wireguard_conf == Path("/etc/x.conf")
    assert elsewhere.wireguard_key_file == Path("/run/key")


@pytest.mark.parametrize("name", ["CONTRACT_ADDRESS", "RPC_URL"])
@pytest.mark.parametrize("network", ["base", "baseSepolia"])
def test_public_networks_have_no_defaults(name: str, network: str) -> None:
    """On a public network the contract and the providers must be named."""
    values = BASE | {"NETWORK": network, "RPC_URL": "https://a.example,https://b.example"}
    del values[name]
    error = refusal(values)
    assert error.setting == name
    assert f"there is no default on {network}" in str(error)


A, B, C = "https://a.example", "https://b.example", "https://c.example"
FIVE = ",".join(f"https://{name}.example" for name in "abcde")


@pytest.mark.parametrize(
    ("urls", "operators", "quorum", "wanted"),
    [
        (A, "", "", "RPC_URL"),
        (A, "", "1", 1),
        (A, "", "2", "QUORUM"),
        # More than half, so that no two camps can each decide, and never more than there are.
        (f"{A},{B}", "", "", 2),
        (f"{A},{B}", "", "2", 2),
        (f"{A},{B}", "", "1", "QUORUM"),
        (f"{A},{B}", "", "3", "QUORUM"),
        (f"{A},{B},{C}", "", "", 2),
        (f"{A},{B},{C}", "", "3", 3),
        (f"{A},{B},{C}", "", "1", "QUORUM"),
        (f"{A},{B},{C}", "", "4", "QUORUM"),
        (f"{A},{B},{C},https://d.example", "", "", 3),
        (f"{A},{B},{C},https://d.example", "", "2", "QUORUM"),
        (FIVE, "", "", 3),
        (FIVE, "", "4", 4),
        (FIVE, "", "2", "QUORUM"),
        # URLs of one host are one vote, however it is spelled.
        (f"{A},{A}", "", "", "RPC_URL"),
        (f"{A},{A}/other", "", "", "RPC_URL"),
        (f"{A},wss://a.example", "", "", "RPC_URL"),
        (f"{A},https://A.EXAMPLE:8545", "", "", "RPC_URL"),
        (f"{A},https://a.example.", "", "", "RPC_URL"),
        (f"{A},https://key@a.example", "", "", "RPC_URL"),
        (f"{A},wss://a.example", "", "2", "QUORUM"),
        (f"{A},wss://a.example,{B}", "", "2", 2),
        (f"{A},{A},{B},{C}", "", "", 2),
        # And so are the hosts of one operator.
        (f"{A},{B}", "a.example=one,b.example=one", "", "RPC_URL"),
        (f"{A},{B}", "a.example=one,b.example=One", "1", 1),
        (f"{A},{B}", "a.example=b.example", "", "RPC_URL"),
        (f"{A},{B},{C}", "a.example=one,b.example=one", "", 2),
        (f"{A},{B},{C}", "a.example=one,b.example=one", "3", "QUORUM"),
        (f"{A},{B},{C}", "a.example=one,b.example=two", "", 2),
        (f"{A},{B},{C}", "d.example=one", "", "RPC_OPERATORS"),
    ],
)
def test_quorum_on_base(urls: str, operators: str, quorum: str, wanted: int | str) -> None:
    """On a public network one stranger's word is not enough, unless QUORUM=1 says so."""
    values = BASE | {"RPC_URL": urls, "RPC_OPERATORS": operators, "QUORUM": quorum}
    if isinstance(wanted, str):
        assert refusal(values).setting == wanted
    else:
        found = load_settings(values)
        assert found.quorum == wanted
        assert found.trusts_one_provider == (quorum == "1")
        assert wanted > len(set(found.voters)) / 2


def test_a_quorum_of_few_is_explained() -> None:
    """The sentence says how many votes there are, and how many may be asked for."""
    error = refusal(BASE | {"RPC_URL": FIVE, "QUORUM": "2"})
    assert str(error) == (
        "QUORUM is 2, but RPC_URL has 5 vote(s), one for each host or operator, and more than half"
        " of them must agree; accepted: 3 to 5"
    )


def test_a_host_that_is_not_there_has_no_operator() -> None:
    """A mistyped host is named: otherwise one operator would keep two votes."""
    values = BASE | {"RPC_URL": f"{A},{B}", "RPC_OPERATORS": "a.example=x,b.exmaple=x"}
    assert str(refusal(values)).startswith("RPC_OPERATORS names 'b.exmaple', which is no host")


def test_operators_never_quote_a_url() -> None:
    """A URL where a host belongs is named by its place, for it may carry a key."""
    url = f"https://a.example/{SECRET}"
    error = refusal(LOCAL | {"RPC_URL": url, "RPC_OPERATORS": f"a.example=x,{url}=y"})
    assert str(error).startswith("RPC_OPERATORS has no host=operator at place 2")
    assert SECRET not in str(error)


@pytest.mark.parametrize(
    ("url", "voter"),
    [
        (A, "a.example"),
        ("wss://key@A.Example.:8546/path", "a.example"),
        ("https://b.example", "two"),
        ("http://[2001:DB8::1]:8545", "2001:db8::1"),
    ],
)
def test_voter(url: str, voter: str) -> None:
    """A provider's vote is that of its operator where one was declared, else of its host."""
    assert voter_of(url, {"b.example": "two"}) == voter


def test_kind_of_contract() -> None:
    """A contract that proves its history needs no start; of another it must be known on Base."""
    base = BASE | {"RPC_URL": f"{A},{B}"}
    published = {"CONTRACT_KIND": "published"}
    found = load_settings(base)
    assert (found.contract_kind, found.start_block) == (ContractKind.CHECKPOINT, None)
    found = load_settings(base | published | {"START_BLOCK": "0"})
    assert (found.contract_kind, found.start_block) == (ContractKind.PUBLISHED, 0)
    assert load_settings(LOCAL | published).start_block == 0
    assert load_settings(LOCAL | published | {"START_BLOCK": "7"}).start_block == 7
    for values in (LOCAL, base):
        assert str(refusal(values | {"START_BLOCK": "7"})).startswith(
            "START_BLOCK is set, but CONTRACT_KIND is checkpoint, which needs none; accepted: "
        )
    error = refusal(base | published)
    assert str(error).startswith("START_BLOCK is missing, and CONTRACT_KIND is published")


@pytest.mark.parametrize("network", NETWORKS.values(), ids=lambda n: n.name)
def test_only_a_chain_with_regular_blocks_halts(network: Network) -> None:
    """HALT_CLOSE_AFTER has no effect where blocks come only when somebody writes."""
    values = BASE | {"NETWORK": network.name, "RPC_URL": f"{A},{B}", "HALT_CLOSE_AFTER": "14400"}
    assert load_settings(values).halt_close_after == (14_400 if network.block_time else 0)
    del values["HALT_CLOSE_AFTER"]
    assert load_settings(values).halt_close_after == 0


def test_polls_come_twice_before_it_is_dark() -> None:
    """One that fails makes nothing dark; both settings are named, whichever was set."""
    assert load_settings(LOCAL | {"POLL_INTERVAL": "30"}).poll_interval == 30
    for values in ({"POLL_INTERVAL": "30.5"}, {"POLL_INTERVAL": "5", "DARK_AFTER": "9"}):
        error = refusal(LOCAL | values)
        assert error.setting == "POLL_INTERVAL"
        assert "DARK_AFTER is" in str(error)
        assert "accepted: at most half of DARK_AFTER" in str(error)
    base = BASE | {"RPC_URL": f"{A},{B}"}
    assert load_settings(base | {"DARK_AFTER": "4"}).dark_after == 4
    assert str(refusal(base | {"DARK_AFTER": "3"})).startswith("POLL_INTERVAL")


def test_confirmations_are_a_number_or_a_tag() -> None:
    """Blocks on top of an admission, or what its block must be called."""
    assert load_settings(LOCAL | {"CONFIRMATIONS": "7"}).confirmations == 7
    assert load_settings(LOCAL | {"CONFIRMATIONS": "safe"}).confirmations is Tag.SAFE


def test_one_provider_on_a_local_chain() -> None:
    """A local chain has one provider, and that is no trust in a stranger."""
    assert not load_settings(LOCAL).trusts_one_provider
    assert not load_settings(LOCAL | {"QUORUM": "1"}).trusts_one_provider
    assert load_settings(LOCAL).quorum == 1


@pytest.mark.parametrize(
    ("values", "settings"),
    [
        # What needs nothing else is judged by itself, what needs others as soon as they are right.
        ({"NETWORK": "base"}, ["NODE_ID", "CONTRACT_ADDRESS", "RPC_URL"]),
        ({**LOCAL, "MTU": "1", "NODE_ID": "Upper"}, ["NODE_ID", "MTU"]),
        ({**BASE, "MTU": "1", "RPC_URL": A, "QUORUM": "2"}, ["MTU", "QUORUM"]),
        ({**BASE, "MTU": "1", "RPC_URL": A}, ["MTU", "RPC_URL"]),
        ({**BASE, "CONTRACT_ADDRESS": "", "RPC_URL": A}, ["CONTRACT_ADDRESS", "RPC_URL"]),
        # What rests on something wrong is not guessed at: only that is told.
        ({**BASE, "RPC_URL": "ftp://x", "QUORUM": "2", "MTU": "1"}, ["RPC_URL", "MTU"]),
        ({**BASE, "RPC_URL": A, "QUORUM": "many", "MTU": "1"}, ["QUORUM", "MTU"]),
        ({**BASE, "RPC_URL": A, "RPC_OPERATORS": "b=x", "MTU": "1"}, ["MTU", "RPC_OPERATORS"]),
        ({"NETWORK": "mainnet"}, ["NODE_ID", "NETWORK"]),
        (
            {**LOCAL, "WIREGUARD_PRIVATE_KEY": KEY, "WIREGUARD_PRIVATE_KEY_FILE": "/k", "MTU": "1"},
            ["MTU", "WIREGUARD_PRIVATE_KEY_FILE"],
        ),
    ],
)
def test_all_that_is_wrong_is_told_at_once(values: dict[str, str], settings: list[str]) -> None:
    """Each wrong setting has its own sentence, the one that it would have alone."""
    with pytest.raises(SettingsError) as caught:
        load_settings(values)
    errors = [error for error in caught.value.errors if isinstance(error, SettingError)]
    assert [error.setting for error in errors] == settings
    told = [str(error) for error in errors]
    assert str(caught.value).splitlines() == list(caught.value.sentences) == told
    assert not [sentence for sentence in told if "; accepted: " not in sentence]


@pytest.mark.parametrize("network", NETWORKS.values(), ids=lambda n: n.name)
def test_only_a_local_chain_is_waited_for(network: Network) -> None:
    """CONTRACT_WAIT has no effect on a public network: there it is a mistake, not a beginning."""
    values = BASE | {"NETWORK": network.name, "RPC_URL": A, "QUORUM": "1", "CONTRACT_WAIT": "60"}
    assert load_settings(values).contract_wait == (0 if network.public else 60)
    del values["CONTRACT_WAIT"]
    assert load_settings(values).contract_wait == 0


def test_two_keys() -> None:
    """A key and a file with a key contradict each other."""
    values = {"WIREGUARD_PRIVATE_KEY": KEY, "WIREGUARD_PRIVATE_KEY_FILE": "/run/key"}
    error = refusal(LOCAL | values)
    assert error.setting == "WIREGUARD_PRIVATE_KEY_FILE"
    assert KEY not in str(error)


def test_node_id_for_commands_that_only_read() -> None:
    """A command that reads the chain needs no NODE_ID, but a malformed one is still an error."""
    assert load_settings({"NETWORK": "hardhat"}, need_node_id=False).node_id == ""
    assert load_settings(LOCAL, need_node_id=False).node_id == "db"
    with pytest.raises(SettingError):
        load_settings(LOCAL | {"NODE_ID": "Upper"}, need_node_id=False)


def with_secrets() -> Settings:
    """Settings in which everything secret is set."""
    return load_settings(
        LOCAL | {"RPC_URL": URLS, "WIREGUARD_PRIVATE_KEY": KEY, "API_TOKEN": TOKEN}
    )


def test_repr_holds_no_secret() -> None:
    """Settings in a traceback or a log show no key, no token and no URL."""
    shown = repr(with_secrets())
    assert "node_id='db'" in shown
    assert not [s for s in (KEY, TOKEN, SECRET, "a.example") if s in shown]


def test_config_page_holds_no_secret() -> None:
    """/config names each setting; of the secret ones it says only whether they are set."""
    shown = public_settings(with_secrets())
    assert not [s for s in (KEY, TOKEN, SECRET) if s in repr(shown)]
    assert set(shown) == {v.name for v in VARIABLES} | {"WIREGUARD_PRIVATE_KEY_FILE"}
    assert shown["RPC_URL"] == ["a.example#1", "b.example#2"]
    assert (shown["API_TOKEN"], shown["WIREGUARD_PRIVATE_KEY"]) == ("[set]", "[set]")
    plain = public_settings(load_settings(LOCAL))
    assert (plain["API_TOKEN"], plain["WIREGUARD_PRIVATE_KEY"]) == (None, None)
    assert (plain["SYNC_INTERVAL"], plain["NETWORK"]) == (30_000, "hardhat")
    assert (plain["QUORUM"], plain["CONFIRMATIONS"], plain["CONTRACT_KIND"]) == (
        1,
        0,
        "checkpoint",
    )


def test_config_page_is_plain_data() -> None:
    """What /config shows is JSON, and operators stand in it by host."""
    values = {"RPC_URL": URLS, "RPC_OPERATORS": "a.example=x", "CONFIRMATIONS": "finalized"}
    shown = public_settings(
        load_settings(LOCAL | values | {"CONTRACT_KIND": "published", "START_BLOCK": "7"})
    )
    assert json.loads(json.dumps(shown)) == shown
    assert (shown["RPC_OPERATORS"], shown["CONFIRMATIONS"]) == ({"a.example": "x"}, "finalized")
    assert (shown["CONTRACT_KIND"], shown["START_BLOCK"]) == ("published", 7)


@pytest.mark.parametrize(
    "url",
    [
        f"ftp://user:{SECRET}@a.example/{SECRET}",
        f"https://{SECRET}@/",
        f"http://a.example:{SECRET}/",
        f"{SECRET}",
        f"https://[{SECRET}/",
        f"https://a.example,{SECRET}",
    ],
)
def test_errors_never_quote_a_url(url: str) -> None:
    """A malformed URL is named by its place only, for it may carry a key."""
    error = refusal(LOCAL | {"RPC_URL": url})
    assert "has no usable URL at place " in str(error)
    assert SECRET not in str(error)


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30))
def test_secrets_of_any_text_stay_secret(secret: str) -> None:
    """Whatever the token is, the settings show that there is one and never what it is."""
    found = load_settings(LOCAL | {"API_TOKEN": f"<{secret}>"})
    assert found.api_token == f"<{secret}>"
    assert f"<{secret}>" not in repr(found)
    assert f"<{secret}>" not in repr(public_settings(found))


@pytest.mark.parametrize(
    ("name", "text"), [("RPC_URL", f"{A},{B}"), ("API_TOKEN", TOKEN), ("API_TOKEN", "a b")]
)
def test_secret_files(tmp_path: Path, name: str, text: str) -> None:
    """A secret may stand in the file that NAME_FILE names, as Docker hands secrets out."""
    path = tmp_path / "secret"
    path.write_text(f"{text}\n")
    from_file = load_settings(LOCAL | {f"{name}_FILE": str(path)})
    plain = load_settings(LOCAL | {name: text})
    assert from_file == replace(plain, plain_secrets=())


def test_plain_secrets_are_known_by_name(tmp_path: Path) -> None:
    """A secret in a variable is told apart from one in a file, or in a program's own call."""
    key, path = {"WIREGUARD_PRIVATE_KEY": KEY}, tmp_path / "env"
    path.write_text(f"API_TOKEN={TOKEN}\nCONTRACT_PRIVATE_KEY={SECRET}\nRPC_URL={URLS}\n")
    found = load_settings(LOCAL | key, path)
    assert found.plain_secrets == ("WIREGUARD_PRIVATE_KEY", "API_TOKEN", "CONTRACT_PRIVATE_KEY")
    assert not [s for s in (KEY, TOKEN, SECRET) if s in repr(found)]
    assert load_settings(LOCAL | key, overrides=key).plain_secrets == ()
    secret = tmp_path / "secret"
    secret.write_text(TOKEN)
    files = {"API_TOKEN_FILE": str(secret), "WIREGUARD_PRIVATE_KEY_FILE": "/run/key"}
    blank = {"API_TOKEN": " ", "CONTRACT_PRIVATE_KEY": ""}
    assert load_settings(LOCAL | files | blank).plain_secrets == ()


@pytest.mark.parametrize("name", ["RPC_URL", "API_TOKEN"])
def test_secret_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    """A missing, binary or empty secret is an error, never "no secret"."""
    binary, empty = tmp_path / "binary", tmp_path / "empty"
    binary.write_bytes(b"\xff\xfe\x00")
    empty.write_text("\n")
    for path in (tmp_path / "missing", tmp_path, binary, empty):
        error = refusal(LOCAL | {f"{name}_FILE": str(path)})
        assert error.setting == f"{name}_FILE"
        assert str(path) in str(error)


@pytest.mark.parametrize("value", [TOKEN, f"https://a.example/{SECRET}", "a" * 999, "a\0b"])
@pytest.mark.parametrize("name", ["RPC_URL_FILE", "API_TOKEN_FILE"])
def test_secret_in_place_of_its_path(name: str, value: str) -> None:
    """A secret that was put where its path belongs is not quoted."""
    error = refusal(LOCAL | {name: value})
    assert error.setting == name
    assert value not in str(error)


def test_env_file(tmp_path: Path) -> None:
    """The file holds NAME=value lines as Docker and shells write them."""
    path = tmp_path / "env"
    path.write_text(
        "# a comment\n\nNODE_ID=db\n  export NETWORK = hardhat \nAPI_TOKEN='a b#c'\n"
        'LOG_LEVEL="debug"\nMTU=\nENDPOINTS=a=192.0.2.1:1\r\nAPI=\'\n'
    )
    assert read_env_file(path) == {
        "NODE_ID": "db",
        "NETWORK": "hardhat",
        "API_TOKEN": "a b#c",
        "LOG_LEVEL": "debug",
        "MTU": "",
        "ENDPOINTS": "a=192.0.2.1:1",
        "API": "'",
    }


def test_precedence(tmp_path: Path) -> None:
    """Options come before the environment, and the environment before the file."""
    path = tmp_path / "env"
    path.write_text("NODE_ID=file\nNETWORK=hardhat\nMTU=1300\nLISTEN_PORT=1\n")
    found = load_settings(
        {"NODE_ID": "environment", "MTU": "1400"}, path, overrides={"MTU": "1500"}
    )
    assert (found.node_id, found.mtu, found.listen_port) == ("environment", 1500, 1)


@pytest.mark.parametrize("line", [f"{SECRET}", f"1A={SECRET}", f"={SECRET}", f"A B={SECRET}"])
def test_env_file_with_a_bad_line(tmp_path: Path, line: str) -> None:
    """A line that is no NAME=value is named by its number and not quoted."""
    path = tmp_path / "env"
    path.write_text(f"NODE_ID=db\n{line}\n")
    with pytest.raises(SettingError, match="line 2 of") as caught:
        load_settings({}, path)
    assert caught.value.setting == "--env-file"
    assert SECRET not in str(caught.value)


def test_env_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a directory and binary data are errors of the user."""
    binary = tmp_path / "binary"
    binary.write_bytes(b"A=\xff\n")
    for path in (tmp_path / "missing", tmp_path, binary, Path("a\0b")):
        with pytest.raises(SettingError, match="--env-file cannot be read"):
            load_settings({}, path)


def test_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without being handed an environment, the process's own is read."""
    monkeypatch.setenv("NODE_ID", "from-the-process")
    monkeypatch.setenv("NETWORK", "hardhat")
    assert load_settings().node_id == "from-the-process"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        (f"https://user:{SECRET}@a.example:8545/v2/{SECRET}?k={SECRET}#{SECRET}", "a.example#1"),
        ("wss://A.Example/ws", "a.example#1"),
        ("http://[2001:db8::1]:8545", "2001:db8::1#1"),
    ],
)
def test_provider_name(url: str, name: str) -> None:
    """A provider is called by host and number, without userinfo, path or query."""
    assert provider_name(url, 1) == name
