// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Governed} from "../src/Governed.sol";
import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {IOperatorRegistry} from "../src/interfaces/IOperatorRegistry.sol";
import {IQuorumVerifier} from "../src/interfaces/IQuorumVerifier.sol";
import {ISlashingCourt} from "../src/interfaces/ISlashingCourt.sol";
import {CourtNetwork} from "./CourtNetwork.sol";

/// @notice Slashes that wait, and what becomes of them. Branches: tree/queueRejected.tree, tree/executeSlash.tree,
/// tree/cancelSlash.tree.
contract SlashQueueTest is CourtNetwork {
    // --- queueRejected -----------------------------------------------------------------------------------------------

    function test_queueRejected_IsForTheCenter() public {
        vm.expectRevert(abi.encodeWithSelector(ISlashingCourt.OnlyCenter.selector, address(this)));
        court.queueRejected("task", performer, 0);
    }

    function test_queueRejected_ComesWithTheSettlement() public {
        IAttestationCenter.TaskInfo memory info = makeInfo("task", PERFORMER_ID, 1);
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, false, TWO);
        bytes32 slashId = court.slashIdOf(ISlashingCourt.Offence.REJECTED_TASK, "task", performer);
        assertState(slashId, ISlashingCourt.State.NONE);
        vm.expectEmit(address(court));
        emit ISlashingCourt.SlashQueued(
            slashId, "task", performer, ISlashingCourt.Offence.REJECTED_TASK, uint64(block.timestamp) + DISPUTE_WINDOW
        );
        center.submitTask(info, details);
        assertQueued(slashId, ISlashingCourt.Offence.REJECTED_TASK, "task", performer, DISPUTE_WINDOW);
        assertUnnamed(slashId);
        assertEq(stakeOf(performer), PERFORMER_STAKE, "nothing has moved");
    }

    function test_queueRejected_NotForApprovedTasksNorOtherDefinitions() public {
        settle("good", PERFORMER_ID, true);
        bytes32 slashId = court.slashIdOf(ISlashingCourt.Offence.REJECTED_TASK, "good", performer);
        assertState(slashId, ISlashingCourt.State.NONE);
        IAttestationCenter.TaskInfo memory info = makeInfo("lenient", PERFORMER_ID, 1);
        info.taskDefinitionId = STRICT;
        center.submitTask(info, certify(info, false, EVERYBODY));
        slashId = court.slashIdOf(ISlashingCourt.Offence.REJECTED_TASK, "lenient", performer);
        assertState(slashId, ISlashingCourt.State.NONE);
    }

    function test_queueRejected_QueuesOnce() public {
        bytes32 slashId = reject("task");
        vm.prank(address(center));
        vm.expectRevert(refusal(ISlashingCourt.AlreadyQueued.selector, slashId));
        court.queueRejected("task", performer, DISPUTE_WINDOW);
    }

    function test_queueRejected_NeverBlocksTheSettlementOfWhoHasWithdrawn() public {
        leaveAndWait();
        vm.prank(performer);
        registry.withdraw(performer);
        roll();
        bytes32 slashId = reject("late");
        assertEq(center.verdictOf("late"), INVALID, "settled");
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        assertEq(court.executeSlash(slashId), 0, "there is nothing left");
        assertEq(court.totalOwed(), 0, "nothing is owed");
    }

    // --- executeSlash ------------------------------------------------------------------------------------------------

    function test_executeSlash_RevertsForWhatWasNeverQueued() public {
        vm.expectRevert(notWaiting("unknown", ISlashingCourt.State.NONE));
        court.executeSlash("unknown");
    }

    function test_executeSlash_WaitsOutTheWindowThenIsForAnyoneOnce() public {
        bytes32 slashId = reject("task");
        uint64 due = court.slashOf(slashId).executableAt;
        vm.warp(due - 1);
        vm.expectRevert(abi.encodeWithSelector(ISlashingCourt.SlashNotDue.selector, slashId, due));
        court.executeSlash(slashId);

        vm.warp(due);
        vm.expectEmit(address(court));
        emit ISlashingCourt.SlashExecuted(slashId, "task", performer, 1 ether, address(0), 0);
        vm.prank(address(0xdead));
        assertEq(court.executeSlash(slashId), 1 ether, "a tenth");
        assertEq(stakeOf(performer), 9 ether, "stake");
        assertEq(court.owedTo(vault), 1 ether, "nobody was named: the vault's");
        assertEq(court.totalOwed(), 1 ether, "owed");
        assertEq(address(court).balance, 1 ether, "here");
        assertState(slashId, ISlashingCourt.State.EXECUTED);
        vm.expectRevert(notWaiting(slashId, ISlashingCourt.State.EXECUTED));
        court.executeSlash(slashId);
    }

    function test_executeSlash_TakesTheGradeOfWhatIsThereThen() public {
        bytes32 first = reject("first");
        bytes32 second = reject("second");
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        assertEq(court.executeSlash(second), 1 ether, "of ten");
        assertEq(court.executeSlash(first), 0.9 ether, "of nine");
        assertEq(court.owedTo(vault), 1.9 ether, "both");
    }

    function testFuzz_executeSlash_RoundsDown(uint96 added) public {
        uint256 more = bound(added, 1, 1e24);
        vm.deal(address(this), more);
        registry.addStake{value: more}(performer, more);
        bytes32 slashId = reject("task");
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        assertEq(court.executeSlash(slashId), (PERFORMER_STAKE + more) / 10, "a tenth, rounded down");
        assertEq(stakeOf(performer) + court.totalOwed(), PERFORMER_STAKE + more, "no wei is lost or made");
    }

    function test_executeSlash_ReachesWhoIsLeavingAndThenLetsThemGo() public {
        bytes32 slashId = reject("task");
        leaveAndWait();
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.SlashPending.selector, performer, 1));
        vm.prank(performer);
        registry.withdraw(performer);
        court.executeSlash(slashId);
        vm.prank(performer);
        registry.withdraw(performer);
        assertEq(performer.balance, 9 ether, "what is left");
    }

    function test_executeSlash_IsNotPaused() public {
        bytes32 slashId = reject("task");
        vm.prank(owner);
        Governed(address(court)).pause(true);
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        assertEq(court.executeSlash(slashId), 1 ether, "no role delays a slash");
    }

    // --- cancelSlash -------------------------------------------------------------------------------------------------

    function test_cancelSlash_TakesMoreThanTwoThirds() public {
        bytes32 slashId = reject("task");
        (uint32 epoch, bytes memory signature, bytes memory missing) = quorumOver(court.cancelDigest(slashId), TWO);
        uint256 unit = MINIMUM_STAKE / POWER_UNIT;
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.QuorumNotReached.selector, 2 * unit, 4 * unit, true));
        court.cancelSlash(slashId, epoch, signature, missing);

        (epoch, signature, missing) = quorumOver(court.cancelDigest(slashId), THREE);
        vm.expectEmit(address(court));
        emit ISlashingCourt.SlashCancelled(slashId, performer);
        court.cancelSlash(slashId, epoch, signature, missing);
        assertState(slashId, ISlashingCourt.State.CANCELLED);

        vm.warp(block.timestamp + DISPUTE_WINDOW);
        vm.expectRevert(notWaiting(slashId, ISlashingCourt.State.CANCELLED));
        court.executeSlash(slashId);
        vm.expectRevert(notWaiting(slashId, ISlashingCourt.State.CANCELLED));
        court.cancelSlash(slashId, epoch, signature, missing);
    }

    function test_cancelSlash_RevertsOverAnotherDigest() public {
        bytes32 slashId = reject("task");
        bytes32 other = reject("other");
        bytes memory mismatch =
            abi.encodeWithSelector(IQuorumVerifier.SignatureMismatch.selector, court.cancelDigest(slashId));
        (uint32 epoch, bytes memory signature, bytes memory missing) = quorumOver(court.cancelDigest(other), EVERYBODY);
        vm.expectRevert(mismatch);
        court.cancelSlash(slashId, epoch, signature, missing);
        (epoch, signature, missing) = quorumOver(court.overruleDigest(slashId), EVERYBODY);
        vm.expectRevert(mismatch);
        court.cancelSlash(slashId, epoch, signature, missing);
        assertState(slashId, ISlashingCourt.State.WAITING);
    }

    function test_cancelSlash_RevertsForWhatIsNotWaiting() public {
        vm.expectRevert(notWaiting("unknown", ISlashingCourt.State.NONE));
        court.cancelSlash("unknown", 1, "", "");
        bytes32 slashId = reject("task");
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        court.executeSlash(slashId);
        vm.expectRevert(notWaiting(slashId, ISlashingCourt.State.EXECUTED));
        court.cancelSlash(slashId, 1, "", "");
    }

    function test_cancelSlash_ComesInTimeUntilTheSlashIsExecuted() public {
        bytes32 slashId = reject("task");
        vm.warp(block.timestamp + 3 * uint256(DISPUTE_WINDOW));
        cancel(slashId);
        assertState(slashId, ISlashingCourt.State.CANCELLED);
    }

    function test_cancelSlash_LetsTheOperatorGo() public {
        bytes32 slashId = reject("task");
        cancel(slashId);
        leaveAndWait();
        vm.prank(performer);
        registry.withdraw(performer);
        assertEq(performer.balance, PERFORMER_STAKE, "all of it");
    }

    // --- inside ------------------------------------------------------------------------------------------------------

    function leaveAndWait() private {
        vm.prank(performer);
        registry.leave(performer);
        vm.warp(block.timestamp + UNBONDING_SECONDS);
    }
}
