"""``dstack-vpn access``: whether a node is in, judged from the chain by this command itself."""

from typing import Annotated

import typer

from dstack_vpn.cli.options import AsJson, EnvFile, examples
from dstack_vpn.cli.parse import parse_node_id, parse_public_key
from dstack_vpn.cli.session import read_membership, read_settings
from dstack_vpn.cli.show import put, put_json
from dstack_vpn.mesh.access import find, judge_self
from dstack_vpn.web.render import render_decision

EXAMPLES = examples(
    "dstack-vpn access node-a",
    'dstack-vpn access node-a --key "$(dstack-vpn keys public --file node-a.key)"',
    "dstack-vpn access node-a --json",
)


def access(
    node_id: Annotated[str, typer.Argument(metavar="NODE_ID", help="Name of the node.")],
    key: Annotated[
        str, typer.Option("--key", metavar="PUBLIC_KEY", help="Its token must carry this key.")
    ] = "",
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> int:
    """Judge a node by the chain. Exit code 0 when it is granted access, else 1."""
    name = parse_node_id("NODE_ID", node_id)
    public_key = parse_public_key("--key", key) if key else None
    membership, decisions = read_membership(read_settings(env_file))
    if public_key is None:
        decision = find(decisions, name)
    else:
        decision = judge_self(decisions, name, public_key)
    if as_json:
        block = membership.block
        put_json(render_decision(decision) | {"block": block.number, "blockHash": block.hash})
    else:
        put(f"{decision.verdict}: {decision.reason}")
    return 0 if decision.granted else 1
