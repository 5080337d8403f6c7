// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {IERC721Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";

import {IDstackAccessNFT} from "../src/interfaces/IDstackAccessNFT.sol";
import {IPublishedAccessNFT} from "../src/interfaces/IPublishedAccessNFT.sol";
import {MeshTest} from "./utils/MeshTest.sol";
import {vm} from "./utils/Vm.sol";

/// @dev setPublicKey, and the life of a key: free, used, spent, released.
contract KeysTest is MeshTest {
    function setUp() public override {
        super.setUp();
        mint(ANN, "node-a", 1);
    }

    function test_holderReplacesTheKey() public {
        setKey(ANN, 1, 2);
        vm.assertEq(nodeOf(1).key, key(2));
        vm.assertTrue(isActive(1));
        vm.assertEq(memberCount(), 1);
    }

    function test_replacingEmits() public {
        IDstackAccessNFT.Node memory node = nodeOf(1);
        node.key = key(2);

        vm.expectEmit(address(nft));
        emit IPublishedAccessNFT.PublicKeyUpdated(ANN, keyText(2));
        expectNodeChanged(node);
        setKey(ANN, 1, 2);
    }

    function test_replacingGrantsNothingNew() public {
        vm.recordLogs();
        setKey(ANN, 1, 2);
        assertEvents(
            abi.encodePacked(
                IPublishedAccessNFT.PublicKeyUpdated.selector, IDstackAccessNFT.NodeChanged.selector
            )
        );
    }

    function test_firstKeyOfAnInvitedNodeGrantsAccess() public {
        invite(BEN, "node-b");
        vm.recordLogs();
        setKey(BEN, 2, 2);
        assertEvents(
            abi.encodePacked(
                IPublishedAccessNFT.PublicKeyUpdated.selector,
                IPublishedAccessNFT.NodeAccessGranted.selector,
                IDstackAccessNFT.NodeChanged.selector
            )
        );
    }

    function test_grantNamesTheNewKey() public {
        invite(BEN, "node-b");
        vm.expectEmit(address(nft));
        emit IPublishedAccessNFT.NodeAccessGranted(2, "node-b", BEN, keyText(2));
        setKey(BEN, 2, 2);
    }

    function test_revokedNodeStaysOutWithANewKey() public {
        revoke(1);
        vm.recordLogs();
        setKey(ANN, 1, 2);
        assertEvents(
            abi.encodePacked(
                IPublishedAccessNFT.PublicKeyUpdated.selector, IDstackAccessNFT.NodeChanged.selector
            )
        );
        vm.assertFalse(isActive(1));
        vm.assertTrue(nodeOf(1).revoked);

        restore(1);
        vm.assertTrue(isActive(1));
        vm.assertEq(nodeOf(1).key, key(2));
    }

    function test_onlyTheHolderSetsTheKey() public {
        vm.startPrank(ANN);
        nft.approve(BEN, 1);
        nft.setApprovalForAll(BEN, true);
        vm.stopPrank();

        address[3] memory others = [BEN, OWNER, GUARDIAN];
        for (uint256 i; i < others.length; ++i) {
            expectRefusal(
                others[i], abi.encodeWithSelector(IDstackAccessNFT.NotHolder.selector, others[i], 1, ANN)
            );
            nft.setPublicKey(1, keyText(2));
        }
    }

    function test_refusesATokenThatDoesNotExist() public {
        expectRefusal(ANN, abi.encodeWithSelector(IERC721Errors.ERC721NonexistentToken.selector, 2));
        nft.setPublicKey(2, keyText(2));
    }

    function test_refusesToLeaveTheNodeWithoutAKey() public {
        expectRefusal(ANN, abi.encodeWithSelector(IDstackAccessNFT.InvalidPublicKey.selector, ""));
        nft.setPublicKey(1, "");
    }

    function test_refusesTheKeyOfAnotherNode() public {
        mint(BEN, "node-b", 2);
        expectRefusal(BEN, abi.encodeWithSelector(IDstackAccessNFT.KeyTaken.selector, key(1), 1));
        nft.setPublicKey(2, keyText(1));
    }

    function test_refusesTheKeyThatTheNodeHas() public {
        expectRefusal(ANN, abi.encodeWithSelector(IDstackAccessNFT.KeyTaken.selector, key(1), 1));
        nft.setPublicKey(1, keyText(1));
    }

    function test_replacedKeyIsSpentForItsOwnerToo() public {
        setKey(ANN, 1, 2);
        expectRefusal(ANN, abi.encodeWithSelector(IDstackAccessNFT.KeyTaken.selector, key(1), 1));
        nft.setPublicKey(1, keyText(1));
    }

    function test_keyOfARevokedNodeIsReserved() public {
        mint(BEN, "node-b", 2);
        revoke(1);
        expectRefusal(BEN, abi.encodeWithSelector(IDstackAccessNFT.KeyTaken.selector, key(1), 1));
        nft.setPublicKey(2, keyText(1));
    }

    function test_keyOfATransferredNodeIsSpent() public {
        transfer(ANN, BEN, 1);
        expectRefusal(BEN, abi.encodeWithSelector(IDstackAccessNFT.KeyTaken.selector, key(1), 1));
        nft.setPublicKey(1, keyText(1));
    }

    function test_keyOfABurnedNodeIsSpent() public {
        mint(BEN, "node-b", 2);
        vm.prank(ANN);
        nft.burn(1);
        expectRefusal(BEN, abi.encodeWithSelector(IDstackAccessNFT.KeyTaken.selector, key(1), 1));
        nft.setPublicKey(2, keyText(1));
    }

    function test_releasedKeyCanBeRegisteredAgain() public {
        setKey(ANN, 1, 2);
        vm.expectEmit(address(nft));
        emit IDstackAccessNFT.KeyReleased(key(1));
        release(key(1));

        mint(BEN, "node-b", 1);
        vm.assertEq(nodeOf(2).key, key(1));
        expectRefusal(ANN, abi.encodeWithSelector(IDstackAccessNFT.KeyTaken.selector, key(1), 2));
        nft.setPublicKey(1, keyText(1));
    }

    function test_releasingASpentKeyChangesNoNode() public {
        setKey(ANN, 1, 2);
        vm.recordLogs();
        release(key(1));
        assertEvents(abi.encodePacked(IDstackAccessNFT.KeyReleased.selector));
    }

    function test_releaseNeverEvicts() public {
        expectRefusal(OWNER, abi.encodeWithSelector(IDstackAccessNFT.KeyActive.selector, key(1), 1));
        nft.releaseKey(key(1));
    }

    function test_releaseTakesTheKeyFromARevokedNode() public {
        revoke(1);
        IDstackAccessNFT.Node memory node = nodeOf(1);
        node.key = 0;

        vm.expectEmit(address(nft));
        emit IDstackAccessNFT.KeyReleased(key(1));
        expectNodeChanged(node);
        release(key(1));
    }

    function test_restoreNeverMakesAReleasedKeyActiveTwice() public {
        revoke(1);
        release(key(1));
        mint(BEN, "node-b", 1);

        restore(1);
        vm.assertFalse(isActive(1));
        vm.assertTrue(isActive(2));
        vm.assertEq(memberCount(), 1);

        setKey(ANN, 1, 3);
        vm.assertTrue(isActive(1));
        vm.assertEq(memberCount(), 2);
    }

    /// Somebody registers a key that is not his, twice; burning his token ends that.
    function test_squattedKeyComesFreeForGood() public {
        mint(BEN, "squatter", 7);
        revoke(2);
        release(key(7));
        setKey(BEN, 2, 7);
        vm.assertFalse(isActive(2));

        vm.startPrank(OWNER);
        nft.burn(2);
        nft.releaseKey(key(7));
        vm.stopPrank();

        setKey(ANN, 1, 7);
        vm.assertEq(nodeOf(1).key, key(7));
    }

    function test_refusesToReleaseAFreeKey() public {
        expectRefusal(OWNER, abi.encodeWithSelector(IDstackAccessNFT.KeyNotTaken.selector, key(9)));
        nft.releaseKey(key(9));
    }

    function test_refusesToReleaseZero() public {
        invite(BEN, "node-b");
        expectRefusal(OWNER, abi.encodeWithSelector(IDstackAccessNFT.KeyNotTaken.selector, bytes32(0)));
        nft.releaseKey(0);
    }

    function test_onlyOwnerReleases() public {
        setKey(ANN, 1, 2);
        expectRefusal(ANN, abi.encodeWithSelector(IDstackAccessNFT.NotContractOwner.selector, ANN));
        nft.releaseKey(key(1));
    }
}
