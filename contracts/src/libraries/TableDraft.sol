// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {BLS12381} from "./BLS12381.sol";
import {CodePage} from "./CodePage.sol";
import {OperatorTable} from "./OperatorTable.sol";

/// @title A table in memory, before it is written or after it was read
/// @notice `draft` has the layout of OperatorTable.
library TableDraft {
    /// Eight powers in a word; for each its highest bit, the rest of it, and every second power.
    uint256 private constant HIGH_BITS = 0x8000000080000000800000008000000080000000800000008000000080000000;
    uint256 private constant LOW_BITS = ~HIGH_BITS;
    uint256 private constant EVERY_SECOND = 0x00000000ffffffff00000000ffffffff00000000ffffffff00000000ffffffff;

    // --- making ------------------------------------------------------------------------------------------------------

    /// @dev A table that has seats, and neither pages, powers, total nor keys.
    function blank(uint256 seats, uint256 minimumOwners) internal pure returns (bytes memory draft) {
        draft = new bytes(OperatorTable.sizeOf(seats, minimumOwners));
        uint256 header = seats << 176 | minimumOwners << 160;
        assembly ("memory-safe") {
            mstore(add(draft, 288), header)
        }
    }

    function read(address table) internal view returns (bytes memory draft) {
        return CodePage.readBytes(table, 0, table.code.length - CodePage.PREFIX);
    }

    function setPage(bytes memory draft, uint256 index, address page) internal pure {
        uint256 position = _pages(draft) + 20 * index;
        assembly ("memory-safe") {
            mstore(position, or(shl(96, page), shr(160, shl(160, mload(position)))))
        }
    }

    function takePages(bytes memory draft, bytes memory other) internal pure {
        uint256 size = 20 * OperatorTable.pagesFor(seatsOf(draft));
        (uint256 target, uint256 position) = (_pages(draft), _pages(other));
        assembly ("memory-safe") {
            mcopy(target, position, size)
        }
    }

    /// @dev Eight powers at a time. Of the last ones, those beyond the seats have to be zero: pages come after them.
    function setPowers(bytes memory draft, uint256 word, uint256 eight) internal pure {
        assembly ("memory-safe") {
            mstore(add(add(draft, 300), shl(5, word)), eight)
        }
    }

    function setPower(bytes memory draft, uint256 seat, uint256 power) internal pure {
        assembly ("memory-safe") {
            let position := add(add(draft, 300), shl(2, seat))
            mstore(position, or(shl(224, power), shr(32, shl(32, mload(position)))))
        }
    }

    function setOwner(bytes memory draft, uint256 seat, uint256 ordinal) internal pure {
        uint256 position = _pages(draft) + 20 * OperatorTable.pagesFor(seatsOf(draft)) + 2 * seat;
        assembly ("memory-safe") {
            mstore(position, or(shl(240, ordinal), shr(16, shl(16, mload(position)))))
        }
    }

    /// @dev To be called once all powers are there; enters the total.
    /// @return total power
    /// @return voters how many seats have power
    function sum(bytes memory draft) internal pure returns (uint64 total, uint256 voters) {
        uint256 position = _powers(draft);
        uint256 end = _pages(draft);
        uint256 totals = 0;
        uint256 counts = 0;
        unchecked {
            for (; position < end; position += 32) {
                uint256 eight = _wordAt(position);
                // What comes after the powers does not count.
                if (end - position < 32) eight &= ~(type(uint256).max >> 8 * (end - position));
                totals += (eight & EVERY_SECOND) + (eight >> 32 & EVERY_SECOND);
                counts += _voters(eight) >> 31;
            }
            counts = (counts & EVERY_SECOND) + (counts >> 32 & EVERY_SECOND);
            total = uint64(totals) + uint64(totals >> 64) + uint64(totals >> 128) + uint64(totals >> 192);
            voters = uint64(counts) + uint64(counts >> 64) + uint64(counts >> 128) + uint64(counts >> 192);
        }
        assembly ("memory-safe") {
            mstore(add(draft, 288), or(shl(192, total), mload(add(draft, 288))))
        }
    }

    /// @dev Whether the same keys are in both aggregates: same seat pages, same seats with power.
    function hasVotersOf(bytes memory draft, bytes memory other) internal pure returns (bool isSame) {
        if (seatsOf(draft) != seatsOf(other)) return false;
        uint256 size = 20 * OperatorTable.pagesFor(seatsOf(draft));
        (uint256 end, uint256 otherEnd) = (_pages(draft), _pages(other));
        assembly ("memory-safe") {
            isSame := eq(keccak256(end, size), keccak256(otherEnd, size))
        }
        unchecked {
            uint256 distance = otherEnd - end;
            // The last words go on into the pages, which are the same.
            for (uint256 position = _powers(draft); isSame && position < end; position += 32) {
                isSame = _voters(_wordAt(position)) == _voters(_wordAt(position + distance));
            }
        }
    }

    function takeAggregate(bytes memory draft, bytes memory other) internal pure {
        assembly ("memory-safe") {
            mcopy(add(draft, 32), add(other, 32), 256)
        }
    }

    /// @dev Adds up the keys of all seats with power; zeros for none.
    function aggregate(bytes memory draft) internal view {
        uint256 sumAt = BLS12381.allocate(2 * BLS12381.PADDED_G2 + BLS12381.PACKED_G2);
        uint256 packed = sumAt + 2 * BLS12381.PADDED_G2;
        assembly ("memory-safe") {
            calldatacopy(sumAt, calldatasize(), 256)
        }
        for (uint256 seat = 0; seat < seatsOf(draft); ++seat) {
            if (powerOf(draft, seat) == 0) continue;
            (address page, uint256 offset) = recordOf(draft, seat);
            CodePage.read(page, offset, BLS12381.PACKED_G2, packed);
            BLS12381.padG2(packed, sumAt + BLS12381.PADDED_G2);
            BLS12381.addG2(sumAt);
        }
        uint256 target;
        assembly ("memory-safe") {
            target := add(draft, 32)
        }
        BLS12381.packG2(sumAt, packed);
        BLS12381.negateG2(packed);
        BLS12381.padG2(packed, target);
    }

    // --- reading -----------------------------------------------------------------------------------------------------

    function seatsOf(bytes memory draft) internal pure returns (uint256) {
        return OperatorTable.seatsOf(_header(draft));
    }

    function powerOf(bytes memory draft, uint256 seat) internal pure returns (uint256 power) {
        assembly ("memory-safe") {
            power := shr(224, mload(add(add(draft, 300), shl(2, seat))))
        }
    }

    /// @dev Where the record of `seat` is.
    function recordOf(bytes memory draft, uint256 seat) internal pure returns (address page, uint256 offset) {
        uint256 table;
        assembly ("memory-safe") {
            table := add(draft, 32)
        }
        return OperatorTable.recordOf(table, _header(draft), seat);
    }

    function operatorOf(bytes memory draft, uint256 seat) internal view returns (address) {
        (address page, uint256 offset) = recordOf(draft, seat);
        return OperatorTable.addressAt(page, offset + OperatorTable.RECORD_OPERATOR);
    }

    function ownerOf(bytes memory draft, uint256 seat) internal view returns (address) {
        (address page, uint256 offset) = recordOf(draft, seat);
        return OperatorTable.addressAt(page, offset + OperatorTable.RECORD_OWNER);
    }

    function countsOwners(bytes memory draft) internal pure returns (bool) {
        return OperatorTable.minimumOwnersOf(_header(draft)) > 1;
    }

    /// @dev The table in order of seats, keys no longer negated.
    function entries(bytes memory draft)
        internal
        view
        returns (address[] memory operators, bytes[] memory keys, uint64[] memory powers)
    {
        uint256 seats = seatsOf(draft);
        (operators, keys, powers) = (new address[](seats), new bytes[](seats), new uint64[](seats));
        for (uint256 seat = 0; seat < seats; ++seat) {
            operators[seat] = operatorOf(draft, seat);
            (address page, uint256 offset) = recordOf(draft, seat);
            bytes memory key = CodePage.readBytes(page, offset, BLS12381.PACKED_G2);
            uint256 point;
            assembly ("memory-safe") {
                point := add(key, 32)
            }
            BLS12381.negateG2(point);
            keys[seat] = key;
            powers[seat] = uint64(powerOf(draft, seat));
        }
    }

    function _header(bytes memory draft) private pure returns (uint256 header) {
        assembly ("memory-safe") {
            header := mload(add(draft, 288))
        }
    }

    /// @dev Where in memory the powers begin.
    function _powers(bytes memory draft) private pure returns (uint256 position) {
        assembly ("memory-safe") {
            position := add(draft, 300)
        }
    }

    /// @dev Where in memory the addresses of seat pages begin.
    function _pages(bytes memory draft) private pure returns (uint256) {
        unchecked {
            return _powers(draft) + 4 * seatsOf(draft);
        }
    }

    function _wordAt(uint256 position) private pure returns (uint256 word) {
        assembly ("memory-safe") {
            word := mload(position)
        }
    }

    /// @dev For each of eight powers its highest bit if it is not zero.
    function _voters(uint256 eight) private pure returns (uint256) {
        unchecked {
            return ((eight & LOW_BITS) + LOW_BITS | eight) & HIGH_BITS;
        }
    }
}
