"""What the host's routing says of the mesh, on running nodes: no leak, no transit, no strangers."""

import json

import pytest

from agent.commands import answer
from agent.mesh import Mesh
from dstack_vpn.mesh.addresses import AddressPlan
from dstack_vpn.mesh.membership import Address
from lab.agent import Agent
from lab.host import Host
from lab.waiting import until

V4 = "10.213.0.0/16"
FAST = {"SYNC_INTERVAL": "200"}


def ip6(mesh: Mesh, token: int) -> str:
    """The IPv6 address of a member."""
    ranges = AddressPlan.of(31337, Address(mesh.nft.address.lower())).interfaces(token)
    return str(next(a.ip for a in ranges if a.version == 6))


async def routes_out(host: Host) -> None:
    """Give the host default routes, so that what has no other way leaves by them."""
    await host.run("ip", "route", "replace", "default", "dev", "eth0")
    await host.run("ip", "-6", "route", "replace", "default", "dev", "eth0")


async def refuses(host: Host, address: str) -> None:
    """Wait until the host knows no way to an address, and says so at once."""

    async def look() -> bool:
        found = await host.run("ip", "route", "get", address, check=False)
        return found.code != 0 and "No route to host" in found.out

    await until(look, f"{host.name} has no way to {address}")


async def rules(host: Host) -> list[str]:
    """The policy rules that are ours, of both families."""
    found = []
    for family in ("-4", "-6"):
        text = (await host.run("ip", "-json", family, "rule", "show", "iif", "wg0")).out
        found += [f"{family} {r.get('table') or r['action']}" for r in json.loads(text or "[]")]
    return found


async def reaches(host: Host, address: str) -> bool:
    """Whether a ping is answered."""
    return await host.ping(address, within=0.5) is not None


async def test_nothing_for_the_mesh_leaves_in_the_clear(mesh: Mesh) -> None:
    """No member yet, no device any more, killed altogether: there is no other way out.

    After a wanted stop the host is as it was.
    """
    one = await mesh.node()
    await routes_out(one.host)
    other4, other6 = "10.213.0.9", ip6(mesh, 9)
    await one.start()
    await refuses(one.host, other4)
    await refuses(one.host, other6)

    await mesh.mint(one)
    await one.wait_ready()
    assert " dev wg0 " in (await one.host.run("ip", "route", "get", other4)).out
    assert " dev wg0 " in (await one.host.run("ip", "route", "get", other6)).out

    await one.kill()
    await one.host.run("ip", "link", "del", "wg0")
    await refuses(one.host, other4)
    await refuses(one.host, other6)

    await one.start()
    await one.wait_ready()
    assert await one.stop() == 0
    for address in (other4, other6):
        assert " dev eth0 " in (await one.host.run("ip", "route", "get", address)).out
    assert await rules(one.host) == []


async def test_what_was_deleted_by_hand_comes_back(mesh: Mesh) -> None:
    """Routes of the device, unreachable ones, and rules, of both families; and it is told."""
    one, _ = await mesh.join(2, settings=FAST)
    host = one.host
    v6 = ip6(mesh, 2)
    range6 = str(AddressPlan.of(31337, Address(mesh.nft.address.lower())).networks[1])
    for line in (
        ("-4", "route", "del", V4, "dev", "wg0"),
        ("-6", "route", "del", range6, "dev", "wg0"),
        ("-4", "route", "del", "unreachable", V4),
        ("-6", "route", "del", "unreachable", range6),
        ("-4", "rule", "del", "pref", "50"),
        ("-4", "rule", "del", "pref", "51"),
        ("-6", "rule", "del", "pref", "50"),
        ("-6", "rule", "del", "pref", "51"),
    ):
        await host.run("ip", *line)

    def told() -> bool:
        what = " ".join(line["what"] for line in one.log("device.repaired"))
        words = (f"route add {V4} dev wg0", f"route add {range6} dev wg0",
                 f"route add unreachable {V4}", f"route add unreachable {range6}",
                 "rule add pref 50", "rule add pref 51")  # fmt: skip
        return all(word in what for word in words)

    await until(told, "the repairs are told")
    assert await rules(host) == ["-4 local", "-4 blackhole", "-6 local", "-6 blackhole"]
    await host.reaches("10.213.0.2")
    await host.reaches(v6)


async def test_what_others_put_in_its_way_is_told_and_left_alone(mesh: Mesh) -> None:
    """A route into the mesh, and a rule before ours: one line each, however often one looks."""
    (one,) = await mesh.join(1, settings=FAST)
    host = one.host
    route = ("10.213.5.0/24", "dev", "eth0")
    await host.run("ip", "route", "add", *route)
    await host.run("ip", "-6", "rule", "add", "lookup", "main", "suppress_prefixlength", "0")

    await until(lambda: one.log("host.foreign_route"), "the route is told")
    await until(lambda: one.log("host.foreign_rule"), "the rule is told")
    (told,) = one.log("host.foreign_route")
    assert "the route '10.213.5.0/24 dev eth0' of this host" in told["reason"]
    code, verified = await answer(one, "verify", "--within", "0")
    assert code == 1
    assert {d["kind"] for d in verified["differences"]} == {"route-foreign", "rule-foreign"}

    await host.run("ip", "route", "del", *route)

    async def is_well() -> bool:
        found = (await answer(one, "verify", "--within", "0"))[1]["differences"]
        return [d["kind"] for d in found] == ["rule-foreign"]

    await until(is_well, "the route is gone")
    # A repair of something else shows that it has looked since.
    await host.run("ip", "route", "del", "unreachable", V4)
    await until(lambda: one.log("device.repaired"), "it looks again")
    await host.run("ip", "route", "add", *route)
    await until(lambda: len(one.log("host.foreign_route")) == 2, "it is told again")
    assert len(one.log("host.foreign_rule")) == 1
    assert "5.0/24" in (await host.run("ip", "route", "show", "10.213.5.0/24")).out


@pytest.mark.parametrize("forwarding", ["off", "on"])
async def test_members_go_through_a_node_only_where_it_is_asked_for(
    mesh: Mesh, forwarding: str
) -> None:
    """A host behind a node, on a machine that forwards: reached with FORWARDING=on alone."""
    settings = {"FORWARDING": forwarding, "SYNC_INTERVAL": "3600000"}
    one, two = await mesh.join(2, settings=settings)
    behind = await mesh.lab.host("behind")
    for name in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
        await one.host.run("sh", "-c", f"echo 1 > /proc/sys/{name}")
    own6 = ip6(mesh, 2)
    await behind.run("ip", "route", "add", "10.213.0.2", "via", str(one.host.ip4))
    await behind.run("ip", "-6", "route", "add", own6, "via", str(one.host.ip6))
    # The member sends all of that by its tunnel to the node; its agent would put that right.
    await two.kill()
    targets = (str(behind.ip4), str(behind.ip6))
    allowed = ["10.213.0.1/32", f"{ip6(mesh, 1)}/128", f"{targets[0]}/32", f"{targets[1]}/128"]
    await two.host.run(
        "wg", "set", "wg0", "peer", one.keys.public, "allowed-ips", ",".join(allowed)
    )
    for target in targets:
        await two.host.run("ip", "route", "add", target, "dev", "wg0")

    if forwarding == "on":
        for target in targets:
            await two.host.reaches(target)
        assert await rules(one.host) == []
        return
    await two.host.reaches("10.213.0.1")
    await two.host.reaches(ip6(mesh, 1))
    for target in targets:
        assert not await reaches(two.host, target)


async def test_a_source_that_is_not_the_peers_is_dropped(mesh: Mesh) -> None:
    """A member who sends with another address than its own is not heard, IPv4 and IPv6."""
    one, two = await mesh.join(2, settings={"SYNC_INTERVAL": "3600000"})
    forged = {"ip": "10.213.0.77", "ip6": ip6(mesh, 77)}
    counters = "".join(
        f"  iifname wg0 {family} saddr {address} counter name seen\n"
        f"  iifname wg0 {family} saddr != {address} counter name others\n"
        for family, address in forged.items()
    )
    await one.host.run(
        "nft", "-f", "-",
        text="table inet watch {\n counter seen {\n }\n counter others {\n }\n chain input {\n"
        f"  type filter hook input priority 0;\n{counters} }}\n}}\n",
    )  # fmt: skip

    async def counted(name: str) -> int:
        text = (await one.host.run("nft", "-j", "list", "counter", "inet", "watch", name)).out
        return int(json.loads(text)["nftables"][1]["counter"]["packets"])

    for address in forged.values():
        length = 128 if ":" in address else 32
        await two.host.run("ip", "addr", "add", f"{address}/{length}", "dev", "lo")
    before = await received(one)
    for source, target in ((forged["ip"], "10.213.0.1"), (forged["ip6"], ip6(mesh, 1))):
        await two.host.run("ping", "-n", "-c", "2", "-W", "1", "-I", source, target, check=False)

    assert await received(one) > before, "the packets came, in the tunnel"
    await two.host.reaches("10.213.0.1")
    await two.host.reaches(ip6(mesh, 1))
    assert await counted("others") > 0
    assert await counted("seen") == 0


async def received(agent: Agent) -> int:
    """Bytes that the node's device had from its one peer."""
    (peer,) = (await agent.wg_peers()).values()
    return peer.received
