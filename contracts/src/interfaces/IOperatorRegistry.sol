// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IQuorumVerifier} from "./IQuorumVerifier.sol";

/// @title Who may perform, attest and aggregate, with what stake
/// @notice Stake moves in by `register` and `addStake`, out by `leave` and `withdraw`, and to the vault by a slash that
/// the AttestationCenter executes. There is no other way and no administrator.
interface IOperatorRegistry is IQuorumVerifier {
    /// An operator as it is now. `voteKey` is the packed G2 point, 192 bytes, as registered; empty without one.
    /// `stake` is in wei. `withdrawableAt` is in unix seconds, 0 for who has not left.
    struct Operator {
        address operator;
        uint8 roles;
        bool isActive;
        uint64 withdrawableAt;
        uint256 stake;
        bytes32 peerKey;
        bytes voteKey;
        string p2pAddress;
        string gatewayUrl;
    }

    event OperatorRegistered(
        address indexed operator,
        uint8 roles,
        uint256 stake,
        bytes voteKey,
        bytes32 peerKey,
        string p2pAddress,
        string gatewayUrl
    );
    event EndpointsUpdated(address indexed operator, string p2pAddress, string gatewayUrl);
    event StakeAdded(address indexed operator, uint256 amount, uint256 stake);
    event OperatorLeft(address indexed operator, uint64 withdrawableAt);
    event StakeWithdrawn(address indexed operator, uint256 amount);
    event OperatorSlashed(address indexed operator, uint256 amount, uint256 stake);
    event VaultWithdrawn(uint256 amount);
    event EpochRolled(uint32 indexed epoch, uint256 attesters, uint64 totalPower, address table);
    event CenterSet(address center);

    // --- registering ---
    error CenterNotSet();
    error AlreadyRegistered(address operator);
    error InvalidRoles(uint8 roles);
    error StakeTooSmall(uint256 stake, uint256 minimum);
    error StakeTooLarge(uint256 stake, uint256 maximum);
    error VoteKeyLength(uint256 length);
    error PossessionLength(uint256 length);
    error VoteKeyTaken(bytes32 keyHash);
    error InfinityVoteKey();
    /// The key or its proof is no point of its group: a coordinate is not reduced, or it is off the curve or outside
    /// the subgroup.
    error MalformedVoteKey(bytes voteKey, bytes possession);
    error PossessionMismatch(address operator, bytes32 keyHash);
    error InvalidPeerKey();
    error PeerKeyTaken(bytes32 peerKey);
    error EndpointTooLong(uint256 length, uint256 maximum);
    error TooManyAttesters(uint256 maximum);

    // --- afterwards ---
    error NotRegistered(address operator);
    error AlreadyLeft(address operator);
    error NotLeft(address operator);
    error StillBonded(address operator, uint64 withdrawableAt);
    /// The operator's power still votes in a valid table; it is out of them from `firstFreeEpoch` on.
    error StillInTable(address operator, uint32 firstFreeEpoch);
    /// Queued slashes have to be executed first; anyone can do that, the operator included.
    error SlashPending(address operator, uint256 count);
    error AlreadyWithdrawn(address operator);
    error EpochNotOver(uint64 rollableAt);
    error TransferFailed(address to, uint256 amount);

    // --- who may ---
    error OnlyCenter(address caller);
    error OnlyVault(address caller);
    error OnlyDeployer(address caller);
    error CenterAlreadySet(address center);
    error InvalidCenter(address center);
    /// A constructor argument is out of its bounds.
    error InvalidSetting(string name, uint256 value);

    /// @notice Registers the caller. For ever: an address, a vote key and a peer key serve one registration.
    /// @param roles sum of 1 performer, 2 attester, 4 aggregator
    /// @param voteKey packed G2 point, 192 bytes; may be empty when `roles` has no attester
    /// @param possession packed G1 point, 96 bytes: the vote key's signature over `possessionDigest`; empty with no key
    /// @param peerKey ed25519 public key of the libp2p identity
    /// @param p2pAddress multiaddr without the peer id
    function register(
        uint8 roles,
        bytes calldata voteKey,
        bytes calldata possession,
        bytes32 peerKey,
        string calldata p2pAddress,
        string calldata gatewayUrl
    ) external payable;

    function updateEndpoints(string calldata p2pAddress, string calldata gatewayUrl) external;

    function addStake() external payable;

    /// @notice Starts the caller's exit: out of the next table at once, stake back after `unbondingSeconds`, slashable
    /// until then. Final.
    function leave() external;

    /// @notice Pays the caller's whole remaining stake back.
    function withdraw() external;

    /// @notice Freezes the active attesters into the next epoch's table. Anyone may, once `epochSeconds` have passed
    /// since the last roll.
    function rollEpoch() external returns (uint32 epoch);

    /// @notice Notes a rejection whose slash waits: the stake cannot leave before it. Center only.
    function queueSlash(address operator) external;

    /// @notice Moves `wad` (1e18 = all) of what stake there is to the vault's balance. Center only; never reverts for
    /// an operator whose slash was queued, even if nothing is left.
    function slash(address operator, uint256 wad) external returns (uint256 amount);

    /// @notice Pays what slashing collected to the vault. Vault only.
    function withdrawVault() external;

    /// @notice Names the one contract that may slash. Deployer only, once, and before anybody can register.
    function setCenter(address center) external;

    // --- reading ---
    function currentEpoch() external view returns (uint32);

    /// @notice The epoch's attesters in index order; reverts with UnknownEpoch unless current or previous.
    function tableOf(uint32 epoch)
        external
        view
        returns (address[] memory operators, bytes[] memory voteKeys, uint64[] memory powers);

    /// @notice When the next roll is allowed, in unix seconds; 0 before the first.
    function rollableAt() external view returns (uint64);

    /// @notice Everybody who registered and has not withdrawn, in no lasting order.
    function operators() external view returns (Operator[] memory);

    /// @notice At most `limit` of them from position `from`: for sets too large for one call.
    function operatorsFrom(uint256 from, uint256 limit) external view returns (Operator[] memory);

    function operatorCount() external view returns (uint256);

    function operatorAt(uint256 position) external view returns (Operator memory);

    /// @notice Also answers for who has withdrawn; reverts with NotRegistered for a stranger.
    function operatorOf(address operator) external view returns (Operator memory);

    /// @notice The roles that an address registered with, for ever: who left is still answerable for old tasks.
    function rolesOf(address operator) external view returns (uint8);

    /// @notice What a vote key signs under the proof-of-possession suite; EIP-712 in the registry's own domain.
    function possessionDigest(address operator, bytes32 keyHash) external view returns (bytes32);

    function domainSeparator() external view returns (bytes32);
    function minimumStake() external view returns (uint256);
    function unbondingSeconds() external view returns (uint64);
    function epochSeconds() external view returns (uint64);
    function vault() external view returns (address);
    function vaultBalance() external view returns (uint256);
    function totalStake() external view returns (uint256);
    function center() external view returns (address);
}
