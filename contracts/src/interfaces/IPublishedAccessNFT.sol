// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

/// @title The membership contract as first published
/// @notice What every client may rely on, whichever of the two contracts it meets. Together with ERC-721's
/// own calls this is the whole interface of the first deployment. `DstackAccessNFT` keeps each line with its
/// name, types and meaning, and adds to them in `IDstackAccessNFT`.
interface IPublishedAccessNFT {
    /// @notice A node was minted, or became active (again).
    /// @param tokenId The node's token.
    /// @param nodeId The node's DNS label.
    /// @param owner Who holds the token.
    /// @param wireguardPublicKey The node's key in base64; "" for a node that was minted without one.
    event NodeAccessGranted(
        uint256 indexed tokenId, string nodeId, address indexed owner, string wireguardPublicKey
    );

    /// @notice A node was revoked or burned.
    /// @param tokenId The node's token.
    /// @param nodeId The node's DNS label.
    event NodeAccessRevoked(uint256 indexed tokenId, string nodeId);

    /// @notice A token changed hands. The node is out until its new holder sets a key.
    /// @param tokenId The node's token.
    /// @param from The previous holder.
    /// @param to The new holder, who may be the same.
    event NodeAccessTransferred(uint256 indexed tokenId, address indexed from, address indexed to);

    /// @notice A holder set the key of one of his nodes. The event does not say of which.
    /// @param owner The holder.
    /// @param wireguardPublicKey The new key in base64.
    event PublicKeyUpdated(address indexed owner, string wireguardPublicKey);

    /// @notice The owner of the contract named a successor, who has yet to accept.
    /// @param previousOwner The owner, who stays the owner until then.
    /// @param newOwner The successor.
    event OwnershipTransferInitiated(address indexed previousOwner, address indexed newOwner);

    /// @notice Mints the token of a new node. Only the owner of the contract may.
    /// @param to Who shall hold the token.
    /// @param nodeId The node's name: a DNS label that no other node has.
    /// @param wireguardPublicKey The node's key in canonical base64, never used before; or "" for an invited
    /// node, which becomes active when its holder sets a key.
    /// @param tokenURI The address of the token's metadata; may be empty.
    /// @return tokenId The new token, one above the last.
    function mintNodeAccess(
        address to,
        string calldata nodeId,
        string calldata wireguardPublicKey,
        string calldata tokenURI
    ) external returns (uint256 tokenId);

    /// @notice Takes a node's access away. The owner of the contract and guardians may.
    /// @dev The node keeps its name and its key stays reserved for it.
    /// @param tokenId The node's token.
    function revokeNodeAccess(uint256 tokenId) external;

    /// @notice Names a successor for the owner of the contract. Only the owner may.
    /// @dev Nothing changes hands until the successor calls `acceptContractOwnership`. A later call replaces
    /// the successor; an owner who names himself withdraws the offer.
    /// @param newOwner The successor; not the zero address.
    function transferContractOwnership(address newOwner) external;

    /// @notice A node as the first clients read it.
    /// @param tokenId The node's token, which must exist.
    /// @return nodeId The node's DNS label.
    /// @return wireguardPublicKey Its key in base64; "" when it has none.
    /// @return createdAt When it was minted, in seconds of Unix time.
    /// @return isActive Whether it has access now: active, and not expired at the time of the block.
    function getNodeAccess(uint256 tokenId)
        external
        view
        returns (string memory nodeId, string memory wireguardPublicKey, uint256 createdAt, bool isActive);

    /// @notice Whether a user holds the node of that name and it has access now.
    /// @param user The supposed holder.
    /// @param nodeId The node's DNS label.
    /// @return Whether both are so; false for a name that nobody has.
    function hasNodeAccess(address user, string calldata nodeId) external view returns (bool);

    /// @notice The same as `hasNodeAccess`.
    /// @param user The supposed holder.
    /// @param nodeId The node's DNS label.
    /// @return Whether the user holds that node and it has access now.
    function verifyAccess(address user, string calldata nodeId) external view returns (bool);

    /// @notice The token of the node of that name.
    /// @param nodeId The node's DNS label.
    /// @return The token; 0 when no node has the name.
    function getTokenIdByNodeId(string calldata nodeId) external view returns (uint256);

    /// @notice The key that was last set by or for a user, if the node is still his and active.
    /// @dev One answer for a user who may hold several nodes: only the latest key counts. When its node was
    /// revoked, transferred or burned the answer is "", even if the user holds another active node. Expiry
    /// does not matter here.
    /// @param owner The user.
    /// @return The key in base64, or "".
    function getPublicKeyByOwner(address owner) external view returns (string memory);

    /// @notice The key of a node.
    /// @param tokenId The node's token, which must exist.
    /// @return The key in base64, or "" when it has none.
    function getPublicKeyByTokenId(uint256 tokenId) external view returns (string memory);
}
