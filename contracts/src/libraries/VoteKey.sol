// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IEpochTables} from "../interfaces/IEpochTables.sol";
import {BLS12381} from "./BLS12381.sol";
import {CodePage} from "./CodePage.sol";

/// @title How a vote key comes in
library VoteKey {
    /// @dev Lengths first: they are cheap, and everything behind them reads fixed positions.
    function requireLengths(bytes calldata voteKey, bytes calldata possession) internal pure {
        if (voteKey.length != BLS12381.PACKED_G2) revert IEpochTables.VoteKeyLength(voteKey.length);
        if (possession.length != BLS12381.PACKED_G1) revert IEpochTables.PossessionLength(possession.length);
    }

    /// @dev e(possession, −g2) · e(H(digest), key) = 1. One pairing proves that the key is a point of the subgroup and
    /// that the operator holds its secret, without which a key chosen as "mine minus all of yours" would sign for
    /// everybody.
    function requirePossession(
        bytes calldata voteKey,
        bytes calldata possession,
        bytes32 digest,
        address operator,
        bytes32 keyHash
    ) internal view {
        uint256 input = BLS12381.allocate(BLS12381.PAIRING_INPUT + BLS12381.HASH_SCRATCH);
        uint256 key;
        uint256 signature;
        assembly ("memory-safe") {
            key := voteKey.offset
            signature := possession.offset
        }
        BLS12381.loadG1(signature, input);
        BLS12381.storeNegatedGenerator(input + 128);
        BLS12381.loadG2(key, input + 512);
        if (BLS12381.isInfinity(input + 512, BLS12381.PADDED_G2)) revert IEpochTables.InfinityVoteKey();
        BLS12381.hashToG1(digest, BLS12381.POSSESSION_TAG, input + 384, input + BLS12381.PAIRING_INPUT);
        (bool isWellFormed, bool isOne) = BLS12381.isPairingOne(input);
        if (!isWellFormed) revert IEpochTables.MalformedVoteKey(voteKey, possession);
        if (!isOne) revert IEpochTables.PossessionMismatch(operator, keyHash);
    }

    /// @dev Keeps what a seat holds as seat pages want it: −key ‖ operator ‖ owner, in a page of its own. The key has
    /// to be proven.
    function write(bytes calldata voteKey, address operator, address owner) internal returns (address record) {
        bytes memory data = abi.encodePacked(voteKey, operator, owner);
        uint256 point;
        assembly ("memory-safe") {
            point := add(data, 32)
        }
        BLS12381.negateG2(point);
        return CodePage.write(data);
    }

    /// @dev The key of a record, packed and no longer negated.
    function read(address record) internal view returns (bytes memory voteKey) {
        voteKey = CodePage.readBytes(record, 0, BLS12381.PACKED_G2);
        uint256 point;
        assembly ("memory-safe") {
            point := add(voteKey, 32)
        }
        BLS12381.negateG2(point);
    }
}
