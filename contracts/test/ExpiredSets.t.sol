// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {IEpochTables} from "../src/interfaces/IEpochTables.sol";
import {IQuorumVerifier} from "../src/interfaces/IQuorumVerifier.sol";
import {ITaskEscrow} from "../src/interfaces/ITaskEscrow.sol";
import {EscrowNetwork} from "./EscrowNetwork.sol";

/// @notice Tasks of a restricted set that a batch settled: everybody's quorum settles them, so that nobody needs the set's
/// table before its attesters claim, perhaps long after the epoch. Branches: tree/expiredSets.tree.
contract ExpiredSetsTest is EscrowNetwork {
    uint32 private constant SET = 1;
    uint16 private definition;

    function setUp() public override {
        super.setUp();
        // Seats 2 and 3, 1301 and 1234, of which the first counts 1250.
        tables.createAttesterSet(IEpochTables.AttesterSet(new address[](0), 1200, 1250, 0));
        IAttestationCenter.TaskTerms memory restricted = terms();
        restricted.attesterSet = SET;
        definition = addDefinition(restricted);
    }

    /// @dev Settles and collects a task of the restricted definition, by a batch.
    function _payInBatch() private returns (ITaskEscrow.Voters memory) {
        IAttestationCenter.TaskRequest[] memory requests = new IAttestationCenter.TaskRequest[](1);
        requests[0] = makeRequest(1);
        requests[0].taskDefinitionId = definition;
        ITaskEscrow.Collection[] memory tasks = settleBatch(requests, 1, EVERYBODY);
        escrow.collect(tasks);
        return votersOf(tasks[0]);
    }

    function _expire() private {
        roll();
        vm.warp(block.timestamp + GRACE_SECONDS + 1);
        assertTrue(tables.isExpired(epoch), "expired");
    }

    function test_claim_OfASetWhoseTableNobodyWroteInTime() public {
        ITaskEscrow.Voters memory voters = _payInBatch();
        _expire();
        (ITaskEscrow.Voters[] memory pools, uint16[] memory seats) = one(voters, 2);
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.SetTableMissing.selector, epoch, SET));
        escrow.claim(attesterIn(2), pools, seats);

        assertEq(tables.rollSet(epoch, SET), 2484, "the set's power");
        assertEq(claimShare(attesterIn(2), voters, 2), TO_ATTESTERS * 1250 / 2484, "its share");
        assertEq(claimShare(attesterIn(3), voters, 3), TO_ATTESTERS * 1234 / 2484, "its share");
        (pools, seats) = one(voters, 0);
        vm.expectRevert(abi.encodeWithSelector(ITaskEscrow.NotAVoter.selector, 0));
        escrow.claim(attesterIn(0), pools, seats);
    }

    function test_rollSet_OfAnExpiredEpochSettlesNothing() public {
        _expire();
        tables.rollSet(epoch, SET);
        IAttestationCenter.TaskRequest memory request = makeRequest(1);
        request.taskDefinitionId = definition;
        IAttestationCenter.TaskInfo memory info = infoOf(request);
        info.epoch = epoch;
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, true, EVERYBODY);
        vm.expectPartialRevert(IQuorumVerifier.EpochExpired.selector);
        center.submitTask(info, details);
        vm.expectRevert(abi.encodeWithSelector(IEpochTables.SetAlreadyRolled.selector, epoch, SET));
        tables.rollSet(epoch, SET);
    }

    function test_rollSet_RevertsForAnEpochThatNeverWas() public {
        uint32 next = epoch + 1;
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.UnknownEpoch.selector, next, epoch));
        tables.rollSet(next, SET);
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.UnknownEpoch.selector, 0, epoch));
        tables.rollSet(0, SET);
    }

    /// The table is the epoch's, whatever seats and powers are now.
    function test_rollSet_OfAnExpiredEpochSeesItsTable() public {
        _expire();
        vm.prank(attesterIn(2));
        registry.leave(attesterIn(2));
        roll();
        assertEq(tables.rollSet(epoch, SET), 2484, "then");
        assertEq(tables.rollSet(tables.currentEpoch(), SET), 1234, "now");
    }
}
