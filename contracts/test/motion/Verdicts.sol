// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "../../src/interfaces/IAttestationCenter.sol";
import {ISlashingCourt} from "../../src/interfaces/ISlashingCourt.sol";
import {ITaskEscrow} from "../../src/interfaces/ITaskEscrow.sol";
import {Digests} from "../../src/libraries/Digests.sol";
import {Trees} from "../Trees.sol";
import {Stakes} from "./Stakes.sol";

/// @notice Steps of aggregators: verdicts, by all sorts of signers, on tasks new and old.
abstract contract Verdicts is Stakes {
    /// What settled, and how it is collected.
    struct Verdict {
        bytes32 taskId;
        uint8 verdict;
        uint16 definition;
        bool isSingle;
        /// An encoded ITaskEscrow.Collection.
        bytes collection;
    }

    Verdict[] internal verdicts;
    mapping(bytes32 taskId => uint8 verdict) internal singleVerdict;
    uint256 private _nonce;

    // --- tasks -------------------------------------------------------------------------------------------------------

    function newRequest(uint256 seed) internal returns (IAttestationCenter.TaskRequest memory request) {
        uint256 fee = bound(seed >> 32, 8 gwei, 40 gwei);
        request = makeRequest(FIRST_REQUESTER + seed % REQUESTERS, ++_nonce, idAt(seed >> 8), fee);
        request.taskDefinitionId = uint16((seed >> 16) % DEFINITIONS);
        // Two tasks of one nonce: each performer is paid once for it.
        if (isRare(seed, 6)) request.nonce = bound(seed >> 64, 1, _nonce);
    }

    /// @dev The epoch of the votes is of the seed, too.
    function infoOf(IAttestationCenter.TaskRequest memory request, uint256 seed)
        internal
        view
        returns (IAttestationCenter.TaskInfo memory info)
    {
        info = makeInfo(center.taskRequestHash(request), idOf[request.performer], epochAt(seed));
        info.taskDefinitionId = request.taskDefinitionId;
    }

    function setOf(uint16 definition) internal pure returns (uint32) {
        return definition == NARROW ? SET : 0;
    }

    // --- single ------------------------------------------------------------------------------------------------------

    function settleSingly(uint256 seed, bool isApproved, uint256 signers) external {
        IAttestationCenter.TaskRequest memory request = newRequest(seed);
        if (verdicts.length != 0 && isRare(seed, 8)) {
            request = collectionAt(seed % verdicts.length).request;
        }
        submit(request, infoOf(request, seed), isApproved, signersAt(signers));
    }

    /// @dev Attesters who each vote once, in two camps: never do both reach their quorum, and the first that does settles
    /// the task for ever.
    function contradict(uint256 seed, uint256 valid, uint256 invalid) external {
        IAttestationCenter.TaskRequest memory request = newRequest(seed);
        request.taskDefinitionId = seed & 1 == 0 ? 0 : NARROW;
        IAttestationCenter.TaskInfo memory info = infoOf(request, seed);
        (valid, invalid) = (valid & ~invalid, invalid & ~valid);
        // Nobody abstains: when a quorum is nearest.
        if (seed & 2 == 0) invalid = ~valid;
        bool approves = submit(request, info, true, valid);
        bool rejects = submit(request, info, false, invalid);
        assertTrue(!(approves && rejects), "both verdicts settled");
        if (!approves) return;
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, false, invalid);
        (bool isCertificate,) =
            address(center).staticcall(abi.encodeCall(IAttestationCenter.checkCertificate, (info, details)));
        assertTrue(!isCertificate, "both certificates verify");
    }

    /// @dev Returns whether it settled, which it does if and only if the books say so.
    function submit(
        IAttestationCenter.TaskRequest memory request,
        IAttestationCenter.TaskInfo memory info,
        bool isApproved,
        uint256 signers
    ) internal returns (bool) {
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, isApproved, signers);
        bytes4 refusal = submitRefusal(info, isApproved, signers);
        address from = accountOf(AGGREGATOR_ID);
        attempt(from, address(center), abi.encodeCall(IAttestationCenter.submitTask, (info, details)), refusal);
        requireNoOtherMeaning(info, details);
        if (refusal != 0) return false;
        singleVerdict[info.taskId] = isApproved ? VALID : INVALID;
        ITaskEscrow.Collection memory made = collectionOf(request, info, isApproved, details.indices);
        made.proof.aggregator = from;
        keep(info.taskId, true, made);
        ++done[isApproved ? bytes32("approve") : bytes32("reject")];
        if (!isApproved && info.taskDefinitionId != WAITING) queueRejected(request, info.taskId);
        return true;
    }

    function submitRefusal(IAttestationCenter.TaskInfo memory info, bool isApproved, uint256 signers)
        private
        view
        returns (bytes4 refusal)
    {
        if (singleVerdict[info.taskId] != 0) return IAttestationCenter.TaskAlreadySettled.selector;
        if (books[idOf[info.taskPerformer]].roles & PERFORMER == 0) return IAttestationCenter.NotPerformer.selector;
        refusal = quorumRefusal(info.epoch, setOf(info.taskDefinitionId), isApproved, signers);
        if (refusal != 0 || info.taskDefinitionId != WAITING) return refusal;
        Count memory counted = count(info.epoch, 0, signers);
        return counted.power == counted.total ? bytes4(0) : IAttestationCenter.VotesMissing.selector;
    }

    /// @dev The same votes never stand for the other verdict.
    function requireNoOtherMeaning(
        IAttestationCenter.TaskInfo memory info,
        IAttestationCenter.TaskSubmissionDetails memory details
    ) private view {
        details.isApproved = !details.isApproved;
        (bool isCertificate,) =
            address(center).staticcall(abi.encodeCall(IAttestationCenter.checkCertificate, (info, details)));
        assertTrue(!isCertificate, "votes turned round");
        details.isApproved = !details.isApproved;
    }

    function queueRejected(IAttestationCenter.TaskRequest memory request, bytes32 taskId) internal virtual;

    // --- batches -----------------------------------------------------------------------------------------------------

    function settleBatch(uint256 seed, uint256 approvals, uint256 signers) external {
        ITaskEscrow.Collection[] memory made = new ITaskEscrow.Collection[](1 + seed % 3);
        bytes32[] memory taskIds = new bytes32[](made.length);
        bytes32[] memory leaves = new bytes32[](made.length);
        // Nobody signs a batch with a certificate of nobody in it.
        if (count(epochAt(seed), 0, EVERYBODY).total == 0) return;
        for (uint256 i = 0; i < made.length; ++i) {
            made[i] = voted(uint256(keccak256(abi.encode(seed, i))), epochAt(seed), approvals >> i & 1 == 1);
            taskIds[i] = center.taskRequestHash(made[i].request);
            leaves[i] = leafOf(taskIds[i], made[i]);
        }
        (bytes32 root, bytes32[][] memory paths) = Trees.treeOf(leaves);
        if (!submitRoot(root, uint32(made.length), epochAt(seed), signersAt(signers))) return;
        for (uint256 i = 0; i < made.length; ++i) {
            (made[i].proof.root, made[i].proof.path) = (root, paths[i]);
            keep(taskIds[i], false, made[i]);
        }
        ++done["batch"];
    }

    /// @dev A task with a quorum's verdict: the others' leaves nobody signs.
    function voted(uint256 seed, uint32 of_, bool isApproved) private returns (ITaskEscrow.Collection memory) {
        IAttestationCenter.TaskRequest memory request = newRequest(seed);
        IAttestationCenter.TaskInfo memory info = infoOf(request, seed);
        info.epoch = of_;
        uint256 signers = signersAt(seed >> 128);
        if (quorumRefusal(info.epoch, setOf(info.taskDefinitionId), isApproved, signers) != 0) signers = EVERYBODY;
        return collectionOf(request, info, isApproved, certify(info, isApproved, signers).indices);
    }

    function submitRoot(bytes32 root, uint32 size, uint32 of_, uint256 signers) private returns (bool) {
        address from = accountOf(AGGREGATOR_ID);
        bytes32 digest = center.batchDigest(root, "content", size, of_, from);
        (bytes memory signature, bytes memory missing) = vote(digest, of_, 0, true, signers);
        bytes4 refusal = quorumRefusal(of_, 0, true, signers);
        bytes memory message =
            abi.encodeCall(IAttestationCenter.submitBatch, (root, "content", size, of_, from, signature, missing));
        attempt(requesterAt(size), address(center), message, refusal);
        if (refusal != 0) return false;
        attempt(from, address(center), message, IAttestationCenter.BatchAlreadySettled.selector);
        return true;
    }

    function leafOf(bytes32 taskId, ITaskEscrow.Collection memory made) private view returns (bytes32) {
        bytes32 votersHash = center.votersHashOf(made.epoch, setOf(made.request.taskDefinitionId), made.indices);
        return Digests.hashLeaf(taskId, made.infoHash, made.isApproved, votersHash);
    }

    // --- what settled ------------------------------------------------------------------------------------------------

    function collectionOf(
        IAttestationCenter.TaskRequest memory request,
        IAttestationCenter.TaskInfo memory info,
        bool isApproved,
        bytes memory indices
    ) private view returns (ITaskEscrow.Collection memory made) {
        made.request = request;
        uint256 requester = request.requester == accountOf(FIRST_REQUESTER) ? FIRST_REQUESTER : FIRST_REQUESTER + 1;
        made.requesterSignature = ecdsaSignature(requester, info.taskId);
        made.infoHash = center.taskInfoHash(info);
        (made.isApproved, made.epoch, made.indices) = (isApproved, info.epoch, indices);
    }

    function keep(bytes32 taskId, bool isSingle, ITaskEscrow.Collection memory made) private {
        uint8 verdict = made.isApproved ? VALID : INVALID;
        verdicts.push(Verdict(taskId, verdict, made.request.taskDefinitionId, isSingle, abi.encode(made)));
    }

    function collectionAt(uint256 index) internal view returns (ITaskEscrow.Collection memory) {
        return abi.decode(verdicts[index].collection, (ITaskEscrow.Collection));
    }

    // --- what holds after any steps ----------------------------------------------------------------------------------

    function requireVerdictsStay() public view {
        for (uint256 i = 0; i < verdicts.length; ++i) {
            bytes32 taskId = verdicts[i].taskId;
            assertEq(center.verdictOf(taskId), singleVerdict[taskId], "the first verdict stays");
        }
    }

    /// @dev And what is proven about each: its own verdict, and not the other.
    function requireVerdictsAreProven() internal view {
        for (uint256 i = 0; i < verdicts.length; ++i) {
            assertTrue(isProven(i, verdicts[i].verdict == VALID), "settled");
            assertTrue(!isProven(i, verdicts[i].verdict != VALID), "settled the other way");
        }
        for (uint32 of_ = 1; of_ <= epoch; ++of_) {
            assertEq(hashOfTable(of_), tableHash[of_], "a table never changes");
        }
    }

    function isProven(uint256 index, bool isApproved) private view returns (bool isSettled) {
        ITaskEscrow.Collection memory made = collectionAt(index);
        bytes32 votersHash = center.votersHashOf(made.epoch, setOf(verdicts[index].definition), made.indices);
        (isSettled,) = address(center)
            .staticcall(
                abi.encodeCall(
                    IAttestationCenter.requireSettled,
                    (verdicts[index].taskId, made.infoHash, isApproved, votersHash, made.proof)
                )
            );
    }
}
