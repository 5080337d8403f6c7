"""``dstack-vpn contract``: making the membership contract, looking at it, and who rules it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dstack_vpn.chain.admin import ContractAdmin, artifact, calldata
from dstack_vpn.chain.checksum import to_checksum
from dstack_vpn.chain.keccak import keccak256
from dstack_vpn.cli.options import AsJson, Commands, EnvFile, examples
from dstack_vpn.cli.parse import parse_address, parse_public_key
from dstack_vpn.cli.session import Signing, ask_contract, read_settings, write
from dstack_vpn.cli.session import deploy as deploy_contract
from dstack_vpn.cli.show import put_facts, put_json
from dstack_vpn.cli.signed import Outcome, signed

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

Account = Annotated[str, typer.Argument(metavar="ADDRESS", help="An Ethereum account.")]

ZERO = "0x" + "00" * 20


@signed
def deploy(signing: Signing) -> Outcome:
    """Make a new membership contract. The account that signs becomes its owner."""
    receipt, account, settings = deploy_contract(signing)
    assert receipt.created is not None
    address = to_checksum(receipt.created)
    return Outcome(
        text=(
            f"deployed on {settings.network.name} in block {receipt.block}, owned by"
            f" {account.address}; nodes need: CONTRACT_ADDRESS={address}"
        ),
        receipt=receipt,
        facts={
            "contract": address,
            "network": settings.network.name,
            "chainId": settings.network.chain_id,
            "owner": account.address,
        },
    )


def info(env_file: EnvFile = None, as_json: AsJson = False) -> None:
    """Show the contract's owner and state. Told by the first provider that answers."""
    settings = read_settings(env_file)

    async def ask(admin: ContractAdmin) -> dict[str, Any]:
        revision, history, members = await admin.view(
            "checkpoint()", returns="uint64,bytes32,uint256"
        )
        (owner,) = await admin.view("owner()", returns="address")
        (pending,) = await admin.view("pendingOwner()", returns="address")
        (next_token,) = await admin.view("nextTokenId()")
        code_hash = "0x" + keccak256(await admin.code()).hex()
        return {
            "contract": to_checksum(settings.contract),
            "network": settings.network.name,
            "chainId": settings.network.chain_id,
            "owner": to_checksum(owner),
            "pendingOwner": None if pending == ZERO else to_checksum(pending),
            "activeNodes": members,
            "tokensMinted": next_token - 1,
            "revision": revision,
            "history": "0x" + history.hex(),
            "codeHash": code_hash,
            "codeIsOurs": code_hash == artifact().code_hash,
            "provider": admin.provider.name,
        }

    shown = ask_contract(settings, ask)
    if as_json:
        put_json(shown)
        return
    ours = "the one of this package" if shown["codeIsOurs"] else "not the one of this package"
    put_facts(
        {
            "contract": shown["contract"],
            "network": f"{shown['network']} (chain {shown['chainId']})",
            "owner": shown["owner"],
            "named successor": shown["pendingOwner"],
            "active nodes": f"{shown['activeNodes']} of {shown['tokensMinted']} tokens minted",
            "revision": shown["revision"],
            "history": shown["history"],
            "code": f"{shown['codeHash']} ({ours})",
            "told by": shown["provider"],
        }
    )


@signed
def guardian(
    signing: Signing,
    account: Account,
    remove: Annotated[bool, typer.Option("--remove", help="End it instead.")] = False,
) -> Outcome:
    """Make an account a guardian, who may revoke and nothing else. Signed by the owner."""
    who = to_checksum(parse_address("ADDRESS", account))
    said = "is no guardian any more" if remove else "may revoke nodes"
    return _call(signing, f"{who} {said}", "setGuardian(address,bool)", who, not remove)


@signed
def transfer(signing: Signing, account: Account) -> Outcome:
    """Name a successor for the owner. Signed by the owner, who stays until `contract accept`."""
    who = to_checksum(parse_address("ADDRESS", account))
    text = f"{who} may become the owner, by `dstack-vpn contract accept`"
    return _call(signing, text, "transferContractOwnership(address)", who)


@signed
def accept(signing: Signing) -> Outcome:
    """Become the owner of the contract. Signed by the successor whom the owner named."""
    return _call(signing, "the signing account owns the contract", "acceptContractOwnership()")


@signed
def release_key(
    signing: Signing,
    public_key: Annotated[str, typer.Argument(metavar="PUBLIC_KEY", help="A WireGuard key.")],
) -> Outcome:
    """Let a spent key be registered again. Signed by the owner of the contract."""
    key = parse_public_key("PUBLIC_KEY", public_key)
    return _call(signing, f"{key} may be registered again", "releaseKey(bytes32)", key.raw)


def _call(signing: Signing, text: str, signature: str, *arguments: object) -> Outcome:
    async def build(_admin: ContractAdmin, _account: "LocalAccount") -> bytes:
        return calldata(signature, *arguments)

    return Outcome(text=text, receipt=write(signing, build))


COMMANDS: Commands = {
    "deploy": (deploy, examples("dstack-vpn contract deploy --env-file owner.env")),
    "info": (info, examples("dstack-vpn contract info", "dstack-vpn contract info --json")),
    "guardian": (
        guardian,
        examples(
            "dstack-vpn contract guardian 0x7099…",
            "dstack-vpn contract guardian 0x7099… --remove",
        ),
    ),
    "transfer": (transfer, examples("dstack-vpn contract transfer 0x7099…")),
    "accept": (accept, examples("dstack-vpn contract accept --keystore new-owner.json")),
    "release-key": (release_key, examples("dstack-vpn contract release-key PUBLIC_KEY")),
}
