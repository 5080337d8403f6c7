// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {Base64} from "@openzeppelin/contracts/utils/Base64.sol";

/// @title WireGuard public keys, between base64 and 32 bytes
/// @dev 32 bytes are 42 sextets and 4 bits, so the text is 43 characters and one "=", and the last of the 43
/// carries two bits that mean nothing. A lax decoder ignores them, and four texts are then one key; here they
/// must be zero, so that a key has one text only.
library WireGuardKey {
    /// @notice Reads a key: the one whose `format` is exactly this text, or zero when there is none. All
    /// zeroes is no key either, so zero means "not a key" whatever the text.
    function parse(string memory text) internal pure returns (bytes32 key) {
        bytes memory chars = bytes(text);
        if (chars.length != 44 || chars[43] != "=") return 0;

        uint256 bits;
        uint256 invalid;
        for (uint256 i; i < 42; ++i) {
            uint256 sextet = _sextet(chars[i]);
            invalid |= sextet >> 6;
            bits = (bits << 6) | sextet;
        }
        uint256 last = _sextet(chars[42]);
        invalid |= (last >> 6) | (last & 3);
        if (invalid == 0) key = bytes32((bits << 4) | (last >> 2));
    }

    /// @notice Writes a key; "" for zero, which is no key.
    function format(bytes32 key) internal pure returns (string memory) {
        return key == 0 ? "" : Base64.encode(abi.encodePacked(key));
    }

    /// @dev The value of a character of the standard alphabet; 64 for any other.
    function _sextet(bytes1 char) private pure returns (uint256) {
        uint256 c = uint8(char);
        if (char >= "A" && char <= "Z") return c - 65;
        if (char >= "a" && char <= "z") return c - 71;
        if (char >= "0" && char <= "9") return c + 4;
        if (char == "+") return 62;
        if (char == "/") return 63;
        return 64;
    }
}
