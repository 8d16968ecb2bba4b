// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

/// @title Did these attesters sign this digest?
/// @notice The one question that settlement and slashing ask about votes. Whoever keeps the tables answers it, so that
/// another curve replaces one contract and nothing else.
interface IQuorumVerifier {
    /// There never was such an epoch.
    error UnknownEpoch(uint32 epoch, uint32 currentEpoch);
    /// The epoch's table is over since `expiredAt`: it was superseded more than the grace window ago.
    error EpochExpired(uint32 epoch, uint64 expiredAt);
    /// The epoch has no table for this set yet; anyone may write it by `rollSet`.
    error SetTableMissing(uint32 epoch, uint32 attesterSet);
    /// A packed G1 point has 96 bytes.
    error SignatureLength(uint256 length);
    /// Indices have one byte each in tables of up to 256 seats, two in larger ones; this length is odd.
    error IndicesLength(uint256 length);
    /// Index `index` at `position` is smaller than the one before it.
    error IndicesUnsorted(uint256 position, uint16 index);
    /// Index `index` at `position` equals the one before it: nobody's power counts twice.
    error IndexDuplicate(uint256 position, uint16 index);
    /// Index `index` at `position` names no seat in a table of `seats`.
    error IndexOutOfRange(uint256 position, uint16 index, uint256 seats);
    /// The seat `index` at `position` has no power in this table, so its key is not in the aggregate.
    error IndexWithoutPower(uint256 position, uint16 index);
    /// The signers hold `power` of `total`, which is not strictly more than the quorum.
    error QuorumNotReached(uint256 power, uint256 total, bool isApproval);
    /// The signers belong to `owners` distinct owners; the set asks for `minimum`.
    error OwnersNotReached(uint256 owners, uint256 minimum);
    /// The signature is the point at infinity.
    error InfinitySignature();
    /// The signers' keys add up to the point at infinity, under which everything would be signed.
    error InfinityAggregate();
    /// The signature is no point of G1: a coordinate is not reduced, or it is off the curve or outside the subgroup.
    error MalformedSignature(bytes signature);
    /// The signature is not the signers' over this digest.
    error SignatureMismatch(bytes32 digest);

    /// @notice Returns the signers' power if they are a strict quorum of the table of `attesterSet` at `epoch` and
    /// signed `digest`; reverts with one of the errors above if not.
    /// @param attesterSet 0: everybody
    /// @param isApproval true: `indices` are the missing, more than 2/3 must have signed.
    /// false: `indices` are the signers, more than 1/3 must have signed.
    /// @param signature packed G1 point, 96 bytes: the sum of the signers' signatures
    /// @param indices seats, big-endian, strictly increasing; one byte each in tables of up to 256 seats, else two
    function verifyQuorum(
        bytes32 digest,
        uint32 epoch,
        uint32 attesterSet,
        bool isApproval,
        bytes calldata signature,
        bytes calldata indices
    ) external view returns (uint256 power);

    /// @notice Returns the operator in `seat` of the epoch's table, with power or not, if it signed `digest`. Answers
    /// for every epoch there ever was: evidence does not expire with the table.
    function verifyVote(bytes32 digest, uint32 epoch, uint16 seat, bytes calldata signature)
        external
        view
        returns (address operator);

    /// @notice Returns the operator in `seat` of the epoch's table if it signed both digests, by one pairing over the
    /// sum of the two signatures. Only who signed both can know that sum. Answers for every epoch there ever was.
    function verifyBothVotes(bytes32 first, bytes32 second, uint32 epoch, uint16 seat, bytes calldata signatureSum)
        external
        view
        returns (address operator);

    /// @notice What `seat` has of the power that signed, for sharing a reward. Answers for every epoch there ever was.
    /// Checks `indices` as `verifyQuorum` does; no signature is checked.
    /// @return operator who sits there
    /// @return power the seat's; 0 if it is not among the signers
    /// @return signed the power of all signers
    function shareOf(uint32 epoch, uint32 attesterSet, bool isApproval, bytes calldata indices, uint16 seat)
        external
        view
        returns (address operator, uint256 power, uint256 signed);
}
