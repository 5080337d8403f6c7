"""The interface of a running node in strange hands: all is put right, and told."""

from agent.mesh import Mesh
from agent.test_policy import FAST, ip6
from lab.tunnel import new_keys
from lab.waiting import until

STRANGER = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE="


async def test_each_thing_done_by_hand_is_put_right_and_told(mesh: Mesh) -> None:
    """Link, MTU, addresses, port, key, peers, and all of it: what it was, and that it is right."""
    one, two = await mesh.join(2, settings=FAST)
    own6, key = ip6(mesh, 1), (await new_keys()).private
    deeds = (
        ("ip link set wg0 down", "link wg0 brought up"),
        ("ip link set wg0 mtu 1300", "MTU 1300 -> 1420"),
        ("ip addr del 10.213.0.1/16 dev wg0", "address 10.213.0.1/16 added"),
        (f"ip addr del {own6}/48 dev wg0", f"address {own6}/48 added"),
        ("ip addr add 10.9.0.1/24 dev wg0", "address 10.9.0.1/24 removed"),
        ("wg set wg0 listen-port 4711", "port 4711 -> 51820"),
        (f"echo {key} | wg set wg0 private-key /dev/stdin", "key set"),
        (f"wg set wg0 peer {STRANGER}", f"removed {STRANGER[:8]}"),
        (f"wg set wg0 peer {two.keys.public} remove", f"added {two.node_id}"),
        ("ip link del wg0", "wg0 was gone, and was made anew"),
    )
    for deed, words in deeds:
        await one.host.run("sh", "-c", deed)

        def told(words: str = words) -> bool:
            return any(words in line["what"] for line in one.log("device.repaired"))

        await until(told, words)
        await mesh.has_peers(one, two)
        await one.host.reaches("10.213.0.2")
        await one.host.reaches(ip6(mesh, 2))
