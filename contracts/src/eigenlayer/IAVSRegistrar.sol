// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

/// @title What EigenLayer's AllocationManager asks of an AVS
/// @notice Declared by us from its published ABI.
interface IAVSRegistrar {
    /// @notice An operator joins operator sets of `avs`; a revert refuses it.
    function registerOperator(address operator, address avs, uint32[] calldata operatorSetIds, bytes calldata data)
        external;

    /// @notice An operator left operator sets of `avs`, by itself or ejected.
    function deregisterOperator(address operator, address avs, uint32[] calldata operatorSetIds) external;

    function supportsAVS(address avs) external view returns (bool);
}
