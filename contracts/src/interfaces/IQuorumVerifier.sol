// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

/// @title Did a strict quorum of an epoch's table sign this digest?
/// @notice The one question that settlement asks about votes. Whoever keeps the table answers it, so another curve or
/// another stake source (an EigenLayer operator set, say) replaces the registry and nothing else.
interface IQuorumVerifier {
    /// The epoch's table is neither the current nor the previous one.
    error UnknownEpoch(uint32 epoch, uint32 currentEpoch);
    /// A packed G1 point has 96 bytes.
    error SignatureLength(uint256 length);
    /// Index `index` at `position` is smaller than the one before it.
    error IndicesUnsorted(uint256 position, uint8 index);
    /// Index `index` at `position` equals the one before it: nobody's power counts twice.
    error IndexDuplicate(uint256 position, uint8 index);
    /// Index `index` at `position` names nobody in a table of `size` attesters.
    error IndexOutOfRange(uint256 position, uint8 index, uint256 size);
    /// The signers hold `power` of `total`, which is not strictly more than the quorum.
    error QuorumNotReached(uint256 power, uint256 total, bool isApproval);
    /// The signature is the point at infinity.
    error InfinitySignature();
    /// The signers' keys add up to the point at infinity, under which everything would be signed.
    error InfinityAggregate();
    /// The signature is no point of G1: a coordinate is not reduced, or it is off the curve or outside the subgroup.
    error MalformedSignature(bytes signature);
    /// The signature is not the signers' over this digest.
    error SignatureMismatch(bytes32 digest);

    /// @notice Returns the signers' power if they are a strict quorum of `epoch`'s table and signed `digest`; reverts
    /// with one of the errors above if not.
    /// @param isApproval true: `indices` are the missing, more than 2/3 must have signed.
    /// false: `indices` are the signers, more than 1/3 must have signed.
    /// @param signature packed G1 point, 96 bytes: the sum of the signers' signatures
    /// @param indices one byte each, strictly increasing
    function verifyQuorum(
        bytes32 digest,
        uint32 epoch,
        bool isApproval,
        bytes calldata signature,
        bytes calldata indices
    ) external view returns (uint256 power);
}
