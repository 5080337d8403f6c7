// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {DstackAccessNFT} from "../src/DstackAccessNFT.sol";
import {MeshTest} from "./utils/MeshTest.sol";
import {vm} from "./utils/Vm.sol";

/// @dev One call a test, in a mesh of some size, for `.gas-snapshot`. The figure is that of the whole test,
/// and comparable between two versions of the contract; what a transaction costs is a little less or more.
contract GasTest is MeshTest {
    uint256 private constant NODES = 20;

    string private _freshKey = keyText(1000);

    function setUp() public override {
        super.setUp();
        for (uint256 i = 1; i <= NODES; ++i) {
            mint(ANN, string(abi.encodePacked("node-", bytes1(uint8(96 + i)))), i);
        }
        revoke(NODES);
    }

    function test_deploy() public {
        new DstackAccessNFT();
    }

    function test_mint() public {
        vm.prank(OWNER);
        nft.mintNodeAccess(BEN, "node-x", _freshKey, "");
    }

    function test_invite() public {
        vm.prank(OWNER);
        nft.mintNodeAccess(BEN, "node-x", "", "");
    }

    function test_setPublicKey() public {
        vm.prank(ANN);
        nft.setPublicKey(1, _freshKey);
    }

    function test_setEndpoint() public {
        vm.prank(ANN);
        nft.setEndpoint(1, "node-a.example:51820");
    }

    function test_revoke() public {
        vm.prank(GUARDIAN);
        nft.revokeNodeAccess(1);
    }

    function test_restore() public {
        vm.prank(OWNER);
        nft.restoreNodeAccess(NODES);
    }

    function test_transfer() public {
        vm.prank(ANN);
        nft.transferFrom(ANN, BEN, 1);
    }

    function test_burn() public {
        vm.prank(ANN);
        nft.burn(1);
    }

    function test_renew() public {
        vm.prank(OWNER);
        nft.renewNodeAccess(1, START + 1 days);
    }

    function test_checkpoint() public view {
        nft.checkpoint();
    }

    function test_getNodes() public view {
        nft.getNodes(1, NODES);
    }

    function test_hashNodes() public view {
        nft.hashNodes(1, NODES);
    }
}
