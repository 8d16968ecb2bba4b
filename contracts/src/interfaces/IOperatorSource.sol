// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

/// @title Where operators and their stake are
/// @notice What settlement, escrow and slashing ask of it: the OperatorRegistry, or an EigenLayer adapter.
interface IOperatorSource {
    error OnlyCourt(address caller);

    /// @notice The roles that an address registered with (1 performer, 2 attester, 4 aggregator), for ever: who left is
    /// still answerable for old tasks. 0 for a stranger.
    function rolesOf(address operator) external view returns (uint8);

    /// @notice Where an operator's rewards go; zero for a stranger.
    function rewardsReceiverOf(address operator) external view returns (address);

    /// @notice Notes that a slash waits: the stake cannot leave before it is executed or cancelled. Court only.
    function holdExit(address operator) external;

    /// @notice Takes one such note back. Court only.
    function releaseExit(address operator) external;

    /// @notice Takes `wad` (1e18 = all) of what stake there is, pays it to the court, and takes one note back. Court
    /// only; never reverts for an operator whose exit is held, even if nothing is left.
    function slash(address operator, uint256 wad) external returns (uint256 amount);

    /// @notice How long an exit takes at least, in seconds: no dispute may be longer.
    function unbondingSeconds() external view returns (uint64);

    /// @notice What stake is counted in; zero: the chain's own coin.
    function stakeToken() external view returns (address);
}
