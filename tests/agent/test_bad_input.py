"""Mistakes of the user: one sentence on standard error, exit code 2, and nothing changed."""

import os
from dataclasses import dataclass

import pytest

from agent.mesh import Mesh
from agent.test_recovery import interfaces
from cli.command import SCRIPT
from lab.agent import INSIDE, Agent
from lab.chain import Chain
from lab.nft import AccessNFT
from lab.process import Finished
from lab.waiting import until


async def refused(agent: Agent) -> str:
    """Start a node that must refuse; its sentence."""
    before = await interfaces(agent)
    await agent.start()
    code = await agent.wait()
    told = [line for line in agent.running.output.splitlines() if line.startswith("dstack-vpn: ")]
    assert code == 2, agent.running.tail()
    assert "Traceback" not in agent.running.output
    assert len(told) == 1, agent.running.output
    assert await interfaces(agent) == before
    return told[0]


@dataclass(frozen=True, slots=True)
class Mistake:
    """A setting, and what the sentence about it must hold."""

    name: str
    value: str
    words: tuple[str, ...]


MISTAKES = [
    Mistake("NODE_ID", "", ("NODE_ID is missing", "DNS label")),
    Mistake("NODE_ID", "Node_A", ("NODE_ID", "DNS label")),
    Mistake("NETWORK", "mainnet", ("NETWORK", "'mainnet'", "baseSepolia")),
    Mistake("CONTRACT_ADDRESS", "0x12", ("CONTRACT_ADDRESS", "40 hex digits")),
    Mistake("RPC_URL", "ftp://x", ("RPC_URL", "https")),
    Mistake(
        "WIREGUARD_PRIVATE_KEY_FILE", "/nowhere/key", ("WIREGUARD_PRIVATE_KEY_FILE", "/nowhere")
    ),
    Mistake("WIREGUARD_PRIVATE_KEY", "short", ("WIREGUARD_PRIVATE_KEY", "both set")),
    Mistake("LISTEN_PORT", "70000", ("LISTEN_PORT", "65535")),
    Mistake("MTU", "100", ("MTU", "1280")),
    Mistake("SYNC_INTERVAL", "soon", ("SYNC_INTERVAL", "milliseconds")),
    Mistake("ENDPOINTS", "n2=127.0.0.1:5", ("ENDPOINTS", "loopback")),
    Mistake("IPV4_RANGE", "10.99.0.0/16", ("10.99.0.0/16", "overlaps the route")),
    Mistake("WG_INTERFACE", "lo", ("lo", "taken")),
    Mistake("HEALTH_CHECK_HOST", "192.0.2.1", ("HEALTH_CHECK_HOST", "192.0.2.1")),
    Mistake("STATE_DIR", "/proc/state", ("STATE_DIR", "/proc/state")),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: f"{m.name}={m.value}")
async def test_a_bad_setting_is_named_with_what_is_accepted(mesh: Mesh, mistake: Mistake) -> None:
    """Each mistake names its setting, what was wrong, and what is accepted."""
    agent = await mesh.node(settings={mistake.name: mistake.value})
    sentence = await refused(agent)
    for words in mistake.words:
        assert words in sentence


async def test_several_bad_settings_are_told_at_once(mesh: Mesh) -> None:
    """One start is enough to learn of all of them, a sentence each."""
    wrong = {"NODE_ID": "", "NETWORK": "base", "CONTRACT_ADDRESS": "", "RPC_URL": "", "MTU": "100"}
    agent = await mesh.node(settings=wrong)
    await agent.start()
    assert await agent.wait() == 2
    told = [line.split()[:2] for line in agent.running.output.splitlines()]
    names = ("NODE_ID", "MTU", "CONTRACT_ADDRESS", "RPC_URL")
    assert told == [["dstack-vpn:", name] for name in names]


async def test_a_key_file_that_others_can_read_is_refused(mesh: Mesh) -> None:
    """Loose permissions are a mistake, and the sentence says how to mend it."""
    agent = await mesh.node()
    (agent.directory / "private.key").chmod(0o644)
    sentence = await refused(agent)
    assert "chmod 600" in sentence
    assert agent.keys.private not in agent.running.output


async def test_a_key_that_docker_mounts_may_have_any_mode(mesh: Mesh) -> None:
    """A secret in /run/secrets has the mode that the engine gives it, and is taken."""
    mounted = "/run/secrets/wireguard-key"
    agent = await mesh.node(settings={"WIREGUARD_PRIVATE_KEY_FILE": mounted})
    await mesh.mint(agent)
    secrets = agent.host.run_dir / "secrets"
    secrets.mkdir()
    (agent.directory / "private.key").rename(secrets / "wireguard-key")
    (secrets / "wireguard-key").chmod(0o444)
    await agent.start()
    await agent.wait_ready()


async def test_a_key_file_of_somebody_else_is_explained(mesh: Mesh) -> None:
    """Root without capabilities, as in a container, is told why it may not read the file."""
    agent = await mesh.node()
    (agent.directory / "private.key").chmod(0)
    agent.prefix = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
    sentence = await refused(agent)
    assert "Permission denied; in a container without extra capabilities even root" in sentence


async def test_secrets_in_plain_variables_are_warned_of(mesh: Mesh) -> None:
    """Once each at the start, by name and with what to do instead; the values are in no line."""
    agent = await mesh.node()
    await mesh.mint(agent)
    await agent.start()
    await agent.wait_ready()
    await agent.stop()
    assert agent.log("secrets.plain") == []

    secrets = {"API_TOKEN": "a-token", "CONTRACT_PRIVATE_KEY": "0x" + "5e" * 32}
    secrets["WIREGUARD_PRIVATE_KEY"] = agent.keys.private
    agent.environment |= secrets | {"WIREGUARD_PRIVATE_KEY_FILE": ""}
    await agent.start()
    await agent.wait_ready()
    warned = {line["variable"]: line for line in agent.log("secrets.plain")}
    assert set(warned) == set(secrets)
    assert len(agent.log("secrets.plain")) == 3
    assert {line["level"] for line in warned.values()} == {"warning"}
    assert "API_TOKEN_FILE" in warned["API_TOKEN"]["advice"]
    assert "take it out" in warned["CONTRACT_PRIVATE_KEY"]["advice"]
    assert not [value for value in secrets.values() if value in agent.running.output]


async def test_a_malformed_key_is_refused_and_not_quoted(mesh: Mesh) -> None:
    """What stands in a key file never reaches the terminal."""
    agent = await mesh.node()
    (agent.directory / "private.key").write_text("not-a-key-but-perhaps-a-password\n")
    sentence = await refused(agent)
    assert "holds no WireGuard private key" in sentence
    assert "password" not in agent.running.output


async def test_a_chain_with_another_id_is_refused(mesh: Mesh) -> None:
    """An RPC URL that answers for another chain names both ids."""
    other = await mesh.lab.chain(options=("--chain-id", "1"))
    sentence = await refused(await mesh.node(rpc_url=other.url))
    assert "31337" in sentence
    assert " 1" in sentence


async def test_an_address_without_code_is_refused(mesh: Mesh) -> None:
    """No contract there: said with the address."""
    nobody = "0x00000000000000000000000000000000000dead1"
    sentence = await refused(await mesh.node(settings={"CONTRACT_ADDRESS": nobody}))
    assert nobody in sentence.lower()


async def test_a_contract_of_another_kind_is_refused(mesh: Mesh) -> None:
    """A contract without the interface is not followed."""
    # Runtime code that returns 32 zero bytes for every call.
    code = "0x600a600c600039600a6000f3" + "60206000f3" + "00" * 5
    mined = await mesh.chain.send(code, to=None, account=1)
    assert mined.contract is not None
    sentence = await refused(await mesh.node(settings={"CONTRACT_ADDRESS": mined.contract}))
    assert mined.contract.lower() in sentence.lower()


@pytest.mark.parametrize("way", ["--reset-state", "state forget"])
async def test_another_chain_than_before_is_refused_until_told(mesh: Mesh, way: str) -> None:
    """A local chain that began anew is not followed unless what was known is forgotten."""
    one, _ = await mesh.join(2)
    assert (await on_state(one, "show")).code == 0
    assert (await on_state(one, "forget")).code == 2
    await one.stop()
    anew: Chain = await mesh.lab.chain()
    await AccessNFT.deploy(anew)
    one.environment["RPC_URL"] = anew.url

    sentence = await refused(one)
    assert "--reset-state" in sentence

    if way == "--reset-state":
        await one.start("--reset-state")
    else:
        assert (await on_state(one, "forget")).code == 0
        await one.start()
    await mesh.says(one, "not found", lambda h: h["access"]["verdict"] == "NODE_NOT_FOUND")


async def on_state(agent: Agent, command: str) -> Finished:
    """Run a command of `dstack-vpn state` in the node's host, with its settings."""
    environ = {"PATH": os.environ["PATH"]} | agent.environment
    return await agent.host.run(SCRIPT, "state", command, env=environ, check=False)


async def test_an_interface_of_somebody_else_is_left_alone(mesh: Mesh) -> None:
    """A WireGuard interface with another key is taken, and keeps its peers."""
    agent = await mesh.node()
    await agent.host.start("wireguard-go", "-f", "wg0", name="foreign")

    async def there() -> bool:
        return "wg0" in await interfaces(agent)

    await until(there, "the foreign interface")
    sentence = await refused(agent)
    assert "wg0" in sentence
    assert "taken" in sentence or "belongs" in sentence


async def test_without_a_tun_device_it_says_what_is_missing(mesh: Mesh) -> None:
    """No /dev/net/tun: one sentence that names it."""
    agent = await mesh.node()
    await mesh.mint(agent)
    await agent.host.run("mount", "-t", "tmpfs", "tmpfs", "/dev/net")
    assert "/dev/net/tun" in await refused(agent)


async def test_without_the_right_to_make_interfaces_it_says_so(mesh: Mesh) -> None:
    """Without NET_ADMIN: one sentence that names the right."""
    agent = await mesh.node()
    await mesh.mint(agent)
    prefix = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")
    agent.prefix = prefix
    sentence = await refused(agent)
    assert "NET_ADMIN" in sentence


async def test_a_port_in_use_is_named(mesh: Mesh) -> None:
    """HEALTH_CHECK_PORT that somebody else listens on is a mistake that names the port."""
    agent = await mesh.node()
    squatter = await agent.host.start("python3", "-um", "http.server", "8080", name="squatter")
    await until(lambda: "Serving" in squatter.output, "the port is taken")
    assert "HEALTH_CHECK_PORT 8080" in await refused(agent)


async def test_two_agents_do_not_share_a_state_directory(mesh: Mesh) -> None:
    """The second agent of one directory refuses; the first goes on."""
    one, two = await mesh.join(2)
    twin = mesh.lab.agent(
        one.host,
        "twin",
        keys=one.keys,
        contract=mesh.nft.address,
        rpc_url=mesh.chain.url,
        settings={"STATE_DIR": str(INSIDE / "state"), "HEALTH_CHECK_PORT": "0"},
    )
    await twin.start()
    assert await twin.wait() == 2
    assert "in use by a running agent" in twin.running.output
    await mesh.has_peers(one, two)


async def test_a_dry_run_says_what_it_would_do_and_does_nothing(mesh: Mesh) -> None:
    """--dry-run prints the changes and leaves no interface, no key and no state."""
    agent = await mesh.node()
    await mesh.mint(agent)
    other = await mesh.node()
    await mesh.mint(other)
    before = await interfaces(agent)

    await agent.start("--dry-run")
    code = await agent.wait()

    assert code == 0, agent.running.tail()
    assert "ACCESS_GRANTED" in agent.running.output
    assert "added n2" in agent.running.output
    assert await interfaces(agent) == before
    assert not (agent.directory / "state").exists()
