// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {Governed} from "../src/Governed.sol";
import {ITaskEscrow} from "../src/interfaces/ITaskEscrow.sol";
import {Currency} from "../src/libraries/Currency.sol";
import {Reentrant, Refuser} from "./EscrowActors.sol";
import {EscrowNetwork} from "./EscrowNetwork.sol";

/// @notice Deposits and the way back. Branches: tree/deposit.tree, tree/refund.tree.
contract DepositsTest is EscrowNetwork {
    address private constant ANYBODY = address(0xa11ce);

    // --- deposit -----------------------------------------------------------------------------------------------------

    function test_deposit_AddsToOnePerformersDeposit() public {
        vm.deal(ANYBODY, 7 gwei);
        vm.expectEmit(address(escrow));
        emit ITaskEscrow.Deposited(requester, performer, 7 gwei);
        vm.prank(ANYBODY);
        escrow.deposit{value: 7 gwei}(requester, performer, 7 gwei);
        ITaskEscrow.Deposit memory made = escrow.depositOf(requester, performer);
        assertEq(made.balance, DEPOSIT + 7 gwei, "balance");
        assertEq(made.refunding, 0, "refunding");
        assertEq(made.refundableAt, 0, "refundable at");
        assertEq(balanceOf(requester, accountOf(OTHER_PERFORMER_ID)), 0, "nobody else's");
        assertEq(balanceOf(ANYBODY, performer), 0, "the payer's neither");
        assertEq(escrow.held(), DEPOSIT + 7 gwei, "held");
        assertEq(address(escrow).balance, escrow.held(), "the coin is here");
    }

    function test_deposit_RevertsForAnotherValueThanTheAmount() public {
        vm.deal(address(this), 3);
        vm.expectRevert(abi.encodeWithSelector(Currency.WrongValue.selector, 2, 3));
        escrow.deposit{value: 2}(requester, performer, 3);
        vm.expectRevert(abi.encodeWithSelector(Currency.WrongValue.selector, 3, 2));
        escrow.deposit{value: 3}(requester, performer, 2);
    }

    function test_deposit_RevertsOverWhatASlotHolds() public {
        uint256 maximum = type(uint96).max;
        give(performer, maximum - DEPOSIT);
        assertEq(balanceOf(requester, performer), maximum, "full");
        vm.deal(address(this), 1);
        vm.expectRevert(abi.encodeWithSelector(ITaskEscrow.DepositTooLarge.selector, maximum + 1, maximum));
        escrow.deposit{value: 1}(requester, performer, 1);
    }

    function test_deposit_RevertsForMoreThanTheUint96InOneGo() public {
        uint256 amount = uint256(type(uint96).max) + 1;
        vm.deal(address(this), amount);
        vm.expectRevert(abi.encodeWithSelector(ITaskEscrow.DepositTooLarge.selector, amount, type(uint96).max));
        escrow.deposit{value: amount}(requester, accountOf(OTHER_PERFORMER_ID), amount);
    }

    function test_deposit_IsAllThatPausingPauses() public {
        ITaskEscrow.Collection memory task = settleSingly(makeRequest(0), true, EVERYBODY);
        vm.prank(owner);
        Governed(address(escrow)).pause(true);
        uint64 until = uint64(block.timestamp) + 7 days;
        vm.deal(address(this), 1);
        vm.expectRevert(abi.encodeWithSelector(ITaskEscrow.DepositsPaused.selector, until));
        escrow.deposit{value: 1}(requester, performer, 1);

        vm.prank(requester);
        escrow.startRefund(performer, 1 gwei);
        collect(task);
        assertEq(claimEarned(performer), FEE - TO_ATTESTERS - TO_AGGREGATOR, "claimed");
        vm.warp(block.timestamp + REFUND_DELAY);
        vm.prank(requester);
        assertEq(escrow.refund(performer), 1 gwei, "refunded");

        vm.warp(until);
        escrow.deposit{value: 1}(requester, performer, 1);
    }

    function test_coin_ComesByDepositOnly() public {
        vm.deal(address(this), 1);
        (bool isTaken,) = address(escrow).call{value: 1}("");
        assertTrue(!isTaken, "a plain transfer is refused");
    }

    // --- startRefund, refund -----------------------------------------------------------------------------------------

    function _startRefund(uint256 amount) private {
        vm.prank(requester);
        escrow.startRefund(performer, amount);
    }

    function _refund() private returns (uint256) {
        vm.prank(requester);
        return escrow.refund(performer);
    }

    function test_startRefund_NotesTheAmountAndTheTime() public {
        uint64 refundableAt = uint64(block.timestamp) + REFUND_DELAY;
        vm.expectEmit(address(escrow));
        emit ITaskEscrow.RefundStarted(requester, performer, 300 gwei, refundableAt);
        _startRefund(300 gwei);
        ITaskEscrow.Deposit memory made = escrow.depositOf(requester, performer);
        assertEq(made.balance, DEPOSIT, "nothing has moved");
        assertEq(made.refunding, 300 gwei, "refunding");
        assertEq(made.refundableAt, refundableAt, "refundable at");
    }

    function test_startRefund_OfMoreThanThereIsMeansAllOfIt() public {
        _startRefund(type(uint256).max);
        assertEq(escrow.depositOf(requester, performer).refunding, DEPOSIT, "all");
    }

    function test_startRefund_RevertsForNothing() public {
        bytes memory refusal = abi.encodeWithSelector(ITaskEscrow.NothingToRefund.selector, requester, performer);
        vm.expectRevert(refusal);
        _startRefund(0);
        vm.expectRevert(abi.encodeWithSelector(ITaskEscrow.NothingToRefund.selector, ANYBODY, performer));
        vm.prank(ANYBODY);
        escrow.startRefund(performer, 1);
    }

    function test_startRefund_ASecondTimeReplacesTheFirstAndWaitsAnew() public {
        _startRefund(300 gwei);
        vm.warp(block.timestamp + REFUND_DELAY);
        uint64 refundableAt = uint64(block.timestamp) + REFUND_DELAY;
        _startRefund(500 gwei);
        assertEq(escrow.depositOf(requester, performer).refunding, 500 gwei, "not 800");
        vm.expectRevert(abi.encodeWithSelector(ITaskEscrow.RefundNotDue.selector, refundableAt));
        _refund();
    }

    function test_refund_PaysTheExactWeiWhenDue() public {
        _startRefund(300 gwei);
        uint64 refundableAt = uint64(block.timestamp) + REFUND_DELAY;
        vm.warp(refundableAt - 1);
        vm.expectRevert(abi.encodeWithSelector(ITaskEscrow.RefundNotDue.selector, refundableAt));
        _refund();
        vm.warp(refundableAt);
        vm.expectEmit(address(escrow));
        emit ITaskEscrow.Refunded(requester, performer, 300 gwei);
        assertEq(_refund(), 300 gwei, "amount");
        assertEq(requester.balance, 300 gwei, "paid");
        ITaskEscrow.Deposit memory left = escrow.depositOf(requester, performer);
        assertEq(left.balance, DEPOSIT - 300 gwei, "balance");
        assertEq(left.refunding, 0, "refunding");
        assertEq(left.refundableAt, 0, "refundable at");
        assertEq(escrow.held(), DEPOSIT - 300 gwei, "held");
        vm.expectRevert(abi.encodeWithSelector(ITaskEscrow.NothingToRefund.selector, requester, performer));
        _refund();
    }

    function test_refund_RevertsForWhoAskedForNone() public {
        vm.expectRevert(abi.encodeWithSelector(ITaskEscrow.NothingToRefund.selector, requester, performer));
        _refund();
    }

    function test_refund_LeavesThePerformerTheDelayToCollectIn() public {
        ITaskEscrow.Collection memory task = settleSingly(makeRequest(0), true, EVERYBODY);
        _startRefund(DEPOSIT);
        vm.warp(block.timestamp + REFUND_DELAY);
        collect(task);
        ITaskEscrow.Deposit memory left = escrow.depositOf(requester, performer);
        assertEq(left.balance, DEPOSIT - FEE, "balance");
        assertEq(left.refunding, DEPOSIT - FEE, "what was going to be refunded paid");
        assertEq(_refund(), DEPOSIT - FEE, "what is left");
    }

    function test_refund_ComesLastOutOfADeposit() public {
        ITaskEscrow.Collection memory task = settleSingly(makeRequest(0), true, EVERYBODY);
        _startRefund(DEPOSIT - FEE);
        collect(task);
        assertEq(escrow.depositOf(requester, performer).refunding, DEPOSIT - FEE, "untouched");
    }

    function test_refund_DoesNotReachWhatIsDepositedLater() public {
        ITaskEscrow.Collection memory task =
            settleSingly(makeRequest(REQUESTER_ID, 0, PERFORMER_ID, DEPOSIT), true, EVERYBODY);
        _startRefund(DEPOSIT);
        collect(task);
        give(performer, DEPOSIT);
        vm.warp(block.timestamp + REFUND_DELAY);
        vm.expectRevert(abi.encodeWithSelector(ITaskEscrow.NothingToRefund.selector, requester, performer));
        _refund();
    }

    function test_refund_AfterwardsThereIsNothingToCollect() public {
        ITaskEscrow.Collection memory task = settleSingly(makeRequest(0), true, EVERYBODY);
        _startRefund(DEPOSIT - FEE + 1);
        vm.warp(block.timestamp + REFUND_DELAY);
        _refund();
        expectRefusal(
            task, abi.encodeWithSelector(ITaskEscrow.DepositTooSmall.selector, requester, performer, FEE - 1, FEE)
        );
    }

    function test_refund_RevertsWhenThePaymentFails() public {
        Refuser refuser = new Refuser();
        vm.deal(address(this), 5);
        escrow.deposit{value: 5}(address(refuser), performer, 5);
        refuser.act(address(escrow), abi.encodeCall(ITaskEscrow.startRefund, (performer, 5)));
        vm.warp(block.timestamp + REFUND_DELAY);
        vm.expectRevert(abi.encodeWithSelector(Currency.TransferFailed.selector, address(refuser), 5));
        refuser.act(address(escrow), abi.encodeCall(ITaskEscrow.refund, (performer)));
        assertEq(balanceOf(address(refuser), performer), 5, "still there");
    }

    function test_refund_PaysAReentrantRequesterOnce() public {
        Reentrant thief = new Reentrant();
        vm.deal(address(this), 5);
        escrow.deposit{value: 5}(address(thief), performer, 5);
        thief.act(address(escrow), abi.encodeCall(ITaskEscrow.startRefund, (performer, 5)));
        bytes memory message = abi.encodeCall(ITaskEscrow.refund, (performer));
        thief.prepare(address(escrow), message, 0);
        vm.warp(block.timestamp + REFUND_DELAY);
        thief.act(address(escrow), message);
        assertTrue(thief.wasCalled() && !thief.succeeded(), "the second refund failed");
        assertEq(bytes4(thief.answer()), ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector, "the guard's");
        assertEq(address(thief).balance, 5, "paid once");
        assertEq(escrow.held(), DEPOSIT, "the others' money");
    }
}
