"""Hosts and switches: reachability, cuts, and the end of everything in a host."""

import asyncio
import contextlib
import os
import sys
import time
from pathlib import Path

from lab.chain import REPOSITORY
from lab.fixtures import need_lab
from lab.host import Host, block_udp, unblock_udp
from lab.lab import Lab
from lab.process import run
from lab.tunnel import wg_peers
from lab.waiting import until


async def test_hosts_reach_each_other_and_the_lab(lab: Lab, hosts: tuple[Host, Host]) -> None:
    """Two hosts and the lab itself talk over the switch, by IPv4 and IPv6."""
    a, b = hosts
    for target in (b.ip4, b.ip6, lab.switch.ip4, lab.switch.ip6):
        assert await a.reaches(target) > 0
    assert (await run("ping", "-n", "-c", "1", "-W", "5", str(a.ip6))).code == 0


async def test_hosts_have_networks_processes_and_run_of_their_own(
    hosts: tuple[Host, Host],
) -> None:
    """A host sees its own interfaces (in /sys too), its own processes and its own /run."""
    a, b = hosts
    links = (await a.run("ls", "/sys/class/net")).out.split()
    assert sorted(links) == ["eth0", "lo"]
    processes = (await a.run("ps", "-A", "-o", "comm=")).out.split()
    assert processes == ["cat", "ps"]
    await a.run("touch", "/run/only-in-a")
    assert (a.run_dir / "only-in-a").exists()
    assert (await b.run("ls", "/var/run/only-in-a", check=False)).code != 0


async def test_a_cut_cable_is_silent_and_mends(hosts: tuple[Host, Host]) -> None:
    """A cut host hears nothing although its carrier is up, and is back when the cable is."""
    a, b = hosts
    await a.reaches(b.ip4)
    await b.cut()
    assert await a.ping(b.ip4, within=0.3) is None
    assert (await b.run("cat", "/sys/class/net/eth0/carrier")).out.strip() == "1"
    await b.restore()
    await a.reaches(b.ip4)


async def test_udp_can_be_blocked_between_two_hosts(lab: Lab, hosts: tuple[Host, Host]) -> None:
    """Blocked UDP is lost without an error at the sender, while pings pass, and others' UDP too."""
    a, b = hosts
    c = await lab.host("c")
    blocked = await lab.stream(a, b, b.ip4)
    other = await lab.stream(c, b, b.ip4)
    await blocked.flows()
    await block_udp(a, b)
    await blocked.quiet()
    assert await a.ping(b.ip4) is not None
    await other.flows()
    await unblock_udp(a, b)
    await blocked.flows()
    report = await blocked.stop()
    assert report.lost > 0
    assert report.refused == 0
    assert report.arrivals.longest_gap >= 0.3
    assert (await other.stop()).lost == 0


async def test_exit_codes_and_output_of_commands_in_a_host(hosts: tuple[Host, Host]) -> None:
    """A command in a host ends with its own exit code, or with the signal that killed it."""
    a, _ = hosts
    assert (await a.run("sh", "-c", "echo out; echo err >&2; exit 7", check=False)).code == 7
    process = await a.start("sleep", "600", name="sleep")
    assert name_of(process.pid) == "sleep"
    assert await process.stop() == -15


async def test_killing_what_starts_a_program_kills_the_program(hosts: tuple[Host, Host]) -> None:
    """A program in a host dies with its parent outside of the host."""
    a, _ = hosts
    process = await a.start("sleep", "600", name="sleep")
    os.kill(process.parent_pid, 9)
    await until(lambda: name_of(process.pid) is None, "the program is gone")
    await process.wait()


async def test_a_host_dies_with_its_holder(hosts: tuple[Host, Host]) -> None:
    """SIGKILL of the holder ends every process of the host, daemons and stopped ones included."""
    a, b = hosts
    seconds = f"{time.monotonic_ns()}"  # a word that no other test has on a command line
    await a.run("sh", "-c", f"setsid sleep {seconds} >/dev/null 2>&1 &")
    stopped = await a.start("sleep", seconds, name="sleep")
    await stopped.pause()
    await until(lambda: len(running(f"sleep {seconds}")) == 2, "daemon and stopped program run")
    await a.kill()
    await until(lambda: not running(f"sleep {seconds}"), "no process of the host is left")
    await stopped.wait()
    assert await b.ping(a.ip4, within=0.3) is None


async def test_orphans_in_a_host_are_buried(hosts: tuple[Host, Host]) -> None:
    """No zombie stays when a daemon of a host ends."""
    a, _ = hosts
    await a.run("sh", "-c", "sleep 0.01 >/dev/null 2>&1 & exit 0")

    async def buried() -> bool:
        return "sleep" not in (await a.run("ps", "-A", "-o", "comm=")).out

    await until(buried, "the orphan is gone")


async def test_a_host_keeps_its_files_over_a_power_cut(lab: Lab) -> None:
    """A host of the same name boots again with the /run that it had."""
    a = await lab.host("a")
    await a.run("sh", "-c", "echo kept > /run/file")
    await a.close()
    again = await lab.host("a")
    assert (await again.run("cat", "/run/file")).out == "kept\n"


CLOSING = """
import asyncio
from pathlib import Path
from lab.lab import Lab
from lab.traffic import Stream

def belongings():
    links = [line.split(":")[0] for line in Path("/proc/net/dev").read_text().splitlines()[2:]]
    processes = [path.name for path in Path("/proc").iterdir() if path.name.isdigit()]
    return sorted(links), sorted(processes), list(Path("/run/lab").iterdir())

async def experiment():
    async with Lab.open() as lab:
        a, b = await lab.host("a"), await lab.host("b")
        await lab.chain()
        await lab.tunnel(a, b)
        await Stream.start(a, b, str(b.ip4))
        return belongings()

before = belongings()
assert asyncio.run(experiment()) > before
assert belongings() == before, (before, belongings())
"""


async def test_closing_a_lab_leaves_nothing() -> None:
    """After `Lab.open` there is no interface, no file and no process more than before."""
    need_lab()
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "tests")}
    # In a world of its own, where no other test leaves and takes things.
    await run(REPOSITORY / "scripts/lab", sys.executable, "-c", CLOSING, env=environment)


async def test_labs_of_one_world_do_not_collide() -> None:
    """Labs that are open at once have their own addresses, and none hears the other's hosts."""
    need_lab()

    async def experiment() -> tuple[str, int]:
        async with Lab.open() as lab:
            a, b = await lab.host("a"), await lab.host("b")
            tunnel = await lab.tunnel(a, b)
            stream = await lab.stream(a, b, tunnel.b.address)
            await stream.flows(200)
            return str(lab.switch.ip4), (await stream.stop()).lost

    done = await asyncio.gather(*(experiment() for _ in range(3)))
    assert len({address for address, _ in done}) == 3
    assert [lost for _, lost in done] == [0, 0, 0]


async def test_a_tunnel_by_hand_passes_a_stream(lab: Lab, hosts: tuple[Host, Host]) -> None:
    """wireguard-go between two hosts loses nothing, until the peer is removed: then everything."""
    a, b = hosts
    tunnel = await lab.tunnel(a, b)
    stream = await lab.stream(a, b, tunnel.b.address, rate=1000)
    await stream.flows(500)
    report = await stream.stop()
    assert report.sent >= 500
    assert (report.lost, report.refused, report.arrivals.duplicates) == (0, 0, 0)
    assert 0 < report.arrivals.longest_gap < 1

    peers = await wg_peers(b)
    assert set(peers) == {tunnel.a.keys.public}
    peer = peers[tunnel.a.keys.public]
    assert peer.allowed_ips == {f"{tunnel.a.address}/32"}
    assert peer.endpoint == f"{a.ip4}:51820"
    assert peer.latest_handshake > 0
    assert peer.received > report.sent * 16

    second = await lab.stream(a, b, tunnel.b.address)
    await second.flows()
    await tunnel.b.remove(tunnel.a)
    assert await wg_peers(b) == {}
    last = (await second.quiet()).last
    ended = await second.stop()
    assert ended.lost > 0
    assert ended.arrivals.last == last


def name_of(pid: int) -> str | None:
    """The name of a process, or None when there is none."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None


def running(command: str) -> list[str]:
    """The processes of this world with this command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if path.read_bytes().decode().split("\0")[:-1] == command.split():
                found.append(path.parent.name)
    return found
