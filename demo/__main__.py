"""The inside of `make demo`: `python -m demo [FD...]`, run in a world of the lab.

Ends with 0 when everything that was said was seen to be true, 1 when a step failed, 130 after
Ctrl-C and 143 after SIGTERM; but with 0 at the end of what KEEP=1 left running, since that is how
it is meant to end. The world ends with this process and takes everything along that was started,
so there is nothing to clean up on the way out, however sudden that is.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time

from demo import admission, recovery, removal
from demo.figures import FOOTNOTE
from demo.screen import Screen
from demo.stage import Stage
from lab.agent import HTTP_PORT
from lab.lab import Lab
from lab.publish import published

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


async def main(descriptors: list[int]) -> int:
    """Play the story; the exit code."""
    screen = Screen()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, leave, screen, number)
    began = time.monotonic()
    screen.title(
        "dstack-vpn: a private network whose member list is a contract",
        "Everything happens on this machine, in networks that end with this command.",
    )
    async with Lab.open() as lab:
        stage: Stage | None = None
        try:
            stage = await admission.chain(lab, screen)
            await play(stage)
            report = stage.figures.write()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told with the logs
            screen.failed(describe(error), stage.logs() if stage else lab.logs())
            return 1
        screen.say()
        screen.say("Measured just now", style="bold")
        screen.table(stage.figures.rows())
        screen.note(FOOTNOTE)
        screen.say()
        took = time.monotonic() - began
        screen.say(f"Done in {took:.0f} s; the figures are in {report}.", style="bold")
        if descriptors:
            await keep(stage, descriptors)
    return 0


async def play(stage: Stage) -> None:
    """All steps after the first."""
    await admission.start(stage)
    await admission.admit(stage)
    await admission.impostor(stage)
    await removal.revoke(stage)
    await removal.transfer(stage)
    await recovery.kill(stage)
    await recovery.stop(stage)
    await recovery.poll(stage)
    await recovery.count(stage)


async def keep(stage: Stage, descriptors: list[int]) -> None:
    """Publish the nodes and the chain on the user's own 127.0.0.1, and wait for Ctrl-C."""
    async with contextlib.AsyncExitStack() as stack:
        first, *others = descriptors
        chain = await stack.enter_async_context(
            published(first, str(stage.chain.address), stage.chain.port)
        )
        rows = []
        for node, descriptor in zip(stage.nodes.values(), others, strict=True):
            url = await stack.enter_async_context(
                published(descriptor, str(node.host.ip4), HTTP_PORT)
            )
            rows.append((node.name, f"{url}/health", f"{url}/ready"))
        stage.screen.say()
        stage.screen.say("The network goes on until Ctrl-C. From this machine:", style="bold")
        for name, health, ready in rows:
            stage.screen.say(f"  {name:6} {health}  {ready}")
        stage.screen.say(f"  chain  RPC_URL={chain} CONTRACT_ADDRESS={stage.nft.address}")
        ended = asyncio.Event()
        for number in SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        await ended.wait()


def leave(screen: Screen, number: signal.Signals) -> None:
    """End now: the kernel ends all the rest."""
    screen.close()
    screen.say()
    screen.say("Stopped; everything that ran is gone.")
    sys.stdout.flush()
    os._exit(128 + number)


def describe(error: BaseException) -> str:
    """An error in a sentence; of several at once, the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, AssertionError):
        return str(error)
    return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(asyncio.run(main([int(word) for word in sys.argv[1:]])))
