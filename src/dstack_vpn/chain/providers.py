"""From the settings to providers, and to a follower of them."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from dstack_vpn.chain.checkpoint_kind import CheckpointContract
from dstack_vpn.chain.follow import Follower
from dstack_vpn.chain.kind import Kind
from dstack_vpn.chain.published_kind import PublishedContract
from dstack_vpn.chain.rpc import Provider
from dstack_vpn.chain.rpc_http import HttpProvider
from dstack_vpn.chain.rpc_socket import SocketProvider
from dstack_vpn.config import Settings
from dstack_vpn.mesh.membership import ContractKind


def open_providers(urls: Sequence[str], *, timeout: float = 10.0) -> tuple[Provider, ...]:
    """A provider for each URL, without any traffic yet.

    Args:
        urls: ``http``, ``https``, ``ws`` or ``wss`` URLs.
        timeout: seconds until an answer must be complete.
    """
    return tuple(
        (SocketProvider if urlsplit(url).scheme in ("ws", "wss") else HttpProvider)(
            url, number, timeout=timeout
        )
        for number, url in enumerate(urls, 1)
    )


def open_follower(settings: Settings, *, contract_wait: float = 0.0) -> Follower:
    """A follower of the configured contract, without any traffic yet.

    Args:
        settings: of the node, or of a command that only reads the chain.
        contract_wait: seconds for which a contract that was never there is waited for.
    """
    network = settings.network
    kind: Kind = CheckpointContract(settings.contract)
    if settings.contract_kind is ContractKind.PUBLISHED:
        kind = PublishedContract(
            settings.contract, chain_id=network.chain_id, start_block=settings.start_block or 0
        )
    return Follower(
        providers=open_providers(settings.rpc_urls),
        chain_id=network.chain_id,
        contract=settings.contract,
        confirmations=settings.confirmations,
        contract_wait=contract_wait,
        quorum=settings.quorum,
        voters=settings.voters,
        kind=kind,
        # A local chain is rolled back on purpose, below whatever it calls final.
        finality=network.public,
        dark_after=settings.dark_after,
    )
