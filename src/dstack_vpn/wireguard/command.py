"""The one place that runs programs: iproute2 and nothing through a shell.

Used by `link.py`. Programs get an empty environment but for the search path, so that no secret in
ours reaches them, and a time limit, so that none of them can stop the loop.
"""

import asyncio
import os
from collections.abc import Sequence

from dstack_vpn.errors import DeviceError, HostError

TIMEOUT = 10.0
"""Seconds after which a program is killed."""

_NOT_PERMITTED = ("Operation not permitted", "Permission denied")


def clean_environment() -> dict[str, str]:
    """What our programs need of our environment, which may hold keys and tokens."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


async def run(*argv: str, stdin: str = "") -> str:
    """Run a program and return what it printed.

    Raises:
        HostError: it is not installed, or we lack the right to do what it tried.
        DeviceError: it failed or took longer than `TIMEOUT`; its first complaint is in the message.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=clean_environment(),
        )
    except FileNotFoundError:
        raise HostError(f"{argv[0]} is not installed: install iproute2") from None
    except OSError as error:  # no process or memory left
        raise DeviceError(f"{argv[0]} cannot be run: {error.strerror}") from None
    try:
        async with asyncio.timeout(TIMEOUT):
            out, err = await process.communicate(stdin.encode())
    except TimeoutError:
        raise DeviceError(f"{_show(argv)} took longer than {TIMEOUT:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        complaint = next(iter(err.decode(errors="replace").splitlines()), "no reason given")
        if any(words in complaint for words in _NOT_PERMITTED):
            raise HostError(
                f"no right to configure network interfaces ({complaint}): "
                "run as root or with the capability NET_ADMIN"
            )
        raise DeviceError(f"{_show(argv)} failed: {complaint}")
    return out.decode()


def _show(argv: Sequence[str]) -> str:
    return " ".join(argv)
