// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {DstackAccessNFT} from "../../src/DstackAccessNFT.sol";
import {WireGuardKey} from "../../src/libraries/WireGuardKey.sol";
import {Follower} from "../utils/Follower.sol";
import {vm} from "../utils/Vm.sol";

/// @dev Everybody who can call the contract, calling at random and mostly to get what they should not: few
/// wallets, names and keys, so that they collide. A refused call changes nothing here. What a call that
/// succeeded must mean is written down beside the contract, for the invariants to compare.
contract MeshActor {
    uint256 public constant KEYS = 8;

    DstackAccessNFT public immutable nft;
    Follower public immutable follower;

    /// @dev The admin, who may also hold tokens, a guardian and three holders.
    address[5] public people =
        [address(0x0A11CE), address(0x6A4D), address(0xA1), address(0xB2), address(0xC3)];

    /// @dev The token was revoked and not restored since.
    mapping(uint256 tokenId => bool) public outlawed;
    /// @dev The token changed hands and got no key since.
    mapping(uint256 tokenId => bool) public handedOver;
    /// @dev The key was registered, and not released since.
    mapping(bytes32 key => bool) public registered;
    /// @dev The token and the key that were last set by or for somebody.
    mapping(address holder => uint256 tokenId) public latestToken;
    mapping(address holder => bytes32 key) public latestKey;
    /// @dev How often a call of each kind succeeded, to see that the game is played.
    mapping(bytes4 call => uint256) public successes;

    constructor() {
        vm.prank(people[0]);
        nft = new DstackAccessNFT();
        vm.prank(people[0]);
        nft.setGuardian(people[1], true);
        follower = new Follower(nft);
    }

    /// @dev Each call in a block of its own or not, as a sender of the given seed.
    modifier turn(uint256 caller) {
        if (caller % 3 == 0) vm.roll(block.number + 1 + caller % 5);
        vm.recordLogs();
        vm.startPrank(people[caller % people.length]);
        _;
        vm.stopPrank();
        follower.fold();
    }

    function mint(uint256 to, uint256 name, uint256 keySeed) external turn(0) {
        address holder = people[to % people.length];
        bytes32 key = keySeed % (KEYS + 1) == 0 ? bytes32(0) : keyOf(keySeed);
        try nft.mintNodeAccess(holder, nodeIdOf(name), WireGuardKey.format(key), "") returns (
            uint256 tokenId
        ) {
            ++successes[nft.mintNodeAccess.selector];
            if (key != 0) _registers(holder, tokenId, key);
        } catch {}
    }

    function setPublicKey(uint256 caller, uint256 token, uint256 keySeed) external turn(caller) {
        bytes32 key = keyOf(keySeed);
        try nft.setPublicKey(tokenOf(token), WireGuardKey.format(key)) {
            ++successes[nft.setPublicKey.selector];
            _registers(people[caller % people.length], tokenOf(token), key);
            handedOver[tokenOf(token)] = false;
        } catch {}
    }

    function revoke(uint256 caller, uint256 token) external turn(caller) {
        try nft.revokeNodeAccess(tokenOf(token)) {
            ++successes[nft.revokeNodeAccess.selector];
            outlawed[tokenOf(token)] = true;
        } catch {}
    }

    function restore(uint256 caller, uint256 token) external turn(caller) {
        try nft.restoreNodeAccess(tokenOf(token)) {
            ++successes[nft.restoreNodeAccess.selector];
            outlawed[tokenOf(token)] = false;
        } catch {}
    }

    function transfer(uint256 caller, uint256 from, uint256 to, uint256 token, bool safely)
        external
        turn(caller)
    {
        _transfer(people[from % people.length], people[to % people.length], tokenOf(token), safely);
    }

    /// @dev The transfer that ERC-721 allows, which a random one rarely is.
    function transferOwn(uint256 token, uint256 to, bool safely) external turn(0) {
        uint256 tokenId = tokenOf(token);
        try nft.ownerOf(tokenId) returns (address holder) {
            vm.stopPrank();
            vm.startPrank(holder);
            _transfer(holder, people[to % people.length], tokenId, safely);
        } catch {}
    }

    function approve(uint256 caller, uint256 operator, uint256 token, bool all) external turn(caller) {
        address spender = people[operator % people.length];
        if (all) nft.setApprovalForAll(spender, true);
        else try nft.approve(spender, tokenOf(token)) {} catch {}
    }

    function burn(uint256 caller, uint256 token) external turn(caller) {
        // Rarely, or there is nothing left to play with.
        if (token % 3 != 0) return;
        try nft.burn(tokenOf(token)) {
            ++successes[nft.burn.selector];
            outlawed[tokenOf(token)] = false;
            handedOver[tokenOf(token)] = false;
        } catch {}
    }

    function releaseKey(uint256 caller, uint256 keySeed) external turn(caller) {
        try nft.releaseKey(keyOf(keySeed)) {
            ++successes[nft.releaseKey.selector];
            registered[keyOf(keySeed)] = false;
        } catch {}
    }

    function describe(uint256 caller, uint256 token, uint256 value, uint8 what) external turn(caller) {
        if (what % 3 == 0) {
            try nft.setRole(tokenOf(token), bytes32(value)) {} catch {}
        } else if (what % 3 == 1) {
            try nft.setEndpoint(tokenOf(token), string(new bytes(value % 300))) {} catch {}
        } else {
            try nft.renewNodeAccess(tokenOf(token), uint64(value % (2 * block.timestamp))) {} catch {}
        }
    }

    function passTime(uint256 seconds_) external {
        vm.warp(block.timestamp + seconds_ % 1 days);
    }

    function nodeIdOf(uint256 name) public pure returns (string memory) {
        string[4] memory names = ["a", "b", "node-c", "node-d"];
        return names[name % names.length];
    }

    function keyOf(uint256 seed) public pure returns (bytes32) {
        return keccak256(abi.encode(seed % KEYS));
    }

    /// @dev Mostly a token that exists, at times one that is burned or not yet minted.
    function tokenOf(uint256 seed) public view returns (uint256) {
        return seed % (nft.nextTokenId() + 1);
    }

    function _transfer(address from, address to, uint256 tokenId, bool safely) private {
        bytes memory call = safely
            ? abi.encodeWithSignature("safeTransferFrom(address,address,uint256)", from, to, tokenId)
            : abi.encodeCall(nft.transferFrom, (from, to, tokenId));
        (bool ok,) = address(nft).call(call);
        if (!ok) {
            // forge also records what a call logged before it reverted, which no chain does.
            vm.getRecordedLogs();
            return;
        }
        ++successes[nft.transferFrom.selector];
        handedOver[tokenId] = true;
    }

    function _registers(address holder, uint256 tokenId, bytes32 key) private {
        require(!registered[key], "a spent or taken key was registered");
        registered[key] = true;
        latestToken[holder] = tokenId;
        latestKey[holder] = key;
    }
}
