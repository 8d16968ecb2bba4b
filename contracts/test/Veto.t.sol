// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Governed} from "../src/Governed.sol";
import {IQuorumVerifier} from "../src/interfaces/IQuorumVerifier.sol";
import {ISlashingCourt} from "../src/interfaces/ISlashingCourt.sol";
import {CourtNetwork} from "./CourtNetwork.sol";

/// @notice What the guardian can do, and what it cannot. Branches: tree/veto.tree.
contract VetoTest is CourtNetwork {
    uint256 private constant VETO_PERIOD = 30 days;
    bytes32 private slashId;
    uint64 private dueAt;

    function setUp() public override {
        super.setUp();
        slashId = reject("task");
        dueAt = uint64(block.timestamp) + VETO_DELAY;
    }

    // --- announceVeto ------------------------------------------------------------------------------------------------

    function test_announceVeto_IsForTheGuardian() public {
        vm.expectRevert(abi.encodeWithSelector(ISlashingCourt.OnlyGuardian.selector, performer));
        vm.prank(performer);
        court.announceVeto(slashId);
    }

    function test_announceVeto_RevertsForWhatIsNotWaiting() public {
        vm.startPrank(owner);
        vm.expectRevert(notWaiting("unknown", ISlashingCourt.State.NONE));
        court.announceVeto("unknown");
        vm.stopPrank();
        cancel(slashId);
        vm.expectRevert(notWaiting(slashId, ISlashingCourt.State.CANCELLED));
        vm.prank(owner);
        court.announceVeto(slashId);
    }

    function test_announceVeto_StopsTheSlashUntilItIsDecided() public {
        vm.expectEmit(address(court));
        emit ISlashingCourt.VetoAnnounced(slashId, dueAt);
        veto(slashId);
        assertEq(court.slashOf(slashId).vetoDueAt, dueAt, "due");
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        vm.expectRevert(abi.encodeWithSelector(ISlashingCourt.VetoPending.selector, slashId, dueAt));
        court.executeSlash(slashId);
    }

    function test_announceVeto_ComesBeforeTheSlashIsDue() public {
        uint64 executableAt = court.slashOf(slashId).executableAt;
        vm.warp(executableAt);
        vm.expectRevert(abi.encodeWithSelector(ISlashingCourt.TooLateForVeto.selector, slashId, executableAt));
        vm.prank(owner);
        court.announceVeto(slashId);
        vm.warp(executableAt - 1);
        veto(slashId);
        assertEq(court.slashOf(slashId).vetoDueAt, executableAt - 1 + VETO_DELAY, "the last second is in time");
    }

    function test_announceVeto_OncePerSlash() public {
        veto(slashId);
        vm.expectRevert(refusal(ISlashingCourt.AlreadyVetoed.selector, slashId));
        vm.prank(owner);
        court.announceVeto(slashId);
        overrule(slashId);
        vm.expectRevert(refusal(ISlashingCourt.AlreadyVetoed.selector, slashId));
        vm.prank(owner);
        court.announceVeto(slashId);
    }

    function test_announceVeto_ThreeTimesInAnyThirtyDays() public {
        uint256 first = queuedAt();
        veto(slashId);
        overrule(slashId); // an overruled veto is spent all the same
        vm.warp(first + 1 days);
        veto(reject("second"));
        vm.warp(first + 2 days);
        veto(reject("third"));
        assertRefusedUntil("fourth", first + VETO_PERIOD);
        vm.warp(first + VETO_PERIOD - 1);
        assertRefusedUntil("fifth", first + VETO_PERIOD);
        vm.warp(first + VETO_PERIOD);
        veto(reject("sixth"));
        assertRefusedUntil("seventh", first + 1 days + VETO_PERIOD);
    }

    function test_announceVeto_AnotherGuardianHasNoOtherVetoes() public {
        uint256 first = queuedAt();
        veto(slashId);
        veto(reject("second"));
        veto(reject("third"));
        changeGuardian(requester);
        bytes32 fourth = reject("fourth");
        bytes memory usedUp = abi.encodeWithSelector(ISlashingCourt.VetoesUsedUp.selector, uint64(first + VETO_PERIOD));
        vm.expectRevert(usedUp);
        vm.prank(requester);
        court.announceVeto(fourth);
    }

    function test_announceVeto_ByNobodyWithoutAGuardian() public {
        changeGuardian(address(0));
        vm.expectRevert(abi.encodeWithSelector(ISlashingCourt.OnlyGuardian.selector, owner));
        vm.prank(owner);
        court.announceVeto(slashId);
    }

    // --- executeVeto -------------------------------------------------------------------------------------------------

    function test_executeVeto_WaitsOutItsDelayThenCancels() public {
        veto(slashId);
        vm.warp(dueAt - 1);
        vm.expectRevert(abi.encodeWithSelector(ISlashingCourt.VetoNotDue.selector, slashId, dueAt));
        court.executeVeto(slashId);
        vm.warp(dueAt);
        vm.expectEmit(address(court));
        emit ISlashingCourt.SlashCancelled(slashId, performer);
        vm.prank(address(0xdead)); // anyone
        court.executeVeto(slashId);
        assertState(slashId, ISlashingCourt.State.CANCELLED);
        assertEq(stakeOf(performer), PERFORMER_STAKE, "nothing was taken");
        vm.expectRevert(notWaiting(slashId, ISlashingCourt.State.CANCELLED));
        court.executeVeto(slashId);
        assertMayWithdraw();
    }

    function test_executeVeto_RevertsWithoutAVeto() public {
        vm.expectRevert(refusal(ISlashingCourt.NoVeto.selector, slashId));
        court.executeVeto(slashId);
        vm.expectRevert(notWaiting("unknown", ISlashingCourt.State.NONE));
        court.executeVeto("unknown");
        veto(slashId);
        overrule(slashId);
        vm.warp(dueAt);
        vm.expectRevert(refusal(ISlashingCourt.NoVeto.selector, slashId));
        court.executeVeto(slashId);
    }

    // --- overruleVeto ------------------------------------------------------------------------------------------------

    function test_overruleVeto_LetsTheSlashGoOn() public {
        veto(slashId);
        (uint32 epoch, bytes memory signature, bytes memory missing) = quorumOver(court.overruleDigest(slashId), THREE);
        vm.expectEmit(address(court));
        emit ISlashingCourt.VetoOverruled(slashId);
        court.overruleVeto(slashId, epoch, signature, missing);
        assertEq(court.slashOf(slashId).vetoDueAt, 0, "no veto any more");
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        assertEq(court.executeSlash(slashId), 1 ether, "slashed");
    }

    function test_overruleVeto_TakesMoreThanTwoThirdsOverItsOwnDigest() public {
        veto(slashId);
        (uint32 epoch, bytes memory signature, bytes memory missing) = quorumOver(court.overruleDigest(slashId), TWO);
        uint256 unit = MINIMUM_STAKE / POWER_UNIT;
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.QuorumNotReached.selector, 2 * unit, 4 * unit, true));
        court.overruleVeto(slashId, epoch, signature, missing);
        bytes32 digest = court.overruleDigest(slashId);
        (epoch, signature, missing) = quorumOver(court.cancelDigest(slashId), EVERYBODY);
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.SignatureMismatch.selector, digest));
        court.overruleVeto(slashId, epoch, signature, missing);
        assertEq(court.slashOf(slashId).vetoDueAt, dueAt, "the veto stands");
    }

    function test_overruleVeto_RevertsWithoutAVeto() public {
        vm.expectRevert(refusal(ISlashingCourt.NoVeto.selector, slashId));
        court.overruleVeto(slashId, 1, "", "");
        vm.expectRevert(notWaiting("unknown", ISlashingCourt.State.NONE));
        court.overruleVeto("unknown", 1, "", "");
        veto(slashId);
        overrule(slashId);
        vm.expectRevert(refusal(ISlashingCourt.NoVeto.selector, slashId));
        court.overruleVeto(slashId, 1, "", "");
    }

    function test_overruleVeto_ComesInTimeUntilTheVetoIsExecuted() public {
        veto(slashId);
        vm.warp(dueAt + 1);
        overrule(slashId);
        assertEq(court.slashOf(slashId).vetoDueAt, 0, "overruled");
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        assertEq(court.executeSlash(slashId), 1 ether, "slashed");
    }

    function test_cancelSlash_WhileAVetoWaits() public {
        veto(slashId);
        cancel(slashId);
        assertState(slashId, ISlashingCourt.State.CANCELLED);
        vm.warp(dueAt);
        vm.expectRevert(notWaiting(slashId, ISlashingCourt.State.CANCELLED));
        court.executeVeto(slashId);
        assertMayWithdraw();
    }

    // --- inside ------------------------------------------------------------------------------------------------------

    function veto(bytes32 id) private {
        vm.prank(owner);
        court.announceVeto(id);
    }

    function overrule(bytes32 id) private {
        (uint32 epoch, bytes memory signature, bytes memory missing) = quorumOver(court.overruleDigest(id), THREE);
        court.overruleVeto(id, epoch, signature, missing);
    }

    /// @dev The time of the setup, as a number that a later warp cannot change, whatever the compiler makes of it.
    function queuedAt() private view returns (uint256) {
        return court.slashOf(slashId).executableAt - DISPUTE_WINDOW;
    }

    function assertRefusedUntil(bytes32 taskId, uint256 nextAt) private {
        bytes32 id = reject(taskId);
        vm.expectRevert(abi.encodeWithSelector(ISlashingCourt.VetoesUsedUp.selector, uint64(nextAt)));
        vm.prank(owner);
        court.announceVeto(id);
        assertEq(court.slashOf(id).vetoDueAt, 0, "no veto");
    }

    function changeGuardian(address guardian) private {
        uint256 before = queuedAt();
        vm.prank(owner);
        Governed(address(court)).announceChange("guardian", 0, uint160(guardian));
        vm.warp(before + CHANGE_DELAY);
        Governed(address(court)).makeChange("guardian", 0);
        vm.warp(before); // the slash still waits
    }

    function assertMayWithdraw() private {
        vm.prank(performer);
        registry.leave(performer);
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        vm.prank(performer);
        registry.withdraw(performer);
        assertEq(performer.balance, PERFORMER_STAKE, "all of it");
    }
}
