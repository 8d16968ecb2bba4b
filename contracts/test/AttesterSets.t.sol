// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IEpochTables} from "../src/interfaces/IEpochTables.sol";
import {IQuorumVerifier} from "../src/interfaces/IQuorumVerifier.sol";
import {Keys} from "./Keys.sol";
import {Tables} from "./Tables.sol";

/// @notice Sets and their tables. Branches: tree/createAttesterSet.tree, tree/rollSet.tree.
contract AttesterSetsTest is Tables {
    function setUp() public override {
        super.setUp();
        // Owners: 1 to 3 have one, 4 to 6 another, 7 to 9 a third.
        for (uint256 id = 1; id <= 9; ++id) {
            join(id, uint32(10 * id));
        }
        roll();
    }

    function rulesOf(uint256[] memory ids, uint32 smallest, uint32 largest, uint16 owners)
        private
        pure
        returns (IEpochTables.AttesterSet memory)
    {
        address[] memory members = new address[](ids.length);
        for (uint256 i = 0; i < ids.length; ++i) {
            uint256 j = i;
            for (; j > 0 && members[j - 1] > accountOf(ids[i]); --j) {
                members[j] = members[j - 1];
            }
            members[j] = accountOf(ids[i]);
        }
        return IEpochTables.AttesterSet(members, smallest, largest, owners);
    }

    function everybody(uint32 smallest, uint32 largest, uint16 owners)
        private
        pure
        returns (IEpochTables.AttesterSet memory)
    {
        return rulesOf(new uint256[](0), smallest, largest, owners);
    }

    // --- createAttesterSet -------------------------------------------------------------------------------------------

    function test_createAttesterSet_KeepsTheRules() public {
        uint256[] memory ids = new uint256[](3);
        (ids[0], ids[1], ids[2]) = (7, 2, 1234);
        IEpochTables.AttesterSet memory rules = rulesOf(ids, 15, 40, 2);
        vm.expectEmit(address(tables));
        emit IEpochTables.AttesterSetCreated(1, rules);
        assertEq(tables.createAttesterSet(rules), 1, "ids count from 1");
        vm.prank(address(0xbad));
        assertEq(tables.createAttesterSet(everybody(0, 0, 0)), 2, "anyone may");
        assertEq(tables.attesterSetCount(), 2, "count");
        assertEq(abi.encode(tables.attesterSet(1)), abi.encode(rules), "rules");
        assertEq(abi.encode(tables.attesterSet(2)), abi.encode(everybody(0, 0, 0)), "rules");
    }

    function test_createAttesterSet_RevertsForMembersOutOfOrder() public {
        IEpochTables.AttesterSet memory rules;
        rules.members = new address[](2);
        address[2][3] memory wrong = [[address(2), address(1)], [address(1), address(1)], [address(0), address(1)]];
        for (uint256 i = 0; i < 3; ++i) {
            (rules.members[0], rules.members[1]) = (wrong[i][0], wrong[i][1]);
            vm.expectRevert(abi.encodeWithSelector(IEpochTables.InvalidAttesterSet.selector));
            tables.createAttesterSet(rules);
        }
    }

    function test_createAttesterSet_BoundsTheMembers() public {
        IEpochTables.AttesterSet memory rules;
        rules.members = new address[](1041);
        for (uint160 i = 0; i < 1041; ++i) {
            rules.members[i] = address(i + 1);
        }
        vm.expectRevert(abi.encodeWithSelector(IEpochTables.InvalidAttesterSet.selector));
        tables.createAttesterSet(rules);
        address[] memory members = rules.members;
        assembly ("memory-safe") {
            mstore(members, 1040)
        }
        tables.createAttesterSet(rules);
        assertEq(abi.encode(tables.attesterSet(1)), abi.encode(rules), "as many as there are seats");
    }

    function test_createAttesterSet_RevertsForAnEmptyRangeOfPowers() public {
        vm.expectRevert(abi.encodeWithSelector(IEpochTables.InvalidAttesterSet.selector));
        tables.createAttesterSet(everybody(2, 1, 0));
        tables.createAttesterSet(everybody(2, 2, 0));
        tables.createAttesterSet(everybody(2, 0, 0));
    }

    function test_attesterSet_RevertsForOneThatIsNot() public {
        uint32[2] memory wrong = [uint32(0), 1];
        for (uint256 i = 0; i < 2; ++i) {
            bytes memory refusal = abi.encodeWithSelector(IEpochTables.UnknownAttesterSet.selector, wrong[i]);
            vm.expectRevert(refusal);
            tables.attesterSet(wrong[i]);
            vm.expectRevert(refusal);
            tables.rollSet(1, wrong[i]);
        }
        vm.expectRevert(abi.encodeWithSelector(IEpochTables.UnknownAttesterSet.selector, 1));
        tables.tableOf(1, 1);
        bytes memory signature = sign(1);
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.SetTableMissing.selector, 1, 1));
        tables.verifyQuorum(DIGEST, 1, 1, true, signature, "");
    }

    // --- rollSet -----------------------------------------------------------------------------------------------------

    function testFuzz_rollSet_WritesWhatTheRulesSay(uint256 members, uint32 smallest, uint32 largest) public {
        (smallest, largest) = (smallest % 100, largest % 100);
        if (largest != 0 && largest < smallest) (smallest, largest) = (largest, smallest);
        members &= 511;
        uint256[] memory ids = new uint256[](10);
        uint256 count = 0;
        for (uint256 id = 1; id <= 9; ++id) {
            if (members >> (id - 1) & 1 == 1) ids[count++] = id;
        }
        // Who is no attester does not matter; without anybody it would be a set of everybody.
        ids[count++] = 1234;
        assembly ("memory-safe") {
            mstore(ids, count)
        }
        tables.createAttesterSet(rulesOf(ids, smallest, largest, 0));
        bytes memory before = everything(1, 1);
        uint64 total = 0;
        uint64[] memory expected = new uint64[](9);
        for (uint256 i = 0; i < 9; ++i) {
            if (members >> i & 1 == 0 || 10 * (i + 1) < smallest) continue;
            expected[i] = uint64(10 * (i + 1));
            if (largest != 0 && expected[i] > largest) expected[i] = largest;
            total += expected[i];
        }
        assertEq(tables.rollSet(1, 1), total, "total");
        (,, uint64[] memory powers) = tables.tableOf(1, 1);
        assertEq(abi.encode(powers), abi.encode(expected), "powers");
        assertEq(everything(1, 1), before, "what was foretold");
        if (total == 0) return;
        (bytes memory signature, bytes memory missing) = vote(1, 1, true, 511);
        assertEq(missing.length, 0, "nobody is missing");
        assertEq(tables.verifyQuorum(DIGEST, 1, 1, true, signature, ""), total, "the aggregate is the set's");
    }

    function everything(uint32 epoch, uint32 set) private view returns (bytes memory) {
        (address[] memory operators, bytes[] memory keys, uint64[] memory powers) = tables.tableOf(epoch, set);
        return abi.encode(operators, keys, powers);
    }

    function test_rollSet_IsForAnyoneOnceAndTellsSo() public {
        tables.createAttesterSet(everybody(0, 20, 0));
        address table = address(
            uint160(uint256(keccak256(abi.encodePacked(hex"d694", tables, uint8(vm.getNonce(address(tables)))))))
        );
        vm.expectEmit(address(tables));
        emit IEpochTables.SetRolled(1, 1, 170, table);
        vm.prank(address(0xbad));
        tables.rollSet(1, 1);
        vm.expectRevert(abi.encodeWithSelector(IEpochTables.SetAlreadyRolled.selector, 1, 1));
        tables.rollSet(1, 1);
    }

    function test_rollSet_IsForAnyEpochThereEverWas() public {
        tables.createAttesterSet(everybody(0, 20, 0));
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.UnknownEpoch.selector, 2, 1));
        tables.rollSet(2, 1);
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.UnknownEpoch.selector, 0, 1));
        tables.rollSet(0, 1);
        roll();
        uint64 last = uint64(block.timestamp) + GRACE_SECONDS;
        vm.warp(last + 1);
        tables.rollSet(1, 1);
        tables.rollSet(2, 1);
        (bytes memory signature,) = vote(1, 1, true, 511);
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.EpochExpired.selector, 1, last));
        tables.verifyQuorum(DIGEST, 1, 1, true, signature, "");
        (,, uint256 signed) = tables.shareOf(1, 1, true, "", 0);
        assertEq(signed, 170, "shares are for ever");
        assertEq(tables.verifyQuorum(DIGEST, 2, 1, true, signature, ""), 170, "the next is valid");
    }

    function test_verifyQuorum_CountsASetsPowersAlone() public {
        uint256[] memory ids = new uint256[](3);
        (ids[0], ids[1], ids[2]) = (4, 5, 9);
        tables.createAttesterSet(rulesOf(ids, 0, 60, 0));
        tables.rollSet(1, 1);
        // 40, 50 and 60 of 150: the last two are more than two thirds.
        (bytes memory signature, bytes memory missing) = vote(1, 1, true, 1 << 4 | 1 << 8);
        assertEq(missing, hex"03", "seat 3");
        assertEq(tables.verifyQuorum(DIGEST, 1, 1, true, signature, missing), 110, "power");
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.IndexWithoutPower.selector, 0, 0));
        tables.verifyQuorum(DIGEST, 1, 1, true, signature, hex"0003");
        (address operator, uint256 power, uint256 signed) = tables.shareOf(1, 1, true, missing, 8);
        assertEq(operator, accountOf(9), "operator");
        assertEq(power, 60, "no more than the maximum");
        assertEq(signed, 110, "of all that signed");
        // In everybody's table the same list says that seven more have signed.
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.SignatureMismatch.selector, DIGEST));
        tables.verifyQuorum(DIGEST, 1, 0, true, signature, missing);
    }

    // --- owners ------------------------------------------------------------------------------------------------------

    function testFuzz_verifyQuorum_CountsDistinctOwners(uint256 signers, uint16 minimum, bool isApproval) public {
        signers &= 511;
        minimum = uint16(2 + minimum % 3);
        tables.createAttesterSet(everybody(15, 0, minimum)); // without 1
        tables.rollSet(1, 1);
        (bytes memory signature, bytes memory indices) = vote(1, 1, isApproval, signers);
        (uint256 power, uint256 owners) = powerAndOwners(signers & ~uint256(1));
        bytes memory refusal;
        if (power * 3 <= (isApproval ? 880 : 440)) {
            refusal = abi.encodeWithSelector(IQuorumVerifier.QuorumNotReached.selector, power, 440, isApproval);
        } else if (owners < minimum) {
            refusal = abi.encodeWithSelector(IQuorumVerifier.OwnersNotReached.selector, owners, minimum);
        }
        if (refusal.length != 0) vm.expectRevert(refusal);
        uint256 signed = tables.verifyQuorum(DIGEST, 1, 1, isApproval, signature, indices);
        if (refusal.length == 0) assertEq(signed, power, "power");
    }

    function powerAndOwners(uint256 signers) private pure returns (uint256 power, uint256 owners) {
        for (uint256 i = 0; i < 9; ++i) {
            if (signers >> i & 1 == 1) power += 10 * (i + 1);
            if (i % 3 == 0 && signers >> i & 7 != 0) ++owners;
        }
    }

    function test_rollSet_NumbersOwnersForEachTableAnew() public {
        // In one transaction, as a test is, transient storage stays: another table must not find it.
        tables.createAttesterSet(everybody(0, 0, 2));
        tables.createAttesterSet(everybody(35, 0, 3));
        tables.rollSet(1, 1);
        tables.rollSet(1, 2);
        roll();
        tables.rollSet(2, 1);
        (bytes memory signature,) = vote(1, 1, true, 511);
        assertEq(tables.verifyQuorum(DIGEST, 1, 1, true, signature, ""), 450, "three owners");
        assertEq(tables.verifyQuorum(DIGEST, 2, 1, true, signature, ""), 450, "three owners");
        (signature,) = vote(1, 2, true, 511);
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.OwnersNotReached.selector, 2, 3));
        tables.verifyQuorum(DIGEST, 1, 2, true, signature, "");
    }
}

/// @notice As many as there can be, within what a transaction may use.
contract LargestTableTest is Tables {
    /// EIP-7825.
    uint256 private constant TRANSACTION_GAS = 16_777_216;

    function test_aFullTableRollsInTransactionsOfBoundedGas() public {
        joinMany(1040, 3);
        (bytes memory key, bytes memory possession) = (keyOf(1041), prove(secretOf(1041), accountOf(1041)));
        vm.expectRevert(abi.encodeWithSelector(IEpochTables.TooManySeats.selector, 1040));
        tables.seat(accountOf(1041), ownerOf(1041), key, possession, 1);

        uint256 calls = 0;
        for (uint32 epoch = 0; epoch == 0; ++calls) {
            uint256 before = gasleft();
            epoch = tables.rollEpoch();
            assertTrue(before - gasleft() < TRANSACTION_GAS - 100_000, "one call of a roll");
        }
        assertEq(calls, 10, "a page a call");

        IEpochTables.AttesterSet memory rules;
        rules.minimumOwners = 233;
        // Everybody by name, and one who is not: nothing can be dearer.
        rules.members = new address[](1040);
        (address[] memory operators,,) = tables.tableOf(1, 0);
        rules.members = sorted(operators);
        uint256 left = gasleft();
        tables.createAttesterSet(rules);
        assertTrue(left - gasleft() < TRANSACTION_GAS - 500_000, "a set");
        left = gasleft();
        assertEq(tables.rollSet(1, 1), 3120, "total");
        assertTrue(left - gasleft() < TRANSACTION_GAS - 100_000, "its table");

        // 694 of 1,040 are more than two thirds; they have 232 owners, one seat more makes it 233.
        (bytes memory signature, bytes memory missing) = lastMissing(694);
        assertEq(tables.verifyQuorum(DIGEST, 1, 0, true, signature, missing), 2082, "694");
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.OwnersNotReached.selector, 232, 233));
        tables.verifyQuorum(DIGEST, 1, 1, true, signature, missing);
        (signature, missing) = lastMissing(697);
        left = gasleft();
        assertEq(tables.verifyQuorum(DIGEST, 1, 1, true, signature, missing), 2091, "697");
        assertTrue(left - gasleft() < 1_000_000, "with owners");
        (signature, missing) = lastMissing(693);
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.QuorumNotReached.selector, 2079, 3120, true));
        tables.verifyQuorum(DIGEST, 1, 0, true, signature, missing);
    }

    /// @dev All signed but those from seat `signers` on.
    function lastMissing(uint256 signers) private view returns (bytes memory signature, bytes memory missing) {
        uint256 secret = 0;
        for (uint256 i = 0; i < signers; ++i) {
            secret = addmod(secret, secretOf(i + 1), Keys.ORDER);
        }
        missing = new bytes(2 * (1040 - signers));
        for (uint256 i = signers; i < 1040; ++i) {
            uint256 position = 2 * (i - signers);
            (missing[position], missing[position + 1]) = (bytes1(uint8(i >> 8)), bytes1(uint8(i)));
        }
        signature = sign(secret);
    }

    /// @dev Merge sort, from small runs to large ones.
    function sorted(address[] memory from) private pure returns (address[] memory) {
        address[] memory to = new address[](from.length);
        for (uint256 run = 1; run < from.length; run *= 2) {
            for (uint256 start = 0; start < from.length; start += 2 * run) {
                merge(from, to, start, run);
            }
            (from, to) = (to, from);
        }
        return from;
    }

    function merge(address[] memory from, address[] memory to, uint256 start, uint256 run) private pure {
        uint256 middle = start + run < from.length ? start + run : from.length;
        uint256 end = start + 2 * run < from.length ? start + 2 * run : from.length;
        (uint256 left, uint256 right) = (start, middle);
        for (uint256 i = start; i < end; ++i) {
            bool isLeft = left < middle && (right == end || from[left] < from[right]);
            to[i] = isLeft ? from[left++] : from[right++];
        }
    }
}
