// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {IERC721Receiver} from "@openzeppelin/contracts/token/ERC721/IERC721Receiver.sol";

/// @dev A wallet that is a contract: on receipt of a token it makes one call, chosen beforehand.
contract Receiver is IERC721Receiver {
    bytes private _callback;

    function onReceiptCall(bytes calldata data) external {
        _callback = data;
    }

    function onERC721Received(address, address, uint256, bytes calldata) external returns (bytes4) {
        if (_callback.length != 0) {
            (bool ok,) = msg.sender.call(_callback);
            require(ok, "callback");
        }
        return this.onERC721Received.selector;
    }
}
