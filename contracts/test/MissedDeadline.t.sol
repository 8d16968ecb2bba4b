// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {IOperatorRegistry} from "../src/interfaces/IOperatorRegistry.sol";
import {ISlashingCourt} from "../src/interfaces/ISlashingCourt.sol";
import {CourtNetwork} from "./CourtNetwork.sol";

/// @notice Promises that are kept, broken, and answered for. Branches: tree/reportMissedDeadline.tree,
/// tree/recordDelivery.tree, tree/refuteMissedDeadline.tree.
contract MissedDeadlineTest is CourtNetwork {
    uint256 private constant FEE = 0.25 ether;
    IAttestationCenter.TaskRequest private made;
    bytes32 private taskId;
    bytes private promise_;

    function setUp() public override {
        super.setUp();
        made = request(1, FEE);
        taskId = center.taskRequestHash(made);
        promise_ = promiseFor(made);
    }

    // --- reportMissedDeadline ----------------------------------------------------------------------------------------

    function test_reportMissedDeadline_QueuesAndNamesTheRequester() public {
        vm.warp(lastChance() + 1);
        bytes32 slashId = court.slashIdOf(ISlashingCourt.Offence.MISSED_DEADLINE, taskId, performer);
        vm.expectEmit(address(court));
        emit ISlashingCourt.SlashQueued(
            slashId, taskId, performer, ISlashingCourt.Offence.MISSED_DEADLINE, uint64(block.timestamp) + DISPUTE_WINDOW
        );
        vm.expectEmit(address(court));
        emit ISlashingCourt.HarmedNamed(slashId, requester, FEE);
        assertEq(court.reportMissedDeadline(made, promise_), slashId, "slash id");
        assertQueued(slashId, ISlashingCourt.Offence.MISSED_DEADLINE, taskId, performer, DISPUTE_WINDOW);
        assertEq(court.slashOf(slashId).requester, requester, "requester");
        assertEq(court.slashOf(slashId).value, FEE, "value");
        vm.expectRevert(refusal(ISlashingCourt.AlreadyQueued.selector, slashId));
        court.reportMissedDeadline(made, promise_);

        vm.warp(block.timestamp + DISPUTE_WINDOW);
        vm.expectEmit(address(court));
        emit ISlashingCourt.SlashExecuted(slashId, taskId, performer, 1 ether, requester, FEE);
        court.executeSlash(slashId);
        assertEq(court.owedTo(requester), FEE, "the requester's");
        assertEq(court.owedTo(vault), 1 ether - FEE, "the vault's");
    }

    function test_reportMissedDeadline_WaitsOutTheTimeForAnAnswer() public {
        vm.warp(lastChance());
        bytes memory early = notMissed(lastChance());
        vm.expectRevert(early);
        court.reportMissedDeadline(made, promise_);
        vm.warp(lastChance() + 1);
        court.reportMissedDeadline(made, promise_);
    }

    function test_reportMissedDeadline_KnowsDeadlinesThatNeverCome() public {
        made.deadline = type(uint64).max;
        taskId = center.taskRequestHash(made);
        promise_ = promiseFor(made);
        vm.expectRevert(notMissed(type(uint64).max));
        court.reportMissedDeadline(made, promise_);
    }

    function test_reportMissedDeadline_RevertsWithoutThePerformersPromise() public {
        vm.warp(lastChance() + 1);
        bytes memory mismatch = abi.encodeWithSelector(ISlashingCourt.PerformerSignatureMismatch.selector, performer);
        bytes memory forged = ecdsaSignature(REQUESTER_ID, center.promiseDigest(taskId));
        vm.expectRevert(mismatch);
        court.reportMissedDeadline(made, forged);
        // The request's own digest, as a requester signs it, promises nothing.
        forged = ecdsaSignature(PERFORMER_ID, taskId);
        vm.expectRevert(mismatch);
        court.reportMissedDeadline(made, forged);
        vm.expectRevert(mismatch);
        court.reportMissedDeadline(made, "");
        // A promise is for one request.
        made.fee = FEE + 1;
        vm.expectRevert(mismatch);
        court.reportMissedDeadline(made, promise_);
        // An invalid signature must not pass for the signature of address zero.
        made.performer = address(0);
        vm.expectRevert(abi.encodeWithSelector(ISlashingCourt.PerformerSignatureMismatch.selector, address(0)));
        court.reportMissedDeadline(made, new bytes(65));
    }

    function test_reportMissedDeadline_RevertsForASettledTask() public {
        settle(taskId, PERFORMER_ID, true);
        vm.warp(lastChance() + 1);
        vm.expectRevert(refusal(ISlashingCourt.AlreadyDelivered.selector, taskId));
        court.reportMissedDeadline(made, promise_);
    }

    function test_reportMissedDeadline_RevertsForARejectedTask() public {
        settle(taskId, PERFORMER_ID, false); // a bad answer is another offence
        vm.warp(lastChance() + 1);
        vm.expectRevert(refusal(ISlashingCourt.AlreadyDelivered.selector, taskId));
        court.reportMissedDeadline(made, promise_);
    }

    function test_reportMissedDeadline_RevertsForAnUnknownDefinition() public {
        made.taskDefinitionId = 77;
        promise_ = promiseFor(made);
        vm.warp(lastChance() + 1);
        vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.UnknownTaskDefinition.selector, 77));
        court.reportMissedDeadline(made, promise_);
    }

    /// Or a slash of nothing could be spent on the offence before its author has a stake.
    function test_reportMissedDeadline_RevertsForAStranger() public {
        made.performer = accountOf(99);
        taskId = center.taskRequestHash(made);
        promise_ = ecdsaSignature(99, center.promiseDigest(taskId));
        vm.warp(lastChance() + 1);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.NotRegistered.selector, made.performer));
        court.reportMissedDeadline(made, promise_);
    }

    function test_reportMissedDeadline_RevertsForARequestOfNobody() public {
        made.requester = address(0);
        taskId = center.taskRequestHash(made);
        promise_ = promiseFor(made);
        vm.warp(lastChance() + 1);
        vm.expectRevert(refusal(ISlashingCourt.RequestMismatch.selector, taskId));
        court.reportMissedDeadline(made, promise_);
    }

    // --- recordDelivery ----------------------------------------------------------------------------------------------

    function test_recordDelivery_AnswersForTheTask() public {
        (IAttestationCenter.TaskInfo memory info, bytes memory signature) = delivery();
        vm.warp(made.deadline); // the last moment
        assertTrue(!court.isDelivered(taskId), "not yet");
        vm.expectEmit(address(court));
        emit ISlashingCourt.DeliveryRecorded(taskId, performer, center.taskInfoHash(info));
        vm.prank(address(0xdead)); // anyone
        court.recordDelivery(made, info, signature);
        assertTrue(court.isDelivered(taskId), "delivered");
        vm.expectRevert(refusal(ISlashingCourt.AlreadyDelivered.selector, taskId));
        court.recordDelivery(made, info, signature);
        vm.warp(lastChance() + 1);
        vm.expectRevert(refusal(ISlashingCourt.AlreadyDelivered.selector, taskId));
        court.reportMissedDeadline(made, promise_);
    }

    function test_recordDelivery_ComesByTheDeadline() public {
        (IAttestationCenter.TaskInfo memory info, bytes memory signature) = delivery();
        vm.warp(uint256(made.deadline) + 1);
        vm.expectRevert(abi.encodeWithSelector(ISlashingCourt.DeadlinePassed.selector, taskId, made.deadline));
        court.recordDelivery(made, info, signature);
    }

    function test_recordDelivery_RevertsForTheInfoOfAnotherTask() public {
        (IAttestationCenter.TaskInfo memory info, bytes memory signature) = delivery();
        bytes memory mismatch = refusal(ISlashingCourt.RequestMismatch.selector, taskId);
        info.taskId = "other";
        vm.expectRevert(mismatch);
        court.recordDelivery(made, info, signature);
        info.taskId = taskId;
        info.taskPerformer = requester;
        vm.expectRevert(mismatch);
        court.recordDelivery(made, info, signature);
        info.taskPerformer = performer;
        info.taskDefinitionId = STRICT;
        vm.expectRevert(mismatch);
        court.recordDelivery(made, info, signature);
    }

    function test_recordDelivery_RevertsWithoutThePerformersSignature() public {
        (IAttestationCenter.TaskInfo memory info, bytes memory signature) = delivery();
        info.data = "another answer";
        vm.expectRevert(abi.encodeWithSelector(ISlashingCourt.PerformerSignatureMismatch.selector, performer));
        court.recordDelivery(made, info, signature);
        assertTrue(!court.isDelivered(taskId), "not delivered");
    }

    // --- refuteMissedDeadline ----------------------------------------------------------------------------------------

    function test_refuteMissedDeadline_ByABatchThatSettledInTime() public {
        IAttestationCenter.TaskInfo memory info = makeInfo(taskId, PERFORMER_ID, tables.currentEpoch());
        IAttestationCenter.SettlementProof memory proof = settleInBatch(info, true);
        bytes32 infoHash = center.taskInfoHash(info);
        bytes32 voters = everybodysHash(true);
        bytes32 slashId = missDeadline(made);
        vm.expectEmit(address(court));
        emit ISlashingCourt.SlashCancelled(slashId, performer);
        vm.prank(address(0xdead)); // anyone
        court.refuteMissedDeadline(slashId, infoHash, true, voters, proof);
        assertState(slashId, ISlashingCourt.State.CANCELLED);
        vm.expectRevert(notWaiting(slashId, ISlashingCourt.State.CANCELLED));
        court.refuteMissedDeadline(slashId, infoHash, true, voters, proof);
        // Answered once is answered for ever.
        vm.expectRevert(refusal(ISlashingCourt.AlreadyQueued.selector, slashId));
        court.reportMissedDeadline(made, promise_);

        vm.prank(performer);
        registry.leave(performer);
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        vm.prank(performer);
        registry.withdraw(performer);
        assertEq(performer.balance, PERFORMER_STAKE, "nothing holds the exit");
    }

    function test_refuteMissedDeadline_ByASettlementAfterTheReport() public {
        bytes32 slashId = missDeadline(made);
        settle(taskId, PERFORMER_ID, false);
        bytes32 infoHash = center.taskInfoHash(makeInfo(taskId, PERFORMER_ID, tables.currentEpoch()));
        court.refuteMissedDeadline(slashId, infoHash, false, everybodysHash(false), singly());
        assertState(slashId, ISlashingCourt.State.CANCELLED);
    }

    function test_refuteMissedDeadline_RevertsForAnotherVerdictVotersOrTask() public {
        bytes32 slashId = missDeadline(made);
        settle(taskId, PERFORMER_ID, true);
        settle("other", PERFORMER_ID, true);
        bytes32 infoHash = center.taskInfoHash(makeInfo(taskId, PERFORMER_ID, tables.currentEpoch()));
        bytes32 otherHash = center.taskInfoHash(makeInfo("other", PERFORMER_ID, tables.currentEpoch()));
        bytes32 voters = everybodysHash(true);
        bytes memory notSettled = refusal(IAttestationCenter.NotSettled.selector, taskId);
        vm.expectRevert(notSettled);
        court.refuteMissedDeadline(slashId, infoHash, false, voters, singly());
        vm.expectRevert(notSettled);
        court.refuteMissedDeadline(slashId, infoHash, true, "other voters", singly());
        vm.expectRevert(notSettled);
        court.refuteMissedDeadline(slashId, otherHash, true, voters, singly());
        assertState(slashId, ISlashingCourt.State.WAITING);
        court.refuteMissedDeadline(slashId, infoHash, true, voters, singly());
    }

    function test_refuteMissedDeadline_RevertsForAnotherOffence() public {
        bytes32 slashId = reject(taskId);
        bytes32 infoHash = center.taskInfoHash(makeInfo(taskId, PERFORMER_ID, tables.currentEpoch()));
        bytes32 voters = everybodysHash(false);
        vm.expectRevert(
            abi.encodeWithSelector(ISlashingCourt.WrongOffence.selector, slashId, ISlashingCourt.Offence.REJECTED_TASK)
        );
        court.refuteMissedDeadline(slashId, infoHash, false, voters, singly());
    }

    function test_refuteMissedDeadline_RevertsForWhatIsNotWaiting() public {
        vm.expectRevert(notWaiting("unknown", ISlashingCourt.State.NONE));
        court.refuteMissedDeadline("unknown", "", true, "", singly());
    }

    // --- inside ------------------------------------------------------------------------------------------------------

    function lastChance() private view returns (uint256) {
        return uint256(made.deadline) + 1 hours;
    }

    function notMissed(uint256 claimableAt) private view returns (bytes memory) {
        return abi.encodeWithSelector(ISlashingCourt.DeadlineNotMissed.selector, taskId, uint64(claimableAt));
    }

    function delivery() private view returns (IAttestationCenter.TaskInfo memory info, bytes memory signature) {
        info = makeInfo(taskId, PERFORMER_ID, tables.currentEpoch());
        signature = ecdsaSignature(PERFORMER_ID, center.taskInfoHash(info));
    }
}
