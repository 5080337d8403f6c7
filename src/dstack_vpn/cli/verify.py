"""``dstack-vpn verify``: the device of this node against the chain itself, with no agent between.

The routing around it is compared with what the settings ask for. Members are read anew, from as
many providers as the settings ask for; what a node has saved or says of itself counts for nothing.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from dstack_vpn.cli.observe import Observed, observer
from dstack_vpn.cli.options import AsJson, EnvFile, examples
from dstack_vpn.cli.show import plain, progress, put, put_json
from dstack_vpn.config import Settings, load_settings
from dstack_vpn.log import configure_logs
from dstack_vpn.mesh.access import Decision, Verdict
from dstack_vpn.mesh.audit import Difference, differences

WITHIN = 5.0
"""Seconds; an agent applies a change within some milliseconds of seeing its block."""
PAUSE = 0.5
"""Seconds between two looks."""

EXAMPLES = examples(
    "dstack-vpn verify --env-file node-a.env",
    "dstack-vpn verify --json",
    "dstack-vpn verify --within 0      # one look, no patience",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verified:
    observed: Observed
    differences: tuple[Difference, ...]
    looks: int


def verify(
    within: Annotated[
        float,
        typer.Option(
            "--within",
            metavar="SECONDS",
            min=0,
            help="How long a change may be on its way before it counts as a difference.",
        ),
    ] = WITHIN,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> int:
    """Compare this node's device with the chain: peers, keys, addresses, port and MTU.

    So are the host's routes and rules for the mesh. The chain is read anew, the host is only read.
    Works while the agent runs; reading a device needs root. Exit code 0 when they are equal, 1 when
    not, 2 for a mistake.
    """
    configure_logs(level="error", form="console")
    settings = load_settings(env_file=env_file)
    with progress("reading the chain and the device"):
        found = asyncio.run(_verify(settings, within))
    if as_json:
        put_json(_json(found))
    else:
        _show(found)
    return 1 if found.differences else 0


async def _verify(settings: Settings, within: float) -> _Verified:
    async with observer(settings) as look_out:
        deadline = time.monotonic() + within
        looks = 0
        while True:
            observed = await look_out.look()
            looks += 1
            (wanted,) = observed.plan.devices
            left = differences(wanted, observed.device, reasons=observed.plan.removal_reasons)
            left += observed.routing
            if not left or time.monotonic() >= deadline:
                return _Verified(observed=observed, differences=left, looks=looks)
            await asyncio.sleep(min(PAUSE, max(0.0, deadline - time.monotonic())))


def _waiting(observed: Observed) -> list[Decision]:
    return [d for d in observed.decisions if d.verdict is Verdict.NOT_YET_CONFIRMED]


def _show(found: _Verified) -> None:
    observed, (wanted,) = found.observed, found.observed.plan.devices
    count, block = len(found.differences), observed.membership.block
    looked = "" if found.looks == 1 else f", after {found.looks} looks"
    if count:
        things = "1 difference" if count == 1 else f"{count} differences"
        put(f"{wanted.name} is not as the chain says at block {block.number}: {things}{looked}")
    else:
        peers = len(wanted.peers)
        put(
            f"{wanted.name} is as the chain says at block {block.number}:"
            f" {peers} {'peer' if peers == 1 else 'peers'}{looked}"
        )
    for difference in found.differences:
        put(f"- {plain(difference.text)}")
    if not observed.own.granted:
        own = f"{observed.own.verdict}: {observed.own.reason}"
        put(plain(f"this node itself is {own}; so it must have no peers and no addresses"))
    for decision in _waiting(observed):
        put(plain(f"not yet: {decision.node_id} (token {decision.token_id}), {decision.reason}"))


def _json(found: _Verified) -> dict[str, Any]:
    observed, (wanted,) = found.observed, found.observed.plan.devices
    tokens = {d.key: d for d in observed.decisions if d.key}
    return {
        "equal": not found.differences,
        "block": observed.membership.block.number,
        "blockHash": observed.membership.block.hash,
        "interface": wanted.name,
        "backend": observed.backend,
        "verdict": observed.own.verdict,
        "peers": len(wanted.peers),
        "looks": found.looks,
        "differences": [
            {
                "kind": difference.kind,
                "text": difference.text,
                "publicKey": difference.key.text if difference.key else None,
                "tokenId": token.token_id
                if (token := tokens.get(difference.key) if difference.key else None)
                else None,
                "nodeId": token.node_id if token else None,
            }
            for difference in found.differences
        ],
        "waiting": [
            {"tokenId": d.token_id, "nodeId": d.node_id, "reason": d.reason}
            for d in _waiting(observed)
        ],
    }
