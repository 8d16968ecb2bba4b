// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "../interfaces/IAttestationCenter.sol";

/// @title EIP-712 struct hashes of protocol §2
library Digests {
    bytes32 internal constant TASK_REQUEST_TYPEHASH = keccak256(
        "TaskRequest(address requester,uint256 nonce,address performer,uint16 taskDefinitionId,bytes32 modelHash,string inputCid,string parameters,bytes32 seed,uint256 fee,uint64 deadline)"
    );
    bytes32 internal constant TASK_INFO_TYPEHASH = keccak256(
        "TaskInfo(bytes32 taskId,string proofOfTask,bytes data,address taskPerformer,uint16 taskDefinitionId,uint32 epoch)"
    );
    bytes32 internal constant VOTE_TYPEHASH = keccak256("Vote(bytes32 taskInfoHash,uint8 verdict)");
    bytes32 internal constant BATCH_TYPEHASH =
        keccak256("Batch(bytes32 root,bytes32 contentHash,uint32 size,uint32 epoch,address aggregator)");
    bytes32 internal constant PROMISE_TYPEHASH = keccak256("Promise(bytes32 taskId)");
    bytes32 internal constant KEY_POSSESSION_TYPEHASH = keccak256("KeyPossession(address operator,bytes32 keyHash)");
    bytes32 internal constant CONSENT_TYPEHASH = keccak256("Consent(address operator,address owner)");
    bytes32 internal constant ALLOWANCE_TYPEHASH = keccak256("Allowance(address operator,uint256 nonce,uint64 expiry)");
    bytes32 internal constant CANCEL_SLASH_TYPEHASH = keccak256("CancelSlash(bytes32 slashId)");
    bytes32 internal constant OVERRULE_VETO_TYPEHASH = keccak256("OverruleVeto(bytes32 slashId)");

    function hashTaskRequest(IAttestationCenter.TaskRequest calldata request) internal pure returns (bytes32) {
        return keccak256(
            abi.encode(
                TASK_REQUEST_TYPEHASH,
                request.requester,
                request.nonce,
                request.performer,
                request.taskDefinitionId,
                request.modelHash,
                keccak256(bytes(request.inputCid)),
                keccak256(bytes(request.parameters)),
                request.seed,
                request.fee,
                request.deadline
            )
        );
    }

    function hashTaskInfo(IAttestationCenter.TaskInfo calldata info) internal pure returns (bytes32) {
        return keccak256(
            abi.encode(
                TASK_INFO_TYPEHASH,
                info.taskId,
                keccak256(bytes(info.proofOfTask)),
                keccak256(info.data),
                info.taskPerformer,
                info.taskDefinitionId,
                info.epoch
            )
        );
    }

    function hashVote(bytes32 taskInfoHash, uint8 verdict) internal pure returns (bytes32) {
        return keccak256(abi.encode(VOTE_TYPEHASH, taskInfoHash, verdict));
    }

    function hashBatch(bytes32 root, bytes32 contentHash, uint32 size, uint32 epoch, address aggregator)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(BATCH_TYPEHASH, root, contentHash, size, epoch, aggregator));
    }

    function hashPromise(bytes32 taskId) internal pure returns (bytes32) {
        return keccak256(abi.encode(PROMISE_TYPEHASH, taskId));
    }

    function hashKeyPossession(address operator, bytes32 keyHash) internal pure returns (bytes32) {
        return keccak256(abi.encode(KEY_POSSESSION_TYPEHASH, operator, keyHash));
    }

    function hashConsent(address operator, address owner) internal pure returns (bytes32) {
        return keccak256(abi.encode(CONSENT_TYPEHASH, operator, owner));
    }

    function hashAllowance(address operator, uint256 nonce, uint64 expiry) internal pure returns (bytes32) {
        return keccak256(abi.encode(ALLOWANCE_TYPEHASH, operator, nonce, expiry));
    }

    function hashCancelSlash(bytes32 slashId) internal pure returns (bytes32) {
        return keccak256(abi.encode(CANCEL_SLASH_TYPEHASH, slashId));
    }

    function hashOverruleVeto(bytes32 slashId) internal pure returns (bytes32) {
        return keccak256(abi.encode(OVERRULE_VETO_TYPEHASH, slashId));
    }

    /// @dev Who voted so, and in which table: what a reward is shared by.
    function hashVoters(uint32 epoch, uint32 attesterSet, bytes calldata indices) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(epoch, attesterSet, indices));
    }

    /// @dev Leaf of OpenZeppelin's standard Merkle tree; hashed twice, so that no inner node can pass for a leaf.
    function hashLeaf(bytes32 taskId, bytes32 taskInfoHash, bool isApproved, bytes32 votersHash)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(bytes.concat(keccak256(abi.encode(taskId, taskInfoHash, isApproved, votersHash))));
    }
}
