// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IEpochTables} from "../src/interfaces/IEpochTables.sol";
import {Keys} from "./Keys.sol";
import {Tables} from "./Tables.sol";

/// @notice A call of rollEpoch writes one seat page. Once there are two, an attester that rotated each time when its page
/// had been written could keep everybody from rolling, and so from leaving. Branches: tree/rotations.tree.
contract RotationsTest is Tables {
    uint256 private constant SEATS_PER_PAGE = 104;
    uint32 private constant POWER = 10;

    function _expectRefused(uint256 id, uint256 secret, uint32 epoch) private {
        address account = accountOf(id);
        bytes memory key = Keys.publicKey(secret);
        bytes memory possession = prove(secret, account);
        vm.expectRevert(abi.encodeWithSelector(IEpochTables.AlreadyRotated.selector, account, epoch));
        tables.rotateKey(account, key, possession);
    }

    function test_rotateKey_OnceForEachEpoch() public {
        joinMany(3, POWER);
        rotate(1); // for the first table
        _expectRefused(1, 101, 1);
        assertEq(roll(), 1, "rolled");
        rotate(1);
        bytes memory second = keyOf(1);
        _expectRefused(1, 101, 2);
        vm.warp(block.timestamp + 30 days); // nothing but a roll makes it new
        _expectRefused(1, 101, 2);
        assertEq(roll(), 2, "rolled");
        rotate(1);
        (, bytes[] memory keys,) = tables.tableOf(2, 0);
        assertEq(keys[0], second, "the epoch's own");
    }

    function test_rotateKey_CannotHoldUpARoll() public {
        joinMany(SEATS_PER_PAGE, POWER);
        roll();
        join(SEATS_PER_PAGE + 1, POWER); // on the second page
        rotate(1);
        vm.warp(tables.rollableAt());
        assertEq(tables.rollEpoch(), 0, "the first page");
        // Or the next call would write that page once more, and never come to the second.
        _expectRefused(1, 101, 2);
        assertEq(tables.rollEpoch(), 2, "the second, and the table");
    }

    /// A newcomer in the seat of one that had rotated may rotate too.
    function test_rotateKey_CountsForTheAttesterNotTheSeat() public {
        joinMany(2, POWER);
        rotate(1);
        tables.unseat(accountOf(1));
        assertEq(join(3, POWER), 0, "the same seat");
        rotate(3);
        _expectRefused(3, 103, 1);
        roll();
        (address[] memory operators, bytes[] memory keys,) = tables.tableOf(1, 0);
        assertEq(operators[0], accountOf(3), "the newcomer");
        assertEq(keys[0], keyOf(3), "its second key");
    }
}
