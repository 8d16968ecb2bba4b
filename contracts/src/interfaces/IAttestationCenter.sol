// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IOperatorRegistry} from "./IOperatorRegistry.sol";

/// @title Where verdicts settle
/// @notice Takes a quorum's verdict on one task, or on a Merkle batch of tasks, checks it by one pairing, and keeps it.
interface IAttestationCenter {
    /// What a requester signs; its digest is the task id.
    struct TaskRequest {
        address requester;
        uint256 nonce;
        address performer;
        uint16 taskDefinitionId;
        bytes32 modelHash;
        string inputCid;
        string parameters;
        bytes32 seed;
        uint256 fee;
        uint64 deadline;
    }

    /// What a performer signs and attesters vote on.
    struct TaskInfo {
        bytes32 taskId;
        string proofOfTask;
        bytes data;
        address taskPerformer;
        uint16 taskDefinitionId;
        uint32 epoch;
    }

    /// `tpSignature`: the performer's 65 bytes r, s, v over the task info hash. `taSignature`: packed G1 point, 96
    /// bytes, over the vote digest. `indices`: the missing for an approval, the signers for a rejection.
    struct TaskSubmissionDetails {
        bool isApproved;
        bytes tpSignature;
        bytes taSignature;
        bytes indices;
    }

    struct TaskDefinition {
        string name;
        string method;
        bytes32 modelHash;
        string cardCid;
    }

    /// A settled batch; `size` is 0 for a root that never settled.
    struct Batch {
        uint32 size;
        uint32 epoch;
        address aggregator;
    }

    /// A rejected task's slash; `operator` is zero where none was queued.
    struct Slash {
        address operator;
        uint64 executableAt;
        bool isExecuted;
    }

    event TaskDefinitionCreated(
        uint16 indexed taskDefinitionId, string name, string method, bytes32 modelHash, string cardCid
    );
    event TaskSubmitted(
        address indexed operator,
        bytes32 indexed taskId,
        string proofOfTask,
        bytes data,
        uint16 taskDefinitionId,
        bytes32 taskInfoHash,
        bytes indices
    );
    event TaskRejected(
        address indexed operator,
        bytes32 indexed taskId,
        string proofOfTask,
        bytes data,
        uint16 taskDefinitionId,
        bytes32 taskInfoHash,
        bytes indices
    );
    event BatchSettled(
        bytes32 indexed root, bytes32 contentHash, uint32 size, uint32 epoch, address indexed aggregator
    );
    event SlashQueued(bytes32 indexed taskId, address indexed operator, uint64 executableAt);
    event SlashExecuted(bytes32 indexed taskId, address indexed operator, uint256 amount);

    error UnknownTaskDefinition(uint16 taskDefinitionId);
    error TooManyTaskDefinitions(uint256 maximum);
    error TaskAlreadySettled(bytes32 taskId);
    error NotPerformer(address performer);
    error PerformerSignatureMismatch(address performer, bytes32 taskInfoHash);
    error EmptyBatch(bytes32 root);
    error BatchAlreadySettled(bytes32 root);
    error NoSlashQueued(bytes32 taskId);
    error SlashNotDue(bytes32 taskId, uint64 executableAt);
    error SlashAlreadyExecuted(bytes32 taskId);
    /// A constructor argument is out of its bounds.
    error InvalidSetting(string name, uint256 value);

    /// @notice Adds a kind of task, immutable from then on. Owner only. Ids count from 0.
    function createTaskDefinition(
        string calldata name,
        string calldata method,
        bytes32 modelHash,
        string calldata cardCid
    ) external returns (uint16 taskDefinitionId);

    /// @notice Settles one task for ever. Anyone may; the quorum's signature is what counts.
    function submitTask(TaskInfo calldata info, TaskSubmissionDetails calldata details) external;

    /// @notice Settles a Merkle root over `size` certificates for ever.
    /// @param contentHash SHA-256 of the batch document: only the event keeps it
    /// @param signature packed G1 point, 96 bytes, over the batch digest
    /// @param missing indices of who did not sign, one byte each, strictly increasing
    function submitBatch(
        bytes32 root,
        bytes32 contentHash,
        uint32 size,
        uint32 epoch,
        address aggregator,
        bytes calldata signature,
        bytes calldata missing
    ) external;

    /// @notice Executes a queued slash once its dispute window is over. Anyone may.
    function executeSlash(bytes32 taskId) external returns (uint256 amount);

    // --- reading ---
    /// @notice Everything that `submitTask` checks except that the task is not settled yet; reverts alike.
    function checkCertificate(TaskInfo calldata info, TaskSubmissionDetails calldata details)
        external
        view
        returns (bytes32 infoHash);

    /// @notice Whether a settled batch has this verdict. `proof` is that of OpenZeppelin's standard Merkle tree.
    function included(bytes32 root, bytes32 taskId, bytes32 infoHash, bool isApproved, bytes32[] calldata proof)
        external
        view
        returns (bool);

    /// @notice 0 not settled by itself, 1 approved, 2 rejected. Tasks inside a batch are answered by `included`.
    function verdictOf(bytes32 taskId) external view returns (uint8);
    function batchOf(bytes32 root) external view returns (Batch memory);
    function slashOf(bytes32 taskId) external view returns (Slash memory);
    function taskDefinition(uint16 taskDefinitionId) external view returns (TaskDefinition memory);
    function taskDefinitionCount() external view returns (uint256);

    function taskRequestHash(TaskRequest calldata request) external view returns (bytes32);
    function taskInfoHash(TaskInfo calldata info) external view returns (bytes32);
    function voteDigest(bytes32 infoHash, uint8 verdict) external view returns (bytes32);
    function batchDigest(bytes32 root, bytes32 contentHash, uint32 size, uint32 epoch, address aggregator)
        external
        view
        returns (bytes32);
    function domainSeparator() external view returns (bytes32);

    function registry() external view returns (IOperatorRegistry);
    function slashWad() external view returns (uint256);
    function disputeWindow() external view returns (uint64);
}
