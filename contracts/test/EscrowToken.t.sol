// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {ITaskEscrow} from "../src/interfaces/ITaskEscrow.sol";
import {Currency} from "../src/libraries/Currency.sol";
import {FreezableToken, HookToken, Reentrant} from "./EscrowActors.sol";
import {EscrowNetwork} from "./EscrowNetwork.sol";
import {FeeToken, PlainToken, SilentToken} from "./Tokens.sol";

/// @notice Fees in an ERC-20, well-behaved or not. The stake stays the chain's own coin: the two need not be one.
/// Branches: tree/deposit.tree, tree/claim.tree.
contract EscrowTokenTest is EscrowNetwork {
    PlainToken private token;

    function setUp() public override {
        super.setUp();
        token = new PlainToken();
        _useToken(token);
        give(performer, DEPOSIT);
    }

    function _useToken(PlainToken token_) private {
        token = token_;
        escrow = _deployFor(address(token_));
    }

    function _deployFor(address token_) private returns (ITaskEscrow) {
        bytes memory arguments = abi.encode(center, token_, REFUND_DELAY, owner, CHANGE_DELAY);
        return ITaskEscrow(deploy("TaskEscrow.sol:TaskEscrow", arguments));
    }

    function give(address to, uint256 amount) internal override {
        if (address(token) == address(0)) return super.give(to, amount);
        token.mint(address(this), amount);
        token.approve(address(escrow), amount);
        escrow.deposit(requester, to, amount);
    }

    function test_token_GoesAllTheWay() public {
        assertEq(escrow.token(), address(token), "token");
        assertEq(token.balanceOf(address(escrow)), DEPOSIT, "deposited");
        ITaskEscrow.Voters memory voters = pay(0, true, EVERYBODY);
        uint256 earned = FEE - TO_ATTESTERS - TO_AGGREGATOR;
        assertEq(claimEarned(performer), earned, "performer");
        assertEq(token.balanceOf(performer), earned, "paid");
        uint256 share = claimShare(attesterIn(0), voters, 0);
        assertEq(token.balanceOf(attesterIn(0)), share, "attester");
        vm.prank(requester);
        escrow.startRefund(performer, DEPOSIT);
        vm.warp(block.timestamp + REFUND_DELAY);
        vm.prank(requester);
        assertEq(escrow.refund(performer), DEPOSIT - FEE, "refunded");
        assertEq(token.balanceOf(requester), DEPOSIT - FEE, "paid back");
        assertEq(escrow.held(), FEE - earned - share, "held");
        assertEq(token.balanceOf(address(escrow)), escrow.held(), "the tokens are here");
    }

    function test_token_DepositRevertsWithCoin() public {
        vm.deal(address(this), 1);
        vm.expectRevert(abi.encodeWithSelector(Currency.WrongValue.selector, 1, 0));
        escrow.deposit{value: 1}(requester, performer, 1);
    }

    function test_token_DepositRevertsWithoutAnAllowance() public {
        token.mint(address(this), 5);
        bytes4 selector = IERC20Errors.ERC20InsufficientAllowance.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, address(escrow), 0, 5));
        escrow.deposit(requester, performer, 5);
    }

    function test_token_ThatTakesAFeeIsCountedAsItArrives() public {
        _useToken(new FeeToken());
        token.mint(address(this), 1000);
        token.approve(address(escrow), 1000);
        vm.expectEmit(address(escrow));
        emit ITaskEscrow.Deposited(requester, performer, 990);
        escrow.deposit(requester, performer, 1000);
        assertEq(balanceOf(requester, performer), 990, "deposit");
        assertEq(escrow.held(), 990, "held");
        assertEq(token.balanceOf(address(escrow)), 990, "here");
    }

    function test_token_ThatReturnsNothingIsTaken() public {
        SilentToken silent = new SilentToken();
        escrow = _deployFor(address(silent));
        silent.mint(address(this), FEE);
        escrow.deposit(requester, performer, FEE);
        pay(0, true, EVERYBODY);
        uint256 earned = claimEarned(performer);
        assertEq(silent.balanceOf(performer), earned, "paid");
    }

    function test_token_ThatReturnsFalseMovesNothing() public {
        FreezableToken frozen = new FreezableToken();
        _useToken(frozen);
        give(performer, FEE);
        pay(0, true, EVERYBODY);
        frozen.freeze(true);
        bytes memory refusal = abi.encodeWithSelector(SafeERC20.SafeERC20FailedOperation.selector, address(frozen));
        vm.expectRevert(refusal);
        claimEarned(performer);
        frozen.mint(address(this), 1);
        frozen.approve(address(escrow), 1);
        vm.expectRevert(refusal);
        escrow.deposit(requester, performer, 1);
        frozen.freeze(false);
        assertEq(claimEarned(performer), FEE - TO_ATTESTERS - TO_AGGREGATOR, "not lost");
    }

    // --- tokens that call back ---------------------------------------------------------------------------------------

    /// @dev A hook before the transfer could deposit once more, and both would count what arrived by the inner one.
    function test_token_CannotCountADepositTwice() public {
        HookToken hooked = new HookToken();
        _useToken(hooked);
        give(performer, DEPOSIT); // the others' money
        Reentrant thief = _thief(hooked);
        bytes memory deposit = abi.encodeCall(ITaskEscrow.deposit, (address(thief), performer, 100));
        thief.prepare(address(escrow), deposit, 0);
        thief.act(address(escrow), deposit);
        _assertGuarded(thief);
        assertEq(balanceOf(address(thief), performer), 100, "counted once");
        assertEq(escrow.held(), DEPOSIT + 100, "held");
        assertEq(hooked.balanceOf(address(escrow)), DEPOSIT + 100, "here");
    }

    /// @dev Nor can money that goes out in the middle of a deposit distort what arrived.
    function test_token_CannotRefundWithinADeposit() public {
        HookToken hooked = new HookToken();
        _useToken(hooked);
        give(performer, DEPOSIT);
        Reentrant thief = _thief(hooked);
        thief.act(address(escrow), abi.encodeCall(ITaskEscrow.deposit, (address(thief), performer, 100)));
        thief.act(address(escrow), abi.encodeCall(ITaskEscrow.startRefund, (performer, 100)));
        vm.warp(block.timestamp + REFUND_DELAY);
        thief.prepare(address(escrow), abi.encodeCall(ITaskEscrow.refund, (performer)), 0);
        thief.act(address(escrow), abi.encodeCall(ITaskEscrow.deposit, (address(thief), performer, 50)));
        _assertGuarded(thief);
        assertEq(balanceOf(address(thief), performer), 150, "both deposits");
        assertEq(escrow.held(), DEPOSIT + 150, "held");
    }

    function test_token_PaysAReceiverThatCallsBackOnce() public {
        HookToken hooked = new HookToken();
        _useToken(hooked);
        give(performer, DEPOSIT);
        pay(0, true, EVERYBODY);
        Reentrant thief = _thief(hooked);
        vm.prank(performer);
        registry.setRewardsReceiver(performer, address(thief));
        bytes memory claim =
            abi.encodeCall(ITaskEscrow.claim, (performer, new ITaskEscrow.Voters[](0), new uint16[](0)));
        thief.prepare(address(escrow), claim, 0);
        uint256 before = hooked.balanceOf(address(thief));
        uint256 earned = claimEarned(performer);
        _assertGuarded(thief);
        assertEq(hooked.balanceOf(address(thief)), before + earned, "once");
        assertEq(hooked.balanceOf(address(escrow)), escrow.held(), "here");
    }

    function _thief(HookToken hooked) private returns (Reentrant thief) {
        thief = new Reentrant();
        hooked.mint(address(thief), 1000);
        thief.act(address(hooked), abi.encodeCall(IERC20.approve, (address(escrow), 1000)));
        thief.act(address(hooked), abi.encodeCall(HookToken.listen, ()));
    }

    function _assertGuarded(Reentrant thief) private view {
        assertTrue(thief.wasCalled() && !thief.succeeded(), "the call from within failed");
        assertEq(bytes4(thief.answer()), ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector, "guarded");
    }
}
