// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

/// @title What we ask of EigenLayer's DelegationManager
/// @notice Declared by us from its published ABI.
interface IDelegationManager {
    /// @notice What is delegated to an operator, its own deposits included, by strategy; allocated or not.
    function getOperatorShares(address operator, address[] memory strategies)
        external
        view
        returns (uint256[] memory shares);
}
