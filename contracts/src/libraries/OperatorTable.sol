// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IQuorumVerifier} from "../interfaces/IQuorumVerifier.sol";
import {BLS12381} from "./BLS12381.sol";
import {CodePage} from "./CodePage.sol";

/// @title An epoch's attesters, frozen in code pages
/// @notice Two kinds of pages:
///
///     seat page   104 records of −key 192 | operator 20 | owner 20. Negated, so that "take a missing signer out" is a
///                 G2 addition; a join or a rotation writes a new page, a change of power or an exit none
///     table       aggregate key, padded 256 | total power 8 | seats 2 | minimum owners 2 | powers 4 each
///                 | seat pages 20 each | owners 2 each, only if minimum owners > 1
///
/// A table of an attester set points to the same seat pages with powers of its own. Owners are numbers: two seats have
/// the same one if, and only if, they have the same owner.
library OperatorTable {
    uint256 internal constant SEATS_PER_PAGE = 104;
    uint256 internal constant MAX_PAGES = 10;
    uint256 internal constant MAX_SEATS = 1040;
    uint256 internal constant RECORD = 232;
    uint256 internal constant RECORD_OWNER = 212;
    uint256 internal constant RECORD_OPERATOR = 192;

    uint256 internal constant HEADER = 256;
    uint256 internal constant POWERS = 268;

    // --- sizes -------------------------------------------------------------------------------------------------------

    function totalOf(uint256 header) internal pure returns (uint256) {
        return header >> 192;
    }

    function seatsOf(uint256 header) internal pure returns (uint256) {
        return header >> 176 & 0xffff;
    }

    function minimumOwnersOf(uint256 header) internal pure returns (uint256) {
        return header >> 160 & 0xffff;
    }

    function pagesFor(uint256 seats) internal pure returns (uint256) {
        unchecked {
            return (seats + SEATS_PER_PAGE - 1) / SEATS_PER_PAGE;
        }
    }

    /// @dev Where in the table the addresses of seat pages begin.
    function pagesAt(uint256 seats) internal pure returns (uint256) {
        unchecked {
            return POWERS + 4 * seats;
        }
    }

    /// @dev Where in the table owners begin.
    function ownersAt(uint256 seats) internal pure returns (uint256) {
        unchecked {
            return pagesAt(seats) + 20 * pagesFor(seats);
        }
    }

    function sizeOf(uint256 seats, uint256 minimumOwners) internal pure returns (uint256) {
        return ownersAt(seats) + (minimumOwners > 1 ? 2 : 0) * seats;
    }

    // --- working memory of one verification --------------------------------------------------------------------------

    // A frame: the pairing's input, 768 bytes, and the table, of which the aggregate key is the pairing's last 256. There
    // keys are summed; the one that is added stands before the sum, in what becomes the rest of the pairing's input.
    // Once the sum is done, all behind the pairing's input is free to work in. The frame lies at a fixed place: every
    // position in it is a constant, which spares a tenth of the loop below.
    uint256 internal constant FRAME = 256;
    uint256 private constant PACKED = 256; // a key, packed
    uint256 private constant WIDTH = 448;
    uint256 private constant SHIFT = 480;
    uint256 private constant OPERAND = 512; // the same key, padded
    uint256 private constant TABLE = 768;
    uint256 private constant TABLE_HEADER = 1024;
    uint256 private constant TABLE_POWERS = 1036;
    // Scratch space: the stack has no room for them.
    uint256 private constant PAGE = 0;
    uint256 private constant BASE = 32;

    /// A table of one full page and without owners: what is read at once, and more than the hash will need.
    uint256 private constant ONE_PAGE_TABLE = 704;

    /// Memory was taken where the frame lies.
    error FrameTaken(uint256 free);

    /// @dev Takes the frame's memory and reads the table into it; before anything else takes memory, and once in a
    /// call. Returns the table's header, which most functions below want. Without powers, nothing behind the header is
    /// read, unless the table counts owners.
    function open(address table, bool withPowers) internal view returns (uint256 header) {
        uint256 free;
        assembly ("memory-safe") {
            free := mload(0x40)
        }
        if (free > FRAME) revert FrameTaken(free);
        CodePage.read(table, 0, withPowers ? ONE_PAGE_TABLE : POWERS, TABLE);
        bool isLarge;
        assembly ("memory-safe") {
            mstore(0x40, add(TABLE, ONE_PAGE_TABLE))
            header := mload(TABLE_HEADER)
            isLarge := or(gt(and(shr(176, header), 0xffff), SEATS_PER_PAGE), gt(and(shr(160, header), 0xffff), 1))
        }
        if (isLarge && (withPowers || minimumOwnersOf(header) > 1)) _readAll(table, header);
    }

    function _readAll(address table, uint256 header) private view {
        uint256 size = sizeOf(seatsOf(header), minimumOwnersOf(header));
        assembly ("memory-safe") {
            let end := add(TABLE, and(add(size, 63), not(31)))
            if gt(end, mload(0x40)) { mstore(0x40, end) }
        }
        CodePage.read(table, 0, size, TABLE);
    }

    /// @dev Starts the sum of keys at infinity, nobody, in place of the aggregate of all.
    function startAtNobody() internal pure {
        assembly ("memory-safe") {
            // Beyond the end of calldata there are zeros.
            calldatacopy(TABLE, calldatasize(), 256)
        }
    }

    /// @dev Adds the negated keys of `indices` to the sum. Returns their power, and whether the indices were what
    /// `listed` asks of them and all keys were added; if not, power and sum mean nothing.
    function addNegatedKeys(uint256 header, bytes calldata indices) internal view returns (uint256 power, bool isGood) {
        uint256 seats = seatsOf(header);
        uint256 isWide;
        assembly ("memory-safe") {
            isWide := gt(seats, 256)
        }
        if (indices.length & isWide != 0) return (0, false);
        isGood = true;
        assembly ("memory-safe") {
            // The zeros that pad a coordinate to 64 bytes; each copy below overwrites the rest.
            mstore(OPERAND, 0)
            mstore(add(OPERAND, 64), 0)
            mstore(add(OPERAND, 128), 0)
            mstore(add(OPERAND, 192), 0)

            mstore(WIDTH, add(isWide, 1))
            mstore(SHIFT, sub(248, shl(3, isWide)))
            let previous := not(0)
            let cursor := indices.offset
            for { let end := add(cursor, indices.length) } lt(cursor, end) {} {
                // One seat page after the other.
                let first := shr(mload(SHIFT), calldataload(cursor))
                if iszero(lt(first, seats)) {
                    isGood := 0
                    break
                }
                let pageNumber := div(first, SEATS_PER_PAGE)
                mstore(PAGE, shr(96, mload(add(add(TABLE_POWERS, shl(2, seats)), mul(pageNumber, 20)))))
                // Where in the page the record of seat 0 would begin.
                mstore(BASE, sub(1, mul(pageNumber, mul(SEATS_PER_PAGE, RECORD))))
                let until := end
                if gt(seats, SEATS_PER_PAGE) {
                    let next := mul(add(pageNumber, 1), SEATS_PER_PAGE)
                    for { until := add(cursor, mload(WIDTH)) } lt(until, end) { until := add(until, mload(WIDTH)) } {
                        if iszero(lt(shr(mload(SHIFT), calldataload(until)), next)) { break }
                    }
                }
                for {} lt(cursor, until) { cursor := add(cursor, mload(WIDTH)) } {
                    let index := shr(mload(SHIFT), calldataload(cursor))
                    // An index that is not in order may lie outside the page: a key of zeros is added then, no harm.
                    extcodecopy(mload(PAGE), PACKED, add(mul(index, RECORD), mload(BASE)), 192)
                    mcopy(add(OPERAND, 16), PACKED, 48)
                    mcopy(add(OPERAND, 80), add(PACKED, 48), 48)
                    mcopy(add(OPERAND, 144), add(PACKED, 96), 48)
                    mcopy(add(OPERAND, 208), add(PACKED, 144), 48)
                    isGood := and(and(staticcall(gas(), 0x0d, OPERAND, 512, TABLE, 256), sgt(index, previous)), isGood)
                    previous := index
                    let its := shr(224, mload(add(TABLE_POWERS, shl(2, index))))
                    isGood := and(isGood, gt(its, 0))
                    power := add(power, its)
                }
            }
            // The last is the largest, if they are in order.
            isGood := and(isGood, lt(previous, seats))
        }
    }

    /// @dev The power of the listed seats, and whether `seat` is one of them. Reverts with the error of the first index
    /// that is not larger than the one before it, or names no seat with power.
    function listed(uint256 header, bytes calldata indices, uint256 seat)
        internal
        pure
        returns (uint256 power, bool isListed)
    {
        uint256 seats = seatsOf(header);
        uint256 width = _widthOf(seats);
        if (indices.length % width != 0) revert IQuorumVerifier.IndicesLength(indices.length);
        uint16 previous = 0;
        for (uint256 i = 0; i < indices.length / width; ++i) {
            uint16 index = _indexAt(indices, i, width);
            if (index >= seats) revert IQuorumVerifier.IndexOutOfRange(i, index, seats);
            if (i != 0 && index == previous) revert IQuorumVerifier.IndexDuplicate(i, index);
            if (index < previous) revert IQuorumVerifier.IndicesUnsorted(i, index);
            uint256 its = powerAt(index);
            if (its == 0) revert IQuorumVerifier.IndexWithoutPower(i, index);
            power += its;
            isListed = isListed || index == seat;
            previous = index;
        }
    }

    /// @dev How many distinct owners the signers have. The table has to count owners, the indices to be in order. To be
    /// called last: it strikes the missing out of the powers in memory.
    function countOwners(uint256 header, bool isApproval, bytes calldata indices)
        internal
        pure
        returns (uint256 owners)
    {
        uint256 seats = seatsOf(header);
        uint256 width = _widthOf(seats);
        uint256 numbers = TABLE + ownersAt(seats);
        uint256[5] memory counted; // a bit for each owner's number
        unchecked {
            uint256 count = indices.length / width;
            for (uint256 i = 0; i < count; ++i) {
                uint256 index = _indexAt(indices, i, width);
                if (isApproval) _strikeOut(index);
                else owners += _countOwner(numbers + 2 * index, counted);
            }
            if (!isApproval) return owners;
            for (uint256 seat = 0; seat < seats; ++seat) {
                if (powerAt(seat) != 0) owners += _countOwner(numbers + 2 * seat, counted);
            }
        }
    }

    function _strikeOut(uint256 seat) private pure {
        assembly ("memory-safe") {
            let position := add(TABLE_POWERS, shl(2, seat))
            mstore(position, shr(32, shl(32, mload(position))))
        }
    }

    /// @dev 1 if the owner whose number is at `ordinal` was not counted yet.
    function _countOwner(uint256 ordinal, uint256[5] memory counted) private pure returns (uint256 isNew) {
        assembly ("memory-safe") {
            let owner := shr(240, mload(ordinal))
            let position := add(counted, shl(5, shr(8, owner)))
            let bit := shl(and(owner, 255), 1)
            let bits := mload(position)
            isNew := iszero(and(bits, bit))
            mstore(position, or(bits, bit))
        }
    }

    function powerAt(uint256 seat) internal pure returns (uint256 power) {
        assembly ("memory-safe") {
            power := shr(224, mload(add(TABLE_POWERS, shl(2, seat))))
        }
    }

    function _widthOf(uint256 seats) private pure returns (uint256) {
        return seats > 256 ? 2 : 1;
    }

    function _indexAt(bytes calldata indices, uint256 position, uint256 width) private pure returns (uint16 index) {
        assembly ("memory-safe") {
            index := shr(sub(256, shl(3, width)), calldataload(add(indices.offset, mul(position, width))))
        }
    }

    // --- one seat ----------------------------------------------------------------------------------------------------

    /// @dev Starts the sum of keys at the negated key of one seat, with power or not. Returns who sits there.
    function startAtSeat(uint256 header, uint256 seat) internal view returns (address operator) {
        (address page, uint256 offset) = recordOf(TABLE, header, seat);
        CodePage.read(page, offset, BLS12381.PACKED_G2, PACKED);
        BLS12381.padG2(PACKED, TABLE);
        return addressAt(page, offset + RECORD_OPERATOR);
    }

    function operatorAt(uint256 header, uint256 seat) internal view returns (address) {
        (address page, uint256 offset) = recordOf(TABLE, header, seat);
        return addressAt(page, offset + RECORD_OPERATOR);
    }

    /// @dev Where the record of `seat` is, by the table in memory at `table`.
    function recordOf(uint256 table, uint256 header, uint256 seat)
        internal
        pure
        returns (address page, uint256 offset)
    {
        if (seat >= seatsOf(header)) {
            revert IQuorumVerifier.IndexOutOfRange(0, uint16(seat), seatsOf(header));
        }
        uint256 position = table + pagesAt(seatsOf(header)) + 20 * (seat / SEATS_PER_PAGE);
        assembly ("memory-safe") {
            page := shr(96, mload(position))
        }
        offset = RECORD * (seat % SEATS_PER_PAGE);
    }

    function addressAt(address page, uint256 offset) internal view returns (address found) {
        CodePage.read(page, offset, 32, 0);
        assembly ("memory-safe") {
            found := shr(96, mload(0))
        }
    }
}
