// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {OperatorSet} from "../../src/eigenlayer/IAllocationManager.sol";
import {IDelegationManager} from "../../src/eigenlayer/IDelegationManager.sol";
import {AllocationManagerStandIn} from "./AllocationManagerStandIn.sol";
import {StrategyManagerStandIn} from "./StrategyManagerStandIn.sol";

/// @notice Behaves as EigenLayer's DelegationManager is documented to: who delegates to whom, and how many shares that
/// makes. Withdrawals stop counting when they are queued, and stay slashable until they may be completed. Written by us.
contract DelegationManagerStandIn is IDelegationManager {
    struct Queued {
        uint256 shares;
        uint256 slashableUntil;
    }

    error OnlyAllocationManager(address caller);
    error OnlyStrategyManager(address caller);
    error ActivelyDelegated();
    error OperatorNotRegistered();
    error NotActivelyDelegated();

    uint32 public immutable minWithdrawalDelayBlocks;
    AllocationManagerStandIn public allocationManager;
    StrategyManagerStandIn public strategyManager;

    mapping(address staker => address operator) public delegatedTo;
    mapping(address staker => mapping(address strategy => uint256)) private _deposits;
    mapping(address operator => mapping(address strategy => uint256)) private _operatorShares;
    mapping(address operator => mapping(address strategy => Queued[])) private _queue;

    constructor(uint32 delay) {
        minWithdrawalDelayBlocks = delay;
    }

    function initialize(AllocationManagerStandIn allocationManager_, StrategyManagerStandIn strategyManager_) external {
        (allocationManager, strategyManager) = (allocationManager_, strategyManager_);
    }

    // --- stakers and operators ---------------------------------------------------------------------------------------

    /// @notice An operator delegates to itself, for ever.
    function registerAsOperator(address, uint32 allocationDelay, string calldata) external {
        if (delegatedTo[msg.sender] != address(0)) revert ActivelyDelegated();
        delegatedTo[msg.sender] = msg.sender;
        allocationManager.setAllocationDelay(msg.sender, allocationDelay);
    }

    function delegateTo(address operator) external {
        if (delegatedTo[msg.sender] != address(0)) revert ActivelyDelegated();
        if (!isOperator(operator)) revert OperatorNotRegistered();
        delegatedTo[msg.sender] = operator;
    }

    function increaseDelegatedShares(address staker, address strategy, uint256 shares) external {
        if (msg.sender != address(strategyManager)) revert OnlyStrategyManager(msg.sender);
        _deposits[staker][strategy] += shares;
        _operatorShares[delegatedTo[staker]][strategy] += shares;
    }

    function queueWithdrawal(address strategy, uint256 shares) external {
        address operator = delegatedTo[msg.sender];
        if (operator == address(0)) revert NotActivelyDelegated();
        _deposits[msg.sender][strategy] -= shares;
        _operatorShares[operator][strategy] -= shares;
        _queue[operator][strategy].push(Queued(shares, block.number + minWithdrawalDelayBlocks));
    }

    // --- slashing ----------------------------------------------------------------------------------------------------

    function slashOperatorShares(
        address operator,
        OperatorSet calldata operatorSet,
        uint256 slashId,
        address strategy,
        uint64 previousMagnitude,
        uint64 magnitude
    ) external returns (uint256 slashed) {
        if (msg.sender != address(allocationManager)) revert OnlyAllocationManager(msg.sender);
        uint256 part = previousMagnitude - magnitude;
        uint256 delegated = _operatorShares[operator][strategy] * part / previousMagnitude;
        _operatorShares[operator][strategy] -= delegated;
        slashed = delegated + getSlashableSharesInQueue(operator, strategy) * part / previousMagnitude;
        strategyManager.increaseBurnOrRedistributableShares(operatorSet, slashId, strategy, slashed);
    }

    // --- reading -----------------------------------------------------------------------------------------------------

    function isOperator(address operator) public view returns (bool) {
        return operator != address(0) && delegatedTo[operator] == operator;
    }

    function getOperatorShares(address operator, address[] memory strategies)
        public
        view
        returns (uint256[] memory shares)
    {
        shares = new uint256[](strategies.length);
        for (uint256 i = 0; i < strategies.length; ++i) {
            shares[i] = _operatorShares[operator][strategies[i]];
        }
    }

    function getSlashableSharesInQueue(address operator, address strategy) public view returns (uint256 shares) {
        Queued[] storage queue = _queue[operator][strategy];
        for (uint256 i = 0; i < queue.length; ++i) {
            if (block.number <= queue[i].slashableUntil) shares += queue[i].shares;
        }
    }
}
