// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "./IAttestationCenter.sol";

/// @title Sets the fees of a request
/// @notice Read with at most FEE_GAS when a task is paid; where it reverts, burns its gas, or asks for more than the
/// request offers, the definition's own fees hold.
interface IFeeCalculator {
    function calculateFees(IAttestationCenter.TaskRequest calldata request)
        external
        view
        returns (IAttestationCenter.Fees memory);
}
