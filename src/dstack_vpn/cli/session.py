"""Talking to the chain for one command: what all providers agree on, or one signed write."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from dstack_vpn.chain.admin import AdminProvider, ContractAdmin, Receipt, artifact
from dstack_vpn.chain.providers import open_follower
from dstack_vpn.cli.parse import parse_node_ref
from dstack_vpn.cli.show import note, progress
from dstack_vpn.cli.signer import KEY, load_account
from dstack_vpn.config import Settings, load_settings
from dstack_vpn.errors import ProviderError, SettingError, UserError
from dstack_vpn.log import configure_logs
from dstack_vpn.mesh.access import Decision, judge
from dstack_vpn.mesh.membership import Address, Membership
from dstack_vpn.mesh.snapshot import ChainView

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

T = TypeVar("T")

NODE_ACCESS = "string,string,uint256,bool"
"""What `getNodeAccess` returns; the node id is first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """How a write is to be made, as the options of a command say."""

    env_file: Path | None
    keystore: Path | None
    patience: float
    max_fee: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A node that a command is about."""

    token_id: int
    node_id: str


Build = Callable[[ContractAdmin, "LocalAccount"], Awaitable[bytes]]
"""Makes the calldata of a write; may ask the contract for what it needs."""


def read_settings(env_file: Path | None, **overrides: str) -> Settings:
    """The settings of a command that is about no node in particular."""
    # What the libraries below log is for agents; a command says itself what went wrong.
    configure_logs(level="error", form="console")
    return load_settings(env_file=env_file, need_node_id=False, overrides=overrides)


def read_membership(settings: Settings) -> tuple[Membership, tuple[Decision, ...]]:
    """What all providers agree on now, and the verdict on every token."""

    async def read() -> tuple[Membership, ChainView]:
        follower = open_follower(settings)
        try:
            membership = await follower.start(None)
            # A second look, for what is not asked at the start: which blocks are safe or final.
            return membership, await follower.poll()
        finally:
            await follower.aclose()

    with progress("reading the members"):
        membership, view = asyncio.run(read())
    membership = view.membership or membership
    return membership, judge(
        membership,
        confirmed=view.confirmed,
        chain_now=membership.block.timestamp,
        suspects=view.suspects,
    )


def ask_contract(settings: Settings, question: Callable[[ContractAdmin], Awaitable[T]]) -> T:
    """Ask the contract something, at the head of one provider."""

    async def ask() -> T:
        async with open_admin(settings) as admin:
            return await question(admin)

    return asyncio.run(ask())


def write(signing: Signing, build: Build) -> Receipt:
    """Sign a call of the contract and wait until it is in a block."""
    settings = read_settings(signing.env_file)
    account = _signer(settings, signing)
    return asyncio.run(_write(settings, account, signing, build))


def deploy(signing: Signing) -> tuple[Receipt, "LocalAccount", Settings]:
    """Make a new contract of the kind that this package ships."""
    # There is no address before there is a contract, so any will do.
    settings = read_settings(signing.env_file, CONTRACT_ADDRESS="0x" + "00" * 20)
    account = _signer(settings, signing)

    async def build(_admin: ContractAdmin, _account: "LocalAccount") -> bytes:
        return artifact().bytecode

    receipt = asyncio.run(_write(settings, account, signing, build, create=True))
    return receipt, account, settings


def _signer(settings: Settings, signing: Signing) -> "LocalAccount":
    """The account that signs; where its key stands in the open, that is said."""
    account = load_account(signing.env_file, signing.keystore)
    in_the_open = signing.keystore is None and KEY.name in settings.plain_secrets
    # The keys of a local chain are known to everybody anyway.
    if in_the_open and settings.network.public:
        note(f"{KEY.name} holds the key in the open; better is a file, by {KEY.name}_FILE")
    return account


async def _write(
    settings: Settings,
    account: "LocalAccount",
    signing: Signing,
    build: Build,
    *,
    create: bool = False,
) -> Receipt:
    async with open_admin(settings, deployed=not create) as admin:
        data = await build(admin, account)
        with progress(f"waiting for a block of {settings.network.name}"):
            return await admin.write(
                account,
                data,
                create=create,
                max_fee_gwei=signing.max_fee,
                on_sent=lambda sent: note(f"sent transaction {sent}"),
                patience=signing.patience,
            )


@asynccontextmanager
async def open_admin(settings: Settings, *, deployed: bool = True) -> AsyncIterator[ContractAdmin]:
    """The contract by the first provider that answers, its chain checked.

    Raises:
        SettingError: no provider has an HTTP URL.
        ProviderError: none answered; it tells of the last one.
        WrongChainError: one answered from another chain.
    """
    failed: ProviderError | None = None
    for number, url in enumerate(settings.rpc_urls, 1):
        if urlsplit(url).scheme not in ("http", "https"):
            continue
        provider = AdminProvider(url, number)
        try:
            admin = ContractAdmin(provider, settings.network, settings.contract)
            try:
                await admin.check(deployed=deployed)
            except ProviderError as error:
                failed = error
                continue
            yield admin
            return
        finally:
            await provider.aclose()
    raise failed or SettingError(
        "RPC_URL", "has no http or https URL", "at least one, which changes are sent to"
    )


async def find_node(admin: ContractAdmin, text: str) -> Named:
    """The node that a user means by a node id or a token id.

    Raises:
        UserError: there is none, or two that could be meant.
    """
    name, number = parse_node_ref(text)
    by_name = 0
    if name is not None:
        (by_name,) = await admin.view("getTokenIdByNodeId(string)", name)
    if by_name and number not in (None, by_name) and await _exists(admin, number):
        raise UserError(
            f"NODE {text} is the node id of token {by_name} and a token id too; accepted:"
            f" #{by_name} or #{number}"
        )
    token_id = by_name or number
    if not token_id:
        raise unknown_node(text)
    node_id = (await admin.view("getNodeAccess(uint256)", token_id, returns=NODE_ACCESS))[0]
    return Named(token_id=token_id, node_id=node_id)


async def _exists(admin: ContractAdmin, token_id: int | None) -> bool:
    try:
        await admin.view("ownerOf(uint256)", token_id, returns="address")
    except UserError:
        return False
    return True


def unknown_node(text: str) -> UserError:
    """The sentence for a node that nobody knows."""
    return UserError(
        f"NODE {text[:63]!r} is unknown to the contract; accepted: a node id or token id that"
        " `dstack-vpn node list` shows"
    )


async def holder_of(admin: ContractAdmin, token_id: int) -> Address:
    """Who holds a token."""
    return Address((await admin.view("ownerOf(uint256)", token_id, returns="address"))[0])
