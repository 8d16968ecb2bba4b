// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

import {SlashQueue} from "./SlashQueue.sol";
import {Vetoes} from "./Vetoes.sol";
import {IAttestationCenter} from "./interfaces/IAttestationCenter.sol";
import {ISlashingCourt} from "./interfaces/ISlashingCourt.sol";
import {Cids} from "./libraries/Cids.sol";
import {Digests} from "./libraries/Digests.sol";
import {ProofObject} from "./libraries/ProofObject.sol";

/// @title Where offences are shown, wait, and are slashed
/// @notice See ISlashingCourt and protocol §8.3. This file is the evidence: what only the accused's own signature, or a
/// quorum's, can show. Nobody else's word counts, so it does not matter who reports.
contract SlashingCourt is Vetoes {
    uint8 private constant VALID = 1;
    uint8 private constant INVALID = 2;
    uint256 private constant SIGNATURE_SIZE = 96;

    /// How long after a task's deadline its settlement may still come before the promise counts as broken, in seconds.
    uint64 public constant ANSWER_SECONDS = 1 hours;
    /// How long after that a broken promise can be reported, in seconds. What a batch settled can be reported too, and has
    /// to be refuted: nobody should have to keep every proof, and watch for such reports, for ever.
    uint64 public constant REPORT_SECONDS = 7 days;
    /// More than that no longer fits into a transaction: calldata costs at least 40 gas a byte (EIP-7623), and a
    /// transaction has at most 2^24 (EIP-7825).
    uint256 public constant MAX_PROOF_SIZE = 256 * 1024;

    /// @inheritdoc ISlashingCourt
    mapping(bytes32 taskId => bool) public isDelivered;

    constructor(
        IAttestationCenter center_,
        address vault_,
        uint64 vetoDelay_,
        uint64 longestDispute_,
        address owner_,
        uint64 changeDelay_
    ) SlashQueue(center_, vault_, longestDispute_) Vetoes(vetoDelay_, owner_, changeDelay_) {}

    // --- rejected task -----------------------------------------------------------------------------------------------

    /// @inheritdoc ISlashingCourt
    /// @dev Refuses nothing that the center may send: that would block the settlement. The center settles a task once
    /// and bounds the window.
    function queueRejected(bytes32 taskId, address performer, uint32 disputeWindow) external returns (bytes32 slashId) {
        if (msg.sender != address(center)) revert OnlyCenter(msg.sender);
        return _queue(Offence.REJECTED_TASK, taskId, performer, disputeWindow);
    }

    // --- votes -------------------------------------------------------------------------------------------------------

    /// @inheritdoc ISlashingCourt
    /// @dev The window is that of the first vote's definition: the two may differ, and only one of them need exist.
    function reportEquivocation(SignedVote calldata first, SignedVote calldata second, bytes calldata signatures)
        external
        returns (bytes32 slashId)
    {
        bytes32 taskId = first.info.taskId;
        (bytes32 firstDigest, bytes32 secondDigest) = (_digestOf(first), _digestOf(second));
        if (taskId != second.info.taskId || firstDigest == secondDigest) revert NoEquivocation();
        if (!_isVerdict(first.verdict) || !_isVerdict(second.verdict)) revert NoEquivocation();
        bool isOneSeat = first.seat == second.seat && first.info.epoch == second.info.epoch;
        if (signatures.length != (isOneSeat ? SIGNATURE_SIZE : 2 * SIGNATURE_SIZE)) {
            revert SignaturesLength(signatures.length);
        }
        address operator = isOneSeat
            ? verifier.verifyBothVotes(firstDigest, secondDigest, first.info.epoch, first.seat, signatures)
            : _voterOf(first, firstDigest, signatures[:SIGNATURE_SIZE]);
        // In another table an operator may have another key, or another seat.
        if (!isOneSeat && operator != _voterOf(second, secondDigest, signatures[SIGNATURE_SIZE:])) {
            revert NoEquivocation();
        }
        return _queue(Offence.EQUIVOCATION, taskId, operator, _termsOf(first.info.taskDefinitionId).disputeWindow);
    }

    /// @inheritdoc ISlashingCourt
    function reportOutlier(
        SignedVote calldata vote,
        bytes calldata signature,
        bytes32 votersHash,
        IAttestationCenter.SettlementProof calldata proof
    ) external returns (bytes32 slashId) {
        bytes32 taskId = vote.info.taskId;
        IAttestationCenter.TaskTerms memory terms = _termsOf(vote.info.taskDefinitionId);
        if (!terms.slashesOutliers) revert OutliersNotSlashed(vote.info.taskDefinitionId);
        if (!_isVerdict(vote.verdict) || center.verdictOf(taskId) == vote.verdict) revert NotAnOutlier(taskId);
        center.requireSettled(taskId, _infoHashOf(vote.info), vote.verdict == INVALID, votersHash, proof);
        address operator = _voterOf(vote, _digestOf(vote), signature);
        return _queue(Offence.OUTLIER, taskId, operator, terms.disputeWindow);
    }

    function _voterOf(SignedVote calldata vote, bytes32 digest, bytes calldata signature)
        private
        view
        returns (address operator)
    {
        return verifier.verifyVote(digest, vote.info.epoch, vote.seat, signature);
    }

    function _digestOf(SignedVote calldata vote) private view returns (bytes32) {
        return _centerDigest(Digests.hashVote(_infoHashOf(vote.info), vote.verdict));
    }

    function _isVerdict(uint8 verdict) private pure returns (bool) {
        return verdict == VALID || verdict == INVALID;
    }

    // --- promises ----------------------------------------------------------------------------------------------------

    /// @inheritdoc ISlashingCourt
    function reportMissedDeadline(IAttestationCenter.TaskRequest calldata request, bytes calldata performerSignature)
        external
        returns (bytes32 slashId)
    {
        bytes32 taskId = _taskIdOf(request);
        _requireSigned(request.performer, _centerDigest(Digests.hashPromise(taskId)), performerSignature);
        uint256 claimableAt = uint256(request.deadline) + ANSWER_SECONDS;
        if (block.timestamp <= claimableAt) {
            revert DeadlineNotMissed(taskId, claimableAt > type(uint64).max ? type(uint64).max : uint64(claimableAt));
        }
        uint256 reportableUntil = claimableAt + REPORT_SECONDS;
        if (block.timestamp > reportableUntil) revert ReportTooLate(taskId, uint64(reportableUntil));
        if (isDelivered[taskId] || center.verdictOf(taskId) != 0) revert AlreadyDelivered(taskId);
        uint32 window = _termsOf(request.taskDefinitionId).disputeWindow;
        slashId = _queue(Offence.MISSED_DEADLINE, taskId, request.performer, window);
        _name(slashId, request);
    }

    /// @inheritdoc ISlashingCourt
    function recordDelivery(
        IAttestationCenter.TaskRequest calldata request,
        IAttestationCenter.TaskInfo calldata info,
        bytes calldata performerSignature
    ) external {
        bytes32 taskId = _taskIdOf(request);
        if (
            info.taskId != taskId || info.taskPerformer != request.performer
                || info.taskDefinitionId != request.taskDefinitionId
        ) revert RequestMismatch(taskId);
        if (block.timestamp > request.deadline) revert DeadlinePassed(taskId, request.deadline);
        if (isDelivered[taskId]) revert AlreadyDelivered(taskId);
        bytes32 infoHash = _infoHashOf(info);
        _requireSigned(request.performer, infoHash, performerSignature);
        isDelivered[taskId] = true;
        emit DeliveryRecorded(taskId, request.performer, infoHash);
    }

    /// @inheritdoc ISlashingCourt
    function refuteMissedDeadline(
        bytes32 slashId,
        bytes32 infoHash,
        bool isApproved,
        bytes32 votersHash,
        IAttestationCenter.SettlementProof calldata proof
    ) external {
        Slash storage slash = _waiting(slashId);
        // A verdict answers no other offence.
        if (slash.offence != Offence.MISSED_DEADLINE) revert WrongOffence(slashId, slash.offence);
        center.requireSettled(slash.taskId, infoHash, isApproved, votersHash, proof);
        _cancel(slashId, slash);
    }

    // --- tampering ---------------------------------------------------------------------------------------------------

    /// @inheritdoc ISlashingCourt
    function reportTampering(
        IAttestationCenter.TaskInfo calldata info,
        bytes calldata performerSignature,
        bytes calldata proof,
        uint256 offset
    ) external returns (bytes32 slashId) {
        if (proof.length > MAX_PROOF_SIZE) {
            revert ProofTooLarge(proof.length, MAX_PROOF_SIZE);
        }
        _requireSigned(info.taskPerformer, _infoHashOf(info), performerSignature);
        if (keccak256(Cids.ofRawBlock(sha256(proof))) != keccak256(bytes(info.proofOfTask))) {
            revert NoTampering(info.taskId);
        }
        IAttestationCenter.TaskDefinition memory definition = center.taskDefinition(info.taskDefinitionId);
        (bool isFound, bytes32 modelHash) = ProofObject.modelHashAt(proof, offset);
        if (!isFound || modelHash == definition.modelHash) revert NoTampering(info.taskId);
        return _queue(Offence.TAMPERING, info.taskId, info.taskPerformer, definition.terms.disputeWindow);
    }

    // --- inside ------------------------------------------------------------------------------------------------------

    function _infoHashOf(IAttestationCenter.TaskInfo calldata info) private view returns (bytes32) {
        return _centerDigest(Digests.hashTaskInfo(info));
    }

    /// @dev Reverts with UnknownTaskDefinition for an id that has none.
    function _termsOf(uint16 taskDefinitionId) private view returns (IAttestationCenter.TaskTerms memory) {
        return center.taskDefinition(taskDefinitionId).terms;
    }

    function _requireSigned(address performer, bytes32 digest, bytes calldata signature) private pure {
        (address signer, ECDSA.RecoverError problem,) = ECDSA.tryRecoverCalldata(digest, signature);
        if (problem != ECDSA.RecoverError.NoError || signer != performer) revert PerformerSignatureMismatch(performer);
    }
}
