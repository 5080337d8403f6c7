"""Arguments as a user types them, to values; what is wrong is said with the argument's name."""

import re
from datetime import UTC, datetime

from dstack_vpn.chain.checksum import to_checksum
from dstack_vpn.errors import SettingError
from dstack_vpn.mesh.access import NODE_ID_RULE, is_node_id
from dstack_vpn.mesh.endpoint import parse_endpoint
from dstack_vpn.mesh.keys import PublicKey
from dstack_vpn.mesh.membership import Address

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_SPAN = re.compile(r"\+([0-9]{1,6})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
MAX_TIME = 2**64 - 1
"""What the contract can store."""


def parse_address(argument: str, text: str) -> Address:
    """Read an Ethereum address; one in mixed case must have the right checksum (EIP-55)."""
    accepted = "0x and 40 hex digits, such as 0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
    if not _ADDRESS.fullmatch(text):
        raise SettingError(argument, "is not an address", accepted)
    digits = text[2:]
    mixed = digits not in (digits.lower(), digits.upper())
    if mixed and to_checksum(text) != text:
        raise SettingError(argument, "has a typing error: its checksum is wrong", accepted)
    if not int(digits, 16):
        raise SettingError(argument, "is the zero address, which nobody controls", accepted)
    return Address(text.lower())


def parse_node_id(argument: str, text: str) -> str:
    """Read a node id."""
    if not is_node_id(text):
        raise SettingError(argument, "is not a DNS label", NODE_ID_RULE)
    return text


def parse_node_ref(text: str) -> tuple[str | None, int | None]:
    """Read what names a node: the node id and the token id that it may be; ``#7`` is no node id."""
    digits = text.removeprefix("#")
    # Every number of 77 digits fits the contract's 256 bits.
    number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 78 else None
    return (None if text.startswith("#") else text), number


def parse_public_key(argument: str, text: str) -> PublicKey:
    """Read a WireGuard public key. It is never quoted: a private one looks the same."""
    try:
        return PublicKey.parse(text.strip())
    except ValueError:
        accepted = "44 characters of canonical base64, as `dstack-vpn keys public` prints them"
        raise SettingError(argument, "is not a WireGuard public key", accepted) from None


def parse_endpoint_text(argument: str, text: str) -> str:
    """Read what a holder publishes as endpoint; members would leave out anything else."""
    if not text:
        return ""
    try:
        parse_endpoint(text)
    except ValueError as error:
        raise SettingError(
            argument, f"cannot be used: {error}", "host:port, or '' for none"
        ) from None
    return text


def parse_time(argument: str, text: str, *, now: float) -> int:
    """Read a moment: ``never``, Unix seconds, ISO 8601 (UTC unless it says otherwise) or +30d."""
    accepted = "never, +30d (s, m, h, d or w), 2030-01-31, 2030-01-31T12:00:00Z, or Unix seconds"
    if text == "never":
        return 0
    if span := _SPAN.fullmatch(text):
        return int(now) + int(span[1]) * _SECONDS[span[2]]
    if text.isascii() and text.isdigit():
        # 0 would be "never" to the contract, which nobody means who counts seconds.
        if not 0 < int(text) <= MAX_TIME:
            raise SettingError(argument, f"is {text[:30]}", accepted)
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingError(argument, f"is {text[:30]!r}", accepted) from None
    seconds = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    if seconds <= 0:
        raise SettingError(argument, f"is {text[:30]!r}", accepted)
    return seconds
