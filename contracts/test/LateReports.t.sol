// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {ISlashingCourt} from "../src/interfaces/ISlashingCourt.sol";
import {CourtNetwork} from "./CourtNetwork.sol";

/// @notice Reports of promises that were kept within a batch, which the court cannot see: each has to be refuted, so they
/// may not come for ever, nor twice. Branches: tree/reportMissedDeadline.tree.
contract LateReportsTest is CourtNetwork {
    IAttestationCenter.TaskRequest private made;
    bytes32 private taskId;
    bytes private promise_;
    IAttestationCenter.TaskInfo private info;
    IAttestationCenter.SettlementProof private proof;

    function setUp() public override {
        super.setUp();
        made = request(1, 9 gwei);
        taskId = center.taskRequestHash(made);
        promise_ = promiseFor(made);
        info = makeInfo(taskId, PERFORMER_ID, tables.currentEpoch());
        proof = settleInBatch(info, true);
    }

    function _reportableUntil() private view returns (uint256) {
        return uint256(made.deadline) + 1 hours + 7 days;
    }

    function test_reportMissedDeadline_ComesWithinAWeek() public {
        vm.warp(_reportableUntil() + 1);
        bytes memory late =
            abi.encodeWithSelector(ISlashingCourt.ReportTooLate.selector, taskId, uint64(_reportableUntil()));
        vm.expectRevert(late);
        court.reportMissedDeadline(made, promise_);
        vm.warp(_reportableUntil());
        assertState(court.reportMissedDeadline(made, promise_), ISlashingCourt.State.WAITING);
    }

    /// Who leaves and promises nothing more is out of reach of such reports before it may withdraw.
    function test_reportMissedDeadline_HoldsNoExitOnceTheWeekIsOver() public {
        vm.prank(performer);
        registry.leave(performer);
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        vm.expectPartialRevert(ISlashingCourt.ReportTooLate.selector);
        court.reportMissedDeadline(made, promise_);
        vm.prank(performer);
        registry.withdraw(performer);
        assertEq(performer.balance, PERFORMER_STAKE, "all of it");
    }

    function test_reportMissedDeadline_RefutedOnceIsAnsweredForEver() public {
        bytes32 voters = everybodysHash(true);
        bytes32 infoHash = center.taskInfoHash(info);
        bytes32 slashId = missDeadline(made);
        court.refuteMissedDeadline(slashId, infoHash, true, voters, proof);
        vm.expectRevert(refusal(ISlashingCourt.AlreadyQueued.selector, slashId));
        court.reportMissedDeadline(made, promise_);
        // Another signature over the same promise is the same offence.
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(ecdsaSecret(PERFORMER_ID), center.promiseDigest(taskId));
        vm.expectRevert(refusal(ISlashingCourt.AlreadyQueued.selector, slashId));
        court.reportMissedDeadline(made, abi.encodePacked(r, s, v));
        assertEq(stakeOf(performer), PERFORMER_STAKE, "nothing was slashed");
    }
}
