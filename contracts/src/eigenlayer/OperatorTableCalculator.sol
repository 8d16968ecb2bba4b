// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IEpochTables} from "../interfaces/IEpochTables.sol";
import {OperatorSet} from "./IAllocationManager.sol";
import {IEigenLayerSource} from "./IEigenLayerSource.sol";
import {IOperatorTableCalculator} from "./IOperatorTableCalculator.sol";

/// @title The current epoch's table for EigenLayer's multichain verification
/// @notice For an operator set whose curve is ECDSA: operators sign with the keys of their addresses, and each has one
/// weight, its voting power. EigenLayer knows BLS12-381 not at all, and a table for BN254 without the operators' keys
/// would have infinity as its aggregate key, under which everything is signed.
/// @dev Other operator sets, and the time before the first epoch, have no operators.
contract OperatorTableCalculator is IOperatorTableCalculator {
    /// As EigenLayer's ECDSA certificate verifier decodes it.
    struct ECDSAOperatorInfo {
        address pubkey;
        uint256[] weights;
    }

    IEigenLayerSource public immutable source;

    constructor(IEigenLayerSource source_) {
        source = source_;
    }

    /// @inheritdoc IOperatorTableCalculator
    function calculateOperatorTableBytes(OperatorSet calldata operatorSet) external view returns (bytes memory) {
        (address[] memory operators, uint256[][] memory weights) = getOperatorSetWeights(operatorSet);
        ECDSAOperatorInfo[] memory infos = new ECDSAOperatorInfo[](operators.length);
        for (uint256 i = 0; i < operators.length; ++i) {
            infos[i] = ECDSAOperatorInfo(operators[i], weights[i]);
        }
        return abi.encode(infos);
    }

    /// @inheritdoc IOperatorTableCalculator
    function getOperatorSetWeights(OperatorSet calldata operatorSet)
        public
        view
        returns (address[] memory operators, uint256[][] memory weights)
    {
        uint64[] memory powers;
        (operators, powers) = _table(operatorSet);
        weights = new uint256[][](operators.length);
        uint256 count = 0;
        for (uint256 i = 0; i < operators.length; ++i) {
            if (powers[i] == 0) continue;
            operators[count] = operators[i];
            weights[count++] = _single(powers[i]);
        }
        assembly ("memory-safe") {
            mstore(operators, count)
            mstore(weights, count)
        }
    }

    /// @inheritdoc IOperatorTableCalculator
    function getOperatorWeights(OperatorSet calldata operatorSet, address operator)
        external
        view
        returns (uint256[] memory weights)
    {
        (address[] memory operators, uint64[] memory powers) = _table(operatorSet);
        for (uint256 i = 0; i < operators.length; ++i) {
            if (operators[i] == operator && powers[i] != 0) return _single(powers[i]);
        }
    }

    function _table(OperatorSet calldata operatorSet)
        private
        view
        returns (address[] memory operators, uint64[] memory powers)
    {
        IEpochTables tables = source.tables();
        uint32 epoch = tables.currentEpoch();
        bool isOurs = operatorSet.avs == source.avs() && operatorSet.id == source.operatorSetId();
        if (isOurs && epoch != 0) (operators,, powers) = tables.tableOf(epoch, 0);
    }

    function _single(uint256 weight) private pure returns (uint256[] memory weights) {
        weights = new uint256[](1);
        weights[0] = weight;
    }
}
