// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAVSRegistrar} from "../src/eigenlayer/IAVSRegistrar.sol";
import {IAllocationManager} from "../src/eigenlayer/IAllocationManager.sol";
import {IEigenLayerSource} from "../src/eigenlayer/IEigenLayerSource.sol";
import {IEpochTables} from "../src/interfaces/IEpochTables.sol";
import {IOperatorSource} from "../src/interfaces/IOperatorSource.sol";
import {AllocationManagerStandIn} from "./eigenlayer/AllocationManagerStandIn.sol";
import {EigenNetwork} from "./eigenlayer/EigenNetwork.sol";

/// @notice What EigenLayer says of stake becomes power, and what the court slashes is slashed there. Branches:
/// tree/{refreshPowers,eigenLayerSlash}.tree.
contract EigenLayerStakeTest is EigenNetwork {
    uint256 private constant ID = 1;
    uint256 private constant POWER = 2 * SHARES / POWER_UNIT;
    address private immutable stranger = address(uint160(uint256(keccak256("stranger"))));

    // --- refreshPowers -----------------------------------------------------------------------------------------------

    function test_refreshPowers_AddsUpTheStrategies() public {
        address account = becomeOperator(ID, SHARES);
        allocate(account, WHOLE / 2, WHOLE / 4);
        pass(ALLOCATION_BLOCKS);
        register(account, dataOf(ID, ATTESTER));
        assertEq(source.stakeOf(account), SHARES * 3 / 4, "stake");
        deposit(account, 1, SHARES);
        source.refreshPowers(only(account));
        assertEq(source.stakeOf(account), SHARES, "stake with the new deposit");
        assertEq(nextPowerOf(account), SHARES / POWER_UNIT, "power");
    }

    function testFuzz_refreshPowers_IsTheAllocatedPartOfWhatIsDelegated(
        uint64 first,
        uint64 second,
        uint96 more,
        uint96 less
    ) public {
        (first, second) = (uint64(bound(first, 0.1e18, WHOLE)), uint64(bound(second, 1, WHOLE)));
        address account = becomeOperator(ID, SHARES);
        allocate(account, first, second);
        pass(ALLOCATION_BLOCKS);
        register(account, dataOf(ID, ATTESTER));
        deposit(account, 0, more);
        less = uint96(bound(less, 0, SHARES));
        withdrawShares(account, 1, less);
        source.refreshPowers(only(account));
        uint256 stake = (SHARES + more) * first / 1e18 + (SHARES - less) * second / 1e18;
        assertEq(source.stakeOf(account), stake, "stake");
        uint256 power = stake / POWER_UNIT;
        assertEq(nextPowerOf(account), power < type(uint32).max ? power : type(uint32).max, "power");
    }

    function test_refreshPowers_CountsWhatOthersDelegate() public {
        address account = enlist(ID, ATTESTER);
        vm.prank(stranger);
        delegations.delegateTo(account);
        deposit(stranger, 0, 3 ether);
        vm.expectEmit(address(tables));
        emit IEpochTables.PowerChanged(account, 0, uint32(POWER + 3000));
        vm.prank(stranger);
        source.refreshPowers(only(account));
        assertEq(source.delegatedShares(account)[0], SHARES + 3 ether, "delegated");
    }

    function test_refreshPowers_FollowsWithdrawalsWithoutRollingAtOnce() public {
        address account = enlist(ID, ATTESTER);
        roll();
        withdrawShares(account, 0, SHARES);
        source.refreshPowers(only(account));
        assertEq(nextPowerOf(account), POWER / 2, "half of the power");
        assertEq(tables.rollableAt(), block.timestamp + EPOCH_SECONDS, "at the usual time");
    }

    function test_refreshPowers_RoundsDownAndIsZeroBelowTheMinimum() public {
        address account = enlist(ID, ATTESTER);
        withdrawShares(account, 0, SHARES - MINIMUM_STAKE - 1);
        withdrawShares(account, 1, SHARES - POWER_UNIT + 2);
        source.refreshPowers(only(account));
        // One unit of the second strategy lacks a wei, although one of the first is over.
        assertEq(source.stakeOf(account), MINIMUM_STAKE + POWER_UNIT - 1, "stake");
        assertEq(nextPowerOf(account), MINIMUM_STAKE / POWER_UNIT, "power");
        withdrawShares(account, 0, POWER_UNIT - 1);
        source.refreshPowers(only(account));
        assertEq(nextPowerOf(account), MINIMUM_STAKE / POWER_UNIT, "exactly the minimum");
        assertTrue(source.operatorOf(account).isActive, "active");
        withdrawShares(account, 0, 1);
        source.refreshPowers(only(account));
        assertEq(nextPowerOf(account), 0, "below the minimum");
        assertTrue(!source.operatorOf(account).isActive, "not active");
    }

    function test_refreshPowers_StopsAtTheLargestPower() public {
        address account = enlist(ID, ATTESTER);
        deposit(account, 0, POWER_UNIT << 32);
        source.refreshPowers(only(account));
        assertEq(nextPowerOf(account), type(uint32).max, "power");
    }

    /// What is deallocated stops to count so early that a dispute about its last vote ends before it is gone.
    function test_refreshPowers_LooksAheadOfADeallocation() public {
        address account = enlist(ID, ATTESTER);
        allocate(account, WHOLE / 2, WHOLE / 2);
        pass(DEALLOCATION_BLOCKS - LOOKAHEAD - 1);
        source.refreshPowers(only(account));
        assertEq(nextPowerOf(account), POWER, "the last block in which it counts");
        pass(1);
        source.refreshPowers(only(account));
        assertEq(nextPowerOf(account), POWER / 2, "half");
        // All of it can still be slashed, an epoch, a grace window and the longest dispute later.
        pass(uint256(EPOCH_SECONDS + GRACE_SECONDS + UNBONDING) / BLOCK_SECONDS - 1);
        judge.hold(account);
        judge.slash(account, 1e18);
        assertEq(_slashed(1, 0), SHARES, "all of the first");
        assertEq(_slashed(1, 1), SHARES, "all of the second");
    }

    function test_refreshPowers_LeavesOutAStrategyThatTheSetLost() public {
        address account = enlist(ID, ATTESTER);
        _removeStrategy(0);
        source.refreshPowers(only(account));
        assertEq(nextPowerOf(account), POWER / 2, "one strategy");
        _removeStrategy(1);
        source.refreshPowers(only(account));
        assertEq(nextPowerOf(account), 0, "none");
    }

    function _removeStrategy(uint256 pool) private {
        vm.prank(avs);
        allocations.removeStrategiesFromOperatorSet(avs, SET_ID, only(address(pools[pool])));
    }

    function test_refreshPowers_WorksInChunks() public {
        address[] memory chunk = new address[](2);
        for (uint256 id = 1; id <= 5; ++id) {
            withdrawShares(enlist(id, ATTESTER), 0, id * 1 ether);
        }
        (chunk[0], chunk[1]) = (accountOf(4), accountOf(2));
        source.refreshPowers(chunk);
        (chunk[0], chunk[1]) = (accountOf(1), accountOf(5));
        source.refreshPowers(chunk);
        source.refreshPowers(new address[](0));
        uint32 epoch = roll();
        for (uint256 id = 1; id <= 5; ++id) {
            uint256 power = id == 3 ? POWER : POWER - id * 1000;
            assertEq(powerIn(epoch, accountOf(id)), power, "power");
        }
    }

    function test_refreshPowers_PassesOverWhoHasNoVoteToChange() public {
        address[] memory chunk = new address[](4);
        chunk[0] = stranger;
        chunk[1] = enlist(1, PERFORMER);
        chunk[2] = enlist(2, ATTESTER);
        chunk[3] = enlist(3, ATTESTER);
        deregister(chunk[2]);
        deposit(chunk[1], 0, 1 ether);
        deposit(chunk[2], 0, 1 ether);
        vm.recordLogs();
        source.refreshPowers(chunk);
        assertEq(vm.getRecordedLogs().length, 0, "nothing happened");
    }

    function test_refreshPowers_UnseatsWhoLeftBehindOurBack() public {
        address attester = enlist(1, ATTESTER);
        address performer = enlist(2, PERFORMER);
        address registrar = address(new DeafRegistrar());
        vm.prank(avs);
        allocations.setAVSRegistrar(avs, registrar);
        deregister(attester);
        deregister(performer);
        assertEq(source.operatorOf(attester).withdrawableAt, 0, "nobody told us");
        address[] memory chunk = new address[](2);
        (chunk[0], chunk[1]) = (attester, performer);
        vm.expectEmit(address(tables));
        emit IEpochTables.AttesterUnseated(attester, 0);
        source.refreshPowers(chunk);
        assertEq(source.operatorOf(attester).withdrawableAt, block.timestamp + UNBONDING, "attester");
        assertEq(source.operatorOf(performer).withdrawableAt, block.timestamp + UNBONDING, "performer");
    }

    /// Where EigenLayer goes on without us, a leaver can give so little gas that only our part fails.
    function test_refreshPowers_UnseatsWhoStarvedTheRegistrar() public {
        address account = enlist(ID, ATTESTER);
        allocations.swallowDeregistrationErrors(true);
        bool isStarved = false;
        for (uint256 gasGiven = 50_000; !isStarved && gasGiven < 200_000; gasGiven += 1000) {
            uint256 state = vm.snapshotState();
            // As in a transaction of its own.
            vm.cool(address(source));
            vm.cool(address(tables));
            vm.prank(account);
            try allocations.deregisterFromOperatorSets{gas: gasGiven}(
                AllocationManagerStandIn.DeregisterParams(account, avs, ids(SET_ID))
            ) {
                isStarved = source.operatorOf(account).withdrawableAt == 0;
            } catch {}
            if (!isStarved) vm.revertToState(state);
        }
        assertTrue(isStarved, "the attack works");
        assertTrue(!allocations.isMemberOfOperatorSet(account, operatorSet()), "out of EigenLayer");
        assertEq(nextPowerOf(account), POWER, "with its vote");
        source.refreshPowers(only(account));
        assertEq(nextPowerOf(account), 0, "until anybody refreshes");
    }

    // --- holds -------------------------------------------------------------------------------------------------------

    function test_holds_AreCountedForTheCourtAlone() public {
        address account = enlist(ID, PERFORMER);
        vm.startPrank(stranger);
        bytes memory onlyCourt = abi.encodeWithSelector(IOperatorSource.OnlyCourt.selector, stranger);
        vm.expectRevert(onlyCourt);
        source.holdExit(account);
        vm.expectRevert(onlyCourt);
        source.releaseExit(account);
        vm.expectRevert(onlyCourt);
        source.slash(account, 1);
        vm.stopPrank();
        judge.hold(account);
        judge.hold(account);
        assertEq(source.pendingSlashes(account), 2, "two");
        judge.release(account);
        judge.slash(account, 0.1e18);
        assertEq(source.pendingSlashes(account), 0, "none");
        bytes memory panic = abi.encodeWithSelector(0x4e487b71, 0x11);
        vm.expectRevert(panic);
        judge.release(account);
        vm.expectRevert(panic);
        judge.slash(account, 0.1e18);
        vm.expectRevert(abi.encodeWithSelector(IEigenLayerSource.NotRegistered.selector, stranger));
        judge.hold(stranger);
    }

    // --- slash -------------------------------------------------------------------------------------------------------

    function _slashed(uint256 slashId, uint256 pool) private view returns (uint256) {
        return deposits.getBurnOrRedistributableShares(operatorSet(), slashId, address(pools[pool]));
    }

    function test_eigenLayerSlash_RefusesNoPartAndMoreThanAll() public {
        address account = enlist(ID, PERFORMER);
        judge.hold(account);
        vm.expectRevert(abi.encodeWithSelector(IEigenLayerSource.InvalidWad.selector, 0));
        judge.slash(account, 0);
        vm.expectRevert(abi.encodeWithSelector(IEigenLayerSource.InvalidWad.selector, 1e18 + 1));
        judge.slash(account, 1e18 + 1);
    }

    function test_eigenLayerSlash_TakesTheSameWadOfEachStrategy() public {
        address account = becomeOperator(ID, SHARES);
        allocate(account, WHOLE / 2, WHOLE / 4);
        pass(ALLOCATION_BLOCKS);
        register(account, dataOf(ID, ATTESTER));
        roll();
        judge.hold(account);
        uint256[] memory shares = new uint256[](2);
        (shares[0], shares[1]) = (SHARES / 20, SHARES / 40);
        vm.expectEmit(address(source));
        emit IEigenLayerSource.SlashSent(account, 0.1e18, 1, strategies(), shares);
        assertEq(judge.slash(account, 0.1e18), 0, "nothing came to the court");
        assertEq(_slashed(1, 0), SHARES / 20, "a tenth of a half");
        assertEq(_slashed(1, 1), SHARES / 40, "a tenth of a quarter");
        // Nine tenths are left. EigenLayer rounds down: once for the part of all that is allocated, once for the shares.
        uint256 first = SHARES * 95 / 100 * (uint256(0.45e36) / 0.95e18) / 1e18;
        uint256 second = SHARES * 975 / 1000 * (uint256(0.225e36) / 0.975e18) / 1e18;
        assertEq(source.stakeOf(account), first + second, "stake");
        assertTrue(first + second <= 6.75 ether && first + second > 6.75 ether - 20, "of which a few wei are lost");
        assertTrue(tables.rollableAt() <= block.timestamp, "due at once");
        assertEq(powerIn(roll(), account), 6749, "power");
        assertEq(allocations.getSlashCount(operatorSet()), 1, "one slash");
    }

    function testFuzz_eigenLayerSlash_TakesTheSameWadOfEachStrategy(uint256 wad, uint64 first, uint64 second) public {
        wad = bound(wad, 1, 1e18);
        first = uint64(bound(first, 0.1e18, WHOLE));
        second = uint64(bound(second, 1, WHOLE));
        address account = becomeOperator(ID, SHARES);
        allocate(account, first, second);
        pass(ALLOCATION_BLOCKS);
        register(account, dataOf(ID, PERFORMER));
        judge.hold(account);
        judge.slash(account, wad);
        // EigenLayer rounds up what it takes of an allocation, in parts of 1e18.
        assertEq(_slashed(1, 0), SHARES * ((first * wad + 1e18 - 1) / 1e18) / 1e18, "first");
        assertEq(_slashed(1, 1), SHARES * ((second * wad + 1e18 - 1) / 1e18) / 1e18, "second");
    }

    function test_eigenLayerSlash_TakesEverything() public {
        address account = enlist(ID, ATTESTER);
        judge.hold(account);
        judge.hold(account);
        judge.slash(account, 1e18);
        assertEq(_slashed(1, 0) + _slashed(1, 1), 2 * SHARES, "all");
        assertEq(nextPowerOf(account), 0, "no power");
        // Nothing is left for the second, and it does not revert.
        judge.slash(account, 1e18);
        assertEq(_slashed(2, 0) + _slashed(2, 1), 0, "nothing");
    }

    function test_eigenLayerSlash_GoesToTheVaultWhenAnybodyClearsIt() public {
        address account = enlist(ID, PERFORMER);
        judge.hold(account);
        judge.slash(account, 0.25e18);
        vm.prank(stranger);
        deposits.clearBurnOrRedistributableShares(operatorSet(), 1);
        for (uint256 i = 0; i < 2; ++i) {
            assertEq(pools[i].underlyingToken().balanceOf(vault), SHARES / 4, "vault");
            assertEq(pools[i].underlyingToken().balanceOf(address(pools[i])), SHARES * 3 / 4, "pool");
            assertEq(_slashed(1, i), 0, "cleared");
        }
    }

    function test_eigenLayerSlash_ReachesWhoLeftUntilTheDelayIsOver() public {
        address account = enlist(ID, ATTESTER);
        judge.hold(account);
        judge.hold(account);
        deregister(account);
        pass(DEALLOCATION_BLOCKS);
        judge.slash(account, 0.5e18);
        assertEq(_slashed(1, 0), SHARES / 2, "the last block");
        pass(1);
        vm.expectEmit(address(source));
        emit IEigenLayerSource.SlashMissed(account, 0.5e18);
        assertEq(judge.slash(account, 0.5e18), 0, "nothing");
        assertEq(source.pendingSlashes(account), 0, "not held any more");
        assertEq(allocations.getSlashCount(operatorSet()), 1, "one slash");
    }

    function test_eigenLayerSlash_ReachesWithdrawalsInTheQueue() public {
        address account = enlist(ID, PERFORMER);
        withdrawShares(account, 0, SHARES);
        judge.hold(account);
        judge.slash(account, 0.1e18);
        assertEq(_slashed(1, 0), SHARES / 10, "of the queue");
    }

    function test_eigenLayerSlash_UnseatsWhoLeftBehindOurBack() public {
        address account = enlist(ID, ATTESTER);
        judge.hold(account);
        address registrar = address(new DeafRegistrar());
        vm.prank(avs);
        allocations.setAVSRegistrar(avs, registrar);
        deregister(account);
        judge.slash(account, 0.1e18);
        assertEq(_slashed(1, 0), SHARES / 10, "slashed");
        assertEq(nextPowerOf(account), 0, "unseated");
    }

    function test_eigenLayerSlash_TakesOnlyWhatTheSetStillHas() public {
        address account = enlist(ID, PERFORMER);
        judge.hold(account);
        judge.hold(account);
        _removeStrategy(0);
        judge.slash(account, 0.1e18);
        assertEq(_slashed(1, 0), 0, "not in the set");
        assertEq(_slashed(1, 1), SHARES / 10, "in the set");
        _removeStrategy(1);
        vm.expectEmit(address(source));
        emit IEigenLayerSource.SlashMissed(account, 0.1e18);
        judge.slash(account, 0.1e18);
    }

    function test_eigenLayerSlash_WaitsWhileEigenLayerIsPaused() public {
        address account = enlist(ID, PERFORMER);
        judge.hold(account);
        allocations.pause(true);
        vm.expectRevert(abi.encodeWithSelector(AllocationManagerStandIn.CurrentlyPaused.selector));
        judge.slash(account, 0.1e18);
        assertEq(source.pendingSlashes(account), 1, "still held");
        allocations.pause(false);
        judge.slash(account, 0.1e18);
        assertEq(_slashed(1, 0), SHARES / 10, "later");
    }

    function test_eigenLayerSlash_IsOfNobodyElse() public {
        address account = enlist(ID, PERFORMER);
        vm.startPrank(owner);
        vm.expectRevert(abi.encodeWithSelector(IOperatorSource.OnlyCourt.selector, owner));
        source.slash(account, 1e18);
        vm.stopPrank();
        uint256[] memory wads = new uint256[](1);
        wads[0] = 1e18;
        IAllocationManager.SlashingParams memory params =
            IAllocationManager.SlashingParams(account, SET_ID, only(address(pools[0])), wads, "");
        vm.prank(avs);
        vm.expectRevert(abi.encodeWithSelector(AllocationManagerStandIn.InvalidCaller.selector));
        allocations.slashOperator(avs, params);
    }
}

/// What another registrar could be: one that tells us nothing.
contract DeafRegistrar is IAVSRegistrar {
    function registerOperator(address, address, uint32[] calldata, bytes calldata) external {}
    function deregisterOperator(address, address, uint32[] calldata) external {}

    function supportsAVS(address) external pure returns (bool) {
        return true;
    }
}
