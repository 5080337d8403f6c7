"""A machine of the lab: network, processes, mounts and /run of its own.

What holds a host is one `cat` that is process 1 of its PID namespace and reads from a pipe of ours:
when it ends, by `close` or because we died, the kernel kills every process of the host and then
takes its network. The host's /run is a directory of the lab, so a UAPI socket of the host can be
opened from outside (`host.run_dir / "wireguard/wg0.sock"`), and files survive the host.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Self

from lab.process import Finished, Process, run
from lab.switch import Addresses, Switch
from lab.waiting import PATIENCE, until

# /sys has to be mounted anew: it shows the network of whoever mounted it. Process 1 must bury the
# orphans that a daemon leaves; ignoring SIGCHLD makes the kernel do it.
HOLD = """
mount --bind "$1" /run && mount -t sysfs sysfs /sys && ip link set lo up &&
{ [ /var/run -ef /run ] || mount --bind /run /var/run; } &&
echo holding && exec env --ignore-signal=CHLD cat
"""
UNSHARE = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")

# Dropped on input, since a drop on output would tell the sender (EPERM), as no network ever does.
DEAF = """
add table inet lab
delete table inet lab
table inet lab {{
  chain input {{
    type filter hook input priority -300;
    ip saddr {{ {ip4} }} meta l4proto udp counter drop
    ip6 saddr {{ {ip6} }} meta l4proto udp counter drop
  }}
}}
"""
HEARING = "add table inet lab\ndelete table inet lab\n"


@dataclass(slots=True)
class Host:
    """A machine on a switch; made by `boot`."""

    name: str
    run_dir: Path  #: the host's /run, as seen from the lab
    log_dir: Path
    switch: Switch
    addresses: Addresses
    port: str  #: the switch's end of its cable
    _holder: Process
    deaf_to: tuple["Host", ...] = ()

    @classmethod
    async def boot(cls, name: str, *, switch: Switch, run_dir: Path, log_dir: Path) -> Self:
        """Start an empty machine and plug it in."""
        (run_dir / "wireguard").mkdir(parents=True, exist_ok=True)
        holder = await Process.start(
            *UNSHARE, "sh", "-c", HOLD, "host", run_dir, name=name, log=log_dir / f"{name}.host"
        )
        try:
            await holder.line("holding")
            addresses = switch.take()
            port = f"{switch.name}p{int(addresses.ip4.ip) & 0xFF}"
            host = cls(name, run_dir, log_dir, switch, addresses, port, holder)
            await host._plug_in()
        except BaseException:
            await holder.kill()
            raise
        return host

    async def _plug_in(self) -> None:
        peer = ("peer", "name", "eth0", "netns", str(self._holder.pid))
        await run("ip", "link", "add", self.port, "type", "veth", *peer)
        await run("ip", "link", "set", self.port, "master", self.switch.name, "up")
        await self.run("ip", "addr", "add", str(self.addresses.ip4), "dev", "eth0")
        await self.run("ip", "addr", "add", str(self.addresses.ip6), "dev", "eth0", "nodad")
        await self.run("ip", "link", "set", "eth0", "up")

    @property
    def ip4(self) -> IPv4Address:
        """Its IPv4 address on the switch."""
        return self.addresses.ip4.ip

    @property
    def ip6(self) -> IPv6Address:
        """Its IPv6 address on the switch."""
        return self.addresses.ip6.ip

    @property
    def entry(self) -> tuple[str, ...]:
        """The words before a command that make it run in this host."""
        pid = self._holder.pid
        # The holder is `unshare` itself, which is not in the PID namespace that it made.
        enter = (
            "nsenter",
            "-F",
            "-t",
            str(pid),
            "-n",
            "-m",
            f"--pid=/proc/{pid}/ns/pid_for_children",
        )
        # `unshare` that unshares nothing is the parent we want: it kills its child when it dies.
        # nsenter's own fork would not, and would stop itself whenever the child is stopped.
        return (*enter, "unshare", "--fork", "--kill-child")

    async def run(
        self,
        *argv: str | Path,
        check: bool = True,
        within: float = PATIENCE,
        env: Mapping[str, str] | None = None,
        text: str = "",
    ) -> Finished:
        """Run a command in the host to its end."""
        return await run(*self.entry, *argv, check=check, within=within, env=env, text=text)

    async def start(
        self, *argv: str | Path, name: str, env: Mapping[str, str] | None = None
    ) -> Process:
        """Start a program in the host; its output goes to `log_dir`/host.name.log."""
        log = self.log_dir / f"{self.name}.{name}.log"
        return await Process.start(
            *argv, name=f"{self.name}.{name}", log=log, env=env, entry=self.entry
        )

    async def ping(self, address: object, *, within: float = 1.0) -> float | None:
        """Send one echo request; the round trip in milliseconds, or None when nothing came back."""
        answer = await self.run(
            "ping", "-n", "-c", "1", "-W", f"{within:g}", str(address), check=False
        )
        found = re.search(r"time=([\d.]+) ms", answer.out)
        return float(found[1]) if answer.code == 0 and found else None

    async def reaches(self, address: object, *, within: float = PATIENCE) -> float:
        """Ping until an answer comes, and return that round trip in milliseconds."""
        return await until(
            lambda: self.ping(address, within=0.2), f"{self.name} reaches {address}", within=within
        )

    async def cut(self) -> None:
        """Cut its cable in silence: the host still sees a carrier, and no packet passes."""
        await run("bridge", "link", "set", "dev", self.port, "state", "0")

    async def restore(self) -> None:
        """Mend its cable."""
        await run("bridge", "link", "set", "dev", self.port, "state", "3")

    async def hear_no_udp_from(self, *hosts: "Host") -> None:
        """Drop UDP that comes from these hosts, and from no other."""
        text = HEARING
        if hosts:
            ip4, ip6 = (
                ", ".join(str(getattr(host, ip)) for host in hosts) for ip in ("ip4", "ip6")
            )
            text = DEAF.format(ip4=ip4, ip6=ip6)
        await self.run("nft", "-f", "-", text=text)
        self.deaf_to = hosts

    async def kill(self) -> None:
        """Cut its power: SIGKILL for what holds it."""
        await self._holder.kill()
        await self._pull_out()

    async def close(self) -> None:
        """Turn it off and wait until every process in it is gone; its files stay."""
        await self._holder.hang_up()
        await self._pull_out()

    async def _pull_out(self) -> None:
        # The cable goes with the host's network, but the kernel takes its time for that, and until
        # then the dead host still answers pings.
        await run("ip", "link", "del", self.port, check=False)


async def block_udp(a: Host, b: Host) -> None:
    """Let no UDP pass between two hosts, without telling them; TCP and ping still do."""
    await a.hear_no_udp_from(*a.deaf_to, b)
    await b.hear_no_udp_from(*b.deaf_to, a)


async def unblock_udp(a: Host, b: Host) -> None:
    """Undo `block_udp`."""
    await a.hear_no_udp_from(*(host for host in a.deaf_to if host is not b))
    await b.hear_no_udp_from(*(host for host in b.deaf_to if host is not a))
