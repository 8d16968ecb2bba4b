// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IOperatorRegistry} from "../src/interfaces/IOperatorRegistry.sol";
import {Network} from "./Network.sol";

/// @notice The ways that stake goes out. Branches: tree/withdraw.tree.
contract LeavingTest is Network {
    uint256 private constant ID = 1;
    address private account;

    function setUp() public override {
        super.setUp();
        account = accountOf(ID);
    }

    // --- leave, withdraw ---------------------------------------------------------------------------------------------

    function _joinAndLeave(uint8 roles) private {
        join(ID, roles, MINIMUM_STAKE);
        vm.prank(account);
        registry.leave();
    }

    function _expectNoWithdrawal(bytes memory refusal) private {
        vm.prank(account);
        vm.expectRevert(refusal);
        registry.withdraw();
    }

    function test_leave_RevertsForStrangersAndASecondTime() public {
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.NotRegistered.selector, address(this)));
        registry.leave();
        _joinAndLeave(PERFORMER);
        vm.prank(account);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.AlreadyLeft.selector, account));
        registry.leave();
    }

    function test_leave_TakesTheOperatorOutOfTheNextTable() public {
        join(1, ATTESTER, MINIMUM_STAKE);
        join(2, ATTESTER, MINIMUM_STAKE);
        join(3, ATTESTER, MINIMUM_STAKE);
        roll();
        uint64 withdrawableAt = uint64(block.timestamp) + UNBONDING_SECONDS;
        vm.expectEmit(address(registry));
        emit IOperatorRegistry.OperatorLeft(account, withdrawableAt);
        vm.prank(account);
        registry.leave();
        assertTrue(!registry.operatorOf(account).isActive, "not active");
        assertEq(registry.operatorOf(account).withdrawableAt, withdrawableAt, "withdrawable at");
        (address[] memory members,,) = registry.tableOf(1);
        assertEq(members.length, 3, "the frozen table does not move");

        roll();
        (members,,) = registry.tableOf(2);
        assertEq(members.length, 2, "two are left");
        assertEq(members[0], accountOf(3), "the last took the empty seat");
        assertEq(members[1], accountOf(2), "the other kept theirs");

        vm.prank(accountOf(3));
        registry.leave();
        roll();
        (members,,) = registry.tableOf(3);
        assertEq(members.length, 1, "who had moved can leave too");
        assertEq(members[0], accountOf(2), "and takes nobody along");
    }

    function test_withdraw_PaysTheExactWei() public {
        uint256 stake = MINIMUM_STAKE + 123;
        join(2, PERFORMER, MINIMUM_STAKE);
        join(ID, PERFORMER, stake);
        vm.prank(account);
        registry.leave();
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        uint256 before = account.balance;
        vm.expectEmit(address(registry));
        emit IOperatorRegistry.StakeWithdrawn(account, stake);
        vm.prank(account);
        registry.withdraw();
        assertEq(account.balance, before + stake, "paid");
        assertEq(registry.totalStake(), MINIMUM_STAKE, "the other's stake stays");
        assertEq(address(registry).balance, MINIMUM_STAKE, "balance");
        assertEq(registry.operatorCount(), 1, "no longer listed");
        assertEq(registry.operatorAt(0).operator, accountOf(2), "the other still is");
        assertEq(registry.operatorOf(account).stake, 0, "no stake");
        assertEq(registry.rolesOf(account), PERFORMER, "still answerable for old tasks");
    }

    function test_withdraw_RevertsForWhoCannot() public {
        _expectNoWithdrawal(abi.encodeWithSelector(IOperatorRegistry.NotRegistered.selector, account));
        join(ID, PERFORMER, MINIMUM_STAKE);
        _expectNoWithdrawal(abi.encodeWithSelector(IOperatorRegistry.NotLeft.selector, account));
        vm.prank(account);
        registry.leave();
        uint64 withdrawableAt = uint64(block.timestamp) + UNBONDING_SECONDS;
        vm.warp(withdrawableAt - 1);
        _expectNoWithdrawal(abi.encodeWithSelector(IOperatorRegistry.StillBonded.selector, account, withdrawableAt));
        vm.warp(withdrawableAt);
        vm.prank(account);
        registry.withdraw();
        _expectNoWithdrawal(abi.encodeWithSelector(IOperatorRegistry.AlreadyWithdrawn.selector, account));
    }

    function test_withdraw_WaitsUntilNoValidTableCountsTheOperator() public {
        join(ID, ATTESTER, MINIMUM_STAKE);
        roll();
        vm.prank(account);
        registry.leave();
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        bytes memory refusal = abi.encodeWithSelector(IOperatorRegistry.StillInTable.selector, account, 3);
        _expectNoWithdrawal(refusal);
        roll();
        _expectNoWithdrawal(refusal);
        roll();
        vm.prank(account);
        registry.withdraw();
        assertEq(address(registry).balance, 0, "paid");
    }

    function test_withdraw_NeedsNoRollBeforeTheFirst() public {
        _joinAndLeave(ATTESTER);
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        vm.prank(account);
        registry.withdraw();
        assertEq(address(registry).balance, 0, "paid");
    }

    function test_withdraw_WaitsForAQueuedSlash() public {
        join(ID, PERFORMER, MINIMUM_STAKE);
        join(2, ATTESTER, MINIMUM_STAKE);
        roll();
        vm.prank(account);
        registry.leave();
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        // Rejected in the last moment before the withdrawal: the stake still answers for it.
        settle("task", ID, false);
        _expectNoWithdrawal(abi.encodeWithSelector(IOperatorRegistry.SlashPending.selector, account, 1));
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        uint256 amount = center.executeSlash("task");
        assertEq(amount, MINIMUM_STAKE / 10, "slashed");
        uint256 before = account.balance;
        vm.prank(account);
        registry.withdraw();
        assertEq(account.balance - before, MINIMUM_STAKE - amount, "the rest is paid");
    }

    function test_withdraw_RevertsWhenThePaymentFails() public {
        Refuser refuser = new Refuser();
        vm.deal(address(refuser), MINIMUM_STAKE);
        refuser.register(registry);
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        vm.expectRevert(
            abi.encodeWithSelector(IOperatorRegistry.TransferFailed.selector, address(refuser), MINIMUM_STAKE)
        );
        refuser.withdraw();
        assertEq(registry.totalStake(), MINIMUM_STAKE, "nothing moved");
    }

    function test_withdraw_PaysAReentrantCallerOnce() public {
        Reenterer thief = new Reenterer();
        vm.deal(address(thief), MINIMUM_STAKE);
        join(2, PERFORMER, MINIMUM_STAKE);
        thief.register(registry);
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        thief.withdraw();
        assertTrue(thief.wasRefused(), "the second call was refused");
        assertEq(address(thief).balance, MINIMUM_STAKE, "paid once");
        assertEq(address(registry).balance, MINIMUM_STAKE, "the other's stake is here");
    }

    // --- who may slash -----------------------------------------------------------------------------------------------

    function test_slash_IsForTheCenterAlone() public {
        join(ID, PERFORMER, MINIMUM_STAKE);
        bytes memory refusal = abi.encodeWithSelector(IOperatorRegistry.OnlyCenter.selector, address(this));
        vm.expectRevert(refusal);
        registry.slash(account, 1);
        vm.expectRevert(refusal);
        registry.queueSlash(account);
    }

    function test_withdrawVault_PaysTheVaultAlone() public {
        join(ID, PERFORMER, MINIMUM_STAKE);
        join(2, ATTESTER, MINIMUM_STAKE);
        roll();
        settle("task", ID, false);
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        center.executeSlash("task");
        assertEq(registry.vaultBalance(), MINIMUM_STAKE / 10, "collected");

        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.OnlyVault.selector, address(this)));
        registry.withdrawVault();
        vm.expectEmit(address(registry));
        emit IOperatorRegistry.VaultWithdrawn(MINIMUM_STAKE / 10);
        vm.prank(vault);
        registry.withdrawVault();
        assertEq(vault.balance, MINIMUM_STAKE / 10, "paid");
        assertEq(registry.vaultBalance(), 0, "empty");
        assertEq(address(registry).balance, registry.totalStake(), "stake is untouched");
    }
}

/// Takes no ether back.
contract Refuser {
    IOperatorRegistry internal registry;

    function register(IOperatorRegistry registry_) external {
        registry = registry_;
        registry.register{value: registry.minimumStake()}(1, "", "", keccak256("peer of a contract"), "", "");
        registry.leave();
    }

    function withdraw() external {
        registry.withdraw();
    }
}

/// Asks for its stake again while it is being paid.
contract Reenterer is Refuser {
    bool public wasRefused;

    receive() external payable {
        try registry.withdraw() {}
        catch {
            wasRefused = true;
        }
    }
}
