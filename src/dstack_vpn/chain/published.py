"""The interface that was published of the deployed contract: its events and views, decoded.

Pure. `tokens` makes nodes of them, `published_kind` reads them. As strict as `contract`, whose
decoder this uses; an event that the interface does not have (such as ERC-721's approvals) is passed
over. The text of a key becomes bytes here, once: what is no key can then never be equal to one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dstack_vpn.chain.contract import expect_length, expect_word, take_text, take_uint
from dstack_vpn.chain.keccak import keccak256
from dstack_vpn.errors import BadAnswerError
from dstack_vpn.mesh.keys import PublicKey
from dstack_vpn.mesh.membership import ZERO_KEY, Address

GRANTED = keccak256(b"NodeAccessGranted(uint256,string,address,string)")
REVOKED = keccak256(b"NodeAccessRevoked(uint256,string)")
TRANSFERRED = keccak256(b"NodeAccessTransferred(uint256,address,address)")
KEY_UPDATED = keccak256(b"PublicKeyUpdated(address,string)")
TRANSFER = keccak256(b"Transfer(address,address,uint256)")
"""ERC-721's, whose token id is the third indexed argument."""

NOBODY = Address("0x" + "00" * 20)
"""Sender of a mint, receiver of a burn."""

_WORD = 32
_LATEST_TIME = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Granted:
    """A token was minted with a key, or its access was given again."""

    token_id: int
    node_id: str
    owner: Address
    key: bytes


@dataclass(frozen=True, slots=True)
class Revoked:
    """A token's access was taken."""

    token_id: int
    node_id: str


@dataclass(frozen=True, slots=True)
class Moved:
    """A token changed hands, by whichever of the two events."""

    token_id: int
    sender: Address
    receiver: Address

    @property
    def mint(self) -> bool:
        """Whether it came from nobody, which hands nobody's key to another."""
        return self.sender == NOBODY


@dataclass(frozen=True, slots=True)
class KeyUpdated:
    """An owner set a key; of which token is not said."""

    owner: Address
    key: bytes


Event = Granted | Revoked | Moved | KeyUpdated


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Where on the chain something happened."""

    block: int
    index: int


@dataclass(frozen=True, slots=True)
class Placed:
    """An event, in its place."""

    at: Position
    event: Event


@dataclass(frozen=True, slots=True)
class Access:
    """What ``getNodeAccess`` says of a token."""

    node_id: str
    key: bytes
    created_at: int
    active: bool


def key_of(text: str) -> bytes:
    """The key that a text names; zeroes for the empty text.

    A text that is not the canonical base64 of a key becomes 33 bytes that stand for it. So it is
    no key to anybody, is not equal to the key that it may be an alias of, and two of them are equal
    only when the texts are.
    """
    if not text:
        return ZERO_KEY
    try:
        return PublicKey.parse(text).raw
    except ValueError:
        return b"!" + keccak256(text.encode())


def decode_access(data: bytes) -> Access:
    """Decode the answer of ``getNodeAccess``: (string, string, uint256, bool).

    Raises:
        BadAnswerError: not that encoding.
    """
    head = 4 * _WORD
    expect_word(data, 0, head, "offset of the node id")
    node_id, end = take_text(data, head)
    expect_word(data, _WORD, end, "offset of the key")
    key, end = take_text(data, end)
    expect_length(data, end)
    return Access(
        node_id=node_id,
        key=key_of(key),
        # A time that no clock will reach means as much as a later one.
        created_at=min(take_uint(data, 2 * _WORD), _LATEST_TIME),
        active=take_uint(data, 3 * _WORD, 1) == 1,
    )


def decode_owner(data: bytes) -> Address:
    """Decode the answer of ``ownerOf``.

    Raises:
        BadAnswerError: not one address.
    """
    expect_length(data, _WORD)
    return _address(data)


def decode_event(topics: Sequence[bytes], data: bytes) -> Event | None:
    """Decode a log of the contract; None when it is another event.

    Raises:
        BadAnswerError: not what such an event looks like.
    """
    indexed = {GRANTED: 2, REVOKED: 1, TRANSFERRED: 3, KEY_UPDATED: 1, TRANSFER: 3}
    if not topics or topics[0] not in indexed:
        return None
    kind, *words = topics
    if len(words) != indexed[kind]:
        raise BadAnswerError("abi", f"an event with {len(words)} topics where others belong")
    if kind == GRANTED:
        node_id, key = _two_texts(data)
        return Granted(take_uint(words[0], 0), node_id, _address(words[1]), key_of(key))
    if kind == REVOKED:
        return Revoked(take_uint(words[0], 0), _one_text(data))
    if kind == KEY_UPDATED:
        return KeyUpdated(_address(words[0]), key_of(_one_text(data)))
    expect_length(data, 0)
    token, sender, receiver = words if kind == TRANSFERRED else (words[2], words[0], words[1])
    return Moved(take_uint(token, 0), _address(sender), _address(receiver))


def _one_text(data: bytes) -> str:
    expect_word(data, 0, _WORD, "offset of the text")
    text, end = take_text(data, _WORD)
    expect_length(data, end)
    return text


def _two_texts(data: bytes) -> tuple[str, str]:
    expect_word(data, 0, 2 * _WORD, "offset of the first text")
    first, end = take_text(data, 2 * _WORD)
    expect_word(data, _WORD, end, "offset of the second text")
    second, end = take_text(data, end)
    expect_length(data, end)
    return first, second


def _address(word: bytes) -> Address:
    return Address(f"0x{take_uint(word, 0, 160):040x}")
