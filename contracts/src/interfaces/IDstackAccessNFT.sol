// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {IPublishedAccessNFT} from "./IPublishedAccessNFT.sol";

/// @title The member list of a WireGuard mesh
/// @notice One ERC-721 token is one node. A node is *active* when it exists, is neither revoked nor suspended
/// and has a key. Expiry stands apart: it comes with time, needs no transaction and changes nothing stored.
///
/// Who may do what: the *owner* of the contract admits, revokes, restores, renews and burns; a *guardian*
/// revokes and nothing else; the *holder* of a token sets its key and its endpoint, transfers it or burns it.
///
/// What a follower needs is one event, `NodeChanged`, and one call to check itself, `checkpoint`.
///
/// Order of the events of one call: ERC-721's `Transfer`, then the published events (`IPublishedAccessNFT`),
/// then `KeyReleased`, and `NodeChanged` last. When it is seen, the state is already what it says.
///
/// Keys. Text is canonical base64: 44 characters which are the only way to write those 32 bytes. All zeroes
/// is no key. A key is unique by its 32 bytes, and once registered it is used for ever: a key that was
/// replaced, transferred or burned away is *spent*, and nobody can register it again, its former node
/// included. Two ways lead back: `restoreNodeAccess` revives a revoked node with the key that it still has,
/// and `releaseKey` makes a key as if it had never been seen.
///
/// Nobody has to prove that a key is his, so whoever holds a token can register a stranger's key first. It
/// gains him nothing, since he cannot speak for it, but its owner is refused. The remedy is to `burn` the
/// token and then `releaseKey`; to revoke is not enough, for its holder could register the key once more.
interface IDstackAccessNFT is IPublishedAccessNFT {
    /// @notice A node, whole. All zeroes for a token that was burned or never minted.
    struct Node {
        /// @notice The token, counted from 1 and never used twice.
        uint256 tokenId;
        /// @notice Who holds the token.
        address holder;
        /// @notice The node's name: a DNS label, unique among the tokens that exist.
        string nodeId;
        /// @notice The WireGuard public key, 32 raw bytes; zero when the node has none.
        bytes32 key;
        /// @notice Where the node says it can be reached. Text of the holder's choice, at most 255 bytes, not
        /// checked in any other way: a reader must expect anything in it.
        string endpoint;
        /// @notice The node's role. The contract gives it no meaning.
        bytes32 role;
        /// @notice When the token was minted, in seconds of Unix time.
        uint64 createdAt;
        /// @notice From this time on (seconds of Unix time) the node has no access; 0 is never.
        uint64 expiresAt;
        /// @notice The owner or a guardian took the access away; only `restoreNodeAccess` clears it.
        bool revoked;
        /// @notice The token changed hands and its new holder has set no key yet.
        bool suspended;
    }

    /// @notice A node was written. The one event that a follower needs.
    /// @param revision The number of this change, counted from 1 without gaps.
    /// @param tokenId The node's token, also when it was burned.
    /// @param node The whole node after the change; all zeroes when it was burned.
    event NodeChanged(uint64 indexed revision, uint256 indexed tokenId, Node node);

    /// @notice An account became a guardian, or is one no more.
    /// @param account The account.
    /// @param allowed Whether it may revoke from now on.
    event GuardianUpdated(address indexed account, bool allowed);

    /// @notice A key may be registered again.
    /// @param key The key, 32 raw bytes.
    event KeyReleased(bytes32 indexed key);

    /// @notice The contract has a new owner.
    /// @param previousOwner The owner until now; zero when the contract was made.
    /// @param newOwner The owner from now on.
    event OwnershipTransferred(address indexed previousOwner, address indexed newOwner);

    /// @notice The call is for the owner of the contract.
    /// @param account Who called.
    error NotContractOwner(address account);

    /// @notice The call is for the successor whom the owner of the contract named.
    /// @param account Who called.
    error NotPendingOwner(address account);

    /// @notice The zero address cannot own the contract.
    error ZeroOwner();

    /// @notice The call is for the owner of the contract and for guardians.
    /// @param account Who called.
    error NotOwnerOrGuardian(address account);

    /// @notice The call is for the holder of the token.
    /// @param account Who called.
    /// @param tokenId The token.
    /// @param holder Who holds it.
    error NotHolder(address account, uint256 tokenId, address holder);

    /// @notice The call is for the holder of the token and for the owner of the contract.
    /// @param account Who called.
    /// @param tokenId The token.
    /// @param holder Who holds it.
    error NotOwnerOrHolder(address account, uint256 tokenId, address holder);

    /// @notice A public key must be canonical base64 of 32 bytes that are not all zero.
    /// @param wireguardPublicKey What was given.
    error InvalidPublicKey(string wireguardPublicKey);

    /// @notice A node id must be a DNS label: `[a-z0-9]([a-z0-9-]*[a-z0-9])?`, at most 63 characters.
    /// @param nodeId What was given.
    error InvalidNodeId(string nodeId);

    /// @notice Another node has this name.
    /// @param nodeId The name.
    /// @param tokenId The token of that node.
    error NodeIdTaken(string nodeId, uint256 tokenId);

    /// @notice The key was registered before: it is in use, reserved or spent.
    /// @param key The key, 32 raw bytes.
    /// @param tokenId The token that registered it.
    error KeyTaken(bytes32 key, uint256 tokenId);

    /// @notice The key is that of an active node: revoke or burn the node before releasing its key.
    /// @param key The key, 32 raw bytes.
    /// @param tokenId The token of that node.
    error KeyActive(bytes32 key, uint256 tokenId);

    /// @notice The key is free: nothing to release.
    /// @param key The key, 32 raw bytes.
    error KeyNotTaken(bytes32 key);

    /// @notice The endpoint is too long.
    /// @param length Its length in bytes.
    /// @param maximum The longest one allowed.
    error EndpointTooLong(uint256 length, uint256 maximum);

    /// @notice The node is revoked already.
    /// @param tokenId Its token.
    error AlreadyRevoked(uint256 tokenId);

    /// @notice The node is not revoked: nothing to restore.
    /// @param tokenId Its token.
    error NotRevoked(uint256 tokenId);

    /// @notice Sets the key of a node. Only the holder may, not an approved operator.
    /// @dev Ends a suspension, never a revocation. The key that the node had is spent.
    /// @param tokenId The node's token.
    /// @param wireguardPublicKey The key in canonical base64, never registered before.
    function setPublicKey(uint256 tokenId, string calldata wireguardPublicKey) external;

    /// @notice Lifts a revocation. Only the owner of the contract may.
    /// @dev Lifts nothing else: a node that was transferred meanwhile stays suspended. The node's own key
    /// lives again; after a theft its holder should set another one first, which a revoked node can.
    /// @param tokenId The node's token.
    function restoreNodeAccess(uint256 tokenId) external;

    /// @notice Ends a token. Its holder and the owner of the contract may.
    /// @dev The node's name is free again, its key is spent.
    /// @param tokenId The token.
    function burn(uint256 tokenId) external;

    /// @notice Sets when a node's access ends. Only the owner of the contract may.
    /// @dev A time that is past ends it at once; no event of the first published interface tells of it.
    /// @param tokenId The node's token.
    /// @param expiresAt The first second without access, in Unix time; 0 for never.
    function renewNodeAccess(uint256 tokenId, uint64 expiresAt) external;

    /// @notice Sets a node's role. Only the owner of the contract may.
    /// @param tokenId The node's token.
    /// @param role The role.
    function setRole(uint256 tokenId, bytes32 role) external;

    /// @notice Sets where a node says it can be reached. Only the holder may.
    /// @param tokenId The node's token.
    /// @param endpoint The address, at most 255 bytes; may be empty.
    function setEndpoint(uint256 tokenId, string calldata endpoint) external;

    /// @notice Makes an account a guardian, or ends that. Only the owner of the contract may.
    /// @dev A guardian may revoke, nothing else. Guardians stay when the owner changes.
    /// @param account The account.
    /// @param allowed Whether it shall be one.
    function setGuardian(address account, bool allowed) external;

    /// @notice Allows a key to be registered again. Only the owner of the contract may.
    /// @dev It never evicts: the key of an active node is refused, so revoke or burn that node first. A revoked
    /// node that still has the key loses it, lest a later `restoreNodeAccess` make one key active twice; when
    /// restored it has no key, and its holder sets one.
    /// @param key The key, 32 raw bytes.
    function releaseKey(bytes32 key) external;

    /// @notice Takes the ownership of the contract that was offered to the caller.
    /// @dev The second of two steps. Ownership cannot be renounced.
    function acceptContractOwnership() external;

    /// @notice A digest of all that ever happened, to be compared at one block.
    /// @dev Whoever folds the log of `NodeChanged` from the start,
    /// `history = keccak256(abi.encode(history, revision, blockNumber, node))`
    /// beginning with `keccak256(abi.encode(chainId, address of this contract))`, must arrive at the same
    /// `history`: nothing is missing then, and nothing false.
    /// @return revision How many changes there were.
    /// @return history The digest of all of them.
    /// @return memberCount How many nodes are active, expired ones included.
    function checkpoint() external view returns (uint64 revision, bytes32 history, uint256 memberCount);

    /// @notice The nodes of a range of tokens, inactive ones included.
    /// @dev The entry at `i` is that of token `firstTokenId + i`; all zeroes for a burned one and for token 0.
    /// Fewer than `limit` entries mean that the range reaches past the last token minted.
    /// @param firstTokenId The first token of the range.
    /// @param limit How many tokens; any number, also beyond the last.
    /// @return The nodes.
    function getNodes(uint256 firstTokenId, uint256 limit) external view returns (Node[] memory);

    /// @notice keccak256 of exactly the bytes that `getNodes` returns for the same range.
    /// @dev Confirms a page, or tells that it did not change, in 32 bytes.
    /// @param firstTokenId The first token of the range.
    /// @param limit How many tokens.
    /// @return The digest.
    function hashNodes(uint256 firstTokenId, uint256 limit) external view returns (bytes32);

    /// @notice The token that the next mint will create: one above the last that was ever minted.
    /// @return The token.
    function nextTokenId() external view returns (uint256);

    /// @notice The owner of the contract.
    /// @return The account.
    function owner() external view returns (address);

    /// @notice The successor whom the owner of the contract named.
    /// @return The account; zero when there is none.
    function pendingOwner() external view returns (address);

    /// @notice Whether an account is a guardian.
    /// @param account The account.
    /// @return Whether it may revoke.
    function isGuardian(address account) external view returns (bool);
}
