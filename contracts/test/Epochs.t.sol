// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Keys} from "./Keys.sol";
import {Tables} from "./Tables.sol";

contract EpochsTest is Tables {
    function test_smoke() public {
        joinMany(6, 10);
        uint32 epoch = roll();
        (bytes memory signature, bytes memory indices) = vote(epoch, 0, true, 0x3d);
        assertEq(tables.verifyQuorum(DIGEST, epoch, 0, true, signature, indices), 50, "power");
        (signature, indices) = vote(epoch, 0, false, 0x19);
        assertEq(tables.verifyQuorum(DIGEST, epoch, 0, false, signature, indices), 30, "power");
        (, bytes[] memory keys,) = tables.tableOf(1, 0);
        assertEq(keys[5], keyOf(6), "key");
    }
}
