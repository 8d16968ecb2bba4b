// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";

import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {IQuorumVerifier} from "../src/interfaces/IQuorumVerifier.sol";
import {Digests} from "../src/libraries/Digests.sol";
import {Network} from "./Network.sol";

/// @notice Settlement and slashing. Branches: tree/submitTask.tree, tree/submitBatch.tree, tree/executeSlash.tree; each
/// kind of invalid certificate is in tests/vectors/certificate.json.
contract AttestationCenterTest is Network {
    uint256 private constant PERFORMER_ID = 9;
    uint256 private constant EVERYBODY = type(uint256).max;
    address private performer;

    function setUp() public override {
        super.setUp();
        performer = join(PERFORMER_ID, PERFORMER, 10 * MINIMUM_STAKE);
        for (uint256 id = 1; id <= 4; ++id) {
            join(id, ATTESTER, MINIMUM_STAKE);
        }
        roll();
    }

    // --- task definitions --------------------------------------------------------------------------------------------

    function test_createTaskDefinition_CountsFromZeroAndKeepsThem() public {
        vm.expectEmit(address(center));
        emit IAttestationCenter.TaskDefinitionCreated(1, "stories", "text", keccak256("other"), "bafy");
        vm.prank(owner);
        assertEq(center.createTaskDefinition("stories", "text", keccak256("other"), "bafy"), 1, "id");
        assertEq(center.taskDefinitionCount(), 2, "count");
        assertEq(bytes(center.taskDefinition(0).name), "digits", "0 is a definition like any other");
        IAttestationCenter.TaskDefinition memory definition = center.taskDefinition(1);
        assertEq(bytes(definition.name), "stories", "name");
        assertEq(bytes(definition.method), "text", "method");
        assertEq(definition.modelHash, keccak256("other"), "model hash");
        assertEq(bytes(definition.cardCid), "bafy", "card");
    }

    function test_createTaskDefinition_IsForTheOwner() public {
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, address(this)));
        center.createTaskDefinition("", "", 0, "");
    }

    function test_taskDefinition_RevertsForAnUnknownId() public {
        vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.UnknownTaskDefinition.selector, 1));
        center.taskDefinition(1);
    }

    function test_ownership_MovesInTwoSteps() public {
        Ownable2Step ownable = Ownable2Step(address(center));
        vm.prank(owner);
        ownable.transferOwnership(performer);
        assertEq(ownable.owner(), owner, "not yet");
        vm.prank(performer);
        ownable.acceptOwnership();
        assertEq(ownable.owner(), performer, "now");
    }

    // --- submitTask --------------------------------------------------------------------------------------------------

    function test_submitTask_RecordsAnApproval() public {
        IAttestationCenter.TaskInfo memory info = makeInfo("task", PERFORMER_ID, 1);
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, true, 7);
        bytes32 infoHash = center.checkCertificate(info, details);
        assertEq(infoHash, center.taskInfoHash(info), "checked");
        assertEq(center.verdictOf("task"), 0, "checking records nothing");

        vm.expectEmit(address(center));
        emit IAttestationCenter.TaskSubmitted(performer, "task", info.proofOfTask, info.data, 0, infoHash, hex"03");
        vm.prank(address(0xdead)); // anyone
        center.submitTask(info, details);
        assertEq(center.verdictOf("task"), 1, "approved");
        assertEq(center.slashOf("task").operator, address(0), "no slash");
    }

    function test_submitTask_RecordsARejectionAndQueuesASlash() public {
        IAttestationCenter.TaskInfo memory info = makeInfo("task", PERFORMER_ID, 1);
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, false, 3);
        bytes32 infoHash = center.taskInfoHash(info);
        uint64 executableAt = uint64(block.timestamp) + DISPUTE_WINDOW;

        vm.expectEmit(address(center));
        emit IAttestationCenter.TaskRejected(performer, "task", info.proofOfTask, info.data, 0, infoHash, hex"0001");
        vm.expectEmit(address(center));
        emit IAttestationCenter.SlashQueued("task", performer, executableAt);
        center.submitTask(info, details);
        assertEq(center.verdictOf("task"), 2, "rejected");
        IAttestationCenter.Slash memory queued = center.slashOf("task");
        assertEq(queued.operator, performer, "operator");
        assertEq(queued.executableAt, executableAt, "executable at");
        assertTrue(!queued.isExecuted, "not executed");
        assertEq(registry.operatorOf(performer).stake, 10 * MINIMUM_STAKE, "nothing has moved");
    }

    function test_submitTask_RevertsTheSecondTimeWhateverTheVerdict() public {
        IAttestationCenter.TaskInfo memory info = makeInfo("task", PERFORMER_ID, 1);
        IAttestationCenter.TaskSubmissionDetails memory approval = certify(info, true, EVERYBODY);
        IAttestationCenter.TaskSubmissionDetails memory rejection = certify(info, false, EVERYBODY);
        center.submitTask(info, approval);
        bytes memory refusal = abi.encodeWithSelector(IAttestationCenter.TaskAlreadySettled.selector, bytes32("task"));
        vm.expectRevert(refusal);
        center.submitTask(info, approval);
        vm.expectRevert(refusal);
        center.submitTask(info, rejection);
        // Another info of the same task is the same task.
        info.data = "another answer";
        IAttestationCenter.TaskSubmissionDetails memory other = certify(info, true, EVERYBODY);
        vm.expectRevert(refusal);
        center.submitTask(info, other);
        assertEq(center.verdictOf("task"), 1, "still the first verdict");
    }

    function test_submitTask_TakesThePreviousEpochsTableAndNoOlder() public {
        IAttestationCenter.TaskInfo memory info = makeInfo("task", PERFORMER_ID, 1);
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, true, EVERYBODY);
        IAttestationCenter.TaskInfo memory late = makeInfo("late", PERFORMER_ID, 1);
        IAttestationCenter.TaskSubmissionDetails memory lateDetails = certify(late, true, EVERYBODY);
        vm.prank(accountOf(1));
        registry.leave();
        roll();
        center.submitTask(info, details);
        assertEq(center.verdictOf("task"), 1, "settled by the previous table");
        roll();
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.UnknownEpoch.selector, 1, 3));
        center.submitTask(late, lateDetails);
    }

    function test_submitTask_CountsPowerAtTheTasksEpoch() public {
        // Whoever stakes a fortune after the task's epoch has no say in it.
        vm.deal(accountOf(4), 1000 ether);
        vm.prank(accountOf(4));
        registry.addStake{value: 1000 ether}();
        roll();
        IAttestationCenter.TaskInfo memory info = makeInfo("task", PERFORMER_ID, 1);
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, false, 8);
        uint256 power = MINIMUM_STAKE / 1 gwei;
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.QuorumNotReached.selector, power, 4 * power, false));
        center.submitTask(info, details);
    }

    function test_submitTask_SettlesForWhoHasLeftAndWithdrawn() public {
        vm.prank(performer);
        registry.leave();
        settle("leaving", PERFORMER_ID, true);
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        vm.prank(performer);
        registry.withdraw();
        settle("gone", PERFORMER_ID, false);
        assertEq(center.verdictOf("gone"), 2, "the verdict stands");
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        assertEq(center.executeSlash("gone"), 0, "nothing is left to slash");
    }

    // --- submitBatch, included ---------------------------------------------------------------------------------------

    function _submitBatch(bytes32 root, uint256 signers) private {
        bytes32 digest = center.batchDigest(root, "document", 2, 1, address(this));
        (bytes memory signature, bytes memory missing) = vote(digest, 1, true, signers);
        center.submitBatch(root, "document", 2, 1, address(this), signature, missing);
    }

    function test_submitBatch_SettlesARootOnce() public {
        vm.expectEmit(address(center));
        emit IAttestationCenter.BatchSettled("root", "document", 2, 1, address(this));
        _submitBatch("root", 7);
        IAttestationCenter.Batch memory batch = center.batchOf("root");
        assertEq(batch.size, 2, "size");
        assertEq(batch.epoch, 1, "epoch");
        assertEq(batch.aggregator, address(this), "aggregator");

        bytes32 digest = center.batchDigest("root", "document", 2, 1, address(this));
        (bytes memory signature, bytes memory missing) = vote(digest, 1, true, EVERYBODY);
        vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.BatchAlreadySettled.selector, bytes32("root")));
        center.submitBatch("root", "document", 2, 1, address(this), signature, missing);
    }

    function test_submitBatch_RefusesAnEmptyBatch() public {
        vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.EmptyBatch.selector, bytes32("root")));
        center.submitBatch("root", "document", 0, 1, address(this), "", "");
    }

    function test_submitBatch_TakesNoVoteForABatch() public {
        // A vote over an info hash that equals a root is another struct, hence another digest.
        (bytes memory signature, bytes memory missing) = vote(center.voteDigest("root", 1), 1, true, EVERYBODY);
        bytes32 digest = center.batchDigest("root", "document", 1, 1, address(this));
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.SignatureMismatch.selector, digest));
        center.submitBatch("root", "document", 1, 1, address(this), signature, missing);
    }

    function test_included_AnswersForSettledRootsAlone() public {
        bytes32 left = Digests.hashLeaf("one", "info", true);
        bytes32 right = Digests.hashLeaf("two", "info", false);
        bytes32 root = left < right ? keccak256(abi.encode(left, right)) : keccak256(abi.encode(right, left));
        bytes32[] memory proof = new bytes32[](1);
        proof[0] = right;
        assertTrue(!center.included(root, "one", "info", true, proof), "not settled yet");
        _submitBatch(root, EVERYBODY);

        assertTrue(center.included(root, "one", "info", true, proof), "included");
        assertTrue(!center.included(root, "one", "info", false, proof), "another verdict");
        assertTrue(!center.included(root, "two", "info", true, proof), "another task");
        assertTrue(!center.included(root, "one", "other", true, proof), "another info");
        assertTrue(!center.included(root, "one", "info", true, new bytes32[](0)), "no proof");
        proof[0] = left;
        assertTrue(center.included(root, "two", "info", false, proof), "the other");
        assertTrue(!center.included("other", "two", "info", false, proof), "another root");
    }

    function test_included_TakesNoInnerNodeForALeaf() public {
        // The root itself, with an empty proof, is no task.
        _submitBatch("root", EVERYBODY);
        assertTrue(!center.included("root", "root", "", true, new bytes32[](0)), "no leaf");
    }

    // --- executeSlash ------------------------------------------------------------------------------------------------

    function test_executeSlash_WaitsOutTheDisputeWindowThenMovesStakeOnce() public {
        settle("task", PERFORMER_ID, false);
        uint64 executableAt = uint64(block.timestamp) + DISPUTE_WINDOW;
        vm.warp(executableAt - 1);
        vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.SlashNotDue.selector, bytes32("task"), executableAt));
        center.executeSlash("task");

        vm.warp(executableAt);
        vm.expectEmit(address(center));
        emit IAttestationCenter.SlashExecuted("task", performer, MINIMUM_STAKE);
        vm.prank(address(0xdead)); // anyone
        assertEq(center.executeSlash("task"), MINIMUM_STAKE, "a tenth of ten");
        assertEq(registry.operatorOf(performer).stake, 9 * MINIMUM_STAKE, "stake");
        assertEq(registry.vaultBalance(), MINIMUM_STAKE, "vault");
        assertTrue(center.slashOf("task").isExecuted, "executed");

        vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.SlashAlreadyExecuted.selector, bytes32("task")));
        center.executeSlash("task");
    }

    function test_executeSlash_RevertsForATaskThatQueuedNone() public {
        settle("task", PERFORMER_ID, true);
        vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.NoSlashQueued.selector, bytes32("task")));
        center.executeSlash("task");
        vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.NoSlashQueued.selector, bytes32("other")));
        center.executeSlash("other");
    }

    function test_executeSlash_TakesItsShareOfWhatIsThere() public {
        settle("first", PERFORMER_ID, false);
        settle("second", PERFORMER_ID, false);
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        uint256 stake = 10 * MINIMUM_STAKE;
        assertEq(center.executeSlash("first"), stake / 10, "a tenth");
        assertEq(center.executeSlash("second"), (stake - stake / 10) / 10, "a tenth of the rest");
    }

    function test_executeSlash_ReachesWhoIsLeaving() public {
        settle("task", PERFORMER_ID, false);
        vm.prank(performer);
        registry.leave();
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        assertEq(center.executeSlash("task"), MINIMUM_STAKE, "slashed");
    }

    // --- deploying ---------------------------------------------------------------------------------------------------

    function deployExternally(uint256 slashWad, uint64 disputeWindow) external {
        deployCenter(registry, slashWad, disputeWindow);
    }

    function _expectSetting(string memory name, uint256 value) private {
        vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.InvalidSetting.selector, name, value));
    }

    function test_constructor_BoundsItsSettings() public {
        _expectSetting("slashWad", 0);
        this.deployExternally(0, 1);
        _expectSetting("slashWad", 1e18 + 1);
        this.deployExternally(1e18 + 1, 1);
        _expectSetting("disputeWindow", 0);
        this.deployExternally(1, 0);
        _expectSetting("disputeWindow", UNBONDING_SECONDS + 1);
        this.deployExternally(1, UNBONDING_SECONDS + 1);
        this.deployExternally(1e18, UNBONDING_SECONDS);
    }
}
