"""The agent's device side as a process of its own, fed with memberships in place of a chain.

python members_driver.py TOKEN PRIVATE_KEY MARKER, then one JSON object a line on standard input:
{"members": [[token, key, endpoint], ...]} makes these members, who live, and compares the device;
{"dead": N, "network": NETWORK} makes N more with endpoints in a network where nobody answers, and
"known" says whether the applier is told that it is on the local link; {"later": S} compares again
as if S seconds had passed; {"changes": N} makes N changes of the membership one by one, each
through the applier: a stranger comes, moves, and another one is revoked. Prints `done` and a JSON
object of what the device was told. Ends with standard input.
"""

import asyncio
import json
import sys
import time
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from dstack_vpn.applier import Applier
from dstack_vpn.mesh.access import judge_self
from dstack_vpn.mesh.device import AddPeer, DeviceChange
from dstack_vpn.mesh.keys import PrivateKey, PublicKey
from dstack_vpn.mesh.membership import Node
from dstack_vpn.resolve import Resolver
from dstack_vpn.wireguard.userspace import UserspaceDevice
from mesh.build import decide, local_node, membership, node, snapshot

FIRST, STAY = 100, 50
"""Token id of the first stranger, and how many of them are members at once."""
DEAD_FROM = 256
"""Token id of the first dead member, and its place in the network."""


class Recorded(UserspaceDevice):
    """A device that notes what it is told."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.told: list[DeviceChange] = []

    async def apply(self, change: DeviceChange) -> None:
        """Note it and do it."""
        self.told.append(change)
        await super().apply(change)


class Members:
    """A membership that changes, and the applier that follows it."""

    def __init__(self, token: int, private_key: PrivateKey, marker: Path) -> None:
        self._device = Recorded("wg0", private_key, marker_path=marker)
        local = local_node(token, ipv6=False)
        self._local = replace(local, public_key=private_key.public)
        self._applier = Applier(
            local=self._local,
            device=self._device,
            resolver=Resolver(lambda: None),
            sync_interval=3600.0,
        )
        self._nodes: dict[int, Node] = {}
        self._living: set[PublicKey] = set()
        self._snapshot = snapshot()
        self._later = 0.0

    async def bring(self, members: list[tuple[int, str, str]]) -> None:
        """Make these members, and compare the device with all that are."""
        for token, text, endpoint in members:
            key = PublicKey.parse(text)
            self._living.add(key)
            self._nodes[token] = node(token, key=key.raw, endpoint=endpoint)
        await self._apply(None)

    async def bring_dead(self, count: int, within: str, *, known: bool) -> None:
        """Make so many members that never answer, and compare."""
        network = ip_network(within)
        if known:
            self._local = replace(self._local, on_link=(network,))
            self._applier.configure(self._local)
        for token in range(DEAD_FROM, DEAD_FROM + count):
            self._nodes[token] = node(token, endpoint=f"{network[token]}:51820")
        await self._apply(None)

    async def compare_later(self, seconds: float) -> None:
        """Compare as if so much more time had passed."""
        self._later += seconds
        self._applier.request_compare()
        await self._apply(None)

    async def change(self, changes: int) -> None:
        """Make so many changes."""
        for number in range(changes):
            which, kind = divmod(number, 3)
            token = FIRST + which
            match kind:
                case 0:
                    changed = node(token, endpoint="192.0.2.1:1")
                case 1:
                    changed = node(token, endpoint="192.0.2.2:2")
                case _ if which < STAY:
                    changed = node(token, endpoint="192.0.2.3:3")
                case _:
                    token -= STAY
                    changed = node(token, revoked=True)
            self._nodes[token] = changed
            await self._apply({token})

    async def _apply(self, changed: set[int] | None) -> None:
        nodes = tuple(self._nodes.values())
        decisions = decide(nodes)
        applied = await self._applier.apply(
            replace(self._snapshot, decisions={d.token_id: d for d in decisions}),
            membership(nodes),
            judge_self(decisions, self._local.node_id, self._local.public_key),
            now=time.monotonic() + self._later,
            changed=changed,
        )
        assert applied.snapshot.pending is None, applied.snapshot.pending

    def told(self) -> dict[str, int]:
        """What the device was told since this was last asked."""
        changes, self._device.told = self._device.told, []
        peers = [peer for change in changes for peer in change.peers]
        return {
            "settings": sum(bool(replace(change, peers=())) for change in changes),
            "peers": len(peers),
            "living": sum(
                (peer.peer.key if isinstance(peer, AddPeer) else peer.key) in self._living
                for peer in peers
            ),
        }


async def main(token: str, key: str, marker: str) -> None:
    """Follow orders until there are no more."""
    members = Members(int(token), PrivateKey.parse(key), Path(marker))
    while line := await asyncio.to_thread(sys.stdin.readline):
        match json.loads(line):
            case {"members": living}:
                await members.bring(living)
            case {"dead": count, "network": network, "known": known}:
                await members.bring_dead(count, network, known=known)
            case {"later": seconds}:
                await members.compare_later(seconds)
            case {"changes": changes}:
                await members.change(changes)
        print(f"done {json.dumps(members.told())}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
