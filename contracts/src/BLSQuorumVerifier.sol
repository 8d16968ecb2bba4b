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

    /// @dev The page of a set's table at an epoch, expired or not. Reverts with UnknownEpoch or SetTableMissing.
    function _tableAt(uint32 epoch, uint32 attesterSet) internal view virtual returns (address);

    /// @dev The same for an epoch whose votes can settle; else it reverts with EpochExpired.
    function _validTableAt(uint32 epoch, uint32 attesterSet) internal view virtual returns (address);

    /// @inheritdoc IQuorumVerifier
    function verifyQuorum(
        bytes32 digest,
        uint32 epoch,
        uint32 attesterSet,
        bool isApproval,
        bytes calldata signature,
        bytes calldata indices
    ) external view returns (uint256 power) {
        (uint256 frame, uint256 header) = OperatorTable.open(_validTableAt(epoch, attesterSet), indices.length != 0);

        // Stored keys are negated: the sum is +key for an approval, −key for a rejection.
        if (isApproval) OperatorTable.startAtAggregate(frame);
        else OperatorTable.startAtNobody(frame);
        if (indices.length != 0) {
            bool isOrdered;
            (power, isOrdered) = OperatorTable.addNegatedKeys(frame, header, indices);
            if (!isOrdered) OperatorTable.listed(frame, header, indices, 0);
        }
        uint256 total = OperatorTable.totalOf(header);
        if (isApproval) power = total - power;

        uint256 numerator = isApproval ? APPROVE_NUMERATOR : REJECT_NUMERATOR;
        if (power * QUORUM_DENOMINATOR <= total * numerator) revert QuorumNotReached(power, total, isApproval);
        uint256 minimumOwners = OperatorTable.minimumOwnersOf(header);
        if (minimumOwners > 1) _requireOwners(frame, header, isApproval, indices, minimumOwners);

        BLS12381.hashToG1(digest, BLS12381.SIGNATURE_TAG, frame + 384, frame + BLS12381.PAIRING_INPUT);
        _requireSigned(frame, digest, isApproval, signature);
    }

    /// @inheritdoc IQuorumVerifier
    function verifyVote(bytes32 digest, uint32 epoch, uint16 seat, bytes calldata signature)
        external
        view
        returns (address operator)
    {
        (uint256 frame, uint256 header) = OperatorTable.open(_tableAt(epoch, 0), true);
        operator = OperatorTable.startAtSeat(frame, header, seat);
        BLS12381.hashToG1(digest, BLS12381.SIGNATURE_TAG, frame + 384, frame + BLS12381.PAIRING_INPUT);
        _requireSigned(frame, digest, false, signature);
    }

    /// @inheritdoc IQuorumVerifier
    /// @dev For two digests that are one, twice the one signature is such a sum: whoever asks must see to that.
    function verifyBothVotes(bytes32 first, bytes32 second, uint32 epoch, uint16 seat, bytes calldata signatureSum)
        external
        view
        returns (address operator)
    {
        (uint256 frame, uint256 header) = OperatorTable.open(_tableAt(epoch, 0), true);
        operator = OperatorTable.startAtSeat(frame, header, seat);
        uint256 scratch = frame + BLS12381.PAIRING_INPUT;
        uint256 pair = scratch + BLS12381.HASH_SCRATCH;
        BLS12381.hashToG1(first, BLS12381.SIGNATURE_TAG, pair, scratch);
        BLS12381.hashToG1(second, BLS12381.SIGNATURE_TAG, pair + BLS12381.PADDED_G1, scratch);
        BLS12381.addG1(pair, frame + 384);
        _requireSigned(frame, first, false, signatureSum);
    }

    /// @inheritdoc IQuorumVerifier
    function shareOf(uint32 epoch, uint32 attesterSet, bool isApproval, bytes calldata indices, uint16 seat)
        external
        view
        returns (address operator, uint256 power, uint256 signed)
    {
        (uint256 frame, uint256 header) = OperatorTable.open(_tableAt(epoch, attesterSet), true);
        operator = OperatorTable.operatorAt(frame, header, seat);
        bool isListed;
        (signed, isListed) = OperatorTable.listed(frame, header, indices, seat);
        if (isApproval) signed = OperatorTable.totalOf(header) - signed;
        if (isListed != isApproval) power = OperatorTable.powerAt(frame, header, seat);
    }

    function _requireOwners(
        uint256 frame,
        uint256 header,
        bool isApproval,
        bytes calldata indices,
        uint256 minimumOwners
    ) private pure {
        uint256 owners = OperatorTable.countOwners(frame, header, isApproval, indices);
        if (owners < minimumOwners) revert OwnersNotReached(owners, minimumOwners);
    }

    /// @dev e(signature, −g2) · e(hash, key) = 1, with both second arguments negated if the key is. Hash and key are in
    /// the frame.
    function _requireSigned(uint256 frame, bytes32 digest, bool isKeyPositive, bytes calldata signature) private view {
        if (signature.length != BLS12381.PACKED_G1) revert SignatureLength(signature.length);
        uint256 source;
        assembly ("memory-safe") {
            source := signature.offset
        }
        BLS12381.loadG1(source, frame);
        if (BLS12381.isInfinity(frame, BLS12381.PADDED_G1)) revert InfinitySignature();
        if (BLS12381.isInfinity(frame + 512, BLS12381.PADDED_G2)) revert InfinityAggregate();

        if (isKeyPositive) BLS12381.storeNegatedGenerator(frame + 128);
        else BLS12381.storeGenerator(frame + 128);
        (bool isWellFormed, bool isOne) = BLS12381.isPairingOne(frame);
        if (!isWellFormed) revert MalformedSignature(signature);
        if (!isOne) revert SignatureMismatch(digest);
    }
}
