// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {DstackAccessNFT} from "../src/DstackAccessNFT.sol";
import {IDstackAccessNFT} from "../src/interfaces/IDstackAccessNFT.sol";
import {WireGuardKey} from "../src/libraries/WireGuardKey.sol";
import {MeshActor} from "./actors/MeshActor.sol";
import {Follower} from "./utils/Follower.sol";
import {vm} from "./utils/Vm.sol";

/// @dev What holds after any sequence of calls by anybody. That a spent key never returns is checked where
/// keys are registered, in the actor, which may not fail.
contract InvariantsTest {
    MeshActor private _actor;
    DstackAccessNFT private _nft;

    function setUp() public {
        vm.warp(1_700_000_000);
        _actor = new MeshActor();
        _nft = _actor.nft();
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(_actor);
    }

    /// @dev Invariants prove nothing about calls that are always refused.
    function test_actorGetsThroughWithEveryCall() public {
        for (uint256 i; i < 300; ++i) {
            uint256 a = uint256(keccak256(abi.encode(i, "a")));
            uint256 b = uint256(keccak256(abi.encode(i, "b")));
            uint256 c = uint256(keccak256(abi.encode(i, "c")));
            _actor.mint(a, b, c);
            _actor.setPublicKey(a, b, c);
            _actor.transferOwn(a, b, c % 2 == 0);
            _actor.revoke(b, c);
            _actor.restore(c, a);
            _actor.burn(b, a);
            _actor.releaseKey(c, b);
        }
        bytes4[7] memory calls = [
            _nft.mintNodeAccess.selector,
            _nft.setPublicKey.selector,
            _nft.transferFrom.selector,
            _nft.revokeNodeAccess.selector,
            _nft.restoreNodeAccess.selector,
            _nft.burn.selector,
            _nft.releaseKey.selector
        ];
        for (uint256 i; i < calls.length; ++i) {
            vm.assertTrue(_actor.successes(calls[i]) > 5);
        }
    }

    function invariant_aKeyIsOnOneTokenAtMost() public view {
        IDstackAccessNFT.Node[] memory nodes = _nft.getNodes(0, type(uint256).max);
        for (uint256 i; i < nodes.length; ++i) {
            if (nodes[i].key == 0) continue;
            vm.assertTrue(_actor.registered(nodes[i].key), "a key in use that nobody registered");
            for (uint256 j; j < i; ++j) {
                vm.assertFalse(nodes[i].key == nodes[j].key, "one key on two tokens");
            }
        }
    }

    function invariant_whoWasRevokedIsOutInAnyWallet() public view {
        IDstackAccessNFT.Node[] memory nodes = _nft.getNodes(0, type(uint256).max);
        for (uint256 i; i < nodes.length; ++i) {
            vm.assertEq(nodes[i].revoked, _actor.outlawed(i));
            if (nodes[i].revoked) vm.assertFalse(_hasAccess(nodes[i]));
        }
    }

    function invariant_transferredNodeIsOutUntilItsNewHolderSetsAKey() public view {
        IDstackAccessNFT.Node[] memory nodes = _nft.getNodes(0, type(uint256).max);
        for (uint256 i; i < nodes.length; ++i) {
            vm.assertEq(nodes[i].suspended, _actor.handedOver(i));
            if (!nodes[i].suspended) continue;
            vm.assertEq(nodes[i].key, 0);
            vm.assertFalse(_hasAccess(nodes[i]));
        }
    }

    function invariant_theLogAloneGivesTheState() public view {
        Follower follower = _actor.follower();
        (uint64 revision, bytes32 history, uint256 memberCount) = _nft.checkpoint();
        vm.assertEq(follower.revision(), revision);
        vm.assertEq(follower.history(), history);
        vm.assertEq(follower.memberCount(), memberCount);
        vm.assertEq(keccak256(abi.encode(follower.nodes())), _nft.hashNodes(0, type(uint256).max));
    }

    function invariant_pagesAddUpToTheMembers() public view {
        (,, uint256 memberCount) = _nft.checkpoint();
        for (uint256 limit = 1; limit < 6; ++limit) {
            uint256 active;
            uint256 next = 1;
            IDstackAccessNFT.Node[] memory page;
            do {
                page = _nft.getNodes(next, limit);
                vm.assertEq(_nft.hashNodes(next, limit), keccak256(abi.encode(page)));
                for (uint256 i; i < page.length; ++i) {
                    if (page[i].key != 0 && !page[i].revoked && !page[i].suspended) ++active;
                }
                next += page.length;
            } while (page.length == limit);
            vm.assertEq(active, memberCount);
            vm.assertEq(next, _nft.nextTokenId());
        }
    }

    function invariant_publishedViewsKeepTheirMeaning() public view {
        IDstackAccessNFT.Node[] memory nodes = _nft.getNodes(0, type(uint256).max);
        for (uint256 i; i < nodes.length; ++i) {
            IDstackAccessNFT.Node memory node = nodes[i];
            if (node.holder == address(0)) continue;

            (string memory nodeId, string memory key, uint256 createdAt, bool isActive) =
                _nft.getNodeAccess(i);
            vm.assertEq(nodeId, node.nodeId);
            vm.assertEq(key, WireGuardKey.format(node.key));
            vm.assertEq(key, _nft.getPublicKeyByTokenId(i));
            vm.assertEq(createdAt, node.createdAt);
            vm.assertEq(isActive, _hasAccess(node));
            vm.assertEq(_nft.ownerOf(i), node.holder);
            vm.assertEq(_nft.getTokenIdByNodeId(nodeId), i);
            for (uint256 p; p < 5; ++p) {
                address user = _actor.people(p);
                vm.assertEq(_nft.verifyAccess(user, nodeId), isActive && user == node.holder);
                vm.assertEq(_nft.hasNodeAccess(user, nodeId), isActive && user == node.holder);
            }
        }
    }

    function invariant_keyOfAnOwnerIsTheOneLastSet() public view {
        IDstackAccessNFT.Node[] memory nodes = _nft.getNodes(0, type(uint256).max);
        for (uint256 p; p < 5; ++p) {
            address user = _actor.people(p);
            IDstackAccessNFT.Node memory node = nodes[_actor.latestToken(user)];
            bool stands = node.holder == user && node.key != 0 && node.key == _actor.latestKey(user)
                && !node.revoked && !node.suspended;
            string memory expected = stands ? WireGuardKey.format(node.key) : "";
            vm.assertEq(_nft.getPublicKeyByOwner(user), expected);
        }
    }

    /// @dev Active and not expired, said without the contract's help.
    function _hasAccess(IDstackAccessNFT.Node memory node) private view returns (bool) {
        bool expired = node.expiresAt != 0 && block.timestamp >= node.expiresAt;
        return node.key != 0 && !node.revoked && !node.suspended && !expired;
    }
}
