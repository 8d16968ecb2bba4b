// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IOperatorSource} from "./IOperatorSource.sol";
import {IQuorumVerifier} from "./IQuorumVerifier.sol";

/// @title Where verdicts settle
/// @notice Takes a quorum's verdict on one task, or on a Merkle batch of tasks, checks it by one pairing, and keeps it.
/// Money is the TaskEscrow's, slashing the SlashingCourt's.
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

    /// What a request costs, in base units of the escrow's token. The performer gets what the request's fee leaves
    /// after the other two, at least `performer`.
    struct Fees {
        uint80 performer;
        uint80 attesters;
        uint80 aggregator;
    }

    /// How tasks of a definition are settled. Immutable but for fees, hook and fee calculator, which change after a
    /// delay.
    struct TaskTerms {
        Fees fees;
        /// Whose votes count (IEpochTables); 0: everybody's.
        uint32 attesterSet;
        /// How far ahead a request's deadline may lie, in seconds.
        uint32 maximumDeadline;
        /// Seconds between an offence's report and its slash.
        uint32 disputeWindow;
        /// A verdict needs every vote, or the deadline to have passed; false: the strict quorum is enough.
        bool waitsForAll;
        /// Never in a batch: for definitions whose hooks have to run.
        bool settlesSingly;
        /// A rejected task queues a slash of its performer.
        bool slashesRejected;
        /// A vote against the verdict can be slashed: for deterministic methods only.
        bool slashesOutliers;
        /// IAvsLogic; zero: none.
        address hook;
        /// IFeeCalculator; zero: none.
        address feeCalculator;
    }

    /// `cardCid` names the method's parameters: the model card.
    struct TaskDefinition {
        string name;
        string method;
        bytes32 modelHash;
        string cardCid;
        bool isPaused;
        TaskTerms terms;
    }

    /// A settled batch; `size` is 0 for a root that never settled.
    struct Batch {
        uint32 size;
        uint32 epoch;
        address aggregator;
    }

    /// Where a task's verdict stands: by itself (`root` zero, `aggregator` who submitted it), or under a settled
    /// batch's root (`path`: the leaf's proof; `aggregator` is not read).
    struct SettlementProof {
        bytes32 root;
        address aggregator;
        bytes32[] path;
    }

    event TaskDefinitionCreated(
        uint16 indexed taskDefinitionId, string name, string method, bytes32 modelHash, string cardCid, TaskTerms terms
    );
    event TaskDefinitionPaused(uint16 indexed taskDefinitionId, bool isPaused);
    event TaskSubmitted(
        address indexed operator,
        bytes32 indexed taskId,
        string proofOfTask,
        bytes data,
        uint16 taskDefinitionId,
        bytes32 taskInfoHash,
        address aggregator,
        bytes indices
    );
    event TaskRejected(
        address indexed operator,
        bytes32 indexed taskId,
        string proofOfTask,
        bytes data,
        uint16 taskDefinitionId,
        bytes32 taskInfoHash,
        address aggregator,
        bytes indices
    );
    event BatchSettled(
        bytes32 indexed root, bytes32 contentHash, uint32 size, uint32 epoch, address indexed aggregator
    );
    /// A definition's hook reverted, or used up its gas; the settlement stands.
    event HookFailed(bytes32 indexed taskId, address hook, bool isBefore);
    event CourtSet(address court);

    error UnknownTaskDefinition(uint16 taskDefinitionId);
    error TooManyTaskDefinitions(uint256 maximum);
    error InvalidTerms(string name, uint256 value);
    error TaskAlreadySettled(bytes32 taskId);
    error NotPerformer(address performer);
    error PerformerSignatureMismatch(address performer, bytes32 taskInfoHash);
    /// The definition waits for all votes; `deadline` has not passed (0: it was not proven, give the request).
    error VotesMissing(bytes32 taskId, uint64 deadline);
    error RequestMismatch(bytes32 taskId);
    error EmptyBatch(bytes32 root);
    error BatchAlreadySettled(bytes32 root);
    error NotSettled(bytes32 taskId);
    /// Too little gas is left to give the hook all that it may use: whoever submits cannot starve it.
    error GasTooLow(uint256 left, uint256 needed);
    error OnlyDeployer(address caller);
    error CourtAlreadySet(address court);
    error CourtNotSet();
    error InvalidCourt(address court);
    error InvalidSetting(string name, uint256 value);

    /// @notice Adds a kind of task. Owner only. Ids count from 0, and 0 is a definition like any other.
    function createTaskDefinition(
        string calldata name,
        string calldata method,
        bytes32 modelHash,
        string calldata cardCid,
        TaskTerms calldata terms
    ) external returns (uint16 taskDefinitionId);

    /// @notice Asks performers and attesters to take no new tasks of this kind. What was certified settles all the
    /// same, or honest work would be lost. Pauser only.
    function pauseTaskDefinition(uint16 taskDefinitionId, bool isPaused) external;

    /// @notice Settles one task for ever, with the caller as its aggregator. Anyone may; the quorum's signature is what
    /// counts.
    function submitTask(TaskInfo calldata info, TaskSubmissionDetails calldata details) external;

    /// @notice The same for a definition that waits for all votes, after the deadline, which `request` proves.
    function submitTaskAfterDeadline(
        TaskInfo calldata info,
        TaskSubmissionDetails calldata details,
        TaskRequest calldata request
    ) external;

    /// @notice Settles a Merkle root over `size` certificates for ever. Signed by the quorum of everybody, whatever
    /// sets the tasks' definitions name: they checked each certificate.
    /// @param contentHash SHA-256 of the batch document: only the event keeps it
    /// @param signature packed G1 point, 96 bytes, over the batch digest
    /// @param missing indices of who did not sign, strictly increasing
    function submitBatch(
        bytes32 root,
        bytes32 contentHash,
        uint32 size,
        uint32 epoch,
        address aggregator,
        bytes calldata signature,
        bytes calldata missing
    ) external;

    /// @notice Names the contract that hears of rejections. Deployer only, once.
    function setCourt(address court) external;

    // --- reading ---
    /// @notice Everything that `submitTask` checks except that the task is not settled yet; reverts alike.
    function checkCertificate(TaskInfo calldata info, TaskSubmissionDetails calldata details)
        external
        view
        returns (bytes32 infoHash);

    /// @notice Whether a settled batch has this verdict. `proof` is that of OpenZeppelin's standard Merkle tree.
    function included(
        bytes32 root,
        bytes32 taskId,
        bytes32 infoHash,
        bool isApproved,
        bytes32 votersHash,
        bytes32[] calldata proof
    ) external view returns (bool);

    /// @notice Returns the aggregator of a settled verdict; reverts with NotSettled for any that is not.
    /// @param votersHash `votersHashOf` the certificate
    function requireSettled(
        bytes32 taskId,
        bytes32 infoHash,
        bool isApproved,
        bytes32 votersHash,
        SettlementProof calldata proof
    ) external view returns (address aggregator);

    /// @notice keccak256(epoch as 4 bytes ‖ attester set as 4 bytes ‖ indices): who voted so, in which table.
    function votersHashOf(uint32 epoch, uint32 attesterSet, bytes calldata indices) external pure returns (bytes32);

    /// @notice 0 not settled by itself, 1 approved, 2 rejected. Tasks inside a batch are answered by `included`.
    function verdictOf(bytes32 taskId) external view returns (uint8);

    /// @notice The first 31 bytes of keccak256(abi.encode(leaf, aggregator)), then the verdict; 0 when not settled by
    /// itself.
    function recordOf(bytes32 taskId) external view returns (bytes32);
    function batchOf(bytes32 root) external view returns (Batch memory);
    function taskDefinition(uint16 taskDefinitionId) external view returns (TaskDefinition memory);
    function taskDefinitionCount() external view returns (uint256);

    function taskRequestHash(TaskRequest calldata request) external view returns (bytes32);
    function taskInfoHash(TaskInfo calldata info) external view returns (bytes32);
    function voteDigest(bytes32 infoHash, uint8 verdict) external view returns (bytes32);
    function batchDigest(bytes32 root, bytes32 contentHash, uint32 size, uint32 epoch, address aggregator)
        external
        view
        returns (bytes32);
    /// @notice What a performer signs to accept a request; a promise that was not kept can be slashed.
    function promiseDigest(bytes32 taskId) external view returns (bytes32);
    function domainSeparator() external view returns (bytes32);

    function verifier() external view returns (IQuorumVerifier);
    function operators() external view returns (IOperatorSource);
    function court() external view returns (address);
}
