// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "./IAttestationCenter.sol";
import {IOperatorSource} from "./IOperatorSource.sol";
import {IQuorumVerifier} from "./IQuorumVerifier.sol";

/// @title Where offences are shown, wait, and are slashed
/// @notice Every slash rests on evidence that the contract itself checks, waits out its definition's dispute window, and
/// is then executed by anyone. What is slashed goes first to the requester whom the task harmed, up to the task's fee,
/// and the rest to the insurance vault.
///
/// A waiting slash is cancelled by a certificate of the full operator set (more than 2/3 of everybody's power), by the
/// guardian's veto, which is rationed, waits too, and can be overruled by the operators, or, for a missed deadline, by
/// showing the settled verdict.
interface ISlashingCourt {
    /// 1 %: voted against the verdict on a deterministic task. 10 %: performed a rejected task; broke a signed promise.
    /// 100 %: signed two votes on one task; signed a proof that names another model than the definition.
    enum Offence {
        OUTLIER,
        REJECTED_TASK,
        MISSED_DEADLINE,
        EQUIVOCATION,
        TAMPERING
    }

    enum State {
        NONE,
        WAITING,
        EXECUTED,
        CANCELLED
    }

    /// `requester` and `value` are known from the report, or from `nameHarmed`. `vetoDueAt` is 0 without a veto.
    struct Slash {
        bytes32 taskId;
        address operator;
        Offence offence;
        State state;
        uint64 executableAt;
        uint64 vetoDueAt;
        address requester;
        uint96 value;
    }

    /// A vote as its voter signed it: `verdict` 1 valid, 2 invalid.
    struct SignedVote {
        IAttestationCenter.TaskInfo info;
        uint8 verdict;
        uint16 seat;
    }

    event SlashQueued(
        bytes32 indexed slashId, bytes32 indexed taskId, address indexed operator, Offence offence, uint64 executableAt
    );
    event HarmedNamed(bytes32 indexed slashId, address indexed requester, uint256 value);
    event SlashExecuted(
        bytes32 indexed slashId,
        bytes32 indexed taskId,
        address indexed operator,
        uint256 amount,
        address requester,
        uint256 compensation
    );
    event SlashCancelled(bytes32 indexed slashId, address indexed operator);
    event VetoAnnounced(bytes32 indexed slashId, uint64 dueAt);
    event VetoOverruled(bytes32 indexed slashId);
    event DeliveryRecorded(bytes32 indexed taskId, address indexed performer, bytes32 taskInfoHash);
    event Paid(address indexed account, uint256 amount);

    error OnlyCenter(address caller);
    error OnlyGuardian(address caller);
    /// Coin comes from the operators, as slashes.
    error OnlyOperators(address caller);
    error AlreadyQueued(bytes32 slashId);
    error NotWaiting(bytes32 slashId, State state);
    error SlashNotDue(bytes32 slashId, uint64 executableAt);
    error VetoPending(bytes32 slashId, uint64 dueAt);
    error NoVeto(bytes32 slashId);
    /// A slash is vetoed once, even if the veto was overruled.
    error AlreadyVetoed(bytes32 slashId);
    error VetoNotDue(bytes32 slashId, uint64 dueAt);
    error TooLateForVeto(bytes32 slashId, uint64 executableAt);
    error VetoesUsedUp(uint64 nextAt);
    error RequestMismatch(bytes32 taskId);
    error HarmedAlreadyNamed(bytes32 slashId);
    /// The two votes are one vote, or are on different tasks.
    error NoEquivocation();
    error NotAnOutlier(bytes32 taskId);
    error OutliersNotSlashed(uint16 taskDefinitionId);
    error DeadlineNotMissed(bytes32 taskId, uint64 claimableAt);
    error ReportTooLate(bytes32 taskId, uint64 reportableUntil);
    /// Recorded as delivered, or settled.
    error AlreadyDelivered(bytes32 taskId);
    /// Only a missed deadline is refuted by a verdict.
    error WrongOffence(bytes32 slashId, Offence offence);
    error DeadlinePassed(bytes32 taskId, uint64 deadline);
    error PerformerSignatureMismatch(address performer);
    /// The bytes are not what the task info's CID names, or name the definition's own model at `offset`.
    error NoTampering(bytes32 taskId);
    error ProofTooLarge(uint256 size, uint256 maximum);
    error SignaturesLength(uint256 length);
    error NothingOwed(address account);
    error InvalidSetting(string name, uint256 value);

    // --- reports: anyone may, and each checks its evidence ---
    /// @notice Called by the center for a rejected task of a definition that slashes them. Center only.
    function queueRejected(bytes32 taskId, address performer, uint32 disputeWindow) external returns (bytes32 slashId);

    /// @param signatures 96 bytes, the sum of both votes' signatures, when seat and epoch are the same; else 192 bytes,
    /// one after the other
    function reportEquivocation(SignedVote calldata first, SignedVote calldata second, bytes calldata signatures)
        external
        returns (bytes32 slashId);

    /// @notice A vote against a settled verdict on the same task info, of a definition that slashes outliers.
    function reportOutlier(
        SignedVote calldata vote,
        bytes calldata signature,
        bytes32 votersHash,
        IAttestationCenter.SettlementProof calldata proof
    ) external returns (bytes32 slashId);

    /// @notice A promise (`promiseDigest`) whose task is neither settled by itself nor delivered, `ANSWER_SECONDS` after
    /// its deadline, and no later than `REPORT_SECONDS` after that. Who settled it in a batch answers by
    /// `refuteMissedDeadline`, once for the task.
    function reportMissedDeadline(IAttestationCenter.TaskRequest calldata request, bytes calldata performerSignature)
        external
        returns (bytes32 slashId);

    /// @notice A signed task info whose proof object names a model other than its definition's.
    /// @param proof the proof object's bytes, one raw block, whose CID is `info.proofOfTask`
    /// @param offset where in it `"modelHash":"0x…"` starts
    function reportTampering(
        IAttestationCenter.TaskInfo calldata info,
        bytes calldata performerSignature,
        bytes calldata proof,
        uint256 offset
    ) external returns (bytes32 slashId);

    // --- answers ---
    /// @notice Notes on chain, by the deadline, that the performer did its part, when the attesters do not answer it.
    function recordDelivery(
        IAttestationCenter.TaskRequest calldata request,
        IAttestationCenter.TaskInfo calldata info,
        bytes calldata performerSignature
    ) external;

    function refuteMissedDeadline(
        bytes32 slashId,
        bytes32 infoHash,
        bool isApproved,
        bytes32 votersHash,
        IAttestationCenter.SettlementProof calldata proof
    ) external;

    /// @notice Cancels by more than 2/3 of everybody's power over `cancelDigest`.
    function cancelSlash(bytes32 slashId, uint32 epoch, bytes calldata signature, bytes calldata missing) external;

    /// @notice Guardian only; at most MAX_VETOES in VETO_PERIOD, and only before the slash is due.
    function announceVeto(bytes32 slashId) external;

    /// @notice Takes a veto back by more than 2/3 of everybody's power over `overruleDigest`; a slash is vetoed once.
    function overruleVeto(bytes32 slashId, uint32 epoch, bytes calldata signature, bytes calldata missing) external;

    /// @notice Cancels a slash whose veto has waited `vetoDelay`. Anyone may.
    function executeVeto(bytes32 slashId) external;

    // --- execution ---
    /// @notice Names the requester that the task harmed: the task id is the request's digest. Anyone may, once, before
    /// the slash is executed.
    function nameHarmed(bytes32 slashId, IAttestationCenter.TaskRequest calldata request) external;

    /// @notice Anyone may, once the dispute window is over.
    function executeSlash(bytes32 slashId) external returns (uint256 amount);

    /// @notice Pays what is owed to a harmed requester or to the vault. Anyone may.
    function pay(address account) external returns (uint256 amount);

    // --- reading ---
    function slashIdOf(Offence offence, bytes32 taskId, address operator) external view returns (bytes32);
    function slashOf(bytes32 slashId) external view returns (Slash memory);
    function gradeOf(Offence offence) external pure returns (uint256 wad);
    function owedTo(address account) external view returns (uint256);
    function totalOwed() external view returns (uint256);
    function isDelivered(bytes32 taskId) external view returns (bool);
    function cancelDigest(bytes32 slashId) external view returns (bytes32);
    function overruleDigest(bytes32 slashId) external view returns (bytes32);
    function domainSeparator() external view returns (bytes32);
    function center() external view returns (IAttestationCenter);
    function operators() external view returns (IOperatorSource);
    function verifier() external view returns (IQuorumVerifier);
    function vault() external view returns (address);
    function guardian() external view returns (address);
    function vetoDelay() external view returns (uint64);
    /// @notice The longest dispute that a definition may have; no longer than the operators' unbonding.
    function longestDispute() external view returns (uint64);
}
