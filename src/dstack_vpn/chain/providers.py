"""From the configured URLs to providers."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from dstack_vpn.chain.rpc import Provider
from dstack_vpn.chain.rpc_http import HttpProvider
from dstack_vpn.chain.rpc_socket import SocketProvider


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
