"""``dstack-vpn node``: the signed changes to a node, one function a change."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from dstack_vpn.chain.admin import ContractAdmin, calldata
from dstack_vpn.chain.checksum import to_checksum
from dstack_vpn.cli.options import Commands, NodeRef, examples
from dstack_vpn.cli.parse import (
    parse_address,
    parse_endpoint_text,
    parse_node_id,
    parse_public_key,
    parse_time,
)
from dstack_vpn.cli.session import Named, Signing, find_node, holder_of, write
from dstack_vpn.cli.show import moment
from dstack_vpn.cli.signed import Outcome, change, facts, named, signed

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

To = Annotated[str, typer.Option("--to", metavar="ADDRESS", help="Who shall hold the token.")]


@signed
def register(
    signing: Signing,
    node_id: Annotated[str, typer.Argument(metavar="NODE_ID", help="Name of the new node.")],
    to: To,
    key: Annotated[
        str,
        typer.Option("--key", metavar="PUBLIC_KEY", help="Its key; else its holder sets one."),
    ] = "",
    token_uri: Annotated[
        str, typer.Option("--token-uri", metavar="URI", help="Where the token's metadata is.")
    ] = "",
) -> Outcome:
    """Mint the token of a new node. Signed by the owner of the contract.

    With a key the node is a member at once; without one it is invited, and becomes a member when
    its holder sets a key.
    """
    name = parse_node_id("NODE_ID", node_id)
    holder = to_checksum(parse_address("--to", to))
    public_key = parse_public_key("--key", key).text if key else ""

    async def build(_admin: ContractAdmin, _account: "LocalAccount") -> bytes:
        signature = "mintNodeAccess(address,string,string,string)"
        return calldata(signature, holder, name, public_key, token_uri)

    receipt = write(signing, build)
    invited = "" if key else "; it becomes a member when its holder sets a key"
    return Outcome(
        text=f"registered {name} as token {receipt.token_id} of {holder}{invited}",
        receipt=receipt,
        facts={"nodeId": name, "tokenId": receipt.token_id, "holder": holder},
    )


@signed
def set_key(
    signing: Signing,
    node: NodeRef,
    public_key: Annotated[str, typer.Argument(metavar="PUBLIC_KEY", help="Its new WireGuard key.")],
) -> Outcome:
    """Set a node's WireGuard key; the old one is spent for ever. Signed by the token's holder."""
    key = parse_public_key("PUBLIC_KEY", public_key).text
    found, receipt = change(signing, node, "setPublicKey(uint256,string)", key)
    text = f"{named(found)} has the key {key}; a key that it had before is spent"
    return Outcome(text=text, receipt=receipt, facts=facts(found, publicKey=key))


@signed
def set_endpoint(
    signing: Signing,
    node: NodeRef,
    endpoint: Annotated[
        str, typer.Argument(metavar="HOST:PORT", help="Where it can be reached; '' for nowhere.")
    ],
) -> Outcome:
    """Publish where a node can be reached. Signed by the token's holder."""
    where = parse_endpoint_text("HOST:PORT", endpoint)
    found, receipt = change(signing, node, "setEndpoint(uint256,string)", where)
    said = f"can be reached at {where}" if where else "publishes no endpoint any more"
    return Outcome(
        text=f"{named(found)} {said}", receipt=receipt, facts=facts(found, endpoint=where)
    )


@signed
def revoke(signing: Signing, node: NodeRef) -> Outcome:
    """Take a node's access away: every member drops it. Signed by the owner or a guardian."""
    found, receipt = change(signing, node, "revokeNodeAccess(uint256)")
    text = f"revoked {named(found)}: members drop it as they see block {receipt.block}"
    return Outcome(text=text, receipt=receipt, facts=facts(found))


@signed
def restore(signing: Signing, node: NodeRef) -> Outcome:
    """Lift a revocation; the node's own key lives again. Signed by the owner of the contract."""
    found, receipt = change(signing, node, "restoreNodeAccess(uint256)")
    text = f"restored {named(found)}; if its key was stolen, its holder should set a new one"
    return Outcome(text=text, receipt=receipt, facts=facts(found))


@signed
def transfer(signing: Signing, node: NodeRef, to: To) -> Outcome:
    """Give a node's token to somebody else. Signed by the token's holder.

    The node is out at once, the key that it had is spent, and it comes back when the new holder
    sets a key.
    """
    receiver = to_checksum(parse_address("--to", to))
    found: list[Named] = []

    async def build(admin: ContractAdmin, _account: "LocalAccount") -> bytes:
        found.append(await find_node(admin, node))
        holder = await holder_of(admin, found[0].token_id)
        # The safe form refuses a contract that could never give the token away again.
        signature = "safeTransferFrom(address,address,uint256)"
        return calldata(signature, holder, receiver, found[0].token_id)

    receipt = write(signing, build)
    text = f"{receiver} holds {named(found[0])}; the node is out until its new holder sets a key"
    return Outcome(text=text, receipt=receipt, facts=facts(found[0], holder=receiver))


@signed
def renew(
    signing: Signing,
    node: NodeRef,
    until: Annotated[
        str,
        typer.Option(
            "--until",
            metavar="TIME",
            help="never, +30d (s, m, h, d, w), 2030-01-31, 2030-01-31T12:00:00Z or Unix seconds.",
        ),
    ],
) -> Outcome:
    """Set when a node's access ends. A past time ends it at once. Signed by the owner."""
    expires_at = parse_time("--until", until, now=time.time())
    found, receipt = change(signing, node, "renewNodeAccess(uint256,uint64)", expires_at)
    ends = f"ends {moment(expires_at)}" if expires_at else "does not expire"
    return Outcome(
        text=f"access of {named(found)} {ends}",
        receipt=receipt,
        facts=facts(found, expiresAt=expires_at),
    )


@signed
def burn(signing: Signing, node: NodeRef) -> Outcome:
    """End a node's token for good; its node id is free again. Signed by the holder or the owner."""
    found, receipt = change(signing, node, "burn(uint256)")
    text = f"burned {named(found)}: its node id is free again, its key is spent"
    return Outcome(text=text, receipt=receipt, facts=facts(found))


COMMANDS: Commands = {
    "register": (
        register,
        examples(
            "dstack-vpn node register node-a --to 0x7099… --key PUBLIC_KEY",
            "dstack-vpn node register node-b --to 0x7099…       its holder sets the key",
        ),
    ),
    "set-key": (set_key, examples("dstack-vpn node set-key node-a PUBLIC_KEY")),
    "set-endpoint": (
        set_endpoint,
        examples(
            "dstack-vpn node set-endpoint node-a vpn.example.org:51820",
            "dstack-vpn node set-endpoint node-a '[2001:db8::7]:51820'",
        ),
    ),
    "revoke": (
        revoke,
        examples("dstack-vpn node revoke node-a", "dstack-vpn node revoke '#7' --json"),
    ),
    "restore": (restore, examples("dstack-vpn node restore node-a")),
    "transfer": (transfer, examples("dstack-vpn node transfer node-a --to 0x3C44…")),
    "renew": (
        renew,
        examples(
            "dstack-vpn node renew node-a --until +90d",
            "dstack-vpn node renew node-a --until 2030-01-31",
            "dstack-vpn node renew node-a --until never",
        ),
    ),
    "burn": (burn, examples("dstack-vpn node burn node-a")),
}
