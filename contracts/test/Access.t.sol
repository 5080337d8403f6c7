// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {IERC721} from "@openzeppelin/contracts/token/ERC721/IERC721.sol";
import {IERC721Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";

import {IDstackAccessNFT} from "../src/interfaces/IDstackAccessNFT.sol";
import {IPublishedAccessNFT} from "../src/interfaces/IPublishedAccessNFT.sol";
import {MeshTest} from "./utils/MeshTest.sol";
import {vm} from "./utils/Vm.sol";

/// @dev Revoking, restoring, burning, renewing, and the guardians.
contract AccessTest is MeshTest {
    function setUp() public override {
        super.setUp();
        mint(ANN, "node-a", 1);
    }

    function test_ownerRevokes() public {
        IDstackAccessNFT.Node memory node = nodeOf(1);
        node.revoked = true;

        vm.expectEmit(address(nft));
        emit IPublishedAccessNFT.NodeAccessRevoked(1, "node-a");
        expectNodeChanged(node);
        revoke(1);

        vm.assertFalse(isActive(1));
        vm.assertEq(memberCount(), 0);
        vm.assertEq(nodeOf(1).key, key(1));
    }

    function test_revokingEmitsNothingElse() public {
        vm.recordLogs();
        revoke(1);
        assertEvents(
            abi.encodePacked(
                IPublishedAccessNFT.NodeAccessRevoked.selector, IDstackAccessNFT.NodeChanged.selector
            )
        );
    }

    function test_guardianRevokes() public {
        vm.prank(GUARDIAN);
        nft.revokeNodeAccess(1);
        vm.assertFalse(isActive(1));
    }

    function test_invitedNodeCanBeRevoked() public {
        invite(BEN, "node-b");
        revoke(2);
        setKey(BEN, 2, 2);
        vm.assertFalse(isActive(2));
        vm.assertEq(memberCount(), 1);
    }

    function test_nobodyElseRevokes() public {
        expectRefusal(ANN, abi.encodeWithSelector(IDstackAccessNFT.NotOwnerOrGuardian.selector, ANN));
        nft.revokeNodeAccess(1);
    }

    function test_refusesToRevokeTwice() public {
        revoke(1);
        expectRefusal(OWNER, abi.encodeWithSelector(IDstackAccessNFT.AlreadyRevoked.selector, 1));
        nft.revokeNodeAccess(1);
    }

    function test_restoreRevivesTheKey() public {
        revoke(1);
        IDstackAccessNFT.Node memory node = nodeOf(1);
        node.revoked = false;

        vm.expectEmit(address(nft));
        emit IPublishedAccessNFT.NodeAccessGranted(1, "node-a", ANN, keyText(1));
        expectNodeChanged(node);
        restore(1);

        vm.assertTrue(isActive(1));
        vm.assertEq(memberCount(), 1);
    }

    function test_restoringANodeWithoutKeyGrantsNothing() public {
        invite(BEN, "node-b");
        revoke(2);
        vm.recordLogs();
        restore(2);
        assertEvents(abi.encodePacked(IDstackAccessNFT.NodeChanged.selector));
        vm.assertFalse(isActive(2));
    }

    function test_restoreNeverLiftsASuspension() public {
        revoke(1);
        transfer(ANN, BEN, 1);
        vm.recordLogs();
        restore(1);
        assertEvents(abi.encodePacked(IDstackAccessNFT.NodeChanged.selector));
        vm.assertFalse(isActive(1));
        vm.assertTrue(nodeOf(1).suspended);
        vm.assertFalse(nodeOf(1).revoked);
    }

    function test_refusesToRestoreWhatIsNotRevoked() public {
        expectRefusal(OWNER, abi.encodeWithSelector(IDstackAccessNFT.NotRevoked.selector, 1));
        nft.restoreNodeAccess(1);
    }

    function test_onlyOwnerRestores() public {
        revoke(1);
        address[2] memory others = [ANN, GUARDIAN];
        for (uint256 i; i < others.length; ++i) {
            expectRefusal(
                others[i], abi.encodeWithSelector(IDstackAccessNFT.NotContractOwner.selector, others[i])
            );
            nft.restoreNodeAccess(1);
        }
    }

    function test_holderAndOwnerBurn() public {
        mint(BEN, "node-b", 2);
        vm.prank(ANN);
        nft.burn(1);
        vm.prank(OWNER);
        nft.burn(2);

        vm.assertEq(memberCount(), 0);
        vm.assertEq(nft.getTokenIdByNodeId("node-a"), 0);
        vm.assertEq(nft.nextTokenId(), 3);
        vm.assertEq(abi.encode(nodeOf(1)), abi.encode(_nothing()));
        vm.expectRevert(abi.encodeWithSelector(IERC721Errors.ERC721NonexistentToken.selector, 1));
        nft.ownerOf(1);
    }

    function test_burnEmits() public {
        vm.expectEmit(address(nft));
        emit IERC721.Transfer(ANN, address(0), 1);
        vm.expectEmit(address(nft));
        emit IPublishedAccessNFT.NodeAccessRevoked(1, "node-a");
        expectNodeChanged(1, _nothing());
        vm.prank(ANN);
        nft.burn(1);
    }

    function test_burnEmitsNothingElse() public {
        vm.recordLogs();
        vm.prank(ANN);
        nft.burn(1);
        assertEvents(
            abi.encodePacked(
                IERC721.Transfer.selector,
                IPublishedAccessNFT.NodeAccessRevoked.selector,
                IDstackAccessNFT.NodeChanged.selector
            )
        );
    }

    function test_burningAnInactiveNodeKeepsTheCount() public {
        mint(BEN, "node-b", 2);
        revoke(1);
        vm.prank(ANN);
        nft.burn(1);
        vm.assertEq(memberCount(), 1);
    }

    function test_burnedNameIsFree() public {
        vm.prank(ANN);
        nft.burn(1);
        mint(BEN, "node-a", 2);
        vm.assertEq(nft.getTokenIdByNodeId("node-a"), 2);
        vm.assertFalse(nft.verifyAccess(ANN, "node-a"));
    }

    function test_nobodyElseBurns() public {
        vm.startPrank(ANN);
        nft.approve(BEN, 1);
        nft.setApprovalForAll(BEN, true);
        vm.stopPrank();

        address[2] memory others = [BEN, GUARDIAN];
        for (uint256 i; i < others.length; ++i) {
            expectRefusal(
                others[i],
                abi.encodeWithSelector(IDstackAccessNFT.NotOwnerOrHolder.selector, others[i], 1, ANN)
            );
            nft.burn(1);
        }
    }

    function test_expiryEndsAccessAtItsSecond() public {
        vm.prank(OWNER);
        nft.renewNodeAccess(1, START + 100);

        vm.warp(START + 99);
        vm.assertTrue(isActive(1));
        vm.assertTrue(nft.verifyAccess(ANN, "node-a"));
        vm.warp(START + 100);
        vm.assertFalse(isActive(1));
        vm.assertFalse(nft.verifyAccess(ANN, "node-a"));
        vm.assertFalse(nft.hasNodeAccess(ANN, "node-a"));
        vm.assertEq(memberCount(), 1);
        vm.assertEq(nft.getPublicKeyByOwner(ANN), keyText(1));

        vm.prank(OWNER);
        nft.renewNodeAccess(1, 0);
        vm.warp(type(uint64).max);
        vm.assertTrue(isActive(1));
    }

    function test_renewingEmits() public {
        IDstackAccessNFT.Node memory node = nodeOf(1);
        node.expiresAt = 5;
        expectNodeChanged(node);
        vm.prank(OWNER);
        nft.renewNodeAccess(1, 5);
        vm.assertFalse(isActive(1));
    }

    function test_onlyOwnerRenews() public {
        expectRefusal(ANN, abi.encodeWithSelector(IDstackAccessNFT.NotContractOwner.selector, ANN));
        nft.renewNodeAccess(1, 0);
    }

    function test_ownerMakesAndUnmakesGuardians() public {
        vm.expectEmit(address(nft));
        emit IDstackAccessNFT.GuardianUpdated(BEN, true);
        vm.prank(OWNER);
        nft.setGuardian(BEN, true);
        vm.assertTrue(nft.isGuardian(BEN));

        vm.recordLogs();
        vm.prank(OWNER);
        nft.setGuardian(BEN, false);
        assertEvents(abi.encodePacked(IDstackAccessNFT.GuardianUpdated.selector));
        vm.assertFalse(nft.isGuardian(BEN));
        expectRefusal(BEN, abi.encodeWithSelector(IDstackAccessNFT.NotOwnerOrGuardian.selector, BEN));
        nft.revokeNodeAccess(1);
    }

    function test_onlyOwnerMakesGuardians() public {
        expectRefusal(GUARDIAN, abi.encodeWithSelector(IDstackAccessNFT.NotContractOwner.selector, GUARDIAN));
        nft.setGuardian(ANN, true);
    }

    function test_refusesTokensThatDoNotExist() public {
        bytes memory reason = abi.encodeWithSelector(IERC721Errors.ERC721NonexistentToken.selector, 9);
        vm.startPrank(OWNER);
        vm.expectRevert(reason);
        nft.revokeNodeAccess(9);
        vm.expectRevert(reason);
        nft.restoreNodeAccess(9);
        vm.expectRevert(reason);
        nft.burn(9);
        vm.expectRevert(reason);
        nft.renewNodeAccess(9, 0);
        vm.expectRevert(reason);
        nft.setRole(9, 0);
        vm.expectRevert(reason);
        nft.setEndpoint(9, "");
        vm.stopPrank();
    }

    function _nothing() private pure returns (IDstackAccessNFT.Node memory node) {}
}
