// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Governed} from "../src/Governed.sol";
import {IEpochTables} from "../src/interfaces/IEpochTables.sol";
import {IOperatorRegistry} from "../src/interfaces/IOperatorRegistry.sol";
import {Currency} from "../src/libraries/Currency.sol";
import {Keys} from "./Keys.sol";
import {RegistryNetwork} from "./RegistryNetwork.sol";

/// @notice What can be changed of an operator that stays, and how it reads. Branches:
/// tree/{addStake,changeOperator,readOperators}.tree.
contract ChangingTest is RegistryNetwork {
    uint256 private constant ID = 1;
    uint256 private constant MAX_STAKE = type(uint96).max;
    address private immutable patron = address(uint160(uint256(keccak256("patron"))));
    address private account;

    function setUp() public override {
        super.setUp();
        account = accountOf(ID);
        vm.deal(account, 1000 ether);
        vm.deal(patron, 1000 ether);
    }

    // --- addStake ----------------------------------------------------------------------------------------------------

    function _addStake(address who, address operator, uint256 amount, bytes memory refusal) private {
        vm.prank(who);
        if (refusal.length != 0) vm.expectRevert(refusal);
        registry.addStake{value: amount}(operator, amount);
    }

    function test_addStake_CountsFromTheNextRollOn() public {
        join(ID, ATTESTER, MINIMUM_STAKE);
        roll();
        vm.expectEmit(address(registry));
        emit IOperatorRegistry.StakeAdded(account, POWER_UNIT, MINIMUM_STAKE + POWER_UNIT);
        vm.expectEmit(address(tables));
        emit IEpochTables.PowerChanged(account, 0, uint32(MINIMUM_STAKE / POWER_UNIT + 1));
        _addStake(account, account, POWER_UNIT, "");
        assertEq(registry.operatorOf(account).stake, MINIMUM_STAKE + POWER_UNIT, "stake");
        assertEq(registry.totalStake(), MINIMUM_STAKE + POWER_UNIT, "total stake");
        assertTrue(tables.rollableAt() > block.timestamp, "no reason to roll at once");
        (,, uint64[] memory powers) = tables.tableOf(1, 0);
        assertEq(powers[0], MINIMUM_STAKE / POWER_UNIT, "the frozen table does not move");
        roll();
        (,, powers) = tables.tableOf(2, 0);
        assertEq(powers[0], MINIMUM_STAKE / POWER_UNIT + 1, "the next one counts it");
    }

    function test_addStake_IsAGiftFromWhoeverPays() public {
        joinBy(patron, ID, PERFORMER, MINIMUM_STAKE);
        _addStake(account, account, 5, "");
        leaveAs(patron, account);
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        uint256 before = patron.balance;
        withdrawAs(patron, account);
        assertEq(patron.balance - before, MINIMUM_STAKE + 5, "it is the owner's");
    }

    function test_addStake_TakesExactlyTheValue() public {
        join(ID, PERFORMER, MINIMUM_STAKE);
        vm.prank(patron);
        vm.expectRevert(abi.encodeWithSelector(Currency.WrongValue.selector, 1, 2));
        registry.addStake{value: 1}(account, 2);
    }

    function test_addStake_RevertsForStrangersAndWhoLeft() public {
        _addStake(patron, account, 1, abi.encodeWithSelector(IOperatorRegistry.NotRegistered.selector, account));
        join(ID, PERFORMER, MINIMUM_STAKE);
        leaveAs(account, account);
        _addStake(patron, account, 1, abi.encodeWithSelector(IOperatorRegistry.AlreadyLeft.selector, account));
    }

    function test_addStake_RevertsAboveTheMaximum() public {
        join(ID, PERFORMER, MINIMUM_STAKE);
        vm.deal(patron, MAX_STAKE);
        uint256 most = MAX_STAKE - MINIMUM_STAKE;
        bytes memory refusal =
            abi.encodeWithSelector(IOperatorRegistry.StakeTooLarge.selector, MAX_STAKE + 1, MAX_STAKE);
        _addStake(patron, account, most + 1, refusal);
        _addStake(patron, account, most, "");
        assertEq(registry.operatorOf(account).stake, MAX_STAKE, "stake");
    }

    function test_addStake_IsOpenWhilePaused() public {
        join(ID, PERFORMER, MINIMUM_STAKE);
        vm.prank(owner);
        Governed(address(registry)).pause(true);
        _addStake(patron, account, 1, "");
        assertEq(registry.operatorOf(account).stake, MINIMUM_STAKE + 1, "who fell below the minimum can come back");
    }

    function testFuzz_addStake_PowerIsStakeByUnit(uint256 first, uint256 second) public {
        first = bound(first, MINIMUM_STAKE, MAX_STAKE);
        second = bound(second, 0, MAX_STAKE - first);
        join(ID, ATTESTER, first);
        vm.deal(patron, second);
        _addStake(patron, account, second, "");
        roll();
        (,, uint64[] memory powers) = tables.tableOf(1, 0);
        uint256 power = (first + second) / POWER_UNIT;
        assertEq(powers[0], power < type(uint32).max ? power : type(uint32).max, "power");
    }

    // --- updateEndpoints ---------------------------------------------------------------------------------------------

    function test_updateEndpoints_ReplacesBoth() public {
        join(2, PERFORMER, MINIMUM_STAKE);
        joinBy(patron, ID, PERFORMER, MINIMUM_STAKE);
        vm.expectEmit(address(registry));
        emit IOperatorRegistry.EndpointsUpdated(account, "/dns4/a", "https://b");
        vm.prank(account);
        registry.updateEndpoints(account, "/dns4/a", "https://b");
        IOperatorRegistry.Operator memory operator = registry.operatorOf(account);
        assertEq(bytes(operator.p2pAddress), "/dns4/a", "p2p address");
        assertEq(bytes(operator.gatewayUrl), "https://b", "gateway");
        assertEq(operator.peerKey, peerKeyOf(ID), "the peer key stays");

        vm.prank(patron);
        registry.updateEndpoints(account, "", "");
        operator = registry.operatorsFrom(1, 1)[0];
        assertEq(operator.operator, account, "its place in the list stays");
        assertEq(bytes(operator.p2pAddress), "", "the owner may too");
        assertEq(bytes(registry.operatorOf(accountOf(2)).gatewayUrl), "http://node:8700", "others keep theirs");
    }

    function test_updateEndpoints_BoundsBoth() public {
        join(ID, PERFORMER, MINIMUM_STAKE);
        vm.prank(account);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.EndpointTooLong.selector, 321, 320));
        registry.updateEndpoints(account, string(new bytes(321)), "");
    }

    function test_updateEndpoints_RevertsForOthersAndWhoLeft() public {
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.NotRegistered.selector, account));
        registry.updateEndpoints(account, "", "");
        joinBy(patron, ID, PERFORMER, MINIMUM_STAKE);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.OnlyOwner.selector, address(this), patron));
        registry.updateEndpoints(account, "", "");
        leaveAs(patron, account);
        vm.prank(patron);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.AlreadyLeft.selector, account));
        registry.updateEndpoints(account, "", "");
    }

    // --- rotateVoteKey -----------------------------------------------------------------------------------------------

    function _rotateAs(address who, uint256 keyId, bytes memory refusal) private {
        bytes memory key = Keys.publicKey(voteSecret(keyId));
        bytes memory possession = possessionOf(keyId, account);
        vm.prank(who);
        if (refusal.length != 0) vm.expectRevert(refusal);
        registry.rotateVoteKey(account, key, possession);
    }

    function test_rotateVoteKey_CountsFromTheNextRollOn() public {
        joinBy(patron, ID, ATTESTER, MINIMUM_STAKE);
        roll();
        _rotateAs(account, 11, "");
        assertEq(registry.operatorOf(account).voteKey, Keys.publicKey(voteSecret(11)), "the key of the next table");
        (, bytes[] memory keys,) = tables.tableOf(1, 0);
        assertEq(keys[0], Keys.publicKey(voteSecret(ID)), "the frozen table does not move");
        roll();
        _rotateAs(patron, 12, "");
        roll();
        (, keys,) = tables.tableOf(2, 0);
        assertEq(keys[0], Keys.publicKey(voteSecret(11)), "the operator may");
        (, keys,) = tables.tableOf(3, 0);
        assertEq(keys[0], Keys.publicKey(voteSecret(12)), "the owner may too");
    }

    function test_rotateVoteKey_RevertsForWhoMayNot() public {
        _rotateAs(account, 11, abi.encodeWithSelector(IOperatorRegistry.NotRegistered.selector, account));
        joinBy(patron, ID, ATTESTER, MINIMUM_STAKE);
        _rotateAs(accountOf(2), 11, abi.encodeWithSelector(IOperatorRegistry.OnlyOwner.selector, accountOf(2), patron));
        bytes32 keyHash = keccak256(Keys.publicKey(voteSecret(ID)));
        _rotateAs(account, ID, abi.encodeWithSelector(IEpochTables.VoteKeyTaken.selector, keyHash));
        leaveAs(patron, account);
        _rotateAs(account, 11, abi.encodeWithSelector(IOperatorRegistry.AlreadyLeft.selector, account));
    }

    function test_rotateVoteKey_RevertsForAPerformer() public {
        join(ID, PERFORMER, MINIMUM_STAKE);
        _rotateAs(account, 11, abi.encodeWithSelector(IEpochTables.NotSeated.selector, account));
    }

    // --- setRewardsReceiver ------------------------------------------------------------------------------------------

    function _setReceiver(address who, address receiver, bytes memory refusal) private {
        vm.prank(who);
        if (refusal.length != 0) vm.expectRevert(refusal);
        registry.setRewardsReceiver(account, receiver);
    }

    function test_setRewardsReceiver_IsForTheOwnerAlone() public {
        _setReceiver(account, patron, abi.encodeWithSelector(IOperatorRegistry.NotRegistered.selector, account));
        joinBy(patron, ID, PERFORMER, MINIMUM_STAKE);
        // A stolen hot key must not redirect money.
        _setReceiver(account, account, abi.encodeWithSelector(IOperatorRegistry.OnlyOwner.selector, account, patron));
        vm.expectEmit(address(registry));
        emit IOperatorRegistry.RewardsReceiverChanged(account, accountOf(5));
        _setReceiver(patron, accountOf(5), "");
        assertEq(registry.rewardsReceiverOf(account), accountOf(5), "receiver");
        assertEq(registry.operatorOf(account).rewardsReceiver, accountOf(5), "in the description too");
    }

    function test_setRewardsReceiver_TakesZeroAndTheOwnerForTheOwner() public {
        joinBy(patron, ID, PERFORMER, MINIMUM_STAKE);
        _setReceiver(patron, accountOf(5), "");
        vm.expectEmit(address(registry));
        emit IOperatorRegistry.RewardsReceiverChanged(account, patron);
        _setReceiver(patron, address(0), "");
        assertEq(registry.rewardsReceiverOf(account), patron, "zero");
        _setReceiver(patron, accountOf(5), "");
        _setReceiver(patron, patron, "");
        assertEq(registry.rewardsReceiverOf(account), patron, "by name");
    }

    function test_setRewardsReceiver_WorksAfterTheExitToo() public {
        join(ID, PERFORMER, MINIMUM_STAKE);
        leaveAs(account, account);
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        withdrawAs(account, account);
        // Rewards for work before the exit may come after it.
        _setReceiver(account, patron, "");
        assertEq(registry.rewardsReceiverOf(account), patron, "receiver");
    }

    // --- reading -----------------------------------------------------------------------------------------------------

    function test_operatorsFrom_PagesThroughTheList() public {
        // More than eight, which share a slot.
        for (uint256 id = 1; id <= 10; ++id) {
            join(id, PERFORMER, MINIMUM_STAKE);
        }
        assertEq(registry.operatorCount(), 10, "count");
        assertEq(registry.operatorsFrom(0, 100).length, 10, "all");
        IOperatorRegistry.Operator[] memory page = registry.operatorsFrom(7, 10);
        assertEq(page.length, 3, "the rest");
        assertEq(page[0].operator, accountOf(8), "the eighth");
        assertEq(page[2].operator, accountOf(10), "the last");
        assertEq(page[2].peerKey, peerKeyOf(10), "its peer key");
        assertEq(registry.operatorsFrom(1, 2)[0].operator, accountOf(2), "from the middle");
        assertEq(registry.operatorsFrom(10, 1).length, 0, "beyond the end");
        assertEq(registry.operatorsFrom(type(uint256).max, type(uint256).max).length, 0, "far beyond the end");
        assertEq(registry.operatorsFrom(0, 0).length, 0, "nothing asked");
    }

    function test_operatorOf_RevertsForAStranger() public {
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.NotRegistered.selector, account));
        registry.operatorOf(account);
        assertEq(registry.rolesOf(account), 0, "no roles");
        assertEq(registry.rewardsReceiverOf(account), address(0), "no rewards");
    }
}
