// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IOperatorRegistry} from "../src/interfaces/IOperatorRegistry.sol";
import {IOperatorSource} from "../src/interfaces/IOperatorSource.sol";
import {ISlashingCourt} from "../src/interfaces/ISlashingCourt.sol";
import {Network} from "./Network.sol";

/// @notice An exit and the real court: what a rejection holds back, and what comes back after it.
contract ExitUnderDisputeTest is Network {
    function test_withdraw_WaitsForASettledRejection() public {
        address performer = join(1, PERFORMER, MINIMUM_STAKE);
        join(2, ATTESTER, MINIMUM_STAKE);
        roll();
        vm.prank(performer);
        registry.leave(performer);
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        // Rejected in the last moment before the withdrawal: the stake still answers for it.
        settle("task", 1, false);
        vm.prank(performer);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.SlashPending.selector, performer, 1));
        registry.withdraw(performer);

        vm.warp(block.timestamp + DISPUTE_WINDOW);
        bytes32 slashId = court.slashIdOf(ISlashingCourt.Offence.REJECTED_TASK, "task", performer);
        uint256 amount = court.executeSlash(slashId);
        assertEq(amount, MINIMUM_STAKE / 10, "slashed");
        assertEq(address(court).balance, amount, "the court has it");
        vm.prank(performer);
        registry.withdraw(performer);
        assertEq(performer.balance, MINIMUM_STAKE - amount, "the rest is paid");
        assertEq(address(registry).balance, MINIMUM_STAKE, "the attester's stake stays");
    }

    function test_withdraw_IsNotHeldByTasksOfWhoIsGone() public {
        address performer = join(1, PERFORMER, MINIMUM_STAKE);
        join(2, ATTESTER, MINIMUM_STAKE);
        roll();
        vm.prank(performer);
        registry.leave(performer);
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        vm.prank(performer);
        registry.withdraw(performer);
        settle("task", 1, false);
        vm.warp(block.timestamp + DISPUTE_WINDOW);
        bytes32 slashId = court.slashIdOf(ISlashingCourt.Offence.REJECTED_TASK, "task", performer);
        assertEq(court.executeSlash(slashId), 0, "a rejection settles, and takes nothing");
        assertEq(registry.totalStake(), MINIMUM_STAKE, "nobody else's stake");
    }

    function test_slash_IsForTheRealCourtAlone() public {
        address performer = join(1, PERFORMER, MINIMUM_STAKE);
        address[4] memory others = [owner, address(center), address(escrow), address(tables)];
        for (uint256 i = 0; i < others.length; ++i) {
            vm.prank(others[i]);
            vm.expectRevert(abi.encodeWithSelector(IOperatorSource.OnlyCourt.selector, others[i]));
            registry.slash(performer, 1e18);
        }
    }
}
