// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {ITaskEscrow} from "../src/interfaces/ITaskEscrow.sol";
import {Digests} from "../src/libraries/Digests.sol";
import {Network} from "./Network.sol";
import {Trees} from "./Trees.sol";

/// @notice A performer, four attesters of unequal power, an aggregator and a requester with a deposit; and every way
/// to a settled verdict that can be collected.
abstract contract EscrowNetwork is Network {
    uint256 internal constant ATTESTERS = 4;
    uint256 internal constant EVERYBODY = 15;
    uint256 internal constant AGGREGATOR_ID = 5;
    uint256 internal constant PERFORMER_ID = 9;
    uint256 internal constant OTHER_PERFORMER_ID = 10;
    uint256 internal constant REQUESTER_ID = 20;

    uint256 internal constant DEPOSIT = 1000 gwei;
    uint256 internal constant FEE = 20 gwei;
    /// Of `terms()`.
    uint256 internal constant TO_PERFORMER = 5 gwei;
    uint256 internal constant TO_ATTESTERS = 3 gwei;
    uint256 internal constant TO_AGGREGATOR = 1 gwei;

    address internal performer;
    address internal aggregator;
    address internal requester;
    uint32 internal epoch;

    function setUp() public virtual override {
        super.setUp();
        performer = join(PERFORMER_ID, PERFORMER, MINIMUM_STAKE);
        join(OTHER_PERFORMER_ID, PERFORMER, MINIMUM_STAKE);
        aggregator = join(AGGREGATOR_ID, AGGREGATOR, MINIMUM_STAKE);
        for (uint256 seat = 0; seat < ATTESTERS; ++seat) {
            join(seat + 1, ATTESTER, powerOf(seat) * POWER_UNIT);
        }
        epoch = roll();
        requester = accountOf(REQUESTER_ID);
        give(performer, DEPOSIT);
    }

    /// @dev Any three of them are a quorum, any two can reject, and no fee divides evenly.
    function powerOf(uint256 seat) internal pure returns (uint256) {
        return [uint256(1000), 1103, 1301, 1234][seat];
    }

    /// @dev Deposits for `to` in the name of the requester; the test pays.
    function give(address to, uint256 amount) internal virtual {
        vm.deal(address(this), address(this).balance + amount);
        escrow.deposit{value: amount}(requester, to, amount);
    }

    // --- settled verdicts --------------------------------------------------------------------------------------------

    function makeRequest(uint256 nonce) internal view returns (IAttestationCenter.TaskRequest memory) {
        return makeRequest(REQUESTER_ID, nonce, PERFORMER_ID, FEE);
    }

    function infoOf(IAttestationCenter.TaskRequest memory request)
        internal
        view
        returns (IAttestationCenter.TaskInfo memory info)
    {
        info = makeInfo(center.taskRequestHash(request), idOf[request.performer], tables.currentEpoch());
        info.taskDefinitionId = request.taskDefinitionId;
    }

    /// @dev Has the aggregator settle the request's task by itself.
    function settleSingly(IAttestationCenter.TaskRequest memory request, bool isApproved, uint256 signers)
        internal
        returns (ITaskEscrow.Collection memory)
    {
        IAttestationCenter.TaskInfo memory info = infoOf(request);
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, isApproved, signers);
        vm.prank(aggregator);
        center.submitTask(info, details);
        ITaskEscrow.Collection memory made = collectionOf(request, info, isApproved, details.indices);
        made.proof.aggregator = aggregator;
        return made;
    }

    function collectionOf(
        IAttestationCenter.TaskRequest memory request,
        IAttestationCenter.TaskInfo memory info,
        bool isApproved,
        bytes memory indices
    ) internal view returns (ITaskEscrow.Collection memory made) {
        made.request = request;
        made.requesterSignature = ecdsaSignature(REQUESTER_ID, info.taskId);
        made.infoHash = center.taskInfoHash(info);
        made.isApproved = isApproved;
        made.epoch = info.epoch;
        made.indices = indices;
    }

    /// @dev Has a batch of these requests settled, with the aggregator's name in it. The verdict of each is that of the
    /// same bit of `approvals`; all by `signers`.
    function settleBatch(IAttestationCenter.TaskRequest[] memory requests, uint256 approvals, uint256 signers)
        internal
        returns (ITaskEscrow.Collection[] memory made)
    {
        made = new ITaskEscrow.Collection[](requests.length);
        bytes32[] memory leaves = new bytes32[](requests.length);
        for (uint256 i = 0; i < requests.length; ++i) {
            bool isApproved = approvals >> i & 1 == 1;
            IAttestationCenter.TaskInfo memory info = infoOf(requests[i]);
            made[i] = collectionOf(requests[i], info, isApproved, certify(info, isApproved, signers).indices);
            leaves[i] = leafOf(info.taskId, made[i]);
        }
        (bytes32 root, bytes32[][] memory paths) = Trees.treeOf(leaves);
        for (uint256 i = 0; i < requests.length; ++i) {
            (made[i].proof.root, made[i].proof.path) = (root, paths[i]);
        }
        submitRoot(root, uint32(requests.length));
    }

    function submitRoot(bytes32 root, uint32 size) internal {
        bytes32 digest = center.batchDigest(root, "content", size, tables.currentEpoch(), aggregator);
        (bytes memory signature, bytes memory missing) = vote(digest, tables.currentEpoch(), 0, true, type(uint256).max);
        center.submitBatch(root, "content", size, tables.currentEpoch(), aggregator, signature, missing);
    }

    function leafOf(bytes32 taskId, ITaskEscrow.Collection memory task) internal view returns (bytes32) {
        uint32 set = center.taskDefinition(task.request.taskDefinitionId).terms.attesterSet;
        bytes32 votersHash = center.votersHashOf(task.epoch, set, task.indices);
        return Digests.hashLeaf(taskId, task.infoHash, task.isApproved, votersHash);
    }

    // --- paying ------------------------------------------------------------------------------------------------------

    function list(ITaskEscrow.Collection memory task) internal pure returns (ITaskEscrow.Collection[] memory tasks) {
        tasks = new ITaskEscrow.Collection[](1);
        tasks[0] = task;
    }

    function collect(ITaskEscrow.Collection memory task) internal {
        escrow.collect(list(task));
    }

    function expectRefusal(ITaskEscrow.Collection memory task, bytes memory refusal) internal {
        vm.expectRevert(refusal);
        collect(task);
    }

    function expectNotSettled(ITaskEscrow.Collection memory task) internal {
        bytes32 taskId = center.taskRequestHash(task.request);
        expectRefusal(task, abi.encodeWithSelector(IAttestationCenter.NotSettled.selector, taskId));
    }

    /// @dev Settles and collects a task of the requester's; returns who shares its attesters' fee.
    function pay(uint256 nonce, bool isApproved, uint256 signers) internal returns (ITaskEscrow.Voters memory) {
        ITaskEscrow.Collection memory task = settleSingly(makeRequest(nonce), isApproved, signers);
        collect(task);
        return votersOf(task);
    }

    function votersOf(ITaskEscrow.Collection memory task) internal view returns (ITaskEscrow.Voters memory) {
        uint32 set = center.taskDefinition(task.request.taskDefinitionId).terms.attesterSet;
        return ITaskEscrow.Voters(task.epoch, set, task.isApproved, task.indices);
    }

    function balanceOf(address of_, address for_) internal view returns (uint256) {
        return escrow.depositOf(of_, for_).balance;
    }

    // --- claiming ----------------------------------------------------------------------------------------------------

    function claimEarned(address operator) internal returns (uint256) {
        return escrow.claim(operator, new ITaskEscrow.Voters[](0), new uint16[](0));
    }

    function claimShare(address operator, ITaskEscrow.Voters memory voters, uint16 seat) internal returns (uint256) {
        (ITaskEscrow.Voters[] memory pools, uint16[] memory seats) = one(voters, seat);
        return escrow.claim(operator, pools, seats);
    }

    function one(ITaskEscrow.Voters memory voters, uint16 seat)
        internal
        pure
        returns (ITaskEscrow.Voters[] memory pools, uint16[] memory seats)
    {
        (pools, seats) = (new ITaskEscrow.Voters[](1), new uint16[](1));
        (pools[0], seats[0]) = (voters, seat);
    }

    function attesterIn(uint256 seat) internal pure returns (address) {
        return accountOf(seat + 1);
    }
}
