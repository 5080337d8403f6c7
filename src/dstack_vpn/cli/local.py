"""``deploy keys`` and ``deploy local-network``: the one-shot services of the Compose file.

They run in containers that have the nodes' volumes; the nodes' private keys never leave those. Both
find out first what is there already, so they may run as often as one likes.
"""

import asyncio
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dstack_vpn.chain.admin import ContractAdmin, calldata
from dstack_vpn.chain.checksum import to_checksum
from dstack_vpn.cli.options import PATIENCE, AsJson, Patience
from dstack_vpn.cli.parse import parse_node_id
from dstack_vpn.cli.session import (
    Signing,
    deploy,
    open_admin,
    read_membership,
    read_settings,
    write,
)
from dstack_vpn.cli.show import put, put_json
from dstack_vpn.cli.signer import load_account
from dstack_vpn.config import Settings, load_settings
from dstack_vpn.errors import HostError, ProviderError, SettingError, UserError
from dstack_vpn.identity import load_identity
from dstack_vpn.mesh.keys import PublicKey
from dstack_vpn.mesh.membership import Membership, Node

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

PAUSE = 0.2
"""Seconds between two looks for a chain that is not there yet."""
MAX_FEE = 1000.0
"""Gwei. The coins of a local chain are worth nothing."""
PRIVATE = 0o700
"""Mode of a state directory."""

NodeDirs = Annotated[
    list[str],
    typer.Argument(metavar="NODE_ID=DIR...", help="Nodes, each with its state directory."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class _LocalNode:
    """A node whose state directory is at hand."""

    node_id: str
    key: PublicKey


def keys(nodes: NodeDirs, as_json: AsJson = False) -> None:
    """Make the WireGuard keys of nodes in their state directories, as far as there are none."""
    found = [_with_key(text) for text in nodes]
    if as_json:
        put_json({node.node_id: node.key.text for node in found})
    else:
        for node in found:
            put(f"{node.node_id} {node.key}")


def local_network(
    nodes: NodeDirs,
    patience: Patience = PATIENCE,
    as_json: AsJson = False,
) -> None:
    """Put nodes on the list of a local chain, with the keys, contract and tokens that lack.

    A node that was revoked stays revoked. Signed with the key of CONTRACT_PRIVATE_KEY_FILE.
    """
    settings = read_settings(None)
    if settings.network.public:
        accepted = "hardhat; on a public chain the owner admits nodes himself"
        raise SettingError("NETWORK", f"is {settings.network.name}", accepted)
    account = load_account(None, None)
    signing = Signing(env_file=None, keystore=None, patience=patience, max_fee=MAX_FEE)
    found = [_with_key(text) for text in nodes]
    if not asyncio.run(_contract_exists(settings, patience)):
        _deploy(settings, signing)
    membership, _ = read_membership(settings)
    done = [_admit(node, membership, account, signing) for node in found]
    if as_json:
        put_json({"contract": to_checksum(settings.contract), "nodes": done})
    else:
        put(f"the contract is {to_checksum(settings.contract)}")
        for facts in done:
            put(f"{facts['nodeId']} {facts['publicKey']}: {facts['done']}")


def _with_key(text: str) -> _LocalNode:
    name, equals, directory = text.partition("=")
    if not equals or not directory.startswith("/"):
        raise SettingError("NODE_ID=DIR", f"is {text[:60]!a}", "a node id, =, and an absolute path")
    node_id = parse_node_id("NODE_ID=DIR", name)
    # By the rule of the agent's own first start, so that it finds what it would have made.
    settings = load_settings({"NODE_ID": node_id, "STATE_DIR": directory, "NETWORK": "hardhat"})
    key = load_identity(settings).public
    _make_private(settings.state_dir)
    return _LocalNode(node_id=node_id, key=key)


def _make_private(directory: Path) -> None:
    """Keep others out of a state directory: a volume that is mounted first here has mode 0755."""
    try:
        if stat.S_IMODE(directory.stat().st_mode) != PRIVATE:
            directory.chmod(PRIVATE)
    except OSError as error:
        raise HostError(f"{directory} cannot be given mode 0700: {error.strerror}") from None


async def _contract_exists(settings: Settings, patience: float) -> bool:
    """Wait for the chain, and see whether the contract is on it."""
    deadline = time.monotonic() + patience
    while True:
        try:
            async with open_admin(settings, deployed=False) as admin:
                return bool(await admin.code())
        except ProviderError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(PAUSE)


def _deploy(settings: Settings, signing: Signing) -> None:
    receipt, _, _ = deploy(signing)
    if receipt.created != settings.contract:
        raise UserError(
            f"the contract was made at {to_checksum(receipt.created or '')}, not at"
            f" {to_checksum(settings.contract)}, since the owner's account was used before;"
            " accepted: CONTRACT_ADDRESS with that address, or a chain that begins anew"
        )


def _admit(
    node: _LocalNode, membership: Membership, account: "LocalAccount", signing: Signing
) -> dict[str, Any]:
    """Bring a node's token to its key; what was done, and facts."""
    token = next((n for n in membership.nodes.values() if n.node_id == node.node_id), None)
    done = _difference(node, token)
    if done == "registered":
        signature = "mintNodeAccess(address,string,string,string)"
        _write(signing, signature, account.address, node.node_id, node.key.text, "")
    elif token is not None and done == "has a new key":
        try:
            _write(signing, "setPublicKey(uint256,string)", token.token_id, node.key.text)
        except UserError as refused:
            # Such as a key of one's own, which came as a secret after this one was spent.
            done = f"keeps the key that its token has ({refused})"
    return {"nodeId": node.node_id, "publicKey": node.key.text, "done": done}


def _difference(node: _LocalNode, token: Node | None) -> str:
    if token is None:
        return "registered"
    if token.revoked:
        return "is revoked, and stays so"
    return "is registered" if token.key == node.key.raw else "has a new key"


def _write(signing: Signing, signature: str, *arguments: object) -> None:
    async def build(_admin: ContractAdmin, _account: "LocalAccount") -> bytes:
        return calldata(signature, *arguments)

    write(signing, build)
