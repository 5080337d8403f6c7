"""The docs say what the code does: tables, links, commands, variables and programs in them.

Tables that restate code stand between two marks in their page, ``<!-- NAME -->`` and
``<!-- /NAME -->``. When one differs, the failure prints the whole text to paste between the marks.
"""

import io
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from dstack_vpn import cli
from dstack_vpn.cli import signer
from dstack_vpn.cli.app import app
from dstack_vpn.config import load_settings, public_settings
from dstack_vpn.deploy.envfile import COMPOSE_VARIABLES
from dstack_vpn.mesh.access import Verdict
from dstack_vpn.mesh.events import EventKind
from dstack_vpn.mesh.health import Code, assess
from dstack_vpn.variables import KEY_FILE_VARIABLE, NETWORKS, VARIABLES, Variable
from dstack_vpn.web.render import (
    render_decision,
    render_health,
    render_ready,
    render_stats,
    render_wireguard,
)
from lab.fixtures import need
from lab.host import Host
from lab.lab import Lab
from lab.nft import AccessNFT
from lab.tunnel import new_keys
from lab.waiting import until
from web.samples import NOW, WALL_NOW, snapshot

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

# Variables of others that the pages may name: make's, and placeholders.
FOREIGN = {"CI", "KEEP", "WORKERS", "ARGS", "NAME", "PATH"}


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def marked(page: str, name: str) -> str:
    """What stands between the marks of a name."""
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text_of(page), re.DOTALL)
    assert found, f"{page} has no <!-- {name} --> ... <!-- /{name} -->"
    return found[1]


def check_marked(page: str, name: str, wanted: str) -> None:
    if marked(page, name) != wanted:
        pytest.fail(
            f"{page} is not up to date. Between <!-- {name} --> and <!-- /{name} --> belongs:\n\n"
            f"{wanted}",
            pytrace=False,
        )


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table of Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    cells = [" | ".join(re.sub(r"([|*])", r"\\\1", cell) for cell in line) for line in lines]
    return "".join(f"| {line} |\n" for line in cells)


# Tables made from code


def default_of(variable: Variable) -> str:
    if variable.default is None:
        return "none: it must be set"
    return variable.default_note or (f"`{variable.default}`" if variable.default else "empty")


def settings_table(variables: Sequence[Variable]) -> str:
    """A table of docs/settings.md."""
    rows = []
    for variable in variables:
        names = f"`{variable.name}`"
        if variable.secret:
            names += f", `{variable.name}_FILE`"
        rows.append((names, variable.meaning, variable.accepted, default_of(variable)))
    return table(("Variable", "Meaning", "Accepted", "Default"), rows)


def networks_table() -> str:
    """The presets of NETWORK."""
    rows = [
        (
            f"`{n.name}`",
            str(n.chain_id),
            f"{n.poll_interval:g}",
            str(n.confirmations),
            f"`{n.rpc_url}`" if n.rpc_url else "none",
            f"`{n.contract}`" if n.contract else "none",
        )
        for n in NETWORKS.values()
    ]
    head = ("`NETWORK`", "Chain id", "`POLL_INTERVAL`", "`CONFIRMATIONS`", "`RPC_URL`")
    return table((*head, "`CONTRACT_ADDRESS`"), rows)


def gas_table() -> str:
    """The figures of contracts/.gas-snapshot."""
    snapshot = (ROOT / "contracts/.gas-snapshot").read_text()
    rows = [
        (f"`{name}`", f"{int(gas):,}")
        for name, gas in re.findall(r"GasTest:test_(\w+)\(\) \(gas: (\d+)\)", snapshot)
    ]
    return table(("Call", "Gas"), rows)


@pytest.mark.parametrize(
    ("page", "name", "wanted"),
    [
        ("docs/settings.md", "settings", settings_table(VARIABLES)),
        ("docs/settings.md", "signing", settings_table(signer.VARIABLES)),
        ("docs/settings.md", "networks", networks_table()),
        ("docs/contract.md", "gas", gas_table()),
    ],
)
def test_tables_are_those_of_the_code(page: str, name: str, wanted: str) -> None:
    """A table that restates code is exactly what the code says."""
    check_marked(page, name, wanted)


def test_every_word_that_scripts_may_rely_on_is_explained() -> None:
    """Each verdict, health code and kind of event stands in the page about it."""
    http, embedding = text_of("docs/http.md"), text_of("docs/embedding.md")
    missing = [word.value for word in (*Verdict, *Code) if f"`{word.value}`" not in http]
    missing += [kind.value for kind in EventKind if f"`{kind.value}`" not in embedding]
    assert missing == []


def test_every_measurement_is_explained() -> None:
    """Each entry of the benchmark stands in the page about it."""
    page = text_of("docs/performance.md")
    code = "".join(path.read_text() for path in ROOT.glob("bench/*.py"))
    assert [n for n in re.findall(r'Entry\("(\w+)"', code) if f"`{n}`" not in page] == []


def test_every_named_test_exists() -> None:
    """Each test that a page names as its witness is there."""
    missing = []
    for page in NAMES:
        for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text_of(page)):
            file = ROOT / path
            if not (file.exists() and re.search(rf"def {name}\(", file.read_text())):
                missing.append(f"{page}: {path}::{name}")
    assert missing == []


# Examples of answers


def shape(value: Any) -> Any:
    """The names in an answer, without its values; of a list that of its first entry."""
    if isinstance(value, dict):
        return {name: shape(part) for name, part in value.items()}
    if isinstance(value, list | tuple) and value:
        return [shape(value[0])]
    return None


def answers() -> dict[str, Any]:
    """What each path answers, for a node that is well."""
    shot = snapshot()
    health = assess(shot, now=NOW, dark_after=60)
    environment = {"NODE_ID": "node-1", "NETWORK": "hardhat"}
    return {
        "/ready": render_ready(health),
        "/health": render_health(shot, health, wall_now=WALL_NOW),
        "/stats": render_stats(shot, health, wall_now=WALL_NOW),
        "/wireguard": render_wireguard(shot, wall_now=WALL_NOW),
        "/config": public_settings(load_settings(environment)),
        "/api/access/node-b": render_decision(shot.decisions[1]),
    }


@pytest.mark.parametrize("path", sorted(answers()))
def test_examples_have_the_names_of_real_answers(path: str) -> None:
    """An example shows every name that the path answers with, and no other."""
    page = text_of("docs/http.md")
    found = re.search(rf"^### {path}$.*?^```json\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert found
    shown, real = shape(json.loads(found[1])), shape(answers()[path])
    if "providers" in shown:  # requests are by method, whichever there were
        for answer in (shown, real):
            answer["providers"][0]["requests"] = answer["requestsPerHour"] = None
    assert shown == real


# Links


def links(page: str) -> Iterator[str]:
    """The relative links of a page, code blocks left out."""
    prose = re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", NAMES)
def test_relative_links_resolve(page: str) -> None:
    """Each relative link leads to a file that is there, and to a heading of it if it names one."""
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


# Commands


def code_of(page: str) -> str:
    """All code of a page, blocks and spans, with continued lines joined."""
    text = text_of(page)
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    spans = re.findall(r"`([^`\n]+)`", prose)
    code = "\n".join([*blocks, *spans]).replace("\\\n", " ")
    # A command inside of another one, "$(...)", becomes a line of its own.
    inner = re.findall(r"\$\(([^()]*)\)", code)
    return "\n".join([re.sub(r"\$\([^()]*\)", "VALUE", code), *inner])


def commands_of(page: str) -> set[tuple[tuple[str, ...], frozenset[str]]]:
    """Each `dstack-vpn` command shown: its words up to the first option, and its options."""
    found = set()
    for rest in re.findall(
        r"(?:^|(?<=[\s(/]))dstack-vpn((?: +[^\s#;|&)>]+)*)", code_of(page), re.MULTILINE
    ):
        words = rest.split()
        first = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        plain = tuple(word for word in words[:first] if re.fullmatch(r"[\w./-]+", word))
        found.add((plain, frozenset(options)))
    return found


@cache
def help_of(words: tuple[str, ...]) -> str:
    """What a command says of itself, or nothing; values among its words do no harm."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()):
        code = cli.main([*words, "--help"])
    return out.getvalue() if code == 0 else ""


@pytest.mark.parametrize("page", NAMES)
def test_commands_exist(page: str) -> None:
    """Each command that a page shows is one, and takes the options that it is shown with."""
    wrong = []
    for words, options in sorted(commands_of(page)):
        answer = help_of(words)
        shown = " ".join(("dstack-vpn", *words))
        if not answer:
            wrong.append(f"{shown} is no command")
        wrong += [f"{shown} has no {o}" for o in options - {"--help"} if o not in answer]
    assert wrong == []


def test_every_command_is_in_the_readme() -> None:
    """The table of the README leaves out no command."""
    shown = {words[:length] for words, _ in commands_of("README.md") for length in (1, 2)}
    assert sorted(set(all_commands()) - shown) == []


def all_commands() -> Iterator[tuple[str, ...]]:
    """The words of each command that has no commands below it."""
    for name, command in getattr(typer.main.get_command(app), "commands").items():  # noqa: B009
        below = getattr(command, "commands", {})
        yield from ((name, word) for word in below) if below else ((name,),)


# Variables


def known_variables() -> set[str]:
    """Every variable that the agent, the command line, Compose, make or the tests read."""
    variables = (*VARIABLES, *signer.VARIABLES)
    known = {v.name for v in variables} | {f"{v.name}_FILE" for v in variables if v.secret}
    return known | {KEY_FILE_VARIABLE} | {v.name for v in COMPOSE_VARIABLES} | FOREIGN


@pytest.mark.parametrize("page", NAMES)
def test_variables_exist(page: str) -> None:
    """Each variable that a page sets, exports or names as code is one that somebody reads."""
    code = code_of(page)
    set_here = set(re.findall(r"(?:^|[\s;])(?:export )?([A-Z][A-Z0-9_]+)=", code, re.MULTILINE))
    spans = re.findall(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)`", text_of(page))
    words = {verdict.value for verdict in Verdict}
    assert (set_here | set(spans)) - words - known_variables() == set()


# Programs


async def test_the_program_of_the_embedding_page_runs(lab: Lab, nft: AccessNFT) -> None:
    """It runs as it stands, tells of a grant and a revocation, and takes the device down."""
    found = re.search(
        r"^```python\n(.*?)^```", text_of("docs/embedding.md"), re.DOTALL | re.MULTILINE
    )
    assert found
    a = await lab.host("a")
    program = a.run_dir / "embed.py"
    program.write_text(found[1], encoding="utf-8")
    own, other = await new_keys(), await new_keys()
    await nft.mint("node-a", own.public)
    environment = {
        "PATH": os.environ["PATH"],
        "RPC_URL": nft.chain.url,
        "CONTRACT_ADDRESS": nft.address,
        "WIREGUARD_PRIVATE_KEY": own.private,
        "STATE_DIR": "/run/state",
        "PYTHONUNBUFFERED": "1",
    }
    process = await a.start(sys.executable, "/run/embed.py", name="embed", env=environment)
    await process.line("ready as 10.213.0.1")
    minted = await nft.mint("node-b", other.public)
    await process.line(f"block {minted.block}: granted node-b")
    revoked = await nft.revoke(minted.token_id)
    await process.line(f"block {revoked.block}: revoked node-b")
    process.signal(signal.SIGINT)
    assert await process.wait() == 0
    assert (await a.run("ip", "link", "show", "wg0", check=False)).code != 0


async def test_the_steps_of_the_readme_work(lab: Lab) -> None:
    """The blocks of the local walk-through run in one shell, in order, to what they promise."""
    for program in ("bash", "curl", "node"):
        need(shutil.which(program), f"{program} is not installed")
    walk = marked("README.md", "walk")
    blocks = re.findall(r"^```sh\n(.*?)^```", walk, re.DOTALL | re.MULTILINE)
    chain, contract, token, run, look, second, peer, revoke, gone, stop = blocks
    a = await lab.host("a")
    environment = {"PATH": os.environ["PATH"], "HOME": "/run", "PYTHONUNBUFFERED": "1"}
    shell = await a.start("bash", name="shell", env=environment)

    async def type_in(number: int, block: str) -> str:
        shell.say(f"{block}\necho block {number} ended with $?")
        await shell.line(f"block {number} ended", within=60)
        return shell.output.partition(f"block {number - 1} ended")[2]

    shell.say(f"cd {ROOT}")
    await type_in(1, chain)
    await until(lambda: can_connect(a, "http://127.0.0.1:8545"), "anvil listens")
    preset = NETWORKS["hardhat"].contract
    assert f"CONTRACT_ADDRESS={preset}" in await type_in(2, contract)
    assert "ACCESS_GRANTED" in await type_in(3, token)
    assert "this node is ACCESS_GRANTED" in await type_in(4, run)
    await until(lambda: can_connect(a, "http://127.0.0.1:8080/ready"), "the node is ready")
    shown = await type_in(5, look)
    assert '{"ready":true}' in shown
    assert "10.213.0.1/16" in shown
    await type_in(6, second)
    await until(lambda: peers_shown(a, 1), "node-b is a peer")
    assert '"nodeId":"node-b"' in await type_in(7, peer)
    told = await type_in(8, revoke)
    assert "REVOKED" in told
    assert "block 8 ended with 1" in told
    await until(lambda: peers_shown(a, 0), "node-b is no peer")
    assert '"peers":[]' in await type_in(9, gone)
    assert "block 10 ended with 0" in await type_in(10, stop)
    assert (await a.run("ip", "link", "show", "wg0", check=False)).code != 0


async def peers_shown(host: Host, count: int) -> bool:
    """Whether the node in a host shows so many peers."""
    answer = await host.run("curl", "-s", "http://127.0.0.1:8080/wireguard")
    return len(json.loads(answer.out)["peers"]) == count


async def can_connect(host: Host, url: str) -> bool:
    """Whether something answers there, other than with a server error."""
    answer = await host.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url, check=False)
    return answer.code == 0 and not answer.out.startswith("5")
