// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {IPublishedAccessNFT} from "./interfaces/IPublishedAccessNFT.sol";
import {IDstackAccessNFT} from "./interfaces/IDstackAccessNFT.sol";

/// @title An owner who changes in two steps and cannot vanish
/// @dev OpenZeppelin's `Ownable2Step` would bring `transferOwnership`, `acceptOwnership` and
/// `renounceOwnership` as calls beside the published name. Here there is one way only.
abstract contract ContractOwnership is IDstackAccessNFT {
    address private _owner;
    address private _pendingOwner;

    constructor() {
        _setOwner(msg.sender);
    }

    /// @inheritdoc IPublishedAccessNFT
    function transferContractOwnership(address newOwner) external {
        _requireOwner();
        if (newOwner == address(0)) revert ZeroOwner();

        _pendingOwner = newOwner;
        emit OwnershipTransferInitiated(_owner, newOwner);
    }

    /// @inheritdoc IDstackAccessNFT
    function acceptContractOwnership() external {
        if (msg.sender != _pendingOwner) revert NotPendingOwner(msg.sender);

        delete _pendingOwner;
        _setOwner(msg.sender);
    }

    /// @inheritdoc IDstackAccessNFT
    function owner() public view returns (address) {
        return _owner;
    }

    /// @inheritdoc IDstackAccessNFT
    function pendingOwner() external view returns (address) {
        return _pendingOwner;
    }

    function _requireOwner() internal view {
        if (msg.sender != _owner) revert NotContractOwner(msg.sender);
    }

    function _setOwner(address newOwner) private {
        emit OwnershipTransferred(_owner, newOwner);
        _owner = newOwner;
    }
}
