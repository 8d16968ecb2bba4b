// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {ISlashingCourt} from "../src/interfaces/ISlashingCourt.sol";
import {Digests} from "../src/libraries/Digests.sol";
import {Network} from "./Network.sol";

/// @notice A network with one performer, four attesters of equal stake (three are a quorum, two can reject), a requester
/// without stake, and the offences that they can commit. Definition 0 slashes rejected tasks, STRICT outliers only; both
/// have fees of PRICE together, so that a slash of a tenth is worth less than a task, and one of everything more.
abstract contract CourtNetwork is Network {
    uint256 internal constant PERFORMER_ID = 9;
    uint256 internal constant REQUESTER_ID = 20;
    uint256 internal constant EVERYBODY = type(uint256).max;
    uint256 internal constant THREE = 7;
    uint256 internal constant TWO = 3;
    uint256 internal constant PERFORMER_STAKE = 10 ether;
    uint16 internal constant STRICT = 1;
    /// All that a definition's fees add up to: what a requester's compensation cannot exceed.
    uint256 internal constant PRICE = 1.5 ether;
    uint32 internal constant STRICT_WINDOW = 2 days;

    address internal performer;
    address internal requester;

    function setUp() public virtual override {
        super.setUp();
        addStrictDefinition();
        performer = join(PERFORMER_ID, PERFORMER, PERFORMER_STAKE);
        requester = accountOf(REQUESTER_ID);
        for (uint256 id = 1; id <= 4; ++id) {
            join(id, ATTESTER, MINIMUM_STAKE);
        }
        roll();
    }

    function terms() internal pure override returns (IAttestationCenter.TaskTerms memory dear) {
        dear = super.terms();
        dear.fees = IAttestationCenter.Fees({performer: 1 ether, attesters: 0.3 ether, aggregator: 0.2 ether});
    }

    function addStrictDefinition() internal {
        IAttestationCenter.TaskTerms memory strict = terms();
        strict.slashesRejected = false;
        strict.slashesOutliers = true;
        strict.disputeWindow = STRICT_WINDOW;
        addDefinition(strict);
    }

    // --- offences ----------------------------------------------------------------------------------------------------

    /// @dev A settled rejection; the slash waits.
    function reject(bytes32 taskId) internal returns (bytes32 slashId) {
        settle(taskId, PERFORMER_ID, false);
        return court.slashIdOf(ISlashingCourt.Offence.REJECTED_TASK, taskId, performer);
    }

    function request(uint256 nonce, uint256 fee) internal view returns (IAttestationCenter.TaskRequest memory) {
        return makeRequest(REQUESTER_ID, nonce, PERFORMER_ID, fee);
    }

    /// @dev The performer's signed promise to answer.
    function promiseFor(IAttestationCenter.TaskRequest memory made) internal view returns (bytes memory) {
        return ecdsaSignature(PERFORMER_ID, center.promiseDigest(center.taskRequestHash(made)));
    }

    /// @dev Lets the deadline pass by more than what an answer may take, and reports.
    function missDeadline(IAttestationCenter.TaskRequest memory made) internal returns (bytes32 slashId) {
        bytes memory signature = promiseFor(made);
        vm.warp(uint256(made.deadline) + 1 hours + 1);
        return court.reportMissedDeadline(made, signature);
    }

    function signedVote(IAttestationCenter.TaskInfo memory info, uint8 verdict, uint16 seat)
        internal
        pure
        returns (ISlashingCourt.SignedVote memory)
    {
        return ISlashingCourt.SignedVote({info: info, verdict: verdict, seat: seat});
    }

    /// @dev Signed by attester `id`.
    function signatureOf(uint256 id, ISlashingCourt.SignedVote memory made) internal view returns (bytes memory) {
        return voteOf(id, center.taskInfoHash(made.info), made.verdict);
    }

    function seatOf(uint256 id) internal view returns (uint16) {
        (address[] memory members,,) = tables.tableOf(tables.currentEpoch(), 0);
        for (uint256 seat = 0; seat < members.length; ++seat) {
            if (members[seat] == accountOf(id)) return uint16(seat);
        }
        revert("no seat");
    }

    // --- certificates ------------------------------------------------------------------------------------------------

    /// @dev Everybody's table, `signers` of it, over a digest of the court's.
    function quorumOver(bytes32 digest, uint256 signers)
        internal
        view
        returns (uint32 epoch, bytes memory signature, bytes memory missing)
    {
        epoch = tables.currentEpoch();
        (signature, missing) = vote(digest, epoch, 0, true, signers);
    }

    function cancel(bytes32 slashId) internal {
        (uint32 epoch, bytes memory signature, bytes memory missing) = quorumOver(court.cancelDigest(slashId), THREE);
        court.cancelSlash(slashId, epoch, signature, missing);
    }

    /// @dev The hash of the voters of a certificate by all four attesters.
    function everybodysHash(bool isApproved) internal view returns (bytes32) {
        return center.votersHashOf(tables.currentEpoch(), 0, isApproved ? bytes("") : bytes(hex"00010203"));
    }

    /// @dev How the verdict of `settle` by this contract is shown.
    function singly() internal view returns (IAttestationCenter.SettlementProof memory proof) {
        proof.aggregator = address(this);
    }

    /// @dev Settles a batch that holds the verdict of everybody on `info`, and another leaf.
    function settleInBatch(IAttestationCenter.TaskInfo memory info, bool isApproved)
        internal
        returns (IAttestationCenter.SettlementProof memory proof)
    {
        bytes32 infoHash = center.taskInfoHash(info);
        bytes32 leaf = Digests.hashLeaf(info.taskId, infoHash, isApproved, everybodysHash(isApproved));
        proof.path = new bytes32[](1);
        proof.path[0] = keccak256(abi.encode("another leaf", info.taskId));
        proof.root = leaf < proof.path[0]
            ? keccak256(abi.encode(leaf, proof.path[0]))
            : keccak256(abi.encode(proof.path[0], leaf));
        uint32 epoch = tables.currentEpoch();
        bytes32 digest = center.batchDigest(proof.root, "content", 2, epoch, address(this));
        (bytes memory signature, bytes memory missing) = vote(digest, epoch, 0, true, EVERYBODY);
        center.submitBatch(proof.root, "content", 2, epoch, address(this), signature, missing);
    }

    // --- asserting ---------------------------------------------------------------------------------------------------

    function assertState(bytes32 slashId, ISlashingCourt.State state) internal view {
        assertEq(uint256(court.slashOf(slashId).state), uint256(state), "state");
    }

    /// @dev A slash as it is right after its report.
    function assertQueued(
        bytes32 slashId,
        ISlashingCourt.Offence offence,
        bytes32 taskId,
        address operator,
        uint32 window
    ) internal view {
        ISlashingCourt.Slash memory slash = court.slashOf(slashId);
        assertEq(slashId, court.slashIdOf(offence, taskId, operator), "slash id");
        assertEq(slash.taskId, taskId, "task id");
        assertEq(slash.operator, operator, "operator");
        assertEq(uint256(slash.offence), uint256(offence), "offence");
        assertState(slashId, ISlashingCourt.State.WAITING);
        assertEq(slash.executableAt, block.timestamp + window, "executable at");
        assertEq(slash.vetoDueAt, 0, "no veto");
    }

    function assertUnnamed(bytes32 slashId) internal view {
        assertEq(court.slashOf(slashId).requester, address(0), "nobody harmed is known");
        assertEq(court.slashOf(slashId).value, 0, "no value is known");
    }

    function stakeOf(address operator) internal view returns (uint256) {
        return registry.operatorOf(operator).stake;
    }

    function refusal(bytes4 selector, bytes32 id) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(selector, id);
    }

    function notWaiting(bytes32 slashId, ISlashingCourt.State state) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(ISlashingCourt.NotWaiting.selector, slashId, state);
    }
}
