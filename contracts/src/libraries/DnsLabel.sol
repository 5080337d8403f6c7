// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

/// @title Names that can stand in a host name
library DnsLabel {
    /// @notice The longest label that DNS allows.
    uint256 internal constant MAX_LENGTH = 63;

    /// @notice Whether a text is a DNS label in lower case: `[a-z0-9]([a-z0-9-]*[a-z0-9])?`, at most 63
    /// characters.
    function isValid(string memory text) internal pure returns (bool) {
        bytes memory label = bytes(text);
        uint256 length = label.length;
        if (length == 0 || length > MAX_LENGTH) return false;
        if (label[0] == "-" || label[length - 1] == "-") return false;

        for (uint256 i; i < length; ++i) {
            bytes1 c = label[i];
            bool allowed = (c >= "a" && c <= "z") || (c >= "0" && c <= "9") || c == "-";
            if (!allowed) return false;
        }
        return true;
    }
}
