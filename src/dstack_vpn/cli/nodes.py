"""``dstack-vpn node list`` and ``node info``: the members as all providers agree on them."""

from typing import Any

from dstack_vpn.chain.checksum import to_checksum
from dstack_vpn.cli.options import AsJson, Commands, EnvFile, NodeRef, examples
from dstack_vpn.cli.parse import parse_node_ref
from dstack_vpn.cli.session import read_membership, read_settings, unknown_node
from dstack_vpn.cli.show import moment, plain, put, put_facts, put_json, put_table
from dstack_vpn.config import Settings
from dstack_vpn.errors import UserError
from dstack_vpn.mesh.access import Decision
from dstack_vpn.mesh.addresses import AddressPlan
from dstack_vpn.mesh.membership import Membership
from dstack_vpn.web.render import render_decision


def list_nodes(env_file: EnvFile = None, as_json: AsJson = False) -> None:
    """List all nodes with the verdict on each."""
    settings = read_settings(env_file)
    membership, decisions = read_membership(settings)
    shown = [_facts(settings, membership, d) for d in decisions]
    if as_json:
        put_json(
            {"block": membership.block.number, "blockHash": membership.block.hash, "nodes": shown}
        )
        return
    if not shown:
        put("the contract has no nodes yet; `dstack-vpn node register` makes the first")
        return
    head = ("TOKEN", "NODE", "VERDICT", "ADDRESS", "ENDPOINT", "PUBLIC KEY")
    put_table(
        head,
        [
            (
                str(node["tokenId"]),
                node["nodeId"],
                node["verdict"],
                (node["addresses"] or ["-"])[0],
                node["endpoint"] or "-",
                node["publicKey"] or "-",
            )
            for node in shown
        ],
    )


def info(node: NodeRef, env_file: EnvFile = None, as_json: AsJson = False) -> None:
    """Show a node as the contract has it. With the verdict on it."""
    settings = read_settings(env_file)
    membership, decisions = read_membership(settings)
    token_id = _find(membership, node)
    decision = next(d for d in decisions if d.token_id == token_id)
    shown = _facts(settings, membership, decision)
    if as_json:
        put_json(shown | {"block": membership.block.number, "blockHash": membership.block.hash})
        return
    put_facts(
        {
            "node": shown["nodeId"],
            "token": shown["tokenId"],
            "verdict": shown["verdict"],
            "reason": shown["reason"],
            "public key": shown["publicKey"],
            "endpoint": shown["endpoint"],
            "addresses": " ".join(shown["addresses"]),
            "holder": shown["holder"],
            "created": moment(shown["createdAt"]),
            "expires": moment(shown["expiresAt"]),
            "at block": membership.block.number,
        }
    )


def _facts(settings: Settings, membership: Membership, decision: Decision) -> dict[str, Any]:
    node = membership.nodes[decision.token_id]
    plan = AddressPlan.of(membership.chain_id, membership.contract, settings.ipv4_range)
    addresses = plan.interfaces(node.token_id) if plan.addressable(node.token_id) else ()
    return render_decision(decision) | {
        "holder": to_checksum(node.holder),
        "endpoint": node.endpoint,
        "addresses": [str(a.ip) for a in addresses],
        "createdAt": node.created_at,
        "expiresAt": node.expires_at,
        "revoked": node.revoked,
        "suspended": node.suspended,
    }


def _find(membership: Membership, text: str) -> int:
    name, number = parse_node_ref(text)
    found = [n for n in membership.nodes.values() if n.node_id == name]
    by_number = None if number is None else membership.nodes.get(number)
    if by_number is not None and by_number not in found:
        found.append(by_number)
    if not found:
        raise unknown_node(text)
    if len(found) > 1:
        choices = " or ".join(f"#{n.token_id}" for n in found)
        raise UserError(f"NODE {plain(text)} could be several tokens; accepted: {choices}")
    return found[0].token_id


COMMANDS: Commands = {
    "list": (list_nodes, examples("dstack-vpn node list", "dstack-vpn node list --json")),
    "info": (info, examples("dstack-vpn node info node-a", "dstack-vpn node info '#7' --json")),
}
