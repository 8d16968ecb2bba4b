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
///     table       aggregate key 192 | total power 8 | seats 2 | minimum owners 2 | number of seat pages 1
///                 | seat pages 20 each | powers 4 each | owners 2 each, only if minimum owners > 1
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

    uint256 internal constant HEADER = 192;
    uint256 internal constant PAGES = 205;

    // --- working memory of one verification --------------------------------------------------------------------------

    // A frame: the pairing's input, 768 bytes, whose last 256 are the running sum of keys; the operand that is added to
    // it, padded; the same packed; the table. Once the sum is done, all behind the pairing's input is free to work in.
    uint256 private constant SUM = 512;
    uint256 private constant OPERAND = 768;
    uint256 private constant PACKED = 1024;
    uint256 private constant TABLE = 1216;
    uint256 private constant FRAME_SIZE = 1888; // TABLE and a table of one page, in whole words

    /// A table of one full page and without owners: what is read at once.
    uint256 private constant ONE_PAGE_TABLE = 641;

    /// @dev Allocates a frame and reads the table into it. `header` is what the functions below want. Without powers,
    /// only total and aggregate are there, unless the table counts owners.
    function open(address table, bool withPowers) internal view returns (uint256 frame, uint256 header) {
        frame = BLS12381.allocate(FRAME_SIZE);
        CodePage.read(table, 0, withPowers ? ONE_PAGE_TABLE : PAGES, frame + TABLE);
        assembly ("memory-safe") {
            header := mload(add(frame, add(TABLE, HEADER)))
        }
        if (minimumOwnersOf(header) > 1 || (withPowers && seatsOf(header) > SEATS_PER_PAGE)) {
            uint256 size = sizeOf(seatsOf(header), minimumOwnersOf(header));
            if (size > ONE_PAGE_TABLE) BLS12381.allocate((size - ONE_PAGE_TABLE + 31) & ~uint256(31));
            CodePage.read(table, 0, size, frame + TABLE);
        }
    }

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
        return (seats + SEATS_PER_PAGE - 1) / SEATS_PER_PAGE;
    }

    /// @dev Where powers begin in a table.
    function powersAt(uint256 seats) internal pure returns (uint256) {
        return PAGES + 20 * pagesFor(seats);
    }

    function sizeOf(uint256 seats, uint256 minimumOwners) internal pure returns (uint256) {
        return powersAt(seats) + (minimumOwners > 1 ? 6 : 4) * seats;
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
    /// what `listed` asks of them; if not, power and sum mean nothing, and `listed` says what is wrong.
    function addNegatedKeys(uint256 frame, uint256 header, bytes calldata indices)
        internal
        view
        returns (uint256 power, bool isOrdered)
    {
        uint256 powers = frame + TABLE + powersAt(seatsOf(header));
        bool added = true;
        assembly ("memory-safe") {
            let seats := and(shr(176, header), 0xffff)
            let isWide := gt(seats, 256)
            let shift := sub(248, shl(3, isWide))
            // The zeros that pad a coordinate to 64 bytes; each copy below overwrites the rest.
            mstore(add(frame, OPERAND), 0)
            mstore(add(frame, 832), 0)
            mstore(add(frame, 896), 0)
            mstore(add(frame, 960), 0)

            isOrdered := iszero(and(indices.length, isWide))
            let previous := not(0)
            let page := 0
            let limit := 0 // of the seats in `page`
            let base := 0 // where in `page` the record of seat 0 would begin
            let cursor := indices.offset
            for { let end := add(cursor, indices.length) } lt(cursor, end) { cursor := add(add(cursor, 1), isWide) } {
                let index := shr(shift, calldataload(cursor))
                if iszero(lt(index, limit)) {
                    if iszero(lt(index, seats)) {
                        isOrdered := 0
                        break
                    }
                    let pageNumber := div(index, SEATS_PER_PAGE)
                    page := shr(96, mload(add(add(frame, add(TABLE, PAGES)), mul(pageNumber, 20))))
                    base := sub(1, mul(pageNumber, mul(SEATS_PER_PAGE, RECORD)))
                    limit := mul(add(pageNumber, 1), SEATS_PER_PAGE)
                    if gt(limit, seats) { limit := seats }
                }
                let its := shr(224, mload(add(powers, shl(2, index))))
                // A smaller index than the last may lie before `page`: a key of zeros is added then, and no harm done.
                isOrdered := and(and(sgt(index, previous), gt(its, 0)), isOrdered)
                previous := index
                power := add(power, its)
                extcodecopy(page, add(frame, PACKED), add(mul(index, RECORD), base), 192)
                mcopy(add(frame, 784), add(frame, PACKED), 48)
                mcopy(add(frame, 848), add(frame, 1072), 48)
                mcopy(add(frame, 912), add(frame, 1120), 48)
                mcopy(add(frame, 976), add(frame, 1168), 48)
                added := and(staticcall(gas(), 0x0d, add(frame, SUM), 512, add(frame, SUM), 256), added)
            }
        }
        // Keys were checked when they were seated: only a lack of gas can fail here.
        if (!added) revert BLS12381.PrecompileMissing(address(uint160(BLS12381.G2_ADD)));
    }

    /// @dev The power of the listed seats, and whether `seat` is one of them. Reverts with the error of the first index
    /// that is not larger than the one before it, or names no seat with power.
    function listed(uint256 frame, uint256 header, bytes calldata indices, uint256 seat)
        internal
        pure
        returns (uint256 power, bool isListed)
    {
        uint256 seats = seatsOf(header);
        uint256 width = seats > 256 ? 2 : 1;
        if (indices.length % width != 0) revert IQuorumVerifier.IndicesLength(indices.length);
        uint16 previous = 0;
        for (uint256 i = 0; i < indices.length / width; ++i) {
            uint16 index = indexAt(indices, i, width);
            if (index >= seats) revert IQuorumVerifier.IndexOutOfRange(i, index, seats);
            if (i != 0 && index == previous) revert IQuorumVerifier.IndexDuplicate(i, index);
            if (index < previous) revert IQuorumVerifier.IndicesUnsorted(i, index);
            uint256 its = powerAt(frame, header, index);
            if (its == 0) revert IQuorumVerifier.IndexWithoutPower(i, index);
            power += its;
            isListed = isListed || index == seat;
            previous = index;
        }
    }

    /// @dev The number at `position` of `indices` that have `width` bytes each.
    function indexAt(bytes calldata indices, uint256 position, uint256 width) internal pure returns (uint16 index) {
        assembly ("memory-safe") {
            index := shr(sub(256, shl(3, width)), calldataload(add(indices.offset, mul(position, width))))
        }
    }

    function powerAt(uint256 frame, uint256 header, uint256 seat) internal pure returns (uint256 power) {
        uint256 position = frame + TABLE + powersAt(seatsOf(header)) + 4 * seat;
        assembly ("memory-safe") {
            power := shr(224, mload(position))
        }
    }

    /// @dev How many distinct owners the signers have; the indices have to be in order, the table with owners.
    function countOwners(uint256 frame, uint256 header, bool isApproval, bytes calldata indices)
        internal
        pure
        returns (uint256 owners)
    {
        uint256 seats = seatsOf(header);
        uint256 width = seats > 256 ? 2 : 1;
        uint256 position = frame + TABLE + powersAt(seats) + 4 * seats;
        uint256[5] memory counted; // a bit for each owner's number
        uint256 next = 0; // in `indices`
        for (uint256 seat = 0; seat < seats; ++seat) {
            bool isListed = next < indices.length && indexAt(indices, next / width, width) == seat;
            if (isListed) next += width;
            if (isListed == isApproval || powerAt(frame, header, seat) == 0) continue;
            uint256 owner;
            assembly ("memory-safe") {
                owner := shr(240, mload(add(position, shl(1, seat))))
            }
            uint256 bit = 1 << (owner & 255);
            if (counted[owner >> 8] & bit != 0) continue;
            counted[owner >> 8] |= bit;
            ++owners;
        }
    }

    // --- one seat ----------------------------------------------------------------------------------------------------

    /// @dev Starts the sum of keys at the negated key of one seat, with power or not. Returns who sits there.
    function startAtSeat(uint256 frame, uint256 header, uint256 seat) internal view returns (address operator) {
        (address page, uint256 offset) = recordOf(frame + TABLE, header, seat);
        CodePage.read(page, offset, BLS12381.PACKED_G2, frame + PACKED);
        BLS12381.padG2(frame + PACKED, frame + SUM);
        return addressAt(page, offset + RECORD_OPERATOR);
    }

    function operatorAt(uint256 frame, uint256 header, uint256 seat) internal view returns (address) {
        (address page, uint256 offset) = recordOf(frame + TABLE, header, seat);
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
        uint256 position = table + PAGES + 20 * (seat / SEATS_PER_PAGE);
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
