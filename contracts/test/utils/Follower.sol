// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {DstackAccessNFT} from "../../src/DstackAccessNFT.sol";
import {IDstackAccessNFT} from "../../src/interfaces/IDstackAccessNFT.sol";
import {Vm, vm} from "./Vm.sol";

/// @dev Knows of the contract what its log says, and of the log only `NodeChanged`.
contract Follower {
    DstackAccessNFT private immutable _nft;

    uint64 public revision;
    bytes32 public history;
    uint256 public memberCount;

    IDstackAccessNFT.Node[] private _nodes;

    constructor(DstackAccessNFT nft) {
        _nft = nft;
        history = keccak256(abi.encode(block.chainid, address(nft)));
        _nodes.push(); // no token has the id 0
    }

    /// @dev Takes in what was logged in this block since `vm.recordLogs()`.
    function fold() external {
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i; i < logs.length; ++i) {
            bool ours = logs[i].emitter == address(_nft);
            if (ours && logs[i].topics[0] == IDstackAccessNFT.NodeChanged.selector) {
                _fold(
                    uint64(uint256(logs[i].topics[1])),
                    uint256(logs[i].topics[2]),
                    abi.decode(logs[i].data, (IDstackAccessNFT.Node))
                );
            }
        }
    }

    function nodes() external view returns (IDstackAccessNFT.Node[] memory) {
        return _nodes;
    }

    function _fold(uint64 revision_, uint256 tokenId, IDstackAccessNFT.Node memory node) private {
        require(revision_ == revision + 1, "a revision is missing");
        IDstackAccessNFT.Node memory nothing;
        bool burned = keccak256(abi.encode(node)) == keccak256(abi.encode(nothing));
        require(burned || node.tokenId == tokenId, "a node of another token");
        while (_nodes.length <= tokenId) _nodes.push();

        if (_isActive(_nodes[tokenId])) --memberCount;
        if (_isActive(node)) ++memberCount;
        _nodes[tokenId] = node;
        revision = revision_;
        history = keccak256(abi.encode(history, revision_, block.number, node));
    }

    function _isActive(IDstackAccessNFT.Node memory node) private pure returns (bool) {
        return node.key != 0 && !node.revoked && !node.suspended;
    }
}
