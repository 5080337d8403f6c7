"""The contract's binary interface: calldata out, answers and log bodies in.

Pure. The format is the Solidity "Contract ABI Specification", of which only what the contract uses
is here. The decoder is strict: it accepts exactly the bytes that `abi.encode` produces (offsets
where they belong, zero padding, numbers in range) and refuses all else with `BadAnswerError`. So
every byte of an answer is used once and a small answer can never unfold into a large value; two
different encodings never give one value; and a log body can be hashed as it came.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dstack_vpn.chain.keccak import keccak256
from dstack_vpn.errors import BadAnswerError
from dstack_vpn.mesh.membership import Address, Checkpoint, Node

NODE_TYPE = "(uint256,address,string,bytes32,string,bytes32,uint64,uint64,bool,bool)"
"""``struct Node``: tokenId, holder, nodeId, key, endpoint, role, createdAt, expiresAt, revoked,
suspended."""

NODE_CHANGED = keccak256(f"NodeChanged(uint64,uint256,{NODE_TYPE})".encode())
"""Topic 0 of ``NodeChanged(uint64 indexed revision, uint256 indexed tokenId, Node node)``."""

_NOT_TEXT = "\ufffd"
"""Begins a text that stands for bytes, in hex."""

_WORD = 32
_HEAD = 10 * _WORD
"""Length of a node's fixed part; its two strings follow."""


def _word(value: int) -> bytes:
    return value.to_bytes(_WORD, "big")


ZERO_NODE = b"".join(map(_word, (0, 0, _HEAD, 0, _HEAD + _WORD, 0, 0, 0, 0, 0, 0, 0)))
"""The encoding of a burned token: all zeroes but the offsets of its two empty strings."""


def encode_call(signature: str, *arguments: int) -> bytes:
    """Calldata of a function whose arguments are all numbers."""
    return keccak256(signature.encode())[:4] + b"".join(map(_word, arguments))


CALL_CHECKPOINT = encode_call("checkpoint()")
CALL_NEXT_TOKEN_ID = encode_call("nextTokenId()")


def call_get_nodes(first: int, limit: int) -> bytes:
    """Calldata that reads the nodes of token ids ``first`` to ``first + limit - 1``."""
    return encode_call("getNodes(uint256,uint256)", first, limit)


def call_hash_nodes(first: int, limit: int) -> bytes:
    """Calldata that asks for keccak-256 of what `call_get_nodes` would return."""
    return encode_call("hashNodes(uint256,uint256)", first, limit)


def seed(chain_id: int, contract: Address) -> Checkpoint:
    """The checkpoint of a contract before its first change."""
    history = keccak256(_word(chain_id) + bytes(12) + bytes.fromhex(contract[2:]))
    return Checkpoint(revision=0, history=history, member_count=0)


def decode_checkpoint(data: bytes) -> Checkpoint:
    """Decode the answer of ``checkpoint()``: (uint64 revision, bytes32 history, uint256 count).

    Raises:
        BadAnswerError: not three words in range.
    """
    expect_length(data, 3 * _WORD)
    return Checkpoint(
        revision=take_uint(data, 0, 64), history=data[32:64], member_count=take_uint(data, 64, 64)
    )


def decode_uint(data: bytes) -> int:
    """Decode an answer of one uint256.

    Raises:
        BadAnswerError: not one word.
    """
    expect_length(data, _WORD)
    return take_uint(data, 0)


def decode_hash(data: bytes) -> bytes:
    """Decode an answer of one bytes32.

    Raises:
        BadAnswerError: not one word.
    """
    expect_length(data, _WORD)
    return data


def decode_page(data: bytes, *, first: int, since_block: int) -> list[Node | None]:
    """Decode the answer of ``getNodes``: entry i is token ``first + i``, None when burned.

    Args:
        data: ``abi.encode(Node[])``.
        first: token id that was asked for.
        since_block: number of the block of the snapshot.

    Raises:
        BadAnswerError: not that encoding, or a node in another's place.
    """
    expect_word(data, 0, _WORD, "offset of the list")
    count = take_uint(data, _WORD)
    table = 2 * _WORD
    at = table + count * _WORD
    # Every entry takes more bytes than its offset: a lie about the count ends here.
    if at > len(data):
        raise _bad(f"a list of {count} nodes in {len(data)} bytes")
    nodes: list[Node | None] = []
    for i in range(count):
        expect_word(data, table + i * _WORD, at - table, "offset of a node")
        node, at = _node(data, at, since_block)
        if node is not None and node.token_id != first + i:
            raise _bad(f"token {node.token_id} in the place of token {first + i}")
        nodes.append(node)
    expect_length(data, at)
    return nodes


def encode_page(nodes: Sequence[Node | None]) -> bytes:
    """What ``getNodes`` returns for these tokens, byte for byte; None is a burned one.

    So tokens that are known already can be confirmed by a digest instead of being read again.

    Raises:
        BadAnswerError: a node that no contract can have, such as one from a damaged disk.
    """
    try:
        bodies = [ZERO_NODE if node is None else _encode_node(node) for node in nodes]
    except (OverflowError, ValueError):
        raise _bad("a node that no contract can have") from None
    at = _WORD * len(bodies)
    table = []
    for body in bodies:
        table.append(_word(at))
        at += len(body)
    return b"".join([_word(_WORD), _word(len(bodies)), *table, *bodies])


def _encode_node(node: Node) -> bytes:
    node_id, endpoint = _encode_text(node.node_id), _encode_text(node.endpoint)
    return b"".join(
        [
            _word(node.token_id),
            _word(int(node.holder, 16)),
            _word(_HEAD),
            node.key,
            _word(_HEAD + len(node_id)),
            node.role,
            _word(node.created_at),
            _word(node.expires_at),
            _word(node.revoked),
            _word(node.suspended),
            node_id,
            endpoint,
        ]
    )


def _encode_text(text: str) -> bytes:
    raw = bytes.fromhex(text[1:]) if text.startswith(_NOT_TEXT) else text.encode()
    return _word(len(raw)) + raw + bytes(-len(raw) % _WORD)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeChanged:
    """One ``NodeChanged`` event."""

    revision: int
    """The contract's number of this change, from 1 without gaps."""
    token_id: int
    node: Node | None
    """The node after the change, None when it was burned; `since_block` is the event's block."""
    body: bytes
    """The encoded node, as it goes into the history."""

    def history_after(self, history: bytes, block_number: int) -> bytes:
        """``keccak256(abi.encode(history, revision, block.number, node))``."""
        head = history + _word(self.revision) + _word(block_number) + _word(4 * _WORD)
        return keccak256(head + self.body)


def decode_node_changed(topics: list[bytes], data: bytes, *, block_number: int) -> NodeChanged:
    """Decode a log of the contract whose first topic is `NODE_CHANGED`.

    Raises:
        BadAnswerError: not such a log.
    """
    if len(topics) != 3 or topics[0] != NODE_CHANGED or any(len(t) != _WORD for t in topics):
        raise _bad("a log with the topics of another event")
    revision, token_id = take_uint(topics[1], 0, 64), take_uint(topics[2], 0)
    expect_word(data, 0, _WORD, "offset of the node")
    node, end = _node(data, _WORD, block_number)
    expect_length(data, end)
    if node is not None and node.token_id != token_id:
        raise _bad(f"a change of token {token_id} that carries token {node.token_id}")
    return NodeChanged(revision=revision, token_id=token_id, node=node, body=data[_WORD:])


def _node(data: bytes, at: int, since_block: int) -> tuple[Node | None, int]:
    """Decode the node at an offset; returns it (None when burned) and where it ends."""
    if data[at : at + len(ZERO_NODE)] == ZERO_NODE:
        return None, at + len(ZERO_NODE)
    token_id = take_uint(data, at)
    if token_id == 0:
        raise _bad("a node without a token id")
    expect_word(data, at + 64, _HEAD, "offset of the node id")
    node_id, end = take_text(data, at + _HEAD)
    expect_word(data, at + 128, end - at, "offset of the endpoint")
    endpoint, end = take_text(data, end)
    node = Node(
        token_id=token_id,
        holder=Address(f"0x{take_uint(data, at + 32, 160):040x}"),
        node_id=node_id,
        key=data[at + 96 : at + 128],
        endpoint=endpoint,
        role=data[at + 160 : at + 192],
        created_at=take_uint(data, at + 192, 64),
        expires_at=take_uint(data, at + 224, 64),
        revoked=take_uint(data, at + 256, 1) == 1,
        suspended=take_uint(data, at + 288, 1) == 1,
        since_block=since_block,
    )
    return node, end


def take_text(data: bytes, at: int) -> tuple[str, int]:
    """Decode the string whose length word is at an offset; returns it and where it ends.

    Raises:
        BadAnswerError: it does not fit, or its padding is not zero.
    """
    length = take_uint(data, at)
    start = at + _WORD
    end = start + -(-length // _WORD) * _WORD
    if end > len(data):
        raise _bad(f"a text of {length} bytes in {len(data)} bytes")
    if any(data[start + length : end]):
        raise _bad("padding that is not zero")
    return _safe_text(data[start : start + length]), end


def _safe_text(raw: bytes) -> str:
    """The text of a string, whatever bytes a holder chose.

    Bytes that are not UTF-8 become U+FFFD and their hex digits. Such a text is a plain `str` that
    can be written anywhere (lone surrogates could not), is never a valid node id or endpoint, and
    differs for different bytes (plain replacement characters would not): a text that itself begins
    with U+FFFD is written the same way.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return _NOT_TEXT + raw.hex()
    return _NOT_TEXT + raw.hex() if text.startswith(_NOT_TEXT) else text


def take_uint(data: bytes, at: int, bits: int = 256) -> int:
    """Decode the number in the word at an offset.

    Raises:
        BadAnswerError: no whole word, or more bits than that.
    """
    word = data[at : at + _WORD]
    if len(word) != _WORD:
        raise _bad(f"{len(data)} bytes that end too early")
    value = int.from_bytes(word, "big")
    if value >> bits:
        raise _bad(f"a number of more than {bits} bits")
    return value


def expect_word(data: bytes, at: int, value: int, what: str) -> None:
    """Raise `BadAnswerError` unless the word at an offset has this value."""
    if take_uint(data, at) != value:
        raise _bad(f"an {what} that does not fit")


def expect_length(data: bytes, length: int) -> None:
    """Raise `BadAnswerError` unless there are so many bytes."""
    if len(data) != length:
        raise _bad(f"{len(data)} bytes where {length} belong")


def _bad(problem: str) -> BadAnswerError:
    return BadAnswerError("abi", problem)
