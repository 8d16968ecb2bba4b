// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Governed} from "../src/Governed.sol";
import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {IEpochTables} from "../src/interfaces/IEpochTables.sol";
import {ITaskEscrow} from "../src/interfaces/ITaskEscrow.sol";
import {EscrowNetwork} from "./EscrowNetwork.sol";

/// @notice Who is paid for a settled task, and who cannot be. Branches: tree/collect.tree.
contract TaskEscrowTest is EscrowNetwork {
    address private constant ANYBODY = address(0xa11ce);

    // --- deploying ---------------------------------------------------------------------------------------------------

    function _expectNoDeployment(bytes memory arguments, string memory name, uint256 value) private {
        vm.expectRevert(abi.encodeWithSelector(ITaskEscrow.InvalidSetting.selector, name, value));
        this.deployEscrow(arguments);
    }

    function deployEscrow(bytes memory arguments) external returns (address) {
        return deploy("TaskEscrow.sol:TaskEscrow", arguments);
    }

    function test_constructor_RefusesWhatIsOutOfBounds() public {
        _expectNoDeployment(abi.encode(ANYBODY, address(0), 1, owner, 1), "center", uint160(ANYBODY));
        _expectNoDeployment(abi.encode(center, ANYBODY, 1, owner, 1), "token", uint160(ANYBODY));
        _expectNoDeployment(abi.encode(center, address(0), 0, owner, 1), "refundDelay", 0);
        _expectNoDeployment(abi.encode(center, address(0), 30 days + 1, owner, 1), "refundDelay", 30 days + 1);
    }

    function test_constructor_KeepsItsSettings() public {
        assertEq(address(escrow.center()), address(center), "center");
        assertEq(address(escrow.operators()), address(registry), "operators");
        assertEq(escrow.token(), address(0), "token");
        assertEq(escrow.refundDelay(), REFUND_DELAY, "refund delay");
        for (uint256 i = 0; i < 2; ++i) {
            uint64 delay = i == 0 ? 1 : 30 days;
            address made = this.deployEscrow(abi.encode(center, address(0), delay, owner, 1));
            assertEq(ITaskEscrow(made).refundDelay(), delay, "both ends of the range");
        }
    }

    function test_changes_ThereAreNoneButThePauser() public {
        vm.startPrank(owner);
        vm.expectRevert(abi.encodeWithSelector(Governed.UnknownChange.selector, bytes32("refundDelay")));
        Governed(address(escrow)).announceChange("refundDelay", 0, 1);
        Governed(address(escrow)).announceChange("pauser", 0, uint160(ANYBODY));
        vm.stopPrank();
        vm.warp(block.timestamp + CHANGE_DELAY);
        Governed(address(escrow)).makeChange("pauser", 0);
        assertEq(Governed(address(escrow)).pauser(), ANYBODY, "another pauser");
    }

    // --- collect: who is paid ----------------------------------------------------------------------------------------

    function _assertPaid(uint256 fromDeposit, uint256 toPerformer, uint256 toAttesters, uint256 toAggregator)
        private
        view
    {
        assertEq(balanceOf(requester, performer), DEPOSIT - fromDeposit, "deposit");
        assertEq(escrow.earnedBy(performer), toPerformer, "performer");
        assertEq(escrow.earnedBy(aggregator), toAggregator, "aggregator");
        assertEq(escrow.held(), DEPOSIT, "all of it is still here");
        assertEq(fromDeposit, toPerformer + toAttesters + toAggregator, "no coin is made or lost");
    }

    function test_collect_PaysAllThreeForAnApproval() public {
        ITaskEscrow.Collection memory task = settleSingly(makeRequest(0), true, 7);
        uint256 rest = FEE - TO_ATTESTERS - TO_AGGREGATOR;
        bytes32 taskId = center.taskRequestHash(task.request);
        assertTrue(!escrow.isPaid(requester, performer, 0), "not paid yet");
        vm.expectEmit(address(escrow));
        emit ITaskEscrow.TaskPaid(taskId, requester, rest, TO_ATTESTERS, aggregator, TO_AGGREGATOR);
        vm.prank(ANYBODY);
        collect(task);
        assertTrue(escrow.isPaid(requester, performer, 0), "paid");
        assertEq(escrow.poolOf(votersOf(task)), TO_ATTESTERS, "pool");
        _assertPaid(FEE, rest, TO_ATTESTERS, TO_AGGREGATOR);
    }

    function test_collect_PaysThePerformerNothingForARejection() public {
        ITaskEscrow.Collection memory task = settleSingly(makeRequest(0), false, 6);
        bytes32 taskId = center.taskRequestHash(task.request);
        vm.expectEmit(address(escrow));
        emit ITaskEscrow.TaskPaid(taskId, requester, 0, TO_ATTESTERS, aggregator, TO_AGGREGATOR);
        collect(task);
        assertEq(escrow.poolOf(votersOf(task)), TO_ATTESTERS, "pool");
        _assertPaid(TO_ATTESTERS + TO_AGGREGATOR, 0, TO_ATTESTERS, TO_AGGREGATOR);
    }

    function _requests(uint256 count) private view returns (IAttestationCenter.TaskRequest[] memory requests) {
        requests = new IAttestationCenter.TaskRequest[](count);
        for (uint256 i = 0; i < count; ++i) {
            requests[i] = makeRequest(i);
        }
    }

    function test_collect_PaysWhatIsInABatch() public {
        ITaskEscrow.Collection[] memory tasks = settleBatch(_requests(3), 5, 14);
        vm.prank(ANYBODY);
        escrow.collect(tasks);
        uint256 rest = FEE - TO_ATTESTERS - TO_AGGREGATOR;
        _assertPaid(2 * FEE + TO_ATTESTERS + TO_AGGREGATOR, 2 * rest, 3 * TO_ATTESTERS, 3 * TO_AGGREGATOR);
        assertEq(escrow.poolOf(votersOf(tasks[0])), 2 * TO_ATTESTERS, "both approvals");
        assertEq(escrow.poolOf(votersOf(tasks[1])), TO_ATTESTERS, "the rejection");
    }

    function test_collect_PaysABatchsOneTask() public {
        escrow.collect(settleBatch(_requests(1), 1, EVERYBODY));
        assertEq(escrow.earnedBy(performer), FEE - TO_ATTESTERS - TO_AGGREGATOR, "performer");
    }

    function test_collect_NothingIsNothing() public {
        escrow.collect(new ITaskEscrow.Collection[](0));
        _assertPaid(0, 0, 0, 0);
    }

    function test_collect_PaysOneWhoIsAllThree() public {
        // A performer that also aggregates: both sums are its own.
        aggregator = performer;
        collect(settleSingly(makeRequest(0), true, EVERYBODY));
        assertEq(escrow.earnedBy(performer), FEE - TO_ATTESTERS, "both");
    }

    function test_collect_PaysByEachTasksOwnDefinition() public {
        IAttestationCenter.TaskTerms memory other = terms();
        other.fees = IAttestationCenter.Fees(1, 2, 4);
        IAttestationCenter.TaskRequest[] memory requests = _requests(3);
        requests[1].taskDefinitionId = addDefinition(other);
        escrow.collect(settleBatch(requests, 7, EVERYBODY));
        assertEq(escrow.earnedBy(aggregator), 2 * TO_AGGREGATOR + 4, "aggregator");
        assertEq(escrow.earnedBy(performer), 3 * FEE - 2 * (TO_ATTESTERS + TO_AGGREGATOR) - 6, "performer");
    }

    function test_collect_PaysAfterTheTableExpired() public {
        ITaskEscrow.Collection memory task = settleSingly(makeRequest(0), true, EVERYBODY);
        roll();
        vm.warp(block.timestamp + GRACE_SECONDS + 1);
        assertTrue(tables.isExpired(task.epoch), "expired");
        collect(task);
        assertEq(escrow.earnedBy(performer), FEE - TO_ATTESTERS - TO_AGGREGATOR, "performer");
    }

    // --- collect: fees -----------------------------------------------------------------------------------------------

    function _request(uint256 fee) private view returns (IAttestationCenter.TaskRequest memory) {
        return makeRequest(REQUESTER_ID, 0, PERFORMER_ID, fee);
    }

    function test_collect_PaysExactlyTheDefinitionsFees() public {
        uint256 least = TO_PERFORMER + TO_ATTESTERS + TO_AGGREGATOR;
        collect(settleSingly(_request(least), true, EVERYBODY));
        _assertPaid(least, TO_PERFORMER, TO_ATTESTERS, TO_AGGREGATOR);
    }

    function test_collect_RevertsWhenTheRequestOffersLess() public {
        uint256 least = TO_PERFORMER + TO_ATTESTERS + TO_AGGREGATOR;
        for (uint256 i = 0; i < 2; ++i) {
            bool isApproved = i == 0;
            uint256 fee = isApproved ? least - 1 : 0;
            ITaskEscrow.Collection memory task = settleSingly(_request(fee), isApproved, EVERYBODY);
            bytes32 taskId = center.taskRequestHash(task.request);
            expectRefusal(task, abi.encodeWithSelector(ITaskEscrow.FeeTooSmall.selector, taskId, fee, least));
        }
    }

    function test_collect_OfAFreeTaskUsesUpItsNonceOnly() public {
        IAttestationCenter.TaskTerms memory free = terms();
        free.fees = IAttestationCenter.Fees(0, 0, 0);
        IAttestationCenter.TaskRequest memory request = _request(0);
        request.taskDefinitionId = addDefinition(free);
        ITaskEscrow.Collection memory task = settleSingly(request, true, EVERYBODY);
        vm.expectEmit(address(escrow));
        emit ITaskEscrow.TaskPaid(center.taskRequestHash(request), requester, 0, 0, aggregator, 0);
        collect(task);
        assertTrue(escrow.isPaid(requester, performer, 0), "nonce");
        _assertPaid(0, 0, 0, 0);
    }

    function test_collect_RevertsOverTheDeposit() public {
        ITaskEscrow.Collection memory task = settleSingly(_request(DEPOSIT + 1), true, EVERYBODY);
        bytes4 selector = ITaskEscrow.DepositTooSmall.selector;
        expectRefusal(task, abi.encodeWithSelector(selector, requester, performer, DEPOSIT, DEPOSIT + 1));
        give(performer, 1);
        collect(task);
        assertEq(balanceOf(requester, performer), 0, "all of it");
    }

    function test_collect_TakesNoFeeForAPieceOfADeposit() public {
        // Its low 96 bits are 0.
        uint256 fee = uint256(1) << 96;
        ITaskEscrow.Collection memory task = settleSingly(_request(fee), true, EVERYBODY);
        bytes4 selector = ITaskEscrow.DepositTooSmall.selector;
        expectRefusal(task, abi.encodeWithSelector(selector, requester, performer, DEPOSIT, fee));
    }

    function test_collect_DoesNotReachAnotherPerformersDeposit() public {
        IAttestationCenter.TaskRequest memory request = makeRequest(REQUESTER_ID, 0, OTHER_PERFORMER_ID, FEE);
        ITaskEscrow.Collection memory task = settleSingly(request, true, EVERYBODY);
        bytes4 selector = ITaskEscrow.DepositTooSmall.selector;
        expectRefusal(task, abi.encodeWithSelector(selector, requester, request.performer, 0, FEE));
    }

    // --- collect: once -----------------------------------------------------------------------------------------------

    function _alreadyPaid(uint256 nonce) private view returns (bytes memory) {
        return abi.encodeWithSelector(ITaskEscrow.AlreadyPaid.selector, requester, performer, nonce);
    }

    function test_collect_PaysATaskOnce() public {
        ITaskEscrow.Collection memory task = settleSingly(makeRequest(0), true, EVERYBODY);
        collect(task);
        expectRefusal(task, _alreadyPaid(0));
    }

    function test_collect_PaysATaskOnceWithinOneCall() public {
        ITaskEscrow.Collection memory task = settleSingly(makeRequest(0), true, EVERYBODY);
        ITaskEscrow.Collection[] memory tasks = new ITaskEscrow.Collection[](2);
        (tasks[0], tasks[1]) = (task, task);
        vm.expectRevert(_alreadyPaid(0));
        escrow.collect(tasks);
        _assertPaid(0, 0, 0, 0);
        assertTrue(!escrow.isPaid(requester, performer, 0), "all or nothing");
    }

    function test_collect_PaysATaskOnceThatSettledTwice() public {
        // By itself with one missing, and in two batches by everybody: another pool, another aggregator.
        ITaskEscrow.Collection memory single = settleSingly(makeRequest(0), true, 7);
        ITaskEscrow.Collection[] memory batched = settleBatch(_requests(1), 1, EVERYBODY);
        ITaskEscrow.Collection[] memory again = settleBatch(_requests(2), 3, EVERYBODY);
        collect(batched[0]);
        expectRefusal(single, _alreadyPaid(0));
        expectRefusal(again[0], _alreadyPaid(0));
        collect(again[1]);
        assertEq(balanceOf(requester, performer), DEPOSIT - 2 * FEE, "two tasks, three times settled");
    }

    function test_collect_OneNonceOfARequesterPaysAPerformerOnce() public {
        IAttestationCenter.TaskRequest memory first = makeRequest(0);
        IAttestationCenter.TaskRequest memory second = makeRequest(0);
        second.inputCid = "another";
        ITaskEscrow.Collection memory task = settleSingly(second, true, EVERYBODY);
        collect(settleSingly(first, true, EVERYBODY));
        expectRefusal(task, _alreadyPaid(0));
    }

    function test_collect_OneNonceForTwoPerformersPaysBoth() public {
        // Or a cheap task would use up the nonce of a dear one, whose deposit would go back.
        IAttestationCenter.TaskRequest memory other = makeRequest(REQUESTER_ID, 0, OTHER_PERFORMER_ID, FEE);
        give(other.performer, FEE);
        collect(settleSingly(other, true, EVERYBODY));
        assertTrue(!escrow.isPaid(requester, performer, 0), "not the other's");
        collect(settleSingly(makeRequest(0), true, EVERYBODY));
        assertEq(escrow.earnedBy(performer), FEE - TO_ATTESTERS - TO_AGGREGATOR, "paid too");
    }

    function testFuzz_collect_NoncesAreIndependent(uint256 first, uint256 second) public {
        if (second % 4 == 0) second = first ^ 1 << second / 4 % 256; // near ones share a word
        if (first == second) return;
        pay(first, true, EVERYBODY);
        assertTrue(escrow.isPaid(requester, performer, first), "paid");
        assertTrue(!escrow.isPaid(requester, performer, second), "not paid");
        assertTrue(!escrow.isPaid(aggregator, performer, first), "nor another requester's");
        pay(second, true, EVERYBODY);
        assertEq(balanceOf(requester, performer), DEPOSIT - 2 * FEE, "both");
    }

    // --- collect: who lies -------------------------------------------------------------------------------------------

    function test_collect_RevertsForAnUnknownDefinition() public {
        ITaskEscrow.Collection memory task = settleSingly(makeRequest(0), true, EVERYBODY);
        task.request.taskDefinitionId = 1;
        expectRefusal(task, abi.encodeWithSelector(IAttestationCenter.UnknownTaskDefinition.selector, 1));
    }

    function test_collect_RevertsWithoutTheRequestersSignature() public {
        ITaskEscrow.Collection memory task = settleSingly(makeRequest(0), true, EVERYBODY);
        bytes32 taskId = center.taskRequestHash(task.request);
        bytes memory refusal =
            abi.encodeWithSelector(ITaskEscrow.RequesterSignatureMismatch.selector, requester, taskId);
        bytes memory signature = task.requesterSignature;
        task.requesterSignature = ecdsaSignature(PERFORMER_ID, taskId);
        expectRefusal(task, refusal);
        task.requesterSignature = ecdsaSignature(REQUESTER_ID, task.infoHash);
        expectRefusal(task, refusal);
        task.requesterSignature = "";
        expectRefusal(task, refusal);
        task.requesterSignature = new bytes(65);
        expectRefusal(task, refusal);
        task.requesterSignature = abi.encodePacked(signature, uint8(0));
        expectRefusal(task, refusal);
        task.requesterSignature = _highS(signature);
        expectRefusal(task, refusal);
    }

    function _highS(bytes memory signature) private pure returns (bytes memory) {
        (bytes32 r, uint256 s) = (bytes32(0), 0);
        assembly ("memory-safe") {
            r := mload(add(signature, 32))
            s := mload(add(signature, 64))
        }
        uint256 order = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141;
        return abi.encodePacked(r, order - s, uint8(signature[64]) == 27 ? uint8(28) : uint8(27));
    }

    function test_collect_RevertsForAChangedRequest() public {
        ITaskEscrow.Collection memory task = settleSingly(makeRequest(0), true, EVERYBODY);
        task.request.fee += 1;
        bytes4 selector = ITaskEscrow.RequesterSignatureMismatch.selector;
        expectRefusal(task, abi.encodeWithSelector(selector, requester, center.taskRequestHash(task.request)));
        // Signed too, but nobody settled it.
        task.requesterSignature = ecdsaSignature(REQUESTER_ID, center.taskRequestHash(task.request));
        expectNotSettled(task);
    }

    function test_collect_RevertsForAZeroRequester() public {
        // ECDSA recovers zero from nonsense; nobody has zero's key.
        vm.deal(address(this), FEE);
        escrow.deposit{value: FEE}(address(0), performer, FEE);
        IAttestationCenter.TaskRequest memory request = makeRequest(0);
        request.requester = address(0);
        ITaskEscrow.Collection memory task = settleSingly(request, true, EVERYBODY);
        task.requesterSignature = new bytes(65);
        bytes4 selector = ITaskEscrow.RequesterSignatureMismatch.selector;
        expectRefusal(task, abi.encodeWithSelector(selector, address(0), center.taskRequestHash(request)));
    }

    function test_collect_RevertsForWhatIsNotSettled() public {
        IAttestationCenter.TaskRequest memory request = makeRequest(0);
        IAttestationCenter.TaskInfo memory info = infoOf(request);
        ITaskEscrow.Collection memory task = collectionOf(request, info, true, "");
        task.proof.aggregator = aggregator;
        expectNotSettled(task);
        task.proof.root = "no such batch";
        expectNotSettled(task);
    }

    /// @dev Each lie about a verdict that settled by itself.
    function test_collect_RevertsForEachLieAboutASingleTask() public {
        ITaskEscrow.Collection memory task = settleSingly(makeRequest(0), true, 7);
        _expectNoLiePasses(task);
        task.proof.aggregator = ANYBODY;
        expectNotSettled(task);
        task.proof.aggregator = aggregator;
        collect(task);
    }

    /// @dev The same in a batch, where the aggregator is not the collector's to name.
    function test_collect_RevertsForEachLieAboutATaskInABatch() public {
        ITaskEscrow.Collection[] memory tasks = settleBatch(_requests(3), 7, 7);
        for (uint256 i = 0; i < 3; ++i) {
            _expectNoLiePasses(tasks[i]);
        }
        bytes32[] memory path = tasks[1].proof.path;
        tasks[1].proof.path = tasks[2].proof.path;
        expectNotSettled(tasks[1]);
        tasks[1].proof.path = path;
        tasks[1].proof.aggregator = ANYBODY;
        escrow.collect(tasks);
        assertEq(escrow.earnedBy(aggregator), 3 * TO_AGGREGATOR, "the batch's aggregator");
        assertEq(escrow.earnedBy(ANYBODY), 0, "nobody else");
    }

    /// @dev Nothing that says where the fee goes can be said otherwise than the certificate does.
    function _expectNoLiePasses(ITaskEscrow.Collection memory task) private {
        (bytes memory indices, uint32 truth) = (task.indices, task.epoch);
        task.indices = hex"00"; // seat 3's friends would be paid, and seat 0 not
        expectNotSettled(task);
        task.indices = "";
        expectNotSettled(task);
        task.indices = abi.encodePacked(indices, indices);
        expectNotSettled(task);
        task.indices = indices;
        task.epoch = truth + 1;
        expectNotSettled(task);
        task.epoch = truth - 1;
        expectNotSettled(task);
        task.epoch = truth;
        task.isApproved = !task.isApproved;
        expectNotSettled(task);
        task.isApproved = !task.isApproved;
        bytes32 infoHash = task.infoHash;
        task.infoHash = "another info";
        expectNotSettled(task);
        task.infoHash = infoHash;
    }

    function test_collect_RevertsForBytesMovedBetweenSetAndIndices() public {
        // hashVoters packs its fields: a longer epoch or set must not be readable out of the indices.
        IEpochTables.AttesterSet memory rules;
        IAttestationCenter.TaskTerms memory other = terms();
        other.attesterSet = tables.createAttesterSet(rules);
        uint16 definition = addDefinition(other);
        tables.rollSet(epoch, other.attesterSet);
        IAttestationCenter.TaskRequest memory request = makeRequest(0);
        request.taskDefinitionId = definition;
        ITaskEscrow.Collection memory task = settleSingly(request, true, 7);
        assertEq(task.indices, hex"03", "one missing");
        (task.epoch, task.indices) = (0, abi.encodePacked(uint32(1), uint8(3)));
        expectNotSettled(task);
    }

    function test_collect_PaysASetsVotersByTheDefinitionOfTheRequest() public {
        IEpochTables.AttesterSet memory rules;
        rules.minimumPower = 1100; // not seat 0
        IAttestationCenter.TaskTerms memory narrow = terms();
        narrow.attesterSet = tables.createAttesterSet(rules);
        uint16 definition = addDefinition(narrow);
        tables.rollSet(epoch, narrow.attesterSet);
        IAttestationCenter.TaskRequest memory request = makeRequest(0);
        request.taskDefinitionId = definition;
        ITaskEscrow.Collection memory task = settleSingly(request, true, EVERYBODY);
        collect(task);
        ITaskEscrow.Voters memory voters = votersOf(task);
        assertEq(voters.attesterSet, narrow.attesterSet, "set");
        assertEq(escrow.poolOf(voters), TO_ATTESTERS, "the set's pool");
        voters.attesterSet = 0;
        assertEq(escrow.poolOf(voters), 0, "not everybody's");
    }

    function test_collect_RevertsWhereAnotherDefinitionsSetVoted() public {
        // Whoever controls a small set of a definition of their own must not settle what another definition's request
        // pays for.
        IEpochTables.AttesterSet memory rules;
        IAttestationCenter.TaskTerms memory other = terms();
        other.attesterSet = tables.createAttesterSet(rules);
        uint16 definition = addDefinition(other);
        tables.rollSet(epoch, other.attesterSet);
        IAttestationCenter.TaskRequest memory request = makeRequest(0);
        IAttestationCenter.TaskInfo memory info = infoOf(request);
        info.taskDefinitionId = definition;
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, true, EVERYBODY);
        vm.prank(aggregator);
        center.submitTask(info, details);
        ITaskEscrow.Collection memory task = collectionOf(request, info, true, details.indices);
        task.proof.aggregator = aggregator;
        expectNotSettled(task);
    }

    function test_collect_RevertsForABatchWhereTasksSettleSingly() public {
        IAttestationCenter.TaskTerms memory single = terms();
        single.settlesSingly = true;
        IAttestationCenter.TaskRequest[] memory requests = _requests(1);
        requests[0].taskDefinitionId = addDefinition(single);
        expectNotSettled(settleBatch(requests, 1, EVERYBODY)[0]);
        collect(settleSingly(requests[0], true, EVERYBODY));
        assertTrue(escrow.isPaid(requester, performer, 0), "by itself");
    }
}
