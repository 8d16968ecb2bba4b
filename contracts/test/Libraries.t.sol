// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {BLS12381} from "../src/libraries/BLS12381.sol";
import {CodePage} from "../src/libraries/CodePage.sol";
import {Base} from "./Base.sol";
import {Keys} from "./Keys.sol";

/// @notice The curve's laws and the pages' edges; fixed values are in Vectors.t.sol.
contract LibrariesTest is Base {
    bytes32 private constant TAG = BLS12381.SIGNATURE_TAG;
    bytes private constant PRIME =
        hex"1a0111ea397fe69a4b1ba7b6434bacd764774b84f38512bf6730d2a0f6b0f6241eabfffeb153ffffb9feffffffffaaab";
    uint256 private constant PRIME_HIGH = 0x1a0111ea397fe69a4b1ba7b6434bacd7;
    uint256 private constant PRIME_LOW = 0x64774b84f38512bf6730d2a0f6b0f6241eabfffeb153ffffb9feffffffffaaab;
    /// (2^512 - 1) / p
    uint256 private constant MOST_FACTOR = 0x9d835d2f3cc9e45ce28101b0cc7a6ba29;

    function _position(bytes memory data) private pure returns (uint256 position) {
        assembly ("memory-safe") {
            position := add(data, 32)
        }
    }

    // --- BLS12381 ----------------------------------------------------------------------------------------------------

    function testFuzz_negateG2_IsTheInverse(uint256 seed) public view {
        bytes memory key = Keys.publicKey(1 + seed % (Keys.ORDER - 1));
        bytes memory negated = bytes.concat(key);
        BLS12381.negateG2(_position(negated));
        bytes memory pair = new bytes(512);
        BLS12381.padG2(_position(key), _position(pair));
        BLS12381.padG2(_position(negated), _position(pair) + 256);
        BLS12381.addG2(_position(pair));
        assertTrue(BLS12381.isInfinity(_position(pair), 256), "key + (-key) is infinity");
        BLS12381.negateG2(_position(negated));
        assertEq(negated, key, "twice is not at all");
    }

    function test_negateG2_LeavesInfinity() public pure {
        bytes memory infinity = new bytes(192);
        BLS12381.negateG2(_position(infinity));
        assertEq(infinity, new bytes(192), "infinity");
    }

    function testFuzz_packG2_UndoesPadG2(uint256 seed) public view {
        bytes memory key = Keys.publicKey(1 + seed % (Keys.ORDER - 1));
        bytes memory padded = new bytes(256);
        bytes memory packed = new bytes(192);
        BLS12381.padG2(_position(key), _position(padded));
        BLS12381.packG2(_position(padded), _position(packed));
        assertEq(packed, key, "there and back");
    }

    /// @dev e(signature, -g2) · e(H(signed), key), as verifiers do it, in calldata and memory of its own.
    function isSigned(bytes calldata signature, bytes calldata key, bytes32 message, bytes32 tag)
        external
        view
        returns (bool isWellFormed, bool isOne)
    {
        bytes memory input = new bytes(768 + 384);
        uint256 position = _position(input);
        uint256 signatureAt;
        uint256 keyAt;
        assembly ("memory-safe") {
            signatureAt := signature.offset
            keyAt := key.offset
        }
        BLS12381.loadG1(signatureAt, position);
        BLS12381.storeNegatedGenerator(position + 128);
        BLS12381.hashToG1(message, tag, position + 384, position + 768);
        BLS12381.loadG2(keyAt, position + 512);
        return BLS12381.isPairingOne(position);
    }

    function testFuzz_aSignatureIsForItsKeyMessageAndTag(uint256 seed, bytes32 message, bytes32 other) public view {
        uint256 secret = 1 + seed % (Keys.ORDER - 2);
        bytes memory signature = Keys.sign(secret, message, TAG);
        bytes memory key = Keys.publicKey(secret);
        assertTrue(_isSigned(signature, key, message, TAG), "signed");
        assertTrue(!_isSigned(signature, Keys.publicKey(secret + 1), message, TAG), "another key");
        assertTrue(!_isSigned(signature, key, message, BLS12381.POSSESSION_TAG), "another tag");
        if (other != message) assertTrue(!_isSigned(signature, key, other, TAG), "another message");
    }

    function _isSigned(bytes memory signature, bytes memory key, bytes32 message, bytes32 tag)
        private
        view
        returns (bool)
    {
        (bool isWellFormed, bool isOne) = this.isSigned(signature, key, message, tag);
        assertTrue(isWellFormed, "well-formed");
        return isOne;
    }

    /// @dev Whether the contract's arithmetic takes `number` modulo p as MODEXP does.
    function checkReduced(uint256 high, uint256 low) private view {
        bytes memory number = abi.encode(high, low);
        bytes memory input = abi.encodePacked(abi.encode(64, 1, 48, high, low), hex"01", PRIME);
        (bool done, bytes memory expected) = address(0x05).staticcall(input);
        assertTrue(done && expected.length == 48, "MODEXP");
        BLS12381.reduce(_position(number));
        assertEq(number, abi.encodePacked(bytes16(0), expected), "modulo p");
    }

    function testFuzz_reduce_IsModuloP(uint256 high, uint256 low) public view {
        checkReduced(high, low);
    }

    /// @dev Around multiples of p, where an estimated quotient goes wrong if it does.
    function testFuzz_reduce_HoldsAroundMultiples(uint256 factor, uint256 distance) public view {
        factor = bound(factor, 0, MOST_FACTOR);
        distance = bound(distance, 0, 3);
        uint256 low;
        uint256 folded = mulmod(factor, PRIME_LOW, type(uint256).max);
        uint256 high = factor * PRIME_HIGH;
        unchecked {
            low = factor * PRIME_LOW;
            high += folded - low - (folded < low ? 1 : 0);
            checkReduced(high, low);
            checkReduced(high + (low + distance < low ? 1 : 0), low + distance);
            if (factor != 0) checkReduced(high - (low < distance ? 1 : 0), low - distance);
        }
    }

    function test_reduce_HoldsAtTheEnds() public view {
        checkReduced(0, 0);
        checkReduced(type(uint256).max, type(uint256).max);
        checkReduced(PRIME_HIGH, PRIME_LOW);
        checkReduced(PRIME_HIGH, PRIME_LOW - 1);
        checkReduced(PRIME_HIGH, PRIME_LOW + 1);
        checkReduced(PRIME_HIGH + 1, 0);
        checkReduced(PRIME_HIGH - 1, type(uint256).max);
    }

    function test_isPairingOne_TellsMalformedFromFalse() public view {
        (bool isWellFormed, bool isOne) = this.isSigned(new bytes(96), Keys.publicKey(1), "message", TAG);
        assertTrue(isWellFormed && !isOne, "infinity is a point");
        bytes memory malformed = new bytes(96);
        malformed[0] = 0x01;
        (isWellFormed, isOne) = this.isSigned(malformed, Keys.publicKey(1), "message", TAG);
        assertTrue(!isWellFormed && !isOne, "off the curve");
    }

    // --- CodePage ----------------------------------------------------------------------------------------------------

    function writeExternally(bytes calldata data) external returns (address) {
        return CodePage.write(data);
    }

    function testFuzz_write_KeepsTheData(bytes memory data, uint256 offset, uint256 size) public {
        address page = CodePage.write(data);
        assertEq(page.code.length, data.length + 1, "a STOP, then the data");
        assertEq(CodePage.readBytes(page, 0, data.length), data, "all of it");
        offset = bound(offset, 0, data.length + 64);
        bytes memory part = CodePage.readBytes(page, offset, bound(size, 0, 64));
        for (uint256 i = 0; i < part.length; ++i) {
            bytes1 expected = offset + i < data.length ? data[offset + i] : bytes1(0);
            assertTrue(part[i] == expected, "a part of it, zeros beyond");
        }
    }

    function test_write_FillsAContractAndNoMore() public {
        bytes memory full = new bytes(24_575);
        full[24_574] = 0x7f;
        address page = CodePage.write(full);
        assertEq(page.code.length, 24_576, "what EIP-170 allows");
        assertEq(CodePage.readBytes(page, 0, full.length), full, "all of it");
        vm.expectRevert(abi.encodeWithSelector(CodePage.PageTooLarge.selector, 24_576));
        this.writeExternally(new bytes(24_576));
    }

    function test_write_MakesNothingThatRuns() public {
        // 0xfe is INVALID and 0xff SELFDESTRUCT: the page must stop before either.
        address page = CodePage.write(hex"fefffefffeff");
        (bool done, bytes memory answer) = page.call("");
        assertTrue(done && answer.length == 0, "stopped at once");
        assertEq(CodePage.readBytes(page, 0, 6), hex"fefffefffeff", "still there");
    }
}
