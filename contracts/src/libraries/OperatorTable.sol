// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {BLS12381} from "./BLS12381.sol";
import {CodePage} from "./CodePage.sol";

/// @title An epoch's attesters, frozen in code pages
/// @notice Three pages:
///
///     key page      −key, packed, 192 bytes each. Negated, so that "take a missing signer out" is a G2 addition.
///     member page   address of the key page, then the attesters' addresses, 20 bytes each
///     table         aggregate key 192 | total power 8 | count 1 | key page 20 | member page 20 | powers 8 each
///
/// Key page and member page depend on who attests and in what order alone; an epoch in which only stakes moved writes
/// a new table and points to the old ones.
library OperatorTable {
    /// One key page holds 127 keys (24,384 of 24,575 bytes), and indices travel as one byte each.
    uint256 internal constant MAX_ATTESTERS = 127;

    uint256 private constant TOTAL = 192;
    uint256 private constant COUNT = 200;
    uint256 private constant KEY_PAGE = 201;
    uint256 private constant MEMBER_PAGE = 221;
    uint256 private constant POWERS = 241;
    uint256 private constant MAX_SIZE = 1257; // POWERS + 8 · MAX_ATTESTERS

    // --- working memory of one verification --------------------------------------------------------------------------

    // A frame: the pairing's input, 768 bytes, whose last 256 are the running sum of keys; the operand that is added to
    // it, padded; the same packed; the table. Once the sum is done, all behind the pairing's input is free to work in.
    uint256 private constant SUM = 512;
    uint256 private constant OPERAND = 768;
    uint256 private constant PACKED = 1024;
    uint256 private constant TABLE = 1216;
    uint256 private constant FRAME_SIZE = 2496; // TABLE + MAX_SIZE, in whole words

    /// @dev Allocates a frame and reads the table into it, without the powers if nobody's is asked for.
    function open(address table, bool withPowers) internal view returns (uint256 frame, uint256 total, uint256 count) {
        frame = BLS12381.allocate(FRAME_SIZE);
        CodePage.read(table, 0, withPowers ? MAX_SIZE : POWERS, frame + TABLE);
        assembly ("memory-safe") {
            total := shr(192, mload(add(frame, add(TABLE, TOTAL))))
            count := byte(0, mload(add(frame, add(TABLE, COUNT))))
        }
    }

    /// @dev Starts the sum of keys at the aggregate of all.
    function startAtAggregate(uint256 frame) internal pure {
        BLS12381.padG2(frame + TABLE, frame + SUM);
    }

    /// @dev Starts the sum of keys at infinity: nobody.
    function startAtNobody(uint256 frame) internal pure {
        assembly ("memory-safe") {
            // Beyond the end of calldata there are zeros.
            calldatacopy(add(frame, SUM), calldatasize(), 256)
        }
    }

    /// @dev Adds the negated keys of `indices` to the frame's sum. Returns their power, and whether the indices were
    /// strictly increasing and below `count`; if not, power and sum mean nothing.
    function addNegatedKeys(uint256 frame, uint256 count, bytes calldata indices)
        internal
        view
        returns (uint256 power, bool isOrdered)
    {
        bool added = true;
        uint256 g2Add = BLS12381.G2_ADD;
        assembly ("memory-safe") {
            let sum := add(frame, SUM)
            let operand := add(frame, OPERAND)
            let packed := add(frame, PACKED)
            let powers := add(frame, add(TABLE, POWERS))
            let keyPage := shr(96, mload(add(frame, add(TABLE, KEY_PAGE))))
            let smallest := 0
            isOrdered := 1
            // The zeros that pad a coordinate to 64 bytes; each copy below overwrites the rest.
            mstore(operand, 0)
            mstore(add(operand, 64), 0)
            mstore(add(operand, 128), 0)
            mstore(add(operand, 192), 0)
            let cursor := indices.offset
            for { let end := add(cursor, indices.length) } lt(cursor, end) { cursor := add(cursor, 1) } {
                let index := byte(0, calldataload(cursor))
                if or(lt(index, smallest), iszero(lt(index, count))) {
                    isOrdered := 0
                    break
                }
                smallest := add(index, 1)
                power := add(power, shr(192, mload(add(powers, shl(3, index)))))
                extcodecopy(keyPage, packed, add(mul(index, 192), 1), 192)
                mcopy(add(operand, 16), packed, 48)
                mcopy(add(operand, 80), add(packed, 48), 48)
                mcopy(add(operand, 144), add(packed, 96), 48)
                mcopy(add(operand, 208), add(packed, 144), 48)
                added := and(staticcall(gas(), g2Add, sum, 512, sum, 256), added)
            }
        }
        // Keys were checked when they were registered: only a lack of gas can fail here.
        if (!added) revert BLS12381.PrecompileMissing(address(uint160(g2Add)));
    }

    // --- writing -----------------------------------------------------------------------------------------------------

    /// @dev `keys` are each attester's page with its negated key.
    function writeMembers(address[] memory members, address[] memory keys) internal returns (address memberPage) {
        bytes memory page = new bytes(BLS12381.PACKED_G2 * members.length);
        uint256 target;
        assembly ("memory-safe") {
            target := add(page, 32)
        }
        bytes memory names;
        for (uint256 i = 0; i < members.length; ++i) {
            CodePage.read(keys[i], 0, BLS12381.PACKED_G2, target + BLS12381.PACKED_G2 * i);
            names = abi.encodePacked(names, members[i]);
        }
        memberPage = CodePage.write(abi.encodePacked(CodePage.write(page), names));
    }

    function write(address memberPage, uint64[] memory powers) internal returns (address table, uint64 total) {
        address keyPage = _addressAt(memberPage, 0);
        bytes memory weights;
        for (uint256 i = 0; i < powers.length; ++i) {
            weights = abi.encodePacked(weights, powers[i]);
            total += powers[i];
        }
        bytes memory aggregate = _aggregate(keyPage, powers.length);
        table = CodePage.write(abi.encodePacked(aggregate, total, uint8(powers.length), keyPage, memberPage, weights));
    }

    /// @dev The sum of the page's keys, packed and no longer negated; zeros for no key at all.
    function _aggregate(address keyPage, uint256 count) private view returns (bytes memory aggregate) {
        aggregate = new bytes(BLS12381.PACKED_G2);
        uint256 frame = BLS12381.allocate(FRAME_SIZE);
        startAtNobody(frame);
        for (uint256 i = 0; i < count; ++i) {
            CodePage.read(keyPage, BLS12381.PACKED_G2 * i, BLS12381.PACKED_G2, frame + PACKED);
            BLS12381.padG2(frame + PACKED, frame + OPERAND);
            BLS12381.addG2(frame + SUM);
        }
        uint256 target;
        assembly ("memory-safe") {
            target := add(aggregate, 32)
        }
        BLS12381.packG2(frame + SUM, target);
        BLS12381.negateG2(target);
    }

    // --- reading -----------------------------------------------------------------------------------------------------

    /// @dev The table in index order, keys no longer negated.
    function entries(address table)
        internal
        view
        returns (address[] memory members, bytes[] memory keys, uint64[] memory powers)
    {
        uint256 count = uint8(CodePage.readBytes(table, COUNT, 1)[0]);
        (address keyPage, address memberPage) = (_addressAt(table, KEY_PAGE), _addressAt(table, MEMBER_PAGE));
        (members, keys, powers) = (new address[](count), new bytes[](count), new uint64[](count));
        for (uint256 i = 0; i < count; ++i) {
            members[i] = _addressAt(memberPage, 20 + 20 * i);
            keys[i] = readKey(keyPage, i);
            powers[i] = uint64(bytes8(CodePage.readBytes(table, POWERS + 8 * i, 8)));
        }
    }

    /// @dev The key at `index`, packed and no longer negated.
    function readKey(address keyPage, uint256 index) internal view returns (bytes memory key) {
        key = CodePage.readBytes(keyPage, BLS12381.PACKED_G2 * index, BLS12381.PACKED_G2);
        uint256 point;
        assembly ("memory-safe") {
            point := add(key, 32)
        }
        BLS12381.negateG2(point);
    }

    function _addressAt(address page, uint256 offset) private view returns (address) {
        return address(bytes20(CodePage.readBytes(page, offset, 20)));
    }
}
