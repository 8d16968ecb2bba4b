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
    bytes32 internal constant KEY_POSSESSION_TYPEHASH = keccak256("KeyPossession(address operator,bytes32 keyHash)");

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

    function hashKeyPossession(address operator, bytes32 keyHash) internal pure returns (bytes32) {
        return keccak256(abi.encode(KEY_POSSESSION_TYPEHASH, operator, keyHash));
    }

    /// @dev Leaf of OpenZeppelin's standard Merkle tree; hashed twice, so that no inner node can pass for a leaf.
    function hashLeaf(bytes32 taskId, bytes32 taskInfoHash, bool isApproved) internal pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(taskId, taskInfoHash, isApproved))));
    }
}
