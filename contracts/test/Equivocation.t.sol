// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {IQuorumVerifier} from "../src/interfaces/IQuorumVerifier.sol";
import {ISlashingCourt} from "../src/interfaces/ISlashingCourt.sol";
import {CourtNetwork} from "./CourtNetwork.sol";
import {Keys} from "./Keys.sol";

/// @notice Two votes of one attester on one task. Branches: tree/reportEquivocation.tree.
contract EquivocationTest is CourtNetwork {
    uint256 private constant LIAR = 2;
    bytes private none = abi.encodeWithSelector(ISlashingCourt.NoEquivocation.selector);
    address private liar;
    uint16 private seat;
    IAttestationCenter.TaskInfo private info;
    IAttestationCenter.TaskInfo private otherInfo;

    function setUp() public override {
        super.setUp();
        liar = accountOf(LIAR);
        seat = seatOf(LIAR);
        info = makeInfo("task", PERFORMER_ID, tables.currentEpoch());
        otherInfo = makeInfo("task", PERFORMER_ID, tables.currentEpoch());
        otherInfo.data = "another answer";
    }

    function test_reportEquivocation_TwoVerdictsByTheSumOfBothSignatures() public {
        ISlashingCourt.SignedVote memory first = signedVote(info, VALID, seat);
        ISlashingCourt.SignedVote memory second = signedVote(info, INVALID, seat);
        bytes memory sum = sumOf(LIAR, first, second);
        bytes32 slashId = court.slashIdOf(ISlashingCourt.Offence.EQUIVOCATION, "task", liar);
        vm.expectEmit(address(court));
        emit ISlashingCourt.SlashQueued(
            slashId, "task", liar, ISlashingCourt.Offence.EQUIVOCATION, uint64(block.timestamp) + DISPUTE_WINDOW
        );
        vm.prank(address(0xdead)); // anyone
        assertEq(court.reportEquivocation(first, second, sum), slashId, "slash id");
        assertQueued(slashId, ISlashingCourt.Offence.EQUIVOCATION, "task", liar, DISPUTE_WINDOW);
        assertUnnamed(slashId);
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        assertEq(court.executeSlash(slashId), MINIMUM_STAKE, "all of it");
        assertEq(stakeOf(liar), 0, "nothing is left");
    }

    function test_reportEquivocation_TwoInfosWithOneVerdict() public {
        ISlashingCourt.SignedVote memory first = signedVote(info, VALID, seat);
        ISlashingCourt.SignedVote memory second = signedVote(otherInfo, VALID, seat);
        bytes32 slashId = court.reportEquivocation(first, second, sumOf(LIAR, first, second));
        assertQueued(slashId, ISlashingCourt.Offence.EQUIVOCATION, "task", liar, DISPUTE_WINDOW);
    }

    function test_reportEquivocation_AcrossEpochsByBothSignatures() public {
        otherInfo.epoch = roll();
        ISlashingCourt.SignedVote memory first = signedVote(info, VALID, seat);
        ISlashingCourt.SignedVote memory second = signedVote(otherInfo, VALID, seatOf(LIAR));
        bytes memory both = bothOf(LIAR, first, LIAR, second);
        assertQueued(
            court.reportEquivocation(first, second, both),
            ISlashingCourt.Offence.EQUIVOCATION,
            "task",
            liar,
            DISPUTE_WINDOW
        );
    }

    function test_reportEquivocation_LongAfterTheTablesExpired() public {
        ISlashingCourt.SignedVote memory first = signedVote(info, VALID, seat);
        ISlashingCourt.SignedVote memory second = signedVote(info, INVALID, seat);
        roll();
        roll();
        vm.warp(block.timestamp + 30 days);
        bytes32 slashId = court.reportEquivocation(first, second, sumOf(LIAR, first, second));
        assertQueued(slashId, ISlashingCourt.Offence.EQUIVOCATION, "task", liar, DISPUTE_WINDOW);
    }

    function test_reportEquivocation_WaitsTheWindowOfTheFirstVotesDefinition() public {
        otherInfo.taskDefinitionId = STRICT;
        ISlashingCourt.SignedVote memory first = signedVote(otherInfo, VALID, seat);
        ISlashingCourt.SignedVote memory second = signedVote(info, VALID, seat);
        bytes32 slashId = court.reportEquivocation(first, second, sumOf(LIAR, first, second));
        assertQueued(slashId, ISlashingCourt.Offence.EQUIVOCATION, "task", liar, STRICT_WINDOW);
    }

    function test_reportEquivocation_TheSecondDefinitionNeedNotExist() public {
        otherInfo.taskDefinitionId = 77;
        ISlashingCourt.SignedVote memory first = signedVote(info, VALID, seat);
        ISlashingCourt.SignedVote memory second = signedVote(otherInfo, VALID, seat);
        bytes memory sum = sumOf(LIAR, first, second);
        vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.UnknownTaskDefinition.selector, 77));
        court.reportEquivocation(second, first, sum);
        bytes32 slashId = court.reportEquivocation(first, second, sum);
        assertQueued(slashId, ISlashingCourt.Offence.EQUIVOCATION, "task", liar, DISPUTE_WINDOW);
    }

    // --- what is none ------------------------------------------------------------------------------------------------

    function test_reportEquivocation_OneVoteTwiceIsNone() public {
        ISlashingCourt.SignedVote memory vote_ = signedVote(info, VALID, seat);
        bytes memory sum = sumOf(LIAR, vote_, vote_);
        vm.expectRevert(none);
        court.reportEquivocation(vote_, vote_, sum);
    }

    function test_reportEquivocation_TwoTasksAreNone() public {
        otherInfo.taskId = "other";
        ISlashingCourt.SignedVote memory first = signedVote(info, VALID, seat);
        ISlashingCourt.SignedVote memory second = signedVote(otherInfo, INVALID, seat);
        bytes memory sum = sumOf(LIAR, first, second);
        vm.expectRevert(none);
        court.reportEquivocation(first, second, sum);
    }

    function testFuzz_reportEquivocation_OnlyVerdictsAreVotes(uint8 verdict) public {
        if (verdict == VALID || verdict == INVALID) verdict += 2;
        ISlashingCourt.SignedVote memory first = signedVote(info, VALID, seat);
        ISlashingCourt.SignedVote memory second = signedVote(info, verdict, seat);
        vm.expectRevert(none);
        court.reportEquivocation(first, second, "");
        vm.expectRevert(none);
        court.reportEquivocation(second, first, "");
    }

    function test_reportEquivocation_TwoAttestersWhoDisagreeAreNone() public {
        ISlashingCourt.SignedVote memory first = signedVote(info, VALID, seat);
        ISlashingCourt.SignedVote memory second = signedVote(info, INVALID, seatOf(3));
        bytes memory both = bothOf(LIAR, first, 3, second);
        vm.expectRevert(none);
        court.reportEquivocation(first, second, both);
    }

    // --- signatures --------------------------------------------------------------------------------------------------

    function test_reportEquivocation_NobodyIsFramedByAnothersVote() public {
        ISlashingCourt.SignedVote memory first = signedVote(info, VALID, seat);
        ISlashingCourt.SignedVote memory second = signedVote(info, INVALID, seat);
        bytes32 firstDigest = center.voteDigest(center.taskInfoHash(info), VALID);
        bytes memory mismatch = abi.encodeWithSelector(IQuorumVerifier.SignatureMismatch.selector, firstDigest);
        // The liar signed one verdict, attester 3 the other.
        bytes memory mixed = Keys.add(signatureOf(LIAR, first), signatureOf(3, second));
        vm.expectRevert(mismatch);
        court.reportEquivocation(first, second, mixed);
        // One verdict alone, doubled or not.
        bytes memory single = signatureOf(LIAR, first);
        vm.expectRevert(mismatch);
        court.reportEquivocation(first, second, single);
        single = Keys.add(single, signatureOf(LIAR, first));
        vm.expectRevert(mismatch);
        court.reportEquivocation(first, second, single);
        assertState(court.slashIdOf(ISlashingCourt.Offence.EQUIVOCATION, "task", liar), ISlashingCourt.State.NONE);
    }

    function test_reportEquivocation_AcrossEpochsEachSignatureCounts() public {
        otherInfo.epoch = roll();
        ISlashingCourt.SignedVote memory first = signedVote(info, VALID, seat);
        ISlashingCourt.SignedVote memory second = signedVote(otherInfo, VALID, seatOf(LIAR));
        bytes memory swapped = bothOf(LIAR, second, LIAR, first);
        bytes32 firstDigest = center.voteDigest(center.taskInfoHash(info), VALID);
        bytes32 secondDigest = center.voteDigest(center.taskInfoHash(otherInfo), VALID);
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.SignatureMismatch.selector, firstDigest));
        court.reportEquivocation(first, second, swapped);
        bytes memory forged = bothOf(LIAR, first, 3, second);
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.SignatureMismatch.selector, secondDigest));
        court.reportEquivocation(first, second, forged);
    }

    function test_reportEquivocation_RevertsForSignaturesOfAnotherLength() public {
        ISlashingCourt.SignedVote memory first = signedVote(info, VALID, seat);
        ISlashingCourt.SignedVote memory second = signedVote(info, INVALID, seat);
        bytes memory both = bothOf(LIAR, first, LIAR, second);
        vm.expectRevert(abi.encodeWithSelector(ISlashingCourt.SignaturesLength.selector, 192));
        court.reportEquivocation(first, second, both);
        vm.expectRevert(abi.encodeWithSelector(ISlashingCourt.SignaturesLength.selector, 0));
        court.reportEquivocation(first, second, "");

        second = signedVote(info, INVALID, seatOf(3));
        bytes memory sum = signatureOf(LIAR, first);
        vm.expectRevert(abi.encodeWithSelector(ISlashingCourt.SignaturesLength.selector, 96));
        court.reportEquivocation(first, second, sum);
    }

    function test_reportEquivocation_OncePerTaskWhateverTheVotes() public {
        ISlashingCourt.SignedVote memory first = signedVote(info, VALID, seat);
        ISlashingCourt.SignedVote memory second = signedVote(info, INVALID, seat);
        bytes32 slashId = court.reportEquivocation(first, second, sumOf(LIAR, first, second));
        ISlashingCourt.SignedVote memory third = signedVote(otherInfo, VALID, seat);
        bytes memory sum = sumOf(LIAR, first, third);
        vm.expectRevert(refusal(ISlashingCourt.AlreadyQueued.selector, slashId));
        court.reportEquivocation(first, third, sum);
        cancel(slashId);
        vm.expectRevert(refusal(ISlashingCourt.AlreadyQueued.selector, slashId));
        court.reportEquivocation(first, third, sum);
    }

    // --- inside ------------------------------------------------------------------------------------------------------

    function sumOf(uint256 id, ISlashingCourt.SignedVote memory first, ISlashingCourt.SignedVote memory second)
        private
        view
        returns (bytes memory)
    {
        return Keys.add(signatureOf(id, first), signatureOf(id, second));
    }

    function bothOf(
        uint256 id,
        ISlashingCourt.SignedVote memory first,
        uint256 other,
        ISlashingCourt.SignedVote memory second
    ) private view returns (bytes memory) {
        return bytes.concat(signatureOf(id, first), signatureOf(other, second));
    }
}
