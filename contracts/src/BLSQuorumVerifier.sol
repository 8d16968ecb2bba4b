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

    // The pairing's input in the frame, (signature, ±g2, hash, ±key), and behind it room for the hash, and for two.
    uint256 private constant GENERATOR = OperatorTable.FRAME + 128;
    uint256 private constant HASH = OperatorTable.FRAME + 384;
    uint256 private constant KEY = OperatorTable.FRAME + 512;
    uint256 private constant SCRATCH = OperatorTable.FRAME + BLS12381.PAIRING_INPUT;

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
        uint256 header = OperatorTable.open(_validTableAt(epoch, attesterSet), indices.length != 0);

        // Stored keys are negated: the sum is +key for an approval, −key for a rejection.
        if (!isApproval) OperatorTable.startAtNobody();
        if (indices.length != 0) {
            bool isGood;
            (power, isGood) = OperatorTable.addNegatedKeys(header, indices);
            if (!isGood) _revertForIndices(header, indices);
        }
        uint256 total = OperatorTable.totalOf(header);
        unchecked {
            // No seat is listed twice, so the listed have no more than the total; and that has 64 bits.
            if (isApproval) power = total - power;
            uint256 needed = total * (isApproval ? APPROVE_NUMERATOR : REJECT_NUMERATOR);
            if (power * QUORUM_DENOMINATOR <= needed) revert QuorumNotReached(power, total, isApproval);
        }
        uint256 minimumOwners = OperatorTable.minimumOwnersOf(header);
        if (minimumOwners > 1) _requireOwners(header, isApproval, indices, minimumOwners);

        BLS12381.hashToG1(digest, BLS12381.SIGNATURE_TAG, HASH, SCRATCH);
        _requireSigned(digest, isApproval, signature);
    }

    /// @inheritdoc IQuorumVerifier
    function verifyVote(bytes32 digest, uint32 epoch, uint16 seat, bytes calldata signature)
        external
        view
        returns (address operator)
    {
        uint256 header = OperatorTable.open(_tableAt(epoch, 0), true);
        operator = OperatorTable.startAtSeat(header, seat);
        BLS12381.hashToG1(digest, BLS12381.SIGNATURE_TAG, HASH, SCRATCH);
        _requireSigned(digest, false, signature);
    }

    /// @inheritdoc IQuorumVerifier
    /// @dev For two digests that are one, twice the one signature is such a sum: whoever asks must see to that.
    function verifyBothVotes(bytes32 first, bytes32 second, uint32 epoch, uint16 seat, bytes calldata signatureSum)
        external
        view
        returns (address operator)
    {
        uint256 header = OperatorTable.open(_tableAt(epoch, 0), true);
        operator = OperatorTable.startAtSeat(header, seat);
        BLS12381.hashToG1(first, BLS12381.SIGNATURE_TAG, OperatorTable.FRAME, SCRATCH);
        BLS12381.hashToG1(second, BLS12381.SIGNATURE_TAG, OperatorTable.FRAME + BLS12381.PADDED_G1, SCRATCH);
        BLS12381.addG1(OperatorTable.FRAME, HASH);
        _requireSigned(first, false, signatureSum);
    }

    /// @inheritdoc IQuorumVerifier
    function shareOf(uint32 epoch, uint32 attesterSet, bool isApproval, bytes calldata indices, uint16 seat)
        external
        view
        returns (address operator, uint256 power, uint256 signed)
    {
        uint256 header = OperatorTable.open(_tableAt(epoch, attesterSet), true);
        operator = OperatorTable.operatorAt(header, seat);
        bool isListed;
        (signed, isListed) = OperatorTable.listed(header, indices, seat);
        if (isApproval) signed = OperatorTable.totalOf(header) - signed;
        if (isListed != isApproval) power = OperatorTable.powerAt(seat);
    }

    /// @dev Names the first wrong index; the hot path only noticed that there is one. Keys were checked when they were
    /// seated: if no index is wrong, an addition failed for want of gas.
    function _revertForIndices(uint256 header, bytes calldata indices) private pure {
        OperatorTable.listed(header, indices, 0);
        revert BLS12381.PrecompileMissing(address(uint160(BLS12381.G2_ADD)));
    }

    function _requireOwners(uint256 header, bool isApproval, bytes calldata indices, uint256 minimum) private pure {
        uint256 owners = OperatorTable.countOwners(header, isApproval, indices);
        if (owners < minimum) revert OwnersNotReached(owners, minimum);
    }

    /// @dev Under a key at infinity everything is signed, by a signature at infinity.
    function _revertForInfinity() private pure {
        if (BLS12381.isInfinity(OperatorTable.FRAME, BLS12381.PADDED_G1)) revert InfinitySignature();
        if (BLS12381.isInfinity(KEY, BLS12381.PADDED_G2)) revert InfinityAggregate();
    }

    /// @dev e(signature, −g2) · e(hash, key) = 1, with both second arguments negated if the key is. Hash and key are in
    /// the frame.
    function _requireSigned(bytes32 digest, bool isKeyPositive, bytes calldata signature) private view {
        if (signature.length != BLS12381.PACKED_G1) revert SignatureLength(signature.length);
        uint256 source;
        assembly ("memory-safe") {
            source := signature.offset
        }
        BLS12381.loadG1(source, OperatorTable.FRAME);
        if (BLS12381.mayBeInfinity(OperatorTable.FRAME, KEY)) _revertForInfinity();

        if (isKeyPositive) BLS12381.storeNegatedGenerator(GENERATOR);
        else BLS12381.storeGenerator(GENERATOR);
        (bool isWellFormed, bool isOne) = BLS12381.isPairingOne(OperatorTable.FRAME);
        if (isOne) return;
        if (!isWellFormed) revert MalformedSignature(signature);
        revert SignatureMismatch(digest);
    }
}
