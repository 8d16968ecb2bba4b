// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Governed} from "../src/Governed.sol";
import {SlashingCourt} from "../src/SlashingCourt.sol";
import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {IOperatorRegistry} from "../src/interfaces/IOperatorRegistry.sol";
import {IOperatorSource} from "../src/interfaces/IOperatorSource.sol";
import {IQuorumVerifier} from "../src/interfaces/IQuorumVerifier.sol";
import {ISlashingCourt} from "../src/interfaces/ISlashingCourt.sol";
import {CourtNetwork} from "./CourtNetwork.sol";

/// @notice The court's settings, and the queue with what becomes of slashes. Branches: tree/queueRejected.tree,
/// tree/executeSlash.tree, tree/cancelSlash.tree.
contract SlashingCourtTest is CourtNetwork {
    // --- settings ----------------------------------------------------------------------------------------------------

    function test_constructor_KeepsItsSettings() public view {
        assertEq(address(court.center()), address(center), "center");
        assertEq(address(court.operators()), address(registry), "operators");
        assertEq(address(court.verifier()), address(tables), "verifier");
        assertEq(court.vault(), vault, "vault");
        assertEq(court.guardian(), owner, "guardian");
        assertEq(court.vetoDelay(), VETO_DELAY, "veto delay");
        assertEq(court.longestDispute(), LONGEST_DISPUTE, "longest dispute");
        assertEq(Governed(address(court)).owner(), owner, "owner");
        assertEq(Governed(address(court)).changeDelay(), CHANGE_DELAY, "change delay");
        assertEq(court.totalOwed(), 0, "owes nothing");
    }

    function test_constructor_RefusesWhatIsOutOfBounds() public {
        expectRefused(address(0), VETO_DELAY, LONGEST_DISPUTE, "vault", 0);
        expectRefused(vault, VETO_DELAY, 0, "longestDispute", 0);
        expectRefused(vault, VETO_DELAY, UNBONDING_SECONDS + 1, "longestDispute", UNBONDING_SECONDS + 1);
        expectRefused(vault, 0, LONGEST_DISPUTE, "vetoDelay", 0);
        expectRefused(vault, LONGEST_DISPUTE + 1, LONGEST_DISPUTE, "vetoDelay", LONGEST_DISPUTE + 1);
        vm.mockCall(
            address(registry), abi.encodeCall(IOperatorSource.unbondingSeconds, ()), abi.encode(uint64(1000 days))
        );
        expectRefused(vault, VETO_DELAY, 365 days + 1, "longestDispute", 365 days + 1);
        makeCourt(vault, 365 days, 365 days);
    }

    function test_constructor_TakesTheBoundsThemselves() public {
        makeCourt(vault, 1, 1);
        makeCourt(vault, UNBONDING_SECONDS, UNBONDING_SECONDS);
    }

    function expectRefused(address vault_, uint64 vetoDelay, uint64 longestDispute, string memory name, uint256 value)
        private
    {
        vm.expectRevert(abi.encodeWithSelector(ISlashingCourt.InvalidSetting.selector, name, value));
        this.makeCourt(vault_, vetoDelay, longestDispute);
    }

    function makeCourt(address vault_, uint64 vetoDelay, uint64 longestDispute) public returns (ISlashingCourt) {
        bytes memory arguments = abi.encode(center, vault_, vetoDelay, longestDispute, owner, CHANGE_DELAY);
        return ISlashingCourt(deploy("SlashingCourt.sol:SlashingCourt", arguments));
    }

    function test_gradeOf_IsThatOfTheSpecification() public view {
        assertEq(court.gradeOf(ISlashingCourt.Offence.OUTLIER), 0.01e18, "outlier");
        assertEq(court.gradeOf(ISlashingCourt.Offence.REJECTED_TASK), 0.1e18, "rejected task");
        assertEq(court.gradeOf(ISlashingCourt.Offence.MISSED_DEADLINE), 0.1e18, "missed deadline");
        assertEq(court.gradeOf(ISlashingCourt.Offence.EQUIVOCATION), 1e18, "equivocation");
        assertEq(court.gradeOf(ISlashingCourt.Offence.TAMPERING), 1e18, "tampering");
    }

    function test_receive_TakesCoinFromTheOperatorsAlone() public {
        vm.deal(address(this), 1 ether);
        (bool isTaken, bytes memory answer) = address(court).call{value: 1}("");
        assertTrue(!isTaken, "refused");
        assertEq(answer, abi.encodeWithSelector(ISlashingCourt.OnlyOperators.selector, address(this)), "error");
        vm.deal(address(registry), 1 ether);
        vm.prank(address(registry));
        (isTaken,) = address(court).call{value: 1}("");
        assertTrue(isTaken, "from the operators");
    }

    function test_digests_AreOfTheCourtsOwnDomain() public {
        ISlashingCourt other = makeCourt(vault, VETO_DELAY, LONGEST_DISPUTE);
        assertTrue(court.cancelDigest("id") != other.cancelDigest("id"), "another court, another digest");
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("ProofOfInference"),
                keccak256("1"),
                block.chainid,
                court
            )
        );
        assertEq(court.domainSeparator(), domain, "domain");
        bytes32 cancelling = keccak256(abi.encode(keccak256("CancelSlash(bytes32 slashId)"), bytes32("id")));
        assertEq(court.cancelDigest("id"), keccak256(abi.encodePacked(hex"1901", domain, cancelling)), "cancel");
        bytes32 overruling = keccak256(abi.encode(keccak256("OverruleVeto(bytes32 slashId)"), bytes32("id")));
        assertEq(court.overruleDigest("id"), keccak256(abi.encodePacked(hex"1901", domain, overruling)), "overrule");
    }

    function testFuzz_slashIdOf_TellsOffenceTaskAndOperatorApart(bytes32 taskId, address operator, bytes32 otherTask)
        public
        view
    {
        bytes32 slashId = court.slashIdOf(ISlashingCourt.Offence.OUTLIER, taskId, operator);
        assertEq(slashId, keccak256(abi.encode(uint8(0), taskId, operator)), "id");
        assertTrue(slashId != court.slashIdOf(ISlashingCourt.Offence.TAMPERING, taskId, operator), "offence");
        assertTrue(
            slashId != court.slashIdOf(ISlashingCourt.Offence.OUTLIER, taskId, address(uint160(operator) ^ 1)),
            "operator"
        );
        if (otherTask != taskId) {
            assertTrue(slashId != court.slashIdOf(ISlashingCourt.Offence.OUTLIER, otherTask, operator), "task");
        }
    }

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
            slashId,
            "task",
            performer,
            ISlashingCourt.Offence.REJECTED_TASK,
            uint64(block.timestamp) + DISPUTE_WINDOW
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

    // --- the guardian's office ---------------------------------------------------------------------------------------

    function test_guardian_ChangesAfterTheDelay() public {
        Governed governed = Governed(address(court));
        vm.prank(owner);
        governed.announceChange("guardian", 0, uint160(requester));
        assertEq(court.guardian(), owner, "not yet");
        vm.warp(block.timestamp + CHANGE_DELAY);
        governed.makeChange("guardian", 0);
        assertEq(court.guardian(), requester, "now");
    }

    function test_guardian_IsOneAddressAndTheOnlySetting() public {
        Governed governed = Governed(address(court));
        uint256 tooLarge = uint256(type(uint160).max) + 1;
        vm.startPrank(owner);
        vm.expectRevert(
            abi.encodeWithSelector(Governed.ChangeOutOfBounds.selector, bytes32("guardian"), 0, tooLarge)
        );
        governed.announceChange("guardian", 0, tooLarge);
        vm.expectRevert(abi.encodeWithSelector(Governed.ChangeOutOfBounds.selector, bytes32("guardian"), 1, 7));
        governed.announceChange("guardian", 1, 7);
        vm.expectRevert(abi.encodeWithSelector(Governed.UnknownChange.selector, bytes32("vault")));
        governed.announceChange("vault", 0, 7);
        vm.stopPrank();
    }

    function test_constants_AreThoseOfTheSpecification() public view {
        SlashingCourt whole = SlashingCourt(payable(address(court)));
        assertEq(whole.ANSWER_SECONDS(), 1 hours, "answer");
        assertEq(whole.MAX_PROOF_SIZE(), 262_144, "proof");
        assertEq(whole.MAX_VETOES(), 3, "vetoes");
        assertEq(whole.VETO_PERIOD(), 30 days, "period");
    }

    // --- inside ------------------------------------------------------------------------------------------------------

    function leaveAndWait() private {
        vm.prank(performer);
        registry.leave(performer);
        vm.warp(block.timestamp + UNBONDING_SECONDS);
    }
}
