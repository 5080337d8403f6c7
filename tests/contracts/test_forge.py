"""The contract's own tests, in Solidity: units, fuzzing, invariants, gas."""

import json
import os
import subprocess
from typing import Any

import pytest

from .conftest import CONTRACTS, Tools


def run_forge_test(tools: Tools, *, profile: str) -> dict[str, Any]:
    """The result of each test, by suite and name."""
    done = subprocess.run(
        [tools.forge, "test", "--json"],
        cwd=CONTRACTS,
        env={**os.environ, "FOUNDRY_PROFILE": profile},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    return {
        f"{suite} {name}": result
        for suite, report in json.loads(done.stdout).items()
        for name, result in report["test_results"].items()
    }


def assert_all_passed(results: dict[str, Any]) -> None:
    """All tests ran and none failed or was skipped."""
    assert len(results) > 100
    assert sum("invariant_" in name for name in results) >= 7
    other = {name: r["reason"] for name, r in results.items() if r["status"] != "Success"}
    assert other == {}


def test_forge_tests_pass(tools: Tools) -> None:
    """Every call, refusal and event is as the interface says, and the invariants hold."""
    assert_all_passed(run_forge_test(tools, profile="default"))


@pytest.mark.slow
def test_forge_tests_pass_in_depth(tools: Tools) -> None:
    """The same with many more runs and longer sequences of calls."""
    assert_all_passed(run_forge_test(tools, profile="slow"))


def test_gas_is_as_committed(tools: Tools) -> None:
    """A change of what a call costs is seen in the diff of the commit that makes it."""
    done = subprocess.run(
        [tools.forge, "snapshot", "--match-contract", "GasTest", "--check"],
        cwd=CONTRACTS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "13 tests passed, 0 failed" in done.stdout
