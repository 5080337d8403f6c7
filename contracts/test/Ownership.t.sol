// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {DstackAccessNFT} from "../src/DstackAccessNFT.sol";
import {IDstackAccessNFT} from "../src/interfaces/IDstackAccessNFT.sol";
import {IPublishedAccessNFT} from "../src/interfaces/IPublishedAccessNFT.sol";
import {MeshTest} from "./utils/MeshTest.sol";
import {vm} from "./utils/Vm.sol";

contract OwnershipTest is MeshTest {
    function test_deployerOwnsTheContract() public {
        vm.recordLogs();
        vm.prank(ANN);
        nft = new DstackAccessNFT();
        assertEvents(abi.encodePacked(IDstackAccessNFT.OwnershipTransferred.selector));
        vm.assertEq(nft.owner(), ANN);
        vm.assertEq(nft.pendingOwner(), address(0));
        vm.assertEq(nft.name(), "Dstack Access");
        vm.assertEq(nft.symbol(), "DSTACK");
    }

    function test_ownerChangesInTwoSteps() public {
        vm.expectEmit(address(nft));
        emit IPublishedAccessNFT.OwnershipTransferInitiated(OWNER, ANN);
        vm.prank(OWNER);
        nft.transferContractOwnership(ANN);
        vm.assertEq(nft.owner(), OWNER);
        vm.assertEq(nft.pendingOwner(), ANN);

        vm.expectEmit(address(nft));
        emit IDstackAccessNFT.OwnershipTransferred(OWNER, ANN);
        vm.prank(ANN);
        nft.acceptContractOwnership();
        vm.assertEq(nft.owner(), ANN);
        vm.assertEq(nft.pendingOwner(), address(0));

        vm.prank(ANN);
        nft.mintNodeAccess(BEN, "node-a", keyText(1), "");
        expectRefusal(OWNER, abi.encodeWithSelector(IDstackAccessNFT.NotContractOwner.selector, OWNER));
        nft.mintNodeAccess(BEN, "node-b", keyText(2), "");
    }

    function test_onlyTheOwnerNamesASuccessor() public {
        expectRefusal(ANN, abi.encodeWithSelector(IDstackAccessNFT.NotContractOwner.selector, ANN));
        nft.transferContractOwnership(ANN);
    }

    function test_onlyTheSuccessorAccepts() public {
        vm.prank(OWNER);
        nft.transferContractOwnership(ANN);
        address[2] memory others = [BEN, OWNER];
        for (uint256 i; i < others.length; ++i) {
            expectRefusal(
                others[i], abi.encodeWithSelector(IDstackAccessNFT.NotPendingOwner.selector, others[i])
            );
            nft.acceptContractOwnership();
        }
    }

    function test_nobodyAcceptsWithoutAnOfferNorTwice() public {
        expectRefusal(OWNER, abi.encodeWithSelector(IDstackAccessNFT.NotPendingOwner.selector, OWNER));
        nft.acceptContractOwnership();

        vm.prank(OWNER);
        nft.transferContractOwnership(ANN);
        vm.prank(ANN);
        nft.acceptContractOwnership();
        expectRefusal(ANN, abi.encodeWithSelector(IDstackAccessNFT.NotPendingOwner.selector, ANN));
        nft.acceptContractOwnership();
    }

    function test_ownerWithdrawsTheOfferByNamingHimself() public {
        vm.startPrank(OWNER);
        nft.transferContractOwnership(ANN);
        nft.transferContractOwnership(OWNER);
        vm.stopPrank();
        expectRefusal(ANN, abi.encodeWithSelector(IDstackAccessNFT.NotPendingOwner.selector, ANN));
        nft.acceptContractOwnership();
    }

    function test_ownershipCannotBeRenounced() public {
        expectRefusal(OWNER, abi.encodeWithSelector(IDstackAccessNFT.ZeroOwner.selector));
        nft.transferContractOwnership(address(0));
    }

    /// The calls by which other contracts change hands or renounce do not exist here.
    function test_thereIsNoOtherWay() public {
        string[3] memory names = ["renounceOwnership()", "acceptOwnership()", "transferOwnership(address)"];
        for (uint256 i; i < names.length; ++i) {
            vm.prank(OWNER);
            (bool ok,) = address(nft).call(abi.encodeWithSignature(names[i], ANN));
            vm.assertFalse(ok, names[i]);
        }
    }
}
