// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {DnsLabel} from "../src/libraries/DnsLabel.sol";
import {WireGuardKey} from "../src/libraries/WireGuardKey.sol";
import {vm} from "./utils/Vm.sol";

contract WireGuardKeyTest {
    bytes private constant ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    function test_knownKeys() public pure {
        // The public keys of RFC 7748, section 6.1, and the largest number.
        _assertSame(
            hex"8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
        );
        _assertSame(
            hex"de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
            "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08="
        );
        _assertSame(bytes32(type(uint256).max), "//////////////////////////////////////////8=");
    }

    function test_zeroIsNoKey() public pure {
        vm.assertEq(WireGuardKey.format(0), "");
        vm.assertEq(WireGuardKey.parse("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="), 0);
    }

    function test_refusesWhatIsNotCanonical() public pure {
        string[11] memory texts = [
            "",
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo", // no padding
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo==",
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTm==", // 31 bytes
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmoA", // 33 bytes
            "hSDwCYkwp1R0i33ctD73Wg2_Og0mOBr066SpjqqbTmo=", // the alphabet of URLs
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmp=", // the three aliases of the first known key
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmq=",
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmr=",
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo\n",
            "=SDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
        ];
        for (uint256 i; i < texts.length; ++i) {
            vm.assertTrue(WireGuardKey.parse(texts[i]) == 0, texts[i]);
        }
    }

    function testFuzz_keyHasOneText(bytes32 key) public pure {
        string memory text = WireGuardKey.format(key);
        vm.assertEq(WireGuardKey.parse(text), key);
        if (key != 0) vm.assertEq(bytes(text).length, 44);
    }

    /// Whatever is read is written the same, so no two texts are one key.
    function testFuzz_textIsTheTextOfItsKey(bytes32 key, uint256 index, bytes1 char) public pure {
        vm.assume(key != 0);
        bytes memory text = bytes(WireGuardKey.format(key));
        text[index % 44] = char;
        bytes32 parsed = WireGuardKey.parse(string(text));
        if (parsed != 0) vm.assertEq(WireGuardKey.format(parsed), string(text));
    }

    /// Each of the 256 bytes, at the first place and at the last, against the alphabet written out.
    function test_everyCharacter() public pure {
        bytes memory text = bytes(WireGuardKey.format(bytes32(uint256(1) << 128)));
        for (uint256 c; c < 256; ++c) {
            uint256 sextet = _indexInAlphabet(bytes1(uint8(c)));

            text[0] = bytes1(uint8(c));
            uint256 first = uint256(WireGuardKey.parse(string(text)));
            vm.assertEq(first, sextet == 64 ? 0 : (sextet << 250) | (1 << 128));
            text[0] = "A";

            text[42] = bytes1(uint8(c));
            uint256 last = uint256(WireGuardKey.parse(string(text)));
            vm.assertEq(last, sextet == 64 || sextet % 4 != 0 ? 0 : (sextet >> 2) | (1 << 128));
            text[42] = "A";
        }
    }

    function _assertSame(bytes32 key, string memory text) private pure {
        vm.assertEq(WireGuardKey.parse(text), key);
        vm.assertEq(WireGuardKey.format(key), text);
    }

    function _indexInAlphabet(bytes1 char) private pure returns (uint256 i) {
        while (i < 64 && ALPHABET[i] != char) ++i;
    }
}

contract DnsLabelTest {
    function test_labels() public pure {
        string[7] memory labels = ["a", "0", "a0", "node-a", "a--b", "xn--bcher-kva", _repeat("a", 63)];
        for (uint256 i; i < labels.length; ++i) {
            vm.assertTrue(DnsLabel.isValid(labels[i]), labels[i]);
        }
    }

    function test_notLabels() public pure {
        string[16] memory texts = [
            "",
            "-",
            "-a",
            "a-",
            "A",
            "node a",
            "a.b",
            "a_b",
            "a\n",
            "a\x00",
            "\"a\"",
            "a'",
            "b\xc3\xbccher",
            "/",
            ":",
            _repeat("a", 64)
        ];
        for (uint256 i; i < texts.length; ++i) {
            vm.assertFalse(DnsLabel.isValid(texts[i]), texts[i]);
        }
    }

    /// Each of the 256 bytes in the middle, where the hyphen may stand, and at the ends, where it may not.
    function test_everyCharacter() public pure {
        bytes memory inside = "0123456789abcdefghijklmnopqrstuvwxyz";
        for (uint256 c; c < 256; ++c) {
            bytes1 char = bytes1(uint8(c));
            bool alphanumeric;
            for (uint256 i; i < inside.length; ++i) {
                if (inside[i] == char) alphanumeric = true;
            }
            vm.assertEq(
                DnsLabel.isValid(string(abi.encodePacked("a", char, "a"))), alphanumeric || char == "-"
            );
            vm.assertEq(DnsLabel.isValid(string(abi.encodePacked(char, "a"))), alphanumeric);
            vm.assertEq(DnsLabel.isValid(string(abi.encodePacked("a", char))), alphanumeric);
        }
    }

    function _repeat(bytes1 char, uint256 times) private pure returns (string memory) {
        bytes memory text = new bytes(times);
        for (uint256 i; i < times; ++i) {
            text[i] = char;
        }
        return string(text);
    }
}
