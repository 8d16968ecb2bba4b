// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {RecordingHook, StubbornHook} from "./Hooks.t.sol";
import {Network} from "./Network.sol";

/// @notice The center remembers one task that is settling. A hook that could settle a second task with a hook would make
/// it forget the first, and could then settle that in its own name; what a hook may use is less than what such a task
/// needs. Branches: tree/hooks.tree.
contract NestedHooksTest is Network {
    uint256 private constant PERFORMER_ID = 9;

    function setUp() public override {
        super.setUp();
        join(PERFORMER_ID, PERFORMER, MINIMUM_STAKE);
        for (uint256 id = 1; id <= 4; ++id) {
            join(id, ATTESTER, MINIMUM_STAKE);
        }
        roll();
    }

    function _prepare(bytes32 taskId, address hook)
        private
        returns (IAttestationCenter.TaskInfo memory info, IAttestationCenter.TaskSubmissionDetails memory details)
    {
        IAttestationCenter.TaskTerms memory with = terms();
        with.hook = hook;
        info = makeInfo(taskId, PERFORMER_ID, tables.currentEpoch());
        info.taskDefinitionId = addDefinition(with);
        details = certify(info, true, 15);
    }

    function test_hook_CannotSettleATaskThatHasAHook() public {
        StubbornHook outer = new StubbornHook(center);
        RecordingHook inner = new RecordingHook();
        (IAttestationCenter.TaskInfo memory other, IAttestationCenter.TaskSubmissionDetails memory others) =
            _prepare("other", address(inner));
        (IAttestationCenter.TaskInfo memory info, IAttestationCenter.TaskSubmissionDetails memory details) =
            _prepare("task", address(outer));
        outer.hold(other, others);
        center.submitTask(info, details);
        assertEq(inner.count(), 0, "the inner hook heard nothing");
        assertEq(center.verdictOf("other"), 0, "the other task has not settled");
        IAttestationCenter.SettlementProof memory proof;
        proof.aggregator = address(this);
        bytes32 voters = center.votersHashOf(info.epoch, 0, "");
        center.requireSettled("task", center.taskInfoHash(info), true, voters, proof);
        // It was sound: anybody else settles it.
        center.submitTask(other, others);
        assertEq(center.verdictOf("other"), VALID, "settled");
        assertEq(inner.count(), 2, "and heard");
    }
}
