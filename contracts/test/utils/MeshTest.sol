// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {DstackAccessNFT} from "../../src/DstackAccessNFT.sol";
import {IDstackAccessNFT} from "../../src/interfaces/IDstackAccessNFT.sol";
import {WireGuardKey} from "../../src/libraries/WireGuardKey.sol";
import {Vm, vm} from "./Vm.sol";

/// @dev A fresh contract, its people, and words for what the tests do again and again.
abstract contract MeshTest {
    address internal constant OWNER = address(0x0A11CE);
    address internal constant GUARDIAN = address(0x6A4D);
    address internal constant ANN = address(0xA1);
    address internal constant BEN = address(0xB2);

    uint64 internal constant START = 1_700_000_000;

    DstackAccessNFT internal nft;

    function setUp() public virtual {
        vm.warp(START);
        vm.startPrank(OWNER);
        nft = new DstackAccessNFT();
        nft.setGuardian(GUARDIAN, true);
        vm.stopPrank();
    }

    /// @dev The n-th key: distinct, never zero.
    function key(uint256 n) internal pure returns (bytes32) {
        return keccak256(abi.encode("key", n));
    }

    function keyText(uint256 n) internal pure returns (string memory) {
        return WireGuardKey.format(key(n));
    }

    /// @dev Mints an active node with key(n).
    function mint(address to, string memory nodeId, uint256 n) internal returns (uint256 tokenId) {
        vm.prank(OWNER);
        return nft.mintNodeAccess(to, nodeId, keyText(n), "");
    }

    /// @dev Mints a node that has no key yet.
    function invite(address to, string memory nodeId) internal returns (uint256 tokenId) {
        vm.prank(OWNER);
        return nft.mintNodeAccess(to, nodeId, "", "");
    }

    function setKey(address holder, uint256 tokenId, uint256 n) internal {
        vm.prank(holder);
        nft.setPublicKey(tokenId, keyText(n));
    }

    function revoke(uint256 tokenId) internal {
        vm.prank(OWNER);
        nft.revokeNodeAccess(tokenId);
    }

    function restore(uint256 tokenId) internal {
        vm.prank(OWNER);
        nft.restoreNodeAccess(tokenId);
    }

    function release(bytes32 key_) internal {
        vm.prank(OWNER);
        nft.releaseKey(key_);
    }

    function transfer(address from, address to, uint256 tokenId) internal {
        vm.prank(from);
        nft.transferFrom(from, to, tokenId);
    }

    function nodeOf(uint256 tokenId) internal view returns (IDstackAccessNFT.Node memory) {
        return nft.getNodes(tokenId, 1)[0];
    }

    function isActive(uint256 tokenId) internal view returns (bool active) {
        (,,, active) = nft.getNodeAccess(tokenId);
    }

    function revision() internal view returns (uint64 revision_) {
        (revision_,,) = nft.checkpoint();
    }

    function memberCount() internal view returns (uint256 count) {
        (,, count) = nft.checkpoint();
    }

    /// @dev The call that follows must announce exactly this node, as the next revision.
    function expectNodeChanged(IDstackAccessNFT.Node memory node) internal {
        expectNodeChanged(node.tokenId, node);
    }

    function expectNodeChanged(uint256 tokenId, IDstackAccessNFT.Node memory node) internal {
        uint64 next = revision() + 1;
        vm.expectEmit(address(nft));
        emit IDstackAccessNFT.NodeChanged(next, tokenId, node);
    }

    function expectRefusal(address caller, bytes memory reason) internal {
        vm.prank(caller);
        vm.expectRevert(reason);
    }

    /// @dev The events logged since `vm.recordLogs()` are these and no others, in this order.
    function assertEvents(bytes memory selectors) internal {
        Vm.Log[] memory logs = vm.getRecordedLogs();
        bytes memory seen;
        for (uint256 i; i < logs.length; ++i) {
            seen = abi.encodePacked(seen, logs[i].topics[0]);
        }
        vm.assertEq(seen, selectors);
    }
}
