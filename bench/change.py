"""What a change costs at the device itself: a device of ten thousand peers, without an agent."""

import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from structlog.testing import capture_logs

from bench.device import Device
from bench.entry import Bench, Samples
from dstack_vpn.mesh.device import (
    AddPeer,
    DeviceChange,
    PeerChange,
    RemovePeer,
    WantedDevice,
    WantedPeer,
)
from dstack_vpn.mesh.diff import diff
from dstack_vpn.mesh.keys import PrivateKey, PublicKey
from dstack_vpn.wireguard.userspace import UserspaceDevice
from lab.process import run
from mesh.build import ADDRESSES

MANY = 10_000
NAME, PORT = "bench0", 51999  #: of the device, which is in the bench's own network
RUN = Path("/var/run")


@dataclass(frozen=True, slots=True)
class Subject:
    """The device that is changed, by our backend and by others."""

    backend: UserspaceDevice
    private_key: PrivateKey
    peers: Mapping[PublicKey, WantedPeer]
    config: Path

    def wanted(self, peers: Mapping[PublicKey, WantedPeer]) -> WantedDevice:
        """The device with these peers."""
        return WantedDevice(
            name=NAME,
            public_key=self.private_key.public,
            listen_port=PORT,
            mtu=1420,
            addresses=(ADDRESSES.interfaces(1)[0],),
            peers=peers,
        )

    async def emptied(self) -> None:
        """A fresh process with the settings and no peer."""
        await self.backend.destroy()
        await self.backend.create()
        await self.backend.apply(diff(self.wanted({}), await self.backend.seen()))

    def adding(self) -> DeviceChange:
        """The change that puts all peers on the device as `emptied` leaves it."""
        wanted = self.wanted(self.peers)
        return DeviceChange(name=NAME, peers=diff(wanted, None).peers)

    async def holds(self, peers: int) -> None:
        """Hold the device against what it was told."""
        with Device.at(RUN, NAME) as device:
            assert await device.peers() == peers


@asynccontextmanager
async def _subject(count: int) -> AsyncIterator[Subject]:
    private_key = PrivateKey.generate()
    peers = {peer.key: peer for peer in map(_peer, range(2, count + 2))}
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        config = place / "wg.conf"
        blocks = "".join(
            f"[Peer]\nPublicKey = {p.key}\nAllowedIPs = {', '.join(map(str, p.allowed_ips))}\n"
            for p in peers.values()
        )
        settings = f"[Interface]\nPrivateKey = {private_key.reveal()}\nListenPort = {PORT}\n"
        config.write_text(settings + blocks)
        backend = UserspaceDevice(NAME, private_key, marker_path=place / "marker")
        with capture_logs():  # what the backend tells of its device is not for our output
            try:
                yield Subject(backend, private_key, peers, config)
            finally:
                await backend.destroy()


def _peer(token: int) -> WantedPeer:
    """A member that is away: nothing is ever sent to it."""
    return WantedPeer(
        key=PublicKey(os.urandom(32)),
        token_id=token,
        node_id=f"node-{token}",
        allowed_ips=ADDRESSES.hosts(token),
        endpoint=None,
        keepalive=0,
    )


def _lines(peer: WantedPeer) -> str:
    """The fewest lines that make a peer."""
    return f"public_key={peer.key.hex}\n" + "".join(f"allowed_ip={n}\n" for n in peer.allowed_ips)


async def apply_10000_peers(bench: Bench) -> Samples:
    """A change that adds 10,000 peers to an empty device, by the agent's own backend.

    The change is there; what is timed is `apply`: to write it as text, to tell wireguard-go in
    pieces, to hear that it has taken them. Each round has a fresh device with its settings and an
    address. The budget: at most 1.3 times the floor, and not slower than `wg setconf`. The floor
    is one request with the fewest lines that make the same peers, written beforehand, into an
    equally empty device, by an open socket. The parts are `wg setconf` and `wg syncconf` of the
    same peers from a file, from the start of the process to its end.
    """
    samples = Samples()
    count = 1000 if bench.quick else MANY
    async with _subject(count) as subject:
        whole = "set=1\n" + "".join(map(_lines, subject.peers.values())) + "\n"
        change = subject.adding()

        async def ours() -> float:
            began = time.perf_counter()
            await subject.backend.apply(change)
            return time.perf_counter() - began

        async def raw() -> float:
            with Device.at(RUN, NAME) as device:
                began = time.perf_counter()
                answer = await device.ask(whole.encode())
                took = time.perf_counter() - began
            assert answer == b"errno=0\n\n", answer
            return took

        async def tool(how: str) -> float:
            began = time.perf_counter()
            await run("wg", how, NAME, subject.config)
            return time.perf_counter() - began

        ways: list[tuple[list[float], Callable[[], Awaitable[float]]]] = [
            (samples.values, ours),
            (samples.floors, raw),
            (samples.parts.setdefault("setconf", []), lambda: tool("setconf")),
            (samples.parts.setdefault("syncconf", []), lambda: tool("syncconf")),
        ]
        for number in bench.rounds(15):
            # Each begins as often as each other one: the machine may be another one a second later.
            turn = number % len(ways)
            for times, way in ways[turn:] + ways[:turn]:
                await subject.emptied()
                times.append(await way())
                await subject.holds(count)
            bench.told(samples)
    return samples


async def one_change_at_10000(bench: Bench) -> Samples:
    """One peer that is added to a device of 10,000, or removed from it, by the agent's own backend.

    Timed is `apply` as the agent calls it: find the device, see that it is ours, connect, write the
    change, hear the answer. The budget is 5 ms beyond the floor, which is the same change as a
    request that was written beforehand, by a socket that is open.
    """
    samples = Samples()
    count = 1000 if bench.quick else MANY
    async with _subject(count) as subject:
        await subject.emptied()
        await subject.backend.apply(subject.adding())
        peer = _peer(count + 2)
        changes: tuple[PeerChange, ...] = AddPeer(peer=peer), RemovePeer(key=peer.key, reason="")
        requests = _lines(peer), f"public_key={peer.key.hex}\nremove=true\n"
        with Device.at(RUN, NAME) as device:
            for number in bench.rounds(200):
                change = DeviceChange(name=NAME, peers=(changes[number % 2],))
                began = time.perf_counter()
                await subject.backend.apply(change)
                samples.values.append((time.perf_counter() - began) * 1000)
                await subject.holds(count + (number + 1) % 2)
                # What the backend has done to the device is undone, and done once more.
                await device.set(requests[(number + 1) % 2].rstrip().encode())
                request = f"set=1\n{requests[number % 2]}\n".encode()
                began = time.perf_counter()
                answer = await device.ask(request)
                samples.floors.append((time.perf_counter() - began) * 1000)
                assert answer == b"errno=0\n\n", answer
        bench.told(samples)
    return samples
