// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";

import {IAttestationCenter} from "./interfaces/IAttestationCenter.sol";
import {IOperatorRegistry} from "./interfaces/IOperatorRegistry.sol";
import {Digests} from "./libraries/Digests.sol";

/// @title Where verdicts settle
/// @notice See IAttestationCenter and protocol §8. The owner names kinds of tasks and can do nothing else: no verdict,
/// stake or setting is in reach of any key.
/// @dev `submitTask` does not bound `proofOfTask` and `data`: a quorum signed them, and attesters sign nothing over the
/// limits of protocol §4. A second bound here could only make a certificate that cannot settle.
contract AttestationCenter is IAttestationCenter, EIP712, Ownable2Step {
    // --- constants ---------------------------------------------------------------------------------------------------

    uint8 private constant VALID = 1;
    uint8 private constant INVALID = 2;
    uint8 private constant PERFORMER = 1;
    uint256 private constant WAD = 1e18;

    // --- storage -----------------------------------------------------------------------------------------------------

    /// @inheritdoc IAttestationCenter
    IOperatorRegistry public immutable registry;
    /// @inheritdoc IAttestationCenter
    uint256 public immutable slashWad;
    /// @inheritdoc IAttestationCenter
    uint64 public immutable disputeWindow;

    TaskDefinition[] private _definitions;
    /// @inheritdoc IAttestationCenter
    mapping(bytes32 taskId => uint8 verdict) public verdictOf;
    mapping(bytes32 root => Batch) private _batches;
    mapping(bytes32 taskId => Slash) private _slashes;

    // --- constructor -------------------------------------------------------------------------------------------------

    /// @param slashWad_ share of a rejected performer's stake, 1e18 = all
    /// @param disputeWindow_ seconds between a rejection and its slash; no longer than the registry's exit takes, or
    /// the rejected could leave first
    constructor(IOperatorRegistry registry_, address owner_, uint256 slashWad_, uint64 disputeWindow_)
        EIP712("ProofOfInference", "1")
        Ownable(owner_)
    {
        if (slashWad_ == 0 || slashWad_ > WAD) revert InvalidSetting("slashWad", slashWad_);
        if (disputeWindow_ == 0 || disputeWindow_ > registry_.unbondingSeconds()) {
            revert InvalidSetting("disputeWindow", disputeWindow_);
        }
        registry = registry_;
        slashWad = slashWad_;
        disputeWindow = disputeWindow_;
    }

    // --- task definitions --------------------------------------------------------------------------------------------

    /// @inheritdoc IAttestationCenter
    function createTaskDefinition(
        string calldata name,
        string calldata method,
        bytes32 modelHash,
        string calldata cardCid
    ) external onlyOwner returns (uint16 taskDefinitionId) {
        if (_definitions.length > type(uint16).max) {
            revert TooManyTaskDefinitions(uint256(type(uint16).max) + 1);
        }
        taskDefinitionId = uint16(_definitions.length);
        _definitions.push(TaskDefinition({name: name, method: method, modelHash: modelHash, cardCid: cardCid}));
        emit TaskDefinitionCreated(taskDefinitionId, name, method, modelHash, cardCid);
    }

    /// @inheritdoc IAttestationCenter
    function taskDefinition(uint16 taskDefinitionId) external view returns (TaskDefinition memory) {
        if (taskDefinitionId >= _definitions.length) revert UnknownTaskDefinition(taskDefinitionId);
        return _definitions[taskDefinitionId];
    }

    /// @inheritdoc IAttestationCenter
    function taskDefinitionCount() external view returns (uint256) {
        return _definitions.length;
    }

    // --- settling ----------------------------------------------------------------------------------------------------

    /// @inheritdoc IAttestationCenter
    function submitTask(TaskInfo calldata info, TaskSubmissionDetails calldata details) external {
        if (verdictOf[info.taskId] != 0) revert TaskAlreadySettled(info.taskId);
        bytes32 infoHash = checkCertificate(info, details);
        if (details.isApproved) {
            verdictOf[info.taskId] = VALID;
            emit TaskSubmitted(
                info.taskPerformer,
                info.taskId,
                info.proofOfTask,
                info.data,
                info.taskDefinitionId,
                infoHash,
                details.indices
            );
        } else {
            verdictOf[info.taskId] = INVALID;
            emit TaskRejected(
                info.taskPerformer,
                info.taskId,
                info.proofOfTask,
                info.data,
                info.taskDefinitionId,
                infoHash,
                details.indices
            );
            _queueSlash(info.taskId, info.taskPerformer);
        }
    }

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
        registry.verifyQuorum(batchDigest(root, contentHash, size, epoch, aggregator), epoch, true, signature, missing);
        _batches[root] = Batch({size: size, epoch: epoch, aggregator: aggregator});
        emit BatchSettled(root, contentHash, size, epoch, aggregator);
    }

    /// @inheritdoc IAttestationCenter
    function checkCertificate(TaskInfo calldata info, TaskSubmissionDetails calldata details)
        public
        view
        returns (bytes32 infoHash)
    {
        if (info.taskDefinitionId >= _definitions.length) revert UnknownTaskDefinition(info.taskDefinitionId);
        if (registry.rolesOf(info.taskPerformer) & PERFORMER == 0) revert NotPerformer(info.taskPerformer);
        infoHash = taskInfoHash(info);
        _requirePerformerSigned(info.taskPerformer, infoHash, details.tpSignature);
        bytes32 digest = voteDigest(infoHash, details.isApproved ? VALID : INVALID);
        registry.verifyQuorum(digest, info.epoch, details.isApproved, details.taSignature, details.indices);
    }

    /// @inheritdoc IAttestationCenter
    function included(bytes32 root, bytes32 taskId, bytes32 infoHash, bool isApproved, bytes32[] calldata proof)
        external
        view
        returns (bool)
    {
        if (_batches[root].size == 0) return false;
        return MerkleProof.verifyCalldata(proof, root, Digests.hashLeaf(taskId, infoHash, isApproved));
    }

    /// @inheritdoc IAttestationCenter
    function batchOf(bytes32 root) external view returns (Batch memory) {
        return _batches[root];
    }

    /// @dev Without it a quorum could be made to reject, and a slash be queued for, what nobody published.
    function _requirePerformerSigned(address performer, bytes32 infoHash, bytes calldata signature) private pure {
        (address signer, ECDSA.RecoverError problem,) = ECDSA.tryRecoverCalldata(infoHash, signature);
        if (problem != ECDSA.RecoverError.NoError || signer != performer) {
            revert PerformerSignatureMismatch(performer, infoHash);
        }
    }

    // --- slashing ----------------------------------------------------------------------------------------------------

    function _queueSlash(bytes32 taskId, address operator) private {
        uint64 executableAt = uint64(block.timestamp) + disputeWindow;
        _slashes[taskId] = Slash({operator: operator, executableAt: executableAt, isExecuted: false});
        emit SlashQueued(taskId, operator, executableAt);
        registry.queueSlash(operator);
    }

    /// @inheritdoc IAttestationCenter
    function executeSlash(bytes32 taskId) external returns (uint256 amount) {
        Slash storage queued = _slashes[taskId];
        if (queued.operator == address(0)) revert NoSlashQueued(taskId);
        if (queued.isExecuted) revert SlashAlreadyExecuted(taskId);
        if (block.timestamp < queued.executableAt) revert SlashNotDue(taskId, queued.executableAt);
        queued.isExecuted = true;
        amount = registry.slash(queued.operator, slashWad);
        emit SlashExecuted(taskId, queued.operator, amount);
    }

    /// @inheritdoc IAttestationCenter
    function slashOf(bytes32 taskId) external view returns (Slash memory) {
        return _slashes[taskId];
    }

    // --- digests -----------------------------------------------------------------------------------------------------

    /// @inheritdoc IAttestationCenter
    function taskRequestHash(TaskRequest calldata request) external view returns (bytes32) {
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
    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }
}
