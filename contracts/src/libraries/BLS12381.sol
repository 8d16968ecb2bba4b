// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

/// @title BLS12-381 by the precompiles of EIP-2537
/// @notice Min-sig: signatures and messages in G1, keys in G2 (protocol §1). Two encodings: **packed**, 48 bytes a
/// coordinate, as points travel and are stored; **padded**, 64 bytes with leading zeros, as the precompiles read them.
/// @dev Functions take memory positions, not `bytes`: a verification fills one frame and hands it to the pairing.
library BLS12381 {
    /// The chain has no precompile at this address, or one that answers with another size.
    error PrecompileMissing(address precompile);

    uint256 internal constant PACKED_G1 = 96;
    uint256 internal constant PACKED_G2 = 192;
    uint256 internal constant PADDED_G1 = 128;
    uint256 internal constant PADDED_G2 = 256;
    /// Two pairs of (G1, G2), padded.
    uint256 internal constant PAIRING_INPUT = 768;
    /// What `hashToG1` works in.
    uint256 internal constant HASH_SCRATCH = 384;

    /// A precompile that finds its input malformed takes all the gas it was sent, so the one that reads strangers'
    /// points is sent no more than this. It needs 102,900 today; the rest is room for a dearer one.
    uint256 private constant PAIRING_GAS = 1_000_000;

    uint256 private constant SHA256 = 0x02;
    uint256 private constant G1_ADD = 0x0b;
    uint256 internal constant G2_ADD = 0x0d;
    uint256 private constant PAIRING = 0x0f;
    uint256 private constant MAP_TO_G1 = 0x10;

    /// The field's prime p, as its upper 128 and lower 256 bits.
    uint256 private constant P_HIGH = 0x1a0111ea397fe69a4b1ba7b6434bacd7;
    uint256 private constant P_LOW = 0x64774b84f38512bf6730d2a0f6b0f6241eabfffeb153ffffb9feffffffffaaab;
    /// ⌊2^636 / p⌋
    uint256 private constant RECIPROCAL = 0x9d835d2f3cc9e45ce28101b0cc7a6ba291b82741ff6a0a94bdf4771e0286779d;

    /// The two domain separation tags differ in their first 32 bytes only. The tail carries the tag's length, 43, as
    /// RFC 9380 appends it.
    bytes32 internal constant SIGNATURE_TAG = "BLS_SIG_BLS12381G1_XMD:SHA-256_S";
    bytes32 internal constant POSSESSION_TAG = "BLS_POP_BLS12381G1_XMD:SHA-256_S";
    bytes32 private constant TAG_TAIL = "SWU_RO_POP_\x2b";

    // --- memory ------------------------------------------------------------------------------------------------------

    /// @dev Takes `size` bytes of memory, a multiple of 32, that may hold anything.
    function allocate(uint256 size) internal pure returns (uint256 position) {
        assembly ("memory-safe") {
            position := mload(0x40)
            mstore(0x40, add(position, size))
        }
    }

    // --- points ------------------------------------------------------------------------------------------------------

    /// @dev Writes the packed G1 point in calldata at `source` to memory at `target`, padded.
    function loadG1(uint256 source, uint256 target) internal pure {
        assembly ("memory-safe") {
            mstore(target, 0)
            calldatacopy(add(target, 16), source, 48)
            mstore(add(target, 64), 0)
            calldatacopy(add(target, 80), add(source, 48), 48)
        }
    }

    /// @dev Writes the packed G2 point in calldata at `source` to memory at `target`, padded.
    function loadG2(uint256 source, uint256 target) internal pure {
        loadG1(source, target);
        loadG1(source + PACKED_G1, target + PADDED_G1);
    }

    /// @dev Writes the packed G2 point in memory at `source` to memory at `target`, padded. No overlap.
    function padG2(uint256 source, uint256 target) internal pure {
        assembly ("memory-safe") {
            mstore(target, 0)
            mcopy(add(target, 16), source, 48)
            mstore(add(target, 64), 0)
            mcopy(add(target, 80), add(source, 48), 48)
            mstore(add(target, 128), 0)
            mcopy(add(target, 144), add(source, 96), 48)
            mstore(add(target, 192), 0)
            mcopy(add(target, 208), add(source, 144), 48)
        }
    }

    /// @dev Writes the padded G2 point at `source` to `target`, packed. No overlap.
    function packG2(uint256 source, uint256 target) internal pure {
        assembly ("memory-safe") {
            mcopy(target, add(source, 16), 48)
            mcopy(add(target, 48), add(source, 80), 48)
            mcopy(add(target, 96), add(source, 144), 48)
            mcopy(add(target, 144), add(source, 208), 48)
        }
    }

    /// @dev Negates the packed G2 point at `point` in place: y becomes p − y, with 0 staying 0 (also for infinity).
    /// The coordinates have to be reduced.
    function negateG2(uint256 point) internal pure {
        assembly ("memory-safe") {
            for { let y := add(point, 96) } lt(y, add(point, 192)) { y := add(y, 48) } {
                let high := shr(128, mload(y))
                let low := mload(add(y, 16))
                if or(high, low) {
                    mstore(y, shl(128, sub(sub(P_HIGH, high), gt(low, P_LOW))))
                    mstore(add(y, 16), sub(P_LOW, low))
                }
            }
        }
    }

    /// @dev Whether the `size` bytes at `point` (a multiple of 32) are zero, which encodes infinity in both forms.
    function isInfinity(uint256 point, uint256 size) internal pure returns (bool infinite) {
        assembly ("memory-safe") {
            let bits := 0
            for { let end := add(point, size) } lt(point, end) { point := add(point, 32) } {
                bits := or(bits, mload(point))
            }
            infinite := iszero(bits)
        }
    }

    /// @dev False for almost all padded points but infinity: whether the first coordinate of one ends in 32 zeros.
    function mayBeInfinity(uint256 one, uint256 other) internal pure returns (bool possible) {
        assembly ("memory-safe") {
            possible := or(iszero(mload(add(one, 32))), iszero(mload(add(other, 32))))
        }
    }

    /// @dev Adds the padded G2 point at `accumulator + 256` to the one at `accumulator`. The precompile checks that
    /// both are on the curve, not that they are in the subgroup: only registered keys may come here.
    function addG2(uint256 accumulator) internal view {
        bool good;
        assembly ("memory-safe") {
            good := staticcall(gas(), G2_ADD, accumulator, 512, accumulator, 256)
            good := and(good, eq(returndatasize(), 256))
        }
        if (!good) revert PrecompileMissing(address(uint160(G2_ADD)));
    }

    /// @dev Adds the two padded G1 points at `pair`, one behind the other, into `target`. They have to be points.
    function addG1(uint256 pair, uint256 target) internal view {
        bool good;
        assembly ("memory-safe") {
            good := staticcall(gas(), G1_ADD, pair, 256, target, 128)
            good := and(good, eq(returndatasize(), 128))
        }
        if (!good) revert PrecompileMissing(address(uint160(G1_ADD)));
    }

    /// @dev Writes g2, the generator of G2, padded.
    function storeGenerator(uint256 target) internal pure {
        assembly ("memory-safe") {
            mstore(target, 0x00000000000000000000000000000000024aa2b2f08f0a91260805272dc51051)
            mstore(add(target, 32), 0xc6e47ad4fa403b02b4510b647ae3d1770bac0326a805bbefd48056c8c121bdb8)
            mstore(add(target, 64), 0x0000000000000000000000000000000013e02b6052719f607dacd3a088274f65)
            mstore(add(target, 96), 0x596bd0d09920b61ab5da61bbdc7f5049334cf11213945d57e5ac7d055d042b7e)
            mstore(add(target, 128), 0x000000000000000000000000000000000ce5d527727d6e118cc9cdc6da2e351a)
            mstore(add(target, 160), 0xadfd9baa8cbdd3a76d429a695160d12c923ac9cc3baca289e193548608b82801)
            mstore(add(target, 192), 0x000000000000000000000000000000000606c4a02ea734cc32acd2b02bc28b99)
            mstore(add(target, 224), 0xcb3e287e85a763af267492ab572e99ab3f370d275cec1da1aaa9075ff05f79be)
        }
    }

    /// @dev Writes −g2, padded.
    function storeNegatedGenerator(uint256 target) internal pure {
        assembly ("memory-safe") {
            mstore(target, 0x00000000000000000000000000000000024aa2b2f08f0a91260805272dc51051)
            mstore(add(target, 32), 0xc6e47ad4fa403b02b4510b647ae3d1770bac0326a805bbefd48056c8c121bdb8)
            mstore(add(target, 64), 0x0000000000000000000000000000000013e02b6052719f607dacd3a088274f65)
            mstore(add(target, 96), 0x596bd0d09920b61ab5da61bbdc7f5049334cf11213945d57e5ac7d055d042b7e)
            mstore(add(target, 128), 0x000000000000000000000000000000000d1b3cc2c7027888be51d9ef691d77bc)
            mstore(add(target, 160), 0xb679afda66c73f17f9ee3837a55024f78c71363275a75d75d86bab79f74782aa)
            mstore(add(target, 192), 0x0000000000000000000000000000000013fa4d4a0ad8b1ce186ed5061789213d)
            mstore(add(target, 224), 0x993923066dddaf1040bc3ff59f825c78df74f2d75467e25e0f55f8a00fa030ed)
        }
    }

    // --- hashing and pairing -----------------------------------------------------------------------------------------

    /// @dev RFC 9380 hash_to_curve, suite BLS12381G1_XMD:SHA-256_SSWU_RO_, of a 32-byte message under the tag that
    /// starts with `tag`; writes a padded G1 point at `target`. Works in the HASH_SCRATCH bytes at `scratch`.
    function hashToG1(bytes32 message, bytes32 tag, uint256 target, uint256 scratch) internal view {
        bool good;
        bytes32 tail = TAG_TAIL;
        assembly ("memory-safe") {
            // expand_message_xmd: b0 = H(64 zeros ‖ message ‖ 128 as two bytes ‖ 0 ‖ tag')
            mstore(scratch, 0)
            mstore(add(scratch, 32), 0)
            mstore(add(scratch, 64), message)
            mstore(add(scratch, 96), shl(240, 128))
            mstore(add(scratch, 99), tag)
            mstore(add(scratch, 131), tail)
            good := staticcall(gas(), SHA256, scratch, 143, scratch, 32)
            let b0 := mload(scratch)
            mstore(add(scratch, 33), tag)
            mstore(add(scratch, 65), tail)

            // b1 = H(b0 ‖ 1 ‖ tag'), b_i = H((b0 xor b_(i−1)) ‖ i ‖ tag'). Each pair of blocks is one field element.
            let elements := add(scratch, 256)
            mstore8(add(scratch, 32), 1)
            good := and(staticcall(gas(), SHA256, scratch, 77, elements, 32), good)
            mstore(scratch, xor(b0, mload(elements)))
            mstore8(add(scratch, 32), 2)
            good := and(staticcall(gas(), SHA256, scratch, 77, add(elements, 32), 32), good)
            mstore(scratch, xor(b0, mload(add(elements, 32))))
            mstore8(add(scratch, 32), 3)
            good := and(staticcall(gas(), SHA256, scratch, 77, add(elements, 64), 32), good)
            mstore(scratch, xor(b0, mload(add(elements, 64))))
            mstore8(add(scratch, 32), 4)
            good := and(staticcall(gas(), SHA256, scratch, 77, add(elements, 96), 32), good)
        }
        unchecked {
            reduce(scratch + 256);
            reduce(scratch + 320);
        }
        assembly ("memory-safe") {
            let elements := add(scratch, 256)
            // Map both, add; the addition clears no cofactor, the mapping precompile already does.
            good := and(staticcall(gas(), MAP_TO_G1, elements, 64, scratch, 128), good)
            good := and(eq(returndatasize(), 128), good)
            good := and(staticcall(gas(), MAP_TO_G1, add(elements, 64), 64, add(scratch, 128), 128), good)
            good := and(staticcall(gas(), G1_ADD, scratch, 256, target, 128), good)
            good := and(eq(returndatasize(), 128), good)
        }
        if (!good) revert PrecompileMissing(address(uint160(MAP_TO_G1)));
    }

    /// @dev Takes the 64 bytes at `position` modulo p, in place, for half of what MODEXP costs. By Barrett: with high the
    /// upper 256 bits, ⌊high · ⌊2^636 / p⌋ / 2^380⌋ is the quotient, or one less.
    function reduce(uint256 position) internal pure {
        assembly ("memory-safe") {
            // The upper half of a product: it is (a · b mod 2^256 − 1) − (a · b mod 2^256), and a borrow.
            function multiplyHigh(a, b) -> high {
                let low := mul(a, b)
                let folded := mulmod(a, b, not(0))
                high := sub(sub(folded, low), lt(folded, low))
            }
            let high := mload(position)
            let low := mload(add(position, 32))
            let quotient := shr(124, multiplyHigh(high, RECIPROCAL))
            let product := mul(quotient, P_LOW)
            high := sub(sub(high, mul(quotient, P_HIGH)), add(multiplyHigh(quotient, P_LOW), lt(low, product)))
            low := sub(low, product)
            if iszero(lt(high, P_HIGH)) {
                if or(gt(high, P_HIGH), iszero(lt(low, P_LOW))) {
                    high := sub(sub(high, P_HIGH), lt(low, P_LOW))
                    low := sub(low, P_LOW)
                }
            }
            mstore(position, high)
            mstore(add(position, 32), low)
        }
    }

    /// @dev Whether e(P1, Q1) · e(P2, Q2) = 1 for the padded points at `input`. `isWellFormed` is false when a point is
    /// not one of its group; the precompile checks the subgroup. On a chain without the precompile the call "succeeds"
    /// and answers nothing, which is neither.
    function isPairingOne(uint256 input) internal view returns (bool isWellFormed, bool isOne) {
        assembly ("memory-safe") {
            isWellFormed := staticcall(PAIRING_GAS, PAIRING, input, PAIRING_INPUT, 0, 32)
            isOne := and(and(isWellFormed, eq(returndatasize(), 32)), eq(mload(0), 1))
        }
        if (isOne) return (true, true);
        if (isWellFormed) _requireAnswer(PAIRING, 32);
    }

    /// @dev To be called right after the call of a precompile.
    function _requireAnswer(uint256 precompile, uint256 size) private pure {
        uint256 answered;
        assembly ("memory-safe") {
            answered := returndatasize()
        }
        if (answered != size) revert PrecompileMissing(address(uint160(precompile)));
    }

    /// @dev Refuses a chain without EIP-2537 by known answers: e(H, g2) · e(H, −g2) = 1, e(H, g2) · e(H, g2) ≠ 1, and
    /// g2 + (−g2) = infinity. To be called by constructors, before anything depends on it.
    function requirePrecompiles() internal view {
        uint256 input = allocate(PAIRING_INPUT + HASH_SCRATCH);
        hashToG1(bytes32(0), SIGNATURE_TAG, input, input + PAIRING_INPUT);
        assembly ("memory-safe") {
            mcopy(add(input, 384), input, 128)
        }
        storeGenerator(input + 128);
        storeNegatedGenerator(input + 512);
        (, bool isOne) = isPairingOne(input);
        storeGenerator(input + 512);
        (, bool isStillOne) = isPairingOne(input);
        if (!isOne || isStillOne) revert PrecompileMissing(address(uint160(PAIRING)));

        storeNegatedGenerator(input);
        storeGenerator(input + PADDED_G2);
        addG2(input);
        if (!isInfinity(input, PADDED_G2)) revert PrecompileMissing(address(uint160(G2_ADD)));
    }
}
