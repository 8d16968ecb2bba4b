// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IQuorumVerifier} from "./IQuorumVerifier.sol";

/// @title Who votes in which epoch, with which key and what power
/// @notice Keeps the seats of attesters with their keys and powers as the stake source reports them, and freezes them,
/// epoch by epoch, into tables that never change. The source is the OperatorRegistry or an EigenLayer adapter: where
/// stake lies is no business of this contract.
interface IEpochTables is IQuorumVerifier {
    /// Who of the seated attesters votes on a kind of task, and with what power: those in `members` (everybody when it
    /// is empty) with at least `minimumPower`, each counting at most `maximumPower` (0: no limit). A verdict needs
    /// signers of at least `minimumOwners` distinct owners (0 and 1: no rule).
    struct AttesterSet {
        address[] members;
        uint32 minimumPower;
        uint32 maximumPower;
        uint16 minimumOwners;
    }

    event SourceSet(address source);
    event AttesterSeated(address indexed operator, address indexed owner, uint16 seat, bytes voteKey);
    event VoteKeyRotated(address indexed operator, uint16 seat, bytes voteKey);
    event PowerChanged(address indexed operator, uint16 seat, uint32 power);
    event AttesterUnseated(address indexed operator, uint16 seat);
    event SeatPageWritten(uint256 indexed index, address page);
    event EpochRolled(uint32 indexed epoch, uint256 attesters, uint64 totalPower, address table);
    event AttesterSetCreated(uint32 indexed attesterSet, AttesterSet rules);
    event SetRolled(uint32 indexed epoch, uint32 indexed attesterSet, uint64 totalPower, address table);

    error OnlyDeployer(address caller);
    error OnlySource(address caller);
    error SourceAlreadySet(address source);
    error InvalidSetting(string name, uint256 value);
    error AlreadySeated(address operator);
    error NotSeated(address operator);
    /// The attester has rotated for this epoch.
    error AlreadyRotated(address operator, uint32 epoch);
    error TooManySeats(uint256 maximum);
    error VoteKeyLength(uint256 length);
    error PossessionLength(uint256 length);
    /// Keys are never used again, not even by who gave them up.
    error VoteKeyTaken(bytes32 keyHash);
    error InfinityVoteKey();
    /// The key or its proof is no point of its group: a coordinate is not reduced, or it is off the curve or outside
    /// the subgroup.
    error MalformedVoteKey(bytes voteKey, bytes possession);
    error PossessionMismatch(address operator, bytes32 keyHash);
    error EpochNotOver(uint64 rollableAt);
    error UnknownAttesterSet(uint32 attesterSet);
    error SetAlreadyRolled(uint32 epoch, uint32 attesterSet);
    /// `members` has to be strictly increasing, at most MAX_SEATS, and the powers' range not empty.
    error InvalidAttesterSet();

    // --- the source ---
    /// @notice Names the one contract that seats attesters. Deployer only, once.
    function setSource(address source) external;

    /// @notice Gives an attester a seat; it votes from the next epoch on. Source only.
    /// @param voteKey packed G2 point, 192 bytes
    /// @param possession packed G1 point, 96 bytes: the key's signature over `possessionDigest`
    function seat(address operator, address owner, bytes calldata voteKey, bytes calldata possession, uint32 power)
        external
        returns (uint16);

    /// @notice Another key from the next epoch on, once for each epoch; older tables keep the old one. Source only.
    function rotateKey(address operator, bytes calldata voteKey, bytes calldata possession) external;

    /// @notice Another power from the next epoch on; 0 for who sits but has no vote. Source only.
    /// @param mayRollNow makes the next roll due at once: after a slash
    function setPower(address operator, uint32 power, bool mayRollNow) external;

    /// @notice Takes the seat away and makes the next roll due at once. Source only.
    function unseat(address operator) external;

    // --- epochs ---
    /// @notice Freezes the seated attesters into the next epoch's table. Anyone may: when `epochSeconds` have passed
    /// since the last roll, and at once after a slash or an exit. Writes at most one page of keys in a call; returns 0,
    /// with the epoch unchanged, while more are to be written: call again.
    function rollEpoch() external returns (uint32 epoch);

    /// @notice A set's rules, immutable. Anyone may create one; ids count from 1.
    function createAttesterSet(AttesterSet calldata rules) external returns (uint32 attesterSet);

    /// @notice Writes a set's table of any epoch there ever was. Anyone may, once; votes of an expired one still settle
    /// nothing.
    function rollSet(uint32 epoch, uint32 attesterSet) external returns (uint64 totalPower);

    // --- reading ---
    function currentEpoch() external view returns (uint32);

    /// @notice When the next roll is allowed, in unix seconds; not in the future when it is due at once.
    function rollableAt() external view returns (uint64);

    /// @notice Whether no vote of this epoch can settle any more. False for the current epoch and for those to come.
    function isExpired(uint32 epoch) external view returns (bool);

    /// @notice The table of any epoch there ever was, in order of seats, those without power included (their power is
    /// 0). For a set that has no table yet: what `rollSet` would write.
    /// @param voteKeys packed G2 points, 192 bytes each
    function tableOf(uint32 epoch, uint32 attesterSet)
        external
        view
        returns (address[] memory operators, bytes[] memory voteKeys, uint64[] memory powers);

    function attesterSet(uint32 id) external view returns (AttesterSet memory);
    function attesterSetCount() external view returns (uint256);

    /// @notice The attester's present key, packed; empty for who has no seat.
    function voteKeyOf(address operator) external view returns (bytes memory);

    /// @notice What a vote key signs under the proof-of-possession suite; EIP-712 in this contract's own domain.
    function possessionDigest(address operator, bytes32 keyHash) external view returns (bytes32);
    function domainSeparator() external view returns (bytes32);

    function source() external view returns (address);
    function epochSeconds() external view returns (uint64);
    function graceSeconds() external view returns (uint64);
}
