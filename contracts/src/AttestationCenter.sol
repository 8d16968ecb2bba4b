// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";

import {Governed} from "./Governed.sol";
import {TaskDefinitions} from "./TaskDefinitions.sol";
import {IAttestationCenter} from "./interfaces/IAttestationCenter.sol";
import {IAvsLogic} from "./interfaces/IAvsLogic.sol";
import {IEpochTables} from "./interfaces/IEpochTables.sol";
import {IOperatorSource} from "./interfaces/IOperatorSource.sol";
import {IQuorumVerifier} from "./interfaces/IQuorumVerifier.sol";
import {ISlashingCourt} from "./interfaces/ISlashingCourt.sol";
import {Digests} from "./libraries/Digests.sol";

/// @title Where verdicts settle
/// @notice See IAttestationCenter and protocol §8.1. No verdict, stake or fee is in reach of any role.
/// @dev `submitTask` does not bound `proofOfTask` and `data`: a quorum signed them, and attesters sign nothing over the
/// limits of protocol §4. A second bound here could only make a certificate that cannot settle.
contract AttestationCenter is TaskDefinitions, EIP712 {
    // --- constants ---------------------------------------------------------------------------------------------------

    uint8 private constant VALID = 1;
    uint8 private constant INVALID = 2;
    uint8 private constant PERFORMER = 1;
    uint256 private constant VERDICT_MASK = 0xff;

    /// What each of a hook's two calls may use, and is sure to get.
    uint256 public constant HOOK_GAS = 200_000;
    /// A call passes on at most 63/64 of what is left after its own price (EIP-150). That price is 2,600 for a cold
    /// account, twice for one that delegates (EIP-7702); the rest is room for dearer ones.
    uint256 private constant HOOK_CALL_GAS = 10_000;
    uint256 private constant GAS_BEFORE_HOOK = HOOK_GAS + HOOK_GAS / 63 + 1 + HOOK_CALL_GAS;

    // --- storage -----------------------------------------------------------------------------------------------------

    /// @inheritdoc IAttestationCenter
    IQuorumVerifier public immutable verifier;
    /// @inheritdoc IAttestationCenter
    IOperatorSource public immutable operators;
    address private immutable _deployer;

    /// @inheritdoc IAttestationCenter
    address public court;
    /// @inheritdoc IAttestationCenter
    mapping(bytes32 taskId => bytes32) public recordOf;
    mapping(bytes32 root => Batch) private _batches;
    /// The task whose hook hears that it is about to settle. It has been checked and has no record yet, so a hook that
    /// comes back with the certificate it was shown must not settle it first, in its own name.
    bytes32 private transient _settling;

    // --- constructor -------------------------------------------------------------------------------------------------

    constructor(IQuorumVerifier verifier_, IOperatorSource operators_, address owner_, uint64 changeDelay_)
        EIP712("ProofOfInference", "1")
        Governed(owner_, changeDelay_)
    {
        if (address(verifier_).code.length == 0) revert InvalidSetting("verifier", uint160(address(verifier_)));
        if (address(operators_).code.length == 0) revert InvalidSetting("operators", uint160(address(operators_)));
        verifier = verifier_;
        operators = operators_;
        _deployer = msg.sender;
    }

    /// @inheritdoc IAttestationCenter
    function setCourt(address court_) external {
        if (msg.sender != _deployer) revert OnlyDeployer(msg.sender);
        if (court != address(0)) revert CourtAlreadySet(court);
        if (court_.code.length == 0) revert InvalidCourt(court_);
        ISlashingCourt candidate = ISlashingCourt(court_);
        // The rejected must not be able to leave before their dispute is over.
        bool isTooSlow = candidate.longestDispute() > operators.unbondingSeconds();
        if (address(candidate.center()) != address(this) || isTooSlow) revert InvalidCourt(court_);
        court = court_;
        emit CourtSet(court_);
    }

    /// @inheritdoc TaskDefinitions
    function _longestDispute() internal view override returns (uint256) {
        if (court == address(0)) revert CourtNotSet();
        return ISlashingCourt(court).longestDispute();
    }

    /// @inheritdoc TaskDefinitions
    function _requireAttesterSet(uint32 attesterSet) internal view override {
        IEpochTables(address(verifier)).attesterSet(attesterSet);
    }

    // --- single tasks ------------------------------------------------------------------------------------------------

    /// @inheritdoc IAttestationCenter
    function submitTask(TaskInfo calldata info, TaskSubmissionDetails calldata details) external {
        _settle(info, details, false);
    }

    /// @inheritdoc IAttestationCenter
    function submitTaskAfterDeadline(
        TaskInfo calldata info,
        TaskSubmissionDetails calldata details,
        TaskRequest calldata request
    ) external {
        if (taskRequestHash(request) != info.taskId) {
            revert RequestMismatch(info.taskId);
        }
        if (block.timestamp <= request.deadline) revert VotesMissing(info.taskId, request.deadline);
        _settle(info, details, true);
    }

    function _settle(TaskInfo calldata info, TaskSubmissionDetails calldata details, bool isLate) private {
        bytes32 taskId = info.taskId;
        if (recordOf[taskId] != 0 || _settling == taskId) revert TaskAlreadySettled(taskId);
        (bytes32 infoHash, Rules memory rules) = _check(info, details, isLate);
        if (rules.hook != address(0)) {
            _settling = taskId;
            _callHook(rules.hook, true, info, details);
            _settling = 0;
        }
        _record(infoHash, rules.attesterSet, info, details);
        if (!details.isApproved && rules.slashesRejected) {
            ISlashingCourt(court).queueRejected(taskId, info.taskPerformer, rules.disputeWindow);
        }
        if (rules.hook != address(0)) _callHook(rules.hook, false, info, details);
    }

    function _record(
        bytes32 infoHash,
        uint32 attesterSet,
        TaskInfo calldata info,
        TaskSubmissionDetails calldata details
    ) private {
        bytes32 votersHash = Digests.hashVoters(info.epoch, attesterSet, details.indices);
        bytes32 leaf = Digests.hashLeaf(info.taskId, infoHash, details.isApproved, votersHash);
        recordOf[info.taskId] = _recordFor(leaf, msg.sender, _verdict(details.isApproved));
        if (details.isApproved) {
            emit TaskSubmitted(
                info.taskPerformer,
                info.taskId,
                info.proofOfTask,
                info.data,
                info.taskDefinitionId,
                infoHash,
                msg.sender,
                details.indices
            );
        } else {
            emit TaskRejected(
                info.taskPerformer,
                info.taskId,
                info.proofOfTask,
                info.data,
                info.taskDefinitionId,
                infoHash,
                msg.sender,
                details.indices
            );
        }
    }

    // --- certificates ------------------------------------------------------------------------------------------------

    /// @inheritdoc IAttestationCenter
    function checkCertificate(TaskInfo calldata info, TaskSubmissionDetails calldata details)
        external
        view
        returns (bytes32 infoHash)
    {
        (infoHash,) = _check(info, details, false);
    }

    function _check(TaskInfo calldata info, TaskSubmissionDetails calldata details, bool isLate)
        private
        view
        returns (bytes32 infoHash, Rules memory rules)
    {
        rules = _rulesOf(info.taskDefinitionId);
        if (operators.rolesOf(info.taskPerformer) & PERFORMER == 0) revert NotPerformer(info.taskPerformer);
        infoHash = taskInfoHash(info);
        _requirePerformerSigned(info.taskPerformer, infoHash, details.tpSignature);
        uint256 power = verifier.verifyQuorum(
            voteDigest(infoHash, _verdict(details.isApproved)),
            info.epoch,
            rules.attesterSet,
            details.isApproved,
            details.taSignature,
            details.indices
        );
        if (rules.waitsForAll && !isLate) _requireAllVoted(info, rules.attesterSet, power);
    }

    /// @dev Without it a quorum could be made to reject, and a slash be queued for, what nobody published.
    function _requirePerformerSigned(address performer, bytes32 infoHash, bytes calldata signature) private pure {
        (address signer, ECDSA.RecoverError problem,) = ECDSA.tryRecoverCalldata(infoHash, signature);
        if (problem != ECDSA.RecoverError.NoError || signer != performer) {
            revert PerformerSignatureMismatch(performer, infoHash);
        }
    }

    /// @dev An approval's voters with nobody missing are all there are.
    function _requireAllVoted(TaskInfo calldata info, uint32 attesterSet, uint256 power) private view {
        (,, uint256 total) = verifier.shareOf(info.epoch, attesterSet, true, "", 0);
        if (power != total) revert VotesMissing(info.taskId, 0);
    }

    // --- hooks -------------------------------------------------------------------------------------------------------

    /// @dev A hook answers for nothing: it may fail, use up its gas or return much, and the settlement goes on. What
    /// comes after it may run out of gas, but then everything is undone, the hook's doings included: nobody gains by
    /// submitting with little gas.
    function _callHook(address hook, bool isBefore, TaskInfo calldata info, TaskSubmissionDetails calldata details)
        private
    {
        bytes memory message = abi.encodeWithSelector(
            isBefore ? IAvsLogic.beforeTaskSubmission.selector : IAvsLogic.afterTaskSubmission.selector,
            info,
            details.isApproved,
            details.tpSignature,
            details.taSignature,
            details.indices
        );
        if (gasleft() < GAS_BEFORE_HOOK) revert GasTooLow(gasleft(), GAS_BEFORE_HOOK);
        // No answer is copied: a long one would be paid by whoever submits.
        bool isDone;
        assembly ("memory-safe") {
            isDone := call(HOOK_GAS, hook, 0, add(message, 32), mload(message), 0, 0)
        }
        if (!isDone) emit HookFailed(info.taskId, hook, isBefore);
    }

    // --- batches -----------------------------------------------------------------------------------------------------

    /// @inheritdoc IAttestationCenter
    function submitBatch(
        bytes32 root,
        bytes32 contentHash,
        uint32 size,
        uint32 epoch,
        address aggregator,
        bytes calldata signature,
        bytes calldata missing
    ) external {
        if (size == 0) revert EmptyBatch(root);
        if (_batches[root].size != 0) revert BatchAlreadySettled(root);
        bytes32 digest = batchDigest(root, contentHash, size, epoch, aggregator);
        verifier.verifyQuorum(digest, epoch, 0, true, signature, missing);
        _batches[root] = Batch({size: size, epoch: epoch, aggregator: aggregator});
        emit BatchSettled(root, contentHash, size, epoch, aggregator);
    }

    // --- reading -----------------------------------------------------------------------------------------------------

    /// @inheritdoc IAttestationCenter
    function included(
        bytes32 root,
        bytes32 taskId,
        bytes32 infoHash,
        bool isApproved,
        bytes32 votersHash,
        bytes32[] calldata proof
    ) external view returns (bool) {
        if (_batches[root].size == 0) return false;
        return MerkleProof.verifyCalldata(proof, root, Digests.hashLeaf(taskId, infoHash, isApproved, votersHash));
    }

    /// @inheritdoc IAttestationCenter
    function requireSettled(
        bytes32 taskId,
        bytes32 infoHash,
        bool isApproved,
        bytes32 votersHash,
        SettlementProof calldata proof
    ) external view returns (address aggregator) {
        bytes32 leaf = Digests.hashLeaf(taskId, infoHash, isApproved, votersHash);
        bool isSettled;
        if (proof.root == 0) {
            aggregator = proof.aggregator;
            isSettled = recordOf[taskId] == _recordFor(leaf, aggregator, _verdict(isApproved));
        } else {
            Batch memory batch = _batches[proof.root];
            aggregator = batch.aggregator;
            isSettled = batch.size != 0 && MerkleProof.verifyCalldata(proof.path, proof.root, leaf);
        }
        if (!isSettled) revert NotSettled(taskId);
    }

    /// @inheritdoc IAttestationCenter
    function verdictOf(bytes32 taskId) external view returns (uint8) {
        return uint8(uint256(recordOf[taskId]));
    }

    /// @inheritdoc IAttestationCenter
    function batchOf(bytes32 root) external view returns (Batch memory) {
        return _batches[root];
    }

    /// @dev Never 0: it ends in the verdict.
    function _recordFor(bytes32 leaf, address aggregator, uint8 verdict) private pure returns (bytes32) {
        return bytes32(uint256(keccak256(abi.encode(leaf, aggregator))) & ~VERDICT_MASK | verdict);
    }

    function _verdict(bool isApproved) private pure returns (uint8) {
        return isApproved ? VALID : INVALID;
    }

    // --- digests -----------------------------------------------------------------------------------------------------

    /// @inheritdoc IAttestationCenter
    function votersHashOf(uint32 epoch, uint32 attesterSet, bytes calldata indices) external pure returns (bytes32) {
        return Digests.hashVoters(epoch, attesterSet, indices);
    }

    /// @inheritdoc IAttestationCenter
    function taskRequestHash(TaskRequest calldata request) public view returns (bytes32) {
        return _hashTypedDataV4(Digests.hashTaskRequest(request));
    }

    /// @inheritdoc IAttestationCenter
    function taskInfoHash(TaskInfo calldata info) public view returns (bytes32) {
        return _hashTypedDataV4(Digests.hashTaskInfo(info));
    }

    /// @inheritdoc IAttestationCenter
    function voteDigest(bytes32 infoHash, uint8 verdict) public view returns (bytes32) {
        return _hashTypedDataV4(Digests.hashVote(infoHash, verdict));
    }

    /// @inheritdoc IAttestationCenter
    function batchDigest(bytes32 root, bytes32 contentHash, uint32 size, uint32 epoch, address aggregator)
        public
        view
        returns (bytes32)
    {
        return _hashTypedDataV4(Digests.hashBatch(root, contentHash, size, epoch, aggregator));
    }

    /// @inheritdoc IAttestationCenter
    function promiseDigest(bytes32 taskId) external view returns (bytes32) {
        return _hashTypedDataV4(Digests.hashPromise(taskId));
    }

    /// @inheritdoc IAttestationCenter
    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }
}
