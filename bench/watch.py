"""Being told when a peer is on a device that is too large to be looked at all the time."""

import asyncio
import json
import time
from collections.abc import Callable

from bench.device import PATIENCE, Device, to_hex
from lab.process import Process

PAUSE = 0.001  #: seconds between two looks at what a process printed


async def printed(process: Process, tells: Callable[[str], bool]) -> float:
    """Wait until a process prints a line that tells it; the time (time.monotonic)."""
    with process.log.open("rb") as log:
        log.seek(0, 2)
        rest = b""
        async with asyncio.timeout(PATIENCE):
            while True:
                rest += log.read()
                *lines, rest = rest.split(b"\n")
                if any(tells(line.decode(errors="replace")) for line in lines):
                    return time.monotonic()
                await asyncio.sleep(PAUSE)


def applied(node_id: str, key: str, *, there: bool) -> Callable[[str], bool]:
    """Whether a line of an agent's log says that a peer was added, or removed."""
    word = f"added {node_id}" if there else f"removed {key[:8]}"

    def tells(line: str) -> bool:
        return "cycle.applied" in line and word in json.loads(line)["sentence"]

    return tells


def done(line: str) -> bool:
    """Whether a line of a bare follower says that it has written to its device."""
    return line == "done"


async def confirm(device: Device, key: str, *, there: bool) -> None:
    """Hold what was told against the device itself."""
    shown = b"public_key=" + to_hex(key) + b"\n" in await device.ask(b"get=1\n\n")
    assert shown is there, f"what was told of {key} is not so"
