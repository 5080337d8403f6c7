"""Why the contract refused a call, in words: the data of a revert, decoded and explained.

Pure; for the command line only. The custom errors are those of the contract's ABI, and each has a
sentence here (a test compares the two). Values in them may be text of a stranger's choice, so text
is quoted and shortened.
"""

import base64
from typing import Any

from dstack_vpn.chain.checksum import to_checksum
from dstack_vpn.chain.keccak import keccak256

# The format is the Solidity ABI's: 4 bytes of keccak-256 over the signature, then the arguments.
# Error and Panic are what `require` and the compiler's own checks produce.
SENTENCES: dict[str, str] = {
    "AlreadyRevoked(uint256 tokenId)": "token {tokenId} is revoked already",
    "ERC721IncorrectOwner(address sender, uint256 tokenId, address owner)": (
        "{sender} does not hold token {tokenId}; {owner} does"
    ),
    "ERC721InsufficientApproval(address operator, uint256 tokenId)": (
        "{operator} neither holds token {tokenId} nor may act for its holder"
    ),
    "ERC721InvalidApprover(address approver)": "{approver} may not approve for this token",
    "ERC721InvalidOperator(address operator)": "{operator} cannot be an operator",
    "ERC721InvalidOwner(address owner)": "{owner} cannot hold tokens",
    "ERC721InvalidReceiver(address receiver)": "{receiver} cannot receive tokens",
    "ERC721InvalidSender(address sender)": "{sender} cannot send tokens",
    "ERC721NonexistentToken(uint256 tokenId)": "there is no token {tokenId}",
    "EndpointTooLong(uint256 length, uint256 maximum)": (
        "the endpoint has {length} bytes; at most {maximum} are accepted"
    ),
    "InvalidNodeId(string nodeId)": (
        "the node id {nodeId} is not a DNS label: 1 to 63 of a-z, 0-9 and hyphen, no hyphen at"
        " either end"
    ),
    "InvalidPublicKey(string wireguardPublicKey)": (
        "{wireguardPublicKey} is not the canonical base64 of a WireGuard public key"
    ),
    "KeyActive(bytes32 key, uint256 tokenId)": (
        "the key {key} is that of the active token {tokenId}; revoke that node first"
    ),
    "KeyNotTaken(bytes32 key)": "the key {key} is free: there is nothing to release",
    "KeyTaken(bytes32 key, uint256 tokenId)": (
        "the key {key} was registered before, by token {tokenId}; a key is never used twice, so"
        " make a new one with `dstack-vpn keys generate`"
    ),
    "NodeIdTaken(string nodeId, uint256 tokenId)": "token {tokenId} has the node id {nodeId}",
    "NotContractOwner(address account)": "{account} is not the owner of the contract",
    "NotHolder(address account, uint256 tokenId, address holder)": (
        "{account} does not hold token {tokenId}; only its holder {holder} may do this"
    ),
    "NotOwnerOrGuardian(address account)": (
        "{account} is neither the owner of the contract nor a guardian"
    ),
    "NotOwnerOrHolder(address account, uint256 tokenId, address holder)": (
        "{account} is neither the owner of the contract nor the holder of token {tokenId}, who is"
        " {holder}"
    ),
    "NotPendingOwner(address account)": (
        "{account} is not the successor whom the owner of the contract named"
    ),
    "NotRevoked(uint256 tokenId)": "token {tokenId} is not revoked: there is nothing to restore",
    "ZeroOwner()": "the zero address cannot own the contract",
    "Error(string reason)": "{reason}",
    "Panic(uint256 code)": "the contract failed with panic code {code}",
}

_LONGEST_TEXT = 80


def explain_revert(data: bytes) -> str:
    """Say in a clause why a call was reverted.

    Args:
        data: what the revert returned; may be empty, may be anything.
    """
    if not data:
        return "it gave no reason; is CONTRACT_ADDRESS the membership contract?"
    for declaration, sentence in SENTENCES.items():
        types, names = _parameters(declaration)
        if data[:4] != selector(declaration):
            continue
        if (values := abi_decode(types, data[4:])) is None:
            break
        shown = {n: _show(t, v) for n, t, v in zip(names, types, values, strict=True)}
        return sentence.format(**shown)
    return f"it gave an error that this version does not know (0x{data[:4].hex()})"


def abi_decode(types: list[str], data: bytes) -> tuple[Any, ...] | None:
    """Decode values; None when the data is not of these types."""
    # Slow to import, and most commands do without.
    from eth_abi.abi import decode  # noqa: PLC0415
    from eth_abi.exceptions import DecodingError  # noqa: PLC0415

    try:
        return decode(types, data)
    except (DecodingError, UnicodeDecodeError, OverflowError):
        return None


def selector(declaration: str) -> bytes:
    """The first 4 bytes of an error's data."""
    types, _ = _parameters(declaration)
    name = declaration.partition("(")[0]
    return keccak256(f"{name}({','.join(types)})".encode())[:4]


def _parameters(declaration: str) -> tuple[list[str], list[str]]:
    inner = declaration.partition("(")[2].removesuffix(")")
    pairs = [p.split() for p in inner.split(",") if p]
    return [p[0] for p in pairs], [p[1] for p in pairs]


def _show(kind: str, value: Any) -> str:
    if kind == "address":
        return str(to_checksum(value))
    if kind == "bytes32":
        return base64.b64encode(value).decode("ascii")
    if kind == "string":
        return repr(value if len(value) <= _LONGEST_TEXT else value[:_LONGEST_TEXT] + "…")
    return str(value)
