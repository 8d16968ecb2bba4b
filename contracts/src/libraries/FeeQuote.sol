// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "../interfaces/IAttestationCenter.sol";
import {IFeeCalculator} from "../interfaces/IFeeCalculator.sol";
import {ITaskEscrow} from "../interfaces/ITaskEscrow.sol";

/// @title Asks a fee calculator, whatever it is
/// @notice A calculator is a stranger's code: it may revert, burn its gas, answer nonsense or a flood of bytes. None of
/// that may keep a task from being paid. It is asked by a static call, so it changes nothing.
library FeeQuote {
    /// What a calculator may use.
    uint256 internal constant FEE_GAS = 100_000;
    /// A call is given at most 63/64 of what is left after its own price (EIP-150): 2,600 for a cold account, twice for
    /// one that delegates (EIP-7702), and room for dearer ones.
    uint256 private constant GAS_NEEDED = FEE_GAS + FEE_GAS / 63 + 1 + 10_000;
    uint256 private constant ANSWER_SIZE = 96;

    /// @dev Reverts with GasTooLow where less than FEE_GAS would reach the calculator: who collects could starve it, to
    /// have the definition's fees instead of the calculator's.
    /// @return isAnswered false: it reverted, or what it answered is no Fees
    function ask(address calculator, IAttestationCenter.TaskRequest calldata request)
        internal
        view
        returns (bool isAnswered, IAttestationCenter.Fees memory fees)
    {
        bytes memory question = abi.encodeCall(IFeeCalculator.calculateFees, (request));
        if (gasleft() < GAS_NEEDED) revert ITaskEscrow.GasTooLow(gasleft(), GAS_NEEDED);
        // Copies no more than an answer's size, however much is returned. abi.decode would revert on values too wide.
        uint256[3] memory answer;
        assembly ("memory-safe") {
            isAnswered := staticcall(FEE_GAS, calculator, add(question, 32), mload(question), answer, ANSWER_SIZE)
            isAnswered := and(isAnswered, gt(returndatasize(), sub(ANSWER_SIZE, 1)))
        }
        if (!isAnswered || (answer[0] | answer[1] | answer[2]) > type(uint80).max) return (false, fees);
        fees = IAttestationCenter.Fees(uint80(answer[0]), uint80(answer[1]), uint80(answer[2]));
    }

    /// @dev What a request has to offer.
    function total(IAttestationCenter.Fees memory fees) internal pure returns (uint256) {
        return uint256(fees.performer) + fees.attesters + fees.aggregator;
    }
}
