"""The shape of the tree: what may import what, what the agent loads, and that all has its tests."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "dstack_vpn"
TESTS = ROOT / "tests"

TESTED_BY = {
    # What holds the loop is tested as a running agent, on hosts and a chain of the lab.
    "__init__.py": "test_layers.py",
    "__main__.py": "agent/test_membership.py",
    "chain/agreed.py": "chain/test_tally.py",
    "chain/alarms.py": "chain/test_distrust.py",
    # The parts of the follower and its providers are tested through it.
    "chain/advance.py": "chain/test_follow.py",
    "chain/arrival.py": "chain/test_follow_quorum.py",
    "chain/calls.py": "chain/test_follow.py",
    "chain/checkpoint_kind.py": "chain/test_follow.py",
    "chain/opening.py": "chain/test_follow.py",
    "chain/progress.py": "chain/test_follow_quorum.py",
    "chain/upkeep.py": "chain/test_follow_quorum.py",
    "chain/pages.py": "chain/test_follow.py",
    "chain/panel.py": "chain/test_follow.py",
    "chain/providers.py": "chain/test_follow.py",
    "chain/rpc_http.py": "chain/test_follow_faults.py",
    "chain/rpc_socket.py": "chain/test_follow_faults.py",
    "chain/witness.py": "chain/test_follow_faults.py",
    "parsers.py": "test_variables.py",
    "applied.py": "test_applier.py",
    "turns.py": "test_applier.py",
    # Signed writes and what the contract answers to them are tested as commands.
    "chain/admin.py": "cli/test_admin.py",
    "chain/checksum.py": "cli/test_parse.py",
    "chain/revert.py": "cli/test_revert.py",
    "web/answer.py": "web/test_app.py",
    "web/server.py": "web/test_app.py",
    "wireguard/claim.py": "wireguard/test_userspace.py",
    "wireguard/marker.py": "wireguard/test_userspace.py",
    "wireguard/memory.py": "wireguard/test_backend.py",
    "wireguard/pids.py": "wireguard/test_process.py",
    "wireguard/policy.py": "agent/test_policy.py",
    "wireguard/tun.py": "wireguard/test_live.py",
}
"""Modules whose tests are not in the file of the same name, with the file they are in."""

BY_SUBJECT = {"cli": "commands are run as a user types them: tests by subject, not by module"}
"""Packages whose tests are not sorted by module, with the reason."""


def test_imports_point_downward() -> None:
    """The contracts of pyproject.toml hold: layers, pure packages, a light agent."""
    program = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    assert program is not None
    command = [program, "--no-cache", "--config", str(ROOT / "pyproject.toml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def decides(path: Path) -> bool:
    """Whether a module has a branch or a loop: something that can be wrong."""
    kinds = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.Match)
    return any(isinstance(n, kinds) for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def modules() -> list[str]:
    """Every module with logic, by its path in the package."""
    return sorted(str(p.relative_to(SOURCE)) for p in SOURCE.rglob("*.py") if decides(p))


@pytest.mark.parametrize("module", modules())
def test_every_module_has_its_tests(module: str) -> None:
    """Tests lie where the code lies: src/a/b.py has tests/a/test_b.py, or is named above."""
    path = Path(module)
    if path.parts[0] in BY_SUBJECT:
        assert list((TESTS / path.parts[0]).glob("test_*.py"))
        return
    own = path.with_name(f"test_{path.name}")
    assert (TESTS / own).is_file() or (TESTS / TESTED_BY[module]).is_file()


def test_exceptions_are_about_modules() -> None:
    """Nothing is excepted that is no longer there, or that has tests of its own by now."""
    assert [m for m in TESTED_BY if not (SOURCE / m).is_file()] == []
    own = [Path(m).with_name(f"test_{Path(m).name}") for m in TESTED_BY]
    assert [str(path) for path in own if (TESTS / path).is_file()] == []


LOADED = "import sys, {module}; print(*(m for m in sys.argv[1:] if sys.modules.get(m)))"
HEAVY = ("typer", "eth_abi", "eth_account", "pyroute2", "httpx", "web3", "rlp", "trie")


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("dstack_vpn.__main__", (*HEAVY, "rich")),
        # In another's process rich may be wanted, so only our own hides it from structlog.
        ("dstack_vpn.bridge", HEAVY),
        ("dstack_vpn", (*HEAVY, "rich", "structlog", "dstack_vpn.bridge")),
    ],
)
def test_the_agent_is_light(module: str, absent: tuple[str, ...]) -> None:
    """The agent's process loads nothing that only the command line needs, however indirectly."""
    command = [sys.executable, "-c", LOADED.format(module=module), *absent]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


def events() -> list[tuple[str, str]]:
    """Where something is logged, and the event's name as the source has it."""
    found = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and re.fullmatch(
                r"log\.(debug|info|warning|error)", ast.unparse(node.func)
            ):
                name = ast.unparse(node.args[0])
                found.append((f"{path.relative_to(SOURCE)}:{node.lineno}", name))
    return found


def test_log_events_are_named_alike() -> None:
    """Each is `component.what` in lower case."""
    assert len(events()) > 20
    form = re.compile(r"'[a-z]+\.[a-z][a-z0-9_]*'|f'membership\.\{event\.kind\}'")
    assert [event for event in events() if not form.fullmatch(event[1])] == []


def test_the_embedding_name_is_late() -> None:
    """`from dstack_vpn import WireGuardContractBridge` works, and no other name is invented."""
    import dstack_vpn
    from dstack_vpn.bridge import WireGuardContractBridge

    assert dstack_vpn.WireGuardContractBridge is WireGuardContractBridge
    with pytest.raises(AttributeError, match="no attribute 'Bridge'"):
        _ = dstack_vpn.Bridge
