// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {OperatorSet} from "./IAllocationManager.sol";

/// @title What EigenLayer's table generator asks of an AVS, to carry its operators to other chains
/// @notice Declared by us from its published ABI.
interface IOperatorTableCalculator {
    function calculateOperatorTableBytes(OperatorSet calldata operatorSet) external view returns (bytes memory);
    function getOperatorSetWeights(OperatorSet calldata operatorSet)
        external
        view
        returns (address[] memory operators, uint256[][] memory weights);
    function getOperatorWeights(OperatorSet calldata operatorSet, address operator)
        external
        view
        returns (uint256[] memory weights);
}
