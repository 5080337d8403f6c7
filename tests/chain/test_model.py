"""Random plans against the reference: no stranger in, nobody stays in, all is well at the end."""

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, seed, settings
from hypothesis import strategies as st

from chain.model_world import CRUDE, FORGED, TROUBLES, Plan, Stage, Step
from dstack_vpn.mesh.membership import Tag

LENGTH = 60
"""Steps of a plan, those included that come to nothing."""
STEPS = int(os.environ.get("DSTACK_VPN_MODEL_STEPS", "600"))
"""Steps that each seed comes to, at least."""
SLOW_STEPS = 20 * STEPS

COMPARED = Plan(steps=[Step("block", 1, 3, 2), Step("poll"), Step("wait", 5), Step("poll")])
"""A plan that comes to a full compare for sure; random ones may all miss that."""

_WEIGHTS = {
    "nothing": 1, "poll": 18, "look": 4, "block": 14, "mine": 3, "time": 1, "reorg": 2,
    "rollback": 2, "snapshot": 1, "revert": 1, "trouble": 6, "heal": 5, "forge": 6, "crude": 2,
    "honest": 3, "liar": 1, "wait": 2, "restart": 2,
}  # fmt: skip
_KINDS = [kind for kind, weight in _WEIGHTS.items() for _ in range(weight)]


@st.composite
def steps(draw: st.DrawFn) -> Step:
    """Anything that can happen."""
    what = draw(st.sampled_from(_KINDS))

    def number(limit: int) -> int:
        return draw(st.integers(0, limit))

    match what:
        case "block":
            count = number(2)
            return Step(what, count, number(11 ** (count + 1) - 1), number(11))
        case "mine":
            return Step(what, number(9))
        case "time":
            return Step(what, draw(st.sampled_from([1, 40, 10**6])))
        case "reorg" | "rollback":
            return Step(what, number(7))
        case "look" | "heal" | "liar":
            return Step(what, number(2))
        case "wait":
            return Step(what, number(5))
        case "restart":
            return Step(what, number(2))
        case "trouble":
            return Step(what, number(2), number(len(TROUBLES) - 1), number(4))
        case "crude":
            return Step(what, number(len(CRUDE) - 1))
        case "forge":
            return Step(what, number(len(FORGED) - 1), number(9), number(9))
        case _:
            return Step(what)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any follower, and anything that can happen to it."""
    depths: list[int | Tag] = [0, 1, 3, Tag.SAFE, Tag.FINALIZED]
    return Plan(
        confirmations=draw(st.sampled_from(depths)),
        patience=draw(st.sampled_from([0.0, 12.0])),
        liar=draw(st.integers(0, 2)),
        steps=draw(st.lists(steps(), min_size=LENGTH, max_size=LENGTH)),
    )


async def walk(directory: Path, number: int, least: int) -> None:
    """Play random plans until so many steps are done."""
    loop = asyncio.get_running_loop()
    async with Stage.open(directory) as stage:

        @seed(number)
        @settings(
            # About one step of six comes to nothing: there is nothing to heal, or to go back to.
            max_examples=2 + least * 5 // (LENGTH * 4),
            database=None,
            deadline=None,
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        )
        @example(COMPARED)
        @given(plans())
        def play(plan: Plan) -> None:
            asyncio.run_coroutine_threadsafe(stage.play(plan), loop).result()

        # Hypothesis wants a plain function: it runs in a thread, and the world in this loop.
        await asyncio.to_thread(play)
        print(stage.plans, "plans,", stage.steps, "steps:", dict(stage.seen.most_common()))
        assert stage.steps >= least
        for what in ("reorgs", "resyncs", "compares", "restart", "forge", "crude", "trouble"):
            assert stage.seen[what], f"{what} never happened"


@pytest.mark.parametrize("number", [1, 2])
async def test_it_holds_whatever_happens(tmp_path: Path, number: int) -> None:
    """Safety after every look, and liveness at the end of every plan."""
    await walk(tmp_path, number, STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3, 7))
async def test_it_holds_for_long(tmp_path: Path, number: int) -> None:
    """The same with other seeds, over many more steps."""
    await walk(tmp_path, number, SLOW_STEPS)
