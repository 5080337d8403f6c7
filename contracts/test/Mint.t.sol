// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {IERC721} from "@openzeppelin/contracts/token/ERC721/IERC721.sol";
import {IERC721Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";

import {IDstackAccessNFT} from "../src/interfaces/IDstackAccessNFT.sol";
import {IPublishedAccessNFT} from "../src/interfaces/IPublishedAccessNFT.sol";
import {WireGuardKey} from "../src/libraries/WireGuardKey.sol";
import {Receiver} from "./mocks/Receiver.sol";
import {MeshTest} from "./utils/MeshTest.sol";
import {vm} from "./utils/Vm.sol";

contract MintTest is MeshTest {
    function test_mintsAnActiveNode() public {
        vm.prank(OWNER);
        uint256 tokenId = nft.mintNodeAccess(ANN, "node-a", keyText(1), "ipfs://a");

        IDstackAccessNFT.Node memory node = nodeOf(tokenId);
        vm.assertEq(tokenId, 1);
        vm.assertEq(nft.nextTokenId(), 2);
        vm.assertEq(node.tokenId, 1);
        vm.assertEq(node.holder, ANN);
        vm.assertEq(node.nodeId, "node-a");
        vm.assertEq(node.key, key(1));
        vm.assertEq(node.endpoint, "");
        vm.assertEq(node.role, 0);
        vm.assertEq(node.createdAt, START);
        vm.assertEq(node.expiresAt, 0);
        vm.assertFalse(node.revoked);
        vm.assertFalse(node.suspended);
        vm.assertTrue(isActive(1));
        vm.assertEq(memberCount(), 1);
        vm.assertEq(nft.ownerOf(1), ANN);
        vm.assertEq(nft.balanceOf(ANN), 1);
        vm.assertEq(nft.tokenURI(1), "ipfs://a");
    }

    function test_mintEmits() public {
        IDstackAccessNFT.Node memory node;
        node.tokenId = 1;
        node.holder = ANN;
        node.nodeId = "node-a";
        node.key = key(1);
        node.createdAt = START;

        vm.expectEmit(address(nft));
        emit IERC721.Transfer(address(0), ANN, 1);
        vm.expectEmit(address(nft));
        emit IPublishedAccessNFT.NodeAccessGranted(1, "node-a", ANN, keyText(1));
        expectNodeChanged(node);
        mint(ANN, "node-a", 1);
    }

    function test_mintEmitsNothingElse() public {
        vm.recordLogs();
        mint(ANN, "node-a", 1);
        assertEvents(
            abi.encodePacked(
                IERC721.Transfer.selector,
                IPublishedAccessNFT.NodeAccessGranted.selector,
                IDstackAccessNFT.NodeChanged.selector
            )
        );
    }

    function test_mintWithoutKeyInvites() public {
        vm.expectEmit(address(nft));
        emit IPublishedAccessNFT.NodeAccessGranted(1, "node-a", ANN, "");
        uint256 tokenId = invite(ANN, "node-a");

        vm.assertFalse(isActive(tokenId));
        vm.assertEq(memberCount(), 0);
        vm.assertEq(nodeOf(tokenId).key, 0);
        vm.assertFalse(nodeOf(tokenId).suspended);
        vm.assertEq(nft.getPublicKeyByTokenId(tokenId), "");
        vm.assertEq(nft.getPublicKeyByOwner(ANN), "");

        setKey(ANN, tokenId, 1);
        vm.assertTrue(isActive(tokenId));
        vm.assertEq(memberCount(), 1);
    }

    function test_invitationEmitsNothingElse() public {
        vm.recordLogs();
        invite(ANN, "node-a");
        assertEvents(
            abi.encodePacked(
                IERC721.Transfer.selector,
                IPublishedAccessNFT.NodeAccessGranted.selector,
                IDstackAccessNFT.NodeChanged.selector
            )
        );
    }

    function test_tokenIdsAreNeverUsedTwice() public {
        mint(ANN, "node-a", 1);
        vm.prank(ANN);
        nft.burn(1);
        vm.assertEq(mint(ANN, "node-a", 2), 2);
    }

    function test_onlyOwnerMints() public {
        address[2] memory others = [ANN, GUARDIAN];
        for (uint256 i; i < others.length; ++i) {
            expectRefusal(
                others[i], abi.encodeWithSelector(IDstackAccessNFT.NotContractOwner.selector, others[i])
            );
            nft.mintNodeAccess(ANN, "node-a", keyText(1), "");
        }
    }

    function test_refusesTheZeroAddress() public {
        expectRefusal(OWNER, abi.encodeWithSelector(IERC721Errors.ERC721InvalidReceiver.selector, address(0)));
        nft.mintNodeAccess(address(0), "node-a", keyText(1), "");
    }

    function test_refusesANameThatIsNoDnsLabel() public {
        expectRefusal(OWNER, abi.encodeWithSelector(IDstackAccessNFT.InvalidNodeId.selector, "node a"));
        nft.mintNodeAccess(ANN, "node a", keyText(1), "");
    }

    function test_refusesATakenName() public {
        mint(ANN, "node-a", 1);
        expectRefusal(OWNER, abi.encodeWithSelector(IDstackAccessNFT.NodeIdTaken.selector, "node-a", 1));
        nft.mintNodeAccess(BEN, "node-a", keyText(2), "");
    }

    function test_revokedNodeKeepsItsName() public {
        mint(ANN, "node-a", 1);
        revoke(1);
        expectRefusal(OWNER, abi.encodeWithSelector(IDstackAccessNFT.NodeIdTaken.selector, "node-a", 1));
        nft.mintNodeAccess(BEN, "node-a", keyText(2), "");
    }

    function test_refusesATakenKey() public {
        mint(ANN, "node-a", 1);
        expectRefusal(OWNER, abi.encodeWithSelector(IDstackAccessNFT.KeyTaken.selector, key(1), 1));
        nft.mintNodeAccess(BEN, "node-b", keyText(1), "");
    }

    function test_refusesWhatIsNoKey() public {
        expectRefusal(OWNER, abi.encodeWithSelector(IDstackAccessNFT.InvalidPublicKey.selector, "AAAA"));
        nft.mintNodeAccess(ANN, "node-a", "AAAA", "");
    }

    /// A contract that takes no tokens must not be able to keep itself from being minted to, nor to run code.
    function test_mintCallsNobody() public {
        Receiver wallet = new Receiver();
        wallet.onReceiptCall(abi.encodeCall(nft.setEndpoint, (1, "x")));
        vm.assertEq(mint(address(wallet), "node-a", 1), 1);
        vm.assertEq(nodeOf(1).endpoint, "");
    }

    function test_hostileUriIsKeptAsItIs() public {
        bytes memory uri = new bytes(10_000);
        for (uint256 i; i < uri.length; ++i) {
            uri[i] = bytes1(uint8(i));
        }
        vm.prank(OWNER);
        nft.mintNodeAccess(ANN, "node-a", keyText(1), string(uri));
        vm.assertEq(bytes(nft.tokenURI(1)), uri);
    }

    function testFuzz_mint(address to, bytes32 key_, uint64 time) public {
        vm.assume(to != address(0) && key_ != 0);
        vm.warp(time);
        vm.prank(OWNER);
        nft.mintNodeAccess(to, "n", WireGuardKey.format(key_), "");

        vm.assertEq(nodeOf(1).key, key_);
        vm.assertEq(nodeOf(1).holder, to);
        vm.assertEq(nodeOf(1).createdAt, time);
        vm.assertTrue(nft.verifyAccess(to, "n"));
    }
}
