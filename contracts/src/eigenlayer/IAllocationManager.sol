// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

/// A group of operators that an AVS made, with strategies whose stake they allocate to it.
struct OperatorSet {
    address avs;
    uint32 id;
}

/// @title What we ask of EigenLayer's AllocationManager
/// @notice Declared by us from its published ABI (v1.9): only the functions that are called from here.
interface IAllocationManager {
    /// `strategies` strictly ascending and of the set; a wad (1e18 = all) for each, of the operator's allocation to
    /// this set, rounded up.
    struct SlashingParams {
        address operator;
        uint32 operatorSetId;
        address[] strategies;
        uint256[] wadsToSlash;
        string description;
    }

    /// @notice Burns or redistributes at once what it takes: the shares wait in the StrategyManager under `slashId`.
    /// The set's one slasher only; there is no veto and no delay.
    function slashOperator(address avs, SlashingParams calldata params)
        external
        returns (uint256 slashId, uint256[] memory shares);

    /// @notice Blocks until a deallocation counts, and in which who left a set can still be slashed.
    function DEALLOCATION_DELAY() external view returns (uint32);

    function getSlasher(OperatorSet memory operatorSet) external view returns (address);
    function getStrategiesInOperatorSet(OperatorSet memory operatorSet) external view returns (address[] memory);
    function isMemberOfOperatorSet(address operator, OperatorSet memory operatorSet) external view returns (bool);

    /// @notice True for members, and for who left less than DEALLOCATION_DELAY blocks ago.
    function isOperatorSlashable(address operator, OperatorSet memory operatorSet) external view returns (bool);

    /// @notice The least that an operator's allocation is worth in shares, by operator and strategy, between now and
    /// `futureBlock`, if nobody withdraws. Does not ask whether the operator is in the set.
    function getMinimumSlashableStake(
        OperatorSet memory operatorSet,
        address[] memory operators,
        address[] memory strategies,
        uint32 futureBlock
    ) external view returns (uint256[][] memory stakes);
}
