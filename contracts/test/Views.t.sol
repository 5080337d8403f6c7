// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {IERC165} from "@openzeppelin/contracts/utils/introspection/IERC165.sol";
import {IERC721} from "@openzeppelin/contracts/token/ERC721/IERC721.sol";
import {IERC721Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {IERC721Metadata} from "@openzeppelin/contracts/token/ERC721/extensions/IERC721Metadata.sol";

import {DstackAccessNFT} from "../src/DstackAccessNFT.sol";
import {IDstackAccessNFT} from "../src/interfaces/IDstackAccessNFT.sol";
import {MeshTest} from "./utils/MeshTest.sol";
import {vm} from "./utils/Vm.sol";

contract ViewsTest is MeshTest {
    function test_getNodeAccess() public {
        mint(ANN, "node-a", 1);
        (string memory nodeId, string memory text, uint256 createdAt, bool active) = nft.getNodeAccess(1);
        vm.assertEq(nodeId, "node-a");
        vm.assertEq(text, keyText(1));
        vm.assertEq(createdAt, START);
        vm.assertTrue(active);
    }

    function test_accessIsOfTheHolderUnderTheName() public {
        mint(ANN, "node-a", 1);
        vm.assertTrue(nft.hasNodeAccess(ANN, "node-a"));
        vm.assertFalse(nft.hasNodeAccess(BEN, "node-a"));
        vm.assertFalse(nft.hasNodeAccess(ANN, "node-b"));
        vm.assertFalse(nft.hasNodeAccess(address(0), "node-b"));
    }

    function test_tokenOfAName() public {
        vm.assertEq(nft.getTokenIdByNodeId("node-a"), 0);
        mint(ANN, "node-a", 1);
        vm.assertEq(nft.getTokenIdByNodeId("node-a"), 1);
    }

    function test_keyOfAnOwnerIsTheLatest() public {
        vm.assertEq(nft.getPublicKeyByOwner(ANN), "");
        mint(ANN, "node-a", 1);
        mint(ANN, "node-b", 2);
        vm.assertEq(nft.getPublicKeyByOwner(ANN), keyText(2));
        setKey(ANN, 1, 3);
        vm.assertEq(nft.getPublicKeyByOwner(ANN), keyText(3));
        invite(ANN, "node-c");
        vm.assertEq(nft.getPublicKeyByOwner(ANN), keyText(3));
        revoke(1);
        vm.assertEq(nft.getPublicKeyByOwner(ANN), "");
        restore(1);
        vm.assertEq(nft.getPublicKeyByOwner(ANN), keyText(3));
    }

    function test_keyOfAnOwnerLeavesWithItsToken() public {
        mint(ANN, "node-a", 1);
        transfer(ANN, BEN, 1);
        setKey(BEN, 1, 2);
        vm.assertEq(nft.getPublicKeyByOwner(ANN), "");
        vm.assertEq(nft.getPublicKeyByOwner(BEN), keyText(2));
        transfer(BEN, ANN, 1);
        vm.assertEq(nft.getPublicKeyByOwner(ANN), "");
        vm.prank(ANN);
        nft.burn(1);
        vm.assertEq(nft.getPublicKeyByOwner(ANN), "");
        vm.assertEq(nft.getPublicKeyByOwner(address(0)), "");
    }

    function test_refusesTokensThatDoNotExist() public {
        bytes memory reason = abi.encodeWithSelector(IERC721Errors.ERC721NonexistentToken.selector, 1);
        vm.expectRevert(reason);
        nft.getNodeAccess(1);
        vm.expectRevert(reason);
        nft.getPublicKeyByTokenId(1);
        vm.expectRevert(reason);
        nft.tokenURI(1);
        vm.expectRevert(reason);
        nft.ownerOf(1);
    }

    function test_supportsErc721() public view {
        vm.assertTrue(nft.supportsInterface(type(IERC165).interfaceId));
        vm.assertTrue(nft.supportsInterface(type(IERC721).interfaceId));
        vm.assertTrue(nft.supportsInterface(type(IERC721Metadata).interfaceId));
        vm.assertFalse(nft.supportsInterface(0xffffffff));
    }

    /// The rule of the history, written out once more by hand.
    function test_historyFoldsEachChange() public {
        bytes32 history = keccak256(abi.encode(block.chainid, address(nft)));
        (uint64 revision_, bytes32 reported, uint256 count) = nft.checkpoint();
        vm.assertEq(revision_, 0);
        vm.assertEq(reported, history);
        vm.assertEq(count, 0);

        vm.roll(100);
        mint(ANN, "node-a", 1);
        history = keccak256(abi.encode(history, uint64(1), uint256(100), nodeOf(1)));
        vm.roll(107);
        revoke(1);
        history = keccak256(abi.encode(history, uint64(2), uint256(107), nodeOf(1)));

        (revision_, reported, count) = nft.checkpoint();
        vm.assertEq(revision_, 2);
        vm.assertEq(reported, history);
        vm.assertEq(count, 0);
    }

    function test_historyBelongsToOneContractOnOneChain() public {
        (, bytes32 here,) = nft.checkpoint();
        (, bytes32 besides,) = new DstackAccessNFT().checkpoint();
        vm.assertFalse(here == besides);

        vm.chainId(8453);
        DstackAccessNFT elsewhere = new DstackAccessNFT();
        (, bytes32 seed,) = elsewhere.checkpoint();
        vm.assertEq(seed, keccak256(abi.encode(uint256(8453), address(elsewhere))));
    }

    function test_pagesOfAnEmptyContract() public view {
        vm.assertEq(nft.nextTokenId(), 1);
        vm.assertEq(nft.getNodes(1, 500).length, 0);
        vm.assertEq(nft.getNodes(0, 0).length, 0);
        vm.assertEq(nft.getNodes(type(uint256).max, type(uint256).max).length, 0);
    }

    function test_pageShowsEveryTokenOfItsRange() public {
        mint(ANN, "node-a", 1);
        mint(ANN, "node-b", 2);
        invite(BEN, "node-c");
        vm.prank(ANN);
        nft.burn(2);

        IDstackAccessNFT.Node[] memory nodes = nft.getNodes(0, type(uint256).max);
        IDstackAccessNFT.Node memory nothing;
        vm.assertEq(nodes.length, 4);
        vm.assertEq(abi.encode(nodes[0]), abi.encode(nothing));
        vm.assertEq(nodes[1].nodeId, "node-a");
        vm.assertEq(abi.encode(nodes[2]), abi.encode(nothing));
        vm.assertEq(nodes[3].nodeId, "node-c");
    }

    function testFuzz_pageIsTheRangeItNames(uint256 first, uint256 limit) public {
        for (uint256 i; i < 5; ++i) {
            invite(ANN, string(abi.encodePacked(bytes1(uint8(97 + i)))));
        }
        first = first % 9 == 8 ? first : first % 9;
        limit = limit % 9 == 8 ? limit : limit % 9;

        IDstackAccessNFT.Node[] memory nodes = nft.getNodes(first, limit);
        uint256 left = first < 6 ? 6 - first : 0;
        vm.assertEq(nodes.length, limit < left ? limit : left);
        for (uint256 i; i < nodes.length; ++i) {
            vm.assertEq(nodes[i].tokenId, first + i);
        }
    }

    /// A second source confirms a page by hashing what the first one sent, byte for byte.
    function test_hashNodesIsTheHashOfTheAnswer() public {
        mint(ANN, "node-a", 1);
        mint(BEN, "node-b", 2);
        (, bytes memory answer) = address(nft).staticcall(abi.encodeCall(nft.getNodes, (1, 500)));
        vm.assertEq(nft.hashNodes(1, 500), keccak256(answer));
        vm.assertEq(nft.hashNodes(1, 2), keccak256(answer));
        vm.assertFalse(nft.hashNodes(1, 1) == keccak256(answer));
        (, answer) = address(nft).staticcall(abi.encodeCall(nft.getNodes, (3, 500)));
        vm.assertEq(nft.hashNodes(3, 500), keccak256(answer));
    }
}
