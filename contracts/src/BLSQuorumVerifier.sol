// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IQuorumVerifier} from "./interfaces/IQuorumVerifier.sol";
import {BLS12381} from "./libraries/BLS12381.sol";
import {OperatorTable} from "./libraries/OperatorTable.sol";

/// @title Strict quorum by one BLS12-381 pairing
/// @notice Sums nothing that is known: an approval takes the missing out of the stored aggregate key, a rejection
/// starts from nobody and adds the signers. Cost grows with the missing, not with the signers.
abstract contract BLSQuorumVerifier is IQuorumVerifier {
    // A quorum is strictly more than numerator / 3 of the power, in exact integers (protocol §3).
    uint256 private constant QUORUM_DENOMINATOR = 3;
    uint256 private constant APPROVE_NUMERATOR = 2;
    uint256 private constant REJECT_NUMERATOR = 1;

    /// A chain without EIP-2537 answers its addresses with success and nothing: refuse it before a stake is taken.
    constructor() {
        BLS12381.requirePrecompiles();
    }

    /// @dev The page of a valid epoch's table; reverts with UnknownEpoch.
    function _tableAt(uint32 epoch) internal view virtual returns (address);

    /// @inheritdoc IQuorumVerifier
    function verifyQuorum(
        bytes32 digest,
        uint32 epoch,
        bool isApproval,
        bytes calldata signature,
        bytes calldata indices
    ) external view returns (uint256 power) {
        if (signature.length != BLS12381.PACKED_G1) revert SignatureLength(signature.length);
        (uint256 frame, uint256 total, uint256 count) = OperatorTable.open(_tableAt(epoch), indices.length != 0);

        // Stored keys are negated: the sum is +key for an approval, −key for a rejection.
        if (isApproval) OperatorTable.startAtAggregate(frame);
        else OperatorTable.startAtNobody(frame);
        if (indices.length != 0) {
            bool isOrdered;
            (power, isOrdered) = OperatorTable.addNegatedKeys(frame, count, indices);
            if (!isOrdered) _revertForIndices(indices, count);
        }
        if (isApproval) power = total - power;

        uint256 numerator = isApproval ? APPROVE_NUMERATOR : REJECT_NUMERATOR;
        if (power * QUORUM_DENOMINATOR <= total * numerator) revert QuorumNotReached(power, total, isApproval);
        _requireSigned(frame, digest, isApproval, signature);
    }

    /// @dev e(signature, −g2) · e(H(digest), key) = 1, with both second arguments negated for a rejection.
    function _requireSigned(uint256 frame, bytes32 digest, bool isApproval, bytes calldata signature) private view {
        uint256 source;
        assembly ("memory-safe") {
            source := signature.offset
        }
        BLS12381.loadG1(source, frame);
        if (BLS12381.isInfinity(frame, BLS12381.PADDED_G1)) revert InfinitySignature();
        if (BLS12381.isInfinity(frame + 512, BLS12381.PADDED_G2)) revert InfinityAggregate();

        if (isApproval) BLS12381.storeNegatedGenerator(frame + 128);
        else BLS12381.storeGenerator(frame + 128);
        BLS12381.hashToG1(digest, BLS12381.SIGNATURE_TAG, frame + 384, frame + BLS12381.PAIRING_INPUT);
        (bool isWellFormed, bool isOne) = BLS12381.isPairingOne(frame);
        if (!isWellFormed) revert MalformedSignature(signature);
        if (!isOne) revert SignatureMismatch(digest);
    }

    /// @dev Names the first index that is out of order or out of range; the hot path only noticed that there is one.
    function _revertForIndices(bytes calldata indices, uint256 count) private pure {
        for (uint256 i = 0; i < indices.length; ++i) {
            uint8 index = uint8(indices[i]);
            if (index >= count) revert IndexOutOfRange(i, index, count);
            if (i == 0) continue;
            if (index == uint8(indices[i - 1])) revert IndexDuplicate(i, index);
            if (index < uint8(indices[i - 1])) revert IndicesUnsorted(i, index);
        }
    }
}
