"""Addresses in mixed case, which carry a checksum (EIP-55). For what people read and type."""

from dstack_vpn.chain.keccak import keccak256


def to_checksum(address: str) -> str:
    """Write an address of ``0x`` and 40 hex digits with its checksum.

    EIP-55 raises each letter whose place in the hash of the lower-case text has an 8 or more.
    """
    digits = address[2:].lower()
    marks = keccak256(digits.encode("ascii")).hex()
    return "0x" + "".join(
        digit.upper() if mark >= "8" else digit for digit, mark in zip(digits, marks, strict=False)
    )
