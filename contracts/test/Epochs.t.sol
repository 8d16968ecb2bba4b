// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IEpochTables} from "../src/interfaces/IEpochTables.sol";
import {IQuorumVerifier} from "../src/interfaces/IQuorumVerifier.sol";
import {BLS12381} from "../src/libraries/BLS12381.sol";
import {Tables} from "./Tables.sol";

/// @notice Deploying, seats, rolling, and what a table holds. Branches: tree/setSource.tree, seat.tree, setPower.tree,
/// unseat.tree, rollEpoch.tree, isExpired.tree.
contract EpochsTest is Tables {
    address private constant STRANGER = address(0xbad);

    // --- deploying ---------------------------------------------------------------------------------------------------

    function deployExternally(uint64 epochSeconds, uint64 graceSeconds) external returns (IEpochTables) {
        return deployTables(epochSeconds, graceSeconds);
    }

    function test_constructor_BoundsTheDurations() public {
        uint64[2] memory wrong = [uint64(0), 30 days + 1];
        for (uint256 i = 0; i < 2; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IEpochTables.InvalidSetting.selector, "epochSeconds", wrong[i]));
            this.deployExternally(wrong[i], 1);
            vm.expectRevert(abi.encodeWithSelector(IEpochTables.InvalidSetting.selector, "graceSeconds", wrong[i]));
            this.deployExternally(1, wrong[i]);
        }
        IEpochTables shortest = this.deployExternally(1, 30 days);
        assertEq(shortest.epochSeconds(), 1, "epoch");
        assertEq(shortest.graceSeconds(), 30 days, "grace");
    }

    function test_constructor_RefusesAChainWithoutEip2537() public {
        // Where there is no precompile a call succeeds and answers nothing.
        for (uint160 precompile = 0x0b; precompile <= 0x10; ++precompile) {
            if (precompile == 0x0c || precompile == 0x0e) continue; // multiplication is not used
            vm.mockCall(address(precompile), "", "");
            vm.expectPartialRevert(BLS12381.PrecompileMissing.selector);
            this.deployExternally(1, 1);
            vm.clearMockedCalls();
        }
        this.deployExternally(1, 1);
    }

    function test_constructor_RefusesAPairingThatIsAlwaysTrueOrAlwaysFalse() public {
        for (uint256 answer = 0; answer < 2; ++answer) {
            vm.mockCall(address(0x0f), "", abi.encode(answer));
            vm.expectRevert(abi.encodeWithSelector(BLS12381.PrecompileMissing.selector, address(0x0f)));
            this.deployExternally(1, 1);
            vm.clearMockedCalls();
        }
    }

    // --- the source --------------------------------------------------------------------------------------------------

    function test_setSource_IsForTheDeployerAndOnce() public {
        IEpochTables fresh = deployTables(1, 1);
        assertEq(fresh.source(), address(0), "none yet");
        vm.prank(STRANGER);
        vm.expectRevert(abi.encodeWithSelector(IEpochTables.OnlyDeployer.selector, STRANGER));
        fresh.setSource(STRANGER);
        vm.expectRevert(abi.encodeWithSelector(IEpochTables.InvalidSetting.selector, "source", 0));
        fresh.setSource(address(0));
        vm.expectEmit(address(fresh));
        emit IEpochTables.SourceSet(address(1));
        fresh.setSource(address(1));
        assertEq(fresh.source(), address(1), "named");
        vm.expectRevert(abi.encodeWithSelector(IEpochTables.SourceAlreadySet.selector, address(1)));
        fresh.setSource(address(2));
    }

    function test_onlyTheSourceSeatsRotatesSetsAndUnseats() public {
        bytes memory refusal = abi.encodeWithSelector(IEpochTables.OnlySource.selector, STRANGER);
        join(1, 1);
        vm.startPrank(STRANGER);
        vm.expectRevert(refusal);
        tables.seat(STRANGER, STRANGER, "", "", 1);
        vm.expectRevert(refusal);
        tables.rotateKey(accountOf(1), "", "");
        vm.expectRevert(refusal);
        tables.setPower(accountOf(1), 2, true);
        vm.expectRevert(refusal);
        tables.unseat(accountOf(1));
        vm.stopPrank();
    }

    function test_seat_TakesOneSeatAfterTheOther() public {
        for (uint256 id = 1; id <= 3; ++id) {
            address account = accountOf(id);
            (bytes memory key, bytes memory possession) = (keyOf(id), prove(secretOf(id), account));
            vm.expectEmit(address(tables));
            emit IEpochTables.AttesterSeated(account, ownerOf(id), uint16(id - 1), key);
            vm.expectEmit(address(tables));
            emit IEpochTables.PowerChanged(account, uint16(id - 1), uint32(10 * id));
            assertEq(tables.seat(account, ownerOf(id), key, possession, uint32(10 * id)), id - 1, "seat");
            assertEq(tables.voteKeyOf(account), key, "key");
        }
        assertEq(tables.voteKeyOf(accountOf(4)), "", "no seat, no key");
    }

    function test_seat_RevertsForWhoSits() public {
        join(1, 1);
        (bytes memory key, bytes memory possession) = (keyOf(2), prove(secretOf(2), accountOf(1)));
        vm.expectRevert(abi.encodeWithSelector(IEpochTables.AlreadySeated.selector, accountOf(1)));
        tables.seat(accountOf(1), accountOf(1), key, possession, 1);
    }

    function test_seat_TakesTheSeatThatWasLeftLast() public {
        joinMany(4, 1);
        tables.unseat(accountOf(2));
        tables.unseat(accountOf(4));
        assertEq(join(5, 1), 3, "left last");
        assertEq(join(6, 1), 1, "left before");
        assertEq(join(7, 1), 4, "a new one");
    }

    function test_setPower_CountsFromTheNextRollOn() public {
        joinMany(9, 7);
        roll();
        vm.expectEmit(address(tables));
        emit IEpochTables.PowerChanged(accountOf(9), 8, type(uint32).max);
        tables.setPower(accountOf(9), type(uint32).max, false);
        tables.setPower(accountOf(1), 0, false);
        (,, uint64[] memory powers) = tables.tableOf(1, 0);
        assertEq(powers[8], 7, "the table does not change");
        assertEq(tables.rollableAt(), START + EPOCH_SECONDS, "not due");
        roll();
        (,, powers) = tables.tableOf(2, 0);
        assertEq(powers[8], type(uint32).max, "more");
        assertEq(powers[0], 0, "none");
        assertEq(powers[1], 7, "the others'");
    }

    function test_setPower_MakesTheRollDueIfAskedTo() public {
        join(1, 7);
        roll();
        vm.warp(START + 1);
        tables.setPower(accountOf(1), 6, true);
        assertEq(tables.rollableAt(), START, "due since the last");
        assertEq(tables.rollEpoch(), 2, "at once");
        assertEq(tables.rollableAt(), START + 1 + EPOCH_SECONDS, "once");
    }

    function test_setPowerRotateKeyAndUnseat_RevertForWhoHasNoSeat() public {
        bytes memory refusal = abi.encodeWithSelector(IEpochTables.NotSeated.selector, accountOf(1));
        vm.expectRevert(refusal);
        tables.setPower(accountOf(1), 1, false);
        vm.expectRevert(refusal);
        tables.rotateKey(accountOf(1), "", "");
        vm.expectRevert(refusal);
        tables.unseat(accountOf(1));
        join(1, 1);
        tables.unseat(accountOf(1));
        vm.expectRevert(refusal);
        tables.unseat(accountOf(1));
    }

    function test_unseat_TakesThePowerAndMakesTheRollDue() public {
        joinMany(3, 7);
        roll();
        vm.warp(START + 1);
        vm.expectEmit(address(tables));
        emit IEpochTables.AttesterUnseated(accountOf(2), 1);
        tables.unseat(accountOf(2));
        assertEq(tables.voteKeyOf(accountOf(2)), "", "no key");
        assertEq(tables.rollableAt(), START, "due");
        uint64 nonce = vm.getNonce(address(tables));
        tables.rollEpoch();
        assertEq(vm.getNonce(address(tables)), nonce + 1, "no page is written for who leaves");
        (address[] memory operators,, uint64[] memory powers) = tables.tableOf(2, 0);
        assertEq(operators[1], accountOf(2), "the seat stays until somebody takes it");
        assertEq(powers[1], 0, "without power");
        (,, powers) = tables.tableOf(1, 0);
        assertEq(powers[1], 7, "the older table counts it");
    }

    // --- rolling -----------------------------------------------------------------------------------------------------

    function test_rollEpoch_MayComeAtAnyMomentTheFirstTime() public {
        assertEq(tables.rollableAt(), 0, "at once");
        assertEq(tables.currentEpoch(), 0, "never rolled");
        join(1, 1);
        vm.prank(STRANGER);
        assertEq(tables.rollEpoch(), 1, "by anyone");
        assertEq(tables.currentEpoch(), 1, "epoch");
    }

    function test_rollEpoch_RevertsBeforeTheEpochIsOver() public {
        join(1, 1);
        roll();
        join(2, 1);
        tables.setPower(accountOf(1), 2, false);
        uint64 due = uint64(START) + EPOCH_SECONDS;
        assertEq(tables.rollableAt(), due, "rollable at");
        vm.warp(due - 1);
        vm.expectRevert(abi.encodeWithSelector(IEpochTables.EpochNotOver.selector, due));
        tables.rollEpoch();
        vm.warp(due);
        assertEq(tables.rollEpoch(), 2, "on time");
    }

    function test_rollEpoch_FreezesSeatsKeysAndPowers() public {
        join(1, 10);
        join(2, 0);
        join(3, type(uint32).max);
        (bool done, bytes memory answer) = address(tables).call(abi.encodeCall(tables.rollEpoch, ()));
        assertTrue(done && abi.decode(answer, (uint32)) == 1, "rolled");
        (address[] memory operators, bytes[] memory keys, uint64[] memory powers) = tables.tableOf(1, 0);
        assertEq(operators.length, 3, "all who sit");
        uint64[3] memory expected = [uint64(10), 0, type(uint32).max];
        for (uint256 i = 0; i < 3; ++i) {
            assertEq(operators[i], accountOf(i + 1), "operator");
            assertEq(keys[i], keyOf(i + 1), "key");
            assertEq(powers[i], expected[i], "power");
        }
    }

    function test_rollEpoch_TellsWhatItWrote() public {
        joinMany(10, type(uint32).max);
        tables.setPower(accountOf(4), 0, false);
        // The seat page is the contract's first creation, the table its second.
        address page = address(uint160(uint256(keccak256(abi.encodePacked(hex"d694", tables, uint8(11))))));
        address table = address(uint160(uint256(keccak256(abi.encodePacked(hex"d694", tables, uint8(12))))));
        vm.expectEmit(address(tables));
        emit IEpochTables.SeatPageWritten(0, page);
        vm.expectEmit(address(tables));
        emit IEpochTables.EpochRolled(1, 9, 9 * uint64(type(uint32).max), table);
        tables.rollEpoch();
    }

    function testFuzz_rollEpoch_SumsAllPowers(uint32[] memory given) public {
        uint256 count = given.length > 30 ? 30 : given.length;
        (uint64 total, uint256 voters) = (0, 0);
        for (uint256 i = 0; i < count; ++i) {
            join(i + 1, given[i]);
            total += given[i];
            if (given[i] != 0) ++voters;
        }
        address table = address(uint160(uint256(keccak256(abi.encodePacked(hex"d694", tables, uint8(1 + count))))));
        if (count != 0) {
            // After the records comes the page.
            table = address(uint160(uint256(keccak256(abi.encodePacked(hex"d694", tables, uint8(2 + count))))));
        }
        vm.expectEmit(address(tables));
        emit IEpochTables.EpochRolled(1, voters, total, table);
        roll();
        (,, uint64[] memory powers) = tables.tableOf(1, 0);
        assertEq(powers.length, count, "seats");
        for (uint256 i = 0; i < count; ++i) {
            assertEq(powers[i], given[i], "power");
        }
    }

    function test_rollEpoch_OfNobodyApprovesAndRejectsNothing() public {
        roll();
        (address[] memory operators,,) = tables.tableOf(1, 0);
        assertEq(operators.length, 0, "nobody");
        bytes memory signature = sign(1);
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.QuorumNotReached.selector, 0, 0, true));
        tables.verifyQuorum(DIGEST, 1, 0, true, signature, "");
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.QuorumNotReached.selector, 0, 0, false));
        tables.verifyQuorum(DIGEST, 1, 0, false, signature, "");
    }

    function test_rollEpoch_WritesTheTableAloneIfOnlyPowersMoved() public {
        joinMany(9, 5);
        roll();
        tables.setPower(accountOf(3), 6, false);
        uint64 nonce = vm.getNonce(address(tables));
        roll();
        assertEq(vm.getNonce(address(tables)), nonce + 1, "table alone");
        _expectEverybodyVotes(2, 46);
    }

    function test_rollEpoch_LeavesKeysWithoutPowerOutOfTheAggregate() public {
        joinMany(9, 5);
        roll();
        tables.setPower(accountOf(3), 0, true);
        roll();
        _expectEverybodyVotes(2, 40);
        _expectEverybodyVotes(1, 45);
        tables.setPower(accountOf(3), 1, true);
        tables.setPower(accountOf(9), 0, true);
        roll();
        _expectEverybodyVotes(3, 36);
    }

    function test_rollEpoch_GivesASeatThatWasLeftToAnother() public {
        joinMany(3, 5);
        roll();
        tables.unseat(accountOf(2));
        roll();
        assertEq(join(4, 9), 1, "the free seat");
        roll();
        (address[] memory operators, bytes[] memory keys,) = tables.tableOf(3, 0);
        assertEq(operators[1], accountOf(4), "who came");
        assertEq(keys[1], keyOf(4), "with its key");
        (operators, keys,) = tables.tableOf(1, 0);
        assertEq(operators[1], accountOf(2), "older tables keep who sat there");
        assertEq(keys[1], keyOf(2), "with its key");
        _expectEverybodyVotes(3, 19);
        _expectEverybodyVotes(2, 10);
        _expectEverybodyVotes(1, 15);
    }

    function test_rollEpoch_KeepsTheOldKeyInOlderTables() public {
        joinMany(2, 5);
        roll();
        bytes memory former = keyOf(1);
        rotate(1);
        (, bytes[] memory keys,) = tables.tableOf(1, 0);
        assertEq(keys[0], former, "until the roll, and after");
        assertEq(tables.voteKeyOf(accountOf(1)), keyOf(1), "the present one");
        roll();
        (, keys,) = tables.tableOf(2, 0);
        assertEq(keys[0], keyOf(1), "from the roll on");
        _expectEverybodyVotes(2, 10);
    }

    function _expectEverybodyVotes(uint32 epoch, uint256 power) private view {
        (bytes memory signature, bytes memory missing) = vote(epoch, 0, true, type(uint256).max);
        assertEq(missing.length, 0, "nobody is missing");
        assertEq(tables.verifyQuorum(DIGEST, epoch, 0, true, signature, ""), power, "power");
    }

    function test_rollEpoch_WritesOnePageACall() public {
        joinMany(209, 1); // 104 · 2 + 1
        assertEq(tables.rollEpoch(), 0, "first page");
        assertEq(tables.rollEpoch(), 0, "second page");
        assertEq(tables.currentEpoch(), 0, "not yet");
        assertEq(tables.rollEpoch(), 1, "third page and table");
        // What gets dirty meanwhile is written too; what is clean is not.
        rotate(1);
        rotate(209);
        vm.warp(tables.rollableAt());
        assertEq(tables.rollEpoch(), 0, "first page");
        rotate(104);
        assertEq(tables.rollEpoch(), 0, "first page again");
        uint64 nonce = vm.getNonce(address(tables));
        assertEq(tables.rollEpoch(), 2, "third page and table");
        assertEq(vm.getNonce(address(tables)), nonce + 2, "page and table");
        (, bytes[] memory keys,) = tables.tableOf(2, 0);
        assertEq(keys[0], keyOf(1), "rotated");
        assertEq(keys[103], keyOf(104), "rotated");
        assertEq(keys[104], keyOf(105), "not rotated");
        assertEq(keys[208], keyOf(209), "rotated");
        (bytes memory signature, bytes memory missing) = vote(2, 0, true, type(uint256).max >> 48);
        assertEq(missing.length, 1, "seat 208");
        assertEq(tables.verifyQuorum(DIGEST, 2, 0, true, signature, missing), 208, "all but one");
    }

    // --- validity ----------------------------------------------------------------------------------------------------

    function test_isExpired_GraceSecondsAfterTheTableWasSuperseded() public {
        assertTrue(!tables.isExpired(0), "current");
        assertTrue(!tables.isExpired(1), "to come");
        join(1, 1);
        roll();
        assertTrue(!tables.isExpired(0), "within the grace");
        vm.warp(START + 3 * EPOCH_SECONDS);
        assertTrue(tables.isExpired(0), "nobody votes in it");
        assertTrue(!tables.isExpired(1), "current, however old");
        roll();
        uint64 last = uint64(START) + 3 * EPOCH_SECONDS + GRACE_SECONDS;
        // Many rolls do not shorten it.
        for (uint256 i = 0; i < 5; ++i) {
            tables.setPower(accountOf(1), 1, true);
            tables.rollEpoch();
        }
        vm.warp(last);
        assertTrue(!tables.isExpired(1), "the last moment");
        (bytes memory signature,) = vote(1, 0, true, 1);
        assertEq(tables.verifyQuorum(DIGEST, 1, 0, true, signature, ""), 1, "the last moment");
        vm.warp(last + 1);
        assertTrue(tables.isExpired(1), "over");
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.EpochExpired.selector, 1, last));
        tables.verifyQuorum(DIGEST, 1, 0, true, signature, "");
    }

    function test_tableOf_RevertsForAnEpochThatNeverWas() public {
        _expectUnknown(0, 0);
        _expectUnknown(1, 0);
        join(1, 1);
        roll();
        _expectUnknown(0, 1);
        _expectUnknown(2, 1);
        _expectUnknown(type(uint32).max, 1);
    }

    function _expectUnknown(uint32 epoch, uint32 current) private {
        bytes memory refusal = abi.encodeWithSelector(IQuorumVerifier.UnknownEpoch.selector, epoch, current);
        vm.expectRevert(refusal);
        tables.tableOf(epoch, 0);
        vm.expectRevert(refusal);
        tables.verifyQuorum(DIGEST, epoch, 0, true, "", "");
    }
}
