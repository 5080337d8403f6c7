"""Changes to a device that is in use: whoever is not concerned does not notice.

Each test runs with each backend that this machine has. test_vm.py runs those of the kernel where it
lacks WireGuard.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dstack_vpn.mesh.keys import PrivateKey
from lab.fixtures import need_kernel_wireguard, need_lab
from lab.host import Host
from lab.lab import Lab
from lab.process import Process
from lab.tunnel import wg_peers
from lab.waiting import PATIENCE, until

DRIVER = Path(__file__).with_name("driver.py")
SOURCE = DRIVER.parents[2] / "src"

RATES = {"userspace": 250, "kernel": 50}
"""Packets a second: enough to see 4 ms, and few enough for the buffers of a machine that is busy
with other tests, where a process may have to wait for half a second. The kernel's tests mostly run
in an emulated machine, where all takes some 15 times as long."""

CHURN_TIME = 90.0
"""Seconds for the changes there; below the 120 after which a session is renewed in any case."""


WITHOUT_RIGHTS = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")


@pytest.fixture(params=["userspace", "kernel"])
def kind(request: pytest.FixtureRequest) -> str:
    """What makes the devices work."""
    need_lab()
    if request.param == "kernel":
        need_kernel_wireguard()
    return str(request.param)


@dataclass
class Node:
    """The agent's side of a device in a host."""

    host: Host
    address: str
    kind: str
    private_key: PrivateKey = field(default_factory=PrivateKey.generate)
    process: Process | None = None

    async def start(self, *before: str) -> None:
        """Start the agent's process; the device is made or found when the first order comes.

        Args:
            before: a command that starts it, if it is not to be started as it is.
        """
        # The key in arguments is for tests only.
        self.process = await self.host.start(
            *before, sys.executable, DRIVER,
            self.kind, "wg0", self.private_key.reveal(), "/run/marker",
            name="driver", env={"PYTHONPATH": str(SOURCE), "PATH": "/usr/sbin:/usr/bin"},
        )  # fmt: skip

    async def bring(
        self, *peers: "Node", others: int = 0, keepalive: int = 0, listen_port: int = 51820
    ) -> str:
        """Have the device brought to these peers and so many others; return what was said."""
        order: dict[str, Any] = {
            "address": f"{self.address}/16",
            "listen_port": listen_port,
            "others": others,
            "keepalive": keepalive,
            "peers": [
                (peer.private_key.public.text, f"{peer.address}/32", str(peer.host.ip4))
                for peer in peers
            ],
        }
        return await self.order(order)

    async def churn(self, changes: int) -> str:
        """Have so many changes made beside the peers that there are; return what was said."""
        return await self.order({"churn": changes}, within=CHURN_TIME)

    async def order(self, order: dict[str, Any], *, within: float = PATIENCE) -> str:
        """Give the driver an order; its answer."""
        assert self.process is not None
        before = len(self.said())
        self.process.say(json.dumps(order))
        did = f"{self.host.name} did it"
        return await until(lambda: "".join(self.said()[before:]), did, within=within)

    async def accepted(self) -> int:
        """Read how many packets its device has let in."""
        path = "/sys/class/net/wg0/statistics/rx_packets"
        return int((await self.host.run("cat", path)).out)

    def said(self) -> list[str]:
        """The driver's answers so far; its log goes the same way."""
        assert self.process is not None
        lines = self.process.output.rpartition("\n")[0].splitlines()
        return [line for line in lines if line.startswith(("brought ", "failed "))]


def index(said: str) -> int:
    """Which interface the driver has brought; a new one has a new index."""
    done, number, _ = said.split()
    assert done == "brought", said
    return int(number)


async def pair(lab: Lab, kind: str) -> tuple[Node, Node]:
    """Two nodes that are each other's peer, with a session between them."""
    a = Node(await lab.host("a"), "10.98.0.1", kind)
    b = Node(await lab.host("b"), "10.98.0.2", kind)
    for node, other in ((a, b), (b, a)):
        await node.start()
        assert (await node.bring(other)).startswith("brought")
    await a.host.reaches(b.address)
    return a, b


# A minute in an emulated machine.
SLOW_KERNEL = pytest.param("kernel", marks=pytest.mark.slow)


@pytest.mark.parametrize("kind", ["userspace", SLOW_KERNEL], indirect=True)
async def test_peers_come_and_go_beside_a_live_session(lab: Lab, kind: str) -> None:
    """Adding, altering and removing hundreds of peers loses no packet of the peer beside them."""
    a, b = await pair(lab, kind)
    there = await lab.stream(a.host, b.host, b.address, rate=RATES[kind])
    back = await lab.stream(b.host, a.host, a.address, rate=RATES[kind])
    await there.flows()
    await back.flows()
    for others, keepalive in ((1, 0), (500, 0), (500, 3), (250, 3), (1000, 0), (0, 0)):
        for node, other in ((a, b), (b, a)):
            said = await node.bring(other, others=others, keepalive=keepalive)
            assert said.startswith("brought"), said
            peers = (await node.host.run("wg", "show", "wg0", "peers")).out.split()
            assert len(peers) == others + 1
        await there.flows()
        await back.flows()
    assert [(await stream.stop()).lost for stream in (there, back)] == [0, 0]


async def test_a_thousand_changes_go_unnoticed(lab: Lab, kind: str) -> None:
    """A thousand memberships that come and go one by one: no packet lost, the session as it was."""
    a, b = await pair(lab, kind)
    stream = await lab.stream(a.host, b.host, b.address, rate=RATES[kind])
    await stream.flows()
    before = [await wg_peers(node.host) for node in (a, b)]
    for node in (a, b):
        assert (await node.churn(500)).startswith("brought")
        await stream.flows()
    after = [await wg_peers(node.host) for node in (a, b)]
    sessions = [
        [(key, peer.latest_handshake) for key, peer in peers.items()] for peers in before + after
    ]
    assert sessions[:2] == sessions[2:]
    assert (await stream.stop()).lost == 0


async def test_a_killed_agent_leaves_its_device_and_the_next_adopts_it(lab: Lab, kind: str) -> None:
    """SIGKILL of the agent and the start of another lose no packet and end no session."""
    a, b = await pair(lab, kind)
    stream = await lab.stream(a.host, b.host, b.address, rate=RATES[kind])
    await stream.flows()
    first = index(await a.bring(b, others=10))
    assert a.process is not None
    await a.process.kill()
    await stream.flows()
    peers = await wg_peers(a.host)
    assert len(peers) == 11
    await a.start()
    assert index(await a.bring(b, others=10)) == first
    again = await wg_peers(a.host)
    key = b.private_key.public.text
    assert again[key].latest_handshake == peers[key].latest_handshake > 0
    assert again[key].sent >= peers[key].sent
    await stream.flows()
    assert (await stream.stop()).lost == 0


async def test_a_removed_peer_is_silent_at_once(lab: Lab, kind: str) -> None:
    """When the change has been applied no packet of the removed peer is accepted any more."""
    a, b = await pair(lab, kind)
    stream = await lab.stream(a.host, b.host, b.address, rate=RATES[kind])
    await stream.flows()
    done, _, accepted = (await b.bring()).split()
    assert done == "brought"
    await stream.quiet()
    assert await b.accepted() == int(accepted)
    assert (await stream.stop()).lost > 0


async def test_the_kernels_refusals_and_the_devices_of_others(lab: Lab) -> None:
    """Without rights, or with an interface of another kind or key, nothing is changed.

    A device that got our key is ours.
    """
    need_lab()
    need_kernel_wireguard()
    node = Node(await lab.host("a"), "10.98.0.1", "kernel")
    run = node.host.run
    await node.start(*WITHOUT_RIGHTS)
    assert "run as root or with the capability NET_ADMIN" in await node.bring()

    await node.start()
    await run("ip", "link", "add", "wg0", "type", "dummy")
    assert "failed HostError: interface wg0 is taken by another program" in await node.bring()
    await run("ip", "link", "del", "wg0")

    await run("ip", "link", "add", "wg0", "type", "wireguard")
    assert "is taken by a WireGuard device with another key" in await node.bring()
    foreign = PrivateKey.generate()
    peer = ("peer", PrivateKey.generate().public.text, "allowed-ips", "10.98.7.0/24")
    await run("wg", "set", "wg0", "private-key", "/dev/stdin", *peer, text=foreign.reveal())
    before = (await run("wg", "show", "wg0", "dump")).out
    assert "is taken by a WireGuard device with another key" in await node.bring()
    assert (await run("wg", "show", "wg0", "dump")).out == before

    await run("wg", "set", "wg0", "private-key", "/dev/stdin", text=node.private_key.reveal())
    found = int((await run("cat", "/sys/class/net/wg0/ifindex")).out)
    assert index(await node.bring(others=3)) == found
    assert len(await wg_peers(node.host)) == 3


async def test_hosts_that_allow_no_device_say_what_to_do(lab: Lab) -> None:
    """No tun device, no right to make interfaces, a socket directory that is read-only."""
    need_lab()
    node = Node(await lab.host("a"), "10.98.0.1", "userspace")
    await node.start()
    await node.host.run("mount", "-t", "tmpfs", "-o", "ro", "none", "/run/wireguard")
    assert "/run/wireguard cannot be written" in await node.bring()
    await node.host.run("umount", "/run/wireguard")
    await node.host.run("mount", "-t", "tmpfs", "none", "/dev/net")
    assert "there is no /dev/net/tun" in await node.bring()
    await node.host.run("umount", "/dev/net")
    await node.host.run("mkdir", "-p", "/run/empty")
    await node.start(*WITHOUT_RIGHTS)
    said = await node.bring()
    assert "no right to make the interface wg0 (Operation not permitted)" in said
    assert "NET_ADMIN" in said
    await node.start("env", "PATH=/run/empty")
    assert "wireguard-go is not installed" in await node.bring()
    assert not (node.host.run_dir / "marker").exists()


async def test_a_peer_learns_of_a_new_port_at_once(lab: Lab, kind: str) -> None:
    """Nobody sends anything and no keepalive is due: the node speaks by itself, to it alone."""
    a, b = await pair(lab, kind)
    key = a.private_key.public.text
    assert (await wg_peers(b.host))[key].endpoint == f"{a.host.ip4}:51820"

    # The others have no session, so that nothing is said to them.
    assert (await a.bring(b, others=3)).startswith("brought")
    assert (await a.bring(b, others=3, listen_port=51999)).startswith("brought")

    async def knows() -> bool:
        return (await wg_peers(b.host))[key].endpoint == f"{a.host.ip4}:51999"

    await until(knows, "the peer has heard from the new port")
    peers = await wg_peers(a.host)
    assert {peer.keepalive for peer in peers.values()} == {0}
    assert sorted(bool(peer.sent) for peer in peers.values()) == [False, False, False, True]
    await b.host.reaches(a.address)
