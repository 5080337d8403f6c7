// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

/// @title A contract with only the published interface, with awkward habits
/// @dev For tests. The deployed contract's source was never published, so a client has to work whatever it does
/// where the interface is silent: each bit of `habits` is one such thing. Its tokens have ids from 1, are not
/// enumerable, and neither keys nor node ids are checked.
contract PublishedAccess {
    event NodeAccessGranted(uint256 indexed tokenId, string nodeId, address indexed owner, string wireguardPublicKey);
    event NodeAccessRevoked(uint256 indexed tokenId, string nodeId);
    event NodeAccessTransferred(uint256 indexed tokenId, address indexed from, address indexed to);
    event PublicKeyUpdated(address indexed owner, string wireguardPublicKey);
    event OwnershipTransferInitiated(address indexed previousOwner, address indexed newOwner);
    event Transfer(address indexed from, address indexed to, uint256 indexed tokenId);
    event Approval(address indexed owner, address indexed approved, uint256 indexed tokenId);

    error NoSuchToken(uint256 tokenId);

    uint256 private constant KEEP_KEY = 1; // a transfer leaves the key in place
    uint256 private constant KEY_OF_OWNER = 2; // one key an owner, for all his tokens
    uint256 private constant TRANSFER_LAST = 4; // our own event comes before `Transfer`
    uint256 private constant ONLY_TRANSFER = 8; // a transfer logs no `NodeAccessTransferred`
    uint256 private constant ONLY_OWN = 16; // a transfer logs no `Transfer`
    uint256 private constant NO_REASON = 32; // a missing token reverts without data
    uint256 private constant ZEROES = 64; // a missing token reads as zeroes
    uint256 private constant HIDE_REVOKED = 128; // a revoked token reads as a missing one

    struct Token {
        address holder;
        string nodeId;
        string key;
        uint256 createdAt;
        bool active;
        string uri;
    }

    address public owner = msg.sender;
    uint256 private immutable habits;
    uint256 private count;
    mapping(uint256 => Token) private tokens;
    mapping(address => string) private keyOf;
    mapping(string => uint256) private tokenOf;

    constructor(uint256 habits_) {
        habits = habits_;
    }

    modifier onlyOwner() {
        require(msg.sender == owner, "not the owner");
        _;
    }

    // Writes of the interface

    function mintNodeAccess(address to, string calldata nodeId, string calldata key, string calldata uri)
        external
        onlyOwner
        returns (uint256 tokenId)
    {
        tokenId = ++count;
        tokens[tokenId] = Token(to, nodeId, "", block.timestamp, true, uri);
        tokenOf[nodeId] = tokenId;
        if (!has(TRANSFER_LAST)) emit Transfer(address(0), to, tokenId);
        setKey(tokenId, key);
        emit NodeAccessGranted(tokenId, nodeId, to, key);
        if (has(TRANSFER_LAST)) emit Transfer(address(0), to, tokenId);
    }

    function revokeNodeAccess(uint256 tokenId) external onlyOwner {
        tokens[existing(tokenId)].active = false;
        emit NodeAccessRevoked(tokenId, tokens[tokenId].nodeId);
    }

    function transferContractOwnership(address newOwner) external onlyOwner {
        emit OwnershipTransferInitiated(owner, newOwner);
        owner = newOwner;
    }

    // Writes of ERC-721, and of ours where the interface has only the event

    function approve(address to, uint256 tokenId) external {
        emit Approval(msg.sender, to, tokenId);
    }

    function transferFrom(address from, address to, uint256 tokenId) external {
        Token storage token = tokens[existing(tokenId)];
        require(msg.sender == from && token.holder == from && to != address(0), "not the holder");
        token.holder = to;
        if (!has(KEEP_KEY)) token.key = "";
        if (has(TRANSFER_LAST) && !has(ONLY_TRANSFER)) emit NodeAccessTransferred(tokenId, from, to);
        if (!has(ONLY_OWN)) emit Transfer(from, to, tokenId);
        if (!has(TRANSFER_LAST) && !has(ONLY_TRANSFER)) emit NodeAccessTransferred(tokenId, from, to);
    }

    function updatePublicKey(uint256 tokenId, string calldata key) external {
        require(msg.sender == tokens[existing(tokenId)].holder, "not the holder");
        setKey(tokenId, key);
        emit PublicKeyUpdated(msg.sender, key);
    }

    function grantAgain(uint256 tokenId) external onlyOwner {
        Token storage token = tokens[existing(tokenId)];
        token.active = true;
        emit NodeAccessGranted(tokenId, token.nodeId, token.holder, keyAt(tokenId));
    }

    function burn(uint256 tokenId) external {
        address holder = tokens[existing(tokenId)].holder;
        require(msg.sender == holder, "not the holder");
        delete tokens[tokenId];
        emit Transfer(holder, address(0), tokenId);
    }

    /// @dev Several writes in one transaction.
    function multicall(bytes[] calldata calls) external {
        for (uint256 i = 0; i < calls.length; i++) {
            (bool ok,) = address(this).delegatecall(calls[i]);
            require(ok, "a call failed");
        }
    }

    /// @dev What no contract of the interface should do: a change without an event.
    function change(uint256 tokenId, string calldata key) external onlyOwner {
        setKey(tokenId, key);
    }

    // Views

    function getNodeAccess(uint256 tokenId)
        external
        view
        returns (string memory nodeId, string memory wireguardPublicKey, uint256 createdAt, bool isActive)
    {
        Token storage token = tokens[tokenId];
        if (!has(ZEROES)) existing(tokenId);
        if (has(HIDE_REVOKED) && !token.active) missing(tokenId);
        return (token.nodeId, token.holder == address(0) ? "" : keyAt(tokenId), token.createdAt, token.active);
    }

    function hasNodeAccess(address user, string calldata nodeId) public view returns (bool) {
        Token storage token = tokens[tokenOf[nodeId]];
        return token.active && token.holder == user;
    }

    function verifyAccess(address user, string calldata nodeId) external view returns (bool) {
        return hasNodeAccess(user, nodeId);
    }

    function getTokenIdByNodeId(string calldata nodeId) external view returns (uint256) {
        return tokenOf[nodeId];
    }

    function getPublicKeyByOwner(address user) external view returns (string memory) {
        return keyOf[user];
    }

    function getPublicKeyByTokenId(uint256 tokenId) external view returns (string memory) {
        return keyAt(existing(tokenId));
    }

    function ownerOf(uint256 tokenId) external view returns (address) {
        return has(ZEROES) ? tokens[tokenId].holder : tokens[existing(tokenId)].holder;
    }

    function tokenURI(uint256 tokenId) external view returns (string memory) {
        return tokens[existing(tokenId)].uri;
    }

    function balanceOf(address) external pure returns (uint256) {
        return 1;
    }

    // Parts

    function has(uint256 habit) private view returns (bool) {
        return habits & habit != 0;
    }

    function keyAt(uint256 tokenId) private view returns (string memory) {
        return has(KEY_OF_OWNER) ? keyOf[tokens[tokenId].holder] : tokens[tokenId].key;
    }

    function setKey(uint256 tokenId, string calldata key) private {
        if (!has(KEY_OF_OWNER) || bytes(key).length != 0) keyOf[tokens[tokenId].holder] = key;
        tokens[tokenId].key = key;
    }

    function existing(uint256 tokenId) private view returns (uint256) {
        if (tokens[tokenId].holder == address(0)) missing(tokenId);
        return tokenId;
    }

    function missing(uint256 tokenId) private view {
        if (has(NO_REASON)) {
            assembly {
                revert(0, 0)
            }
        }
        revert NoSuchToken(tokenId);
    }
}
