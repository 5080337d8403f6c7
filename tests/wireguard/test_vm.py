"""The kernel's own WireGuard, run in a virtual machine: the backend's suite and the live tests.

The machine boots once and runs every test that takes a kernel with WireGuard; here they are counted
and none may be missing or skipped. lab/vm.py says how to run one of them by hand.
"""

import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from lab.chain import REPOSITORY
from lab.fixtures import EXPECT_KERNEL, need, need_lab
from lab.process import run
from lab.vm import missing

TESTS = (
    "test_backend.py",
    "test_live.py",
    "test_guard.py",
    "test_kernelclaim.py",
    "test_choose.py::test_a_real_kernel_is_chosen",
)
CHOSEN = "kernel and not double"
LIMIT = 300.0
"""Seconds; it takes about 120 where the processor is emulated and nothing else runs."""

# The plugins that are left out take as long to load as a dozen tests.
PYTEST = (
    "env", "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1", f"{EXPECT_KERNEL}=1",
    sys.executable, "-m", "pytest", "-p", "pytest_asyncio.plugin", "-p", "no:cacheprovider", "-q",
    "-k", CHOSEN, *(str(Path(__file__).with_name(name)) for name in TESTS),
)  # fmt: skip


@pytest.mark.parametrize("speed", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
async def test_the_backend_keeps_its_promises_on_a_real_kernel(speed: str, tmp_path: Path) -> None:
    """All that is tested with wireguard-go holds for Linux's own WireGuard."""
    need_lab()
    lacking = missing()
    need(lacking is None, str(lacking))
    command = (*PYTEST, "-m", speed)
    listed = await run("env", "-C", REPOSITORY, *command, "--collect-only")
    expected = {line for line in listed.out.splitlines() if "::" in line}
    results = tmp_path / "results.xml"
    ended = await run(
        "env", "-C", REPOSITORY, "scripts/vm", "--keep", tmp_path, "--within", str(LIMIT),
        "scripts/lab", *command, f"--junitxml={results}",
        check=False, within=LIMIT + 10,
    )  # fmt: skip
    assert ended.code == 0, ended.out
    assert expected
    assert passed(results) == expected


def passed(results: Path) -> set[str]:
    """The tests that passed, as pytest lists them."""
    return {
        f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        for case in ET.parse(results).getroot().iter("testcase")
        if not len(case)
    }
