"""WireGuard keys as values: 32 raw bytes with one canonical text.

Four different 44-character base64 texts decode to the same 32 bytes (the last character carries
two spare bits twice), so keys are compared by their bytes and only the canonical text is accepted.
"""

import base64
import binascii
from dataclasses import dataclass, field
from typing import Self

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

KEY_BYTES = 32


@dataclass(frozen=True, slots=True, order=True)
class PublicKey:
    """A Curve25519 public key; ordered by its bytes."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != KEY_BYTES:
            raise ValueError(f"a WireGuard key has {KEY_BYTES} bytes, not {len(self.raw)}")
        if not any(self.raw):
            raise ValueError("a WireGuard key of zeroes is no key")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read canonical base64.

        Raises:
            ValueError: the text is not the canonical base64 of 32 bytes, or is all zero.
        """
        return cls(decode_base64_key(text))

    @property
    def text(self) -> str:
        """The canonical base64, as WireGuard's tools and the contract write it."""
        return base64.b64encode(self.raw).decode("ascii")

    @property
    def hex(self) -> str:
        """Lower-case hex, as the UAPI writes it."""
        return self.raw.hex()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A Curve25519 private key; never shows itself in a repr, a log or an error."""

    raw: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.raw) != KEY_BYTES or not any(self.raw):
            raise ValueError(f"a WireGuard private key has {KEY_BYTES} bytes, not all zero")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read canonical base64, as ``wg genkey`` prints it.

        Raises:
            ValueError: not the canonical base64 of 32 bytes; the message does not quote the text.
        """
        return cls(decode_base64_key(text))

    @classmethod
    def generate(cls) -> Self:
        """Make a new key, already clamped as Curve25519 (RFC 7748, section 5) has it."""
        raw = bytearray(X25519PrivateKey.generate().private_bytes_raw())
        raw[0] &= 248
        raw[31] = (raw[31] & 127) | 64
        return cls(bytes(raw))

    @property
    def public(self) -> PublicKey:
        """The public key that belongs to it."""
        return PublicKey(
            X25519PrivateKey.from_private_bytes(self.raw).public_key().public_bytes_raw()
        )

    def reveal(self) -> str:
        """The canonical base64; call it only to hand the key to a device or a 0600 file."""
        return base64.b64encode(self.raw).decode("ascii")


def decode_base64_key(text: str) -> bytes:
    """Decode the canonical base64 of 32 bytes.

    Raises:
        ValueError: wrong length, wrong alphabet, or an alias of the canonical text.
    """
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise ValueError("a WireGuard key is 44 characters of base64") from None
    if len(raw) != KEY_BYTES or base64.b64encode(raw).decode("ascii") != text:
        raise ValueError("a WireGuard key is the canonical base64 of 32 bytes (44 characters)")
    return raw
