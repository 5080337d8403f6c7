// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {ERC721} from "@openzeppelin/contracts/token/ERC721/ERC721.sol";

import {ContractOwnership} from "./ContractOwnership.sol";
import {IDstackAccessNFT} from "./interfaces/IDstackAccessNFT.sol";
import {IPublishedAccessNFT} from "./interfaces/IPublishedAccessNFT.sol";
import {DnsLabel} from "./libraries/DnsLabel.sol";
import {WireGuardKey} from "./libraries/WireGuardKey.sol";

/// @title The member list of a WireGuard mesh, one token a node
/// @dev The manual is `IDstackAccessNFT`. Every write of a node ends in `_logChange`, which counts the members,
/// extends the history and emits `NodeChanged`. No write loops over nodes and none calls another contract,
/// except that `safeTransferFrom` asks the receiver when all is written.
contract DstackAccessNFT is ERC721, ContractOwnership {
    /// @dev What is stored of a node beside its token and its holder, which ERC-721 stores.
    struct Record {
        string nodeId;
        bytes32 key;
        string endpoint;
        bytes32 role;
        uint64 createdAt;
        uint64 expiresAt;
        bool revoked;
        bool suspended;
        string uri;
    }

    uint256 private constant MAX_ENDPOINT_LENGTH = 255;

    bytes32 private _history = keccak256(abi.encode(block.chainid, address(this)));
    uint64 private _revision;
    uint64 private _memberCount;
    uint64 private _nextTokenId = 1;

    mapping(uint256 tokenId => Record) private _records;
    mapping(string nodeId => uint256 tokenId) private _tokenOfNodeId;

    /// @dev The token that registered a key. Only `releaseKey` clears an entry; what a token's record says
    /// never does, so that no key can be on two tokens.
    mapping(bytes32 key => uint256 tokenId) private _tokenOfKey;

    /// @dev The token whose key was last set by or for an account, which may have lost both since.
    mapping(address holder => uint256 tokenId) private _latestTokenOf;

    mapping(address account => bool) private _guardians;

    constructor() ERC721("Dstack Access", "DSTACK") {}

    /*//////////////////////////////////////////////////////////////
                              ADMINISTRATION
    //////////////////////////////////////////////////////////////*/

    /// @inheritdoc IPublishedAccessNFT
    function mintNodeAccess(
        address to,
        string calldata nodeId,
        string calldata wireguardPublicKey,
        string calldata uri
    ) external returns (uint256 tokenId) {
        _requireOwner();
        if (!DnsLabel.isValid(nodeId)) revert InvalidNodeId(nodeId);
        if (_tokenOfNodeId[nodeId] != 0) revert NodeIdTaken(nodeId, _tokenOfNodeId[nodeId]);

        tokenId = _nextTokenId++;
        _tokenOfNodeId[nodeId] = tokenId;
        Record storage record = _records[tokenId];
        record.nodeId = nodeId;
        record.createdAt = uint64(block.timestamp);
        record.uri = uri;
        _mint(to, tokenId);

        if (bytes(wireguardPublicKey).length == 0) emit NodeAccessGranted(tokenId, nodeId, to, "");
        else _setKey(tokenId, to, wireguardPublicKey);
        _logChange(tokenId, false);
    }

    /// @inheritdoc IPublishedAccessNFT
    function revokeNodeAccess(uint256 tokenId) external {
        if (msg.sender != owner() && !_guardians[msg.sender]) revert NotOwnerOrGuardian(msg.sender);
        _requireOwned(tokenId);
        Record storage record = _records[tokenId];
        if (record.revoked) revert AlreadyRevoked(tokenId);

        bool wasActive = _isActive(record);
        record.revoked = true;
        emit NodeAccessRevoked(tokenId, record.nodeId);
        _logChange(tokenId, wasActive);
    }

    /// @inheritdoc IDstackAccessNFT
    function restoreNodeAccess(uint256 tokenId) external {
        _requireOwner();
        _requireOwned(tokenId);
        Record storage record = _records[tokenId];
        if (!record.revoked) revert NotRevoked(tokenId);

        record.revoked = false;
        _logChange(tokenId, false);
    }

    /// @inheritdoc IDstackAccessNFT
    function renewNodeAccess(uint256 tokenId, uint64 expiresAt) external {
        _requireOwner();
        _requireOwned(tokenId);

        Record storage record = _records[tokenId];
        record.expiresAt = expiresAt;
        _logChange(tokenId, _isActive(record));
    }

    /// @inheritdoc IDstackAccessNFT
    function setRole(uint256 tokenId, bytes32 role) external {
        _requireOwner();
        _requireOwned(tokenId);

        Record storage record = _records[tokenId];
        record.role = role;
        _logChange(tokenId, _isActive(record));
    }

    /// @inheritdoc IDstackAccessNFT
    function setGuardian(address account, bool allowed) external {
        _requireOwner();

        _guardians[account] = allowed;
        emit GuardianUpdated(account, allowed);
    }

    /// @inheritdoc IDstackAccessNFT
    function releaseKey(bytes32 key) external {
        _requireOwner();
        uint256 tokenId = _tokenOfKey[key];
        if (tokenId == 0) revert KeyNotTaken(key);
        Record storage record = _records[tokenId];
        bool carried = record.key == key;
        if (carried && _isActive(record)) revert KeyActive(key, tokenId);

        delete _tokenOfKey[key];
        emit KeyReleased(key);
        if (carried) {
            delete record.key;
            _logChange(tokenId, false);
        }
    }

    /*//////////////////////////////////////////////////////////////
                                 HOLDERS
    //////////////////////////////////////////////////////////////*/

    /// @inheritdoc IDstackAccessNFT
    function setPublicKey(uint256 tokenId, string calldata wireguardPublicKey) external {
        _requireHolder(tokenId);

        Record storage record = _records[tokenId];
        bool wasActive = _isActive(record);
        _setKey(tokenId, msg.sender, wireguardPublicKey);
        record.suspended = false;
        emit PublicKeyUpdated(msg.sender, wireguardPublicKey);
        _logChange(tokenId, wasActive);
    }

    /// @inheritdoc IDstackAccessNFT
    function setEndpoint(uint256 tokenId, string calldata endpoint) external {
        _requireHolder(tokenId);
        uint256 length = bytes(endpoint).length;
        if (length > MAX_ENDPOINT_LENGTH) revert EndpointTooLong(length, MAX_ENDPOINT_LENGTH);

        Record storage record = _records[tokenId];
        record.endpoint = endpoint;
        _logChange(tokenId, _isActive(record));
    }

    /// @inheritdoc IDstackAccessNFT
    function burn(uint256 tokenId) external {
        address holder = _requireOwned(tokenId);
        if (msg.sender != holder && msg.sender != owner()) {
            revert NotOwnerOrHolder(msg.sender, tokenId, holder);
        }

        Record storage record = _records[tokenId];
        string memory nodeId = record.nodeId;
        bool wasActive = _isActive(record);
        delete _tokenOfNodeId[nodeId];
        delete _records[tokenId];
        _burn(tokenId);
        emit NodeAccessRevoked(tokenId, nodeId);
        _logChange(tokenId, wasActive);
    }

    /// @dev Every way of ERC-721 comes through here, minting and burning too, which do their own part. A
    /// transfer ends the seller's access at once: his key is spent and the node waits for the buyer's.
    function _update(address to, uint256 tokenId, address auth) internal override returns (address from) {
        from = super._update(to, tokenId, auth);
        if (from == address(0) || to == address(0)) return from;

        Record storage record = _records[tokenId];
        bool wasActive = _isActive(record);
        record.suspended = true;
        delete record.key;
        emit NodeAccessTransferred(tokenId, from, to);
        _logChange(tokenId, wasActive);
    }

    /*//////////////////////////////////////////////////////////////
                             PUBLISHED VIEWS
    //////////////////////////////////////////////////////////////*/

    /// @inheritdoc IPublishedAccessNFT
    function getNodeAccess(uint256 tokenId)
        external
        view
        returns (string memory nodeId, string memory wireguardPublicKey, uint256 createdAt, bool isActive)
    {
        _requireOwned(tokenId);
        Record storage record = _records[tokenId];
        return (record.nodeId, WireGuardKey.format(record.key), record.createdAt, _hasAccess(record));
    }

    /// @inheritdoc IPublishedAccessNFT
    function hasNodeAccess(address user, string calldata nodeId) external view returns (bool) {
        return verifyAccess(user, nodeId);
    }

    /// @inheritdoc IPublishedAccessNFT
    function verifyAccess(address user, string calldata nodeId) public view returns (bool) {
        uint256 tokenId = _tokenOfNodeId[nodeId];
        return _hasAccess(_records[tokenId]) && _ownerOf(tokenId) == user;
    }

    /// @inheritdoc IPublishedAccessNFT
    function getTokenIdByNodeId(string calldata nodeId) external view returns (uint256) {
        return _tokenOfNodeId[nodeId];
    }

    /// @inheritdoc IPublishedAccessNFT
    function getPublicKeyByOwner(address holder) external view returns (string memory) {
        uint256 tokenId = _latestTokenOf[holder];
        Record storage record = _records[tokenId];
        return _isActive(record) && _ownerOf(tokenId) == holder ? WireGuardKey.format(record.key) : "";
    }

    /// @inheritdoc IPublishedAccessNFT
    function getPublicKeyByTokenId(uint256 tokenId) external view returns (string memory) {
        _requireOwned(tokenId);
        return WireGuardKey.format(_records[tokenId].key);
    }

    /// @inheritdoc ERC721
    function tokenURI(uint256 tokenId) public view override returns (string memory) {
        _requireOwned(tokenId);
        return _records[tokenId].uri;
    }

    /*//////////////////////////////////////////////////////////////
                            VIEWS FOR FOLLOWERS
    //////////////////////////////////////////////////////////////*/

    /// @inheritdoc IDstackAccessNFT
    function checkpoint() external view returns (uint64 revision, bytes32 history, uint256 memberCount) {
        return (_revision, _history, _memberCount);
    }

    /// @inheritdoc IDstackAccessNFT
    function getNodes(uint256 firstTokenId, uint256 limit) public view returns (Node[] memory nodes) {
        uint256 end = _nextTokenId;
        uint256 available = firstTokenId < end ? end - firstTokenId : 0;
        nodes = new Node[](limit < available ? limit : available);
        for (uint256 i; i < nodes.length; ++i) {
            nodes[i] = _node(firstTokenId + i);
        }
    }

    /// @inheritdoc IDstackAccessNFT
    function hashNodes(uint256 firstTokenId, uint256 limit) external view returns (bytes32) {
        return keccak256(abi.encode(getNodes(firstTokenId, limit)));
    }

    /// @inheritdoc IDstackAccessNFT
    function nextTokenId() external view returns (uint256) {
        return _nextTokenId;
    }

    /// @inheritdoc IDstackAccessNFT
    function isGuardian(address account) external view returns (bool) {
        return _guardians[account];
    }

    /*//////////////////////////////////////////////////////////////
                                INTERNALS
    //////////////////////////////////////////////////////////////*/

    function _requireHolder(uint256 tokenId) private view {
        address holder = _requireOwned(tokenId);
        if (msg.sender != holder) revert NotHolder(msg.sender, tokenId, holder);
    }

    /// @dev Registers a key for a token. The key that it replaces keeps its entry, and so is spent.
    function _setKey(uint256 tokenId, address holder, string calldata wireguardPublicKey) private {
        bytes32 key = WireGuardKey.parse(wireguardPublicKey);
        if (key == 0) revert InvalidPublicKey(wireguardPublicKey);
        if (_tokenOfKey[key] != 0) revert KeyTaken(key, _tokenOfKey[key]);

        _tokenOfKey[key] = tokenId;
        _latestTokenOf[holder] = tokenId;
        _records[tokenId].key = key;
    }

    /// @dev To be called last, when the node is as it shall be.
    function _logChange(uint256 tokenId, bool wasActive) private {
        Node memory node = _node(tokenId);
        bool isActive = _isActive(_records[tokenId]);
        if (wasActive && !isActive) --_memberCount;
        if (isActive && !wasActive) {
            ++_memberCount;
            emit NodeAccessGranted(tokenId, node.nodeId, node.holder, WireGuardKey.format(node.key));
        }

        uint64 revision = ++_revision;
        _history = keccak256(abi.encode(_history, revision, block.number, node));
        emit NodeChanged(revision, tokenId, node);
    }

    /// @dev A burned token has an empty record, so it is not active and its node is all zeroes.
    function _node(uint256 tokenId) private view returns (Node memory node) {
        address holder = _ownerOf(tokenId);
        if (holder == address(0)) return node;

        Record storage record = _records[tokenId];
        node.tokenId = tokenId;
        node.holder = holder;
        node.nodeId = record.nodeId;
        node.key = record.key;
        node.endpoint = record.endpoint;
        node.role = record.role;
        node.createdAt = record.createdAt;
        node.expiresAt = record.expiresAt;
        node.revoked = record.revoked;
        node.suspended = record.suspended;
    }

    function _isActive(Record storage record) private view returns (bool) {
        return record.key != 0 && !record.revoked && !record.suspended;
    }

    function _hasAccess(Record storage record) private view returns (bool) {
        return _isActive(record) && (record.expiresAt == 0 || block.timestamp < record.expiresAt);
    }
}
