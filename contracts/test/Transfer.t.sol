// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {IERC721} from "@openzeppelin/contracts/token/ERC721/IERC721.sol";
import {IERC721Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";

import {IDstackAccessNFT} from "../src/interfaces/IDstackAccessNFT.sol";
import {IPublishedAccessNFT} from "../src/interfaces/IPublishedAccessNFT.sol";
import {Receiver} from "./mocks/Receiver.sol";
import {MeshTest} from "./utils/MeshTest.sol";
import {vm} from "./utils/Vm.sol";

contract TransferTest is MeshTest {
    function setUp() public override {
        super.setUp();
        mint(ANN, "node-a", 1);
    }

    function test_transferSuspends() public {
        IDstackAccessNFT.Node memory node = nodeOf(1);
        node.holder = BEN;
        node.key = 0;
        node.suspended = true;

        vm.expectEmit(address(nft));
        emit IERC721.Transfer(ANN, BEN, 1);
        vm.expectEmit(address(nft));
        emit IPublishedAccessNFT.NodeAccessTransferred(1, ANN, BEN);
        expectNodeChanged(node);
        transfer(ANN, BEN, 1);

        vm.assertFalse(isActive(1));
        vm.assertEq(memberCount(), 0);
        vm.assertEq(nft.getPublicKeyByTokenId(1), "");
    }

    function test_transferEmitsNothingElse() public {
        vm.recordLogs();
        transfer(ANN, BEN, 1);
        assertEvents(_transferEvents());
    }

    function test_newHolderComesInWithAKeyOfHisOwn() public {
        transfer(ANN, BEN, 1);
        setKey(BEN, 1, 2);
        vm.assertTrue(nft.verifyAccess(BEN, "node-a"));
        vm.assertFalse(nft.verifyAccess(ANN, "node-a"));
        vm.assertFalse(nodeOf(1).suspended);
        vm.assertEq(memberCount(), 1);
    }

    function test_transferToOneselfSuspends() public {
        vm.recordLogs();
        transfer(ANN, ANN, 1);
        assertEvents(_transferEvents());
        vm.assertFalse(isActive(1));
        vm.assertTrue(nodeOf(1).suspended);
        vm.assertEq(nodeOf(1).key, 0);
        vm.assertEq(nft.balanceOf(ANN), 1);
    }

    function test_everyWayOfTransferSuspends() public {
        vm.startPrank(ANN);
        nft.safeTransferFrom(ANN, BEN, 1);
        vm.stopPrank();
        vm.assertTrue(nodeOf(1).suspended);

        mint(ANN, "node-b", 2);
        vm.prank(ANN);
        nft.approve(OWNER, 2);
        vm.prank(OWNER);
        nft.safeTransferFrom(ANN, BEN, 2, "data");
        vm.assertTrue(nodeOf(2).suspended);

        mint(ANN, "node-c", 3);
        vm.prank(ANN);
        nft.setApprovalForAll(GUARDIAN, true);
        vm.prank(GUARDIAN);
        nft.transferFrom(ANN, BEN, 3);
        vm.assertTrue(nodeOf(3).suspended);
        vm.assertEq(memberCount(), 0);
    }

    function test_approvalEndsWithTheTransfer() public {
        vm.prank(ANN);
        nft.approve(GUARDIAN, 1);
        transfer(ANN, BEN, 1);
        expectRefusal(
            GUARDIAN, abi.encodeWithSelector(IERC721Errors.ERC721InsufficientApproval.selector, GUARDIAN, 1)
        );
        nft.transferFrom(BEN, GUARDIAN, 1);
    }

    /// The wrong `from` is noticed only after the update: all of it must be undone.
    function test_failedTransferLeavesNothing() public {
        bytes memory before = _state();
        expectRefusal(ANN, abi.encodeWithSelector(IERC721Errors.ERC721IncorrectOwner.selector, BEN, 1, ANN));
        nft.transferFrom(BEN, GUARDIAN, 1);
        expectRefusal(ANN, abi.encodeWithSelector(IERC721Errors.ERC721InvalidReceiver.selector, address(0)));
        nft.transferFrom(ANN, address(0), 1);
        expectRefusal(ANN, abi.encodeWithSelector(IERC721Errors.ERC721InvalidReceiver.selector, address(nft)));
        nft.safeTransferFrom(ANN, address(nft), 1);
        expectRefusal(BEN, abi.encodeWithSelector(IERC721Errors.ERC721InsufficientApproval.selector, BEN, 1));
        nft.transferFrom(ANN, BEN, 1);
        vm.assertEq(_state(), before);
    }

    function test_revokedHolderStaysOutInHisSecondWallet() public {
        revoke(1);
        transfer(ANN, BEN, 1);
        vm.assertTrue(nodeOf(1).revoked);
        setKey(BEN, 1, 2);

        vm.assertTrue(nodeOf(1).revoked);
        vm.assertFalse(nodeOf(1).suspended);
        vm.assertFalse(isActive(1));
        vm.assertFalse(nft.verifyAccess(BEN, "node-a"));
        vm.assertEq(memberCount(), 0);
    }

    /// Revoke, transfer, and the old key would be free in a contract that frees what a token no longer has.
    function test_transferOfARevokedTokenFreesNoKey() public {
        revoke(1);
        release(key(1));
        mint(BEN, "node-b", 1);
        transfer(ANN, BEN, 1);
        expectRefusal(BEN, abi.encodeWithSelector(IDstackAccessNFT.KeyTaken.selector, key(1), 2));
        nft.setPublicKey(1, keyText(1));
    }

    function test_receiverMaySetAKeyWhileReceiving() public {
        Receiver wallet = new Receiver();
        wallet.onReceiptCall(abi.encodeCall(nft.setPublicKey, (1, keyText(2))));

        vm.recordLogs();
        vm.prank(ANN);
        nft.safeTransferFrom(ANN, address(wallet), 1);
        assertEvents(
            abi.encodePacked(
                _transferEvents(),
                IPublishedAccessNFT.PublicKeyUpdated.selector,
                IPublishedAccessNFT.NodeAccessGranted.selector,
                IDstackAccessNFT.NodeChanged.selector
            )
        );
        vm.assertTrue(nft.verifyAccess(address(wallet), "node-a"));
        vm.assertEq(memberCount(), 1);
        vm.assertEq(revision(), 3);
    }

    function test_receiverCannotReviveTheOldKey() public {
        Receiver wallet = new Receiver();
        wallet.onReceiptCall(abi.encodeCall(nft.setPublicKey, (1, keyText(1))));
        expectRefusal(ANN, abi.encodeWithSignature("Error(string)", "callback"));
        nft.safeTransferFrom(ANN, address(wallet), 1);
    }

    function test_receiverMayBurnWhileReceiving() public {
        Receiver wallet = new Receiver();
        wallet.onReceiptCall(abi.encodeCall(nft.burn, (1)));
        vm.prank(ANN);
        nft.safeTransferFrom(ANN, address(wallet), 1);
        vm.assertEq(memberCount(), 0);
        vm.assertEq(revision(), 3);
        vm.assertEq(nft.balanceOf(address(wallet)), 0);
    }

    function _transferEvents() private pure returns (bytes memory) {
        return abi.encodePacked(
            IERC721.Transfer.selector,
            IPublishedAccessNFT.NodeAccessTransferred.selector,
            IDstackAccessNFT.NodeChanged.selector
        );
    }

    function _state() private view returns (bytes memory) {
        (uint64 revision_, bytes32 history, uint256 count) = nft.checkpoint();
        return abi.encode(revision_, history, count, nft.getNodes(0, 10));
    }
}
