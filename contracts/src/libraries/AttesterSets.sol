// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {TransientSlot} from "@openzeppelin/contracts/utils/TransientSlot.sol";

import {IEpochTables} from "../interfaces/IEpochTables.sol";
import {CodePage} from "./CodePage.sol";
import {OperatorTable} from "./OperatorTable.sol";
import {TableDraft} from "./TableDraft.sol";

/// @title Who of everybody votes on a kind of task
library AttesterSets {
    using TransientSlot for bytes32;
    using TransientSlot for TransientSlot.Uint256Slot;

    uint256 private constant ADDRESS = 20;

    /// `members`: a page of addresses, strictly increasing; zero: everybody.
    struct Rules {
        address members;
        uint32 minimumPower;
        uint32 maximumPower;
        uint16 minimumOwners;
    }

    /// @dev Checks the rules and keeps the members in a page.
    function write(IEpochTables.AttesterSet calldata rules) internal returns (Rules memory) {
        address[] calldata members = rules.members;
        bool isRangeEmpty = rules.maximumPower != 0 && rules.maximumPower < rules.minimumPower;
        if (isRangeEmpty || members.length > OperatorTable.MAX_SEATS) revert IEpochTables.InvalidAttesterSet();
        bytes memory packed = new bytes(ADDRESS * members.length);
        address previous = address(0);
        for (uint256 i = 0; i < members.length; ++i) {
            address member = members[i];
            if (member <= previous) revert IEpochTables.InvalidAttesterSet();
            previous = member;
            assembly ("memory-safe") {
                let position := add(add(packed, 32), mul(i, ADDRESS))
                // The twelve bytes behind it are the next one's, or padding that Solidity does not mind.
                mstore(position, or(shl(96, member), shr(160, shl(160, mload(position)))))
            }
        }
        address page = members.length == 0 ? address(0) : CodePage.write(packed);
        return Rules(page, rules.minimumPower, rules.maximumPower, rules.minimumOwners);
    }

    function read(Rules memory rules) internal view returns (IEpochTables.AttesterSet memory) {
        bytes memory packed = _members(rules);
        address[] memory members = new address[](packed.length / ADDRESS);
        for (uint256 i = 0; i < members.length; ++i) {
            members[i] = _memberAt(packed, i);
        }
        return IEpochTables.AttesterSet(members, rules.minimumPower, rules.maximumPower, rules.minimumOwners);
    }

    /// @dev The set's table, made of everybody's: same seats, same pages, powers of its own; no total, no keys, no
    /// owners yet.
    function draft(Rules memory rules, bytes memory everybody) internal view returns (bytes memory made) {
        uint256 seats = TableDraft.seatsOf(everybody);
        made = TableDraft.blank(seats, rules.minimumOwners);
        TableDraft.takePages(made, everybody);
        bytes memory members = _members(rules);
        for (uint256 i = 0; i < seats; ++i) {
            uint256 power = TableDraft.powerOf(everybody, i);
            if (power == 0 || power < rules.minimumPower) continue;
            if (members.length != 0 && !_isMember(members, TableDraft.operatorOf(everybody, i))) continue;
            if (rules.maximumPower != 0 && power > rules.maximumPower) power = rules.maximumPower;
            TableDraft.setPower(made, i, power);
        }
    }

    /// @dev Numbers the owners of the seats with power, if the table counts owners. `salt` must be another one for each
    /// table: transient storage outlives the call.
    function addOwners(bytes memory made, bytes32 salt) internal {
        if (!TableDraft.countsOwners(made)) return;
        for (uint256 i = 0; i < TableDraft.seatsOf(made); ++i) {
            if (TableDraft.powerOf(made, i) == 0) continue;
            TransientSlot.Uint256Slot slot = keccak256(abi.encode(salt, TableDraft.ownerOf(made, i))).asUint256();
            uint256 ordinal = slot.tload();
            if (ordinal == 0) {
                ordinal = i + 1;
                slot.tstore(ordinal);
            }
            TableDraft.setOwner(made, i, ordinal - 1);
        }
    }

    function _members(Rules memory rules) private view returns (bytes memory) {
        if (rules.members == address(0)) return "";
        return CodePage.readBytes(rules.members, 0, rules.members.code.length - CodePage.PREFIX);
    }

    /// @dev By halves.
    function _isMember(bytes memory members, address operator) private pure returns (bool) {
        uint256 low = 0;
        uint256 high = members.length / ADDRESS;
        while (low < high) {
            uint256 middle = (low + high) / 2;
            address found = _memberAt(members, middle);
            if (found == operator) return true;
            if (found < operator) low = middle + 1;
            else high = middle;
        }
        return false;
    }

    function _memberAt(bytes memory members, uint256 position) private pure returns (address member) {
        assembly ("memory-safe") {
            member := shr(96, mload(add(add(members, 32), mul(position, ADDRESS))))
        }
    }
}
