// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Governed} from "../src/Governed.sol";
import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {IEpochTables} from "../src/interfaces/IEpochTables.sol";
import {IQuorumVerifier} from "../src/interfaces/IQuorumVerifier.sol";
import {ISlashingCourt} from "../src/interfaces/ISlashingCourt.sol";
import {FakeCourt} from "./FakeCourt.sol";
import {Network} from "./Network.sol";

/// @notice Single tasks. Branches: tree/submitTask.tree, tree/submitTaskAfterDeadline.tree; each kind of
/// invalid certificate is in tests/vectors/certificate.json too.
contract AttestationCenterTest is Network {
    uint256 private constant PERFORMER_ID = 9;
    uint256 private constant REQUESTER_ID = 20;
    uint256 private constant EVERYBODY = type(uint256).max;
    uint256 private constant POWER = MINIMUM_STAKE / POWER_UNIT;
    uint256 private constant SECP256K1_ORDER = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141;
    address private immutable anyone = address(uint160(uint256(keccak256("anyone"))));
    address private performer;

    function setUp() public override {
        super.setUp();
        performer = join(PERFORMER_ID, PERFORMER, 10 * MINIMUM_STAKE);
        for (uint256 id = 1; id <= 4; ++id) {
            join(id, ATTESTER, MINIMUM_STAKE);
        }
        roll();
    }

    // --- helpers -----------------------------------------------------------------------------------------------------

    function _info(bytes32 taskId) private view returns (IAttestationCenter.TaskInfo memory) {
        return makeInfo(taskId, PERFORMER_ID, tables.currentEpoch());
    }

    function _votersHash(IAttestationCenter.TaskInfo memory info, uint32 set, bytes memory indices)
        private
        pure
        returns (bytes32)
    {
        return keccak256(abi.encodePacked(info.epoch, set, indices));
    }

    function _recordFor(
        IAttestationCenter.TaskInfo memory info,
        IAttestationCenter.TaskSubmissionDetails memory details,
        uint32 set,
        address aggregator
    ) private view returns (bytes32) {
        bytes32 votersHash = _votersHash(info, set, details.indices);
        bytes32 inner = keccak256(abi.encode(info.taskId, center.taskInfoHash(info), details.isApproved, votersHash));
        bytes32 whole = keccak256(abi.encode(keccak256(bytes.concat(inner)), aggregator));
        return whole >> 8 << 8 | bytes32(uint256(details.isApproved ? VALID : INVALID));
    }

    /// @dev Both ways of asking about a certificate refuse it with the same words.
    function _expectRefused(
        IAttestationCenter.TaskInfo memory info,
        IAttestationCenter.TaskSubmissionDetails memory details,
        bytes memory refusal
    ) private {
        vm.expectRevert(refusal);
        center.checkCertificate(info, details);
        vm.expectRevert(refusal);
        center.submitTask(info, details);
        assertEq(center.recordOf(info.taskId), 0, "nothing is recorded");
    }

    function _slashState(bytes32 taskId) private view returns (ISlashingCourt.State) {
        return court.slashOf(court.slashIdOf(ISlashingCourt.Offence.REJECTED_TASK, taskId, performer)).state;
    }

    /// @dev A set of the operators 1 to 3, with its table of the current epoch not yet written, and a definition of it.
    function _defineSet(bool waitsForAll) private returns (uint32 set, uint16 definition) {
        IEpochTables.AttesterSet memory rules;
        rules.members = new address[](3);
        for (uint256 i = 0; i < 3; ++i) {
            rules.members[i] = accountOf(i + 1);
            for (uint256 j = i; j > 0 && rules.members[j - 1] > rules.members[j]; --j) {
                (rules.members[j - 1], rules.members[j]) = (rules.members[j], rules.members[j - 1]);
            }
        }
        set = tables.createAttesterSet(rules);
        IAttestationCenter.TaskTerms memory with = terms();
        with.attesterSet = set;
        with.waitsForAll = waitsForAll;
        definition = addDefinition(with);
    }

    function _defineWaiting() private returns (uint16) {
        IAttestationCenter.TaskTerms memory with = terms();
        with.waitsForAll = true;
        return addDefinition(with);
    }

    // --- submitTask: verdicts ----------------------------------------------------------------------------------------

    function test_submitTask_RecordsAnApproval() public {
        IAttestationCenter.TaskInfo memory info = _info("task");
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, true, 7);
        bytes32 infoHash = center.checkCertificate(info, details);
        assertEq(infoHash, center.taskInfoHash(info), "checked");
        assertEq(center.verdictOf("task"), 0, "checking records nothing");

        vm.expectEmit(address(center));
        emit IAttestationCenter.TaskSubmitted(
            performer, "task", info.proofOfTask, info.data, 0, infoHash, anyone, hex"03"
        );
        vm.prank(anyone);
        center.submitTask(info, details);
        assertEq(center.verdictOf("task"), VALID, "approved");
        assertEq(center.recordOf("task"), _recordFor(info, details, 0, anyone), "record");
        assertTrue(_slashState("task") == ISlashingCourt.State.NONE, "no slash");
    }

    function test_submitTask_RecordsARejectionAndQueuesASlash() public {
        IAttestationCenter.TaskInfo memory info = _info("task");
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, false, 3);
        bytes32 slashId = court.slashIdOf(ISlashingCourt.Offence.REJECTED_TASK, "task", performer);
        uint64 executableAt = uint64(block.timestamp) + DISPUTE_WINDOW;

        vm.expectEmit(address(center));
        emit IAttestationCenter.TaskRejected(
            performer, "task", info.proofOfTask, info.data, 0, center.taskInfoHash(info), anyone, hex"0001"
        );
        vm.expectEmit(address(court));
        emit ISlashingCourt.SlashQueued(slashId, "task", performer, ISlashingCourt.Offence.REJECTED_TASK, executableAt);
        vm.prank(anyone);
        center.submitTask(info, details);
        assertEq(center.verdictOf("task"), INVALID, "rejected");
        assertEq(center.recordOf("task"), _recordFor(info, details, 0, anyone), "record");
        ISlashingCourt.Slash memory queued = court.slashOf(slashId);
        assertTrue(queued.state == ISlashingCourt.State.WAITING, "waiting");
        assertEq(queued.operator, performer, "operator");
        assertEq(queued.executableAt, executableAt, "executable at");
        assertEq(registry.operatorOf(performer).stake, 10 * MINIMUM_STAKE, "nothing has moved");
    }

    function test_submitTask_QueuesNoSlashWhereTheDefinitionDoesNot() public {
        IAttestationCenter.TaskTerms memory with = terms();
        with.slashesRejected = false;
        IAttestationCenter.TaskInfo memory info = _info("task");
        info.taskDefinitionId = addDefinition(with);
        center.submitTask(info, certify(info, false, EVERYBODY));
        assertEq(center.verdictOf("task"), INVALID, "rejected");
        assertTrue(_slashState("task") == ISlashingCourt.State.NONE, "no slash");
    }

    function test_submitTask_RevertsTheSecondTimeWhateverTheVerdict() public {
        IAttestationCenter.TaskInfo memory info = _info("task");
        IAttestationCenter.TaskSubmissionDetails memory approval = certify(info, true, EVERYBODY);
        IAttestationCenter.TaskSubmissionDetails memory rejection = certify(info, false, EVERYBODY);
        center.submitTask(info, approval);
        bytes32 record = center.recordOf("task");
        bytes memory refusal = abi.encodeWithSelector(IAttestationCenter.TaskAlreadySettled.selector, bytes32("task"));
        vm.expectRevert(refusal);
        center.submitTask(info, approval);
        vm.expectRevert(refusal);
        center.submitTask(info, rejection);
        // Another aggregator, and another info, of the same task: the same task.
        vm.prank(anyone);
        vm.expectRevert(refusal);
        center.submitTask(info, approval);
        info.data = "another answer";
        IAttestationCenter.TaskSubmissionDetails memory other = certify(info, true, EVERYBODY);
        vm.expectRevert(refusal);
        center.submitTask(info, other);
        assertEq(center.recordOf("task"), record, "still the first verdict");
        // Whether it is settled is not the certificate's matter.
        assertEq(center.checkCertificate(info, other), center.taskInfoHash(info), "checked");
    }

    /// @dev Whatever the quorum signed settles, and leaves the record that anybody can compute.
    function testFuzz_submitTask_RecordsWhateverAQuorumSigned(
        bytes32 taskId,
        string calldata proofOfTask,
        bytes calldata data,
        bool isApproved,
        address aggregator
    ) public {
        if (taskId == 0) taskId = "task"; // no digest, and no task
        IAttestationCenter.TaskInfo memory info = _info(taskId);
        (info.proofOfTask, info.data) = (proofOfTask, data);
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, isApproved, 7);
        vm.prank(aggregator);
        center.submitTask(info, details);
        assertEq(center.verdictOf(taskId), isApproved ? VALID : INVALID, "verdict");
        assertEq(center.recordOf(taskId), _recordFor(info, details, 0, aggregator), "record");
    }

    // --- submitTask: performers --------------------------------------------------------------------------------------

    function test_submitTask_RefusesAnUnknownDefinition() public {
        IAttestationCenter.TaskInfo memory info = _info("task");
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, true, EVERYBODY);
        info.taskDefinitionId = 1;
        _expectRefused(info, details, abi.encodeWithSelector(IAttestationCenter.UnknownTaskDefinition.selector, 1));
    }

    function test_submitTask_RefusesWhoIsNoPerformer() public {
        uint256[2] memory others = [uint256(77), 1]; // a stranger, an attester
        for (uint256 i = 0; i < 2; ++i) {
            address account = accountOf(others[i]);
            IAttestationCenter.TaskInfo memory info = makeInfo("task", others[i], tables.currentEpoch());
            idOf[account] = others[i];
            bytes memory refusal = abi.encodeWithSelector(IAttestationCenter.NotPerformer.selector, account);
            _expectRefused(info, certify(info, true, EVERYBODY), refusal);
        }
    }

    function test_submitTask_RefusesWhatThePerformerDidNotSign() public {
        IAttestationCenter.TaskInfo memory info = _info("task");
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, false, EVERYBODY);
        bytes32 infoHash = center.taskInfoHash(info);
        bytes memory refusal =
            abi.encodeWithSelector(IAttestationCenter.PerformerSignatureMismatch.selector, performer, infoHash);
        bytes memory signature = details.tpSignature;

        details.tpSignature = ecdsaSignature(1, infoHash);
        _expectRefused(info, details, refusal);
        details.tpSignature = ecdsaSignature(PERFORMER_ID, center.taskInfoHash(_info("other")));
        _expectRefused(info, details, refusal);
        details.tpSignature = "";
        _expectRefused(info, details, refusal);
        details.tpSignature = bytes.concat(signature, hex"00");
        _expectRefused(info, details, refusal);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(ecdsaSecret(PERFORMER_ID), infoHash);
        details.tpSignature = abi.encodePacked(r, SECP256K1_ORDER - uint256(s), v == 27 ? 28 : 27);
        _expectRefused(info, details, refusal);
        details.tpSignature = new bytes(65); // recovers nobody, address zero
        _expectRefused(info, details, refusal);
    }

    function test_submitTask_SettlesForWhoHasLeftAndWithdrawn() public {
        vm.prank(performer);
        registry.leave(performer);
        settle("leaving", PERFORMER_ID, true);
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        vm.prank(performer);
        registry.withdraw(performer);
        settle("gone", PERFORMER_ID, false);
        assertEq(center.verdictOf("gone"), INVALID, "the verdict stands");
    }

    function test_submitTask_SettlesWhatIsPaused() public {
        vm.startPrank(owner);
        center.pauseTaskDefinition(0, true);
        Governed(address(center)).pause(true);
        vm.stopPrank();
        settle("task", PERFORMER_ID, true);
        assertEq(center.verdictOf("task"), VALID, "honest work is not lost");
    }

    // --- submitTask: quorums -----------------------------------------------------------------------------------------

    function test_submitTask_RefusesWithoutAQuorum() public {
        IAttestationCenter.TaskInfo memory info = _info("task");
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, true, 3);
        bytes4 selector = IQuorumVerifier.QuorumNotReached.selector;
        _expectRefused(info, details, abi.encodeWithSelector(selector, 2 * POWER, 4 * POWER, true));
        details = certify(info, false, 1);
        _expectRefused(info, details, abi.encodeWithSelector(selector, POWER, 4 * POWER, false));
    }

    function test_submitTask_TakesNoVoteForAnother() public {
        IAttestationCenter.TaskInfo memory info = _info("task");
        bytes32 infoHash = center.taskInfoHash(info);
        bytes4 selector = IQuorumVerifier.SignatureMismatch.selector;

        // An approval by all, turned into a rejection.
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, true, EVERYBODY);
        (details.isApproved, details.indices) = (false, hex"00010203");
        bytes memory refusal = abi.encodeWithSelector(selector, center.voteDigest(infoHash, INVALID));
        _expectRefused(info, details, refusal);

        // A vote for another task, with this one's performer signature.
        IAttestationCenter.TaskSubmissionDetails memory other = certify(_info("other"), true, EVERYBODY);
        other.tpSignature = details.tpSignature;
        refusal = abi.encodeWithSelector(selector, center.voteDigest(infoHash, VALID));
        _expectRefused(info, other, refusal);
    }

    function test_submitTask_TakesNoVoteFromAnotherChain() public {
        IAttestationCenter.TaskInfo memory info = _info("task");
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, true, EVERYBODY);
        vm.chainId(4242);
        bytes32 infoHash = center.taskInfoHash(info);
        bytes4 selector = IAttestationCenter.PerformerSignatureMismatch.selector;
        _expectRefused(info, details, abi.encodeWithSelector(selector, performer, infoHash));
        details.tpSignature = ecdsaSignature(PERFORMER_ID, infoHash);
        bytes32 digest = center.voteDigest(infoHash, VALID);
        _expectRefused(info, details, abi.encodeWithSelector(IQuorumVerifier.SignatureMismatch.selector, digest));
    }

    function test_submitTask_TakesNoVoteFromAnotherContract() public {
        IAttestationCenter.TaskInfo memory info = _info("task");
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, true, EVERYBODY);
        bytes memory arguments = abi.encode(tables, registry, owner, CHANGE_DELAY);
        center = IAttestationCenter(deploy("AttestationCenter.sol:AttestationCenter", arguments));
        center.setCourt(address(new FakeCourt(center, LONGEST_DISPUTE)));
        addDefinition(terms());

        bytes32 infoHash = center.taskInfoHash(info);
        details.tpSignature = ecdsaSignature(PERFORMER_ID, infoHash);
        bytes32 digest = center.voteDigest(infoHash, VALID);
        _expectRefused(info, details, abi.encodeWithSelector(IQuorumVerifier.SignatureMismatch.selector, digest));
    }

    function test_submitTask_TakesASupersededTableForTheGraceWindow() public {
        IAttestationCenter.TaskInfo memory info = _info("task");
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, true, EVERYBODY);
        IAttestationCenter.TaskInfo memory late = _info("late");
        IAttestationCenter.TaskSubmissionDetails memory lateDetails = certify(late, true, EVERYBODY);
        vm.prank(accountOf(1));
        registry.leave(accountOf(1));
        roll();
        vm.warp(block.timestamp + GRACE_SECONDS - 1);
        center.submitTask(info, details);
        assertEq(center.verdictOf("task"), VALID, "settled by the superseded table");
        vm.warp(block.timestamp + 2);
        vm.expectPartialRevert(IQuorumVerifier.EpochExpired.selector);
        center.submitTask(late, lateDetails);
    }

    function test_submitTask_CountsPowerAtTheTasksEpoch() public {
        // Whoever stakes a fortune after the task's epoch has no say in it.
        uint32 epoch = tables.currentEpoch();
        vm.deal(address(this), 1000 ether);
        registry.addStake{value: 1000 ether}(accountOf(4), 1000 ether);
        roll();
        IAttestationCenter.TaskInfo memory info = makeInfo("task", PERFORMER_ID, epoch);
        bytes4 selector = IQuorumVerifier.QuorumNotReached.selector;
        _expectRefused(info, certify(info, false, 8), abi.encodeWithSelector(selector, POWER, 4 * POWER, false));
        info.epoch = epoch + 1;
        center.submitTask(info, certify(info, false, 8));
        assertEq(center.verdictOf("task"), INVALID, "but in the next");
    }

    function test_submitTask_CountsTheDefinitionsAttestersAlone() public {
        (uint32 set, uint16 definition) = _defineSet(false);
        IAttestationCenter.TaskInfo memory info = _info("task");
        info.taskDefinitionId = definition;
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, true, EVERYBODY);
        _expectRefused(info, details, abi.encodeWithSelector(IQuorumVerifier.SetTableMissing.selector, info.epoch, set));
        tables.rollSet(info.epoch, set);

        // Two thirds exactly is no quorum.
        bytes4 selector = IQuorumVerifier.QuorumNotReached.selector;
        bytes memory refusal = abi.encodeWithSelector(selector, 2 * POWER, 3 * POWER, true);
        _expectRefused(info, certify(info, true, 6), refusal);
        // Everybody's signature is not the set's.
        (bytes memory everybodys,) =
            vote(center.voteDigest(center.taskInfoHash(info), VALID), info.epoch, 0, true, EVERYBODY);
        bytes memory sets = details.taSignature;
        details.taSignature = everybodys;
        bytes32 digest = center.voteDigest(center.taskInfoHash(info), VALID);
        _expectRefused(info, details, abi.encodeWithSelector(IQuorumVerifier.SignatureMismatch.selector, digest));

        details.taSignature = sets;
        center.submitTask(info, details);
        assertEq(center.recordOf("task"), _recordFor(info, details, set, address(this)), "the set's voters");
    }

    // --- submitTask: waiting for all ---------------------------------------------------------------------------------

    function test_submitTask_WaitsForAllWhereTheDefinitionDoes() public {
        IAttestationCenter.TaskInfo memory info = _info("task");
        info.taskDefinitionId = _defineWaiting();
        bytes memory refusal =
            abi.encodeWithSelector(IAttestationCenter.VotesMissing.selector, bytes32("task"), uint64(0));
        _expectRefused(info, certify(info, true, 7), refusal);
        _expectRefused(info, certify(info, false, 14), refusal);
        // Too few are too few, whoever waits.
        bytes4 selector = IQuorumVerifier.QuorumNotReached.selector;
        _expectRefused(info, certify(info, true, 3), abi.encodeWithSelector(selector, 2 * POWER, 4 * POWER, true));
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, true, EVERYBODY);
        assertEq(center.checkCertificate(info, details), center.taskInfoHash(info), "checked");
        center.submitTask(info, details);
        assertEq(center.verdictOf("task"), VALID, "approved by all");
    }

    function test_submitTask_SettlesARejectionByAllWhereTheDefinitionWaits() public {
        IAttestationCenter.TaskInfo memory info = _info("task");
        info.taskDefinitionId = _defineWaiting();
        center.submitTask(info, certify(info, false, EVERYBODY));
        assertEq(center.verdictOf("task"), INVALID, "rejected by all");
    }

    function test_submitTask_WaitsForAllOfTheSetAlone() public {
        (uint32 set, uint16 definition) = _defineSet(true);
        IAttestationCenter.TaskInfo memory info = _info("task");
        info.taskDefinitionId = definition;
        tables.rollSet(info.epoch, set);
        bytes memory refusal =
            abi.encodeWithSelector(IAttestationCenter.VotesMissing.selector, bytes32("task"), uint64(0));
        _expectRefused(info, certify(info, false, 3), refusal);
        center.submitTask(info, certify(info, false, EVERYBODY));
        assertEq(center.verdictOf("task"), INVALID, "rejected by the set");
    }

    // --- submitTaskAfterDeadline -------------------------------------------------------------------------------------

    function _lateTask(uint16 definition)
        private
        view
        returns (IAttestationCenter.TaskInfo memory info, IAttestationCenter.TaskRequest memory request)
    {
        request = makeRequest(REQUESTER_ID, 1, PERFORMER_ID, 0);
        request.taskDefinitionId = definition;
        request.deadline = uint64(block.timestamp) + 600;
        info = _info(center.taskRequestHash(request));
        info.taskDefinitionId = definition;
    }

    function test_submitTaskAfterDeadline_SettlesByThoseWhoVoted() public {
        (IAttestationCenter.TaskInfo memory info, IAttestationCenter.TaskRequest memory request) =
            _lateTask(_defineWaiting());
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, true, 7);
        vm.warp(request.deadline);
        vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.VotesMissing.selector, info.taskId, request.deadline));
        center.submitTaskAfterDeadline(info, details, request);

        vm.warp(request.deadline + 1);
        vm.prank(anyone);
        center.submitTaskAfterDeadline(info, details, request);
        assertEq(center.recordOf(info.taskId), _recordFor(info, details, 0, anyone), "record");
        vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.TaskAlreadySettled.selector, info.taskId));
        center.submitTaskAfterDeadline(info, details, request);
    }

    function test_submitTaskAfterDeadline_QueuesTheSlashOfARejection() public {
        (IAttestationCenter.TaskInfo memory info, IAttestationCenter.TaskRequest memory request) =
            _lateTask(_defineWaiting());
        vm.warp(request.deadline + 1);
        center.submitTaskAfterDeadline(info, certify(info, false, 3), request);
        assertEq(center.verdictOf(info.taskId), INVALID, "rejected");
        assertTrue(_slashState(info.taskId) == ISlashingCourt.State.WAITING, "queued");
    }

    function test_submitTaskAfterDeadline_WantsAQuorumAllTheSame() public {
        (IAttestationCenter.TaskInfo memory info, IAttestationCenter.TaskRequest memory request) =
            _lateTask(_defineWaiting());
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, true, 3);
        vm.warp(request.deadline + 1);
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.QuorumNotReached.selector, 2 * POWER, 4 * POWER, true));
        center.submitTaskAfterDeadline(info, details, request);
    }

    function test_submitTaskAfterDeadline_WantsTheTasksRequest() public {
        (IAttestationCenter.TaskInfo memory info, IAttestationCenter.TaskRequest memory request) =
            _lateTask(_defineWaiting());
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, true, 7);
        // A deadline that was never the request's.
        request.deadline = uint64(block.timestamp) - 1;
        vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.RequestMismatch.selector, info.taskId));
        center.submitTaskAfterDeadline(info, details, request);
    }

    function test_submitTaskAfterDeadline_SettlesWhereNobodyWaitsToo() public {
        (IAttestationCenter.TaskInfo memory info, IAttestationCenter.TaskRequest memory request) = _lateTask(0);
        vm.warp(request.deadline + 1);
        center.submitTaskAfterDeadline(info, certify(info, true, 7), request);
        assertEq(center.verdictOf(info.taskId), VALID, "approved");
    }
}
