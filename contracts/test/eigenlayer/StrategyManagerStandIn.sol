// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {OperatorSet} from "../../src/eigenlayer/IAllocationManager.sol";
import {AllocationManagerStandIn} from "./AllocationManagerStandIn.sol";
import {DelegationManagerStandIn} from "./DelegationManagerStandIn.sol";
import {StrategyStandIn} from "./StrategyStandIn.sol";

/// @notice Behaves as EigenLayer's StrategyManager is documented to, as far as deposits and slashed shares go. Written
/// by us.
contract StrategyManagerStandIn {
    error OnlyDelegationManager(address caller);

    DelegationManagerStandIn public immutable delegation;
    AllocationManagerStandIn public immutable allocationManager;

    mapping(bytes32 key => mapping(uint256 slashId => address[])) private _slashedStrategies;
    mapping(bytes32 key => mapping(uint256 slashId => mapping(address strategy => uint256))) private _slashedShares;

    constructor(DelegationManagerStandIn delegation_, AllocationManagerStandIn allocationManager_) {
        (delegation, allocationManager) = (delegation_, allocationManager_);
    }

    /// @notice Deposits for the caller; counts for whom it delegated to.
    function depositIntoStrategy(address strategy, address, uint256 amount) external returns (uint256 shares) {
        require(StrategyStandIn(strategy).underlyingToken().transferFrom(msg.sender, strategy, amount), "transfer");
        delegation.increaseDelegatedShares(msg.sender, strategy, amount);
        return amount;
    }

    function increaseBurnOrRedistributableShares(
        OperatorSet calldata operatorSet,
        uint256 slashId,
        address strategy,
        uint256 shares
    ) external {
        if (msg.sender != address(delegation)) revert OnlyDelegationManager(msg.sender);
        bytes32 key = allocationManager.keyOf(operatorSet);
        _slashedStrategies[key][slashId].push(strategy);
        _slashedShares[key][slashId][strategy] += shares;
    }

    /// @notice Burns the slashed shares, or sends them to the set's recipient. Anyone may.
    function clearBurnOrRedistributableShares(OperatorSet calldata operatorSet, uint256 slashId)
        external
        returns (uint256[] memory amounts)
    {
        bytes32 key = allocationManager.keyOf(operatorSet);
        address[] memory strategies = _slashedStrategies[key][slashId];
        amounts = new uint256[](strategies.length);
        for (uint256 i = 0; i < strategies.length; ++i) {
            amounts[i] = _slashedShares[key][slashId][strategies[i]];
            _slashedShares[key][slashId][strategies[i]] = 0;
            address recipient = allocationManager.getRedistributionRecipient(operatorSet);
            StrategyStandIn(strategies[i]).withdraw(recipient, amounts[i]);
        }
        delete _slashedStrategies[key][slashId];
    }

    function getBurnOrRedistributableShares(OperatorSet calldata operatorSet, uint256 slashId, address strategy)
        external
        view
        returns (uint256)
    {
        return _slashedShares[allocationManager.keyOf(operatorSet)][slashId][strategy];
    }
}
