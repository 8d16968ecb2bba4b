// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";
import {ITaskEscrow} from "../src/interfaces/ITaskEscrow.sol";
import {
    Burner,
    DearCalculator,
    FloodCalculator,
    GreedyCalculator,
    RawCalculator,
    ReentrantCalculator,
    RevertingCalculator,
    ShareCalculator,
    WritingCalculator
} from "./EscrowActors.sol";
import {EscrowNetwork} from "./EscrowNetwork.sol";
import {Vm} from "./Base.sol";

/// @notice Fees by a calculator, honest or not. Branches: tree/collect.tree.
contract FeeCalculatorTest is EscrowNetwork {
    /// What reaches a calculator, and what has to be left for it to do so.
    uint256 private constant FEE_GAS = 100_000;
    uint256 private constant GAS_NEEDED = FEE_GAS + FEE_GAS / 63 + 1 + 10_000;

    function _settleWith(address calculator, uint256 fee, bool isApproved)
        private
        returns (ITaskEscrow.Collection memory)
    {
        IAttestationCenter.TaskTerms memory with = terms();
        with.feeCalculator = calculator;
        IAttestationCenter.TaskRequest memory request = makeRequest(REQUESTER_ID, 0, PERFORMER_ID, fee);
        request.taskDefinitionId = addDefinition(with);
        return settleSingly(request, isApproved, EVERYBODY);
    }

    /// @dev How often the escrow says that a calculator failed.
    function _collectCountingFailures(ITaskEscrow.Collection memory task) private returns (uint256 failures) {
        vm.recordLogs();
        collect(task);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].topics[0] == ITaskEscrow.FeeCalculatorFailed.selector) ++failures;
        }
    }

    function _assertPaid(uint256 toPerformer, uint256 toAttesters, uint256 toAggregator) private view {
        assertEq(escrow.earnedBy(performer), toPerformer, "performer");
        assertEq(escrow.earnedBy(aggregator), toAggregator, "aggregator");
        uint256 spent = toPerformer + toAttesters + toAggregator;
        assertEq(balanceOf(requester, performer), DEPOSIT - spent, "deposit");
        assertEq(escrow.held(), DEPOSIT, "held");
    }

    // --- an honest one -----------------------------------------------------------------------------------------------

    function test_calculator_SetsTheFees() public {
        ITaskEscrow.Collection memory task = _settleWith(address(new ShareCalculator(10, 40, 20)), FEE, true);
        assertEq(_collectCountingFailures(task), 0, "no failure");
        // The performer gets the rest, not the 10 % only.
        _assertPaid(FEE * 40 / 100, FEE * 40 / 100, FEE * 20 / 100);
        assertEq(escrow.poolOf(votersOf(task)), FEE * 40 / 100, "pool");
    }

    function test_calculator_MayAskForAllThatTheRequestOffers() public {
        ITaskEscrow.Collection memory task = _settleWith(address(new ShareCalculator(0, 75, 25)), FEE, true);
        assertEq(_collectCountingFailures(task), 0, "no failure");
        _assertPaid(0, FEE * 75 / 100, FEE * 25 / 100);
    }

    function test_calculator_MayAskForLessThanTheDefinition() public {
        // A request too small for the definition's fees is paid by the calculator's.
        ITaskEscrow.Collection memory task = _settleWith(address(new ShareCalculator(50, 25, 25)), 100, true);
        assertEq(_collectCountingFailures(task), 0, "no failure");
        _assertPaid(50, 25, 25);
    }

    function test_calculator_SetsTheFeesOfARejection() public {
        ITaskEscrow.Collection memory task = _settleWith(address(new ShareCalculator(60, 25, 15)), FEE, false);
        assertEq(_collectCountingFailures(task), 0, "no failure");
        _assertPaid(0, FEE * 25 / 100, FEE * 15 / 100);
    }

    function test_calculator_MayBeFree() public {
        ITaskEscrow.Collection memory task = _settleWith(address(new RawCalculator(new bytes(96))), 0, true);
        assertEq(_collectCountingFailures(task), 0, "no failure");
        _assertPaid(0, 0, 0);
        assertTrue(escrow.isPaid(requester, performer, 0), "the nonce is used");
    }

    function test_calculator_MayAnswerMore() public {
        bytes memory answer = abi.encode(1, 2, 3, type(uint256).max);
        ITaskEscrow.Collection memory task = _settleWith(address(new RawCalculator(answer)), FEE, true);
        assertEq(_collectCountingFailures(task), 0, "no failure");
        _assertPaid(FEE - 5, 2, 3);
    }

    function test_calculator_IsAskedWhereTheDefinitionPointsWhenItIsCollected() public {
        ITaskEscrow.Collection memory task = _settleWith(address(new RevertingCalculator()), FEE, true);
        address other = address(new ShareCalculator(0, 5, 5));
        vm.prank(owner);
        (bool isDone,) = address(center)
            .call(
                abi.encodeWithSignature("announceChange(bytes32,uint256,uint256)", bytes32("feeCalculator"), 1, other)
            );
        assertTrue(isDone, "announced");
        vm.warp(block.timestamp + CHANGE_DELAY);
        (isDone,) =
            address(center).call(abi.encodeWithSignature("makeChange(bytes32,uint256)", bytes32("feeCalculator"), 1));
        assertTrue(isDone, "made");
        collect(task);
        _assertPaid(FEE * 90 / 100, FEE * 5 / 100, FEE * 5 / 100);
    }

    // --- those that fail ---------------------------------------------------------------------------------------------

    function _expectDefinitionsFees(address calculator) private {
        ITaskEscrow.Collection memory task = _settleWith(calculator, FEE, true);
        vm.expectEmit(address(escrow));
        emit ITaskEscrow.FeeCalculatorFailed(center.taskRequestHash(task.request), calculator);
        escrow.collect{gas: 1_000_000}(list(task));
        _assertPaid(FEE - TO_ATTESTERS - TO_AGGREGATOR, TO_ATTESTERS, TO_AGGREGATOR);
    }

    function test_calculator_ThatRevertsIsIgnored() public {
        _expectDefinitionsFees(address(new RevertingCalculator()));
    }

    function test_calculator_ThatBurnsItsGasIsIgnored() public {
        _expectDefinitionsFees(address(new Burner()));
    }

    function test_calculator_ThatAsksForMoreThanThereIsIsIgnored() public {
        _expectDefinitionsFees(address(new GreedyCalculator()));
    }

    function test_calculator_ThatAnswersTooLittleIsIgnored() public {
        _expectDefinitionsFees(address(new RawCalculator(new bytes(95))));
    }

    function test_calculator_ThatAnswersNothingIsIgnored() public {
        _expectDefinitionsFees(address(new RawCalculator("")));
    }

    function test_calculator_WhoseCodeIsGoneIsIgnored() public {
        // The center asks for code when a definition names it; an account's delegation (EIP-7702) can end.
        address calculator = address(new Burner());
        ITaskEscrow.Collection memory task = _settleWith(calculator, FEE, true);
        vm.etch(calculator, "");
        assertEq(_collectCountingFailures(task), 1, "failed");
        _assertPaid(FEE - TO_ATTESTERS - TO_AGGREGATOR, TO_ATTESTERS, TO_AGGREGATOR);
    }

    function test_calculator_WhoseFirstFeeIsTooWideIsIgnored() public {
        _expectDefinitionsFees(address(new RawCalculator(abi.encode(uint256(1) << 80, 0, 0))));
    }

    function test_calculator_WhoseSecondFeeIsTooWideIsIgnored() public {
        _expectDefinitionsFees(address(new RawCalculator(abi.encode(0, uint256(1) << 80, 0))));
    }

    function test_calculator_WhoseThirdFeeIsTooWideIsIgnored() public {
        _expectDefinitionsFees(address(new RawCalculator(abi.encode(0, 0, uint256(1) << 255))));
    }

    function test_calculator_WhoseFeesOverflowOnlyTogetherIsIgnored() public {
        uint256 most = type(uint80).max;
        _expectDefinitionsFees(address(new RawCalculator(abi.encode(most, most, most))));
    }

    function test_calculator_ThatFloodsCannotMakeTheCollectorPay() public {
        _expectDefinitionsFees(address(new FloodCalculator()));
    }

    function test_calculator_ThatWritesIsIgnored() public {
        _expectDefinitionsFees(address(new WritingCalculator()));
    }

    function test_calculator_CannotHaveItsTaskPaidTwice() public {
        ReentrantCalculator calculator = new ReentrantCalculator();
        ITaskEscrow.Collection memory task = _settleWith(address(calculator), FEE, true);
        calculator.prepare(escrow, abi.encodeCall(ITaskEscrow.collect, (list(task))));
        assertEq(_collectCountingFailures(task), 0, "it answered");
        _assertPaid(FEE - 5, 2, 3); // the answer of one whose call failed
    }

    function test_calculator_ThatFailsLeavesARequestThatIsTooSmallUnpaid() public {
        ITaskEscrow.Collection memory task = _settleWith(address(new RevertingCalculator()), 100, true);
        bytes32 taskId = center.taskRequestHash(task.request);
        uint256 least = TO_PERFORMER + TO_ATTESTERS + TO_AGGREGATOR;
        expectRefusal(task, abi.encodeWithSelector(ITaskEscrow.FeeTooSmall.selector, taskId, 100, least));
    }

    /// @dev Whatever it answers, the requester never pays more than was offered, and all of it arrives.
    function testFuzz_calculator_CostsNoMoreThanTheRequestOffers(bytes memory answer, uint256 fee) public {
        uint256 least = TO_PERFORMER + TO_ATTESTERS + TO_AGGREGATOR;
        fee = bound(fee, least, DEPOSIT);
        ITaskEscrow.Collection memory task = _settleWith(address(new RawCalculator(answer)), fee, true);
        collect(task);
        assertEq(balanceOf(requester, performer), DEPOSIT - fee, "the fee");
        uint256 arrived = escrow.earnedBy(performer) + escrow.earnedBy(aggregator) + escrow.poolOf(votersOf(task));
        assertEq(arrived, fee, "all of it");
    }

    function testFuzz_calculator_SharesTheFee(uint80 a, uint80 b, uint80 c, uint256 fee) public {
        fee = bound(fee, 0, DEPOSIT);
        (a, b, c) = (a % 600 gwei, b % 600 gwei, c % 600 gwei);
        RawCalculator calculator = new RawCalculator(abi.encode(a, b, c));
        ITaskEscrow.Collection memory task = _settleWith(address(calculator), fee, true);
        uint256 least = TO_PERFORMER + TO_ATTESTERS + TO_AGGREGATOR;
        if (uint256(a) + b + c <= fee) {
            assertEq(_collectCountingFailures(task), 0, "held");
            _assertPaid(fee - b - c, b, c);
        } else if (fee >= least) {
            assertEq(_collectCountingFailures(task), 1, "failed");
            _assertPaid(fee - TO_ATTESTERS - TO_AGGREGATOR, TO_ATTESTERS, TO_AGGREGATOR);
        } else {
            bytes32 taskId = center.taskRequestHash(task.request);
            expectRefusal(task, abi.encodeWithSelector(ITaskEscrow.FeeTooSmall.selector, taskId, fee, least));
        }
    }

    // --- starving it -------------------------------------------------------------------------------------------------

    /// @dev With whatever gas it is called, collecting pays by the calculator or not at all.
    function test_calculator_CannotBeStarved() public {
        address calculator = address(new DearCalculator());
        ITaskEscrow.Collection memory task = _settleWith(calculator, FEE, true);
        bytes memory message = abi.encodeCall(ITaskEscrow.collect, (list(task)));
        uint256 refusals = 0;
        uint256 payments = 0;
        for (uint256 gas = 60_000; gas < 420_000; gas += 1500) {
            uint256 id = vm.snapshotState();
            vm.cool(calculator);
            (bool isDone, bytes memory answer) = address(escrow).call{gas: gas}(message);
            if (isDone) {
                _assertPaid(FEE - 15, 7, 8);
                ++payments;
            } else if (answer.length != 0) {
                assertEq(bytes4(answer), ITaskEscrow.GasTooLow.selector, "the only error");
                assertEq(_second(answer), GAS_NEEDED, "needed");
                ++refusals;
            }
            vm.revertToState(id);
        }
        assertTrue(refusals > 20, "some gas is too little");
        assertTrue(payments > 20, "some is enough");
    }

    /// @dev The second argument of an error.
    function _second(bytes memory answer) private pure returns (uint256 value) {
        assembly ("memory-safe") {
            value := mload(add(answer, 68))
        }
    }
}
