"""`deploy keys` and `deploy local-network`: the one-shot services of the Compose file."""

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.command import SCRIPT, Ended, refused, run_here
from cli.devnet import ACCOUNTS, KEYS, Devnet, devnet
from dstack_vpn.mesh.keys import PrivateKey
from dstack_vpn.variables import NETWORKS

CONTRACT = NETWORKS["hardhat"].contract


def key_in(directory: Path) -> str:
    """The public half of the key in a state directory."""
    return PrivateKey.parse((directory / "wireguard.key").read_text().strip()).public.text


# Keys


def test_keys_are_made_once(tmp_path: Path) -> None:
    """Each node has its own, private to it; what is there is never replaced."""
    words = ("deploy", "keys", f"node-a={tmp_path}/a", f"node-b={tmp_path}/new/b")
    first = run_here(*words, "--json").json()
    assert first == {"node-a": key_in(tmp_path / "a"), "node-b": key_in(tmp_path / "new/b")}
    assert first["node-a"] != first["node-b"]
    assert stat.S_IMODE((tmp_path / "a/wireguard.key").stat().st_mode) == 0o600
    assert run_here(*words).out == "".join(f"{node} {key}\n" for node, key in first.items())


def test_private_halves_are_not_told(tmp_path: Path) -> None:
    """They stay in the files."""
    ended = run_here("deploy", "keys", f"node-a={tmp_path}")
    assert (tmp_path / "wireguard.key").read_text().strip() not in ended.out + ended.err


@pytest.mark.parametrize("there", [False, True])
def test_a_state_directory_is_private(tmp_path: Path, *, there: bool) -> None:
    """A volume that is mounted here first, 0755, gets the mode that a node would give it."""
    state = tmp_path / "state"
    if there:
        assert run_here("deploy", "keys", f"node-a={state}").code == 0
    else:
        state.mkdir()
    state.chmod(0o755)
    assert run_here("deploy", "keys", f"node-a={state}").code == 0
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


def test_a_state_directory_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its mode cannot be changed, that is told in one sentence."""
    state = tmp_path / "state"
    state.mkdir(0o755)

    def deny(_path: Path, _mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", deny)
    told = f"{state} cannot be given mode 0700: Operation not permitted"
    refused(run_here("deploy", "keys", f"node-a={state}"), told)


# The streams of the command


CLOSED = ["<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"]


def by_shell(line: str, **env: str) -> Ended:
    """Run the real command as a shell does."""
    ended = subprocess.run(
        ["/bin/sh", "-c", line],
        env={"PATH": f"{SCRIPT.parent}:{os.environ['PATH']}", **env},
        capture_output=True,
        timeout=60,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout.decode("latin-1"), ended.stderr.decode("latin-1"))


@pytest.mark.parametrize("closed", CLOSED)
def test_closed_streams(tmp_path: Path, closed: str) -> None:
    """A caller that closed a stream misses what would stand there, and nothing else happens."""
    ended = by_shell(f"dstack-vpn deploy keys node-a={tmp_path}/state {closed}")
    line = f"node-a {key_in(tmp_path / 'state')}\n"
    assert ended == Ended(0, "" if ">&-" in closed.split() else line, "")


@pytest.mark.parametrize("closed", CLOSED)
def test_mistakes_with_closed_streams(closed: str) -> None:
    """A mistake is told as far as somebody listens, and the exit code is that of a mistake."""
    for command in ("deploy keys node-a", "keys public", "no-such-command"):
        ended = by_shell(f"dstack-vpn {command} </dev/null {closed}")
        assert (ended.code, ended.out) == (2, "")
        assert len(ended.err.splitlines()) == (0 if "2>&-" in closed else 1), ended.err


@pytest.mark.parametrize("encoding", ["latin-1", "iso8859-2"])
def test_a_terminal_that_cannot_show_everything(encoding: str) -> None:
    """What its encoding lacks is shown by number."""
    ended = by_shell("dstack-vpn --help", PYTHONIOENCODING=encoding)
    assert (ended.code, ended.err) == (0, "")
    assert r"--to 0x7099\u2026" in ended.out


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("node-a", "NODE_ID=DIR is 'node-a'; accepted: a node id, =, and an absolute path"),
        ("node-a=", "NODE_ID=DIR is"),
        ("node-a=relative", "NODE_ID=DIR is"),
        ("Upper={}", "NODE_ID=DIR is not a DNS label"),
        ("={}", "NODE_ID=DIR is not a DNS label"),
        ("node-a=/proc/none", "/proc/none/wireguard.key cannot be written"),
        ("node-a={}/file", "/file/wireguard.key: Not a directory"),
        ("node-a={}/loose", "chmod 600"),
        ("node-a={}/garbage", "holds no WireGuard private key"),
    ],
)
def test_mistakes_with_keys(tmp_path: Path, text: str, told: str) -> None:
    """Each is one sentence."""
    (tmp_path / "file").touch()
    for name, mode, content in (("loose", 0o644, "x"), ("garbage", 0o600, "x")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "wireguard.key").touch(mode)
        (tmp_path / name / "wireguard.key").write_text(content)
    refused(run_here("deploy", "keys", text.format(tmp_path)), told)


# The local network


@pytest.fixture
def chain() -> Iterator[Devnet]:
    """A chain that nobody has used."""
    with devnet() as running:
        yield running


class Network:
    """The command on a chain, with two nodes."""

    def __init__(self, directory: Path) -> None:
        self.directories = {name: directory / name for name in ("node-a", "node-b")}

    def __call__(self, *words: str) -> Ended:
        """Run `dstack-vpn deploy local-network`."""
        nodes = [f"{name}={directory}" for name, directory in self.directories.items()]
        return run_here("deploy", "local-network", *nodes, "--timeout", "20", *words)

    def done(self) -> dict[str, str]:
        """What it does, by node."""
        told = self("--json").json()
        keys = {node["nodeId"]: node["publicKey"] for node in told["nodes"]}
        assert keys == {name: key_in(d) for name, d in self.directories.items()}
        assert told["contract"] == CONTRACT
        return {node["nodeId"]: node["done"] for node in told["nodes"]}


@pytest.fixture
def network(chain: Devnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Network:
    """The settings of the service `init`."""
    owner = tmp_path / "owner.key"
    owner.touch(0o600)
    owner.write_text(f"{KEYS[0]}\n")
    settings = {"NETWORK": "hardhat", "RPC_URL": chain.url, "CONTRACT_ADDRESS": ""}
    for name, value in (settings | {"CONTRACT_PRIVATE_KEY_FILE": str(owner)}).items():
        monkeypatch.setenv(name, value)
    return Network(tmp_path)


def verdicts() -> dict[str, str]:
    """The verdict on every node of the list."""
    return {
        row["nodeId"]: row["verdict"] for row in run_here("node", "list", "--json").json()["nodes"]
    }


def test_a_network_from_nothing(chain: Devnet, network: Network) -> None:
    """Keys, contract and tokens are made as far as they lack; once more, nothing is done."""
    assert network.done() == {"node-a": "registered", "node-b": "registered"}
    assert verdicts() == {"node-a": "ACCESS_GRANTED", "node-b": "ACCESS_GRANTED"}
    height = chain.rpc("eth_blockNumber")
    assert network.done() == {"node-a": "is registered", "node-b": "is registered"}
    assert chain.rpc("eth_blockNumber") == height
    first, *others = network().out.splitlines()
    assert first == f"the contract is {CONTRACT}"
    assert [line.split(": ")[1] for line in others] == ["is registered"] * 2


def test_what_changed_meanwhile(network: Network) -> None:
    """A new key is put on the token; a node that was revoked stays out."""
    network.done()
    (network.directories["node-a"] / "wireguard.key").unlink()
    assert run_here("node", "revoke", "node-b").code == 0
    assert network.done() == {"node-a": "has a new key", "node-b": "is revoked, and stays so"}
    assert verdicts() == {"node-a": "ACCESS_GRANTED", "node-b": "REVOKED"}
    assert network.done() == {"node-a": "is registered", "node-b": "is revoked, and stays so"}


def test_a_network_that_was_half_made(network: Network) -> None:
    """It goes on where it was cut off."""
    assert run_here("contract", "deploy").code == 0
    key = PrivateKey.generate().public.text
    assert run_here("node", "register", "node-b", "--to", ACCOUNTS[0], "--key", key).code == 0
    assert network.done() == {"node-a": "registered", "node-b": "has a new key"}


def test_an_owner_whose_account_was_used(chain: Devnet, network: Network) -> None:
    """The contract is where nobody looks for it, which is told with its address."""
    transfer = {"from": ACCOUNTS[0], "to": ACCOUNTS[1], "value": "0x1"}
    chain.rpc("eth_sendTransaction", transfer)
    ended = network()
    assert (ended.code, ended.out) == (2, "")
    told = ended.err.splitlines()[-1]
    assert told.startswith("dstack-vpn: the contract was made at 0x")
    assert f"not at {CONTRACT}" in told
    assert "; accepted: CONTRACT_ADDRESS with that address, or a chain that begins anew" in told


def test_only_a_local_chain(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a public one the owner admits nodes himself."""
    monkeypatch.setenv("NETWORK", "baseSepolia")
    monkeypatch.setenv("CONTRACT_ADDRESS", CONTRACT)
    monkeypatch.setenv("QUORUM", "1")
    refused(network(), "NETWORK is baseSepolia; accepted: hardhat")


def test_a_chain_that_does_not_come(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for, as long as was said."""
    monkeypatch.setenv("RPC_URL", "http://127.0.0.1:1")
    refused(network("--timeout", "1"), "127.0.0.1#1", code=1)


def test_without_the_owners_key(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for, and no key is made."""
    monkeypatch.delenv("CONTRACT_PRIVATE_KEY_FILE")
    refused(network(), "CONTRACT_PRIVATE_KEY is missing")
    assert not network.directories["node-a"].exists()
