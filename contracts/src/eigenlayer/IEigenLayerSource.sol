// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAVSRegistrar} from "./IAVSRegistrar.sol";
import {IAllocationManager} from "./IAllocationManager.sol";
import {IDelegationManager} from "./IDelegationManager.sol";
import {IEpochTables} from "../interfaces/IEpochTables.sol";
import {IOperatorRegistry} from "../interfaces/IOperatorRegistry.sol";
import {IOperatorSource} from "../interfaces/IOperatorSource.sol";

/// @title Operators whose stake lies in EigenLayer
/// @notice In place of the OperatorRegistry: the members of one operator set, slashable there by the SlashingCourt. An
/// operator is its own owner. What nodes read (`operatorsFrom` and the like), and what operators change of themselves,
/// has the registry's words.
interface IEigenLayerSource is IOperatorSource, IAVSRegistrar {
    /// @param avs the account that made the operator set
    /// @param strategies strictly ascending; what counts as stake, if it is in the operator set. Shares are added up
    /// as they are, so they should be worth alike
    /// @param minimumStake in shares; below it there is no vote, and no registration
    /// @param powerUnit shares that make one unit of voting power
    /// @param unbondingSeconds the longest dispute that fits into EigenLayer's deallocation delay
    /// @param blockSeconds the least time between two blocks: 12 on Ethereum
    /// @param stakeToken for readers; no token ever moves through this contract. Zero: the chain's own coin
    struct Settings {
        IEpochTables tables;
        IAllocationManager allocationManager;
        IDelegationManager delegationManager;
        address avs;
        uint32 operatorSetId;
        address[] strategies;
        uint256 minimumStake;
        uint256 powerUnit;
        uint64 unbondingSeconds;
        uint64 blockSeconds;
        address stakeToken;
    }

    event OperatorRegistered(
        address indexed operator,
        address indexed owner,
        uint8 roles,
        uint256 stake,
        bytes32 peerKey,
        string p2pAddress,
        string gatewayUrl
    );
    event EndpointsUpdated(address indexed operator, string p2pAddress, string gatewayUrl);
    event RewardsReceiverChanged(address indexed operator, address receiver);
    event OperatorLeft(address indexed operator, uint64 withdrawableAt);
    event OperatorUnlisted(address indexed operator);
    /// The AllocationManager took `shares`, by strategy as it names them; they wait in the StrategyManager under
    /// `slashId` until anyone has them burnt or sent to the set's redistribution recipient.
    event SlashSent(address indexed operator, uint256 wad, uint256 slashId, address[] strategies, uint256[] shares);
    /// Nothing was slashed: the operator left the set longer than the deallocation delay ago, or no strategy of ours is
    /// in the set any more.
    event SlashMissed(address indexed operator, uint256 wad);
    event CourtSet(address court);

    error OnlyAllocationManager(address caller);
    error WrongAvs(address avs, address expected);
    /// An operator joins exactly the one set.
    error WrongOperatorSets(uint32[] operatorSetIds, uint32 expected);
    /// The operator set has another slasher, so that nobody in it would answer for what it does.
    error NotSlasher(address slasher);
    error CourtNotSet();
    error AlreadyRegistered(address operator);
    error RegistrationLength(uint256 length, uint256 minimum);
    error InvalidRoles(uint8 roles);
    error StakeTooSmall(uint256 stake, uint256 minimum);
    error InvalidPeerKey();
    error PeerKeyTaken(bytes32 peerKey);
    error EndpointTooLong(uint256 length, uint256 maximum);
    error NotRegistered(address operator);
    error OnlyOwner(address caller, address owner);
    error AlreadyLeft(address operator);
    error NotLeft(address operator);
    error StillBonded(address operator, uint64 withdrawableAt);
    error StillInTable(address operator, uint32 epoch);
    error AlreadyUnlisted(address operator);
    error InvalidWad(uint256 wad);
    error OnlyDeployer(address caller);
    error CourtAlreadySet(address court);
    error InvalidCourt(address court);
    error InvalidSetting(string name, uint256 value);

    /// @notice Brings operators' voting power up to what EigenLayer says of their stake, and ends the membership of
    /// those of whom it says that they left. Anyone may, in chunks of any size; strangers and leavers are passed over.
    function refreshPowers(address[] calldata operators) external;

    /// @notice Takes who left out of the list that nodes read, once its votes are over. Anyone may.
    function unlist(address operator) external;

    /// @notice Operator only.
    function updateEndpoints(address operator, string calldata p2pAddress, string calldata gatewayUrl) external;

    /// @notice Another vote key from the next epoch on. Operator only.
    function rotateVoteKey(address operator, bytes calldata voteKey, bytes calldata possession) external;

    /// @notice Zero: the operator itself. Operator only.
    function setRewardsReceiver(address operator, address receiver) external;

    /// @notice Names the one contract that may slash. Deployer only, once, and before anybody can register.
    function setCourt(address court) external;

    // --- reading ---
    /// @notice Everybody who registered and is not unlisted, in no lasting order: at most `limit` from `from`.
    function operatorsFrom(uint256 from, uint256 limit) external view returns (IOperatorRegistry.Operator[] memory);
    function operatorCount() external view returns (uint256);

    /// @notice Also answers for who is unlisted; reverts with NotRegistered for a stranger.
    function operatorOf(address operator) external view returns (IOperatorRegistry.Operator memory);

    /// @notice What EigenLayer could slash of an operator as late as the last dispute about its next vote, in shares.
    function stakeOf(address operator) external view returns (uint256);

    /// @notice All that is delegated to an operator, by strategy of `strategies`; allocated to this set or not.
    function delegatedShares(address operator) external view returns (uint256[] memory);

    /// @notice Slashes of the operator that wait. EigenLayer cannot be told to keep stake for them: their dispute is
    /// shorter than its deallocation delay.
    function pendingSlashes(address operator) external view returns (uint256);

    function tables() external view returns (IEpochTables);
    function court() external view returns (address);
    function allocationManager() external view returns (IAllocationManager);
    function delegationManager() external view returns (IDelegationManager);
    function avs() external view returns (address);
    function operatorSetId() external view returns (uint32);
    function strategies() external view returns (address[] memory);
    function minimumStake() external view returns (uint256);
    function powerUnit() external view returns (uint256);

    /// @notice How many blocks ahead stake has to be there to count.
    function lookaheadBlocks() external view returns (uint32);
}
