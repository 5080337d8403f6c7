"""The lab as pytest fixtures; a plugin (`pytest_plugins = ["lab.fixtures"]`).

Run the tests as `scripts/lab pytest`. Outside of a lab the tests that need one are skipped with the
reason, and fail instead where CI is set: there a skip would hide that nothing was tested.
"""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Generator

import pytest
import pytest_asyncio

from lab.chain import Chain
from lab.host import Host
from lab.lab import Lab
from lab.nft import AccessNFT
from lab.world import LAB_DIR

EXPECT_KERNEL = "DSTACK_VPN_EXPECT_KERNEL_WIREGUARD"
"""Set to 1 where a kernel without WireGuard is a failure."""

COMMANDS = ("ip", "bridge", "nft", "wg", "wireguard-go", "ping", "nsenter", "unshare")


def need(condition: object, reason: str) -> None:
    """Skip the test with this reason unless the condition holds; fail it where CI=true."""
    if condition:
        return
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"CI must be able to run this: {reason}", pytrace=False)
    pytest.skip(reason)


def need_lab() -> None:
    """Ask for everything that a lab takes."""
    need(LAB_DIR.is_dir(), "not in a lab: run it as `scripts/lab pytest`")
    need(os.access("/dev/net/tun", os.R_OK | os.W_OK), "/dev/net/tun cannot be opened")
    for command in COMMANDS:
        need(shutil.which(command), f"{command} is not installed")


def need_kernel_wireguard() -> None:
    """Ask for a kernel with WireGuard; test_vm.py brings one, and says so by a variable."""
    name = f"probe{os.getpid()}"  # workers may ask at the same time
    words = ("ip", "link", "add", name, "type", "wireguard")
    if subprocess.run(words, capture_output=True, check=False).returncode == 0:
        subprocess.run(("ip", "link", "del", name), check=True)
    elif os.environ.get(EXPECT_KERNEL) == "1":
        pytest.fail("the kernel was said to have WireGuard", pytrace=False)
    else:
        pytest.skip("this kernel has no WireGuard; scripts/vm runs one that has")


@pytest_asyncio.fixture
async def lab() -> AsyncIterator[Lab]:
    """An empty lab."""
    need_lab()
    async with Lab.open() as opened:
        yield opened


@pytest_asyncio.fixture
async def hosts(lab: Lab) -> tuple[Host, Host]:
    """Two hosts on the lab's switch, `a` and `b`."""
    return await lab.host("a"), await lab.host("b")


@pytest_asyncio.fixture
async def chain(lab: Lab) -> Chain:
    """A chain that makes a block for each transaction."""
    return await lab.chain()


@pytest_asyncio.fixture
async def nft(chain: Chain) -> AccessNFT:
    """Our contract, deployed on `chain` by account 0."""
    return await AccessNFT.deploy(chain)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: "pytest.CallInfo[None]"
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the last lines of every program of the lab when a test failed in it."""
    report = yield
    opened = getattr(item, "funcargs", {}).get("lab")
    if report.failed and isinstance(opened, Lab):
        report.sections += [(f"lab: {name}", tail) for name, tail in opened.logs().items() if tail]
    return report
