// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IEigenLayerSource} from "../src/eigenlayer/IEigenLayerSource.sol";
import {OperatorTableCalculator} from "../src/eigenlayer/OperatorTableCalculator.sol";
import {OperatorSet} from "../src/eigenlayer/IAllocationManager.sol";
import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {ISlashingCourt} from "../src/interfaces/ISlashingCourt.sol";
import {IQuorumVerifier} from "../src/interfaces/IQuorumVerifier.sol";
import {EigenNetwork} from "./eigenlayer/EigenNetwork.sol";

/// @notice The whole hub on stake that lies in EigenLayer: its operators' certificates settle in the real center, and
/// the real court slashes them there. And their table for EigenLayer's other chains.
contract EigenLayerHubTest is EigenNetwork {
    uint256 private constant PERFORMER_ID = 9;
    uint256 private constant EVERYBODY = type(uint256).max;
    uint256 private constant POWER = 2 * SHARES / POWER_UNIT;
    bytes32 private constant TASK = keccak256("task");
    address private performer;

    function setUp() public override {
        super.setUp();
        useRealCourt();
        addDefinition(terms());
        performer = enlist(PERFORMER_ID, PERFORMER);
        for (uint256 id = 1; id <= 4; ++id) {
            enlist(id, ATTESTER);
        }
        roll();
    }

    function _reject() private returns (bytes32 slashId) {
        settle(TASK, PERFORMER_ID, false);
        return court.slashIdOf(ISlashingCourt.Offence.REJECTED_TASK, TASK, performer);
    }

    function _slashed(uint256 slashId, uint256 pool) private view returns (uint256) {
        return deposits.getBurnOrRedistributableShares(operatorSet(), slashId, address(pools[pool]));
    }

    // --- settling ----------------------------------------------------------------------------------------------------

    function test_hub_OperatorsOfEigenLayerSettleAnApproval() public {
        IAttestationCenter.TaskInfo memory info = makeInfo(TASK, PERFORMER_ID, tables.currentEpoch());
        center.submitTask(info, certify(info, true, 7));
        assertEq(center.verdictOf(TASK), VALID, "three of four approve");
        assertEq(address(center.operators()), address(source), "operators");
        assertEq(address(court.operators()), address(source), "the court's operators");
    }

    function test_hub_NeedsMoreThanTwoThirdsOfWhatEigenLayerHolds() public {
        // Operator 1 delegates so much to itself that the others are no quorum any more.
        deposit(accountOf(1), 0, 40 ether);
        source.refreshPowers(only(accountOf(1)));
        uint32 epoch = roll();
        IAttestationCenter.TaskInfo memory info = makeInfo(TASK, PERFORMER_ID, epoch);
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, true, 14);
        vm.expectRevert(abi.encodeWithSelector(IQuorumVerifier.QuorumNotReached.selector, 3 * POWER, 6 * POWER, true));
        center.submitTask(info, details);
        center.submitTask(info, certify(info, true, 7));
        assertEq(center.verdictOf(TASK), VALID, "with operator 1");
    }

    function test_hub_RefusesAPerformerWhoIsNone() public {
        IAttestationCenter.TaskInfo memory info = makeInfo(TASK, 1, tables.currentEpoch());
        IAttestationCenter.TaskSubmissionDetails memory details = certify(info, true, EVERYBODY);
        vm.expectRevert(abi.encodeWithSelector(IAttestationCenter.NotPerformer.selector, accountOf(1)));
        center.submitTask(info, details);
    }

    // --- slashing ----------------------------------------------------------------------------------------------------

    function test_hub_SlashesARejectedPerformerInEigenLayer() public {
        bytes32 slashId = _reject();
        assertEq(source.pendingSlashes(performer), 1, "held");
        pass(DISPUTE_WINDOW / BLOCK_SECONDS);
        assertEq(court.executeSlash(slashId), 0, "nothing comes to the court");
        assertEq(source.pendingSlashes(performer), 0, "released");
        assertEq(_slashed(1, 0), SHARES / 10, "a tenth of the first");
        assertEq(_slashed(1, 1), SHARES / 10, "a tenth of the second");
        assertEq(court.totalOwed(), 0, "the court owes nobody");
        deposits.clearBurnOrRedistributableShares(operatorSet(), 1);
        assertEq(pools[0].underlyingToken().balanceOf(vault), SHARES / 10, "the vault has it");
    }

    function test_hub_SlashesAPerformerWhoLeavesAtOnce() public {
        bytes32 slashId = _reject();
        deregister(performer);
        allocate(performer, 0, 0);
        pass(LONGEST_DISPUTE / BLOCK_SECONDS);
        court.executeSlash(slashId);
        assertEq(_slashed(1, 0), SHARES / 10, "slashed all the same");
    }

    function test_hub_CancelsAndReleases() public {
        bytes32 slashId = _reject();
        uint32 epoch = tables.currentEpoch();
        (bytes memory signature, bytes memory missing) = vote(court.cancelDigest(slashId), epoch, 0, true, EVERYBODY);
        court.cancelSlash(slashId, epoch, signature, missing);
        assertEq(source.pendingSlashes(performer), 0, "released");
        assertEq(source.stakeOf(performer), 2 * SHARES, "untouched");
    }

    function test_hub_IsTooLateWhenEigenLayerLetGo() public {
        bytes32 slashId = _reject();
        deregister(performer);
        pass(DEALLOCATION_BLOCKS + 1);
        vm.expectEmit(address(source));
        emit IEigenLayerSource.SlashMissed(performer, 0.1e18);
        court.executeSlash(slashId);
        assertEq(uint256(court.slashOf(slashId).state), uint256(ISlashingCourt.State.EXECUTED), "over");
        assertEq(source.stakeOf(performer), 2 * SHARES, "untouched");
    }

    /// The last vote that a leaver's table lets through is slashed after the longest dispute there can be.
    function test_hub_ReachesTheLastVoteOfALeaver() public {
        uint32 epoch = tables.currentEpoch();
        address leaver = accountOf(1);
        deregister(leaver);
        pass(EPOCH_SECONDS / BLOCK_SECONDS);
        roll();
        pass(GRACE_SECONDS / BLOCK_SECONDS);
        IAttestationCenter.TaskInfo memory first = makeInfo(TASK, PERFORMER_ID, epoch);
        IAttestationCenter.TaskInfo memory second = makeInfo(TASK, PERFORMER_ID, epoch);
        second.data = "";
        center.submitTask(first, certify(first, true, EVERYBODY));
        bytes memory signatures = vote2(1, center.taskInfoHash(first), center.taskInfoHash(second));
        bytes32 slashId = court.reportEquivocation(
            ISlashingCourt.SignedVote(first, VALID, 0), ISlashingCourt.SignedVote(second, VALID, 0), signatures
        );
        pass(LONGEST_DISPUTE / BLOCK_SECONDS);
        court.executeSlash(slashId);
        assertEq(_slashed(1, 0), SHARES, "all of it");
    }

    /// @dev The sum of one attester's votes for two task infos, by the sum of their points: the secret is the same.
    function vote2(uint256 id, bytes32 first, bytes32 second) private view returns (bytes memory) {
        return addG1(voteOf(id, first, VALID), voteOf(id, second, VALID));
    }

    function addG1(bytes memory left, bytes memory right) private view returns (bytes memory sum) {
        (bool done, bytes memory point) = address(0x0b).staticcall(abi.encodePacked(pad(left), pad(right)));
        require(done && point.length == 128, "addition precompile");
        sum = new bytes(96);
        assembly ("memory-safe") {
            mcopy(add(sum, 32), add(point, 48), 48)
            mcopy(add(sum, 80), add(point, 112), 48)
        }
    }

    function pad(bytes memory packed) private pure returns (bytes memory padded) {
        padded = new bytes(128);
        assembly ("memory-safe") {
            mcopy(add(padded, 48), add(packed, 32), 48)
            mcopy(add(padded, 112), add(packed, 80), 48)
        }
    }

    // --- the table for other chains ----------------------------------------------------------------------------------

    function test_operatorTableCalculator_GivesTheCurrentTable() public {
        OperatorTableCalculator calculator = new OperatorTableCalculator(source);
        deregister(accountOf(2));
        roll();
        (address[] memory operators, uint256[][] memory weights) = calculator.getOperatorSetWeights(operatorSet());
        assertEq(operators.length, 3, "three vote");
        assertEq(weights.length, 3, "three weights");
        OperatorTableCalculator.ECDSAOperatorInfo[] memory infos = abi.decode(
            calculator.calculateOperatorTableBytes(operatorSet()), (OperatorTableCalculator.ECDSAOperatorInfo[])
        );
        assertEq(infos.length, 3, "three infos");
        uint256[3] memory expected = [uint256(1), 3, 4];
        for (uint256 i = 0; i < 3; ++i) {
            assertEq(operators[i], accountOf(expected[i]), "operator");
            assertEq(weights[i].length, 1, "one weight");
            assertEq(weights[i][0], POWER, "power");
            assertEq(infos[i].pubkey, operators[i], "signs with its address's key");
            assertEq(abi.encode(infos[i].weights), abi.encode(weights[i]), "the same weights");
        }
        assertEq(calculator.getOperatorWeights(operatorSet(), accountOf(3))[0], POWER, "by operator");
        assertEq(calculator.getOperatorWeights(operatorSet(), accountOf(2)).length, 0, "who left");
        assertEq(calculator.getOperatorWeights(operatorSet(), performer).length, 0, "who has no vote");
    }

    function test_operatorTableCalculator_KnowsNoOtherSetAndNoEarlierTime() public {
        OperatorTableCalculator calculator = new OperatorTableCalculator(source);
        _expectNobody(calculator, OperatorSet(avs, SET_ID + 1));
        _expectNobody(calculator, OperatorSet(address(this), SET_ID));
        useRealCourt();
        _expectNobody(new OperatorTableCalculator(source), operatorSet());
    }

    function _expectNobody(OperatorTableCalculator calculator, OperatorSet memory set) private view {
        (address[] memory operators, uint256[][] memory weights) = calculator.getOperatorSetWeights(set);
        assertEq(operators.length + weights.length, 0, "nobody");
        assertEq(calculator.getOperatorWeights(set, accountOf(1)).length, 0, "no weight");
    }
}
