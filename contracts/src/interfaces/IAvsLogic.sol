// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "./IAttestationCenter.sol";

/// @title Called around the settlement of a single task
/// @notice Each call gets at most HOOK_GAS; a revert or an empty tank changes nothing but the event HookFailed. A hook
/// that must not be skipped belongs to a definition that `settlesSingly`.
interface IAvsLogic {
    function beforeTaskSubmission(
        IAttestationCenter.TaskInfo calldata taskInfo,
        bool isApproved,
        bytes calldata tpSignature,
        bytes calldata taSignature,
        bytes calldata indices
    ) external;

    function afterTaskSubmission(
        IAttestationCenter.TaskInfo calldata taskInfo,
        bool isApproved,
        bytes calldata tpSignature,
        bytes calldata taSignature,
        bytes calldata indices
    ) external;
}
