// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {IQuorumVerifier} from "../src/interfaces/IQuorumVerifier.sol";
import {Network} from "./Network.sol";

/// @notice Merkle batches, and what is settled. Branches: tree/submitBatch.tree, tree/requireSettled.tree.
contract BatchesTest is Network {
    uint256 private constant PERFORMER_ID = 9;
    uint256 private constant EVERYBODY = type(uint256).max;
    uint256 private constant POWER = MINIMUM_STAKE / POWER_UNIT;
    bytes32 private constant DOCUMENT = "document";
    bytes32 private constant VOTERS = "voters";
    address private immutable aggregator = address(uint160(uint256(keccak256("aggregator"))));

    function setUp() public override {
        super.setUp();
        join(PERFORMER_ID, PERFORMER, 10 * MINIMUM_STAKE);
        for (uint256 id = 1; id <= 4; ++id) {
            join(id, ATTESTER, MINIMUM_STAKE);
        }
        roll();
    }

    // --- helpers -----------------------------------------------------------------------------------------------------

    function _digest(bytes32 root, uint32 size) private view returns (bytes32) {
        return center.batchDigest(root, DOCUMENT, size, tables.currentEpoch(), aggregator);
    }

    function _submit(bytes32 root, uint32 size, uint256 signers) private {
        (bytes memory signature, bytes memory missing) =
            vote(_digest(root, size), tables.currentEpoch(), 0, true, signers);
        center.submitBatch(root, DOCUMENT, size, tables.currentEpoch(), aggregator, signature, missing);
    }

    function _leaf(bytes32 taskId, bytes32 infoHash, bool isApproved) private pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(taskId, infoHash, isApproved, VOTERS))));
    }

    function _pair(bytes32 left, bytes32 right) private pure returns (bytes32) {
        return left < right ? keccak256(abi.encode(left, right)) : keccak256(abi.encode(right, left));
    }

    /// @dev OpenZeppelin's standard tree: the leaves in descending order at the end, the root first.
    function _tree(bytes32[] memory leaves) private pure returns (bytes32[] memory nodes) {
        uint256 inner = leaves.length - 1;
        nodes = new bytes32[](inner + leaves.length);
        for (uint256 i = 0; i < leaves.length; ++i) {
            uint256 j = inner + i;
            for (; j > inner && nodes[j - 1] < leaves[i]; --j) {
                nodes[j] = nodes[j - 1];
            }
            nodes[j] = leaves[i];
        }
        for (uint256 i = inner; i > 0; --i) {
            nodes[i - 1] = _pair(nodes[2 * i - 1], nodes[2 * i]);
        }
    }

    function _proof(bytes32[] memory nodes, bytes32 leaf) private pure returns (bytes32[] memory path) {
        uint256 at = 0;
        while (nodes[at] != leaf || 2 * at + 1 < nodes.length) ++at;
        uint256 depth = 0;
        for (uint256 i = at; i > 0; i = (i - 1) / 2) {
            ++depth;
        }
        path = new bytes32[](depth);
        for (uint256 i = 0; at > 0; at = (at - 1) / 2) {
            path[i++] = nodes[at % 2 == 1 ? at + 1 : at - 1];
        }
    }

    // --- submitBatch -------------------------------------------------------------------------------------------------

    function test_submitBatch_SettlesARootOnce() public {
        uint32 epoch = tables.currentEpoch();
        assertEq(center.batchOf("root").size, 0, "not yet");
        (bytes memory signature, bytes memory missing) = vote(_digest("root", 2), epoch, 0, true, 7);
        vm.expectEmit(address(center));
        emit IAttestationCenter.BatchSettled("root", DOCUMENT, 2, epoch, aggregator);
        vm.prank(address(0xdead)); // anyone
        center.submitBatch("root", DOCUMENT, 2, epoch, aggregator, signature, missing);
        IAttestationCenter.Batch memory batch = center.batchOf("root");
        assertEq(batch.size, 2, "size");
        assertEq(batch.epoch, epoch, "epoch");
        assertEq(batch.aggregator, aggregator, "aggregator");

        bytes memory refusal = abi.encodeWithSelector(IAttestationCenter.BatchAlreadySettled.selector, bytes32("root"));
        vm.expectRevert(refusal);
        center.submitBatch("root", DOCUMENT, 2, epoch, aggregator, signature, missing);
        // Nor in another's name, or of another size, whoever signs it.
        (signature, missing) =
            vote(center.batchDigest("root", DOCUMENT, 3, epoch, address(this)), epoch, 0, true, EVERYBODY);
        vm.expectRevert(refusal);
        center.submitBatch("root", DOCUMENT, 3, epoch, address(this), signature, missing);
    }

    function test_submitBatch_RefusesAnEmptyBatch() public {
        (bytes memory signature, bytes memory missing) = vote(_digest("root", 0), 1, 0, true, EVERYBODY);
        vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.EmptyBatch.selector, bytes32("root")));
        center.submitBatch("root", DOCUMENT, 0, 1, aggregator, signature, missing);
    }

    function test_submitBatch_RefusesWithoutAQuorum() public {
        (bytes memory signature, bytes memory missing) = vote(_digest("root", 2), 1, 0, true, 3);
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.QuorumNotReached.selector, 2 * POWER, 4 * POWER, true));
        center.submitBatch("root", DOCUMENT, 2, 1, aggregator, signature, missing);
    }

    function test_submitBatch_TakesNothingButWhatWasSigned() public {
        (bytes memory signature, bytes memory missing) = vote(_digest("root", 2), 1, 0, true, EVERYBODY);
        _expectMismatch(center.batchDigest("other", DOCUMENT, 2, 1, aggregator));
        center.submitBatch("other", DOCUMENT, 2, 1, aggregator, signature, missing);
        _expectMismatch(center.batchDigest("root", "another", 2, 1, aggregator));
        center.submitBatch("root", "another", 2, 1, aggregator, signature, missing);
        _expectMismatch(center.batchDigest("root", DOCUMENT, 3, 1, aggregator));
        center.submitBatch("root", DOCUMENT, 3, 1, aggregator, signature, missing);
        _expectMismatch(center.batchDigest("root", DOCUMENT, 2, 1, address(this)));
        center.submitBatch("root", DOCUMENT, 2, 1, address(this), signature, missing);
        roll();
        _expectMismatch(center.batchDigest("root", DOCUMENT, 2, 2, aggregator));
        center.submitBatch("root", DOCUMENT, 2, 2, aggregator, signature, missing);
    }

    function _expectMismatch(bytes32 digest) private {
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.SignatureMismatch.selector, digest));
    }

    function test_submitBatch_TakesNoVoteForABatch() public {
        // A vote over an info hash that equals a root is another struct, hence another digest.
        (bytes memory signature, bytes memory missing) = vote(center.voteDigest("root", 1), 1, 0, true, EVERYBODY);
        _expectMismatch(_digest("root", 1));
        center.submitBatch("root", DOCUMENT, 1, 1, aggregator, signature, missing);
    }

    // --- included ----------------------------------------------------------------------------------------------------

    function test_included_AnswersForSettledRootsAlone() public {
        bytes32 left = _leaf("one", "info", true);
        bytes32 right = _leaf("two", "info", false);
        bytes32 root = _pair(left, right);
        bytes32[] memory proof = new bytes32[](1);
        proof[0] = right;
        assertTrue(!center.included(root, "one", "info", true, VOTERS, proof), "not settled yet");
        _submit(root, 2, EVERYBODY);

        assertTrue(center.included(root, "one", "info", true, VOTERS, proof), "included");
        assertTrue(!center.included(root, "one", "info", false, VOTERS, proof), "another verdict");
        assertTrue(!center.included(root, "two", "info", true, VOTERS, proof), "another task");
        assertTrue(!center.included(root, "one", "other", true, VOTERS, proof), "another info");
        assertTrue(!center.included(root, "one", "info", true, "others", proof), "other voters");
        assertTrue(!center.included(root, "one", "info", true, VOTERS, new bytes32[](0)), "no proof");
        proof[0] = left;
        assertTrue(center.included(root, "two", "info", false, VOTERS, proof), "the other");
        assertTrue(!center.included("other", "two", "info", false, VOTERS, proof), "another root");
        assertEq(center.verdictOf("one"), 0, "not settled by itself");
    }

    function test_included_TakesNoInnerNodeForALeaf() public {
        // The root itself, with an empty proof, is no task; nor is what hashes once to it.
        bytes32 once = keccak256(abi.encode(bytes32("one"), bytes32("info"), true, VOTERS));
        _submit(once, 1, EVERYBODY);
        assertTrue(!center.included(once, "one", "info", true, VOTERS, new bytes32[](0)), "hashed once");
        assertTrue(!center.included(once, once, "", true, VOTERS, new bytes32[](0)), "no leaf");
    }

    // --- requireSettled ----------------------------------------------------------------------------------------------

    /// @dev Each leaf of a batch of any size is settled with its own fields, and with no others.
    function testFuzz_requireSettled_AnswersForEachLeafOfABatch(uint256 size, uint256 at, bytes32 seed) public {
        size = bound(size, 1, 40);
        at = bound(at, 0, size - 1);
        bytes32[] memory leaves = new bytes32[](size);
        for (uint256 i = 0; i < size; ++i) {
            leaves[i] = _leaf(keccak256(abi.encode(seed, i)), "info", i % 2 == 0);
        }
        bytes32[] memory nodes = _tree(leaves);
        _submit(nodes[0], uint32(size), EVERYBODY);

        bytes32 taskId = keccak256(abi.encode(seed, at));
        bool isApproved = at % 2 == 0;
        IAttestationCenter.SettlementProof memory proof;
        (proof.root, proof.path) = (nodes[0], _proof(nodes, leaves[at]));
        assertTrue(center.included(nodes[0], taskId, "info", isApproved, VOTERS, proof.path), "included");
        proof.aggregator = address(1); // is not read
        assertEq(center.requireSettled(taskId, "info", isApproved, VOTERS, proof), aggregator, "aggregator");

        _expectNotSettled(taskId);
        center.requireSettled(taskId, "info", !isApproved, VOTERS, proof);
        _expectNotSettled(taskId);
        center.requireSettled(taskId, "other", isApproved, VOTERS, proof);
        _expectNotSettled(taskId);
        center.requireSettled(taskId, "info", isApproved, "others", proof);
        _expectNotSettled(seed);
        center.requireSettled(seed, "info", isApproved, VOTERS, proof);
        proof.path = new bytes32[](proof.path.length + 1);
        _expectNotSettled(taskId);
        center.requireSettled(taskId, "info", isApproved, VOTERS, proof);
    }

    function _expectNotSettled(bytes32 taskId) private {
        vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.NotSettled.selector, taskId));
    }

    function test_requireSettled_RefusesARootThatDidNotSettle() public {
        IAttestationCenter.SettlementProof memory proof;
        proof.root = _leaf("one", "info", true);
        _expectNotSettled("one");
        center.requireSettled("one", "info", true, VOTERS, proof);
        _submit(proof.root, 1, EVERYBODY);
        assertEq(center.requireSettled("one", "info", true, VOTERS, proof), aggregator, "a batch of one");
    }

    /// @dev Two aggregators with one task never block each other: under both roots, and by itself, it is one verdict.
    function test_requireSettled_AnswersUnderEachRootAndByItself() public {
        IAttestationCenter.TaskInfo memory info = makeInfo("task", PERFORMER_ID, 1);
        bytes32 infoHash = center.taskInfoHash(info);
        bytes32 voters = center.votersHashOf(1, 0, "");
        bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(info.taskId, infoHash, true, voters))));
        IAttestationCenter.SettlementProof memory first;
        IAttestationCenter.SettlementProof memory second;
        first.root = leaf;
        second.path = new bytes32[](1);
        second.path[0] = _leaf("two", "info", true);
        second.root = _pair(leaf, second.path[0]);
        _submit(first.root, 1, EVERYBODY);
        _submit(second.root, 2, EVERYBODY);
        center.submitTask(info, certify(info, true, EVERYBODY));
        assertEq(center.requireSettled("task", infoHash, true, voters, first), aggregator, "first");
        assertEq(center.requireSettled("task", infoHash, true, voters, second), aggregator, "second");
        IAttestationCenter.SettlementProof memory single;
        single.aggregator = address(this);
        assertEq(center.requireSettled("task", infoHash, true, voters, single), address(this), "by itself");
    }

    function test_requireSettled_AnswersForTheVerdictAndItsAggregatorAlone() public {
        IAttestationCenter.TaskInfo memory info = makeInfo("task", PERFORMER_ID, 1);
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, true, 7);
        bytes32 infoHash = center.taskInfoHash(info);
        bytes32 voters = center.votersHashOf(info.epoch, 0, hex"03");
        IAttestationCenter.SettlementProof memory proof;
        proof.aggregator = aggregator;
        _expectNotSettled("task");
        center.requireSettled("task", infoHash, true, voters, proof);

        vm.prank(aggregator);
        center.submitTask(info, details);
        assertEq(center.requireSettled("task", infoHash, true, voters, proof), aggregator, "aggregator");
        proof.path = new bytes32[](3);
        assertEq(center.requireSettled("task", infoHash, true, voters, proof), aggregator, "the path is not read");
        _expectNotSettled("other");
        center.requireSettled("other", infoHash, true, voters, proof);
        _expectNotSettled("task");
        center.requireSettled("task", "other", true, voters, proof);
        _expectNotSettled("task");
        center.requireSettled("task", infoHash, false, voters, proof);
        bytes32 others = center.votersHashOf(info.epoch, 0, hex"02");
        _expectNotSettled("task");
        center.requireSettled("task", infoHash, true, others, proof);
        proof.aggregator = address(this);
        _expectNotSettled("task");
        center.requireSettled("task", infoHash, true, voters, proof);
        // Settled by itself, not under a root that never settled.
        proof = IAttestationCenter.SettlementProof({root: "root", aggregator: aggregator, path: new bytes32[](0)});
        _expectNotSettled("task");
        center.requireSettled("task", infoHash, true, voters, proof);
    }

    function test_requireSettled_AnswersForARejection() public {
        IAttestationCenter.TaskInfo memory info = makeInfo("task", PERFORMER_ID, 1);
        center.submitTask(info, certify(info, false, 3));
        IAttestationCenter.SettlementProof memory proof;
        proof.aggregator = address(this);
        bytes32 voters = center.votersHashOf(info.epoch, 0, hex"0001");
        bytes32 infoHash = center.taskInfoHash(info);
        assertEq(center.requireSettled("task", infoHash, false, voters, proof), address(this), "aggregator");
        _expectNotSettled("task");
        center.requireSettled("task", infoHash, true, voters, proof);
    }
}
