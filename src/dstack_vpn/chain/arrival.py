"""The arrival: all witnesses are followed side by side until enough of them are where to start.

I/O. Whoever answered first is followed first; whoever is slow, or cannot be followed, holds up
nobody, and whoever knows more than the others gets a moment to say it.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from dstack_vpn.chain.header import Header
from dstack_vpn.chain.panel import GRACE, Panel
from dstack_vpn.chain.rpc import Provider
from dstack_vpn.chain.witness import Witness
from dstack_vpn.errors import ChainError, WrongChainError


async def follow_until(
    there: Callable[[], bool],
    witnesses: Sequence[Witness],
    heads: Mapping[Provider, Header],
    panel: Panel,
) -> list[ChainError]:
    """Follow witnesses to their heads until enough of them have arrived.

    Args:
        there: looks at how far they are, and says whether that is enough.
        witnesses: all of them.
        heads: the newest block of those who showed one already.
        panel: where the others are asked for theirs.

    Returns:
        Why some could not be followed.
    """
    errors: list[ChainError] = []

    async def follow(witness: Witness) -> None:
        try:
            head = heads.get(witness.provider) or await panel.head_of(witness.provider)
            await witness.follow(head)
        except ChainError as error:
            errors.append(error)
        except WrongChainError as error:
            errors.append(ChainError(str(error)))

    # When those who answered first do not lead there, the others may.
    first = [w for w in witnesses if w.provider in heads]
    others = [w for w in witnesses if w.provider not in heads]
    async with asyncio.TaskGroup() as group:
        pending: set[asyncio.Task[None]] = set()
        for part in (first, others):
            pending |= {group.create_task(follow(w), name=w.name) for w in part}
            while pending and not there():
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if there():
                break
        if pending:
            # They may know of a removal that enough others have not heard of yet.
            _, pending = await asyncio.wait(pending, timeout=GRACE)
        for task in pending:
            task.cancel()
    return errors
