// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {IDstackAccessNFT} from "../src/interfaces/IDstackAccessNFT.sol";
import {MeshTest} from "./utils/MeshTest.sol";
import {vm} from "./utils/Vm.sol";

/// @dev What a node says of itself (endpoint) and what the owner says of it (role).
contract SettingsTest is MeshTest {
    function setUp() public override {
        super.setUp();
        mint(ANN, "node-a", 1);
    }

    function test_holderSetsTheEndpoint() public {
        IDstackAccessNFT.Node memory node = nodeOf(1);
        node.endpoint = "vpn.example:51820";
        expectNodeChanged(node);
        vm.prank(ANN);
        nft.setEndpoint(1, "vpn.example:51820");
        vm.assertEq(nodeOf(1).endpoint, "vpn.example:51820");
        vm.assertEq(memberCount(), 1);

        vm.prank(ANN);
        nft.setEndpoint(1, "");
        vm.assertEq(nodeOf(1).endpoint, "");
    }

    function test_settingsEmitNothingElse() public {
        vm.recordLogs();
        vm.prank(ANN);
        nft.setEndpoint(1, "x");
        vm.prank(OWNER);
        nft.setRole(1, "hub");
        assertEvents(
            abi.encodePacked(IDstackAccessNFT.NodeChanged.selector, IDstackAccessNFT.NodeChanged.selector)
        );
    }

    function test_onlyTheHolderSetsTheEndpoint() public {
        address[2] memory others = [OWNER, BEN];
        for (uint256 i; i < others.length; ++i) {
            expectRefusal(
                others[i], abi.encodeWithSelector(IDstackAccessNFT.NotHolder.selector, others[i], 1, ANN)
            );
            nft.setEndpoint(1, "x");
        }
    }

    function test_endpointHasALimit() public {
        vm.prank(ANN);
        nft.setEndpoint(1, string(new bytes(255)));

        expectRefusal(ANN, abi.encodeWithSelector(IDstackAccessNFT.EndpointTooLong.selector, 256, 255));
        nft.setEndpoint(1, string(new bytes(256)));
    }

    function testFuzz_hostileEndpointIsKeptAsItIs(bytes memory text) public {
        vm.assume(text.length <= 255);
        vm.prank(ANN);
        nft.setEndpoint(1, string(text));
        vm.assertEq(bytes(nodeOf(1).endpoint), text);
    }

    function test_endpointSurvivesARevocationAndATransfer() public {
        vm.prank(ANN);
        nft.setEndpoint(1, "x");
        revoke(1);
        transfer(ANN, BEN, 1);
        vm.assertEq(nodeOf(1).endpoint, "x");
    }

    function testFuzz_ownerSetsTheRole(bytes32 role) public {
        IDstackAccessNFT.Node memory node = nodeOf(1);
        node.role = role;
        expectNodeChanged(node);
        vm.prank(OWNER);
        nft.setRole(1, role);
        vm.assertEq(nodeOf(1).role, role);
    }

    function test_onlyOwnerSetsTheRole() public {
        expectRefusal(ANN, abi.encodeWithSelector(IDstackAccessNFT.NotContractOwner.selector, ANN));
        nft.setRole(1, "hub");
    }
}
