// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {IQuorumVerifier} from "../src/interfaces/IQuorumVerifier.sol";
import {ISlashingCourt} from "../src/interfaces/ISlashingCourt.sol";
import {CourtNetwork} from "./CourtNetwork.sol";

/// @notice A vote against the settled verdict. Branches: tree/reportOutlier.tree.
contract OutlierTest is CourtNetwork {
    uint256 private constant ODD = 4;
    address private odd;
    uint16 private seat;
    IAttestationCenter.TaskInfo private info;

    function setUp() public override {
        super.setUp();
        odd = accountOf(ODD);
        seat = seatOf(ODD);
        info = makeInfo("task", PERFORMER_ID, tables.currentEpoch());
        info.taskDefinitionId = STRICT;
    }

    function test_reportOutlier_AgainstAnApproval() public {
        bytes32 votersHash = settleBy(true, THREE, hex"03");
        (ISlashingCourt.SignedVote memory vote_, bytes memory signature) = oddVote(INVALID);
        bytes32 slashId = court.slashIdOf(ISlashingCourt.Offence.OUTLIER, "task", odd);
        vm.expectEmit(address(court));
        emit ISlashingCourt.SlashQueued(
            slashId, "task", odd, ISlashingCourt.Offence.OUTLIER, uint64(block.timestamp) + STRICT_WINDOW
        );
        assertEq(court.reportOutlier(vote_, signature, votersHash, singly()), slashId, "slash id");
        assertQueued(slashId, ISlashingCourt.Offence.OUTLIER, "task", odd, STRICT_WINDOW);
        assertUnnamed(slashId);
        vm.expectRevert(refusal(ISlashingCourt.AlreadyQueued.selector, slashId));
        court.reportOutlier(vote_, signature, votersHash, singly());
        vm.warp(block.timestamp + STRICT_WINDOW);
        assertEq(court.executeSlash(slashId), MINIMUM_STAKE / 100, "a hundredth");
    }

    function test_reportOutlier_AgainstARejection() public {
        bytes32 votersHash = settleBy(false, THREE, hex"000102");
        (ISlashingCourt.SignedVote memory vote_, bytes memory signature) = oddVote(VALID);
        bytes32 slashId = court.reportOutlier(vote_, signature, votersHash, singly());
        assertQueued(slashId, ISlashingCourt.Offence.OUTLIER, "task", odd, STRICT_WINDOW);
    }

    function test_reportOutlier_AgainstABatch() public {
        IAttestationCenter.SettlementProof memory proof = settleInBatch(info, true);
        (ISlashingCourt.SignedVote memory vote_, bytes memory signature) = oddVote(INVALID);
        bytes32 slashId = court.reportOutlier(vote_, signature, everybodysHash(true), proof);
        assertQueued(slashId, ISlashingCourt.Offence.OUTLIER, "task", odd, STRICT_WINDOW);
    }

    function test_reportOutlier_RevertsWhereOutliersAreNotSlashed() public {
        info.taskDefinitionId = 0;
        bytes32 votersHash = settleBy(true, THREE, hex"03");
        (ISlashingCourt.SignedVote memory vote_, bytes memory signature) = oddVote(INVALID);
        vm.expectRevert(abi.encodeWithSelector(ISlashingCourt.OutliersNotSlashed.selector, 0));
        court.reportOutlier(vote_, signature, votersHash, singly());
        vote_.info.taskDefinitionId = 77;
        vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.UnknownTaskDefinition.selector, 77));
        court.reportOutlier(vote_, signature, votersHash, singly());
    }

    function test_reportOutlier_RevertsForWhoVotedWithTheVerdict() public {
        bytes32 votersHash = settleBy(true, THREE, hex"03");
        (ISlashingCourt.SignedVote memory vote_, bytes memory signature) = oddVote(VALID);
        vm.expectRevert(refusal(ISlashingCourt.NotAnOutlier.selector, "task"));
        court.reportOutlier(vote_, signature, votersHash, singly());
    }

    function test_reportOutlier_RevertsForWhoVotedWithTheBatch() public {
        IAttestationCenter.SettlementProof memory proof = settleInBatch(info, true);
        bytes32 votersHash = everybodysHash(true);
        (ISlashingCourt.SignedVote memory vote_, bytes memory signature) = oddVote(VALID);
        vm.expectRevert(refusal(IAttestationCenter.NotSettled.selector, "task"));
        court.reportOutlier(vote_, signature, votersHash, proof);
    }

    function testFuzz_reportOutlier_OnlyVerdictsAreVotes(uint8 verdict) public {
        if (verdict == VALID || verdict == INVALID) verdict += 2;
        bytes32 votersHash = settleBy(false, THREE, hex"000102");
        (ISlashingCourt.SignedVote memory vote_, bytes memory signature) = oddVote(verdict);
        vm.expectRevert(refusal(ISlashingCourt.NotAnOutlier.selector, "task"));
        court.reportOutlier(vote_, signature, votersHash, singly());
    }

    function test_reportOutlier_RevertsForAnotherTaskInfo() public {
        bytes32 votersHash = settleBy(true, THREE, hex"03");
        info.data = "another answer";
        (ISlashingCourt.SignedVote memory vote_, bytes memory signature) = oddVote(INVALID);
        vm.expectRevert(refusal(IAttestationCenter.NotSettled.selector, "task"));
        court.reportOutlier(vote_, signature, votersHash, singly());
    }

    function test_reportOutlier_RevertsForWhatIsNotSettledAsShown() public {
        (ISlashingCourt.SignedVote memory vote_, bytes memory signature) = oddVote(INVALID);
        vm.expectRevert(refusal(IAttestationCenter.NotSettled.selector, "task"));
        court.reportOutlier(vote_, signature, "", singly());
        settleBy(true, THREE, hex"03");
        vm.expectRevert(refusal(IAttestationCenter.NotSettled.selector, "task"));
        court.reportOutlier(vote_, signature, "other voters", singly());
    }

    function test_reportOutlier_RevertsForASignatureOfSomebodyElse() public {
        bytes32 votersHash = settleBy(true, THREE, hex"03");
        (ISlashingCourt.SignedVote memory vote_,) = oddVote(INVALID);
        bytes memory forged = signatureOf(1, vote_);
        bytes32 digest = center.voteDigest(center.taskInfoHash(info), INVALID);
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.SignatureMismatch.selector, digest));
        court.reportOutlier(vote_, forged, votersHash, singly());
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.SignatureLength.selector, 0));
        court.reportOutlier(vote_, "", votersHash, singly());
    }

    // --- inside ------------------------------------------------------------------------------------------------------

    function settleBy(bool isApproved, uint256 signers, bytes memory indices) private returns (bytes32 votersHash) {
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, isApproved, signers);
        assertEq(details.indices, indices, "indices");
        center.submitTask(info, details);
        return center.votersHashOf(info.epoch, 0, indices);
    }

    function oddVote(uint8 verdict)
        private
        view
        returns (ISlashingCourt.SignedVote memory vote_, bytes memory signature)
    {
        vote_ = signedVote(info, verdict, seat);
        signature = signatureOf(ODD, vote_);
    }
}
